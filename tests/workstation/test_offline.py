"""Requests in files: what is written is read, and nothing else is."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from hsm_signer.core.content import BytesSource
from hsm_signer.errors import InputError
from hsm_signer.types import (
    Algorithm,
    Authorisation,
    Content,
    CredentialId,
    Digest,
    DigestList,
    Message,
    Quantity,
    RollingValue,
)
from hsm_signer.workstation import offline

AUTHORISATION = Authorisation(
    credential_id=CredentialId(bytes(range(16))),
    algorithm=Algorithm.ECDSA_SHA256,
    x=None,
    rolling_values=(),
    nonce=bytes(16),
    quantities=(Quantity(bytes(40)),),
)
DIGESTS = DigestList((Digest(bytes(32)), Digest(b"\1" * 32)))
NAMES = ("contract.pdf", "größe.txt")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (DIGESTS, NAMES),
        (Message(BytesSource(b"a message")), ("note.txt",)),
        (Message(BytesSource(b"")), ("note.txt",)),
        (Message(BytesSource(bytes(offline.MAX_MESSAGE))), ("note.txt",)),
    ],
    ids=["digests", "message", "nothing", "as large as allowed"],
)
def test_what_is_written_is_read(content: Content, names: tuple[str, ...]) -> None:
    found = offline.decode(offline.encode(AUTHORISATION, content, names))
    assert found.names == names
    assert found.request.authorisation == AUTHORISATION
    assert found.request.content == content


def test_files_of_an_older_version_are_read() -> None:
    """Format 1: the counter as x, digests in base64."""
    answer = {
        "algorithm": "ecdsa-sha256",
        "x": None,
        "rolling_values": [],
        "nonce": base64.b64encode(bytes(16)).decode(),
        "quantities": [base64.b64encode(bytes(40)).decode()],
    }
    made = {
        "format": "hsm-signer/1/request",
        "credential_id": AUTHORISATION.credential_id.hex(),
        "authorisation": answer,
        "names": list(NAMES),
        "digests": [base64.b64encode(digest).decode() for digest in DIGESTS.digests],
        "message": None,
    }
    found = offline.decode(json.dumps(made).encode())
    assert (found.request.authorisation, found.request.content) == (AUTHORISATION, DIGESTS)
    assert found.names == NAMES
    note = made | {"digests": None, "message": base64.b64encode(b"a message").decode(), "names": ["note"]}
    assert offline.decode(json.dumps(note).encode()).request.content == Message(BytesSource(b"a message"))
    for wrong in (
        {"digests": ["00" * 32]},
        {"digests": 5},
        {"authorisation": answer | {"x": 1}},
        {"colour": 1},
    ):
        with pytest.raises(InputError):
            offline.decode(json.dumps(made | wrong).encode())


def document(**changes: Any) -> bytes:
    """A good file with other fields; a field that is ... is left out."""
    made = json.loads(offline.encode(AUTHORISATION, DIGESTS, NAMES))
    made |= changes
    return json.dumps({name: value for name, value in made.items() if value is not ...}).encode()


ROLLING = {
    **json.loads(document())["authorisation"],
    "counter": "1",
    "rolling_values": [base64.b64encode(bytes(32)).decode()],
}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "request: expected JSON"),
        (document()[:-2], "request: expected JSON"),
        (document()[: len(document()) // 2], "request: expected JSON"),
        (b"[]", 'expected a JSON object with "format"'),
        (b"{}", 'expected a JSON object with "format"'),
        (b'{"format": "somebody-else/1"}', 'expected a JSON object with "format"'),
        (document(format="hsm-signer/3/request"), 'expected a JSON object with "format"'),
        (document(format=["hsm-signer/1/request"]), 'expected a JSON object with "format"'),
        (document(colour=1), "request: unknown field 'colour'"),
        (document(names=...), "request: missing field 'names'"),
        (document(digests=...), "request: missing field 'digests'"),
        (document(credential_id="00"), "credential_id: expected 32 lower-case"),
        (document(authorisation=None), "authorisation: expected a JSON object"),
        (document(authorisation={}), "authorisation: missing field 'algorithm'"),
        (document(authorisation=ROLLING), "authorisation: is of scheme rolling"),
        (document(digests=None), "digests: expected a list"),
        (document(message=""), "expected digests or a message, not both"),
        (document(message="QUJD", digests=None), "names: expected a list of 1"),
        (document(message="?", digests=None, names=["a"]), "message: expected base64"),
        (
            document(
                message=base64.b64encode(bytes(offline.MAX_MESSAGE + 1)).decode(), digests=None, names=["a"]
            ),
            "message: expected base64 of 0 to 1048576 bytes",
        ),
        (document(names=["a"]), "names: expected a list of 2"),
        (document(names=["a", 1]), r"names\[1\]: expected text"),
        (document(names=["a", "a"]), "two files have the same name"),
        (b" " * (offline.MAX_FILE + 1), "expected at most 16777216 bytes"),
    ],
)
def test_each_mistake_is_named(data: bytes, words: str) -> None:
    offline.decode(document())
    with pytest.raises(InputError, match=words):
        offline.decode(data)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/b", "a\\b", "a\0b", "a\nb", "\x1b[2J", "x" * 252, "\udc80"]
)
def test_names_lead_nowhere_else(name: str) -> None:
    with pytest.raises(InputError, match=r"names\[1\]: expected"):
        offline.encode(AUTHORISATION, DIGESTS, ("a", name))
    if name != "\udc80":
        with pytest.raises(InputError, match=r"names\[1\]: expected"):
            offline.decode(document(names=["a", name]))


def test_the_longest_name_leaves_room_for_its_ending() -> None:
    assert offline.decode(document(names=["a", "x" * 251])).names[1] == "x" * 251


def test_what_cannot_be_written() -> None:
    with pytest.raises(InputError, match="message: expected at most 1048576 bytes"):
        offline.encode(AUTHORISATION, Message(BytesSource(bytes(offline.MAX_MESSAGE + 1))), ("a",))
    rolling = Authorisation(
        AUTHORISATION.algorithm,
        1,
        (RollingValue(bytes(32)),),
        AUTHORISATION.nonce,
        AUTHORISATION.quantities,
        AUTHORISATION.credential_id,
    )
    with pytest.raises(InputError, match="needs the server's challenge"):
        offline.encode(rolling, DIGESTS, NAMES)
    names = tuple(f"{number:0250}" for number in range(65535))
    with pytest.raises(InputError, match="request: longer than"):
        offline.encode(AUTHORISATION, DigestList((Digest(bytes(32)),) * 65535), names)
