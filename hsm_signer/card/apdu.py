"""APDUs: constants, encoding, chaining, status words (docs/understand/apdu.md).

Everything a card answers is hostile input. It is measured before it is used; whatever does not fit raises
CardAnswerMalformed with the field's name and what was expected; and no card keeps the driver busy for ever.
Data of commands hold PINs, so no error text shows a byte of what was sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TypeVar

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
    SignerError,
)
from hsm_signer.types import ProtocolEnum

from .connection import CardConnection

AID = bytes.fromhex("F048534D5349474E01")
"""F0 "HSMSIGN" 01: proprietary, unregistered (ISO 7816-4, 12.2.3)."""
PROTOCOL_VERSION = 1
"""Status tag 80 of the only version there is."""
KEY_REFERENCE = 0x81
"""P2 of the PIN commands: the one PIN of this application."""

CHAINING_BIT = 0x10
"""In CLA of every block but the last (ISO 7816-4, 5.3.3)."""
SHORT_DATA_MAX = 255
"""Nc of a short APDU."""
EXTENDED_BLOCK = 4096
"""Data of an extended APDU as this driver sends them; cards that have them at all take 32767."""
ANSWER_MAX = 256
"""The longest answer there is: AUTHORISE with six rolling values, just what Le = 00 allows."""
INSTALL_MAX = 233
"""Nc of INSTALL with every TLV at its longest: it needs no chaining."""
DIGESTS_HEADER = 3
"""u16 count, u8 length: the first block of LOAD DIGESTS holds them whole."""


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the command table in docs/understand/apdu.md.

    ``answers``: sent with Le = 00, for it has answer data.
    """

    name: str
    cla: int
    ins: int
    p1: int
    p2: int
    answers: bool = False
    chained: bool = False


SELECT = Command("SELECT", 0x00, 0xA4, 0x04, 0x00, answers=True)
GET_STATUS = Command("GET STATUS", 0x80, 0xCA, 0x00, 0x00, answers=True)
VERIFY = Command("VERIFY", 0x00, 0x20, 0x00, KEY_REFERENCE)
CHANGE_REFERENCE_DATA = Command("CHANGE REFERENCE DATA", 0x00, 0x24, 0x00, KEY_REFERENCE)
RESET_RETRY_COUNTER = Command("RESET RETRY COUNTER", 0x00, 0x2C, 0x00, KEY_REFERENCE)
BEGIN_PERSONALISATION = Command("BEGIN PERSONALISATION", 0x80, 0x60, 0x00, 0x00, answers=True)
INSTALL = Command("INSTALL", 0x80, 0x62, 0x00, 0x00)
HASH_MESSAGE = Command("HASH MESSAGE", 0x00, 0x2A, 0x90, 0x80, chained=True)
LOAD_DIGESTS = Command("LOAD DIGESTS", 0x80, 0x66, 0x00, 0x00, chained=True)
AUTHORISE = Command("AUTHORISE", 0x80, 0x64, 0x00, 0x00, answers=True)
FACTORY_RESET = Command("FACTORY RESET", 0x80, 0x6E, 0xAA, 0x55)
BEGIN_ISSUE = Command("BEGIN ISSUE", 0x80, 0x68, 0x00, 0x00, answers=True)
ISSUE = Command("ISSUE", 0x80, 0x6A, 0x00, 0x00)
COMMANDS = (
    SELECT,
    GET_STATUS,
    VERIFY,
    CHANGE_REFERENCE_DATA,
    RESET_RETRY_COUNTER,
    BEGIN_PERSONALISATION,
    INSTALL,
    HASH_MESSAGE,
    LOAD_DIGESTS,
    AUTHORISE,
    FACTORY_RESET,
    BEGIN_ISSUE,
    ISSUE,
)
GET_RESPONSE = Command("GET RESPONSE", 0x00, 0xC0, 0x00, 0x00, answers=True)
"""The transport's, not the applet's: fetches what 61xx announced (ISO 7816-4, 11.7.1)."""


