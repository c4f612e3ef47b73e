"""Signing, verifying and enrolling as a program does it: installation near, service far, simulated cards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from msgspec.structs import replace

import hsm_signer
from hsm_signer.api import HashOn
from hsm_signer.core.content import FileSource
from hsm_signer.errors import (
    AlgorithmNotAllowed,
    AlgorithmUnsuitable,
    CardBlank,
    CardPinWrong,
    ChallengeStale,
    CredentialExists,
    CredentialRevoked,
    FileError,
    InputError,
    NotAuthenticated,
    NotInitialised,
    NotPermitted,
    PinMalformed,
    PinMissing,
    SignatureInvalid,
    TokenPinWrong,
    TokenUnsuitable,
)
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, PUK, WRONG_PIN, Home, Service, serving
from hsm_signer.types import (
    Challenge,
    CredentialId,
    DigestList,
    Event,
    Message,
    SigningRequest,
    SignOutcome,
    SpkiDer,
)

LETTER = b"I owe Bob ten euros."
PAGES = b"page" * 20_000
"""Longer than what the card hashes by itself."""


class Watched:
    """A server that notes what it is asked to sign, and calls the first authorisations stale."""

    def __init__(self, server: Server, stale: int = 0) -> None:
        self.server = server
        self.stale = stale
        self.requests: list[SigningRequest] = []

    def challenge(self, credential_id: CredentialId) -> Challenge:
        return self.server.challenge(credential_id)

    def sign(self, request: SigningRequest) -> SignOutcome:
        self.requests.append(request)
        if len(self.requests) <= self.stale:
            raise ChallengeStale("another signature came first")
        return self.server.sign(request)


# --- signing -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [b"", LETTER, PAGES], ids=["empty", "short", "long"])
@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "file"])
@pytest.mark.parametrize("hash_on", ["auto", "card", "host"])
def test_a_message_is_signed(
    home: Home, server: Server, tmp_path: Path, message: bytes, as_file: bool, hash_on: HashOn
) -> None:
    content: bytes | Path = message
    if as_file:
        content = tmp_path / "message"
        content.write_bytes(message)
    alice, watched = home["alice"], Watched(server)
    outcome = hsm_signer.sign(watched, alice.address, content, pin=alice.pin, hash_on=hash_on)
    assert outcome.owner == "alice"
    assert outcome.signatures == (outcome.signature,)
    (request,) = watched.requests
    by_card = hash_on == "card" or (hash_on == "auto" and message != PAGES)
    assert isinstance(request.content, Message if by_card else DigestList)
    if as_file and by_card and message == PAGES:
        assert isinstance(request.content, Message)
        assert isinstance(request.content.source, FileSource), "a long file is never in memory whole"
    credential = server.credential("alice")
    assert hsm_signer.verify(credential, content, outcome.signature) is hsm_signer.Algorithm.ECDSA_SHA256


def test_digests_are_signed_under_one_pin(home: Home, server: Server) -> None:
    documents = [b"one", b"two", b"three"]
    asked = []

    def pin() -> str:
        asked.append(1)
        return PIN

    outcome = hsm_signer.sign_digests(
        server, home["alice"].address, [hashlib.sha256(each).digest() for each in documents], pin=pin
    )
    assert asked == [1]
    assert len(outcome.signatures) == 3
    for document, signature in zip(documents, outcome.signatures, strict=True):
        hsm_signer.verify(server.credential("alice"), document, signature)
    with pytest.raises(ValueError, match="too many"):
        _ = outcome.signature


@pytest.mark.parametrize(
    "digests", [[], [b"short"], [bytes(32), bytes(48)], [bytes(48)]], ids=["none", "short", "mixed", "other"]
)
def test_digests_of_the_wrong_length(home: Home, server: Server, digests: list[bytes]) -> None:
    with pytest.raises(InputError):
        hsm_signer.sign_digests(server, home["alice"].address, digests, pin=home["alice"].pin)


def test_an_algorithm_of_ones_own(home: Home, server: Server) -> None:
    bob, pss = home["bob"], hsm_signer.Algorithm.RSA_PSS_SHA512
    for message in (LETTER, PAGES):
        outcome = hsm_signer.sign(server, bob.address, message, pin=bob.pin, algorithm=pss)
        assert outcome.algorithm is pss
        assert hsm_signer.verify(server.credential("bob"), message, outcome.signature) is pss
        with pytest.raises(AlgorithmNotAllowed):
            hsm_signer.sign(
                server,
                bob.address,
                message,
                pin=bob.pin,
                algorithm=hsm_signer.Algorithm.ECDSA_SHA256,
            )


class Ed25519Server(Watched):
    """Has alice's key be an Ed25519 key, which SoftHSM cannot wrap: sends nothing on."""

    key = ed25519.Ed25519PrivateKey.generate()

    def challenge(self, credential_id: CredentialId) -> Challenge:
        return replace(
            super().challenge(credential_id),
            algorithms=(hsm_signer.Algorithm.ED25519,),
            spki=SpkiDer(self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
        )

    def sign(self, request: SigningRequest) -> SignOutcome:
        self.requests.append(request)
        raise TokenUnsuitable("cannot wrap it")


@pytest.mark.parametrize("hash_on", ["auto", "card"])
@pytest.mark.parametrize("message", [LETTER, PAGES], ids=["short", "long"])
def test_ed25519_has_the_card_hash_everything(
    home: Home, server: Server, message: bytes, hash_on: HashOn
) -> None:
    alice, watched = home["alice"], Ed25519Server(server)
    with pytest.raises(TokenUnsuitable):
        hsm_signer.sign(watched, alice.address, message, pin=alice.pin, hash_on=hash_on)
    (request,) = watched.requests
    assert request.authorisation.algorithm is hsm_signer.Algorithm.ED25519
    assert isinstance(request.content, Message)
    assert b"".join(request.content.source.chunks()) == message
    with pytest.raises(AlgorithmUnsuitable, match="ed25519 signs the message itself"):
        hsm_signer.sign(watched, alice.address, message, pin=alice.pin, hash_on="host")
    signature = watched.key.sign(message)
    key = watched.challenge(request.authorisation.credential_id).spki
    assert hsm_signer.verify(key, message, signature) is hsm_signer.Algorithm.ED25519


def test_content_that_is_no_content(home: Home, server: Server, tmp_path: Path) -> None:
    alice = home["alice"]
    for content, error in (
        ("text", TypeError),
        ([LETTER], TypeError),
        (tmp_path / "missing", FileError),
        (tmp_path, FileError),
        (Path("/dev/null"), FileError),
    ):
        with pytest.raises(error):
            hsm_signer.sign(server, alice.address, content, pin=alice.pin)  # type: ignore[arg-type]


# --- the PIN -------------------------------------------------------------------------------------------


def test_a_person_is_asked_once_however_often_the_card_is(home: Home, server: Server) -> None:
    asked = []

    def pin() -> hsm_signer.CardPin:
        asked.append(1)
        return hsm_signer.CardPin(PIN)

    watched = Watched(server, stale=2)
    outcome = hsm_signer.sign(watched, home["alice"].address, LETTER, pin=pin)
    assert len(watched.requests) == 3
    assert asked == [1]
    hsm_signer.verify(server.credential("alice"), LETTER, outcome.signature)


def test_a_pin_is_never_shown(home: Home, server: Server) -> None:
    with pytest.raises(TypeError, match="expected a CardPin or a function that gives one, got str") as told:
        hsm_signer.sign(server, home["alice"].address, LETTER, pin=PIN)  # type: ignore[arg-type]
    assert PIN not in str(told.value)
    assert PIN not in repr(hsm_signer.CardPin(PIN))
    with pytest.raises(PinMalformed, match=r"PIN \(given by the program\): expected 6 to 12 digits") as bad:
        hsm_signer.sign(server, home["alice"].address, LETTER, pin=lambda: "98765a")
    assert "98765" not in f"{bad.value} {bad.value.hint} {bad.value!r}"


def test_a_wrong_pin_and_none(home: Home, server: Server) -> None:
    alice = home["alice"]
    with pytest.raises(CardPinWrong) as wrong:
        hsm_signer.sign(server, alice.address, LETTER, pin=hsm_signer.CardPin(WRONG_PIN))
    assert wrong.value.tries_left == 2
    with pytest.raises(PinMissing):
        hsm_signer.sign(server, alice.address, LETTER)


def test_a_card_without_pin(home: Home, server: Server) -> None:
    def nobody() -> str:
        raise AssertionError("a card of scheme basic wants no PIN")

    basil = home["basil"]
    outcome = hsm_signer.sign(server, basil.address, LETTER, pin=nobody)
    hsm_signer.verify(server.credential("basil"), LETTER, outcome.signature)
    hsm_signer.sign(server, basil.address, LETTER)


# --- the card ------------------------------------------------------------------------------------------


def test_a_card_that_is_held_open(home: Home, server: Server) -> None:
    alice = home["alice"]
    with hsm_signer.open_card(alice.address) as card:
        assert card.status().credential_id == server.credential("alice").credential_id
        for message in (LETTER, PAGES):
            outcome = hsm_signer.sign(server, card, message, pin=alice.pin)
            hsm_signer.verify(server.credential("alice"), message, outcome.signature)
        assert card.status().pin_tries == 3


def test_a_blank_card_signs_nothing(server: Server, tmp_path: Path) -> None:
    card = f"sim:{tmp_path / 'blank.card'}"
    hsm_signer.create_card(card)
    for message in (LETTER, PAGES):
        with pytest.raises(CardBlank):
            hsm_signer.sign(server, card, message, pin=hsm_signer.CardPin(PIN))


# --- verifying -----------------------------------------------------------------------------------------


def test_a_signature_is_verified_by_the_key_alone(home: Home, server: Server, tmp_path: Path) -> None:
    outcome = home["bob"].sign(server, LETTER)
    file = tmp_path / "letter"
    file.write_bytes(LETTER)
    key = load_der_public_key(outcome.spki)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for each in (outcome.spki, pem, server.credential("bob")):
        for content in (LETTER, file):
            assert hsm_signer.verify(each, content, outcome.signature) is outcome.algorithm
        with pytest.raises(SignatureInvalid):
            hsm_signer.verify(each, LETTER + b"!", outcome.signature)
        with pytest.raises(SignatureInvalid):
            hsm_signer.verify(each, LETTER, b"")
        with pytest.raises(SignatureInvalid):
            hsm_signer.verify(each, LETTER, outcome.signature, algorithm=hsm_signer.Algorithm.RSA_PSS_SHA256)
        with pytest.raises(AlgorithmUnsuitable):
            hsm_signer.verify(each, LETTER, outcome.signature, algorithm=hsm_signer.Algorithm.ED25519)
    with pytest.raises(SignatureInvalid):
        hsm_signer.verify(server.credential("alice"), LETTER, outcome.signature)
    for no_key in (b"", b"-----BEGIN PUBLIC KEY-----\n", b"\x30\x00"):
        with pytest.raises(InputError):
            hsm_signer.verify(no_key, LETTER, outcome.signature)


def test_what_was_signed_stays_signed(home: Home, server: Server) -> None:
    alice = home["alice"]
    outcome = hsm_signer.sign(server, alice.address, LETTER, pin=alice.pin)
    server.change_status(outcome.credential_id, Event.REVOKE)
    credential = server.credential("alice")
    assert credential.status is hsm_signer.Status.REVOKED
    hsm_signer.verify(credential, LETTER, outcome.signature)
    with pytest.raises(CredentialRevoked):
        hsm_signer.sign(server, alice.address, LETTER, pin=alice.pin)


# --- enrolment -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", list(hsm_signer.Scheme))
def test_a_user_is_enrolled(server: Server, tmp_path: Path, scheme: hsm_signer.Scheme) -> None:
    card = f"sim:{tmp_path / 'carol.card'}"
    hsm_signer.create_card(card)
    pin = None if scheme is hsm_signer.Scheme.BASIC else hsm_signer.generate_pin()
    puk = None if scheme is hsm_signer.Scheme.BASIC else hsm_signer.generate_puk()
    enrolled = hsm_signer.enrol(
        server, "carol", card, pin=pin, puk=puk, scheme=scheme, subject="CN=Carol,O=Example"
    )
    assert enrolled.credential.owner == "carol"
    assert enrolled.credential.scheme is scheme
    assert enrolled.certification_request.startswith("-----BEGIN CERTIFICATE REQUEST-----")
    outcome = hsm_signer.sign(server, card, LETTER, pin=pin)
    hsm_signer.verify(enrolled.credential, LETTER, outcome.signature)
    with hsm_signer.open_card(card) as session:
        assert (session.status().puk_tries is None) == (puk is None)
    other = f"sim:{tmp_path / 'other.card'}"
    hsm_signer.create_card(other)
    with pytest.raises(CredentialExists):
        hsm_signer.enrol(server, "carol", other, pin=pin, puk=puk, scheme=scheme)


# --- installation and service --------------------------------------------------------------------------


def test_the_installation_is_where_the_variable_says(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSM_SIGNER_HOME", str(home.path))
    alice = home["alice"]
    with hsm_signer.open_installation() as server:
        outcome = hsm_signer.sign(server, alice.address, LETTER, pin=alice.pin)
    hsm_signer.verify(outcome.spki, LETTER, outcome.signature)
    with pytest.raises(NotInitialised), hsm_signer.open_installation(home.path / "cards"):
        pass


def test_the_token_pin_is_asked_for_where_nothing_gives_it(home: Home) -> None:
    config = home.path / "config.toml"
    config.write_text(config.read_text().replace("&pin-source=file:token.pin", ""))
    assert "pin-source" not in config.read_text()
    with pytest.raises(PinMissing), hsm_signer.open_installation(home.path):
        pass
    prompts = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return (home.path / "token.pin").read_text().strip()

    with hsm_signer.open_installation(str(home.path), token_pin=ask) as server:
        assert server.credential("alice").owner == "alice"
    assert prompts == ["PIN of token hsm-signer"]
    with pytest.raises(TokenPinWrong), hsm_signer.open_installation(home.path, token_pin=lambda _: "no"):
        pass


@pytest.fixture(scope="module")
def service(template_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    home = template_home.copy_to(tmp_path_factory.mktemp("service") / "home")
    with serving(home) as running:
        yield running


def test_a_service_is_a_server_as_well(service: Service, tmp_path: Path) -> None:
    alice = service.home["alice"]
    token = service.token("signer", "registrar", "admin")
    with hsm_signer.connect(
        service.url, token=token, ca=os.fspath(service.ca), identity=service.identity
    ) as server:
        for message in (LETTER, PAGES):
            outcome = hsm_signer.sign(server, alice.address, message, pin=alice.pin)
            hsm_signer.verify(server.credential("alice"), message, outcome.signature)
        card = f"sim:{tmp_path / 'dora.card'}"
        hsm_signer.create_card(card)
        enrolled = hsm_signer.enrol(
            server, "dora", card, pin=alice.pin, puk=hsm_signer.CardPuk(PUK), key=hsm_signer.KeySpec.P384
        )
        outcome = hsm_signer.sign_digests(server, card, [bytes(48)], pin=alice.pin)
        assert outcome.algorithm is hsm_signer.Algorithm.ECDSA_SHA384
        assert {each.owner for each in server.credentials()} >= {"alice", "dora"}
        server.change_status(enrolled.credential.credential_id, Event.REVOKE)
        with pytest.raises(CredentialRevoked):
            hsm_signer.sign(server, card, LETTER, pin=alice.pin)


def test_a_service_refuses_strangers_and_those_without_the_role(service: Service) -> None:
    alice = service.home["alice"]
    token = service.token("auditor")
    with (
        hsm_signer.connect(service.url, token=token, ca=service.ca) as server,
        pytest.raises(NotPermitted),
    ):
        hsm_signer.sign(server, alice.address, LETTER, pin=alice.pin)
    with hsm_signer.connect(service.url, ca=service.ca) as server, pytest.raises(NotAuthenticated):
        server.credential("alice")
