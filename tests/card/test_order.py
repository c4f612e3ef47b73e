"""Order of checks (docs/understand/apdu.md): of two things wrong, the first one's word is answered."""

from __future__ import annotations

import pytest

from card_applet_sim import SimulatedCard
from tests.support.card import contract
from tests.support.card.host import ECDSA_SHA256, OK, PROFILES, Host, Profile

from .conftest import MakeCard

ROWS = contract.commands()
EVERY = pytest.mark.parametrize("command", list(ROWS))
STATES = ("blank", "active", "blocked", "basic")
RNS = bytes(32) + b"\1" * 32


def in_state(state: str, make_card: MakeCard) -> Host:
    """A selected card in the state; PIN "blocked" by one wrong try of one."""
    if state == "blank":
        return make_card(None)
    if state == "basic":
        return make_card(PROFILES["basic"])
    card = make_card(Profile(pin_tries=1, puk_tries=2))
    if state == "blocked":
        assert card.verify(b"000000") == 0x6983
    return card


def good_data(command: str) -> bytes:
    """Data that pass length and content where the command is allowed at all."""
    return {
        "SELECT": contract.aid(),
        "VERIFY": Profile().pin,
        "CHANGE REFERENCE DATA": bytes([6]) + Profile().pin + b"123456",
        "RESET RETRY COUNTER": bytes([16]) + (Profile().puk or b"") + b"123456",
        "INSTALL": b"\0",
        "HASH MESSAGE": b"m",
        "LOAD DIGESTS": bytes.fromhex("000120") + bytes(32),
        "AUTHORISE": ECDSA_SHA256.to_bytes(2, "big") + b"\x02" + RNS,
    }.get(command, b"")


def short(header: bytes, data: bytes) -> bytes:
    return header + (bytes([len(data)]) + data if data else b"")


@EVERY
@pytest.mark.parametrize("state", STATES)
def test_class_instruction_chaining_parameters(command: str, state: str, make_card: MakeCard) -> None:
    card = in_state(state, make_card)
    row = ROWS[command]
    before = card.status()
    data = good_data(command)
    for cla in {*range(256)} - {0x00, 0x10, 0x80, 0x90}:
        assert card.raw(short(bytes([cla, row.ins, row.p1 ^ 1, row.p2]), data)) == (b"", 0x6E00)
    # The other class: the instruction is unknown there, chained or not, whatever else is wrong.
    for cla in (row.cla ^ 0x80, row.cla ^ 0x90):
        assert card.raw(short(bytes([cla, row.ins, row.p1 ^ 1, row.p2]), data)) == (b"", 0x6D00)
    if not row.chained:
        chained = bytes([row.cla | 0x10, row.ins])
        assert card.raw(short(chained + bytes([row.p1 ^ 1, row.p2]), data)) == (b"", 0x6884)
        assert card.raw(short(chained + bytes([row.p1, row.p2]), data)) == (b"", 0x6884)
    for p1, p2 in ((row.p1 ^ 1, row.p2), (row.p1, row.p2 ^ 1), (row.p1 ^ 0x80, row.p2), (0xFF, 0xFF)):
        for wrong in (data, bytes(255)):
            assert card.raw(short(bytes([row.cla, row.ins, p1, p2]), wrong)) == (b"", 0x6A86)
    assert card.status() == before


def test_unknown_instructions(make_card: MakeCard) -> None:
    card = make_card(Profile())
    known = {(row.cla, row.ins) for row in ROWS.values()}
    for cla in (0x00, 0x80, 0x10, 0x90):
        for ins in range(256):
            if (cla & 0xEF, ins) not in known:
                assert card.raw(bytes([cla, ins, 0, 0])) == (b"", 0x6D00)


@EVERY
@pytest.mark.parametrize("state", STATES)
def test_state_before_length_and_content(command: str, state: str, make_card: MakeCard) -> None:
    card = in_state(state, make_card)
    row = ROWS[command]
    code = {"blank": 1, "active": 3, "blocked": 4, "basic": 3}[state]
    for data in (good_data(command), b"\xff" * 255, b""):
        word = card.raw(short(row.header, data))[1]
        if code not in row.states or command in ("INSTALL", "ISSUE"):
            # There was no BEGIN PERSONALISATION, no BEGIN ISSUE.
            assert word == 0x6985
        elif state == "basic" and command in ("VERIFY", "CHANGE REFERENCE DATA", "RESET RETRY COUNTER"):
            assert word == 0x6A88
        elif not row.nc_min <= len(data) <= row.nc_max:
            assert word == 0x6700
        else:
            assert word not in (0x6E00, 0x6D00, 0x6884, 0x6A86)
            # These two have a rule of their own on top of the table's.
            assert word != 0x6700 or command in ("LOAD DIGESTS", "AUTHORISE")
        if command == "FACTORY RESET" and word == OK:
            return


