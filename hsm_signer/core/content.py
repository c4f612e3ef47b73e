"""Messages and digest lists, hashed in one pass with bounded memory.

What is authorised (H) and what is signed (the digests) come from the same reading of the message, so a file
that changes meanwhile cannot be authorised as one thing and signed as another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hsm_signer.errors import AlgorithmUnsuitable, FileError, InputError, os_words
from hsm_signer.types import (
    DIGEST_LENGTHS,
    MAX_DIGESTS,
    Algorithm,
    ByteSource,
    Content,
    Digest,
    DigestList,
    HashName,
    Message,
    Mode,
)

CHUNK = 65536
DIGEST_LIST_PREFIX = b"hsm-signer/1/digests"
MAX_ED25519_MESSAGE = 16 * 1024 * 1024
"""Ed25519 signs the message itself, so all of it goes to the token at once: a limit in bytes."""


@dataclass(frozen=True, slots=True)
class BytesSource:
    """A message in memory."""

    data: bytes = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """Return the message in one piece; nothing for the empty one."""
        if self.data:
            yield self.data


@dataclass(frozen=True, slots=True)
class FileSource:
    """A message in a file, read anew each time, :data:`CHUNK` bytes at once."""

    path: Path

    def chunks(self) -> Iterator[bytes]:
        """Read the file's bytes; raises FileError where it cannot be read."""
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise FileError(f"{self.path}: cannot be read: {os_words(error)}") from error


@dataclass(frozen=True, slots=True)
class Measured:
    """Content hashed: H and the digests to sign."""

    mode: Mode
    h: Digest
    """H: what the card's authorisation is bound to."""
    digests: tuple[Digest, ...]
    """What the token signs, in order; empty for Ed25519."""
    message: bytes | None = field(default=None, repr=False)
    """The message itself, for Ed25519 only."""


def digest_list_hash(digests: tuple[bytes, ...]) -> Digest:
    """Hash a digest list to H: SHA-256(prefix || u16 count || u8 length || digests), protocol.md, section 2.

    Raises InputError unless there are 1 to 65535 digests of one length, 32, 48 or 64 bytes.
    """
    if not 1 <= len(digests) <= MAX_DIGESTS:
        raise InputError(f"digests: expected 1 to {MAX_DIGESTS}, got {len(digests)}")
    length = len(digests[0])
    if length not in DIGEST_LENGTHS:
        raise InputError(f"digests: expected 32, 48 or 64 bytes each, got {length}")
    if any(len(digest) != length for digest in digests):
        raise InputError("digests: expected all of the same length")
    head = len(digests).to_bytes(2, "big") + bytes([length])
    return Digest(hashlib.sha256(DIGEST_LIST_PREFIX + head + b"".join(digests)).digest())


def measure(content: Content, algorithm: Algorithm) -> Measured:
    """Hash content to H and the digests to sign (steps 491, 695, 886).

    Raises AlgorithmUnsuitable where the digests' length is not the algorithm's, or Ed25519 meets a digest
    list or a message over 16 MiB; FileError; InputError.
    """
    if isinstance(content, DigestList):
        h = digest_list_hash(content.digests)
        if algorithm.hash is None:
            raise AlgorithmUnsuitable("ed25519 signs a whole message, not a list of digests")
        if len(content.digests[0]) != algorithm.hash.length:
            raise AlgorithmUnsuitable(
                f"digests: {algorithm.value} signs digests of {algorithm.hash.length} bytes, "
                f"got {len(content.digests[0])}"
            )
        return Measured(Mode.DIGESTS, h, content.digests)
    return _measure_message(content, algorithm)


def _measure_message(content: Message, algorithm: Algorithm) -> Measured:
    digests = digests_of(content.source, {HashName.SHA256, algorithm.hash})
    h = Digest(digests[HashName.SHA256])
    if algorithm.hash is None:
        return Measured(Mode.MESSAGE, h, (), digests[None])
    return Measured(Mode.MESSAGE, h, (Digest(digests[algorithm.hash]),))


def digests_of(
    source: ByteSource,
    hash_names: Collection[HashName | None],
    progress: Callable[[int], None] | None = None,
) -> dict[HashName | None, bytes]:
    """Read a message once; return its digest by each hash, and under None the message itself, for Ed25519.

    ``progress`` is told the bytes of each chunk. Raises AlgorithmUnsuitable for a message over 16 MiB where
    None is among ``hash_names``; FileError.
    """
    running = {name: hashlib.new(name.value) for name in hash_names if name is not None}
    whole = bytearray()
    for chunk in source.chunks():
        for digest in running.values():
            digest.update(chunk)
        if None in hash_names:
            whole += chunk
            if len(whole) > MAX_ED25519_MESSAGE:
                raise AlgorithmUnsuitable(f"message: ed25519 takes at most {MAX_ED25519_MESSAGE} bytes")
        if progress is not None:
            progress(len(chunk))
    return {**{name: digest.digest() for name, digest in running.items()}, None: bytes(whole)}


def file_digest(path: Path, hash_name: HashName, progress: Callable[[int], None] | None = None) -> Digest:
    """Hash a file; ``progress`` is told the bytes of each chunk. Raises FileError."""
    return Digest(digests_of(FileSource(path), {hash_name}, progress)[hash_name])
