"""ISO/IEC 7816-4 between bytes on the line and commands: cases 1 to 4, short and extended, and 61xx."""

from __future__ import annotations

from dataclasses import dataclass, field

from .constants import ANSWER_MAX, CHAINING, EXTENDED_DATA_MAX, SHORT_DATA_MAX, Sw

_EXTENDED_NE = 65536


class MalformedApdu(Exception):
    """No APDU: length bytes and number of bytes disagree, or an extended one the card cannot take."""


@dataclass(frozen=True, slots=True)
class Apdu:
    """One command APDU. Its data may be a PIN, so they stay out of the repr."""

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = field(default=b"", repr=False)
    ne: int | None = None
    """Answer bytes the host allows; None where Le is absent, which means all of them."""

    @property
    def more(self) -> bool:
        """The chaining bit: this is not the last block."""
        return bool(self.cla & CHAINING)


def parse(raw: bytes, *, extended: bool = True) -> Apdu:
    """Take an APDU apart (ISO 7816-4, 5.2).

    ``extended``: whether the card takes extended length. Raises MalformedApdu for what is no APDU, for
    extended ones where it does not, and for more than 32767 data bytes.
    """
    if len(raw) < 4:
        raise MalformedApdu("shorter than a header")
    cla, ins, p1, p2 = raw[:4]
    body = raw[4:]
    if not body:
        return Apdu(cla, ins, p1, p2)
    if len(body) == 1:
        return Apdu(cla, ins, p1, p2, b"", body[0] or SHORT_DATA_MAX + 1)
    if body[0]:
        nc = body[0]
        if len(body) == 1 + nc:
            return Apdu(cla, ins, p1, p2, body[1:])
        if len(body) == 2 + nc:
            return Apdu(cla, ins, p1, p2, body[1:-1], body[-1] or SHORT_DATA_MAX + 1)
        raise MalformedApdu("Lc and number of bytes disagree")
    if not extended or len(body) < 3:
        raise MalformedApdu("extended length")
    number = int.from_bytes(body[1:3])
    if len(body) == 3:
        return Apdu(cla, ins, p1, p2, b"", number or _EXTENDED_NE)
    if number == 0 or number > EXTENDED_DATA_MAX:
        raise MalformedApdu("extended Lc")
    if len(body) == 3 + number:
        return Apdu(cla, ins, p1, p2, body[3:])
    if len(body) == 5 + number:
        return Apdu(cla, ins, p1, p2, body[3:-2], int.from_bytes(body[-2:]) or _EXTENDED_NE)
    raise MalformedApdu("Lc and number of bytes disagree")


def status(word: int) -> bytes:
    """SW1 SW2."""
    return word.to_bytes(2)


class AnswerBuffer:
    """What a GET RESPONSE may still fetch. An answer may hold a Q of scheme basic: never in a repr."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting = bytearray()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def clear(self) -> None:
        """Overwrite and forget."""
        self._waiting[:] = bytes(len(self._waiting))
        self._waiting.clear()

    def answer(self, data: bytes, ne: int | None) -> bytes:
        """Data and 9000, or the first ``ne`` bytes and 61xx while the rest waits."""
        self.clear()
        if ne is None or len(data) <= ne:
            return data + status(Sw.OK)
        self._waiting += data[ne:]
        return data[:ne] + status(Sw.MORE_DATA | len(self._waiting) % ANSWER_MAX)

    def get_response(self, ne: int | None) -> bytes:
        """The next ``ne`` bytes of what waits."""
        return self.answer(bytes(self._waiting), ne)
