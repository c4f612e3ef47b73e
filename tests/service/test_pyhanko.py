"""Signed PDFs, by a client that nobody here wrote: pyHanko's, for version 1.0.4 of the CSC API.

What pyHanko leaves to its user is the authorisation, and that is where the card comes in.
"""

# mypy: disable-error-code="no-untyped-call"
# pyHanko types what it takes, but not always what it gives.

from __future__ import annotations

import asyncio
import base64
import gc
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
from asn1crypto import algos
from asn1crypto import x509 as asn1_x509
from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.pdf_utils.writer import PageObject, PdfFileWriter
from pyhanko.sign.general import SigningError
from pyhanko.sign.signers import PdfSignatureMetadata, PdfSigner
from pyhanko.sign.signers.csc_signer import (
    CSCAuthorizationInfo,
    CSCAuthorizationManager,
    CSCCredentialInfo,
    CSCServiceSessionInfo,
    CSCSigner,
    fetch_certs_in_csc_credential,
)
from pyhanko.sign.validation import PdfSignatureStatus, async_validate_pdf_signature
from pyhanko_certvalidator import ValidationContext

from hsm_signer.card.commands import authorise_content
from hsm_signer.core import json_codec, oids
from hsm_signer.testing import Home, Person
from hsm_signer.types import Algorithm, Challenge, Digest, DigestList, HashName
from tests.support.authority import Authority
from tests.support.front import trusting
from tests.support.service import serving
from tests.support.tenants import Tenants

AUTHORITY = Authority()


@dataclass(frozen=True)
class Office:
    """A running service whose people have certificates."""

    home: Home
    url: str
    trusted: ssl.SSLContext
    token: str
    ids: dict[str, str]
    """Credential ids by user."""


@pytest.fixture(scope="module")
def office(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """Certificates come the way a registrar brings them: over the service's own interface."""
    tenants = template_tenants.copy_to(tmp_path_factory.mktemp("office") / "home")
    with serving(tenants.home) as service:
        url, trusted = service.url, trusting(service)
        ids = {}
        headers = {"Authorization": f"Bearer {tenants.tokens['registrar']}"}
        with httpx.Client(base_url=url, verify=trusted, headers=headers, timeout=60) as registrar:
            for name in ("alice", "bob"):
                found = registrar.get(f"/v1/users/{name}/credential").raise_for_status().json()
                ids[name] = found["credential_id"]
                place = f"/v1/credentials/{ids[name]}"
                request = registrar.get(f"{place}/certification-request").raise_for_status().json()["pem"]
                chain = [base64.b64encode(each).decode("ascii") for each in AUTHORITY.chain(request)]
                registrar.put(f"{place}/certificates", json={"certificates": chain}).raise_for_status()
        yield Office(tenants.home, url, trusted, tenants.tokens["signer"], ids)


# --- the client --------------------------------------------------------------------------------------------


class CardManager(CSCAuthorizationManager):
    """Has the user's card authorise exactly the hashes that pyHanko is about to have signed."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        session: CSCServiceSessionInfo,
        credential: CSCCredentialInfo,
        person: Person,
        algorithm: Algorithm,
    ) -> None:
        super().__init__(session, credential)
        self.http = http
        self.person = person
        self.algorithm = algorithm
        self.authorised: list[int] = []
        """Hashes of each authorisation."""

    async def authorize_signature(self, hash_b64s: list[str]) -> CSCAuthorizationInfo:
        challenge = await self.post(
            "credentials/getChallenge",
            {"credentialID": self.csc_session_info.credential_id, "authObjectID": "CARD"},
        )
        digests = tuple(Digest(base64.b64decode(each)) for each in hash_b64s)
        with self.person.card() as card:
            authorisation = authorise_content(
                card,
                json_codec.read(Challenge, unpacked(challenge["challenge"])),
                DigestList(digests),
                self.algorithm,
                self.person.pin,
            )
        answer = packed(json_codec.to_json(authorisation.answer))
        asked = self.format_csc_auth_request(hash_b64s=hash_b64s, otp=answer)
        self.authorised.append(len(digests))
        return self.parse_csc_auth_response(await self.post("credentials/authorize", asked))

    async def post(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call."""
        url = self.csc_session_info.endpoint_url(method)
        async with self.http.post(url, headers=self.auth_headers, json=body, raise_for_status=True) as answer:
            found = await answer.json()
        assert isinstance(found, dict)
        return found


def packed(value: Any) -> str:
    """JSON in base64url without padding."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode("ascii")


def unpacked(text: str) -> Any:
    """The other way."""
    return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


@dataclass(frozen=True)
class Signing:
    """One user at the service, for the length of a test."""

    manager: CardManager
    http: aiohttp.ClientSession

    def signer(self, **options: Any) -> CSCSigner:
        """pyHanko's."""
        return CSCSigner(self.http, self.manager, **options)

    @property
    def credential(self) -> CSCCredentialInfo:
        """As pyHanko understands credentials/info."""
        return self.manager.credential_info


@asynccontextmanager
async def signing(office: Office, name: str, algorithm: Algorithm) -> AsyncIterator[Signing]:
    """pyHanko's session with the service."""
    session = CSCServiceSessionInfo(office.url, office.ids[name], oauth_token=office.token, api_ver="v1")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=office.trusted)) as http:
        credential = await fetch_certs_in_csc_credential(http, session)
        manager = CardManager(http, session, credential, office.home[name], algorithm)
        yield Signing(manager, http)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """To its end, in a loop of its own."""
    asyncio.run(work())
    # aiohttp leaves a connection in the middle of its TLS shutdown where an answer was an error, and the
    # loop ends without it; its socket would be complained of in whichever test it is collected in.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# --- documents ---------------------------------------------------------------------------------------------

