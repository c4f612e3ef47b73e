"""The driver's lowest layer: encoding, chaining, 61xx and 6Cxx, status words, TLVs.

The card is scripted here, for no honest card does most of this.
"""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_signer.card import apdu
from hsm_signer.card.apdu import CardState, Command, Fields, StatusTag, encode, exchange, exchange_chained
from hsm_signer.errors import (
    CardAnswerMalformed,
    CardError,
    CardMemoryDamaged,
    CardNotFound,
    CardPinBlocked,
    CardPinNotVerified,
    CardPinWrong,
    CardPukBlocked,
    CardPukWrong,
    CardRefused,
)

OK = b"\x90\x00"


class Script:
    """A card that answers what it was told to, and keeps what it was sent."""

    def __init__(self, answers: Iterable[bytes]) -> None:
        self._answers = iter(answers)
        self.sent: list[bytes] = []

    def transmit(self, apdu: bytes) -> bytes:
        self.sent.append(apdu)
        return next(self._answers)

    def close(self) -> None:
        pass


class Hashing:
    """A card that takes chained blocks and keeps them joined."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, bytes]] = []

    def transmit(self, apdu: bytes) -> bytes:
        assert apdu[1:4] == b"\x2a\x90\x80"
        assert len(apdu) == 4 or apdu[4] == len(apdu) - 5 > 0
        self.blocks.append((apdu[0], apdu[5:]))
        return OK

    def close(self) -> None:
        pass


# --- encoding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "data", "expected"),
    [
        (apdu.FACTORY_RESET, b"", "806EAA55"),  # case 1
        (apdu.GET_STATUS, b"", "80CA000000"),  # case 2
        (apdu.VERIFY, b"123456", "0020008106313233343536"),  # case 3
        (apdu.SELECT, apdu.AID, "00A4040009F048534D5349474E0100"),  # case 4
        (apdu.HASH_MESSAGE, b"", "002A9080"),
    ],
)
def test_the_four_cases(command: Command, data: bytes, expected: str) -> None:
    assert encode(command, data) == bytes.fromhex(expected)


def test_the_chaining_bit_and_le() -> None:
    assert encode(apdu.HASH_MESSAGE, b"a", more=True) == bytes.fromhex("102A90800161")
    assert encode(apdu.LOAD_DIGESTS, b"a", more=True)[0] == 0x90
    assert encode(apdu.GET_STATUS, ne=255)[-1] == 0xFF
    assert len(encode(apdu.AUTHORISE, bytes(255))) == 4 + 1 + 255 + 1


def test_extended_apdus_are_for_long_data_without_answer() -> None:
    assert encode(apdu.HASH_MESSAGE, b"x", extended=True) == encode(apdu.HASH_MESSAGE, b"x")
    long = encode(apdu.HASH_MESSAGE, bytes(256), more=True, extended=True)
    assert long == bytes.fromhex("102A9080 00 0100") + bytes(256)
    assert len(encode(apdu.LOAD_DIGESTS, bytes(apdu.EXTENDED_BLOCK), extended=True)) == 7 + 4096
    with pytest.raises(ValueError, match="4097 bytes"):
        encode(apdu.HASH_MESSAGE, bytes(4097), extended=True)
    with pytest.raises(ValueError, match="has an answer"):
        encode(apdu.AUTHORISE, b"x", extended=True)


def test_only_the_first_extended_block_falls_back() -> None:
    """Later a wrong length is the card's fault: it took such a block before."""
    data = bytes(range(256)) * 40
    script = Script([OK, b"\x67\x00"])
    with pytest.raises(CardRefused):
        exchange_chained(script, apdu.HASH_MESSAGE, [data], extended=True)
    # Refused at once: GET STATUS drops what the card may have hashed, then all goes in short blocks.
    script = Script([b"\x67\x00", OK, *[OK] * 41])
    told: list[int] = []
    exchange_chained(script, apdu.HASH_MESSAGE, [data], told.append, extended=True)
    assert script.sent[1] == bytes.fromhex("80CA000000")
    assert b"".join(sent[5:] for sent in script.sent[2:]) == data
    assert sum(told) == len(data)
    assert max(map(len, script.sent[2:])) == 260


