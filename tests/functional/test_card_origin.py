"""Where a card comes from: proven at enrolment, and nothing else taken for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from hsm_signer.card.address import create_card, open_card
from hsm_signer.card.commands import BlankCard, CardSession, Feature
from hsm_signer.card.pins import CardPin
from hsm_signer.config.service import SETTINGS_FILE
from hsm_signer.core.card_origin import OriginPolicy, certify
from hsm_signer.core.certificates import to_pem
from hsm_signer.errors import CardNotBlank, CardOriginMissing, CardOriginWrong, CardRefused, ConfigError
from hsm_signer.server.installation import origin_policy
from hsm_signer.server.server import Server
from hsm_signer.service.roles import Role
from hsm_signer.testing import PIN, Home
from tests.support.authority import Authority
from tests.support.commandline import Cli, changed, tree
from tests.support.enrolments import wanted
from tests.support.jcardsim import JavaCard
from tests.support.service import WorkerClient, add_client, serving

ISSUER = ec.generate_private_key(ec.SECP256R1())
STRANGER = ec.generate_private_key(ec.SECP256R1())


def issue(card: CardSession, issuer: ec.EllipticCurvePrivateKey = ISSUER) -> None:
    card.issue(certify(issuer, *card.begin_issue()))


def blank(path: Path, issuer: ec.EllipticCurvePrivateKey | None = ISSUER) -> BlankCard:
    """What a new card says of itself at BEGIN PERSONALISATION."""
    create_card(f"sim:{path}")
    with open_card(f"sim:{path}") as card:
        if issuer is not None:
            issue(card, issuer)
        return card.begin_personalisation()


def choosy(server: Server, *, required: bool = True) -> Server:
    policy = OriginPolicy((STRANGER.public_key(), ISSUER.public_key()), required=required)
    return replace(server, origin_policy=lambda: policy)


def begin(server: Server | WorkerClient, card: BlankCard, **changes: Any) -> Any:
    fields = {"card_point": card.point, "card_serial": card.serial, "card_origin": card.origin, **changes}
    return server.begin_enrolment(wanted(**fields), None)


def pem(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public


def private_pem(key: Any, protection: Any = None) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection or NoEncryption())
    return data


# --- the server --------------------------------------------------------------------------------------------


def test_a_card_of_a_known_issuer(server: Server, tmp_path: Path) -> None:
    for required in (True, False):
        started = begin(choosy(server, required=required), blank(tmp_path / f"{required}.card"))
        assert started.credential.assurance == 1
        assert server.credential_by_id(started.credential.credential_id).assurance == 1


def test_cards_that_prove_nothing(server: Server, tmp_path: Path) -> None:
    cards = {
        CardOriginMissing: blank(tmp_path / "old.card", None),
        CardOriginWrong: blank(tmp_path / "other.card", ec.generate_private_key(ec.SECP256R1())),
    }
    records = len(list(server.credentials()))
    for error, card in cards.items():
        with pytest.raises(error):
            begin(choosy(server), card)
        assert len(list(server.credentials())) == records, "nothing is made for it"
    for card in cards.values():
        for lenient in (server, choosy(server, required=False)):
            assert begin(lenient, card).credential.assurance == 0


def test_every_byte_of_the_origin_counts(server: Server, tmp_path: Path) -> None:
    card = blank(tmp_path / "card")
    origin = card.origin
    assert origin
    policy = choosy(server).origin_policy()
    assert policy.assurance(origin, card.point, card.serial) == 1
    for place in range(len(origin)):
        for bit in (0x01, 0x80):
            bent = origin[:place] + bytes([origin[place] ^ bit]) + origin[place + 1 :]
            with pytest.raises(CardOriginWrong):
                policy.assurance(bent, card.point, card.serial)
    other = blank(tmp_path / "other")
    for point, serial in ((other.point, card.serial), (card.point, other.serial)):
        with pytest.raises(CardOriginWrong):
            policy.assurance(origin, point, serial)
    for bent in (origin[:-1], origin + b"\0", b"", origin[97:] + origin[:97]):
        with pytest.raises(CardOriginWrong):
            policy.assurance(bent, card.point, card.serial)


def test_another_cards_proof_is_none_of_this_card(server: Server, tmp_path: Path) -> None:
    """What the workstation has: a good card's answers, now and from before, and a point of its own."""
    genuine = blank(tmp_path / "genuine.card")
    mine = blank(tmp_path / "mine.card", None)
    with open_card(f"sim:{tmp_path}/genuine.card") as card:
        again = card.begin_personalisation()
    assert genuine.origin
    assert again.origin
    assert genuine.origin[:97] == again.origin[:97]
    assert begin(choosy(server), again).credential.assurance == 1
    for lie in (
        {"card_point": mine.point},
        {"card_point": mine.point, "card_serial": mine.serial},
        {"card_point": mine.point, "card_origin": again.origin[:97] + genuine.origin[97:]},
        {"card_origin": genuine.origin},
    ):
        with pytest.raises(CardOriginWrong):
            begin(choosy(server), again, **lie)


