"""Names of users: their canonical form, and which are allowed."""

from __future__ import annotations

import unicodedata

from hsm_signer.errors import InputError
from hsm_signer.types import MAX_OWNER

INVISIBLE = frozenset(
    chr(code)
    for first, last in (
        (0x034F, 0x034F),
        (0x115F, 0x1160),
        (0x17B4, 0x17B5),
        (0x180B, 0x180F),
        (0x2800, 0x2800),
        (0x3164, 0x3164),
        (0xFE00, 0xFE0F),
        (0xFFA0, 0xFFA0),
        (0xE0100, 0xE01EF),
    )
    for code in range(first, last + 1)
)
"""Printable to Python, yet invisible: Default_Ignorable_Code_Point of Unicode beyond category Cf, and the
empty Braille pattern."""


def canonical_owner(owner: str) -> str:
    """Bring a user's name, however it was typed, into the form that records have: NFC (UAX 15)."""
    return unicodedata.normalize("NFC", owner)


def check_owner(owner: str) -> None:
    """Raise InputError for a name that cannot be a user's, or that could be taken for another's.

    1 to 255 characters in normalisation form C (Unicode Standard Annex 15), nothing invisible, no spaces
    around it, and no hyphen first: commands would take it for an option.
    """
    fits = owner and owner == owner.strip() and owner.isprintable() and len(owner) <= MAX_OWNER
    if not fits:
        raise InputError(
            f"user: expected 1 to {MAX_OWNER} printable characters without spaces around them, got {owner!r}"
        )
    if not INVISIBLE.isdisjoint(owner):
        raise InputError(f"user: {owner!a} has characters that nobody can see")
    if owner.startswith("-"):
        raise InputError(f"user: {owner!r} begins with a hyphen, as options do")
    if owner != canonical_owner(owner):
        raise InputError(
            f"user: {owner!a} is not in Unicode's normalisation form C",
            hint=f"spelt so it is: {canonical_owner(owner)}",
        )
