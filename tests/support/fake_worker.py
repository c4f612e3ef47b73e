"""Workers that speak frames and do what the test says, and the front's pool over them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from hsm_signer.errors import SignerError
from hsm_signer.service.front.pool import Pool
from hsm_signer.service.wire.frames import Frame, Kind, frame_bytes, read_frame, socket_path
from hsm_signer.service.wire.operations import (
    VERSION,
    Call,
    Caller,
    Failure,
    Reply,
    WhoAmI,
    WorkerState,
    decode,
    encode,
)

from .other_users import reachable

TIMEOUT = 20.0
"""Seconds for anything that has to happen."""


def run(test: Callable[[Path], Awaitable[None]]) -> None:
    """In a loop of its own, with a folder whose name is short enough for sockets."""

    async def bounded() -> None:
        with reachable() as folder:
            async with asyncio.timeout(TIMEOUT * 3):
                await test(folder)

    asyncio.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class FakeWorker:
    """Listens where a worker would; the test answers."""

    folder: Path
    slot: int = 0
    generation: int = 1
    version: int = VERSION
    state: str = "ready"
    reason: str | None = None
    hello: bytes | None = None
    """Sent instead of a HELLO frame."""
    frames: list[Frame] = field(default_factory=list)
    connections: list[asyncio.StreamWriter] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeWorker]:
        path = socket_path(self.folder, self.slot)
        server = await asyncio.start_unix_server(self._serve, path)
        try:
            yield self
        finally:
            server.close()
            self.hang_up()
            path.unlink()

    def hang_up(self) -> None:
        for each in self.connections:
            each.close()
        self.connections.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        writer.write(self.hello or frame_bytes(0, Kind.HELLO, encode(self.as_state())))
        try:
            while (frame := await read_frame(reader)) is not None:
                self.frames.append(frame)
        except (OSError, SignerError):
            pass
        finally:
            writer.close()

    def as_state(self) -> WorkerState:
        return WorkerState(
            version=self.version,
            slot=self.slot,
            generation=self.generation,
            pid=os.getpid(),
            state=self.state,
            reason=self.reason,
        )

    def become(self, state: str, reason: str | None = None) -> None:
        self.state, self.reason = state, reason
        self.send(0, Kind.STATE, encode(self.as_state()))

    def send(self, number: int, kind: Kind, payload: bytes) -> None:
        self.connections[-1].write(frame_bytes(number, kind, payload))

    def reply(self, number: int, result: Any = None) -> None:
        self.send(number, Kind.REPLY, encode(Reply(result=msgspec.Raw(encode(result)), client="c")))

    def fail(self, number: int, code: str) -> None:
        self.send(number, Kind.FAILURE, encode(Failure(code=code, message="no")))

    @property
    def calls(self) -> list[Frame]:
        return [each for each in self.frames if each.kind is Kind.CALL]

    def asked(self, index: int) -> str:
        """The request id of a call."""
        return decode(self.calls[index].payload, Call).request_id


@asynccontextmanager
async def pool_on(
    folder: Path, *, workers: int = 1, in_flight: int = 100, timeout: float = TIMEOUT
) -> AsyncIterator[Pool]:
    pool = Pool(folder, workers=workers, in_flight=in_flight, timeout=timeout)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.stop()


def call(request_id: str = "r") -> Call:
    return Call(caller=Caller(bearer="b"), request_id=request_id, operation=WhoAmI())


def ask(pool: Pool, request_id: str = "r") -> asyncio.Task[Any]:
    return asyncio.ensure_future(pool.call(call(request_id)))
