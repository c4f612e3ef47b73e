"""Between workstation and worker during an enrolment: keys of a card, or an authorisation, stolen on the way.

Over HTTPS, with somebody who ends TLS (a front that was taken over, a proxy): first what they have, then that
nothing comes of it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from msgspec.structs import replace

from card_applet_sim.keys import cbc, wrap
from hsm_signer.card.address import create_card
from hsm_signer.card.apdu import CardState
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.core import certificate_requests, identity, json_codec
from hsm_signer.core.algorithms import spki_of
from hsm_signer.core.content import digest_list_hash
from hsm_signer.errors import (
    CredentialPending,
    CredentialUnknown,
    EnrolmentProofWrong,
    EnrolmentRequestChanged,
    IdentityChanged,
    IdentityUnknown,
    RefusedBefore,
    SignerError,
)
from hsm_signer.schemes.authorise import authorisation_digest, position_digests
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, PUK, Home, Person
from hsm_signer.types import (
    Algorithm,
    Authorisation,
    Combine,
    CredentialId,
    Digest,
    DigestList,
    EnrolmentStarted,
    Event,
    Fingerprint,
    KeySpec,
    Mode,
    NewCredential,
    PinCheck,
    PinPolicy,
    Quantity,
    Scheme,
    SigningRequest,
    SignOutcome,
    SpkiDer,
)
from hsm_signer.workstation import enrolment
from hsm_signer.workstation.enrolment import Enrolment, enrol
from hsm_signer.workstation.remote import RemoteServer
from tests.support.enrolments import POINT, pending
from tests.support.far import Far, far_service
from tests.support.middle import BEGIN, KeyThief, Middle, Proves, in_the_middle
from tests.support.scenes import altered, authorise, chain, message, verifies

MESSAGE = b"all that is mine to Mallory"
THIEF = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
def far(template_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """One service, for all tests of the module."""
    folder = tmp_path_factory.mktemp("far")
    with far_service(template_home, folder) as found:
        yield found
    shutil.rmtree(folder)


@pytest.fixture
def middle(far: Far, tmp_path: Path) -> Iterator[Middle]:
    with in_the_middle(far.service, tmp_path) as found:
        yield found


@pytest.fixture
def desk(far: Far, middle: Middle) -> Iterator[RemoteServer]:
    """A workstation that knows the installation, and takes the man in the middle for its service."""
    with at_the_desk(far, middle, far.fingerprint) as found:
        yield found


def at_the_desk(far: Far, middle: Middle, pinned: Fingerprint | None) -> RemoteServer:
    return RemoteServer(middle.url, token=far.tokens["app"], ca=middle.certificate, identity=pinned)


@pytest.fixture
def honest(far: Far) -> Iterator[RemoteServer]:
    """The service without anybody in between."""
    with far.as_client() as found:
        yield found


def blank_card(folder: Path) -> Person:
    """A victim nobody has been before, at the service of the whole module."""
    name = f"victor-{secrets.token_hex(4)}"
    person = Person(name, Scheme.ROLLING, KeySpec.P256, folder / "victor.card")
    create_card(person.address)
    return person


def wish(person: Person, **changes: Any) -> Enrolment:
    return Enrolment(
        owner=person.name,
        scheme=person.scheme,
        key=person.key,
        pin=CardPin(PIN, source="test"),
        puk=CardPuk(PUK, source="test"),
        pin_check=PinCheck.CARD,
        **changes,
    )


def forged(server: RemoteServer, person: Person, stolen: dict[str, bytes]) -> SignOutcome:
    """Have the honest worker sign what the thief likes, without card and PIN."""
    credential = server.credential(person.name)
    challenge = server.challenge(credential.credential_id)
    content = DigestList((Digest(hashlib.sha256(MESSAGE).digest()),))
    nonce = os.urandom(16)
    d = authorisation_digest(
        scheme=Scheme.ROLLING,
        combine=Combine.CBC,
        algorithm=Algorithm.ECDSA_SHA256,
        mode=Mode.DIGESTS,
        pin_policy=PinPolicy.ALWAYS,
        credential_id=credential.credential_id,
        nonce=nonce,
        rolling_values=challenge.rolling_values,
        h=digest_list_hash(content.digests),
    )
    quantities = tuple(
        Quantity(wrap(cbc(stolen["wrapped_kcar"], position), cbc(stolen["wrapped_kek"], rn)))
        for position, rn in zip(
            position_digests(d, challenge.rolling_values), challenge.rolling_values, strict=True
        )
    )
    authorisation = Authorisation(
        Algorithm.ECDSA_SHA256,
        challenge.x,
        challenge.rolling_values,
        nonce,
        quantities,
        credential.credential_id,
    )
    outcome = server.sign(SigningRequest(authorisation, content))
    verifies(outcome, content)
    return outcome


def assert_nothing_came_of_it(
    honest: RemoteServer, person: Person, credential_ids: list[CredentialId]
) -> None:
    """The card is blank, and the credential was given up before anything was signed."""
    with person.card() as card:
        assert card.status().state is CardState.BLANK
    with pytest.raises(CredentialUnknown):
        honest.credential(person.name)
    (credential_id,) = credential_ids
    events = [entry.event for _, entry in honest.entries(credential_id)]
    assert events == [Event.ENROL, Event.EXPIRE]


def ids_of(middle: Middle) -> list[CredentialId]:
    """The credentials that were given up through the middle."""
    return [
        CredentialId(bytes.fromhex(request.rpartition("/")[2]))
        for request in middle.requests
        if request.startswith("DELETE /v1/enrolments/")
    ]


# --- the card's keys ---------------------------------------------------------------------------------------


def test_who_has_the_keys_on_the_way_signs_for_ever_where_nobody_checks(
    far: Far, middle: Middle, desk: RemoteServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack itself: the card works, nobody complains, and the thief needs neither card nor PIN."""
    thief = KeyThief(middle)
    victor = blank_card(tmp_path)
    monkeypatch.setattr(enrolment, "check_proof", lambda *_: None)
    enrol(desk, victor.card, wish(victor))
    assert len(thief.stolen["wrapped_kcar"]) == len(thief.stolen["wrapped_kek"]) == 32
    with far.as_client() as server:
        verifies(victor.sign(server, b"by the card"), message(b"by the card"))
        assert forged(server, victor, thief.stolen).owner == victor.name


