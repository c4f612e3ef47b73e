"""JSON of every entity, made from its definition: one dialect for the service and the command line.

Identifiers and hashes are lower-case hexadecimal digits, other bytes base64 with padding (RFC 4648, 4,
padding bits zero: one spelling for each value), times RFC 3339 in UTC with microseconds, integers that may
not fit into 53 bits text of decimal digits, enumerations their names, absent values null.

Reading is strict: a field that is unknown, missing, of another type, length or range raises InputError with
the field's name and what was expected. What was found is never quoted: it may be a quantity.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Hashable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect

from hsm_signer.errors import InputError

from .definitions import FieldType, definition, expected, fault, field_type, is_long

T = TypeVar("T")
Convert = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_DECIMAL = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)
_HEXADECIMAL = re.compile(r"[0-9a-f]*")


# --- writing -----------------------------------------------------------------------------------------------


def to_json(value: Any) -> Any:
    """Convert a struct, or several, to values that :mod:`json` writes."""
    built = msgspec.to_builtins(value, builtin_types=(bytes,))
    if isinstance(value, msgspec.Struct):
        convert = _plan(type(value), _writer)
        return built if convert is None else convert(built)
    return [to_json(item) for item in value]


def encode(value: Any) -> bytes:
    """Encode a struct, or several, as JSON in UTF-8."""
    return msgspec.json.encode(to_json(value))


def time_to_json(microseconds: int) -> str:
    """Format a time as RFC 3339 in UTC; ``microseconds`` since 1970-01-01T00:00:00Z."""
    when = _EPOCH + timedelta(microseconds=microseconds)
    return when.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _writer(field: FieldType) -> Convert | None:
    match field.type:
        case inspect.BytesType():
            return bytes.hex if field.extra.get("json") == "hexadecimal" else _to_base64
        case inspect.IntType() if field.extra.get("json") == "time":
            return time_to_json
        case inspect.IntType() if is_long(field):
            return str
    return None


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


# --- reading -----------------------------------------------------------------------------------------------


def read(kind: type[T], value: Any, where: str = "", *, what: str = "body") -> T:
    """Convert ``value``, as :mod:`json` reads it, to ``kind``. Raises InputError.

    ``where``: the field that this is the value of, in errors; ``what``: what else to call it.
    """
    convert = _plan(cast(Hashable, kind), _reader)
    try:
        if convert is not None:
            value = convert(value)
        return msgspec.convert(value, kind, builtin_types=(bytes,))
    except _Unfit as unfit:
        path, words = unfit.path, unfit.words
    except msgspec.ValidationError as error:
        path, words = fault(error, kind)
    except UnicodeEncodeError:
        # A lone surrogate where no text is expected at all, or in a name.
        path, words = "", "expected text that has an encoding in UTF-8"
    # Not "from error": its words may quote what was sent.
    raise InputError(f"{(where + path).lstrip('.') or what}: {words}")


def decode(kind: type[T], data: bytes, *, what: str) -> T:
    """Decode JSON in UTF-8 as ``kind``; raises InputError."""
    return read(kind, parse(data, what), what=what)


def parse(data: bytes, what: str) -> Any:
    """Decode JSON in UTF-8 to Python's values; raises InputError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        raise InputError(f"{what}: expected JSON") from None


class _Unfit(Exception):
    """A value that the dialect does not allow, and its place."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words
        self.path = ""


def _reader(field: FieldType) -> Convert | None:
    read_text: Convert
    match field.type:
        case inspect.BytesType() if field.extra.get("json") == "hexadecimal":
            read_text = _from_hexadecimal
        case inspect.BytesType():
            read_text = _from_base64
        case inspect.IntType() if field.extra.get("json") == "time":
            read_text = _from_time
        case inspect.IntType() if is_long(field):
            read_text = _from_decimal
        case inspect.StrType():
            read_text = _from_text
        case _:
            return None
    words = f"expected {expected(inspect.Metadata(field.type, extra=field.extra))}"
    # Other bounds are msgspec's to hold.
    lengths = field.extra.get("lengths")

    def convert(value: Any) -> Any:
        found: Any = read_text(value) if isinstance(value, str) else None
        if found is None or (lengths is not None and len(found) not in lengths):
            raise _Unfit(words)
        return found

    return convert


def _from_hexadecimal(text: str) -> bytes | None:
    return bytes.fromhex(text) if len(text) % 2 == 0 and _HEXADECIMAL.fullmatch(text) else None


def _from_base64(text: str) -> bytes | None:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # Other padding bits would be other text of the same bytes.
    return found if _to_base64(found) == text else None


def _from_time(text: str) -> int | None:
    if _TIME.fullmatch(text) is None:
        return None
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
    except ValueError:
        return None


def _from_decimal(text: str) -> int | None:
    return int(text) if _DECIMAL.fullmatch(text) else None


def _from_text(text: str) -> str | None:
    """Check text: a lone surrogate has no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return text


# --- both --------------------------------------------------------------------------------------------------


@cache
def _plan(kind: Hashable, leaf: Callable[[FieldType], Convert | None]) -> Convert | None:
    """Make the function that converts values of ``kind``; None where there is nothing to convert.

    Whatever is of another shape is left as it is, for msgspec to refuse.
    """
    return _convert(definition(kind), leaf)


def _convert(kind: inspect.Type, leaf: Callable[[FieldType], Convert | None]) -> Convert | None:
    field = field_type(kind)
    match field.type:
        case inspect.StructType(fields=fields):
            inner = {part.encode_name: _convert(part.type, leaf) for part in fields}
            convert = _for_struct({name: found for name, found in inner.items() if found is not None})
        case inspect.VarTupleType(item_type=item):
            convert = _for_list(_convert(item, leaf))
        case _:
            convert = leaf(field)
    if convert is None or not field.nullable:
        return convert
    present = convert
    return lambda value: None if value is None else present(value)


def _for_struct(fields: dict[str, Convert]) -> Convert | None:
    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        found = dict(value)
        for name, inner in fields.items():
            if name in found:
                try:
                    found[name] = inner(found[name])
                except _Unfit as unfit:
                    unfit.path = f".{name}{unfit.path}"
                    raise
        return found

    return convert if fields else None


def _for_list(item: Convert | None) -> Convert | None:
    def convert(values: Any) -> Any:
        if not isinstance(values, list | tuple):
            return values
        found: list[Any] = []
        try:
            for value in values:
                found.append(item(value))  # type: ignore[misc]
        except _Unfit as unfit:
            unfit.path = f"[{len(found)}]{unfit.path}"
            raise
        return found

    return None if item is None else convert
