"""An authorisation in a file: made where the card is, carried out later (docs/understand/protocol.md, 3).

For schemes basic and pin, whose cards need no challenge. The file is JSON, one :class:`RequestFile`. It holds
Q: in scheme basic that is as good as the card's key for whoever also has token and store, so it is kept like
a key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from hsm_signer.core import json_codec
from hsm_signer.core.content import BytesSource
from hsm_signer.core.interface import Digests
from hsm_signer.errors import InputError
from hsm_signer.types import (
    MAX_DIGESTS,
    Authorisation,
    CardAnswer,
    Content,
    CredentialId,
    DigestList,
    Message,
    Signature,
    SigningRequest,
)

FORMAT = "hsm-signer/2/request"
FORMAT_1 = "hsm-signer/1/request"
"""The counter as ``x``, digests in base64; the same content."""
MAX_MESSAGE = 1 << 20
"""Bytes of a message that travels whole."""
MAX_FILE = 16 << 20
"""Bytes of the whole file."""
MAX_NAME = 255
"""UTF-8 bytes of a name, as file systems have it, its ending for the signature included."""
ENDING = ".sig"


class RequestFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of a request file; either ``digests`` or ``message`` is there, the other null."""

    format: Literal["hsm-signer/2/request"]
    credential_id: CredentialId
    authorisation: CardAnswer
    names: tuple[str, ...]
    """Of what is signed."""
    digests: Digests | None
    message: Annotated[bytes, Meta(max_length=MAX_MESSAGE)] | None


@dataclass(frozen=True, slots=True)
class OfflineRequest:
    """A signing request read from a file, and the names of what is signed."""

    request: SigningRequest
    names: tuple[str, ...]
    """Names of files without folders, each another; as many as there will be signatures."""


def encode(authorisation: Authorisation, content: Content, names: tuple[str, ...]) -> bytes:
    """Encode a request file. Raises InputError for what is too large or has no name that can be kept."""
    if authorisation.x is not None or authorisation.rolling_values:
        raise InputError(
            "a card of scheme rolling needs the server's challenge: nothing can be made in advance"
        )
    check_names(names)
    message = b"".join(content.source.chunks()) if isinstance(content, Message) else None
    if message is not None and len(message) > MAX_MESSAGE:
        raise InputError(f"message: expected at most {MAX_MESSAGE} bytes")
    document = RequestFile(
        format="hsm-signer/2/request",
        credential_id=authorisation.credential_id,
        authorisation=authorisation.answer,
        names=names,
        digests=content.digests if isinstance(content, DigestList) else None,
        message=message,
    )
    encoded = json.dumps(json_codec.to_json(document), indent=2).encode("ascii") + b"\n"
    if len(encoded) > MAX_FILE:
        raise InputError(f"request: longer than {MAX_FILE} bytes", hint="authorise fewer files at once")
    return encoded


def decode(data: bytes) -> OfflineRequest:
    """Read a file that :func:`encode` made. Raises InputError naming the field and what was expected."""
    if len(data) > MAX_FILE:
        raise InputError(f"request: expected at most {MAX_FILE} bytes")
    value = json_codec.parse(data, "request")
    if not isinstance(value, dict) or value.get("format") not in (FORMAT, FORMAT_1):
        raise InputError(f'request: expected a JSON object with "format": "{FORMAT}"')
    if value["format"] == FORMAT_1:
        value = _as_format_2(value)
    document = json_codec.read(RequestFile, value, what="request")
    authorisation = Authorisation.of(document.credential_id, document.authorisation)
    if authorisation.x is not None or authorisation.rolling_values:
        raise InputError("authorisation: is of scheme rolling, and cannot have been made in advance")
    content: Content
    if document.message is None:
        if document.digests is None:
            raise InputError("digests: expected a list where there is no message")
        content, expected = DigestList(document.digests), len(document.digests)
    elif document.digests is None:
        content, expected = Message(BytesSource(document.message)), 1
    else:
        raise InputError("request: expected digests or a message, not both")
    if len(document.names) != expected:
        raise InputError(f"names: expected a list of {expected}, as many as there are signatures")
    check_names(document.names)
    return OfflineRequest(SigningRequest(authorisation, content), document.names)


def _as_format_2(document: dict[str, Any]) -> dict[str, Any]:
    """Convert a file of format 1 to format 2. Raises InputError."""
    answer, digests = document.get("authorisation"), document.get("digests")
    if isinstance(answer, dict):
        answer = {"counter" if name == "x" else name: value for name, value in answer.items()}
    if digests is not None:
        digests = [digest.hex() for digest in json_codec.read(tuple[Signature, ...], digests, "digests")]
    return document | {"format": FORMAT, "authorisation": answer, "digests": digests}


def check_names(names: tuple[str, ...]) -> None:
    """Check that all are names of files without folders, no two the same. Raises InputError."""
    if not 1 <= len(names) <= MAX_DIGESTS:
        raise InputError(f"names: expected 1 to {MAX_DIGESTS}")
    for number, name in enumerate(names):
        try:
            length = len(name.encode("utf-8"))
        except UnicodeEncodeError:
            raise InputError(f"names[{number}]: expected text in UTF-8") from None
        if not 1 <= length <= MAX_NAME - len(ENDING) or not name.isprintable() or "/" in name or "\\" in name:
            raise InputError(f"names[{number}]: expected a file's name, printable and without folders")
    if len(set(names)) != len(names):
        raise InputError(
            "names: two files have the same name, and so would their signatures",
            hint="authorise them one by one",
        )
