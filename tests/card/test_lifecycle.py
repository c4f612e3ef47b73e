"""SELECT to FACTORY RESET: what each command answers where it is allowed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import keywrap

from card_applet_sim import SimulatedCard
from tests.support.card import contract, host
from tests.support.card.host import (
    BASIC,
    CBC,
    ECDSA_SHA256,
    OK,
    PIN,
    PROFILES,
    ROLLING,
    SESSION,
    XOR,
    Host,
    Profile,
    expected_keys,
    install_data,
    install_tlvs,
    open_answer,
    sha256,
    tlv,
)

from .conftest import MakeCard

ALL = pytest.mark.parametrize("name", list(PROFILES))
WITH_PIN = pytest.mark.parametrize("name", [name for name in PROFILES if name != "basic"])


def kind(profile: Profile) -> str:
    return "basic" if profile.scheme == BASIC else "other"


def test_select_blank(make_card: MakeCard) -> None:
    blank = make_card(None)
    data, word = blank.select()
    assert word == OK
    outer = host.parse(data)
    assert list(outer) == [0x6F]
    inner = host.parse(outer[0x6F])
    assert list(inner) == [0x84, 0xA5]
    assert inner[0x84] == contract.aid()
    status = host.parse(inner[0xA5])
    assert status == blank.status()
    assert list(status) == [tag for tag, row in contract.status_tags().items() if row.blank == "yes"]
    assert status[0x80] == b"\x00\x01"
    assert status[0x81] == b"\x01"
    assert status[0x88] == b"\x00\x0f"
    row = contract.commands()["SELECT"]
    assert len(data) == row.answer_min


@ALL
def test_status_active(name: str, make_card: MakeCard) -> None:
    profile = PROFILES[name]
    active = make_card(profile)
    status = active.status()
    rows = contract.status_tags()
    expected = [
        tag
        for tag, row in rows.items()
        if getattr(row, kind(profile)) in (("yes", "with PUK") if profile.puk else ("yes",))
    ]
    assert list(status) == expected == sorted(expected)
    for tag, value in status.items():
        assert rows[tag].length_min <= len(value) <= rows[tag].length_max
    assert status[0x81] == b"\x03"
    assert status[0x82] == bytes([profile.scheme])
    assert status[0x83] == bytes([profile.combine])
    assert status[0x84] == profile.credential_id
    if profile.scheme != BASIC:
        assert status[0x85] == bytes([profile.pin_tries])
        assert status[0x89] == bytes([profile.policy])
        assert status[0x8A] == bytes([profile.check])
    if profile.puk:
        assert status[0x86] == bytes([profile.puk_tries])


def test_longest_answers_are_the_tables(make_card: MakeCard) -> None:
    active = make_card(Profile())
    rows = contract.commands()
    assert len(active.select()[0]) == rows["SELECT"].answer_max
    assert len(active.send("GET STATUS")[0]) == rows["GET STATUS"].answer_max
    assert active.chained("HASH MESSAGE", b"m") == OK
    assert active.verify(Profile().pin) == OK
    answer, word = active.authorise(ECDSA_SHA256, [bytes([i]) * 32 for i in range(6)])
    assert (len(answer), word) == (rows["AUTHORISE"].answer_max, OK)


def test_begin_answer(make_card: MakeCard) -> None:
    blank = make_card(None)
    data, word = blank.send("BEGIN PERSONALISATION")
    assert word == OK
    assert len(data) == contract.commands()["BEGIN PERSONALISATION"].answer_min
    tlvs = host.parse(data)
    assert list(tlvs) == [0x90, 0x87]
    assert tlvs[0x87] == blank.status()[0x87]
    assert tlvs[0x90] != blank.begin(), "a point used twice"


@ALL
@pytest.mark.parametrize("message", [b"", b"m", b"0" * 255, b"1" * 256, b"2" * 1000], ids=len)
def test_message_authorisation(name: str, message: bytes, make_card: MakeCard) -> None:
    profile = PROFILES[name]
    active = make_card(profile)
    assert active.sign(profile, message) == expected_keys(profile)


@ALL
@pytest.mark.parametrize(("algorithm", "length"), contract.algorithm_digest_lengths().items())
def test_digest_authorisation(name: str, algorithm: int, length: int, make_card: MakeCard) -> None:
    profile = PROFILES[name]
    active = make_card(profile)
    digests = [bytes([i]) * (length or 32) for i in range(20)]
    assert active.chained("LOAD DIGESTS", host.digest_list(digests), 100) == OK
    if profile.scheme != BASIC:
        assert active.verify(profile.pin) == OK
    values = host.default_values(profile)
    answer, word = active.authorise(algorithm, values)
    if not length:
        assert word == 0x6A80
        return
    assert word == OK
    keys = open_answer(profile, answer, algorithm, 2, host.h_of_digests(digests), values)
    assert keys == expected_keys(profile)


@pytest.mark.parametrize("algorithm", contract.algorithm_digest_lengths())
def test_message_authorisation_by_algorithm(algorithm: int, make_card: MakeCard) -> None:
    active = make_card(Profile())
    values = host.default_values(Profile())
    assert active.chained("HASH MESSAGE", b"m") == OK
    assert active.verify(Profile().pin) == OK
    answer, word = active.authorise(algorithm, values)
    assert word == OK
    assert open_answer(Profile(), answer, algorithm, 1, sha256(b"m"), values) == expected_keys(Profile())
    with pytest.raises(keywrap.InvalidUnwrap):
        open_answer(Profile(), answer, algorithm ^ 0x0100, 1, sha256(b"m"), values)


@pytest.mark.parametrize("method", [XOR, CBC])
@pytest.mark.parametrize("n", range(1, 7))
def test_rolling_counts(n: int, method: int, make_card: MakeCard) -> None:
    profile = Profile(combine=method)
    values = [sha256(bytes([i])) for i in range(n)]
    assert make_card(profile).sign(profile, b"m", values) == expected_keys(profile, values)


def test_every_authorisation_has_its_own_nonce(make_card: MakeCard) -> None:
    profile = PROFILES["pin-cbc-server"]
    active = make_card(profile)
    assert active.verify(profile.pin) == OK
    nonces = set()
    for _ in range(5):
        assert active.chained("HASH MESSAGE", b"m") == OK
        answer, word = active.authorise(ECDSA_SHA256)
        assert word == OK
        nonces.add(answer[:16])
    assert len(nonces) == 5


def test_policy_always_takes_one_pin_for_one_authorisation(make_card: MakeCard) -> None:
    active = make_card(Profile())
    active.sign(Profile())
    assert active.authorise(ECDSA_SHA256, [bytes(32)]) == (b"", 0x6985)
    assert active.chained("HASH MESSAGE", b"m") == OK
    assert active.authorise(ECDSA_SHA256, [bytes(32)]) == (b"", 0x6982)
    assert active.verify(b"") == 0x63C3


def test_policy_session_lasts(make_card: MakeCard) -> None:
    profile = Profile(policy=SESSION)
    active = make_card(profile)
    active.sign(profile)
    assert active.verify(b"") == OK
    assert active.authorise(ECDSA_SHA256, [bytes(32)]) == (b"", 0x6985), "the hash is consumed"
    assert active.chained("HASH MESSAGE", b"n") == OK
    assert active.authorise(ECDSA_SHA256, [bytes(32)])[1] == OK
    assert active.select()[1] == OK
    assert active.verify(b"") == 0x63C3


def test_transient_state_dies_at_reset_and_selection(make_card: MakeCard, card: SimulatedCard) -> None:
    active = make_card(Profile())
    for wipe in (card.reset, lambda: None):
        assert active.chained("HASH MESSAGE", b"m") == OK
        assert active.verify(Profile().pin) == OK
        assert active.send("HASH MESSAGE", b"x", more=True)[1] == OK
        wipe()
        assert active.select()[1] == OK
        assert active.verify(b"") == 0x63C3
        assert active.authorise(ECDSA_SHA256, [bytes(32)])[1] == 0x6985
        # The chain is gone too: this block is a whole message.
        assert active.sign(Profile(), b"y") == expected_keys(Profile())


def test_personalisation_key_dies(make_card: MakeCard, card: SimulatedCard) -> None:
    blank = make_card(None)
    for wipe in (card.reset, lambda: None):
        data = install_data(Profile(), blank.begin())
        wipe()
        blank.select()
        assert blank.send("INSTALL", data)[1] == 0x6985
    first, second = blank.begin(), blank.begin()
    assert blank.send("INSTALL", install_data(Profile(), first))[1] == 0x6A80, "BEGIN replaces the key"
    assert blank.send("INSTALL", install_data(Profile(), second))[1] == 0x6985, "INSTALL destroys it"
    assert blank.send("BEGIN PERSONALISATION")[1] == OK
    assert blank.send("FACTORY RESET")[1] == OK
    assert blank.send("INSTALL", install_data(Profile(), second))[1] == 0x6985


@pytest.mark.parametrize(
    "spoil",
    [
        bytes.fromhex("80620000"),
        bytes.fromhex("8062000003820103"),
        bytes.fromhex("80620001"),
        bytes.fromhex("90620000"),
        bytes.fromhex("80620000 0000EA") + bytes(234),
    ],
    ids=["6700", "6A80", "6A86", "6884", "6700-long"],
)
def test_any_install_destroys_the_key(spoil: bytes, make_card: MakeCard) -> None:
    blank = make_card(None)
    data = install_data(Profile(), blank.begin())
    assert blank.raw(spoil)[1] not in (OK, 0x6985)
    assert blank.send("INSTALL", data)[1] == 0x6985
    assert blank.status()[0x81] == b"\x01"


def test_other_commands_leave_the_key(make_card: MakeCard) -> None:
    blank = make_card(None)
    data = install_data(Profile(), blank.begin())
    blank.status()
    assert blank.raw(bytes.fromhex("00620000"))[1] == 0x6D00, "class 00 is no INSTALL"
    assert blank.verify(b"123456") == 0x6985
    assert blank.send("INSTALL", data)[1] == OK
    assert blank.send("INSTALL", data)[1] == 0x6985
    assert blank.send("BEGIN PERSONALISATION")[1] == 0x6985


@ALL
def test_install_takes_any_order_of_tlvs(name: str, make_card: MakeCard) -> None:
    profile = PROFILES[name]
    blank = make_card(None)
    tlvs = list(install_tlvs(profile, blank.begin()).items())
    assert blank.send("INSTALL", b"".join(tlv(*item) for item in reversed(tlvs)))[1] == OK
    assert blank.sign(profile) == expected_keys(profile)


def bad_installs() -> list[tuple[str, Profile, dict[int, bytes | None]]]:
    """What is wrong, for whom, and the TLVs to replace (None: leave out)."""
    cases: list[tuple[str, Profile, dict[int, bytes | None]]] = []
    for name, profile in (("basic", PROFILES["basic"]), ("rolling", Profile())):
        table = contract.install_tags()
        for tag, row in table.items():
            wanted = row.basic if name == "basic" else row.other
            label = f"{name}-{row.name}"
            if wanted == "no":
                cases.append((f"{label}-unexpected", profile, {tag: bytes(row.length_min)}))
                continue
            if wanted == "yes":
                cases.append((f"{label}-missing", profile, {tag: None}))
            for length in {0, row.length_min - 1, row.length_max + 1}:
                # A PIN or PUK of a wrong length still has good characters.
                cases.append((f"{label}-{length}", profile, {tag: b"7" * length}))
        cases.append((f"{name}-unknown-tag", profile, {0x96: b"\0"}))
    rolling = Profile()
    codes: dict[int, tuple[int, ...]] = {0x82: (0, 4, 255), 0x83: (0, 3), 0x89: (0, 3), 0x8A: (0, 3)}
    cases += [
        (f"rolling-{tag:02X}-{value}", rolling, {tag: bytes([value])})
        for tag, values in codes.items()
        for value in values
    ]
    cases += [(f"basic-combine-{v}", PROFILES["basic"], {0x83: bytes([v])}) for v in (1, 2, 3)]
    tries = ((0, 3), (3, 0), (16, 3), (3, 16))
    cases += [(f"tries-{a}-{b}", rolling, {0x95: bytes([a, b])}) for a, b in tries]
    cases += [(f"pin-{pin!r}", rolling, {0x93: pin}) for pin in (b"12345a", b"12345/", b"12345:")]
    cases += [(f"puk-{last!r}", rolling, {0x94: b"0123456789abcde" + last}) for last in (b" ", b"\x7f")]
    bent = bytearray(host.token_point())
    bent[40] ^= 1
    cases += [("off-curve", rolling, {0x90: bytes(bent)}), ("zero-point", rolling, {0x90: bytes(65)})]
    cases += [(f"spoilt-{tag:02X}", rolling, {tag: bytes(40)}) for tag in (0x91, 0x92)]
    return cases


@pytest.mark.parametrize(("profile", "changes"), [pytest.param(p, c, id=i) for i, p, c in bad_installs()])
def test_install_refuses(profile: Profile, changes: dict[int, bytes | None], make_card: MakeCard) -> None:
    blank = make_card(None)
    before = blank.status()
    tlvs: dict[int, bytes | None] = {**install_tlvs(profile, blank.begin()), **changes}
    data = b"".join(tlv(tag, value) for tag, value in tlvs.items() if value is not None)
    assert blank.send("INSTALL", data) == (b"", 0x6700 if len(data) > 233 else 0x6A80)
    assert blank.status() == before
    assert blank.install(profile) == OK


@pytest.mark.parametrize(
    "profile",
    [
        Profile(combine=0),
        Profile(combine=3),
        Profile(scheme=PIN, combine=0),
        Profile(policy=0),
        Profile(policy=3),
        Profile(check=0),
        Profile(check=3),
        Profile(scheme=4),
        Profile(scheme=0),
        Profile(pin_tries=0),
        Profile(pin_tries=16),
        Profile(puk_tries=0),
        Profile(puk_tries=16),
        Profile(puk=None, puk_tries=0),
        replace(PROFILES["basic"], combine=XOR),
        replace(PROFILES["basic"], combine=CBC),
    ],
    ids=lambda p: f"{p.scheme}-{p.combine}-{p.policy}-{p.check}-{p.pin_tries}-{p.puk_tries}",
)
def test_install_refuses_what_server_and_keys_agree_on(profile: Profile, make_card: MakeCard) -> None:
    """The wrapped keys open, but the page does not know such a card."""
    blank = make_card(None)
    assert blank.install(profile) == 0x6A80
    assert blank.status()[0x81] == b"\x01"


@pytest.mark.parametrize("tail", [b"\x95", b"\x95\x01", b"\x84\x80", b"\x95\x02\x03\x03", b"\x00"])
def test_install_refuses_what_follows(tail: bytes, make_card: MakeCard) -> None:
    profile = Profile(puk=None)
    blank = make_card(None)
    assert blank.send("INSTALL", install_data(profile, blank.begin()) + tail)[1] == 0x6A80


@pytest.mark.parametrize(
    "change",
    [
        {"credential_id": bytes(16)},
        {"scheme": PIN},
        {"combine": XOR},
        {"policy": SESSION},
        {"check": 2},
        {"pin_tries": 4},
        {"puk_tries": 4},
    ],
    ids=lambda change: next(iter(change)),
)
def test_install_confirms_every_parameter(change: dict[str, int], make_card: MakeCard) -> None:
    """A parameter altered on its way to the card: the wrapped keys do not open."""
    blank = make_card(None)
    honest = install_tlvs(Profile(), blank.begin())
    altered = replace(Profile(), **change)  # type: ignore[arg-type]
    tlvs = {
        **honest,
        0x84: altered.credential_id,
        0x82: bytes([altered.scheme]),
        0x83: bytes([altered.combine]),
        0x89: bytes([altered.policy]),
        0x8A: bytes([altered.check]),
        0x95: bytes([altered.pin_tries, altered.puk_tries]),
    }
    assert blank.send("INSTALL", b"".join(tlv(*item) for item in tlvs.items()))[1] == 0x6A80


def test_install_does_not_take_kcar_for_kek(make_card: MakeCard) -> None:
    blank = make_card(None)
    tlvs = install_tlvs(Profile(), blank.begin())
    tlvs[0x91], tlvs[0x92] = tlvs[0x92], tlvs[0x91]
    assert blank.send("INSTALL", b"".join(tlv(*item) for item in tlvs.items()))[1] == 0x6A80


# FACTORY RESET


def assert_blank(reset: Host, serial: bytes) -> None:
    status = reset.status()
    assert status[0x81] == b"\x01"
    assert status[0x87] == serial
    assert list(status) == [0x80, 0x81, 0x87, 0x88]
    assert reset.install(Profile(scheme=ROLLING)) == OK
    assert reset.sign(Profile()) == expected_keys(Profile())


@pytest.mark.parametrize("profile", [None, PROFILES["basic"]], ids=["blank", "basic"])
def test_factory_reset_without_pin(profile: Profile | None, make_card: MakeCard) -> None:
    card = make_card(profile)
    serial = card.status()[0x87]
    assert card.send("FACTORY RESET") == (b"", OK)
    assert_blank(card, serial)


@WITH_PIN
def test_factory_reset_with_the_pin(name: str, make_card: MakeCard) -> None:
    profile = PROFILES[name]
    card = make_card(profile)
    serial = card.status()[0x87]
    assert card.send("FACTORY RESET") == (b"", 0x6982)
    assert card.sign(profile) == expected_keys(profile)
    assert card.chained("HASH MESSAGE", b"m") == OK
    assert card.verify(profile.pin) == OK
    assert card.send("FACTORY RESET") == (b"", OK)
    assert_blank(card, serial)


def test_factory_reset_when_all_is_blocked(make_card: MakeCard) -> None:
    profile = Profile(pin_tries=1, puk_tries=1)
    card = make_card(profile)
    serial = card.status()[0x87]
    assert card.verify(b"000000") == 0x6983
    assert card.send("FACTORY RESET") == (b"", 0x6982), "the PUK still lives"
    assert card.unblock(b"!" * 16, b"123456") == 0x6983
    assert card.send("FACTORY RESET") == (b"", OK)
    assert_blank(card, serial)


def test_factory_reset_blocked_puk_alone_is_not_enough(make_card: MakeCard) -> None:
    card = make_card(Profile(puk_tries=1))
    assert card.unblock(b"!" * 16, b"123456") == 0x6983
    assert card.send("FACTORY RESET") == (b"", 0x6982)


def test_factory_reset_without_puk(make_card: MakeCard) -> None:
    card = make_card(Profile(pin_tries=1, puk=None))
    serial = card.status()[0x87]
    assert card.send("FACTORY RESET") == (b"", 0x6982)
    assert card.verify(b"000000") == 0x6983
    assert card.send("FACTORY RESET") == (b"", OK)
    assert_blank(card, serial)