class CardState(ProtocolEnum):
    """The state of a card's life cycle."""

    BLANK = "blank", 1
    """Waits for BEGIN PERSONALISATION and INSTALL."""
    ACTIVE = "active", 3
    PIN_BLOCKED = "pin-blocked", 4
    """No PIN try left; never in scheme basic."""


class Feature(IntFlag):
    """Features of a card (status tag 88); unknown bits are kept and mean nothing."""

    EXTENDED_LENGTH = 1
    COMBINE_XOR = 2
    COMBINE_CBC = 4
    DIGEST_LISTS = 8
    ORIGIN = 16
    """Has been issued."""


class StatusTag(IntEnum):
    """Tags of the TLVs in the answer to GET STATUS."""

    VERSION = 0x80
    STATE = 0x81
    SCHEME = 0x82
    COMBINE = 0x83
    CREDENTIAL_ID = 0x84
    PIN_TRIES_LEFT = 0x85
    PUK_TRIES_LEFT = 0x86
    SERIAL = 0x87
    FEATURES = 0x88
    PIN_POLICY = 0x89
    PIN_CHECK = 0x8A


class TemplateTag(IntEnum):
    """Tags of the TLVs in the answers to SELECT, BEGIN PERSONALISATION and BEGIN ISSUE."""

    FILE_CONTROL_INFORMATION = 0x6F
    AID = 0x84
    PROPRIETARY = 0xA5
    CARD_POINT = 0x90
    SERIAL = 0x87
    CERTIFICATE_OF_ORIGIN = 0x8B
    PROOF_OF_ORIGIN = 0x8C
    ORIGIN_POINT = 0x8D


class InstallTag(IntEnum):
    """Tags of the TLVs that INSTALL takes, in any order."""

    CREDENTIAL_ID = 0x84
    SCHEME = 0x82
    COMBINE = 0x83
    PIN_POLICY = 0x89
    PIN_CHECK = 0x8A
    TOKEN_POINT = 0x90
    WRAPPED_KCAR = 0x91
    WRAPPED_KEK = 0x92
    PIN = 0x93
    PUK = 0x94
    TRIES = 0x95


class StatusWord(IntEnum):
    """Status words, SW1 SW2; the low byte of those with an x (63Cx: the low four bits) is a count."""

    OK = 0x9000
    MORE_DATA = 0x6100
    WRONG_PIN = 0x63C0
    MEMORY_FAILURE = 0x6581
    WRONG_LENGTH = 0x6700
    CHAINING_NOT_SUPPORTED = 0x6884
    NOT_VERIFIED = 0x6982
    BLOCKED = 0x6983
    CONDITIONS_NOT_SATISFIED = 0x6985
    WRONG_DATA = 0x6A80
    NOT_FOUND = 0x6A82
    WRONG_P1_P2 = 0x6A86
    NO_REFERENCE_DATA = 0x6A88
    WRONG_LE = 0x6C00
    UNKNOWN_INSTRUCTION = 0x6D00
    UNKNOWN_CLASS = 0x6E00


# --- status words in a user's words --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Meaning:
    error: type[CardError]
    message: str
    hint: str | None = None


_TRIES = "when no try is left the card blocks the PIN, and only the PUK unblocks it"
_ENROL_ANEW = "without a PUK the card has to be reset and enrolled anew"
_UNBLOCK = f"unblock it with the PUK: hsm-signer pin unblock --card CARD; {_ENROL_ANEW}"
_CONTRACT = "this should not happen between this program and its card; the card may hold another version"
_PIN_WRONG = _Meaning(CardPinWrong, "wrong PIN", _TRIES)
_PIN_BLOCKED = _Meaning(CardPinBlocked, "the card's PIN is blocked: no try is left", _UNBLOCK)
_NO_PIN = _Meaning(CardRefused, "this card has no PIN (scheme basic)", "it signs without one")
_NO_APPLET = _Meaning(CardNotFound, "the card does not hold the signing application", "is it the right card?")