def test_a_card_is_issued_once_and_blank(tmp_path: Path) -> None:
    address = f"sim:{tmp_path}/card"
    create_card(address)
    with open_card(address) as card:
        assert Feature.ORIGIN not in card.status().features
        with pytest.raises(CardRefused, match=r"not begun, or was interrupted \(ISSUE: 6985\)"):
            card.issue(bytes(64))
        issue(card)
        assert Feature.ORIGIN in card.status().features
        with pytest.raises(CardRefused, match=r"issued before \(BEGIN ISSUE: 6985\)"):
            card.begin_issue()


def test_an_enrolled_card_is_not_issued(server: Server, tmp_path: Path) -> None:
    address = f"sim:{tmp_path}/card"
    create_card(address)
    with open_card(address) as card:
        card.install(
            begin(server, card.begin_personalisation()).personalisation, CardPin(PIN, source="test"), None
        )
        with pytest.raises(CardNotBlank):
            card.begin_issue()


@pytest.mark.applet
def test_the_applet_proves_its_origin(server: Server) -> None:
    java = JavaCard()
    try:
        card = CardSession(java)
        card.select()
        with pytest.raises(CardOriginMissing):
            begin(choosy(server), card.begin_personalisation())
        issue(card)
        started = begin(choosy(server), card.begin_personalisation())
        assert started.credential.assurance == 1
        card.install(started.personalisation, CardPin(PIN, source="test"), None)
        assert card.status().credential_id == started.credential.credential_id
        card.verify_pin(CardPin(PIN, source="test"))
        card.factory_reset()
        assert Feature.ORIGIN in card.status().features
        assert begin(choosy(server), card.begin_personalisation()).credential.assurance == 1
    finally:
        java.close()