@EVERY
def test_length(command: str, make_card: MakeCard) -> None:
    blank = command in ("BEGIN PERSONALISATION", "INSTALL", "BEGIN ISSUE", "ISSUE")
    card = make_card(None if blank else Profile())
    row = ROWS[command]
    for length in {row.nc_min - 1, row.nc_max + 1} - {-1}:
        if command == "INSTALL":
            card.begin()
        if command == "ISSUE":
            card.send("BEGIN ISSUE")
        assert card.send(command, bytes(length)) == (b"", 0x6700)


def test_authorise_length_is_what_n_says(make_card: MakeCard) -> None:
    card = make_card(Profile())
    for n in (0, 1, 2, 6, 7, 255):
        for length in {3, 34, 35, 36, 67, 195, 227, 255} - {3 + 32 * n}:
            data = b"\xff\xff" + bytes([n]) + bytes(length - 3)
            assert card.send("AUTHORISE", data) == (b"", 0x6700), (n, length)


def test_authorise_in_order(make_card: MakeCard) -> None:
    card = make_card(Profile())
    rns = [bytes(32), b"\1" * 32]
    # Content before hash, hash before PIN.
    assert card.authorise(0x0104, rns) == (b"", 0x6A80)
    assert card.authorise(ECDSA_SHA256, rns) == (b"", 0x6985)
    assert card.verify(Profile().pin) == OK
    assert card.authorise(ECDSA_SHA256, rns) == (b"", 0x6985)
    assert card.chained("HASH MESSAGE", b"m") == OK
    assert card.authorise(0x0104, rns) == (b"", 0x6A80)
    assert card.authorise(ECDSA_SHA256, rns) == (b"", 0x6982), "the hash dropped the verification"
    assert card.verify(Profile().pin) == OK
    assert card.authorise(0x0104, rns) == (b"", 0x6A80)
    assert card.authorise(ECDSA_SHA256, rns)[1] == OK, "errors consumed nothing"


def content_errors() -> list[tuple[str, int, list[bytes]]]:
    rn = [bytes([i]) * 32 for i in range(8)]
    cases: list[tuple[str, int, list[bytes]]] = [
        ("rolling-cbc-card", ECDSA_SHA256, []),
        ("rolling-cbc-card", ECDSA_SHA256, rn[:7]),
        ("rolling-cbc-card", ECDSA_SHA256, [rn[0], rn[0]]),
        ("rolling-cbc-card", ECDSA_SHA256, [rn[0], rn[1], rn[2], rn[0]]),
        ("pin-cbc-server", ECDSA_SHA256, rn[:1]),
        ("basic", ECDSA_SHA256, rn[:1]),
    ]
    known = set(contract.algorithm_digest_lengths())
    near = {code + step for code in known for step in (-1, 1, -0x100, 0x100, 0x8000)}
    return cases + [("rolling-cbc-card", code, rn[:2]) for code in sorted((near | {0, 0xFFFF}) - known)]


@pytest.mark.parametrize(("name", "algorithm", "values"), content_errors())
def test_authorise_content(name: str, algorithm: int, values: list[bytes], make_card: MakeCard) -> None:
    card = make_card(PROFILES[name])
    assert card.chained("HASH MESSAGE", b"m") == OK
    assert card.authorise(algorithm, values) == (b"", 0x6A80)


@pytest.mark.parametrize(("algorithm", "length"), contract.algorithm_digest_lengths().items())
@pytest.mark.parametrize("loaded", [32, 48, 64])
def test_authorise_digest_length(algorithm: int, length: int, loaded: int, make_card: MakeCard) -> None:
    card = make_card(PROFILES["basic"])
    assert card.chained("LOAD DIGESTS", b"\0\1" + bytes([loaded]) + bytes(loaded)) == OK
    assert card.authorise(algorithm)[1] == (OK if loaded == length else 0x6A80)


