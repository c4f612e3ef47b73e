"""An authorisation in a file: made where the card is, carried out later (docs/understand/protocol.md, 3).

For schemes basic and pin, whose cards need no challenge. The file is JSON, one object with exactly these
fields: ``format``, ``credential_id``, ``authorisation`` (as the service takes it), ``names`` of what is
signed, and either ``digests`` or ``message``, the other null. It holds Q: in scheme basic that is as good as
the card's key for whoever also has token and store, so it is kept like a key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hsm_signer.core import forms
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import InputError
from hsm_signer.types import MAX_DIGESTS, Authorisation, Content, DigestList, Message, SigningRequest

FORMAT = "hsm-signer/1/request"
MAX_MESSAGE = 1 << 20
"""Bytes of a message that travels whole."""
MAX_FILE = 16 << 20
"""Bytes of the whole file."""
MAX_NAME = 255
"""UTF-8 bytes of a name, as file systems have it, its ending for the signature included."""
ENDING = ".sig"
_FIELDS = ("format", "credential_id", "authorisation", "names", "digests", "message")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request and what its signatures are of."""

    request: SigningRequest
    names: tuple[str, ...]
    """Names of files without folders, each another; as many as there will be signatures."""


def encode(authorisation: Authorisation, content: Content, names: tuple[str, ...]) -> bytes:
    """The file's bytes. Raises InputError for what is too large or has no name that can be kept."""
    if authorisation.x is not None or authorisation.rolling_values:
        raise InputError(
            "a card of scheme rolling needs the server's challenge: nothing can be made in advance"
        )
    check_names(names)
    document: forms.Json = {
        "format": FORMAT,
        "credential_id": authorisation.credential_id.hex(),
        "authorisation": forms.authorisation_to_json(authorisation),
        "names": list(names),
        "digests": None,
        "message": None,
    }
    if isinstance(content, Message):
        message = b"".join(content.source.chunks())
        if len(message) > MAX_MESSAGE:
            raise InputError(f"message: expected at most {MAX_MESSAGE} bytes")
        document["message"] = forms.bytes_to_json(message)
    else:
        document["digests"] = forms.digests_to_json(content.digests)
    encoded = json.dumps(document, indent=2).encode("ascii") + b"\n"
    if len(encoded) > MAX_FILE:
        raise InputError(f"request: longer than {MAX_FILE} bytes", hint="authorise fewer files at once")
    return encoded


def decode(data: bytes) -> Prepared:
    """Read a file that :func:`encode` made. Raises InputError naming the field and what was expected."""
    if len(data) > MAX_FILE:
        raise InputError(f"request: expected at most {MAX_FILE} bytes")
    document = forms.decode(data, "request")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f'request: expected a JSON object with "format": "{FORMAT}"')
    forms.check_fields(document, _FIELDS, "request")
    authorisation = forms.authorisation_from_json(
        forms.identifier_from_json(document["credential_id"]), document["authorisation"], "authorisation"
    )
    if authorisation.x is not None or authorisation.rolling_values:
        raise InputError("authorisation: is of scheme rolling, and cannot have been made in advance")
    content: Content
    if document["message"] is None:
        content = DigestList(forms.digests_from_json(document["digests"]))
        expected = len(content.digests)
    elif document["digests"] is None:
        message = forms.octets_from_json(document["message"], "message")
        if len(message) > MAX_MESSAGE:
            raise InputError(f"message: expected at most {MAX_MESSAGE} bytes")
        content, expected = Message(BytesSource(message)), 1
    else:
        raise InputError("request: expected digests or a message, not both")
    names = document["names"]
    if not isinstance(names, list) or len(names) != expected or not all(isinstance(n, str) for n in names):
        raise InputError(f"names: expected a list of {expected}, as many as there are signatures")
    check_names(tuple(names))
    return Prepared(SigningRequest(authorisation, content), tuple(names))


def check_names(names: tuple[str, ...]) -> None:
    """Each one a file's name in whatever folder, and no two the same. Raises InputError."""
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
