"""The front's connections to the workers, one each, and the queue of calls that wait for one.

Sockets appear and go as workers are started and end: the folder is looked at five times a second.
docs/understand/service.md, section "The workers' socket", has the frames.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hsm_signer.errors import (
    ConfigError,
    FrameMalformed,
    RequestTooLarge,
    ServiceBusy,
    ServiceStopping,
    ServiceTimeout,
    SignerError,
    WorkerLost,
    WorkerUnavailable,
)
from hsm_signer.service.logs import Log
from hsm_signer.service.wire.frames import (
    MAX_CHUNK,
    MAX_PAYLOAD,
    Frame,
    Kind,
    frame_bytes,
    peer_of,
    read_frame,
    socket_path,
)
from hsm_signer.service.wire.operations import (
    VERSION,
    Call,
    CheckAnchor,
    Failure,
    GetAnchor,
    GetEvidence,
    Reply,
    Sign,
    WorkerState,
    decode,
    encode,
)

_log = Log(__name__)

DEPTH = 2
"""Calls at one worker at once: the second is there when the first is done, so the token never waits."""
READS = 1
"""Calls for evidence at one worker at once, beside those: its reader takes long, one after the other."""
READING = GetEvidence | GetAnchor | CheckAnchor
"""What a worker's reader does (worker/handlers.py)."""
POLL = 0.2
"""Seconds between looks into the folder of sockets."""
HELLO_TIMEOUT = 5.0
"""Seconds for a worker to say who it is."""

Answer = Reply | Failure


@dataclass(slots=True, eq=False)
class _PendingCall:
    """One call, in the queue or at a worker; ``answer`` is cancelled when its caller gives up."""

    payload: bytes
    message: BinaryIO | None
    size: int
    """Bytes of the message."""
    answer: asyncio.Future[Answer]
    start: int = 0
    """Where the message begins in its file."""
    reads: bool = False
    """It may take long and needs no token, but a moment to know the client."""

    def close(self) -> None:
        if self.message is not None:
            self.message.close()


@dataclass(slots=True, eq=False)
class _Link:
    """One connection to one worker."""

    writer: asyncio.StreamWriter
    state: WorkerState
    calls: dict[int, _PendingCall] = field(default_factory=dict)
    last_id: int = 0
    closing: bool = False
    """It refused a call because it ends: its state will say so in a moment."""
    streams: set[asyncio.Task[None]] = field(default_factory=set)

    def takes(self, *, reads: bool) -> bool:
        """Tell whether the worker has room for one more call, of those that only read or of the others."""
        there = sum(call.reads == reads for call in self.calls.values())
        return self.state.state == "ready" and not self.closing and there < (READS if reads else DEPTH)

    def send(self, pending: _PendingCall) -> None:
        self.last_id += 1
        self.calls[self.last_id] = pending
        self.writer.write(frame_bytes(self.last_id, Kind.CALL, pending.payload))
        if pending.message is not None and pending.size:
            stream = asyncio.ensure_future(self._stream(self.last_id, pending, pending.message))
            self.streams.add(stream)
            stream.add_done_callback(self.streams.discard)

    def close_at_end(self) -> None:
        """Close the connection of a worker that ends, which waits for this so that nothing is left unread."""
        if self.state.state == "draining" and not self.calls:
            self.writer.close()

    async def _stream(self, number: int, pending: _PendingCall, message: BinaryIO) -> None:
        """Send the message in CHUNK frames, until it ends or the worker has answered without it."""
        left = pending.size
        message.seek(pending.start)
        while left and self.calls.get(number) is pending:
            chunk = message.read(min(MAX_CHUNK, left))
            if not chunk:
                # What was promised cannot be sent: only a new connection brings both sides together again.
                self.writer.close()
                return
            left -= len(chunk)
            self.writer.write(frame_bytes(number, Kind.CHUNK, chunk))
            try:
                await self.writer.drain()
            except ConnectionError:
                return