def _another_identity(body: dict[str, Any], card_point: bytes) -> None:
    """All of the proof is the thief's own, and holds: only whose it is does not."""
    _prove(body, card_point, named=True)


def _by_another_key(body: dict[str, Any], card_point: bytes) -> None:
    """The pinned key's name, and the thief's signature of just what the card would get."""
    _prove(body, card_point, named=False)


def _prove(body: dict[str, Any], card_point: bytes, *, named: bool) -> None:
    started = json_codec.read(EnrolmentStarted, body)
    digest = identity.enrolment_digest(
        started.proof.installation_id,
        started.credential.owner,
        started.personalisation,
        card_point=card_point,
        spki=started.credential.spki,
    )
    signature = THIEF.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    body["proof"]["signature"] = base64.b64encode(signature).decode()
    if named:
        body["proof"]["public_key"] = base64.b64encode(spki_of(THIEF.public_key())).decode()


@pytest.mark.parametrize(
    ("proves", "error"),
    [
        (lambda *_: None, EnrolmentProofWrong),  # the installation's own, of the points that it saw
        (_by_another_key, EnrolmentProofWrong),
        (_another_identity, IdentityChanged),
    ],
)
def test_stolen_keys_never_reach_a_card(
    honest: RemoteServer,
    middle: Middle,
    desk: RemoteServer,
    tmp_path: Path,
    proves: Proves,
    error: type[SignerError],
) -> None:
    thief = KeyThief(middle)
    thief.proves = proves
    victor = blank_card(tmp_path)
    with pytest.raises(error):
        enrol(desk, victor.card, wish(victor))
    assert len(thief.stolen["wrapped_kcar"]) == len(thief.stolen["wrapped_kek"]) == 32
    assert_nothing_came_of_it(honest, victor, ids_of(middle))
    with pytest.raises(CredentialUnknown):
        forged(honest, victor, thief.stolen)


def test_another_key_type_is_not_taken_for_the_one_that_was_wanted(
    honest: RemoteServer, middle: Middle, desk: RemoteServer, tmp_path: Path
) -> None:
    """The installation signs what it made: what was wanted, only the workstation knows."""
    middle.changes_request[BEGIN] = lambda body: body.update(key="p384")
    victor = blank_card(tmp_path)
    with pytest.raises(EnrolmentProofWrong, match="the key that was made is p384; expected p256"):
        enrol(desk, victor.card, wish(victor))
    assert_nothing_came_of_it(honest, victor, ids_of(middle))


def test_the_combine_method_is_not_the_services_choice(
    middle: Middle, desk: RemoteServer, tmp_path: Path
) -> None:
    """With xor a T that leaks would give KCAR away."""
    middle.changes_answer["GET /v1/capabilities"] = lambda body: body.update(combines=["xor"])
    victor = blank_card(tmp_path)
    assert enrol(desk, victor.card, wish(victor)).credential.combine is Combine.CBC


def test_a_service_of_another_installation_is_found_before_anything_is_begun(
    far: Far, middle: Middle, tmp_path: Path
) -> None:
    victor = blank_card(tmp_path)
    other = identity.fingerprint(SpkiDer(b"another"))
    with at_the_desk(far, middle, other) as server, pytest.raises(IdentityChanged, match=far.fingerprint):
        enrol(server, victor.card, wish(victor))
    with at_the_desk(far, middle, None) as server, pytest.raises(IdentityUnknown):
        enrol(server, victor.card, wish(victor))
    assert BEGIN not in middle.requests


