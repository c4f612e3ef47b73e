"""An anchor: one hash over every credential's last evidence entry, to keep outside the database.

Whoever can write the whole database can put back an old row together with an old chain, and nothing inside
it can tell. An anchor printed before that can: the chains only ever grow, so what they were when the anchor
was made can be computed again at any later time, from the entries up to ``last_entry``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from hsm_signer.core import identity, json_codec
from hsm_signer.core.canonical import number, value
from hsm_signer.errors import EnrolmentProofWrong, IdentityChanged, InputError, StoreDamaged
from hsm_signer.types import (
    MAX_TIME,
    U64,
    Digest,
    Fingerprint,
    InstallationId,
    InstallationSignature,
    Sha256,
    Time,
)

from .chain import Head
from .findings import ANCHOR_CREDENTIALS, ANCHOR_ENTRIES, ANCHOR_ROOT, ANCHOR_SIGNATURE, Finding
from .merkle import merkle_root

ANCHOR_PREFIX = b"hsm-signer/2/anchor"
_MAX_TEXT = 4096
"""Characters; an anchor has some 600, and a file named by mistake need not be parsed."""
_HINT = "an anchor is the line that `hsm-signer audit head` prints"


class Anchor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What ``audit head`` prints and ``audit verify --anchor`` reads."""

    format: Literal[2]
    time: Time
    """When it was made."""
    last_entry: U64
    """The store's number of the newest entry it covers; 0 if there is none."""
    credentials: U64
    """How many chains there were: one a credential, one of the installation itself."""
    entries: U64
    """How many entries there were in all chains together."""
    root: Sha256
    """Merkle root (RFC 6962, 2.1). One leaf per credential, ordered by credential id:
    credential id(16) || u64 sequence || SHA-256(last entry)(32)."""
    signed: InstallationSignature | None
    """The installation's signature over all the rest; None in anchors of version 0.1."""


def make_anchor(*, time: int, last_entry: int, heads: Iterable[Head]) -> Anchor:
    """Make an anchor over ``heads``, the last entries of all chains counting entries up to ``last_entry``.

    It is not signed yet. ``time`` is in microseconds since 1970-01-01T00:00:00Z, ``heads`` ascend by
    credential id. Raises StoreDamaged where they do not: a database that returns them so has a damaged index.
    """
    credentials = entries = 0

    def leaves() -> Iterator[bytes]:
        nonlocal credentials, entries
        before = b""
        for head in heads:
            if head.credential_id <= before:
                raise StoreDamaged("the database returns its rows in the wrong order; an index is damaged")
            before = head.credential_id
            credentials += 1
            entries += head.sequence
            yield head.credential_id + head.sequence.to_bytes(8, "big") + head.hash

    root = merkle_root(leaves())
    return Anchor(
        format=2,
        time=time,
        last_entry=last_entry,
        credentials=credentials,
        entries=entries,
        root=root,
        signed=None,
    )


def anchor_digest(anchor: Anchor, installation_id: InstallationId) -> Digest:
    """Return what an installation signs of an anchor: SHA-256 of its fields (protocol.md, section 5)."""
    counts = (anchor.time, anchor.last_entry, anchor.credentials, anchor.entries)
    fields = b"".join(number(count, 8) for count in counts)
    data = ANCHOR_PREFIX + value(installation_id) + fields + value(anchor.root)
    return Digest(hashlib.sha256(data).digest())


def check_signature(anchor: Anchor, pinned: Fingerprint) -> tuple[Finding, ...]:
    """Find whether an anchor is one that the installation with this fingerprint signed.

    One of version 0.1 has no signature: then nobody but its keeper can vouch for it.
    """
    signed = anchor.signed
    if signed is None:
        return ()
    try:
        identity.check_signature(signed, anchor_digest(anchor, signed.installation_id), pinned)
    except (IdentityChanged, EnrolmentProofWrong):
        words = "the anchor is not signed by this installation: another one made it, or it was changed"
        return (Finding(ANCHOR_SIGNATURE, words),)
    return ()


def check_anchor(anchor: Anchor, heads: Iterable[Head]) -> tuple[Finding, ...]:
    """Find what differs between ``anchor`` and ``heads``, the heads as of ``anchor.last_entry``.

    It can tell that something was changed or removed, not what: the root is all it has.
    """
    now = make_anchor(time=anchor.time, last_entry=anchor.last_entry, heads=heads)
    findings = []
    for code, was, found, name in (
        (ANCHOR_CREDENTIALS, anchor.credentials, now.credentials, "chains"),
        (ANCHOR_ENTRIES, anchor.entries, now.entries, "evidence entries"),
    ):
        if was != found:
            findings.append(
                Finding(code, f"the anchor covers {was} {name}, the store has {found} from that time")
            )
    if anchor.root != now.root:
        findings.append(
            Finding(ANCHOR_ROOT, "the evidence of the anchor's time is not what it was: changed or put back")
        )
    return tuple(findings)


def encode_anchor(anchor: Anchor) -> str:
    """Write an anchor as one line of JSON, without a newline at its end."""
    return json_codec.encode(anchor).decode("ascii")


def decode_anchor(text: str) -> Anchor:
    """Read the anchor in ``text``, JSON as :func:`encode_anchor` makes it, white space allowed.

    Raises InputError for anything else: an unknown or missing field, another type, another format.
    """
    if len(text) > _MAX_TEXT:
        raise InputError("this is no anchor: it is too long", hint=_HINT)
    try:
        return anchor_from_json(json_codec.parse(text.encode("utf-8", "surrogatepass"), "anchor"))
    except InputError as error:
        raise InputError(f"this is no anchor: {error.message}", hint=_HINT) from None


def anchor_from_json(document: Any) -> Anchor:
    """Read an anchor from JSON's values, also one that an older version made. Raises InputError."""
    if isinstance(document, dict) and type(document.get("format")) is int and document["format"] == 1:
        # The same content, its time and its counts as numbers, and no signature.
        document = {name: _respelt(name, item) for name, item in document.items()}
        document |= {"format": 2, "signed": None}
    return json_codec.read(Anchor, document, what="anchor")


def _respelt(name: str, value: Any) -> Any:
    """Convert a field of format 1 to format 2; None for what is no number."""
    if name not in ("time", "last_entry", "credentials", "entries"):
        return value
    if type(value) is not int or not 0 <= value <= MAX_TIME:
        return None
    return json_codec.time_to_json(value) if name == "time" else str(value)
