"""Messages and digest lists: one reading, bounded memory, H as the card computes it."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_signer.core import content
from hsm_signer.core.content import CHUNK, BytesSource, FileSource, digest_list_hash, file_digest, measure
from hsm_signer.errors import AlgorithmUnsuitable, FileError, InputError
from hsm_signer.types import Algorithm, Digest, DigestList, HashName, Message, Mode


@dataclass
class Counted:
    """A message that says how often it was read."""

    pieces: tuple[bytes, ...]
    readings: int = 0

    def chunks(self) -> Iterator[bytes]:
        self.readings += 1
        yield from self.pieces


# --- messages ----------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), max_size=6).map(tuple), st.sampled_from(list(Algorithm)))
def test_h_and_digest_come_from_one_reading(pieces: tuple[bytes, ...], algorithm: Algorithm) -> None:
    """A file that changes meanwhile cannot be authorised as one thing and signed as another."""
    source = Counted(pieces)
    measured = measure(Message(source), algorithm)
    whole = b"".join(pieces)
    assert source.readings == 1
    assert (measured.mode, measured.h) == (Mode.MESSAGE, hashlib.sha256(whole).digest())
    if algorithm.hash is None:
        assert (measured.digests, measured.message) == ((), whole)
    else:
        expected = hashlib.new(algorithm.hash.value, whole).digest()
        assert (measured.digests, measured.message) == ((expected,), None)


def test_ed25519_takes_a_bounded_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """It signs the message itself, so all of it goes to the token: up to a limit."""
    monkeypatch.setattr(content, "MAX_ED25519_MESSAGE", 1000)
    assert measure(Message(BytesSource(bytes(1000))), Algorithm.ED25519).message == bytes(1000)
    source = Counted((bytes(600), bytes(600), bytes(600)))
    with pytest.raises(AlgorithmUnsuitable, match="at most 1000 bytes"):
        measure(Message(source), Algorithm.ED25519)
    with pytest.raises(AlgorithmUnsuitable, match="whole message"):
        measure(DigestList((Digest(bytes(32)),)), Algorithm.ED25519)


def test_empty_message() -> None:
    measured = measure(Message(BytesSource(b"")), Algorithm.ECDSA_SHA256)
    assert measured.h == hashlib.sha256().digest() == measured.digests[0]
    assert list(BytesSource(b"").chunks()) == []


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "document"
    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK):
        data = bytes(i & 0xFF for i in range(size))
        path.write_bytes(data)
        source = FileSource(path)
        assert b"".join(source.chunks()) == data
        assert b"".join(source.chunks()) == data, "a file can be read again"
        assert all(len(each) <= CHUNK for each in source.chunks())
        told: list[int] = []
        assert file_digest(path, HashName.SHA384, told.append) == hashlib.sha384(data).digest()
        assert sum(told) == size


@pytest.mark.parametrize("name", ["nowhere", ".", "nowhere/else"])
def test_unreadable_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for read in (
        lambda: measure(Message(FileSource(path)), Algorithm.ECDSA_SHA256),
        lambda: file_digest(path, HashName.SHA256),
    ):
        with pytest.raises(FileError, match="cannot be read") as caught:
            read()
        assert str(path) in caught.value.message


def test_a_large_file_needs_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)
    tracemalloc.start()
    try:
        measured = measure(Message(FileSource(path)), Algorithm.ECDSA_SHA256)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert measured.h == measured.digests[0]
    assert peak < 4 * CHUNK + 100_000


def test_message_is_in_no_repr() -> None:
    assert "secret" not in repr(BytesSource(b"secret"))
    assert "secret" not in repr(measure(Message(BytesSource(b"secret")), Algorithm.ED25519))


# --- digest lists ------------------------------------------------------------------------------------------

LENGTHS = st.sampled_from([32, 48, 64])
LISTS = LENGTHS.flatmap(
    lambda length: st.lists(st.binary(min_size=length, max_size=length), min_size=1, max_size=5)
).map(lambda each: tuple(Digest(digest) for digest in each))


@given(LISTS)
def test_h_of_a_list(digests: tuple[Digest, ...]) -> None:
    """docs/understand/protocol.md, section 2."""
    expected = hashlib.sha256(
        b"hsm-signer/1/digests"
        + len(digests).to_bytes(2, "big")
        + bytes([len(digests[0])])
        + b"".join(digests)
    ).digest()
    assert digest_list_hash(digests) == expected


@given(LISTS, LISTS)
def test_different_lists_have_different_h(one: tuple[Digest, ...], other: tuple[Digest, ...]) -> None:
    assert (digest_list_hash(one) == digest_list_hash(other)) == (one == other)


def test_h_of_a_list_is_none_of_its_concatenation() -> None:
    """Two digests of 32 bytes are not one of 64."""
    one, two = Digest(b"\1" * 32), Digest(b"\2" * 32)
    assert digest_list_hash((one, two)) != digest_list_hash((Digest(one + two),))


@pytest.mark.parametrize(
    ("digests", "match"),
    [
        ((), "expected 1 to 65535, got 0"),
        ((bytes(32),) * 65536, "expected 1 to 65535, got 65536"),
        ((bytes(31),), "expected 32, 48 or 64 bytes each, got 31"),
        ((b"",), "expected 32, 48 or 64 bytes each, got 0"),
        ((bytes(32), bytes(48)), "all of the same length"),
        ((bytes(32), b""), "all of the same length"),
    ],
)
def test_lists_that_cannot_be(digests: tuple[bytes, ...], match: str) -> None:
    with pytest.raises(InputError, match=match):
        digest_list_hash(digests)


def test_the_longest_list() -> None:
    assert len(digest_list_hash((bytes(64),) * 65535)) == 32


@given(LISTS, st.sampled_from([each for each in Algorithm if each.hash is not None]))
def test_length_must_fit_the_algorithm(digests: tuple[Digest, ...], algorithm: Algorithm) -> None:
    assert algorithm.hash
    if len(digests[0]) == algorithm.hash.length:
        measured = measure(DigestList(digests), algorithm)
        assert (measured.mode, measured.digests) == (Mode.DIGESTS, digests)
        assert measured.h == digest_list_hash(digests)
        return
    with pytest.raises(AlgorithmUnsuitable, match=f"{algorithm.value} signs digests of"):
        measure(DigestList(digests), algorithm)