def test_on_the_servers_own_machine_the_same_is_checked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Server.begin_enrolment

    def with_another_point(self: Server, wanted: NewCredential, subject: str | None) -> EnrolmentStarted:
        started = begin(self, wanted, subject)
        return replace(started, personalisation=replace(started.personalisation, token_point=POINT))

    monkeypatch.setattr(Server, "begin_enrolment", with_another_point)
    victor = blank_card(tmp_path)
    with pytest.raises(EnrolmentProofWrong):
        enrol(server, victor.card, wish(victor))
    with victor.card() as card:
        assert card.status().state is CardState.BLANK
    with pytest.raises(CredentialUnknown):
        server.credential(victor.name)


# --- the certificate request -------------------------------------------------------------------------------


def _request_of_mallory(body: dict[str, Any]) -> None:
    name = certificate_requests.subject_name("mallory", None)
    spki = SpkiDer(base64.b64decode(body.get("public_key") or body["credential"]["public_key"]))
    info = certificate_requests.certification_request_info(name, spki)
    body["request_info"] = base64.b64encode(info).decode()


def test_a_request_changed_on_its_way_is_not_authorised(
    honest: RemoteServer, middle: Middle, desk: RemoteServer, tmp_path: Path
) -> None:
    middle.changes_answer[BEGIN] = _request_of_mallory
    victor = blank_card(tmp_path)
    with pytest.raises(EnrolmentRequestChanged):
        enrol(desk, victor.card, wish(victor))
    assert_nothing_came_of_it(honest, victor, ids_of(middle))


def _key_of_mallory(body: dict[str, Any]) -> None:
    spki = spki_of(ec.generate_private_key(ec.SECP256R1()).public_key())
    body["public_key"] = base64.b64encode(spki).decode()
    name = certificate_requests.subject_name("carol", None)
    info = certificate_requests.certification_request_info(name, spki)
    body["request_info"] = base64.b64encode(info).decode()


def test_a_request_of_an_enrolment_that_is_resumed_is_not_authorised_either(
    honest: RemoteServer, middle: Middle, desk: RemoteServer, tmp_path: Path
) -> None:
    carol, _ = pending(honest, tmp_path)
    wanted = wish(carol)
    for change, error in (
        (_request_of_mallory, EnrolmentRequestChanged),
        (_key_of_mallory, EnrolmentProofWrong),
    ):
        middle.changes_answer["GET /request-info"] = change
        with pytest.raises(error):
            enrol(desk, carol.card, wanted)
    middle.changes_answer.clear()
    with pytest.raises(EnrolmentRequestChanged, match="another certificate request than this command makes"):
        enrol(desk, carol.card, wish(carol, subject="CN=Carol,O=Example"))
    assert not any(request.endswith("/challenge") for request in middle.requests)
    assert enrol(desk, carol.card, wanted).resumed


def test_what_was_refused_as_pending_stays_refused(home_on_each: Home, tmp_path: Path) -> None:
    """In scheme pin an authorisation never gets old: one that was kept would be carried out later."""
    with home_on_each.server() as server:
        carol, request_info = pending(server, tmp_path, Scheme.PIN)
        sent = authorise(server, carol, MESSAGE)
        kept = authorise(server, carol, MESSAGE)
        with pytest.raises(CredentialPending):
            server.sign(sent)
        carol.sign(server, request_info)
        # One that nobody has sent is as good as the day it was made: so it is the refusal that counts.
        verifies(server.sign(kept), message(MESSAGE))
        record = carol.record(server)
        for _ in range(2):
            with pytest.raises(RefusedBefore):
                server.sign(sent)
            with pytest.raises(RefusedBefore):
                server.examine(sent)
        with pytest.raises(RefusedBefore):
            server.sign(altered(sent, quantities=(Quantity(bytes(40)),)))
        assert carol.record(server) == record
        signed = [entry for entry in chain(server, record.credential_id) if entry.signatures]
        assert [entry.event for entry in signed] == [Event.ACTIVATE, Event.SIGN]
        assert not server.audit().findings


@pytest.mark.parametrize("scheme", [Scheme.BASIC, Scheme.ROLLING])
def test_it_stays_refused_in_the_other_schemes_too(server: Server, tmp_path: Path, scheme: Scheme) -> None:
    carol, request_info = pending(server, tmp_path, scheme)
    sent = authorise(server, carol, MESSAGE)
    with pytest.raises(CredentialPending):
        server.sign(sent)
    carol.sign(server, request_info)
    with pytest.raises(RefusedBefore):
        server.sign(sent)
