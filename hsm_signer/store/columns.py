"""An entity in the columns of a table: one column per field, read and written by the field's definition.

Columns hold integers, text and bytes. Members of enumerations lie there as their numbers, lists packed into
bytes: algorithms as u16 each, byte strings as core/canonical.py's sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import pairwise
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from hsm_signer.core.canonical import sequence
from hsm_signer.core.definitions import definition, expected, fault, field_type, lengths_of
from hsm_signer.errors import StoreDamaged, StoreError
from hsm_signer.types import ProtocolEnum

S = TypeVar("S", bound=msgspec.Struct)
Unpack = Callable[[Any], Any]
"""From the column's value to the field's; raises BadValue."""
Pack = Callable[[Any], Any]


class BadValue(Exception):
    """A value that a field cannot have; says what it would have to be, and ``field`` names the field."""

    def __init__(self, words: str, field: str = "") -> None:
        super().__init__(words)
        self.field = field


class Columns(Generic[S]):
    """The columns that hold one struct, each with its field's name."""

    def __init__(self, kind: type[S]) -> None:
        self._kind = kind
        self.names = kind.__struct_fields__
        self._encoded = kind.__struct_encode_fields__
        struct = definition(kind)
        assert isinstance(struct, inspect.StructType)
        types = {part.encode_name: part.type for part in struct.fields}
        found = {name: _packing(types[name]) for name in self._encoded}
        self._unpack = [(name, packing[0]) for name, packing in found.items() if packing is not None]
        self._pack = [
            packing[1] if packing is not None else None for packing in (found[name] for name in self._encoded)
        ]

    def read(self, row: Iterable[Any]) -> S:
        """Read the struct in a row's first columns. Raises BadValue."""
        found = dict(zip(self._encoded, row, strict=False))
        for name, unpack in self._unpack:
            try:
                found[name] = unpack(found[name])
            except BadValue as error:
                error.field = self._column(name)
                raise
        try:
            return msgspec.convert(found, self._kind, builtin_types=(bytes,))
        except msgspec.ValidationError as error:
            path, words = fault(error, self._kind, json=False)
            raise BadValue(words.removeprefix("expected "), self._column(path)) from error

    def row(self, value: S, what: str) -> dict[str, Any]:
        """The columns, once all of them would be read back as they are. Raises StoreError."""
        values = msgspec.structs.astuple(value)
        row = {
            name: item if pack is None or item is None else pack(item)
            for name, pack, item in zip(self.names, self._pack, values, strict=True)
        }
        try:
            read = self.read(row.values())
        except BadValue as error:
            raise StoreError(
                f"the {what} cannot be stored: its field {error.field} is not {error}"
            ) from error
        if read != value:
            raise StoreError(f"the {what} cannot be stored: it would be read as another")
        return row

    def _column(self, path: str) -> str:
        name = path.lstrip(".").partition("[")[0]
        return self.names[self._encoded.index(name)] if name in self._encoded else name


def read_value(kind: Any, value: Any) -> Any:
    """Read one column's value as ``kind``. Raises BadValue."""
    try:
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise BadValue(expected(definition(kind), json=False)) from error


# --- packed columns ----------------------------------------------------------------------------------------


def _packing(kind: inspect.Type) -> tuple[Unpack, Pack] | None:
    """Make the functions that pack a field's values; None for those that a column holds as they are."""
    field = field_type(kind)
    match field.type:
        case inspect.EnumType(cls=cls):
            unpack: Unpack = _member(cls)
            pack: Pack = _number
        case inspect.VarTupleType(item_type=inspect.EnumType(cls=cls)):
            unpack, pack = _members(cls), _numbers
        case inspect.VarTupleType():
            unpack, pack = _items(field.type), sequence
        case _:
            return None
    if not field.nullable:
        return unpack, pack
    return lambda value: None if value is None else unpack(value), pack


def _octets(value: Any, words: str) -> bytes:
    if isinstance(value, memoryview):
        value = bytes(value)
    if not isinstance(value, bytes):
        raise BadValue(words)
    return value


def _member(kind: type[Enum]) -> Unpack:
    members = _by_number(kind)

    def unpack(value: Any) -> Any:
        # The type first: the float 1.0 and True equal a number, too.
        member = members.get(value) if type(value) is int else None
        if member is None:
            raise BadValue(f"a known {kind.__name__}")
        return member

    return unpack


def _number(member: ProtocolEnum) -> int:
    return member.number


def _members(kind: type[Enum]) -> Unpack:
    """u16 each, ascending: what the record's canonical bytes hold."""
    members = _by_number(kind)
    words = "known algorithms, two bytes each, ascending"

    def unpack(value: Any) -> tuple[Any, ...]:
        data = _octets(value, words)
        numbers = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
        found = tuple(members.get(number) for number in numbers)
        if not found or len(data) % 2 or None in found or any(a >= b for a, b in pairwise(numbers)):
            raise BadValue(words)
        return found

    return unpack


def _numbers(members: Sequence[ProtocolEnum]) -> bytes:
    return b"".join(member.number.to_bytes(2, "big") for member in members)


def _by_number(kind: type[Enum]) -> dict[int, ProtocolEnum]:
    assert issubclass(kind, ProtocolEnum)
    return {member.number: member for member in kind}


def _items(kind: inspect.VarTupleType) -> Unpack:
    """u32 count, then u32 length || item."""
    item = field_type(kind.item_type)
    assert isinstance(item.type, inspect.BytesType)
    low, high, most = item.type.min_length or 0, item.type.max_length, kind.max_length
    if high is None or most is None:
        raise TypeError("a column of items needs bounds for their number and their length")
    allowed: Sequence[int] = lengths_of(item) or range(low, high + 1)
    words = f"at most {most} items of {expected(kind.item_type, json=False)}, each with its length"

    def unpack(value: Any) -> tuple[bytes, ...]:
        data = _octets(value, words)
        count, at = int.from_bytes(data[:4], "big"), 4
        if len(data) < 4 or count > most:
            raise BadValue(words)
        found = []
        for _ in range(count):
            length = int.from_bytes(data[at : at + 4], "big")
            at += 4
            if length not in allowed or at + length > len(data):
                raise BadValue(words)
            found.append(data[at : at + length])
            at += length
        if at != len(data):
            raise BadValue(words)
        return tuple(found)

    return unpack


# --- values of no entity -----------------------------------------------------------------------------------


def checked(kind: Any, value: Any, name: str) -> Any:
    """Read one column's value as ``kind``. Raises StoreDamaged, which calls it ``name``."""
    try:
        return read_value(kind, value)
    except BadValue as error:
        raise StoreDamaged(f"the database is damaged: {name} is not {error}") from error
