"""The API of the Cloud Signature Consortium, asked as its clients ask: HTTPS to a running service.

Descriptions of errors are compared to the letter, as clients do.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import msgspec
import pytest
from cryptography import x509

from hsm_signer.card.commands import authorise_content
from hsm_signer.card.pins import CardPin
from hsm_signer.core import algorithms, json_codec, oids
from hsm_signer.service.roles import Role
from hsm_signer.service.wire import operations as wire
from hsm_signer.testing import PIN, Home, Person, make_person
from hsm_signer.types import (
    FAILURES_BEFORE_LOCK,
    Algorithm,
    Authorisation,
    CardAnswer,
    Challenge,
    CredentialId,
    Digest,
    DigestList,
    Event,
    HashName,
    KeySpec,
    PinCheck,
)
from tests.support.authority import DAY, Authority
from tests.support.front import make_identity, pem, trusting
from tests.support.scenes import flip, passing_wrong_pins
from tests.support.service import WorkerClient, add_client, serving
from tests.support.tenants import Tenants

MOST = 5
"""Hashes that one authorisation may have in these tests."""


# --- a client ----------------------------------------------------------------------------------------------


def base64_of(data: bytes) -> str:
    """With padding."""
    return base64.b64encode(data).decode("ascii")


def url_text(value: Any) -> str:
    """JSON in base64url without padding, as challenge and answer travel."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode("ascii")


def from_url_text(text: str) -> Any:
    """The other way."""
    return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


@dataclass(frozen=True)
class Csc:
    """A client of one version of the API."""

    http: httpx.Client
    token: str | None
    version: str = "v2"

    def post(self, method: str, body: Any = None, **headers: str) -> httpx.Response:
        """With the token, unless ``headers`` say otherwise."""
        if self.token is not None:
            headers = {"Authorization": f"Bearer {self.token}", **headers}
        return self.http.post(
            f"/csc/{self.version}/{method}", json={} if body is None else body, headers=headers
        )

    def __call__(self, method: str, **members: Any) -> Any:
        """What it answers; it must be 200."""
        response = self.post(method, members)
        assert response.status_code == 200, response.text
        assert response.headers["Cache-Control"] == "no-store"
        return response.json()

    def refuses(
        self,
        words: str,
        method: str,
        /,
        *,
        status: int = 400,
        error: str = "invalid_request",
        **members: Any,
    ) -> None:
        """It must be refused, in these words."""
        tells(self.post(method, members), status, error, words)

    @property
    def names(self) -> tuple[str, str]:
        """What this version calls the hashes and the hash algorithm of signHash."""
        return ("hash", "hashAlgo") if self.version == "v1" else ("hashes", "hashAlgorithmOID")


def tells(response: httpx.Response, status: int, error: str, description: str) -> None:
    """An error, its body to the letter."""
    assert response.json() == {"error": error, "error_description": description}
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/json"


@dataclass(frozen=True)
class User:
    """Somebody with a card, at a client."""

    csc: Csc
    person: Person
    credential_id: CredentialId

    @property
    def id(self) -> str:
        """As the API has it."""
        return self.credential_id.hex()

    def at(self, version: str) -> User:
        """The same by another version of the API."""
        return dataclasses.replace(self, csc=dataclasses.replace(self.csc, version=version))

    def challenge(self) -> Challenge:
        """By credentials/getChallenge."""
        found = self.csc("credentials/getChallenge", credentialID=self.id, authObjectID="CARD")
        assert set(found) == {"challenge"}
        return json_codec.read(Challenge, from_url_text(found["challenge"]))

    def authorise(self, digests: tuple[Digest, ...], algorithm: Algorithm, pin: str = PIN) -> Authorisation:
        """By the card."""
        challenge = self.challenge()
        with self.person.card() as card:
            return authorise_content(
                card, challenge, DigestList(digests), algorithm, lambda: CardPin(pin, source="test")
            )

    def asked_to_authorise(
        self, digests: tuple[Digest, ...], algorithm: Algorithm, pin: str = PIN
    ) -> dict[str, Any]:
        """Members of credentials/authorize, after the card."""
        answer = url_text(json_codec.to_json(self.authorise(digests, algorithm, pin).answer))
        members: dict[str, Any] = {
            "credentialID": self.id,
            "numSignatures": len(digests),
            self.csc.names[0]: [base64_of(each) for each in digests],
        }
        if self.csc.version == "v1":
            return {**members, "OTP": answer}
        assert algorithm.hash is not None
        return {
            **members,
            "hashAlgorithmOID": oids.HASH_OIDS[algorithm.hash],
            "authData": [{"id": "CARD", "value": answer}],
        }

    def asked_to_sign(
        self, digests: tuple[Digest, ...], algorithm: Algorithm, pin: str = PIN, **members: Any
    ) -> dict[str, Any]:
        """Members of signatures/signHash, after the card and credentials/authorize."""
        activation = self.csc("credentials/authorize", **self.asked_to_authorise(digests, algorithm, pin))
        assert set(activation) == {"SAD"}
        return {
            "credentialID": self.id,
            "SAD": activation["SAD"],
            self.csc.names[0]: [base64_of(each) for each in digests],
            **how(algorithm),
            **members,
        }

    def sign(self, digests: tuple[Digest, ...], algorithm: Algorithm, **members: Any) -> list[bytes]:
        """All of it."""
        found = self.csc("signatures/signHash", **self.asked_to_sign(digests, algorithm, **members))
        assert set(found) == {"signatures"}
        return [base64.b64decode(each, validate=True) for each in found["signatures"]]


def how(algorithm: Algorithm) -> dict[str, str]:
    """signAlgo and signAlgoParams, in the form that leaves nothing open."""
    hash_name = algorithm.hash
    assert hash_name is not None
    if algorithm.is_pss:
        return {"signAlgo": oids.RSASSA_PSS, "signAlgoParams": base64_of(oids.pss_params(hash_name))}
    wanted = oids.SignOid(oids.Family.PKCS1 if algorithm.is_rsa else oids.Family.ECDSA, hash_name)
    return {"signAlgo": next(oid for oid, said in oids.SIGN_OIDS.items() if said == wanted)}


