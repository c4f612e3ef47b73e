"""How requests are read: queries, JSON strictly, messages in pieces to disk."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.message import Message as Header
from typing import Any, BinaryIO, TypeVar

from msgspec import Struct, inspect
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from hsm_signer.core import json_codec
from hsm_signer.core.definitions import definition, field_type, is_long
from hsm_signer.errors import InputError, RequestTooLarge
from hsm_signer.service.front.calls import call_before_body
from hsm_signer.service.front.problems import HttpError
from hsm_signer.service.wire.operations import WhoAmI

T = TypeVar("T", bound=Struct)

AUTHORISATION_LIMIT = 16 << 10
"""Bytes of the part "authorisation" of a message's request."""
FREE = 16 << 10
"""Bytes of JSON that are read for anybody; of what is longer, a worker has to know the sender first."""
MAX_NAMES = 100
"""Names in one object."""
_PARTS = "expected the part authorisation (JSON), then the part message (a file), and no others"


def read_query(request: Request, kind: type[T]) -> T:
    """The query's parameters as a struct; raises InputError, also for a name that is given twice."""
    items = request.query_params.multi_items()
    values: dict[str, Any] = dict(items)
    if len(values) != len(items):
        raise InputError("query: a name is given twice")
    described = definition(kind)
    assert isinstance(described, inspect.StructType)
    for parameter in described.fields:
        field = field_type(parameter.type)
        text = values.get(parameter.encode_name, "")
        # In JSON these are numbers, which a query does not have.
        if (
            isinstance(field.type, inspect.IntType)
            and not is_long(field)
            and re.fullmatch("[0-9]{1,16}", text)
        ):
            values[parameter.encode_name] = int(text)
    return json_codec.read(kind, values, what="query")


async def read_json(request: Request, kind: type[T]) -> T:
    """The body as a struct; raises as :func:`json_value` does."""
    return json_codec.read(kind, await json_value(request))


async def json_value(request: Request) -> Any:
    """The body, one JSON text in UTF-8, sent as application/json, no name twice in an object.

    Raises HttpError 415, InputError, and what :func:`body_of` raises.
    """
    require_media_type(request, "application/json")
    return strict_json(await body_of(request), "body")


async def body_of(request: Request) -> bytes:
    """The whole body, of a sender that a worker knows where it is long.

    To check a megabyte of JSON, fault by fault, takes seconds, and nobody else is served meanwhile. Raises
    NotAuthenticated, and whatever a worker refuses with, where a long body is a stranger's.
    """
    body = await request.body()
    if len(body) > FREE:
        await call_before_body(request, WhoAmI())
    return body


def require_media_type(request: Request, expected: str) -> None:
    """Raises HttpError 415."""
    header = Header()
    header["content-type"] = request.headers.get("content-type", "")
    # With a media type it cannot read, Message says text/plain.
    if header.get_content_type() != expected:
        raise HttpError(415, "request.media-type", f"content-type: expected {expected}")


def strict_json(data: bytes, what: str) -> Any:
    """The value; raises InputError for anything but JSON in UTF-8 with each name once (RFC 8259, 4)."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{what}: expected UTF-8") from None

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > MAX_NAMES:
            raise InputError(f"{what}: expected at most {MAX_NAMES} names in an object, got {len(pairs)}")
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InputError(f"{what}: a name stands twice in one object")
        return found

    def no_constant(_: str) -> Any:
        raise InputError(f"{what}: expected JSON, which has no NaN or Infinity")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise InputError(f"{what}: expected JSON") from None


@dataclass(frozen=True, slots=True)
class MessageParts:
    """The two parts of a message's request."""

    authorisation: Any
    """JSON value."""
    message: BinaryIO
    size: int
    """Bytes of the message."""


async def message_parts(request: Request, limit: int) -> MessageParts:
    """multipart/form-data (RFC 7578): the message in memory up to 1 MiB, then in a temporary file.

    Raises HttpError 415, InputError, RequestTooLarge for a message above ``limit`` bytes.
    """
    require_media_type(request, "multipart/form-data")
    try:
        parser = MultiPartParser(
            request.headers, request.stream(), max_files=2, max_fields=1, max_part_size=AUTHORISATION_LIMIT
        )
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError, LookupError) as error:
        words = error.message if isinstance(error, MultiPartException) else _PARTS
        raise InputError(f"body: not multipart/form-data: {words.rstrip('.').lower()}", hint=_PARTS) from None
    try:
        return await _parts_of(form, limit)
    except BaseException:
        await form.close()
        raise


async def _parts_of(form: FormData, limit: int) -> MessageParts:
    items = form.multi_items()
    if [name for name, _ in items] != ["authorisation", "message"]:
        raise InputError(f"body: {_PARTS}")
    (_, authorisation), (_, message) = items
    if not isinstance(message, UploadFile):
        raise InputError("message: expected a file: a part with a filename")
    if isinstance(authorisation, UploadFile):
        if (authorisation.size or 0) > AUTHORISATION_LIMIT:
            raise RequestTooLarge(f"authorisation: expected at most {AUTHORISATION_LIMIT} bytes")
        text = await authorisation.read()
        await authorisation.close()
    else:
        text = authorisation.encode("utf-8", "surrogatepass")
    size = message.size or 0
    if size > limit:
        raise RequestTooLarge(f"message: expected at most {limit} bytes")
    return MessageParts(strict_json(text, "authorisation"), message.file, size)
