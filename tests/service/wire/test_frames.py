"""Frames: what is written is read again, and whatever else comes is refused before it costs anything."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_signer.errors import ConfigError, FrameMalformed
from hsm_signer.service.wire.frames import (
    MAX_FRAME,
    MAX_PAYLOAD,
    Frame,
    Kind,
    Peer,
    frame_bytes,
    peer_of,
    read_frame,
    socket_path,
)


def read_all(data: bytes, pieces: int | None = None) -> list[Frame]:
    """Every frame in these bytes, which arrive ``pieces`` at a time."""

    async def read() -> list[Frame]:
        reader = asyncio.StreamReader()

        async def feed() -> None:
            step = pieces or max(len(data), 1)
            for start in range(0, len(data), step):
                reader.feed_data(data[start : start + step])
                await asyncio.sleep(0)
            reader.feed_eof()

        feeding = asyncio.create_task(feed())
        found = []
        try:
            while (frame := await read_frame(reader)) is not None:
                found.append(frame)
        finally:
            await feeding
        return found

    return asyncio.run(read())


frames = st.builds(Frame, st.integers(0, 2**64 - 1), st.sampled_from(Kind), st.binary(max_size=300))


@given(st.lists(frames, max_size=5), st.integers(1, 50))
def test_what_is_written_is_read(sent: list[Frame], pieces: int) -> None:
    data = b"".join(frame_bytes(each.id, each.kind, each.payload) for each in sent)
    assert read_all(data, pieces) == sent


def test_the_bytes_are_those_of_the_document() -> None:
    assert frame_bytes(0x0102, Kind.CHUNK, b"xyz") == bytes.fromhex("0000000c 0000000000000102 02") + b"xyz"
    assert frame_bytes(0, Kind.HELLO, b"") == bytes.fromhex("00000009 0000000000000000 00")


def test_nothing_is_a_clean_end() -> None:
    assert read_all(b"") == []


@pytest.mark.parametrize("length", [*range(9), MAX_FRAME + 1, 2**31, 2**32 - 1])
def test_a_length_that_cannot_be_is_refused(length: int) -> None:
    with pytest.raises(FrameMalformed, match=f"length: expected 9 to {MAX_FRAME}, got {length}"):
        read_all(struct.pack(">I", length) + bytes(100))


@pytest.mark.parametrize("kind", range(6, 256))
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(FrameMalformed, match=f"kind: expected 0 to 5, got {kind}"):
        read_all(struct.pack(">IQB", 9, 1, kind))


@pytest.mark.parametrize("missing", range(1, 20))
def test_a_stream_that_ends_inside_a_frame_is_refused(missing: int) -> None:
    whole = frame_bytes(1, Kind.CALL, b"1234567")
    assert len(whole) == 20
    assert read_all(whole) == [Frame(1, Kind.CALL, b"1234567")]
    with pytest.raises(FrameMalformed, match="the stream ends inside"):
        read_all(whole[:-missing])


def test_the_longest_frame_there_is() -> None:
    payload = bytes(MAX_PAYLOAD)
    assert read_all(frame_bytes(1, Kind.REPLY, payload))[0].payload == payload
    with pytest.raises(FrameMalformed, match=f"at most {MAX_PAYLOAD} bytes"):
        frame_bytes(1, Kind.REPLY, payload + b"x")


def test_a_payload_is_not_shown() -> None:
    assert "secret" not in repr(Frame(1, Kind.CALL, b"secret"))


def test_the_kernel_says_who_it_is() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with one, other:
        assert peer_of(one) == Peer(os.getpid(), os.getuid(), os.getgid())


def test_a_socket_has_a_path_that_sockets_take(tmp_path: Path) -> None:
    assert socket_path(tmp_path, 3) == tmp_path / "worker-3.sock"
    with pytest.raises(ConfigError, match="at most 107 bytes"):
        socket_path(Path("/" + "x" * 100), 0)
    path = socket_path(Path("/tmp/" + "x" * (107 - len("/tmp//worker-0.sock"))), 0)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(FileNotFoundError):
        sock.connect(str(path))  # not there, but no longer than the kernel takes