def some(
    count: int = 1, algorithm: Algorithm = Algorithm.ECDSA_SHA256, of: str = "document"
) -> tuple[Digest, ...]:
    """Digests of as many documents."""
    assert algorithm.hash is not None
    name = algorithm.hash.value
    return tuple(Digest(hashlib.new(name, f"{of} {i}".encode()).digest()) for i in range(count))


SHA256: dict[str, Any] = {"hashAlgorithmOID": oids.HASH_OIDS[HashName.SHA256]}
SHA384: dict[str, Any] = {"hashAlgorithmOID": oids.HASH_OIDS[HashName.SHA384]}


# --- a service ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Desk:
    """A running service, its home, and a client of each kind."""

    home: Home
    http: httpx.Client
    certified: httpx.Client
    """One that proves a client certificate."""
    operator: WorkerClient
    """Straight to a worker, with every role: what operators do."""
    tokens: dict[str, str]

    def csc(self, client: str = "signer", version: str = "v2") -> Csc:
        """By a client's own token."""
        return Csc(self.http, self.tokens[client], version)

    def user(self, name: str, client: str = "signer", version: str = "v2") -> User:
        """One of the people at a client."""
        return User(self.csc(client, version), self.home[name], self.operator.credential(name).credential_id)

    def enrol(self, name: str, key: KeySpec = KeySpec.P256, *, pin_check: PinCheck = PinCheck.CARD) -> User:
        """Somebody new, with a card of the test's own."""
        server: Any = self.operator  # a worker does for it as well as a server in this process
        cards = self.home.path / "cards"
        self.home.people[name] = make_person(server, cards, name, key=key, pin_check=pin_check)
        return self.user(name)

    def change(self, user: User, event: Event) -> None:
        """What an operator does."""
        self.operator.call(wire.ChangeStatus(credential_id=user.credential_id, event=event))

    def request(self, user: User) -> str:
        """The certificate request, PEM."""
        return str(self.operator.call(wire.GetCertificationRequest(credential_id=user.credential_id)))

    def certify(self, user: User, chain: list[bytes]) -> None:
        """Keep these certificates."""
        kept = wire.SetCertificates(credential_id=user.credential_id, certificates=tuple(chain))
        self.operator.call(kept)


SETTINGS = f"""\
access_lifetime = 900

[limits]
digests = {MOST}

[tls]
client_ca = "clients.pem"
"""


