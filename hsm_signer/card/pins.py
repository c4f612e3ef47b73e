"""PIN and PUK of a card, as values that cannot be shown by accident (docs/understand/protocol.md, section 4).

A program that handles PINs leaks them in small ways: a repr in a log line, a pickle, the text of an
exception. These classes give the value out by :meth:`reveal` alone, so that a reader can find every
place where it leaves. They say where a PIN came from, never what it is.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from itertools import pairwise
from typing import NoReturn, SupportsIndex

from hsm_signer.errors import PinMalformed

RandomBytes = Callable[[int], bytes]
"""n -> n random bytes, as :func:`os.urandom`."""

PIN_MIN, PIN_MAX = 6, 12
PUK_MIN, PUK_MAX = 16, 32
PUK_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""32 letters nobody mistakes for another on paper: no I, O, 0, 1. Five bits each."""
PUK_LENGTH = 24
"""Of a PUK we generate: 24 letters of 5 bits, 120 bits (the protocol asks for 100 at least)."""
PUK_SEPARATORS = "- "
"""What people type between the printed groups."""
GIVEN = "given by the program"
"""The source of one that says no other."""

_DIGITS = frozenset("0123456789")
_DRAWS = 1000
"""Draws after which a generator of random bytes counts as broken; a sound one needs one or two."""


class _Secret:
    """A secret that appears in no repr, no pickle, no copy and no comparison's timing."""

    __slots__ = ("__value", "_source")

    def __init__(self, value: bytes, source: str) -> None:
        self.__value = value
        self._source = source

    @property
    def source(self) -> str:
        """The source of the secret in words: ``prompt``, ``file pin.txt``, ``HSM_SIGNER_CARD_PIN``."""
        return self._source

    def reveal(self) -> bytes:
        """Return the value itself, ASCII: for the card's APDU and for printing a new one only."""
        return self.__value

    def __repr__(self) -> str:
        return f"<{type(self).__name__} from {self._source}>"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        assert isinstance(other, _Secret)
        return hmac.compare_digest(self.__value, other.__value)

    # A hash would be a fingerprint of six digits.
    __hash__ = None  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled or copied")


class CardPin(_Secret):
    """A card's PIN: 6 to 12 ASCII digits.

    ``source`` is text for people (see :attr:`source`); it stands in the error if ``text`` is anything
    else. Raises PinMalformed. Spaces and line ends are not forgiven: whoever reads a PIN from a file takes
    the line end off, and nothing else changes what a person typed.
    """

    __slots__ = ()

    def __init__(self, text: str, *, source: str = GIVEN) -> None:
        wrong = _why_not_pin(text)
        if wrong:
            raise PinMalformed(
                f"PIN ({source}): expected {PIN_MIN} to {PIN_MAX} digits 0-9, {wrong}",
                hint="no try was used. Give the PIN again, digits only",
            )
        super().__init__(text.encode("ascii"), source)


class CardPuk(_Secret):
    """A card's PUK: 16 to 32 printable ASCII characters, without the separators people type.

    Hyphens and spaces are dropped: they only part the printed groups. A PUK of our own making (24 letters of
    PUK_ALPHABET) may be typed in lower case; another issuer's is taken as it stands. Installing and
    unblocking both go through here, so both see the same bytes. Raises PinMalformed.
    """

    __slots__ = ()

    def __init__(self, text: str, *, source: str = GIVEN) -> None:
        bare = "".join(c for c in text if c not in PUK_SEPARATORS)
        wrong = _why_not_puk(bare)
        if wrong:
            raise PinMalformed(
                f"PUK ({source}): expected {PUK_MIN} to {PUK_MAX} letters, digits and ASCII signs, {wrong}",
                hint="no try was used. Hyphens and spaces between the printed groups may be left out",
            )
        upper = bare.upper()
        if len(upper) == PUK_LENGTH and set(upper) <= set(PUK_ALPHABET):
            bare = upper
        super().__init__(bare.encode("ascii"), source)

    def grouped(self) -> str:
        """Return the PUK in groups of four, ``ABCD-EFGH-...``, to be printed and handed over."""
        text = self.reveal().decode("ascii")
        return "-".join(text[i : i + 4] for i in range(0, len(text), 4))


def generate_pin(random: RandomBytes = os.urandom, digits: int = PIN_MIN) -> CardPin:
    """Draw a PIN of 6 to 12 digits, all equally likely but the trivial ones, which are never drawn.

    Raises ValueError for another number of digits, RuntimeError if ``random`` gives nothing usable.
    """
    if not PIN_MIN <= digits <= PIN_MAX:
        raise ValueError(f"a PIN has {PIN_MIN} to {PIN_MAX} digits, not {digits}")
    for _ in range(_DRAWS):
        text = _draw_digits(random, digits)
        if not _is_trivial(text):
            return CardPin(text, source="generated")
    raise RuntimeError("the generator of random bytes repeats itself")


def generate_puk(random: RandomBytes = os.urandom) -> CardPuk:
    """Draw a PUK of 24 letters of PUK_ALPHABET, 120 bits (docs/understand/protocol.md, 4, asks for 100)."""
    # 256 is a multiple of 32: the low five bits of a byte are unbiased.
    text = "".join(PUK_ALPHABET[byte & 31] for byte in random(PUK_LENGTH))
    return CardPuk(text, source="generated")


def _draw_digits(random: RandomBytes, count: int) -> str:
    drawn: list[str] = []
    for _ in range(_DRAWS):
        # 250 to 255 would make the digits 0 to 5 likelier than 6 to 9.
        drawn += [str(byte % 10) for byte in random(count) if byte < 250]
        if len(drawn) >= count:
            return "".join(drawn[:count])
    raise RuntimeError("the generator of random bytes gives nothing usable")


def _is_trivial(text: str) -> bool:
    """Find runs with one step (000000, 123456, 987654, 024680) and repeated groups (121212, 123123)."""
    steps = {(int(b) - int(a)) % 10 for a, b in pairwise(text)}
    if len(steps) == 1:
        return True
    return any(text == text[:n] * (len(text) // n) for n in (2, 3) if len(text) % n == 0)


def _why_not_pin(text: str) -> str | None:
    # str.isdigit() would take other scripts' digits; the card compares ASCII bytes.
    for character in text:
        if character not in _DIGITS:
            return f"found {_kind_of(character)}"
    return _why_not_length(len(text), PIN_MIN, PIN_MAX)


def _kind_of(character: str) -> str:
    """Name the kind of a character, never the character: it may belong to the PIN of something else."""
    if character == "\ufeff":
        return "a byte order mark (BOM): save the file as UTF-8 without one"
    if character.isspace():
        return "a space" if character == " " else "a tab, a line end or a space of another kind"
    if character.isdigit():
        return "a digit of another script"
    if character.isalpha():
        return "a letter" if character.isascii() else "a letter outside ASCII"
    if not character.isprintable():
        return "a control character or a byte that is no text"
    return "a sign" if character.isascii() else "a sign outside ASCII"


def _why_not_puk(bare: str) -> str | None:
    # Checked before encode(): a UnicodeEncodeError would carry the text with it.
    for character in bare:
        if not "!" <= character <= "~":
            return f"found {_kind_of(character)}"
    return _why_not_length(len(bare), PUK_MIN, PUK_MAX)


def _why_not_length(length: int, low: int, high: int) -> str | None:
    if length == 0:
        return "found nothing"
    if length < low:
        return "found fewer"
    return "found more" if length > high else None