# --- the settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("require_card_origin = true", "enrolment.require_card_origin: expected card_issuers beside it"),
        ('card_issuers = ["none.pem"]', "enrolment.card_issuers: none.pem: cannot be read: No such file"),
        ('card_issuers = ["rsa.pem"]', "enrolment.card_issuers: rsa.pem: expected a key on P-256"),
        ('card_issuers = ["junk.pem"]', "junk.pem: expected a public key or a certificate, PEM"),
        ('card_issuers = ["key.pem"]', "key.pem: expected a public key or a certificate, PEM"),
        ('card_issuers = "issuer.pem"', "enrolment.card_issuers: expected array, got str"),
        ("card_issuer = []", "unknown key 'enrolment.card_issuer'"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, settings: str, words: str) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    contents = {"rsa.pem": pem(rsa_key), "junk.pem": b"junk", "key.pem": private_pem(ISSUER)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / SETTINGS_FILE
    path.write_text(f"[enrolment]\n{settings}\n")
    with pytest.raises(ConfigError) as caught:
        origin_policy(path)
    assert words in caught.value.message
    assert "PRIVATE" not in caught.value.message


def test_over_the_service_as_its_settings_say(home: Home, tmp_path: Path) -> None:
    (home.path / "issuer.pem").write_bytes(pem(ISSUER))
    token = add_client(home, "desk", (Role.REGISTRAR,))
    settings = '[enrolment]\ncard_issuers = ["issuer.pem"]\nrequire_card_origin = true\n'
    good = blank(tmp_path / "good.card")
    with (
        serving(home, part="workers", settings=settings) as service,
        service.worker(bearer=token) as worker,
    ):
        for error, card in (
            (CardOriginMissing, blank(tmp_path / "old.card", None)),
            (CardOriginWrong, blank(tmp_path / "other.card", STRANGER)),
            (CardOriginWrong, good._replace(point=blank(tmp_path / "mine.card", None).point)),
        ):
            with pytest.raises(error):
                begin(worker, card)
        started = begin(worker, good)
        assert started.credential.assurance == 1
        assert worker.credential_by_id(started.credential.credential_id).assurance == 1


# --- the command line --------------------------------------------------------------------------------------


@pytest.fixture
def desk(run: Cli, tmp_path: Path) -> Cli:
    """An issuer's files, and two blank cards of which one is issued."""
    (tmp_path / "issuer.key").write_bytes(private_pem(ISSUER))
    (tmp_path / "issuer.pem").write_bytes(pem(ISSUER))
    (tmp_path / "stranger.pem").write_bytes(pem(STRANGER))
    for name in ("issued", "plain"):
        run("card", "new", f"sim:{name}.card")
    issued = run("card", "issue", "sim:issued.card", "--issuer", "issuer.key", "--json").json
    assert issued["card"] == "sim:issued.card"
    assert len(bytes.fromhex(issued["origin_point"])) == 33
    return run


def test_issue_and_enrol(desk: Cli, home: Home, tmp_path: Path) -> None:
    assert "origin" in desk("card", "info", "sim:issued.card", "--json").json["features"]
    before = tree(home.path)
    enrol = ("enrol", "carol", "--no-puk")
    for card, issuer, code in (
        ("plain", "issuer.pem", "card.origin-missing"),
        ("issued", "stranger.pem", "card.origin-wrong"),
    ):
        ran = desk(*enrol, "--card", f"sim:{card}.card", "--require-card-origin", issuer, pin=PIN, status=4)
        assert ran.code == code
    assert changed(before, tree(home.path)) == set()
    authority = Authority("cards")
    (tmp_path / "authority.key").write_bytes(private_pem(authority.key))
    (tmp_path / "authority.pem").write_text(to_pem([authority.certificate]))
    desk("card", "issue", "sim:plain.card", "--issuer", "authority.key")
    both = ("--require-card-origin", "issuer.pem", "--require-card-origin", "authority.pem")
    desk(*enrol, "--card", "sim:plain.card", *both, pin=PIN)
    shown = desk("credential", "show", "carol")
    assert "1 (the card was checked to be of an issuer" in shown.out
    assert desk("credential", "show", "carol", "--json").json["assurance"] == 1
    assert "0 (the card's origin was not checked" in desk("credential", "show", "alice").out
    doctor = desk("doctor", "--card", "sim:plain.card", status=None)
    assert "carol, active, assurance 1 (the card was checked" in doctor.out


def test_the_homes_settings_count_for_whoever_enrols_here(desk: Cli, home: Home) -> None:
    (home.path / SETTINGS_FILE).write_text(
        '[enrolment]\ncard_issuers = ["../issuer.pem"]\nrequire_card_origin = true\n'
    )
    (home.path.parent / "issuer.pem").write_bytes(pem(ISSUER))
    ran = desk("enrol", "carol", "--card", "sim:plain.card", "--no-puk", pin=PIN, status=4)
    assert ran.code == "card.origin-missing"
    desk("enrol", "carol", "--card", "sim:issued.card", "--no-puk", pin=PIN)
    assert desk("credential", "show", "carol", "--json").json["assurance"] == 1
    # Whoever enrols at the server itself may say another issuer, and no other card is then taken.
    refused = desk(
        *("enrol", "dave", "--card", "sim:plain.card", "--no-puk", "--require-card-origin", "stranger.pem"),
        pin=PIN,
        status=4,
    )
    assert refused.code == "card.origin-missing"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: pem(ISSUER), "wrong.key: expected a private key, PEM"),
        (lambda: b"", "wrong.key: expected a private key, PEM"),
        (lambda: private_pem(rsa.generate_private_key(65537, 2048)), "wrong.key: expected a key on P-256"),
        (lambda: private_pem(ec.generate_private_key(ec.SECP384R1())), "expected a key on P-256"),
        (lambda: private_pem(ISSUER, BestAvailableEncryption(b"x")), "private key without a passphrase"),
    ],
)
def test_keys_of_no_issuer(desk: Cli, tmp_path: Path, content: Any, words: str) -> None:
    (tmp_path / "wrong.key").write_bytes(content())
    ran = desk("card", "issue", "sim:plain.card", "--issuer", "wrong.key", status=2)
    assert words in ran.error
    assert "origin" not in desk("card", "info", "sim:plain.card", "--json").json["features"]


def test_a_card_that_cannot_be_issued(desk: Cli) -> None:
    again = desk("card", "issue", "sim:issued.card", "--issuer", "issuer.key", status=4)
    assert "has been issued before" in again.error
    desk("enrol", "carol", "--card", "sim:plain.card", "--no-puk", pin=PIN)
    enrolled = desk("card", "issue", "sim:plain.card", "--issuer", "issuer.key", status=4)
    assert enrolled.code == "card.not-blank"