AMOUNT = b"I owe Bob ten euros."


def document(text: bytes = AMOUNT) -> bytes:
    """A PDF of one page with this text on it."""
    writer = PdfFileWriter(stream_xrefs=False)
    font = generic.DictionaryObject(
        {
            generic.pdf_name("/Type"): generic.pdf_name("/Font"),
            generic.pdf_name("/Subtype"): generic.pdf_name("/Type1"),
            generic.pdf_name("/BaseFont"): generic.pdf_name("/Helvetica"),
        }
    )
    drawn = writer.add_object(
        generic.StreamObject(stream_data=b"BT /F1 24 Tf 72 720 Td (" + text + b") Tj ET")
    )
    resources = generic.DictionaryObject(
        {generic.pdf_name("/Font"): generic.DictionaryObject({generic.pdf_name("/F1"): font})}
    )
    box = generic.ArrayObject([generic.NumberObject(each) for each in (0, 0, 595, 842)])
    writer.insert_page(PageObject(contents=drawn, media_box=box, resources=resources))
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


async def signed(signer: CSCSigner, pdf: bytes, field: str = "Signature") -> bytes:
    """With one more signature."""
    pdf_signer = PdfSigner(PdfSignatureMetadata(field_name=field, md_algorithm="sha256"), signer=signer)
    out = await pdf_signer.async_sign_pdf(IncrementalPdfFileWriter(BytesIO(pdf)))
    return bytes(out.getvalue())


async def validated(pdf: bytes, authority: Authority = AUTHORITY, number: int = 0) -> PdfSignatureStatus:
    """What pyHanko's validator says of one signature."""
    signature = PdfFileReader(BytesIO(pdf)).embedded_signatures[number]
    root = asn1_x509.Certificate.load(authority.certificate)
    context = ValidationContext(trust_roots=[root], allow_fetching=False)
    return await async_validate_pdf_signature(signature, context)


# --- tests -------------------------------------------------------------------------------------------------


def test_what_pyhanko_understands_of_a_credential(office: Office) -> None:
    async def work() -> None:
        async with signing(office, "bob", Algorithm.RSA_PKCS1_SHA256) as bob:
            found = bob.credential
            assert found.hash_pinning_required
            assert found.max_batch_size == 1000
            assert {"sha256_rsa", "rsassa_pss", "rsassa_pkcs1v15"} <= found.supported_mechanisms
            assert found.signing_cert.subject.native == {"common_name": "bob"}
            assert [each.dump() for each in found.chain] == [AUTHORITY.certificate]

    run(work)


