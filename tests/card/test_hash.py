"""HASH MESSAGE and LOAD DIGESTS: blocks, chains and what breaks them; length bytes and GET RESPONSE."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from card_applet_sim import SimulatedCard
from card_applet_sim.reader import AnswerBuffer, Apdu, MalformedApdu, parse
from tests.support.card import contract, host
from tests.support.card.host import BASIC_PROFILE, ECDSA_SHA256, OK, Host, Profile, open_answer, sha256

from .conftest import MakeCard

DIGESTS = [bytes([i]) * 32 for i in range(1, 11)]


def authorised(card: Host, mode: int, h: bytes) -> bool:
    """A card of scheme basic has exactly this hash loaded."""
    answer, word = card.authorise(ECDSA_SHA256)
    assert word == OK
    return open_answer(BASIC_PROFILE, answer, ECDSA_SHA256, mode, h, ()) == [BASIC_PROFILE.kek]


@pytest.mark.parametrize("block", [1, 2, 63, 64, 65, 255])
def test_any_blocks_give_the_same_hash(block: int, make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    message = bytes(i % 251 for i in range(700))
    assert card.chained("HASH MESSAGE", message, block) == OK
    assert authorised(card, 1, sha256(message))
    # The first block of a list holds its header.
    data = host.digest_list(DIGESTS)
    assert card.chained("LOAD DIGESTS", data, max(block, 3)) == OK
    assert authorised(card, 2, host.h_of_digests(DIGESTS))


def test_empty_blocks_count(make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    for part in (b"", b"ab", b"", b"c"):
        assert card.send("HASH MESSAGE", part, more=True) == (b"", OK)
    assert card.send("HASH MESSAGE", b"") == (b"", OK)
    assert authorised(card, 1, sha256(b"abc"))
    data = host.digest_list(DIGESTS)
    for part in (data[:3], b"", data[3:], b""):
        assert card.send("LOAD DIGESTS", part, more=True) == (b"", OK)
    assert card.send("LOAD DIGESTS", b"") == (b"", OK)
    assert authorised(card, 2, host.h_of_digests(DIGESTS))


def test_extended_blocks(make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    message = bytes(40000)
    assert card.chained("HASH MESSAGE", message, 32767) == OK
    assert authorised(card, 1, sha256(message))
    header = contract.commands()["HASH MESSAGE"].header
    assert card.raw(header + b"\x00\x80\x00" + bytes(32768)) == (b"", 0x6700)


@pytest.mark.parametrize("length", [32, 48, 64])
def test_most_digests(length: int, make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    head = b"\xff\xff" + bytes([length])
    total = 65535 * length
    sent = 0
    assert card.send("LOAD DIGESTS", head, more=True)[1] == OK
    block = bytes(32767)
    tracemalloc.start()
    while total - sent > len(block):
        card.send("LOAD DIGESTS", block, more=True)
        sent += len(block)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert card.send("LOAD DIGESTS", bytes(total - sent))[1] == OK
    assert peak < 5 * len(block), "the card keeps the list"
    answer, word = card.authorise(0x0200 | (1, 2, 3)[length // 16 - 2])
    assert word == OK
    h = sha256(b"hsm-signer/1/digests", head, bytes(total))
    algorithm = 0x0200 | (1, 2, 3)[length // 16 - 2]
    assert open_answer(BASIC_PROFILE, answer, algorithm, 2, h, ()) == [BASIC_PROFILE.kek]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", 0x6700),
        (b"\0", 0x6700),
        (b"\0\1", 0x6700),
        (b"\0\0\x20", 0x6A80),
        *((b"\0\1" + bytes([n]) + bytes(n), 0x6A80) for n in (0, 20, 28, 31, 33, 47, 49, 63, 65, 128)),
        (b"\0\1\x20" + bytes(31), 0x6A80),
        (b"\0\1\x20" + bytes(33), 0x6A80),
        (b"\0\1\x20", 0x6A80),
        (b"\0\2\x20" + bytes(32), 0x6A80),
    ],
)
def test_bad_lists(data: bytes, word: int, make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    assert card.send("LOAD DIGESTS", data) == (b"", word)
    assert card.authorise(ECDSA_SHA256) == (b"", 0x6985)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("excess", [1, 32, 200])
def test_too_many_bytes_in_a_later_block(more: bool, excess: int, make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    data = host.digest_list([bytes(32)])
    assert card.send("LOAD DIGESTS", data, more=True)[1] == OK
    assert card.send("LOAD DIGESTS", bytes(excess), more=more) == (b"", 0x6A80)
    # The chain is gone: the next block begins a list.
    assert card.send("LOAD DIGESTS", data)[1] == OK
    assert authorised(card, 2, host.h_of_digests([bytes(32)]))


def test_too_few_bytes_at_the_last_block(make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    assert card.send("LOAD DIGESTS", b"\0\2\x20" + bytes(32), more=True)[1] == OK
    assert card.send("LOAD DIGESTS", bytes(31)) == (b"", 0x6A80)
    assert card.send("LOAD DIGESTS", bytes(1)) == (b"", 0x6700), "the chain is gone"
    assert card.authorise(ECDSA_SHA256) == (b"", 0x6985)


INTRUDERS = {
    "get-status": ("80CA0000", OK),
    "unknown-class": ("84CA0000", 0x6E00),
    "unknown-instruction": ("00F10000", 0x6D00),
    "get-response": ("00C0000000", 0x6D00),
    "select-other": ("00A4040003A0A1A2", 0x6A82),
    "authorise": ("8064000003020100", 0x6985),
    "verify": ("0020008106313233343536", 0x6A88),
    "same-other-p2": ("002A908101AA", 0x6A86),
    "same-other-class": ("802A908001AA", 0x6D00),
    "refused-list": ("8066000001AA", 0x6700),
    "chained-status": ("90CA0000", 0x6884),
}


@pytest.mark.parametrize("name", list(INTRUDERS))
def test_every_other_apdu_breaks_the_chain_and_runs(name: str, make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    apdu, word = INTRUDERS[name]
    assert card.send("HASH MESSAGE", b"first", more=True)[1] == OK
    assert card.raw(bytes.fromhex(apdu))[1] == word
    assert card.send("HASH MESSAGE", b"last")[1] == OK
    assert authorised(card, 1, sha256(b"last"))


def test_the_two_hash_commands_break_each_other(make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    data = host.digest_list(DIGESTS[:1])
    assert card.send("HASH MESSAGE", b"first", more=True)[1] == OK
    assert card.send("LOAD DIGESTS", data[:10], more=True)[1] == OK
    assert card.send("HASH MESSAGE", b"last")[1] == OK
    assert authorised(card, 1, sha256(b"last"))
    assert card.send("LOAD DIGESTS", data[:10], more=True)[1] == OK
    assert card.send("HASH MESSAGE", b"first", more=True)[1] == OK
    assert card.send("LOAD DIGESTS", data[10:])[1] == 0x6A80, "read as a header, which it is not"
    assert card.send("LOAD DIGESTS", data)[1] == OK
    assert authorised(card, 2, host.h_of_digests(DIGESTS[:1]))


def test_a_broken_chain_leaves_nothing_loaded(make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    assert card.chained("HASH MESSAGE", b"old") == OK
    assert card.send("HASH MESSAGE", b"new", more=True)[1] == OK
    card.status()
    assert card.authorise(ECDSA_SHA256) == (b"", 0x6985)


def test_what_is_no_apdu_changes_nothing(make_card: MakeCard) -> None:
    card = make_card(BASIC_PROFILE)
    assert card.send("HASH MESSAGE", b"first ", more=True)[1] == OK
    for raw in ("", "00", "002A90", "002A908002AA", "002A90800000", "002A908000000000"):
        assert card.raw(bytes.fromhex(raw)) == (b"", 0x6700)
    assert card.send("HASH MESSAGE", b"last")[1] == OK
    assert authorised(card, 1, sha256(b"first last"))


def test_session_policy_keeps_the_verification_over_a_hash(make_card: MakeCard) -> None:
    profile = Profile(policy=host.SESSION)
    card = make_card(profile)
    assert card.verify(profile.pin) == OK
    assert card.chained("HASH MESSAGE", b"m") == OK
    assert card.verify(b"") == OK


def test_hashing_writes_nothing(make_card: MakeCard, card_path: Path) -> None:
    card = make_card(Profile())
    before = card_path.stat()
    for _ in range(50):
        assert card.send("HASH MESSAGE", bytes(255), more=True)[1] == OK
    assert card.send("HASH MESSAGE")[1] == OK
    assert card.chained("LOAD DIGESTS", host.digest_list(DIGESTS)) == OK
    after = card_path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


# ISO 7816-4 lengths

HEADER = bytes.fromhex("80CA1234")


@pytest.mark.parametrize(
    ("body", "data", "ne"),
    [
        ("", "", None),
        ("01", "", 1),
        ("00", "", 256),
        ("01AA", "AA", None),
        ("02AABB", "AABB", None),
        ("01AA05", "AA", 5),
        ("01AA00", "AA", 256),
        ("000001", "", 1),
        ("000100", "", 256),
        ("000000", "", 65536),
        ("000001AA", "AA", None),
        ("000001AA0005", "AA", 5),
        ("000001AA0000", "AA", 65536),
    ],
)
def test_parse_cases(body: str, data: str, ne: int | None) -> None:
    assert parse(HEADER + bytes.fromhex(body)) == Apdu(0x80, 0xCA, 0x12, 0x34, bytes.fromhex(data), ne)


@pytest.mark.parametrize("fill", [b"", b"\x00"])
def test_parse_longest(fill: bytes) -> None:
    data = bytes(255)
    assert parse(HEADER + b"\xff" + data + fill).data == data
    data = bytes(32767)
    assert parse(HEADER + b"\x00\x7f\xff" + data + fill * 2).data == data


BAD_BODIES = (
    *("02AA", "01AABBCC", "0000", "000000AA", "000002AA", "000001AABB", "000001AABBCCDD", "0000000001"),
    "008000" + "00" * 32768,
)


@pytest.mark.parametrize("raw", ["", "80", "80CA", "80CA12", *("80CA1234" + body for body in BAD_BODIES)])
def test_parse_refuses(raw: str) -> None:
    with pytest.raises(MalformedApdu):
        parse(bytes.fromhex(raw))


@pytest.mark.parametrize("body", ["000001", "000001AA", "000001AA0000", "000000"])
def test_card_without_extended_length(body: str, card_path: Path) -> None:
    with pytest.raises(MalformedApdu):
        parse(HEADER + bytes.fromhex(body), extended=False)
    with SimulatedCard(card_path, extended_length=False) as card:
        short = Host(card)
        assert short.select()[1] == OK
        assert short.status()[0x88] == b"\x00\x0e"
        assert short.raw(bytes.fromhex("80CA0000" + body)) == (b"", 0x6700)


def test_parse_keeps_data_out_of_the_repr() -> None:
    assert "123456" not in repr(parse(bytes.fromhex("0020008106") + b"123456"))


def test_get_response(make_card: MakeCard, card: SimulatedCard) -> None:
    slot = make_card(BASIC_PROFILE)
    assert slot.chained("HASH MESSAGE", b"m") == OK
    authorise = contract.commands()["AUTHORISE"].header + bytes.fromhex("03020100")
    first, word = slot.raw(authorise + b"\x0a")
    assert (len(first), word) == (10, 0x6100 | 46)
    second, word = slot.raw(bytes.fromhex("00C0000014"))
    assert (len(second), word) == (20, 0x6100 | 26)
    third, word = slot.raw(bytes.fromhex("00C0000000"))
    assert (len(third), word) == (26, OK)
    answer = first + second + third
    keys = open_answer(BASIC_PROFILE, answer, ECDSA_SHA256, 1, sha256(b"m"), ())
    assert keys == [BASIC_PROFILE.kek]
    assert slot.raw(bytes.fromhex("00C0000000")) == (b"", 0x6D00), "nothing waits any more"
    # What waits dies with the next other APDU, and with the power.
    for intruder in ("80CA0000", "00C0000100", "84000000"):
        assert slot.raw(bytes.fromhex("80CA000001"))[1] & 0xFF00 == 0x6100
        slot.raw(bytes.fromhex(intruder))
        assert slot.raw(bytes.fromhex("00C0000000")) == (b"", 0x6D00)
    assert slot.raw(bytes.fromhex("80CA000001"))[1] & 0xFF00 == 0x6100
    card.reset()
    assert slot.raw(bytes.fromhex("00C0000000")) == (b"", 0x6D00)


def test_answer_of_256_bytes_fits_le_00(make_card: MakeCard) -> None:
    card = make_card(Profile())
    for le in ("", "00"):
        assert card.chained("HASH MESSAGE", b"m") == OK
        assert card.verify(Profile().pin) == OK
        data = bytes.fromhex("020106") + b"".join(bytes([i]) * 32 for i in range(6))
        header = contract.commands()["AUTHORISE"].header
        answer, word = card.raw(header + bytes([len(data)]) + data + bytes.fromhex(le))
        assert (len(answer), word) == (256, OK)


def test_answer_buffer_says_how_much_waits() -> None:
    buffer = AnswerBuffer()
    assert buffer.answer(bytes(256), 1)[-2:] == b"\x61\xff"
    assert buffer.get_response(None)[-2:] == b"\x90\x00"
    assert not buffer