@pytest.fixture(scope="module")
def desk(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One for this file: tests that end a credential enrol somebody of their own."""
    folder = tmp_path_factory.mktemp("csc")
    tenants = template_tenants.copy_to(folder / "home")
    authority = Authority("clients")
    identity = make_identity(authority, folder, "station")
    (tenants.home.path / "clients.pem").write_text(pem(authority.certificate))
    add_client(tenants.home, "station", (Role.SIGNER,), certificate=identity.certificate)
    with serving(tenants.home, settings=SETTINGS) as service:
        proving = trusting(service, identity)
        with (
            service.worker(bearer=tenants.tokens["app"]) as operator,
            httpx.Client(base_url=service.url, verify=trusting(service), timeout=60) as http,
            httpx.Client(base_url=service.url, verify=proving, timeout=60) as certified,
        ):
            opened = Desk(tenants.home, http, certified, operator, tenants.tokens)
            opened.enrol("dora", KeySpec.P384)
            opened.enrol("erik", KeySpec.P521)
            yield opened


@pytest.fixture
def alice(desk: Desk) -> User:
    """Rolling, P-256."""
    return desk.user("alice")


@pytest.fixture
def bob(desk: Desk) -> User:
    """Rolling, RSA-2048."""
    return desk.user("bob")


# --- info, login -------------------------------------------------------------------------------------------


def test_info_says_what_is_offered(desk: Desk) -> None:
    found = Csc(desk.http, None)("info", lang="de")
    assert found["specs"] == "2.0.0.0"
    assert (found["name"], found["region"], found["lang"]) == ("hsm-signer", "EU", "en")
    assert found["authType"] == ["basic", "TLS"]
    assert found["asynchronousOperationMode"] is False
    assert "credentials/extendTransaction" not in found["methods"]
    assert "signatures/signHash" in found["methods"]
    assert found["signAlgorithms"]["algos"] == list(oids.SIGN_OIDS)
    assert (found["signature_formats"]["formats"], found["conformance_levels"]) == ([], [])
    assert {"logo", "description"} < set(found)


def test_every_method_of_info_is_there(desk: Desk) -> None:
    methods = Csc(desk.http, None)("info")["methods"]
    for version in ("v1", "v2"):
        for method in methods:
            assert Csc(desk.http, None, version).post(method).status_code in (400, 401), method


def test_info_of_version_1(desk: Desk) -> None:
    found = Csc(desk.http, None, "v1")("info")
    assert found["specs"] == "1.0.4.0"
    assert set(found) == {"specs", "name", "logo", "region", "lang", "description", "authType", "methods"}


def test_info_needs_no_body(desk: Desk) -> None:
    assert desk.http.post("/csc/v2/info").json()["specs"] == "2.0.0.0"


def basic(name: str, secret: str) -> str:
    """RFC 7617."""
    return "Basic " + base64_of(f"{name}:{secret}".encode())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_login_gives_a_token_that_revoke_ends(desk: Desk, version: str) -> None:
    nobody = Csc(desk.http, None, version)
    response = nobody.post(
        "auth/login", {"rememberMe": True}, Authorization=basic("signer", desk.tokens["signer"])
    )
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    found = response.json()
    assert set(found) == {"access_token", "expires_in", "token_type"}
    assert (found["expires_in"], found["token_type"]) == (900, "Bearer")

    user = Csc(desk.http, found["access_token"], version)
    assert user("credentials/list", userID="alice")["credentialIDs"]
    for _ in range(2):
        revoked = desk.csc(version=version).post(
            "auth/revoke", {"token": found["access_token"], "token_type_hint": "access_token"}
        )
        assert (revoked.status_code, revoked.content) == (204, b"")
    gone = user.post("credentials/list")
    tells(gone, 401, "invalid_token", "The access token is not valid")
    assert gone.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    ("header", "status", "error", "description"),
    [
        (None, 401, "invalid_request", "Malformed authentication parameter"),
        ("Bearer abc", 401, "invalid_request", "Malformed authentication parameter"),
        ("Basic", 401, "invalid_request", "Malformed authentication parameter"),
        ("Basic !!!", 400, "invalid_request", "Malformed username-password"),
        ("Basic " + base64_of(b"signer"), 400, "invalid_request", "Malformed username-password"),
        ("Basic " + base64_of(b":secret"), 400, "invalid_request", "Malformed username-password"),
        ("Basic " + base64_of(b"\xff:secret"), 400, "invalid_request", "Malformed username-password"),
        (
            basic("signer", "hsc_wrong"),
            400,
            "authentication_error",
            "An error occurred during authentication process",
        ),
        (
            basic("nobody", "hsc_wrong"),
            400,
            "authentication_error",
            "An error occurred during authentication process",
        ),
    ],
)
def test_login_refused(desk: Desk, header: str | None, status: int, error: str, description: str) -> None:
    headers = {} if header is None else {"Authorization": header}
    response = Csc(desk.http, None).post("auth/login", {}, **headers)
    tells(response, status, error, description)
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


def test_there_are_no_refresh_tokens(desk: Desk) -> None:
    response = Csc(desk.http, None).post(
        "auth/login", {"refresh_token": "abc"}, Authorization=basic("signer", desk.tokens["signer"])
    )
    tells(response, 400, "invalid_request", "Invalid refresh_token")


def test_revoke_refused(desk: Desk) -> None:
    desk.csc().refuses(
        "Invalid string parameter token_type_hint", "auth/revoke", token="abc", token_type_hint="id_token"
    )
    desk.csc().refuses("Missing (or invalid type) string parameter token", "auth/revoke")


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer a b", "abc", "Bearer ä"])
def test_a_malformed_authorization_header(desk: Desk, header: str) -> None:
    response = desk.http.post(
        "/csc/v2/credentials/list", json={}, headers={b"Authorization": header.encode("latin-1")}
    )
    tells(response, 400, "invalid_request", "Malformed authorization header")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer hsc_unknown"}])
def test_nobody_is_told_nothing(desk: Desk, headers: dict[str, str]) -> None:
    response = Csc(desk.http, None).post("credentials/list", {}, **headers)
    tells(response, 401, "invalid_token", "The access token is not valid")


def test_a_client_without_the_role(desk: Desk, alice: User) -> None:
    denied: dict[str, Any] = {"status": 403, "error": "unauthorized_client"}
    words = "The client is not authorized to use this method"
    desk.csc("auditor").refuses(words, "credentials/list", **denied)
    desk.csc("auditor").refuses(words, "credentials/info", credentialID=alice.id, **denied)
    desk.csc("registrar").refuses(
        words, "credentials/getChallenge", credentialID=alice.id, authObjectID="CARD", **denied
    )


# --- credentials/list --------------------------------------------------------------------------------------


def test_list_by_user(desk: Desk, alice: User) -> None:
    assert desk.csc()("credentials/list", userID="alice") == {"credentialIDs": [alice.id]}
    assert desk.csc()("credentials/list", userID="nobody") == {"credentialIDs": []}


def test_list_of_all_in_pages(desk: Desk) -> None:
    listed = desk.operator.call(wire.ListCredentials()).credentials
    expected = [each.credential_id.hex() for each in listed]
    assert len(expected) >= 7
    assert desk.csc()("credentials/list")["credentialIDs"] == expected
    for version in ("v1", "v2"):
        found: list[str] = []
        page: dict[str, Any] = {"maxResults": 3}
        for _ in range(len(expected)):
            answer = desk.csc(version=version)("credentials/list", **page)
            assert len(answer["credentialIDs"]) <= 3
            found += answer["credentialIDs"]
            if "nextPageToken" not in answer:
                break
            page["pageToken"] = answer["nextPageToken"]
        assert found == expected


def test_a_client_of_one_user_sees_that_users(desk: Desk, alice: User, bob: User) -> None:
    bound = desk.csc("bound")
    assert bound("credentials/list")["credentialIDs"] == [alice.id]
    for name in ("bob", "alice"):
        bound.refuses("userID parameter MUST be null", "credentials/list", userID=name)
    bound.refuses("Invalid parameter credentialID", "credentials/info", credentialID=bob.id)
    assert bound("credentials/info", credentialID=alice.id)["key"]["status"] == "enabled"


def test_list_refused(desk: Desk) -> None:
    csc = desk.csc()
    for nobody in ("", "x" * 256, "a\nb", "a\0b"):
        csc.refuses("Invalid parameter userID", "credentials/list", userID=nobody)
    csc.refuses("Invalid parameter pageToken", "credentials/list", pageToken="next")
    csc.refuses("Invalid parameter certificates", "credentials/list", credentialInfo=True, certificates="all")


def test_list_with_everything(desk: Desk, alice: User) -> None:
    shown = {"certificates": "chain", "certInfo": True, "authInfo": True}
    found = desk.csc()("credentials/list", userID="alice", credentialInfo=True, **shown)
    info = desk.csc()("credentials/info", credentialID=alice.id, **shown)
    assert found == {"credentialIDs": [alice.id], "credentialInfos": [{"credentialID": alice.id, **info}]}


def test_only_valid_ones(desk: Desk) -> None:
    authority = Authority()
    user = desk.enrol("olga")
    csc = desk.csc()
    answer = {"credentialIDs": [user.id], "onlyValid": True}
    nothing = {"credentialIDs": [], "onlyValid": True}
    assert csc("credentials/list", userID="olga", onlyValid=True) == answer
    request = desk.request(user)

    desk.certify(user, authority.chain(request, begins=-2 * DAY, ends=-DAY))
    assert csc("credentials/list", userID="olga", onlyValid=True) == nothing
    desk.certify(user, authority.chain(request, begins=DAY, ends=2 * DAY))
    assert csc("credentials/list", userID="olga", onlyValid=True) == nothing
    desk.certify(user, authority.chain(request))
    assert csc("credentials/list", userID="olga", onlyValid=True) == answer
    desk.change(user, Event.SUSPEND)
    assert csc("credentials/list", userID="olga", onlyValid=True) == nothing
    assert csc("credentials/list", userID="olga", onlyValid=False) == {"credentialIDs": [user.id]}


# --- credentials/info --------------------------------------------------------------------------------------

EC_ALGO = ["1.2.840.10045.2.1", "1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3", "1.2.840.10045.4.3.4"]
RSA_ALGO = [
    "1.2.840.113549.1.1.1",
    "1.2.840.113549.1.1.11",
    "1.2.840.113549.1.1.12",
    "1.2.840.113549.1.1.13",
    "1.2.840.113549.1.1.10",
]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("alice", {"algo": EC_ALGO, "len": 256, "curve": "1.2.840.10045.3.1.7"}),
        ("paula", {"algo": EC_ALGO, "len": 256, "curve": "1.2.840.10045.3.1.7"}),
        ("dora", {"algo": EC_ALGO[:-1], "len": 384, "curve": "1.3.132.0.34"}),
        ("erik", {"algo": EC_ALGO, "len": 521, "curve": "1.3.132.0.35"}),
        ("bob", {"algo": RSA_ALGO, "len": 2048}),
    ],
)
def test_info_of_a_credential(desk: Desk, name: str, key: dict[str, Any]) -> None:
    user = desk.user(name)
    found = desk.csc()("credentials/info", credentialID=user.id)
    assert found["key"] == {"status": "enabled", **key}
    assert found["cert"] == {"certificates": []}
    assert found["auth"] == {"mode": "explicit"}
    assert (found["SCAL"], found["multisign"], found["lang"]) == ("2", MOST, "en")
    assert "credentialID" not in found


def test_how_a_credential_is_authorised(desk: Desk, alice: User) -> None:
    found = desk.csc()("credentials/info", credentialID=alice.id, authInfo=True)
    (card,) = found["auth"].pop("objects")
    assert found["auth"] == {"mode": "explicit", "expression": "CARD"}
    assert (card["type"], card["id"]) == ("ChallengeResponse", "CARD")
    assert card["label"]
    assert card["description"]


def test_info_of_a_credential_in_version_1(desk: Desk, alice: User) -> None:
    csc = desk.csc(version="v1")
    found = csc("credentials/info", credentialID=alice.id, authInfo=True)
    assert (found["authMode"], found["SCAL"], found["multisign"]) == ("explicit", "2", MOST)
    assert found["PIN"] == {"presence": "false"}
    assert (found["OTP"]["presence"], found["OTP"]["type"]) == ("true", "offline")
    assert "auth" not in found
    assert {"PIN", "OTP"}.isdisjoint(csc("credentials/info", credentialID=alice.id))


def test_certificates(desk: Desk) -> None:
    authority = Authority()
    user = desk.enrol("carla")
    chain = authority.chain(desk.request(user))
    desk.certify(user, chain)
    encoded = [base64_of(each) for each in chain]

    def cert(**asked: Any) -> Any:
        return desk.csc()("credentials/info", credentialID=user.id, **asked)["cert"]

    assert cert() == cert(certificates="single") == {"status": "valid", "certificates": encoded[:1]}
    assert cert(certificates="chain") == {"status": "valid", "certificates": encoded}
    assert cert(certificates="none") == {"status": "valid"}
    told = cert(certificates="none", certInfo=True)
    assert (told["issuerDN"], told["subjectDN"]) == ("CN=Test CA", "CN=carla")
    leaf = x509.load_der_x509_certificate(chain[0])
    assert int(told["serialNumber"], 16) == leaf.serial_number
    assert told["validFrom"] == leaf.not_valid_before_utc.strftime("%Y%m%d%H%M%SZ")
    assert told["validTo"] == leaf.not_valid_after_utc.strftime("%Y%m%d%H%M%SZ")


def test_an_expired_certificate_signs_nothing(desk: Desk) -> None:
    user = desk.enrol("xenia")
    request = desk.request(user)
    asked = user.asked_to_sign(some(), Algorithm.ECDSA_SHA256)
    desk.certify(user, Authority().chain(request, begins=-2 * DAY, ends=-timedelta(minutes=1)))
    assert desk.csc()("credentials/info", credentialID=user.id)["cert"]["status"] == "expired"
    user.csc.refuses("Signing certificate is expired", "signatures/signHash", **asked)
    desk.certify(user, [])
    assert user.csc("signatures/signHash", **asked)["signatures"]


NO_IDS = ["", "00" * 16, "00" * 15, "g" * 32, "AB" * 16, "alice"]


@pytest.mark.parametrize("text", NO_IDS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_credential_ids_that_are_none(desk: Desk, text: str, version: str) -> None:
    csc, words = desk.csc(version=version), "Invalid parameter credentialID"
    csc.refuses(words, "credentials/info", credentialID=text)
    csc.refuses(words, "credentials/getChallenge", credentialID=text, authObjectID="CARD")


def test_info_refused(desk: Desk, alice: User) -> None:
    desk.csc().refuses("Missing (or invalid type) string parameter credentialID", "credentials/info")
    desk.csc().refuses(
        "Invalid parameter certificates", "credentials/info", credentialID=alice.id, certificates="all"
    )


# --- signing -----------------------------------------------------------------------------------------------

WAYS = [
    ("alice", Algorithm.ECDSA_SHA256),
    ("alice", Algorithm.ECDSA_SHA384),
    ("dora", Algorithm.ECDSA_SHA384),
    ("erik", Algorithm.ECDSA_SHA512),
    ("bob", Algorithm.RSA_PKCS1_SHA256),
    ("bob", Algorithm.RSA_PKCS1_SHA512),
    ("bob", Algorithm.RSA_PSS_SHA256),
    ("bob", Algorithm.RSA_PSS_SHA384),
    ("paula", Algorithm.ECDSA_SHA256),
    ("peter", Algorithm.RSA_PKCS1_SHA256),
]


def verify(
    desk: Desk, user: User, algorithm: Algorithm, digests: tuple[Digest, ...], made: list[bytes]
) -> None:
    """Each by `cryptography`, for the digest in its place."""
    check = algorithms.verifier(desk.operator.credential_by_id(user.credential_id).spki, algorithm)
    assert len(made) == len(digests) > 0
    for digest, signature in zip(digests, made, strict=True):
        check(digest, signature)


@pytest.mark.parametrize(("name", "algorithm"), WAYS, ids=lambda each: getattr(each, "cli_name", each))
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_sign(desk: Desk, name: str, algorithm: Algorithm, version: str) -> None:
    user = desk.user(name, version=version)
    digests = some(1, algorithm)
    verify(desk, user, algorithm, digests, user.sign(digests, algorithm))


@pytest.mark.parametrize(("name", "algorithm"), [WAYS[0], WAYS[4], WAYS[8]])
def test_a_list_under_one_authorisation(desk: Desk, name: str, algorithm: Algorithm) -> None:
    user = desk.user(name)
    digests = some(MOST, algorithm)
    before = desk.operator.credential_by_id(user.credential_id).x
    verify(desk, user, algorithm, digests, user.sign(digests, algorithm, operationMode="S"))
    assert desk.operator.credential_by_id(user.credential_id).x == (None if before is None else before + 1)


@pytest.mark.parametrize(
    ("name", "algorithm", "members"),
    [
        ("bob", Algorithm.RSA_PKCS1_SHA256, {"signAlgo": oids.RSA, **SHA256}),
        ("bob", Algorithm.RSA_PKCS1_SHA384, {"signAlgo": oids.RSA, **SHA384}),
        ("bob", Algorithm.RSA_PKCS1_SHA256, {"signAlgoParams": base64_of(oids.NULL)}),
        ("bob", Algorithm.RSA_PSS_SHA256, SHA256),
        ("alice", Algorithm.ECDSA_SHA256, {"signAlgo": oids.EC, **SHA256}),
        # Ignored where signAlgo says the hash itself (11.10).
        ("alice", Algorithm.ECDSA_SHA256, {"hashAlgorithmOID": "2.16.840.1.101.3.4.2.3"}),
        ("alice", Algorithm.ECDSA_SHA256, {"clientData": "mine", "lang": "de", "somethingElse": [1]}),
    ],
)  # fmt: skip
def test_other_ways_to_say_the_same(
    desk: Desk, name: str, algorithm: Algorithm, members: dict[str, str]
) -> None:
    user = desk.user(name)
    digests = some(1, algorithm)
    verify(desk, user, algorithm, digests, user.sign(digests, algorithm, **members))


def test_the_card_sees_the_challenge_of_the_record(desk: Desk, alice: User) -> None:
    assert alice.challenge() == desk.operator.challenge(alice.credential_id)
    assert alice.challenge() == alice.at("v1").challenge()


def test_get_challenge_refused(desk: Desk, alice: User) -> None:
    method = "credentials/getChallenge"
    alice.csc.refuses("Invalid parameter authObjectID", method, credentialID=alice.id, authObjectID="PIN")
    alice.csc.refuses(
        "Missing (or invalid type) string parameter authObjectID", method, credentialID=alice.id
    )
    alice.csc.refuses("Missing (or invalid type) string parameter credentialID", method, authObjectID="CARD")


def test_scheme_basic_needs_a_client_certificate(desk: Desk) -> None:
    desk.csc().refuses(
        "The credential needs a client certificate",
        "credentials/getChallenge",
        status=403,
        error="access_denied",
        credentialID=desk.user("basil").id,
        authObjectID="CARD",
    )


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_client_certificate_instead_of_a_token(desk: Desk, version: str) -> None:
    user = dataclasses.replace(desk.user("basil"), csc=Csc(desk.certified, None, version))
    assert user.csc("credentials/list", userID="basil") == {"credentialIDs": [user.id]}
    digests = some(2)
    verify(desk, user, Algorithm.ECDSA_SHA256, digests, user.sign(digests, Algorithm.ECDSA_SHA256))


# --- credentials/authorize refused -------------------------------------------------------------------------

WHOLE: dict[str, Any] = {
    "algorithm": "ecdsa-sha256",
    "counter": "1",
    "rolling_values": [],
    "nonce": base64_of(bytes(16)),
}
ANSWER = url_text({**WHOLE, "quantities": [base64_of(bytes(40))]})
"""Such as a card might give."""
Change = Callable[[dict[str, Any]], None]


def put(**members: Any) -> Change:
    """Other members."""
    return lambda asked: asked.update(members)


def leave_out(name: str) -> Change:
    """One member less."""
    return lambda asked: asked.pop(name)


AUTHORIZE: list[tuple[Change, str]] = [
    (leave_out("credentialID"), "Missing (or invalid type) string parameter credentialID"),
    (put(credentialID=7), "Missing (or invalid type) string parameter credentialID"),
    (put(credentialID="00" * 16), "Invalid parameter credentialID"),
    (leave_out("numSignatures"), "Missing (or invalid type) integer parameter numSignatures"),
    (put(numSignatures="2"), "Missing (or invalid type) integer parameter numSignatures"),
    (put(numSignatures=0), "Invalid value for parameter numSignatures"),
    (put(numSignatures=-1), "Invalid value for parameter numSignatures"),
    (put(numSignatures=1), "Invalid value for parameter numSignatures"),
    (put(numSignatures=3), "Invalid value for parameter numSignatures"),
    (put(numSignatures=MOST + 1), "Numbers of signatures is too high"),
    (leave_out("hashes"), "Missing (or invalid type) array parameter hashes"),
    (put(hashes="AA=="), "Missing (or invalid type) array parameter hashes"),
    (put(hashes=[]), "Empty hash array"),
    (put(hashes=["****", "****"]), "Invalid Base64 hash string parameter"),
    (put(hashes=["AAA", "AAA"]), "Invalid Base64 hash string parameter"),
    (put(hashes=[1, 2]), "Invalid Base64 hash string parameter"),
    (put(hashes=[base64_of(bytes(31))] * 2), "Invalid digest value length"),
    (put(hashes=[base64_of(bytes(32)), base64_of(bytes(48))]), "Invalid digest value length"),
    (leave_out("hashAlgorithmOID"), "Missing (or invalid type) string parameter hashAlgorithmOID"),
    (put(hashAlgorithmOID="1.3.14.3.2.26"), "Invalid parameter hashAlgorithmOID"),
    (leave_out("authData"), "Missing (or invalid type) array parameter authData"),
    (put(authData=[]), "Invalid parameter authData"),
    (put(authData=[{"id": "PIN", "value": "123456"}]), "Invalid parameter authData"),
    (put(authData=[{"id": "CARD"}]), "Invalid parameter authData"),
    (put(description="d" * 501), "Invalid parameter description"),
]


@pytest.mark.parametrize(("change", "description"), AUTHORIZE)
def test_authorize_refused(alice: User, change: Change, description: str) -> None:
    asked: dict[str, Any] = {
        "credentialID": alice.id,
        "numSignatures": 2,
        "hashes": [base64_of(each) for each in some(2)],
        **SHA256,
        "authData": [{"id": "CARD", "value": ANSWER}],
    }
    change(asked)
    alice.csc.refuses(description, "credentials/authorize", **asked)


def test_the_hash_algorithm_is_the_one_the_card_was_asked_for(alice: User) -> None:
    asked = alice.asked_to_authorise(some(), Algorithm.ECDSA_SHA256)
    asked |= {"hashAlgorithmOID": oids.HASH_OIDS[HashName.SHA384], "hashes": [base64_of(bytes(48))]}
    alice.csc.refuses("Invalid parameter hashAlgorithmOID", "credentials/authorize", **asked)
    asked = alice.at("v1").asked_to_authorise(some(), Algorithm.ECDSA_SHA256) | {
        "hash": [base64_of(bytes(48))]
    }
    alice.at("v1").csc.refuses("Invalid digest value length", "credentials/authorize", **asked)


NO_ANSWERS = [
    "",
    "!",
    "e30",
    "W10",
    base64_of(b"\xff\xfe"),
    url_text([1]),
    url_text(WHOLE),
    url_text({**WHOLE, "quantities": []}),
    url_text({**WHOLE, "quantities": [base64_of(bytes(39))]}),
    url_text({**WHOLE, "quantities": [base64_of(bytes(40))], "more": 1}),
    url_text({**WHOLE, "quantities": [base64_of(bytes(40))], "algorithm": "ed25519"}),
    url_text({**WHOLE, "quantities": [base64_of(bytes(40))], "algorithm": "rsa-pkcs1-sha256"}),
    url_text({**WHOLE, "quantities": [base64_of(bytes(40))], "counter": str(2**63 - 1)}),
    url_text({**WHOLE, "quantities": [base64_of(bytes(40))], "counter": str(2**64 - 1)}),
    url_text({**WHOLE, "quantities": [base64_of(bytes(40))], "counter": 1}),
    ANSWER,
    "W" * 4096,
]


@pytest.mark.parametrize("answer", NO_ANSWERS)
def test_answers_that_no_card_gave(alice: User, answer: str) -> None:
    asked: dict[str, Any] = {"credentialID": alice.id, "numSignatures": 1}
    alice.csc.refuses(
        "The authentication data is invalid",
        "credentials/authorize",
        error="invalid_authentication_data",
        **asked,
        hashes=[base64_of(bytes(32))],
        **SHA256,
        authData=[{"id": "CARD", "value": answer}],
    )
    alice.at("v1").csc.refuses(
        "The OTP is invalid",
        "credentials/authorize",
        error="invalid_otp",
        **asked,
        hash=[base64_of(bytes(32))],
        OTP=answer,
    )


def test_an_answer_to_an_older_challenge(alice: User) -> None:
    asked = alice.asked_to_authorise(some(), Algorithm.ECDSA_SHA256)
    alice.sign(some(of="another"), Algorithm.ECDSA_SHA256)
    alice.csc.refuses(
        "The authentication data is invalid",
        "credentials/authorize",
        error="invalid_authentication_data",
        **asked,
    )


def test_version_1_wants_its_own_names(alice: User) -> None:
    csc = alice.at("v1").csc
    asked: dict[str, Any] = {"credentialID": alice.id, "numSignatures": 1}
    csc.refuses("Missing (or invalid type) array parameter hash", "credentials/authorize", **asked, OTP="e30")
    csc.refuses(
        "Missing (or invalid type) string parameter OTP", "credentials/authorize", **asked, hash=["AA=="]
    )


def test_extend_transaction_is_not_offered(alice: User) -> None:
    for version in ("v1", "v2"):
        alice.at(version).csc.refuses(
            "extendTransaction is not offered: the card authorises each list of hashes anew",
            "credentials/extendTransaction",
            credentialID=alice.id,
            SAD="csad2.e30",
        )


@pytest.mark.parametrize("method", ["credentials/sendOTP", "signatures/signDoc", "signatures/timestamp", "x"])
def test_what_is_not_implemented_says_so(desk: Desk, method: str) -> None:
    desk.csc().refuses("Unimplemented method requested", method, status=501)


# --- signatures/signHash refused ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(desk: Desk) -> dict[str, dict[str, Any]]:
    """Good requests that nobody sends: of somebody with an EC key, and of somebody with an RSA key."""
    rita = desk.enrol("rita", KeySpec.RSA2048)
    return {
        "ec": desk.enrol("emil").asked_to_sign(some(2), Algorithm.ECDSA_SHA256),
        "pkcs1": rita.asked_to_sign(some(1), Algorithm.RSA_PKCS1_SHA256),
        "pss": rita.asked_to_sign(some(1), Algorithm.RSA_PSS_SHA256),
    }


def pss(hash_name: HashName) -> str:
    """signAlgoParams."""
    return base64_of(oids.pss_params(hash_name))


SIGN: list[tuple[str, Change, str]] = [
    ("ec", leave_out("credentialID"), "Missing (or invalid type) string parameter credentialID"),
    ("ec", put(credentialID="alice"), "Invalid parameter credentialID"),
    ("ec", leave_out("SAD"), "Missing (or invalid type) string parameter SAD"),
    ("ec", put(SAD=None), "Missing (or invalid type) string parameter SAD"),
    ("ec", put(SAD=""), "Invalid parameter SAD"),
    ("ec", put(SAD="csad2."), "Invalid parameter SAD"),
    ("ec", put(SAD="csad1.e30"), "Invalid parameter SAD"),
    ("ec", put(SAD="csad2.!"), "Invalid parameter SAD"),
    ("ec", put(SAD="csad2." + url_text([])), "Invalid parameter SAD"),
    ("ec", put(SAD="csad2." + "W" * 4000), "Invalid parameter SAD"),
    ("ec", put(SAD="csad2." + "W" * 5000), "Invalid parameter SAD"),
    ("ec", leave_out("hashes"), "Missing (or invalid type) array parameter hashes"),
    ("ec", put(hashes=[]), "Empty hash array"),
    ("ec", put(hashes=["AAA"]), "Invalid Base64 hash string parameter"),
    ("ec", put(hashes=[base64_of(bytes(33))]), "Invalid digest value length"),
    ("ec", put(hashes=[base64_of(bytes(32))] * 2), "Hash is not authorized by the SAD"),
    ("ec", put(hashes=[base64_of(some(2)[0])]), "Hash is not authorized by the SAD"),
    ("ec", put(hashes=[base64_of(each) for each in some(2)[::-1]]), "Hash is not authorized by the SAD"),
    ("ec", put(hashes=[base64_of(each) for each in some(3)]), "Hash is not authorized by the SAD"),
    ("ec", leave_out("signAlgo"), "Missing (or invalid type) string parameter signAlgo"),
    ("ec", put(signAlgo="1.2.3"), "Invalid parameter signAlgo"),
    ("ec", put(signAlgo="1.2.840.10045.4.3.3"), "Invalid parameter signAlgo"),
    ("ec", put(signAlgo="1.2.840.113549.1.1.11"), "Invalid parameter signAlgo"),
    ("ec", put(signAlgo=oids.ED25519), "Invalid parameter signAlgo"),
    ("ec", put(signAlgo=oids.EC), "Missing (or invalid type) string parameter hashAlgorithmOID"),
    ("ec", put(signAlgo=oids.EC, hashAlgorithmOID="1.2.3"), "Invalid parameter hashAlgorithmOID"),
    ("ec", put(signAlgoParams="!"), "Invalid parameter signAlgoParams"),
    ("ec", put(signAlgoParams=pss(HashName.SHA256)), "Invalid parameter signAlgoParams"),
    ("ec", put(signAlgoParams=5), "Missing (or invalid type) string parameter signAlgoParams"),
    ("ec", put(operationMode="A"), "Invalid parameter operationMode"),
    ("pkcs1", put(signAlgo=oids.RSA), "Missing (or invalid type) string parameter hashAlgorithmOID"),
    ("pkcs1", put(signAlgo=oids.RSA, **SHA384), "Invalid parameter signAlgo"),
    ("pkcs1", put(**how(Algorithm.RSA_PSS_SHA256)), "Invalid parameter signAlgo"),
    ("pss", put(signAlgo="1.2.840.113549.1.1.11", signAlgoParams=None), "Invalid parameter signAlgo"),
    ("pss", leave_out("signAlgoParams"), "Missing (or invalid type) string parameter signAlgoParams"),
    ("pss", put(signAlgoParams="MAA="), "Invalid parameter signAlgoParams"),
    ("pss", put(signAlgoParams=pss(HashName.SHA512)), "Invalid parameter signAlgo"),
]  # fmt: skip


@pytest.mark.parametrize(("which", "change", "description"), SIGN)
def test_sign_hash_refused(
    desk: Desk, prepared: dict[str, dict[str, Any]], which: str, change: Change, description: str
) -> None:
    asked = dict(prepared[which])
    change(asked)
    desk.csc().refuses(description, "signatures/signHash", **asked)


def test_sign_hash_of_version_1_has_its_own_names(desk: Desk, prepared: dict[str, dict[str, Any]]) -> None:
    asked = dict(prepared["ec"])
    csc = desk.csc(version="v1")
    csc.refuses("Missing (or invalid type) array parameter hash", "signatures/signHash", **asked)
    asked["hash"] = asked.pop("hashes")
    asked["signAlgo"] = oids.EC
    csc.refuses("Missing (or invalid type) string parameter hashAlgo", "signatures/signHash", **asked)
    csc.refuses("Invalid parameter hashAlgo", "signatures/signHash", **asked, hashAlgo="1.2.3")


# --- what a SAD is good for --------------------------------------------------------------------------------


def test_a_sad_signs_once_and_gives_the_same_again(desk: Desk, alice: User) -> None:
    asked = alice.asked_to_sign(some(2), Algorithm.ECDSA_SHA256)
    first = alice.csc("signatures/signHash", **asked)
    assert alice.csc("signatures/signHash", **asked) == first
    assert alice.at("v1").csc("signatures/signHash", **{**asked, "hash": asked["hashes"]}) == first
    evidence = desk.operator.call(wire.GetEvidence(credential_id=alice.credential_id, limit=1000)).entries
    signed = [entry for entry in evidence if entry.signatures]
    made = tuple(base64.b64decode(each) for each in first["signatures"])
    assert [entry.signatures for entry in signed].count(made) == 1
    alice.csc.refuses(
        "Hash is not authorized by the SAD",
        "signatures/signHash",
        **{**asked, "hashes": [base64_of(each) for each in some(2, of="others")]},
    )


def test_a_sad_of_another_credential(desk: Desk, alice: User) -> None:
    other = desk.user("dora")
    asked = alice.asked_to_sign(some(), Algorithm.ECDSA_SHA256)
    alice.csc.refuses("Invalid parameter SAD", "signatures/signHash", **{**asked, "credentialID": other.id})


def test_a_sad_is_good_for_the_client_that_got_it(desk: Desk, alice: User) -> None:
    """Another one that has the role, the user's name and the whole SAD gets nothing, and learns nothing."""
    digests = some(of="mine alone")
    asked = alice.asked_to_sign(digests, Algorithm.ECDSA_SHA256)
    other = desk.csc("app")
    assert other("credentials/info", credentialID=alice.id)["key"]["status"] == "enabled"
    for thief in (other, desk.csc("app", "v1"), Csc(desk.certified, None)):
        members = {**asked, "hash": asked["hashes"]} if thief.version == "v1" else asked
        thief.refuses("Invalid parameter SAD", "signatures/signHash", **members)
    evidence = desk.operator.call(wire.GetEvidence(credential_id=alice.credential_id, limit=1000)).entries
    assert not [entry for entry in evidence if entry.digests == digests]
    # By whichever token the client shows itself: it is the same one.
    login = base64.b64encode(f"signer:{desk.tokens['signer']}".encode()).decode()
    access = desk.csc().post("auth/login", {}, Authorization=f"Basic {login}").json()["access_token"]
    assert Csc(desk.http, access)("signatures/signHash", **asked)["signatures"]


def test_the_cards_answer_cannot_be_read_in_a_sad(alice: User) -> None:
    """Else whoever has it would ask for a SAD of his own."""
    digests = some(of="read")
    asked = alice.asked_to_authorise(digests, Algorithm.ECDSA_SHA256)
    answer = json_codec.read(CardAnswer, from_url_text(asked["authData"][0]["value"]))
    sads = [alice.csc("credentials/authorize", **asked)["SAD"] for _ in range(2)]
    sealed = [octets(sad) for sad in sads]
    for data in sealed:
        for part in (*answer.quantities, *answer.rolling_values, answer.nonce, alice.credential_id):
            assert part not in data
    assert sealed[0][:16] != sealed[1][:16], "each has a key of its own"


def octets(sad: str) -> bytes:
    """What a worker sealed."""
    text = sad.removeprefix("csad2.")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_sad_after_another_signature(alice: User) -> None:
    asked = alice.asked_to_sign(some(), Algorithm.ECDSA_SHA256)
    alice.sign(some(of="another"), Algorithm.ECDSA_SHA256)
    alice.csc.refuses("SAD expired", "signatures/signHash", **asked)


def test_a_sad_that_was_changed(desk: Desk, alice: User) -> None:
    """Anywhere: in what the key is made from, in what it holds, in its tag."""
    asked = alice.asked_to_sign(some(of="changed"), Algorithm.ECDSA_SHA256)
    data = octets(asked["SAD"])
    assert len(data) > 100
    for position in (0, 15, 16, len(data) // 2, len(data) - 17, len(data) - 16, len(data) - 1):
        changed = base64.urlsafe_b64encode(flip(data, position)).rstrip(b"=").decode("ascii")
        alice.csc.refuses(
            "Invalid parameter SAD", "signatures/signHash", **asked | {"SAD": f"csad2.{changed}"}
        )
    assert alice.csc("signatures/signHash", **asked)["signatures"]


DISABLED = "The credential identified by credentialID is disabled"


@pytest.mark.parametrize("event", [Event.SUSPEND, Event.REVOKE])
def test_a_credential_that_is_disabled(desk: Desk, event: Event) -> None:
    user = desk.enrol(f"disabled-{event.value}")
    asked = user.asked_to_sign(some(), Algorithm.ECDSA_SHA256)
    before = user.asked_to_authorise(some(), Algorithm.ECDSA_SHA256)
    desk.change(user, event)
    assert user.csc("credentials/info", credentialID=user.id)["key"]["status"] == "disabled"
    user.csc.refuses(DISABLED, "credentials/getChallenge", credentialID=user.id, authObjectID="CARD")
    user.csc.refuses(DISABLED, "credentials/authorize", **before)
    user.csc.refuses(DISABLED, "signatures/signHash", **asked)
    if event is Event.SUSPEND:
        desk.change(user, Event.RESUME)
        assert user.csc("signatures/signHash", **asked)["signatures"]


def test_wrong_pins_are_found_out_and_lock(desk: Desk) -> None:
    user = desk.enrol("willi", pin_check=PinCheck.SERVER)
    wrong = passing_wrong_pins(user.person, FAILURES_BEFORE_LOCK, PIN)
    good = user.asked_to_sign(some(), Algorithm.ECDSA_SHA256)
    asked_again = user.asked_to_authorise(some(), Algorithm.ECDSA_SHA256)
    words, error = "The authentication data is invalid", "invalid_authentication_data"
    for number, pin in enumerate(wrong):
        asked = user.asked_to_sign(some(), Algorithm.ECDSA_SHA256, pin)
        user.csc.refuses(words, "signatures/signHash", error=error, **asked)
        if number == 0:  # the very same is no new guess
            user.csc.refuses(words, "signatures/signHash", error=error, **asked)
            of_version_1 = {**asked, "hash": asked["hashes"]}
            csc = user.at("v1").csc
            csc.refuses("The OTP is invalid", "signatures/signHash", error="invalid_otp", **of_version_1)
    assert user.csc("credentials/info", credentialID=user.id)["key"]["status"] == "disabled"
    locked = "Credential locked"
    user.csc.refuses(locked, "credentials/getChallenge", credentialID=user.id, authObjectID="CARD")
    user.csc.refuses(locked, "credentials/authorize", **asked_again)
    user.csc.refuses(locked, "signatures/signHash", **good)
    desk.change(user, Event.UNLOCK)
    assert user.csc("signatures/signHash", **good)["signatures"]


# --- form --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "media"),
    [
        (b"[]", "application/json"),
        (b"nonsense", "application/json"),
        (b'{"lang": ', "application/json"),
        (b"{}", "text/plain"),
        (b"lang=de", "application/x-www-form-urlencoded"),
    ],
)
def test_bodies_that_are_no_json_objects(desk: Desk, content: bytes, media: str) -> None:
    response = desk.http.post("/csc/v2/info", content=content, headers={"Content-Type": media})
    tells(response, 400, "invalid_request", "The request is not a JSON object")


def test_everything_is_posted(desk: Desk) -> None:
    response = desk.http.get("/csc/v2/info")
    tells(response, 405, "invalid_request", "Method Not Allowed")
    assert response.headers["Allow"] == "POST"


def test_bodies_that_are_too_large(desk: Desk) -> None:
    response = desk.http.post("/csc/v2/info", json={"clientData": "x" * (1 << 20)})
    assert response.status_code == 413
    assert response.json()["error"] == "invalid_request"


@pytest.mark.parametrize(
    "path", ["v2/credentials/authorize", "v2/signatures/signHash", "v1/signatures/signHash"]
)
def test_lists_of_a_stranger_are_not_read(desk: Desk, path: str) -> None:
    """A megabyte of wrong hashes: refused for who sends it, before one of them is looked at."""
    wrong = {"hashes": [5] * 100_000}
    stranger = {"Authorization": "Bearer hsc_nobody"}
    answer = desk.http.post(f"/csc/{path}", json=wrong, headers=stranger)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token"), answer.text
    known = {"Authorization": f"Bearer {desk.tokens['signer']}"}
    answer = desk.http.post(f"/csc/{path}", json=wrong, headers=known)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), answer.text