@pytest.mark.parametrize(
    ("name", "algorithm", "mechanism"),
    [
        ("alice", Algorithm.ECDSA_SHA256, "sha256_ecdsa"),
        ("bob", Algorithm.RSA_PKCS1_SHA256, "sha256_rsa"),
    ],
)
def test_a_signed_pdf_is_believed(office: Office, name: str, algorithm: Algorithm, mechanism: str) -> None:
    async def work() -> None:
        async with signing(office, name, algorithm) as user:
            pdf = await signed(user.signer(), document())
        status = await validated(pdf)
        assert (status.intact, status.valid, status.trusted) == (True, True, True)
        assert status.bottom_line
        assert status.pkcs7_signature_mechanism == mechanism
        assert status.signing_cert.subject.native == {"common_name": name}
        assert user.manager.authorised == [1]

    run(work)


def test_rsassa_pss_with_the_parameters_this_service_has(office: Office) -> None:
    """pyHanko's own choice is the longest salt, which no card authorises: it has to be told."""

    async def work() -> None:
        async with signing(office, "bob", Algorithm.RSA_PSS_SHA256) as bob:
            with pytest.raises(SigningError):
                await signed(bob.signer(prefer_pss=True), document())
            signer = bob.signer()
            params = algos.RSASSAPSSParams.load(oids.pss_params(HashName.SHA256))
            signer._signature_mechanism = algos.SignedDigestAlgorithm(
                {"algorithm": "rsassa_pss", "parameters": params}
            )
            pdf = await signed(signer, document())
        status = await validated(pdf)
        assert status.bottom_line
        assert status.pkcs7_signature_mechanism == "rsassa_pss"

    run(work)


def test_two_documents_under_one_authorisation(office: Office) -> None:
    async def work() -> None:
        async with signing(office, "alice", Algorithm.ECDSA_SHA256) as alice:
            signer = alice.signer(batch_size=2)
            texts = (AMOUNT, b"I owe Carol two euros.")
            pdfs = await asyncio.gather(*(signed(signer, document(text)) for text in texts))
        assert alice.manager.authorised == [2]
        for text, pdf in zip(texts, pdfs, strict=True):
            assert text in pdf
            assert (await validated(pdf)).bottom_line

    run(work)


def test_two_signatures_on_one_document(office: Office) -> None:
    async def work() -> None:
        async with signing(office, "alice", Algorithm.ECDSA_SHA256) as alice:
            once = await signed(alice.signer(), document(), "Alice")
        async with signing(office, "bob", Algorithm.RSA_PKCS1_SHA256) as bob:
            twice = await signed(bob.signer(), once, "Bob")
        for number, name in enumerate(("alice", "bob")):
            status = await validated(twice, number=number)
            assert status.bottom_line
            assert status.signing_cert.subject.native == {"common_name": name}

    run(work)


def test_a_changed_pdf_is_not_believed(office: Office) -> None:
    async def work() -> None:
        async with signing(office, "alice", Algorithm.ECDSA_SHA256) as alice:
            pdf = await signed(alice.signer(), document())
        assert (await validated(pdf)).bottom_line
        assert pdf.count(AMOUNT) == 1
        status = await validated(pdf.replace(AMOUNT, b"I owe Bob two euros."))
        assert not status.intact
        assert not status.bottom_line

    run(work)


def test_another_authority_is_not_believed(office: Office) -> None:
    async def work() -> None:
        async with signing(office, "alice", Algorithm.ECDSA_SHA256) as alice:
            pdf = await signed(alice.signer(), document())
        status = await validated(pdf, Authority())
        assert (status.intact, status.valid, status.trusted) == (True, True, False)
        assert not status.bottom_line

    run(work)


def test_hashes_that_the_card_did_not_see_are_not_signed(office: Office) -> None:
    async def work() -> None:
        async with signing(office, "alice", Algorithm.ECDSA_SHA256) as alice:
            real = alice.manager.authorize_signature

            async def another(hash_b64s: list[str]) -> CSCAuthorizationInfo:
                return await real([base64.b64encode(bytes(32)).decode("ascii") for _ in hash_b64s])

            alice.manager.authorize_signature = another  # type: ignore[method-assign]
            with pytest.raises(SigningError):
                await signed(alice.signer(), document())
            assert alice.manager.authorised == [1]

    run(work)