_MEANINGS: Mapping[tuple[int, Command | None], _Meaning] = {
    (StatusWord.WRONG_PIN, VERIFY): _PIN_WRONG,
    (StatusWord.WRONG_PIN, CHANGE_REFERENCE_DATA): _PIN_WRONG,
    (StatusWord.WRONG_PIN, RESET_RETRY_COUNTER): _Meaning(
        CardPukWrong, "wrong PUK", "when no try is left the card blocks the PUK for ever"
    ),
    (StatusWord.BLOCKED, VERIFY): _PIN_BLOCKED,
    (StatusWord.BLOCKED, CHANGE_REFERENCE_DATA): _PIN_BLOCKED,
    (StatusWord.BLOCKED, AUTHORISE): _PIN_BLOCKED,
    (StatusWord.BLOCKED, RESET_RETRY_COUNTER): _Meaning(
        CardPukBlocked, "the card's PUK is blocked: no try is left", "the card has to be enrolled anew"
    ),
    (StatusWord.NO_REFERENCE_DATA, VERIFY): _NO_PIN,
    (StatusWord.NO_REFERENCE_DATA, CHANGE_REFERENCE_DATA): _NO_PIN,
    (StatusWord.NO_REFERENCE_DATA, RESET_RETRY_COUNTER): _Meaning(
        CardPukBlocked, "this card has no PUK", f"{_ENROL_ANEW}; a card of scheme basic has no PIN either"
    ),
    (StatusWord.NOT_VERIFIED, AUTHORISE): _Meaning(
        CardPinNotVerified,
        "the card wants its PIN for this message",
        "give the PIN after the message has been hashed",
    ),
    (StatusWord.NOT_VERIFIED, FACTORY_RESET): _Meaning(
        CardPinNotVerified,
        "the card is reset only after its PIN was given",
        "if the PIN is lost, set a new one with the PUK. With PIN and PUK both blocked it may be reset, too",
    ),
    (StatusWord.CONDITIONS_NOT_SATISFIED, AUTHORISE): _Meaning(
        CardRefused,
        "the card has no message to authorise",
        "hash the message again and give the PIN after it",
    ),
    (StatusWord.CONDITIONS_NOT_SATISFIED, INSTALL): _Meaning(
        CardRefused, "the card's enrolment was not begun, or was interrupted", "start the enrolment again"
    ),
    (StatusWord.CONDITIONS_NOT_SATISFIED, BEGIN_ISSUE): _Meaning(
        CardRefused, "the card has been issued before", "a card is issued once, for its life"
    ),
    (StatusWord.CONDITIONS_NOT_SATISFIED, ISSUE): _Meaning(
        CardRefused, "the issuing of the card was not begun, or was interrupted", "start it again"
    ),
    (StatusWord.CONDITIONS_NOT_SATISFIED, None): _Meaning(
        CardRefused,
        "the card does not carry out this command in its present state",
        "hsm-signer card info CARD shows the state",
    ),
    (StatusWord.WRONG_DATA, INSTALL): _Meaning(
        CardRefused,
        "the card refuses its keys: they were not made for this card and these settings",
        "nothing was installed. Start the enrolment again",
    ),
    (StatusWord.WRONG_DATA, AUTHORISE): _Meaning(
        CardRefused,
        "the card refuses to authorise: algorithm, hashed content and challenge do not fit together",
        "nothing was authorised",
    ),
    (StatusWord.WRONG_DATA, VERIFY): _Meaning(
        CardRefused, "the card takes this for no PIN", "no try was used"
    ),
    (StatusWord.WRONG_DATA, CHANGE_REFERENCE_DATA): _Meaning(
        CardRefused, "the card takes the old or the new PIN for none", "no try was used"
    ),
    (StatusWord.WRONG_DATA, RESET_RETRY_COUNTER): _Meaning(
        CardRefused, "the card takes the PUK or the new PIN for none", "no try was used"
    ),
    (StatusWord.WRONG_DATA, None): _Meaning(CardRefused, "the card refuses the data it was given", _CONTRACT),
    (StatusWord.MEMORY_FAILURE, None): _Meaning(
        CardMemoryDamaged,
        "the card could not write its memory; the command may or may not have been carried out",
        "look with hsm-signer card info CARD. If it happens again, the card is at its end",
    ),
    (StatusWord.NOT_FOUND, SELECT): _NO_APPLET,
    (StatusWord.UNKNOWN_INSTRUCTION, SELECT): _NO_APPLET,
    (StatusWord.UNKNOWN_CLASS, SELECT): _NO_APPLET,
    (StatusWord.WRONG_LENGTH, None): _Meaning(
        CardRefused, "the card refuses the command's length", _CONTRACT
    ),
    (StatusWord.WRONG_P1_P2, None): _Meaning(
        CardRefused, "the card refuses the command's parameters", _CONTRACT
    ),
    (StatusWord.CHAINING_NOT_SUPPORTED, None): _Meaning(
        CardRefused, "the card takes no chained commands", _CONTRACT
    ),
    (StatusWord.UNKNOWN_INSTRUCTION, None): _Meaning(
        CardRefused, "the card does not know this command", "is it the right card? Insert it anew"
    ),
    (StatusWord.UNKNOWN_CLASS, None): _Meaning(
        CardRefused, "the card does not know this class of commands", "is it the right card? Insert it anew"
    ),
}
"""every status word but 9000, 61xx and 6Cxx; ``None``: whatever the command"""


