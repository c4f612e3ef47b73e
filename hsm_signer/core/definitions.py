"""Field types of the entities, looked up once, and error messages made from them.

Entities are msgspec structs (types.py and beside it).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

MAX_QUOTED = 64
"""Characters of a field's name, as somebody sent it, that an error repeats."""
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$([^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `\$([^`]*)`)?", re.DOTALL)
_PLACE = re.compile(r" - at `\$([^`]*)`\Z")
_STEPS = re.compile(r"\.([^.\[\]]+)|\[([^\]]*)\]")


class FieldType(NamedTuple):
    """A field's type without metadata and None, which stand beside it."""

    type: inspect.Type
    extra: dict[str, Any]
    """Of its Meta: ``json``, the form in JSON; ``lengths``, those that bytes may have."""
    nullable: bool


class Fault(NamedTuple):
    """A description of what is wrong with a value."""

    path: str
    """``.digests[3]``; "" for the value itself."""
    words: str


@cache
def definition(kind: Any) -> inspect.Type:
    """Return the type as which msgspec reads ``kind``."""
    return inspect.type_info(kind)


def field_type(kind: inspect.Type) -> FieldType:
    """Separate a type from its metadata and None."""
    extra: dict[str, Any] = {}
    nullable = False
    while True:
        match kind:
            case inspect.Metadata(type=inner):
                extra |= kind.extra or {}
                kind = inner
            case inspect.UnionType(types=types) if len(types) == 2 and kind.includes_none:
                (kind,) = (member for member in types if not isinstance(member, inspect.NoneType))
                nullable = True
            case _:
                return FieldType(kind, extra, nullable)


def lengths_of(field: FieldType) -> tuple[int, ...]:
    """Return the lengths that a field of bytes may have; empty for a range."""
    kind = field.type
    assert isinstance(kind, inspect.BytesType)
    if "lengths" in field.extra:
        return tuple(field.extra["lengths"])
    if kind.min_length == kind.max_length and kind.min_length is not None:
        return (kind.min_length,)
    return ()


def expected(kind: inspect.Type, *, json: bool = True) -> str:
    """Describe in words what a value has to be; ``json``: in the dialect of core/json_codec.py."""
    field = field_type(kind)
    match field.type:
        case inspect.BytesType(min_length=low, max_length=high):
            exact = lengths_of(field)
            if json and field.extra.get("json") == "hexadecimal":
                return f"{' or '.join(str(2 * length) for length in exact)} lower-case hexadecimal digits"
            span = " or ".join(map(str, exact)) if exact else f"{low or 0} to {high}"
            return f"base64 of {span} bytes" if json else f"{span} bytes"
        case inspect.IntType() if json and field.extra.get("json") == "time":
            return "a time in UTC, as 2025-12-31T23:59:59.000000Z"
        case inspect.IntType(ge=low, le=high):
            quoted = " as decimal digits in quotes" if json and is_long(field) else ""
            return f"an integer from {low} to {high}{quoted}"
        case inspect.StrType(min_length=low, max_length=high, pattern=pattern):
            without = {r"^[^\x00]*$": " without NUL", r"^[^\x00-\x1f\x7f]*$": " without control characters"}
            span = "" if high is None else f" of {low or 0} to {high} characters"
            return f"text{span}{without.get(pattern or '', '')}"
        case inspect.EnumType(cls=cls):
            return f"one of: {', '.join(member.value for member in cls)}"
        case inspect.LiteralType(values=values):
            return f"one of: {', '.join(map(str, values))}"
        case inspect.VarTupleType(min_length=low, max_length=high):
            return f"a list of {low or 0} to {high}" if high is not None else "a list"
        case inspect.BoolType():
            return "true or false"
    return "a JSON object" if json else "a known value"


def is_long(field: FieldType) -> bool:
    """Tell whether an integer may be larger than JavaScript's numbers are exact (2**53)."""
    return isinstance(field.type, inspect.IntType) and (field.type.le or 0) > 2**53


def fault(error: msgspec.ValidationError, kind: Any, *, json: bool = True) -> Fault:
    """Describe what msgspec found wrong with a value for ``kind``, without quoting the value."""
    message = str(error)
    for pattern, words in ((_UNKNOWN, "unknown"), (_MISSING, "missing")):
        if match := pattern.fullmatch(message):
            return Fault(match[2] or "", f"{words} field {match[1][:MAX_QUOTED]!a}")
    path = place(error)
    return Fault(path, f"expected {expected(_at(definition(kind), path), json=json)}")


def place(error: Exception) -> str:
    """Find the place in a value that an error of msgspec names: ``.digests[3]``; "" for the value itself."""
    match = _PLACE.search(str(error))
    return "" if match is None else match[1]


def _at(kind: inspect.Type, path: str) -> inspect.Type:
    for name, _ in _STEPS.findall(path):
        inner = field_type(kind).type
        match inner:
            case inspect.StructType(fields=fields):
                kind = next(field.type for field in fields if field.encode_name == name)
            case inspect.VarTupleType(item_type=item):
                kind = item
            case inspect.DictType(value_type=value):
                kind = value
    return kind