class Pool:
    """All workers, to be called as one."""

    def __init__(
        self, folder: Path, *, workers: int, in_flight: int, timeout: float, user: str | None = None
    ) -> None:
        """``workers``: how many there should be; ``user``: whose they may be, besides root's and our own.

        Raises ConfigError for a user that this system does not know.
        """
        self.lost = 0
        """Connections that broke without the worker having said that it ends."""
        self.restarts = 0
        """Workers started anew, as far as was seen from here."""
        self._folder = folder
        self._workers = workers
        self._limit = in_flight
        self._timeout = timeout
        self._uids = {0, os.geteuid()} | ({_uid(user)} if user is not None else set())
        self._queue: OrderedDict[_PendingCall, None] = OrderedDict()
        self._links: dict[int, _Link] = {}
        self._generations: dict[int, int] = {}
        self._refused: dict[int, str] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._stopping = False

    # --- from outside ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start looking for workers."""
        self._watcher = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Close every connection; whoever waits gets ServiceStopping, or WorkerLost where a worker has it."""
        self._stopping = True
        tasks = [*self._serving.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._refuse_queue(lambda: ServiceStopping("the service is shutting down; nothing was begun"))

    @property
    def queue(self) -> int:
        """Number of calls that wait for a worker."""
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        """Number of calls that wait for a worker or are with one."""
        return len(self._queue) + sum(len(link.calls) for link in self._links.values())

    def workers(self) -> list[WorkerState]:
        """The last state of each connected worker, by slot."""
        return [self._links[slot].state for slot in sorted(self._links)]

    async def call(self, call: Call, message: BinaryIO | None = None) -> Answer:
        """Send a call to whichever worker is free first; return its answer, a refusal included.

        ``message``: Sign.message bytes from the file's position on; closed when no longer needed. Raises
        ServiceBusy, ServiceTimeout, ServiceStopping, WorkerLost, WorkerUnavailable, RequestTooLarge.
        """
        pending = self._prepare(call, message)
        try:
            self._admit()
            self._queue[pending] = None
            self._dispatch()
            async with asyncio.timeout(self._timeout):
                return await pending.answer
        except TimeoutError:
            raise self._too_late(pending) from None
        finally:
            if pending in self._queue:
                del self._queue[pending]
            if not any(pending in link.calls.values() for link in self._links.values()):
                pending.close()

    async def call_on(self, slot: int, call: Call) -> Answer:
        """Send a call to one worker, at once. Raises as :meth:`call`."""
        link = self._links.get(slot)
        if link is None or link.state.state != "ready" or link.closing:
            raise WorkerUnavailable(f"worker {slot} is not ready", hint=self._reasons())
        pending = self._prepare(call, None)
        link.send(pending)
        try:
            async with asyncio.timeout(self._timeout):
                return await pending.answer
        except TimeoutError:
            raise ServiceTimeout(f"worker {slot} did not answer within {self._timeout:g} seconds") from None

    # --- the queue -------------------------------------------------------------------------------------

    def _prepare(self, call: Call, message: BinaryIO | None) -> _PendingCall:
        """Encode the call, whose fields are of their types already. Raises RequestTooLarge."""
        size = (call.operation.message or 0) if isinstance(call.operation, Sign) else 0
        try:
            payload = _encoded(call)
            start = message.tell() if message is not None else 0
        except BaseException:
            if message is not None:
                message.close()
            raise
        answer = asyncio.get_running_loop().create_future()
        return _PendingCall(payload, message, size, answer, start, isinstance(call.operation, READING))

    def _admit(self) -> None:
        if self._stopping:
            raise ServiceStopping("the service is shutting down; nothing was begun")
        if self.in_flight >= self._limit:
            raise ServiceBusy(f"more than {self._limit} requests are in flight; nothing was begun")
        if self._hopeless:
            raise self._unavailable()

    @property
    def _hopeless(self) -> bool:
        """Tell whether all workers are connected and all of them have lost token or store."""
        states = [link.state.state for link in self._links.values()]
        return len(states) >= self._workers and all(state == "recovering" for state in states)

    def _unavailable(self) -> WorkerUnavailable:
        return WorkerUnavailable("no worker is ready to sign", hint=self._reasons())

    def _reasons(self) -> str:
        said = [
            f"worker {state.slot} is {state.state}" + (f": {state.reason}" if state.reason else "")
            for state in self.workers()
        ]
        missing = self._workers - len(said)
        if missing > 0:
            said.append(f"{missing} of {self._workers} workers cannot be reached")
        return "; ".join(said)

    def _too_late(self, pending: _PendingCall) -> SignerError:
        waited = f"{self._timeout:g} seconds"
        if pending not in self._queue:
            return ServiceTimeout(
                f"no answer within {waited}", hint="send the same request again: nothing is signed twice"
            )
        if any(link.state.state == "ready" for link in self._links.values()):
            return ServiceBusy(f"no worker was free within {waited}; nothing was begun")
        return self._unavailable()

    def _dispatch(self) -> None:
        for pending in tuple(self._queue):
            free = [link for link in self._links.values() if link.takes(reads=pending.reads)]
            if free:
                del self._queue[pending]
                # The least busy; among equals the one that was given the fewest calls.
                min(free, key=lambda link: (len(link.calls), link.last_id)).send(pending)
            elif not any(link.takes(reads=not pending.reads) for link in self._links.values()):
                return

    def _refuse_queue(self, error: Callable[[], SignerError]) -> None:
        while self._queue:
            pending, _ = self._queue.popitem(last=False)
            if not pending.answer.done():
                pending.answer.set_exception(error())

    # --- the workers -----------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while not self._stopping:
            self._look.clear()
            for path in self._folder.glob("worker-*.sock"):
                slot = path.stem.removeprefix("worker-")
                if slot.isascii() and slot.isdigit() and int(slot) not in self._serving:
                    self._serving[int(slot)] = asyncio.ensure_future(self._serve(int(slot)))
            # Not wait_for, which loses a cancellation that comes together with what it waits for.
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._look.wait()

    async def _serve(self, slot: int) -> None:
        """Connect to a worker and stay connected as long as it is there."""
        link = None
        try:
            reader, writer = await self._connect(slot)
            try:
                link = await self._greet(slot, reader, writer)
                self._dispatch()
                while (frame := await read_frame(reader)) is not None:
                    self._take(link, frame)
            finally:
                writer.close()
        except (OSError, EOFError, TimeoutError):
            pass  # not there yet, or gone: the next look finds out
        except FrameMalformed as error:
            self._refuse(slot, error.message)
        finally:
            del self._serving[slot]
            if link is not None:
                self._lose(slot, link)
                self._look.set()

    async def _connect(self, slot: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a worker's socket. Raises OSError; FrameMalformed where another user listens there."""
        path = socket_path(self._folder, slot)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, str(path))
            self._check_peer(connection)
            return await asyncio.open_unix_connection(sock=connection, limit=1 << 20)
        except BaseException:
            connection.close()
            raise

    def _check_peer(self, connection: socket.socket) -> None:
        uid = peer_of(connection).uid
        if uid not in self._uids:
            raise FrameMalformed(f"user {uid} listens there, who is not the workers' user")

    async def _greet(self, slot: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Link:
        """Read the worker's HELLO. Raises FrameMalformed, TimeoutError."""
        async with asyncio.timeout(HELLO_TIMEOUT):
            hello = await read_frame(reader)
        if hello is None:
            raise EOFError
        if hello.kind is not Kind.HELLO:
            raise FrameMalformed("the worker's first frame is not its HELLO")
        state = decode(hello.payload, WorkerState)
        if state.version != VERSION or state.slot != slot:
            raise FrameMalformed(
                f"expected worker {slot} with version {VERSION}, found {state.slot} with {state.version}"
            )
        self.restarts += max(0, state.generation - self._generations.get(slot, 1))
        self._generations[slot] = state.generation
        self._refused.pop(slot, None)
        _log.info("worker-connected", slot=slot, generation=state.generation, state=state.state)
        link = self._links[slot] = _Link(writer, state)
        return link

    def _take(self, link: _Link, frame: Frame) -> None:
        """Take a frame from the worker. Raises FrameMalformed."""
        if frame.kind is Kind.STATE:
            link.state = decode(frame.payload, WorkerState)
            link.close_at_end()
            self._dispatch()
            if self._hopeless:
                self._refuse_queue(self._unavailable)
            return
        if frame.kind not in (Kind.REPLY, Kind.FAILURE) or frame.id not in link.calls:
            raise FrameMalformed("the worker sent a frame that nobody asked for")
        reply = frame.kind is Kind.REPLY
        answer: Answer = decode(frame.payload, Reply) if reply else decode(frame.payload, Failure)
        pending = link.calls.pop(frame.id)
        if isinstance(answer, Failure) and answer.code == ServiceStopping.code and not pending.answer.done():
            # Not begun there: it goes to another worker, or to the next one in this slot, before all others.
            link.closing = True
            self._queue[pending] = None
            self._queue.move_to_end(pending, last=False)
        else:
            pending.close()
            if not pending.answer.done():
                pending.answer.set_result(answer)
        link.close_at_end()
        self._dispatch()

    def _lose(self, slot: int, link: _Link) -> None:
        del self._links[slot]
        if link.state.state != "draining" and not link.closing and not self._stopping:
            self.lost += 1
            _log.warning("worker-lost", slot=slot, calls=len(link.calls))
        for pending in link.calls.values():
            pending.close()
            if not pending.answer.done():
                pending.answer.set_exception(
                    WorkerLost(
                        "the worker that had this request has ended",
                        hint="send the same request again: nothing is signed twice",
                    )
                )
        self._dispatch()

    def _refuse(self, slot: int, why: str) -> None:
        """Log a refused worker once, not five times a second."""
        if self._refused.get(slot) != why:
            self._refused[slot] = why
            _log.error("worker-refused", slot=slot, reason=why)


def _encoded(call: Call) -> bytes:
    payload = encode(call)
    if len(payload) > MAX_PAYLOAD:
        raise RequestTooLarge(f"request: longer than {MAX_PAYLOAD} bytes on its way to a worker")
    return payload


def _uid(user: str) -> int:
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"worker.user: there is no system user {user!r}") from None