def status_error(status_word: int, command: Command) -> CardError:
    """Make the exception for a status word that is not 9000: the only place where they are decoded.

    63Cx becomes CardPinWrong or, after RESET RETRY COUNTER, CardPukWrong, with ``tries_left``; 63C0 is
    read as 6983. What the contract does not list becomes CardRefused with ``status_word``.
    """
    tries_left = None
    key = status_word
    if status_word & 0xFFF0 == StatusWord.WRONG_PIN:
        tries_left = status_word & 0x0F
        # The contract's counter never says 0 here; a card that does means: blocked.
        key = StatusWord.WRONG_PIN if tries_left else StatusWord.BLOCKED
    meaning = _MEANINGS.get((key, command)) or _MEANINGS.get((key, None))
    if meaning is None:
        return CardRefused(
            f"{command.name}: the card answered {status_word:04X}, which has no meaning here",
            status_word=status_word,
            hint=_CONTRACT,
        )
    if issubclass(meaning.error, CardPinWrong):
        assert tries_left
        left = "1 try left" if tries_left == 1 else f"{tries_left} tries left"
        return meaning.error(f"{meaning.message}, {left}", tries_left=tries_left, hint=meaning.hint)
    if issubclass(meaning.error, CardRefused):
        message = f"{meaning.message} ({command.name}: {status_word:04X})"
        return meaning.error(message, status_word=status_word, hint=meaning.hint)
    return meaning.error(meaning.message, hint=meaning.hint)


# --- commands ------------------------------------------------------------------------------------------


def encode(
    command: Command,
    data: bytes = b"",
    *,
    more: bool = False,
    ne: int | None = None,
    extended: bool = False,
) -> bytes:
    """Encode a command APDU, cases 1 to 4 of ISO 7816-4, 5.1.

    Short, ``data`` at most 255 bytes; above that extended where ``extended`` allows it, at most
    EXTENDED_BLOCK bytes, for commands without answer. ``more`` sets the chaining bit. ``ne``, 1 to 256, is
    the number of answer bytes allowed; by default 256 for a command that answers and no Le for the others.
    """
    limit = EXTENDED_BLOCK if extended else SHORT_DATA_MAX
    if len(data) > limit:
        raise ValueError(f"{command.name}: {len(data)} bytes of data, this APDU takes {limit}")
    if extended and command.answers:
        raise ValueError(f"{command.name} has an answer: it is never sent extended")
    if more and not command.chained:
        raise ValueError(f"{command.name} is not chained")
    if ne is None and command.answers:
        ne = ANSWER_MAX
    header = bytes((command.cla | (CHAINING_BIT if more else 0), command.ins, command.p1, command.p2))
    if len(data) > SHORT_DATA_MAX:
        return header + b"\0" + len(data).to_bytes(2, "big") + data
    lc = bytes((len(data),)) + data if data else b""
    le = b"" if ne is None else bytes((ne & 0xFF,))
    return header + lc + le


