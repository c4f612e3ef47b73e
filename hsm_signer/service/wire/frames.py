"""Frames of the workers' socket, for both its ends, and the check of who is at the other.

A frame: u32 length of everything after it || u64 call id || u8 kind || payload; integers big endian. Nothing
is read beyond a length that cannot be, so whoever sends one gets no more memory than MAX_FRAME.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from hsm_signer.errors import ConfigError, FrameMalformed

MAX_FRAME = 8 << 20
"""Bytes after the length."""
MAX_CHUNK = 64 << 10
"""Bytes of a message in one CHUNK."""
MAX_SOCKET_PATH = 107
"""Bytes: sun_path of unix(7), without its NUL."""

_LENGTH = struct.Struct(">I")
_HEAD = struct.Struct(">QB")
_CREDENTIALS = struct.Struct("3i")
MAX_PAYLOAD = MAX_FRAME - _HEAD.size


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 0
    """Worker -> front, first of all: WorkerState."""
    CALL = 1
    """Front -> worker: Call."""
    CHUNK = 2
    """Front -> worker: 1 to MAX_CHUNK bytes of the message of the Sign call with this id."""
    REPLY = 3
    """Worker -> front: Reply."""
    FAILURE = 4
    """Worker -> front: Failure."""
    STATE = 5
    """Worker -> front, unasked, id 0: WorkerState."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    id: int
    """u64, chosen by the front, ascending from 1; 0 where no call is meant."""
    kind: Kind
    payload: bytes

    def __repr__(self) -> str:
        """Without the payload, which may hold what nobody should read."""
        return f"Frame(id={self.id}, kind={self.kind.name}, {len(self.payload)} bytes)"


class HasOptions(Protocol):
    """A socket, or asyncio's view of one."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """As :meth:`socket.socket.getsockopt`."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that made the connection, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """Read the next frame; None where the stream ends between two.

    Raises FrameMalformed for a length of 0 to 8 or above MAX_FRAME, an unknown kind, and a stream that ends
    inside a frame; OSError as the stream does.
    """
    parts = await read_parts(reader)
    return None if parts is None else frame_of(*parts)


async def read_parts(reader: asyncio.StreamReader) -> tuple[int, int, bytes] | None:
    """Read the next frame's id, kind and payload as :func:`read_frame` does, but of any kind."""
    try:
        length_bytes = await reader.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise FrameMalformed("frame: the stream ends inside its length") from None
    (length,) = _LENGTH.unpack(length_bytes)
    if not _HEAD.size <= length <= MAX_FRAME:
        raise FrameMalformed(f"frame: length: expected {_HEAD.size} to {MAX_FRAME}, got {length}")
    try:
        body = await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        raise FrameMalformed("frame: the stream ends inside it") from None
    number, kind = _HEAD.unpack_from(body)
    return number, kind, body[_HEAD.size :]


def frame_of(number: int, kind: int, payload: bytes) -> Frame:
    """Make a frame of its parts. Raises FrameMalformed for an unknown kind."""
    try:
        return Frame(number, Kind(kind), payload)
    except ValueError:
        raise FrameMalformed(f"frame: kind: expected 0 to {max(Kind)}, got {kind}") from None


def frame_bytes(id: int, kind: Kind, payload: bytes) -> bytes:
    """Encode a frame. Raises FrameMalformed for a payload longer than MAX_FRAME allows."""
    if len(payload) > MAX_PAYLOAD:
        raise FrameMalformed(f"frame: expected at most {MAX_PAYLOAD} bytes of payload, got {len(payload)}")
    return _LENGTH.pack(_HEAD.size + len(payload)) + _HEAD.pack(id, kind) + payload


def peer_of(sock: HasOptions) -> Peer:
    """Who is at the other end of a connected UNIX socket: SO_PEERCRED of unix(7), as of its connecting."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(data))


def socket_path(folder: Path, slot: int) -> Path:
    """The socket of the worker in this slot. Raises ConfigError where its path is too long for one."""
    path = folder / f"worker-{slot}.sock"
    if len(bytes(path)) > MAX_SOCKET_PATH:
        raise ConfigError(
            f"worker.sockets: {folder} is too long: a socket's path has at most {MAX_SOCKET_PATH} bytes",
            hint="take a shorter one, /run/hsm-signer",
        )
    return path