def test_what_no_short_apdu_can_hold_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="256 bytes"):
        encode(apdu.HASH_MESSAGE, bytes(256))
    with pytest.raises(ValueError, match="not chained"):
        encode(apdu.VERIFY, b"123456", more=True)
    with pytest.raises(ValueError, match="at most 127"):
        apdu.tlv(0x80, bytes(128))


# --- chaining ------------------------------------------------------------------------------------------

SIZES = (0, 1, 254, 255, 256, 509, 510, 511, 765, 4095, 4096, 65534, 65535, 65536, 65535 * 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("piece", [None, 255, 4096])
def test_blocks_are_full_but_for_the_last_which_alone_lacks_the_chaining_bit(
    size: int, piece: int | None
) -> None:
    message = bytes(i * 7 % 251 for i in range(size))
    pieces = [message] if piece is None else [message[i : i + piece] for i in range(0, size, piece)]
    card = Hashing()
    told: list[int] = []
    exchange_chained(card, apdu.HASH_MESSAGE, pieces, told.append)
    assert b"".join(data for _, data in card.blocks) == message
    assert [cla for cla, _ in card.blocks] == [0x10] * (len(card.blocks) - 1) + [0x00]
    assert all(len(data) == 255 for _, data in card.blocks[:-1])
    assert len(card.blocks) == max(1, -(-size // 255))
    assert told == [len(data) for _, data in card.blocks]


@given(st.lists(st.binary(max_size=700), max_size=8))
def test_how_the_source_cuts_the_message_does_not_matter(pieces: list[bytes]) -> None:
    whole, cut = Hashing(), Hashing()
    exchange_chained(whole, apdu.HASH_MESSAGE, [b"".join(pieces)])
    exchange_chained(cut, apdu.HASH_MESSAGE, pieces)
    assert whole.blocks == cut.blocks


def test_a_long_message_takes_constant_memory() -> None:
    class Counting:
        taken = 0

        def transmit(self, apdu: bytes) -> bytes:
            self.taken += len(apdu) - 5
            return OK

        def close(self) -> None:
            pass

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(65536)

    card = Counting()
    tracemalloc.start()
    try:
        exchange_chained(card, apdu.HASH_MESSAGE, pieces())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert card.taken == 100 * 65536
    assert peak < 1_000_000


def test_a_refused_block_ends_the_chain() -> None:
    card = Script([OK, b"\x69\x85"])
    with pytest.raises(CardRefused):
        exchange_chained(card, apdu.HASH_MESSAGE, [bytes(2000)])
    assert len(card.sent) == 2


def test_a_block_that_is_answered_with_data_is_malformed() -> None:
    with pytest.raises(CardAnswerMalformed, match="no answer data, got 1"):
        exchange_chained(Script([b"x" + OK]), apdu.HASH_MESSAGE, [bytes(2000)])


# --- 61xx and 6Cxx -------------------------------------------------------------------------------------


def test_61xx_is_followed_to_the_end() -> None:
    card = Script([b"abc\x61\x05", b"defgh\x61\x00", b"ij" + OK])
    assert exchange(card, apdu.GET_STATUS) == b"abcdefghij"
    assert card.sent[1:] == [bytes.fromhex("00C0000005"), bytes.fromhex("00C0000000")]


def test_256_bytes_in_one_answer_or_in_256_rounds() -> None:
    assert exchange(Script([bytes(256) + OK]), apdu.AUTHORISE) == bytes(256)
    assert exchange(Script([*[b"x\x61\x01"] * 255, b"x" + OK]), apdu.AUTHORISE) == b"x" * 256


@pytest.mark.parametrize("answer", [b"\x61\x00", b"\x61\x01", b"x\x61\x01", bytes(255) + b"\x61\xff"])
@pytest.mark.parametrize("command", [apdu.GET_STATUS, apdu.VERIFY])
def test_61xx_for_ever_ends_soon(answer: bytes, command: Command) -> None:
    card = Script(itertools.repeat(answer))
    with pytest.raises(CardAnswerMalformed):
        exchange(card, command)
    assert len(card.sent) <= 258


def test_6cxx_is_asked_again_with_the_right_length_once() -> None:
    card = Script([b"\x6c\x11", bytes(17) + OK])
    assert exchange(card, apdu.GET_STATUS) == bytes(17)
    assert card.sent == [bytes.fromhex("80CA000000"), bytes.fromhex("80CA000011")]
    card = Script([b"\x6c\x00", bytes(256) + OK])
    assert exchange(card, apdu.GET_STATUS) == bytes(256)
    assert card.sent[1] == bytes.fromhex("80CA000000")


def test_6cxx_within_get_response() -> None:
    card = Script([b"\x61\x09", b"\x6c\x03", b"abc" + OK])
    assert exchange(card, apdu.GET_STATUS) == b"abc"
    assert card.sent[2] == bytes.fromhex("00C0000003")


@pytest.mark.parametrize("command", [apdu.GET_STATUS, apdu.VERIFY])
def test_6cxx_for_ever_or_without_need_is_malformed(command: Command) -> None:
    card = Script(itertools.repeat(b"\x6c\x05"))
    with pytest.raises(CardAnswerMalformed, match="refuses every length"):
        exchange(card, command)
    assert len(card.sent) <= 2


@pytest.mark.parametrize("response", [b"", b"\x90", bytes(259), bytes(70000)])
def test_an_answer_without_status_word_or_too_long(response: bytes) -> None:
    with pytest.raises(CardAnswerMalformed, match="expected 2 to 258 bytes"):
        exchange(Script([response]), apdu.GET_STATUS)


# --- status words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status_word", "command", "kind"),
    [
        (0x63C1, apdu.VERIFY, CardPinWrong),
        (0x63CF, apdu.CHANGE_REFERENCE_DATA, CardPinWrong),
        (0x63C2, apdu.RESET_RETRY_COUNTER, CardPukWrong),
        (0x63C0, apdu.VERIFY, CardPinBlocked),
        (0x63C0, apdu.RESET_RETRY_COUNTER, CardPukBlocked),
        (0x63C2, apdu.AUTHORISE, CardRefused),
        (0x6983, apdu.VERIFY, CardPinBlocked),
        (0x6983, apdu.CHANGE_REFERENCE_DATA, CardPinBlocked),
        (0x6983, apdu.AUTHORISE, CardPinBlocked),
        (0x6983, apdu.RESET_RETRY_COUNTER, CardPukBlocked),
        (0x6982, apdu.AUTHORISE, CardPinNotVerified),
        (0x6982, apdu.FACTORY_RESET, CardPinNotVerified),
        (0x6985, apdu.AUTHORISE, CardRefused),
        (0x6A80, apdu.INSTALL, CardRefused),
        (0x6A82, apdu.SELECT, CardNotFound),
        (0x6D00, apdu.SELECT, CardNotFound),
        (0x6E00, apdu.SELECT, CardNotFound),
        (0x6D00, apdu.GET_STATUS, CardRefused),
        (0x6A88, apdu.VERIFY, CardRefused),
        (0x6A88, apdu.RESET_RETRY_COUNTER, CardPukBlocked),
        (0x6581, apdu.VERIFY, CardMemoryDamaged),
        (0x1234, apdu.VERIFY, CardRefused),
        (0x9001, apdu.VERIFY, CardRefused),
    ],
)
def test_status_words(status_word: int, command: Command, kind: type[CardError]) -> None:
    error = apdu.status_error(status_word, command)
    assert type(error) is kind
    assert error.message
    assert error.hint
    if isinstance(error, CardPinWrong):
        assert error.tries_left == status_word & 0x0F
        assert "1 try left" in error.message or f"{error.tries_left} tries left" in error.message
    if isinstance(error, CardRefused):
        assert error.status_word == status_word
        assert f"{status_word:04X}" in error.message


@pytest.mark.parametrize("command", apdu.COMMANDS, ids=lambda c: c.name)
def test_every_status_word_becomes_a_card_error(command: Command) -> None:
    for status_word in range(0x10000):
        if status_word == apdu.StatusWord.OK:
            continue
        assert isinstance(apdu.status_error(status_word, command), CardError)


# --- TLV -----------------------------------------------------------------------------------------------


class Tag(IntEnum):
    """Names for the tests."""

    COLOUR = 0x80
    NUMBER = 0x81


FIELD_ERRORS: list[tuple[str, Callable[[Fields], object], str]] = [
    ("", lambda f: f.value(Tag.COLOUR), "expected colour (tag 80), it is missing"),
    ("800105", lambda f: f.value(Tag.COLOUR, 2), "colour (tag 80): expected 2 bytes, got 1"),
    ("8000", lambda f: f.number(Tag.COLOUR, 1), "colour (tag 80): expected 1 byte, got 0"),
    ("800110", lambda f: f.number(Tag.COLOUR, 1, high=15), "colour (tag 80): expected 0 to 15, got 16"),
    ("800102", lambda f: f.code(Tag.COLOUR, CardState), "expected one of 01, 03, 04, got 02"),
    ("800104", lambda f: f.code(Tag.COLOUR, CardState, CardState.BLANK), "expected one of 01, got 04"),
    ("8100", lambda f: f.none_of([Tag.NUMBER], "here"), "number (tag 81): expected it to be absent here"),
]


@pytest.mark.parametrize(("data", "take", "message"), FIELD_ERRORS)
def test_fields_name_what_is_wrong(data: str, take: Callable[[Fields], object], message: str) -> None:
    with pytest.raises(CardAnswerMalformed) as caught:
        take(Fields(bytes.fromhex(data), "test"))
    assert message in str(caught.value)
    assert str(caught.value).startswith("the card's test is malformed: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("80", "tag 80: expected a length, the answer ends"),
        ("8001", "tag 80: expected 1 byte, 0 are left"),
        ("80020A", "tag 80: expected 2 bytes, 1 are left"),
        ("80800000", "expected a length below 80, got 80"),
        ("808101", "expected a length below 80, got 81"),
        ("80FF", "expected a length below 80, got FF"),
        ("9F010100", "expected a one-byte tag at byte 0, got 9F"),
        ("0000", "expected a one-byte tag at byte 0, got 00"),
        ("800101800101", "expected tag 80 once, got it again at byte 3"),
    ],
)
def test_bytes_that_are_no_tlvs(data: str, message: str) -> None:
    with pytest.raises(CardAnswerMalformed) as caught:
        Fields(bytes.fromhex(data), "test")
    assert message in str(caught.value)


TAGS = st.integers(1, 255).filter(lambda tag: tag & 0x1F != 0x1F)


@given(st.dictionaries(TAGS, st.binary(max_size=127), max_size=12))
def test_what_tlv_writes_fields_reads(values: dict[int, bytes]) -> None:
    data = b"".join(apdu.tlv(tag, value) for tag, value in values.items())
    assert Fields(data, "test").tags == tuple(values)


@settings(max_examples=500)
@given(st.binary(max_size=300))
def test_any_bytes_are_tlvs_or_malformed(data: bytes) -> None:
    try:
        fields = Fields(data, "test")
        for tag in StatusTag:
            if fields.has(tag):
                fields.value(tag)
                fields.code(tag, CardState)
    except CardAnswerMalformed:
        pass
