"""One field of a row: type, length and range, checked both ways, whatever table it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any

from hsm_signer.errors import StoreDamaged, StoreError
from hsm_signer.types import MAX_DIGESTS, Algorithm

from .schema import MAX_INTEGER

MAX_TEXT = 1024
"""UTF-8 bytes of a text field."""
MAX_BLOB = 65535
"""Bytes of a key, wrapped or public; RSA-4096 needs some 2400."""
MAX_SIGNATURE = 8192
"""Bytes of one signature."""
HASH_LENGTH = 32
"""Bytes of a SHA-256."""


class BadValue(Exception):
    """A value that cannot be this field's; says what it would have to be, and ``field`` which one it is."""

    field = ""


# --- one field ---------------------------------------------------------------------------------------------

Check = Callable[[Any], Any]
"""From the column's value to the field's; raises BadValue."""


def octets(value: Any, low: int, high: int) -> bytes:
    """The value as bytes, ``low`` to ``high`` of them. Raises BadValue."""
    if isinstance(value, memoryview):
        value = bytes(value)
    if not isinstance(value, bytes) or not low <= len(value) <= high:
        raise BadValue(f"{low} bytes" if low == high else f"{low} to {high} bytes")
    return value


def exactly(length: int) -> Check:
    """So many bytes."""
    return lambda value: octets(value, length, length)


def upto(high: int) -> Check:
    """One byte to ``high`` bytes."""
    return lambda value: octets(value, 1, high)


def integer(high: int, low: int = 0) -> Check:
    """An integer that both databases hold, from ``low`` to ``high``."""
    high = min(high, MAX_INTEGER)

    def check(value: Any) -> int:
        # bool is an int to Python, and no driver returns one from an integer column.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise BadValue(f"an integer from {low} to {high}")
        return value

    return check


def enum(kind: type[IntEnum]) -> Check:
    """A member of ``kind``, by its number."""

    def check(value: Any) -> IntEnum:
        try:
            # int first: the float 1.0 equals a member, too.
            return kind(integer(0xFFFF)(value))
        except (ValueError, BadValue) as error:
            raise BadValue(f"a known {kind.__name__}") from error

    return check


def text(low: int) -> Check:
    """Text of ``low`` to MAX_TEXT bytes in UTF-8."""

    def check(value: Any) -> str:
        wanted = f"text of {low} to {MAX_TEXT} bytes without NUL"
        # PostgreSQL has no NUL in text; a lone surrogate has no UTF-8.
        if not isinstance(value, str) or "\0" in value:
            raise BadValue(wanted)
        try:
            length = len(value.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise BadValue(wanted) from error
        if not low <= length <= MAX_TEXT:
            raise BadValue(wanted)
        return value

    return check


def or_none(check: Check) -> Check:
    """The same, or nothing."""
    return lambda value: None if value is None else check(value)


def algorithms(value: Any) -> tuple[Algorithm, ...]:
    """u16 each, ascending: what the record's canonical bytes hold."""
    wanted = "known algorithms, two bytes each, ascending"
    data = octets(value, 2, 2 * len(Algorithm))
    try:
        found = tuple(Algorithm(int.from_bytes(data[i : i + 2], "big")) for i in range(0, len(data), 2))
    except ValueError as error:
        raise BadValue(wanted) from error
    if len(data) % 2 or any(a >= b for a, b in pairwise(found)):
        raise BadValue(wanted)
    return found


def items(allowed: Callable[[int], bool]) -> Check:
    """u32 count, then u32 length || item, as :func:`hsm_signer.core.canonical.sequence` writes it.

    ``allowed``: which lengths an item may have.
    """
    wanted = f"at most {MAX_DIGESTS} items, each with its length"

    def check(value: Any) -> tuple[bytes, ...]:
        data = octets(value, 4, MAX_INTEGER)
        count, at = int.from_bytes(data[:4], "big"), 4
        if count > MAX_DIGESTS:
            raise BadValue(wanted)
        found = []
        for _ in range(count):
            length = int.from_bytes(data[at : at + 4], "big")
            at += 4
            if not allowed(length) or at + length > len(data):
                raise BadValue(wanted)
            found.append(data[at : at + length])
            at += length
        if at != len(data):
            raise BadValue(wanted)
        return tuple(found)

    return check


# --- several fields ----------------------------------------------------------------------------------------

Readers = tuple[tuple[str, Check], ...]
"""Name and check of each column, in the order of the columns."""


def read_fields(readers: Readers, row: Sequence[Any]) -> list[Any]:
    """The values of a row's first columns, checked. Raises BadValue."""
    values = []
    for (name, check), value in zip(readers, row, strict=False):
        try:
            values.append(check(value))
        except BadValue as error:
            error.field = name
            raise
    return values


def written(checks: Mapping[str, Check], row: dict[str, Any], what: str) -> dict[str, Any]:
    """``row`` once every value of it would be read back as it is. Raises StoreError."""
    for name, value in row.items():
        try:
            checks[name](value)
        except BadValue as error:
            raise StoreError(f"the {what} cannot be stored: its field {name} is not {error}") from error
    # IntEnum members are ints, but not every driver knows it.
    return {name: int(value) if isinstance(value, IntEnum) else value for name, value in row.items()}


# --- values of no record -----------------------------------------------------------------------------------


def checked_integer(value: Any, name: str, *, low: int = 0) -> int:
    """An integer of 0 to 2**63 - 1 from a column of no record; raises StoreDamaged."""
    try:
        return int(integer(MAX_INTEGER, low)(value))
    except BadValue as error:
        raise StoreDamaged(f"the database is damaged: {name} is not {error}") from error


def checked_hash(value: Any, name: str) -> bytes:
    """32 bytes from a column of no record; raises StoreDamaged."""
    try:
        return octets(value, HASH_LENGTH, HASH_LENGTH)
    except BadValue as error:
        raise StoreDamaged(f"the database is damaged: {name} is not {error}") from error