def exchange(
    connection: CardConnection,
    command: Command,
    data: bytes = b"",
    *,
    more: bool = False,
    extended: bool = False,
) -> bytes:
    """Send a command, follow 61xx and 6Cxx, return the answer's data (at most 256 bytes).

    ``more`` and ``extended`` as in :func:`encode`. Raises what :func:`status_error` makes of any other
    status word, CardAnswerMalformed, and what the connection raises.
    """
    answer, status_word = _transmit(connection, command, data, more=more, extended=extended)
    # A card could say 61xx for ever. Each round has to bring a byte, and all together at most ANSWER_MAX:
    # that bounds the rounds as well.
    while status_word & 0xFF00 == StatusWord.MORE_DATA:
        part, status_word = _transmit(connection, GET_RESPONSE, ne=(status_word & 0xFF) or ANSWER_MAX)
        if not part and status_word & 0xFF00 == StatusWord.MORE_DATA:
            raise CardAnswerMalformed(f"{command.name}: the card announces more data again and sends none")
        answer += part
        if len(answer) > ANSWER_MAX:
            raise CardAnswerMalformed(
                f"{command.name}: the answer is too long: expected at most {ANSWER_MAX} bytes"
            )
    if status_word != StatusWord.OK:
        raise status_error(status_word, command)
    if answer and not command.answers:
        raise CardAnswerMalformed(f"{command.name}: expected no answer data, got {len(answer)} bytes")
    return answer


def exchange_chained(
    connection: CardConnection,
    command: Command,
    pieces: Iterable[bytes],
    progress: Callable[[int], None] | None = None,
    *,
    extended: bool = False,
) -> None:
    """Send data of any size by command chaining, in blocks of 255 bytes and constant memory.

    With ``extended`` the blocks have EXTENDED_BLOCK bytes; where the first of them is refused for its
    length, by the card or by a reader that cannot carry it, all go in short ones after all. ``progress`` is
    told the size of each block the card took. If ``pieces`` raises, the chain is left open; the next
    command makes the card drop it. Raises what :func:`exchange` raises.
    """
    cut = blocks(pieces, EXTENDED_BLOCK if extended else SHORT_DATA_MAX)
    first = True
    for block, last in cut:
        try:
            exchange(connection, command, block, more=not last, extended=extended)
        except CardRefused as refusal:
            if not (extended and first and refusal.status_word == StatusWord.WRONG_LENGTH):
                raise
            # Should the card have taken the block and only its answer been lost, this drops it again.
            exchange(connection, GET_STATUS)
            whole = itertools.chain((block,), (later for later, _ in cut))
            return exchange_chained(connection, command, whole, progress)
        first = False
        if progress is not None:
            progress(len(block))
    return None