def pin_errors() -> list[tuple[str, bytes]]:
    arabic = "12345\N{ARABIC-INDIC DIGIT THREE}".encode()
    bad_pins = [b"12345", b"1" * 13, b"12345a", b"12345\0", b"12345/", b"12345:", arabic, b"1" * 255]
    bad_puks = [b"!" * 15, b"!" * 33, b"!" * 15 + b" ", b"!" * 15 + b"\x7f", b"", b"!" * 15 + b"\xe9"]
    puk = Profile().puk or b""
    cases = [("VERIFY", pin) for pin in bad_pins]
    for pin in (*bad_pins[:-1], b""):
        cases.append(("CHANGE REFERENCE DATA", bytes([len(pin)]) + pin + b"123456"))
        cases.append(("CHANGE REFERENCE DATA", bytes([6]) + b"000000" + pin))
        cases.append(("RESET RETRY COUNTER", bytes([len(puk)]) + puk + pin))
    cases += [("RESET RETRY COUNTER", bytes([len(bad)]) + bad + b"123456") for bad in bad_puks]
    cases += [("CHANGE REFERENCE DATA", b"\x07000000"), ("CHANGE REFERENCE DATA", b"\xff" + b"1" * 20)]
    return [*cases, ("RESET RETRY COUNTER", b"\x40" + b"1" * 40)]


@pytest.mark.parametrize("state", ["active", "verified", "blocked"])
@pytest.mark.parametrize(("command", "data"), pin_errors())
def test_malformed_pins_use_no_try(state: str, command: str, data: bytes, make_card: MakeCard) -> None:
    card = in_state("blocked" if state == "blocked" else "active", make_card)
    if state == "verified":
        assert card.verify(Profile().pin) == OK
    before = card.status()
    assert card.send(command, data) == (b"", 0x6A80)
    assert card.status() == before
    expected = {"active": 0x63C1, "verified": OK, "blocked": 0x6983}[state]
    assert card.verify(b"") == expected, "the verification is as it was"


@pytest.mark.parametrize("command", ["VERIFY", "CHANGE REFERENCE DATA"])
def test_blocked_before_wrong(command: str, make_card: MakeCard) -> None:
    card = in_state("blocked", make_card)
    assert card.send(command, good_data(command)) == (b"", 0x6983), "even the right PIN"
    assert card.status()[0x85] == b"\0"


def test_no_reference_data_without_puk(make_card: MakeCard) -> None:
    card = make_card(Profile(puk=None))
    for data in (b"", b"\xff" * 30, good_data("RESET RETRY COUNTER")):
        assert card.send("RESET RETRY COUNTER", data) == (b"", 0x6A88)


# Before SELECT, and SELECT of something else


@EVERY
def test_nothing_is_selected_after_reset(command: str, make_card: MakeCard, card: SimulatedCard) -> None:
    host = make_card(Profile())
    card.reset()
    if command == "SELECT":
        assert host.send(command, contract.aid()[:-1]) == (b"", 0x6A82)
        assert host.send("GET STATUS") == (b"", 0x6D00)
        assert host.select()[1] == OK
    else:
        assert host.send(command, good_data(command)) == (b"", 0x6D00)
        assert host.raw(bytes([0x84, ROWS[command].ins, 0, 0])) == (b"", 0x6E00)


@pytest.mark.parametrize("other", [b"", contract.aid()[:-1], contract.aid() + b"\1", bytes(9), b"\1" * 255])
def test_select_of_something_else_changes_nothing(other: bytes, make_card: MakeCard) -> None:
    card = make_card(Profile())
    assert card.chained("HASH MESSAGE", b"m") == OK
    assert card.verify(Profile().pin) == OK
    assert card.send("SELECT", other) == (b"", 0x6A82)
    assert card.verify(b"") == OK
    assert card.authorise(ECDSA_SHA256, [bytes(32)])[1] == OK


def test_refused_first_block_leaves_hash_and_verification(make_card: MakeCard) -> None:
    card = make_card(Profile())
    for command, data, more in (
        ("LOAD DIGESTS", b"\0\1", False),
        ("LOAD DIGESTS", b"\0\1", True),
        ("LOAD DIGESTS", b"\0\0\x20", True),
        ("LOAD DIGESTS", b"\0\1\x21" + bytes(33), False),
        ("LOAD DIGESTS", b"\0\1\x20" + bytes(31), False),
        ("LOAD DIGESTS", b"\0\1\x20" + bytes(33), True),
    ):
        assert card.chained("HASH MESSAGE", b"m") == OK
        assert card.verify(Profile().pin) == OK
        assert card.send(command, data, more=more)[1] in (0x6700, 0x6A80)
        assert card.verify(b"") == OK
        assert card.authorise(ECDSA_SHA256, [bytes(32)])[1] == OK
