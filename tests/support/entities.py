"""Values of every entity, as large and as odd as its definition lets them be."""

from __future__ import annotations

import string
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from hsm_signer.core.definitions import definition, field_type, lengths_of
from hsm_signer.types import FINGERPRINT_PATTERN

ORDINARY = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
LONGEST = 12
"""Of texts and lists, and how much longer than its shortest a value of bytes gets: the rest is repetition."""


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Whatever the definition of ``kind`` allows."""
    return _values(definition(kind))


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    field = field_type(kind)
    if isinstance(field.type, inspect.BytesType):
        found = _bytes(lengths_of(field), field.type.min_length or 0, field.type.max_length)
    else:
        found = _present(field.type)
    return st.none() | found if field.nullable else found


def _bytes(lengths: tuple[int, ...], low: int, high: int | None) -> st.SearchStrategy[bytes]:
    if lengths:
        return st.sampled_from(lengths).flatmap(lambda length: st.binary(min_size=length, max_size=length))
    return st.binary(min_size=low, max_size=_most(low, high))


def _most(low: int, high: int | None, more: int = LONGEST) -> int:
    return low + more if high is None else min(high, low + more)


def _present(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{part.name: _values(part.type) for part in fields})
        case inspect.EnumType(cls=cls):
            return st.sampled_from(list(cls))
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=low, le=high):
            return st.integers(-(2**63) if low is None else low, 2**63 - 1 if high is None else high)
        case inspect.StrType(min_length=low, max_length=high, pattern=pattern):
            if pattern is not None and "BEGIN" in pattern:
                head = "-----BEGIN CERTIFICATE REQUEST-----\n"
                return st.text(string.ascii_letters + "\n ").map(head.__add__)
            if pattern == FINGERPRINT_PATTERN:
                return st.from_regex(pattern, fullmatch=True)
            return st.text(
                ORDINARY, min_size=low or 0, max_size=LONGEST if high is None else min(high, LONGEST)
            )
        case inspect.VarTupleType(item_type=item, min_length=low, max_length=high):
            fewest = low or 0
            return st.lists(_values(item), min_size=fewest, max_size=_most(fewest, high, 3)).map(tuple)
        case inspect.DictType(value_type=value):
            return st.dictionaries(st.text(ORDINARY, max_size=LONGEST), _values(value), max_size=3)
    raise TypeError(f"no values of {kind}")


def structs_in(module: Any) -> list[type[msgspec.Struct]]:
    """The entities that a module defines."""
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == module.__name__
    ]