def blocks(pieces: Iterable[bytes], size: int) -> Iterator[tuple[bytes, bool]]:
    """Cut data into blocks of ``size`` bytes; True comes with the last one, which is empty only if all is."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        # One byte at least is kept back, for nobody knows yet whether more follows.
        whole = (len(data) - 1) // size * size if data else 0
        for start in range(0, whole, size):
            yield data[start : start + size], False
        rest = data[whole:]
    yield rest, True


def _transmit(
    connection: CardConnection,
    command: Command,
    data: bytes = b"",
    *,
    more: bool = False,
    ne: int | None = None,
    extended: bool = False,
) -> tuple[bytes, int]:
    sent = encode(command, data, more=more, ne=ne, extended=extended)
    answer, status_word = _split(connection.transmit(sent), command)
    if status_word & 0xFF00 == StatusWord.WRONG_LE and command.answers:
        # "Ask again with this Le": the command was not carried out. Once only; a second 6Cxx is an error.
        right = (status_word & 0xFF) or ANSWER_MAX
        answer, status_word = _split(connection.transmit(encode(command, data, more=more, ne=right)), command)
    if status_word & 0xFF00 == StatusWord.WRONG_LE:
        raise CardAnswerMalformed(
            f"{command.name}: expected an answer, the card refuses every length ({status_word:04X})"
        )
    return answer, status_word


def _split(response: bytes, command: Command) -> tuple[bytes, int]:
    if not 2 <= len(response) <= ANSWER_MAX + 2:
        raise CardAnswerMalformed(
            f"{command.name}: expected 2 to {ANSWER_MAX + 2} bytes from the card, got {len(response)}"
        )
    return response[:-2], int.from_bytes(response[-2:], "big")


# --- TLV -----------------------------------------------------------------------------------------------

_Code = TypeVar("_Code", bound=ProtocolEnum)


def tlv(tag: int, value: bytes) -> bytes:
    """Encode one BER-TLV with a one-byte tag and a one-byte length below 128."""
    if len(value) > 0x7F:
        raise ValueError(f"tag {tag:02X}: {len(value)} bytes, at most 127 fit")
    return bytes((tag, len(value))) + value


class Fields:
    """The TLVs of one answer or template, read by tag with their lengths checked.

    ``where`` names the answer in errors. Raises CardAnswerMalformed where the bytes are no sequence of
    TLVs with one-byte tags and lengths below 128, or a tag stands twice. Tags nobody asks for are ignored.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        self._values: dict[int, bytes] = {}
        position = 0
        while position < len(data):
            tag = data[position]
            if tag & 0x1F == 0x1F or tag == 0:
                raise self._malformed(f"expected a one-byte tag at byte {position}, got {tag:02X}")
            if tag in self._values:
                raise self._malformed(f"expected tag {tag:02X} once, got it again at byte {position}")
            if position + 1 == len(data):
                raise self._malformed(f"tag {tag:02X}: expected a length, the answer ends")
            length = data[position + 1]
            if length > 0x7F:
                raise self._malformed(f"tag {tag:02X}: expected a length below 80, got {length:02X}")
            position += 2
            left = len(data) - position
            if length > left:
                raise self._malformed(f"tag {tag:02X}: expected {_bytes(length)}, {left} are left")
            self._values[tag] = data[position : position + length]
            position += length

    @property
    def tags(self) -> tuple[int, ...]:
        """The tags, in their order."""
        return tuple(self._values)

    def value(self, tag: IntEnum, length: int | None = None) -> bytes:
        """Return a tag's value; raises CardAnswerMalformed where it is missing or not of ``length`` bytes."""
        value = self._values.get(tag)
        if value is None:
            raise self._malformed(f"expected {_name(tag)}, it is missing")
        if length is not None and len(value) != length:
            raise self._malformed(f"{_name(tag)}: expected {_bytes(length)}, got {len(value)}")
        return value

    def has(self, tag: IntEnum) -> bool:
        """Tell whether the tag is there."""
        return tag in self._values

    def number(self, tag: IntEnum, length: int, *, low: int = 0, high: int | None = None) -> int:
        """Read an unsigned integer of ``length`` bytes, ``low`` to ``high``; raises CardAnswerMalformed."""
        number = int.from_bytes(self.value(tag, length), "big")
        if number < low or (high is not None and number > high):
            raise self._malformed(f"{_name(tag)}: expected {low} to {high}, got {number}")
        return number

    def code(self, tag: IntEnum, kind: type[_Code], *allowed: _Code) -> _Code:
        """Read one byte as a member of ``kind``, or of ``allowed``; raises CardAnswerMalformed."""
        number = self.number(tag, 1)
        members: Iterable[_Code] = allowed or kind
        for member in members:
            if member.number == number:
                return member
        expected = ", ".join(f"{member.number:02X}" for member in members)
        raise self._malformed(f"{_name(tag)}: expected one of {expected}, got {number:02X}")

    def none_of(self, tags: Iterable[IntEnum], why: str) -> None:
        """Raise CardAnswerMalformed if one of ``tags`` is there; ``why`` says why it must not be."""
        for tag in tags:
            if tag in self._values:
                raise self._malformed(f"{_name(tag)}: expected it to be absent {why}")

    def _malformed(self, what: str) -> SignerError:
        return malformed(self._where, what)


def malformed(where: str, what: str) -> CardAnswerMalformed:
    """Make the error for an answer that the contract does not allow."""
    return CardAnswerMalformed(
        f"the card's {where} is malformed: {what}",
        hint="is it the right card? Its application may be another version, or something answers for it",
    )


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"


def _name(tag: IntEnum) -> str:
    return f"{tag.name.lower().replace('_', ' ')} (tag {tag:02X})"
