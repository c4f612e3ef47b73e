"""One connection from a front to this worker: frames in, frames out; a malformed frame ends it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from hsm_signer.config.service import ApprovalSettings, LimitSettings
from hsm_signer.errors import FrameMalformed, ServiceError, SignerError, TokenSessionLost, WorkerUnavailable
from hsm_signer.server.server import Server
from hsm_signer.service.logs import Log
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import MAX_PAYLOAD, Frame, Kind, frame_bytes, frame_of, read_parts
from hsm_signer.types import SignOutcome

from . import handlers
from .access import Identities
from .threads import ReaderThread, TokenThread
from .uploads import Upload

_log = Log(__name__)

SEND_TIMEOUT = 10.0
"""Seconds for a front to take an answer; one that does not is given up."""
INTERNAL = SignerError("internal error in the worker")


class WorkerPort(Protocol):
    """The part of a worker that its connections use."""

    token: TokenThread
    reader: ReaderThread
    limits: LimitSettings
    approval: ApprovalSettings
    identities: Identities

    def state(self) -> wire.WorkerState:
        """Return the worker's present state."""
        ...

    def refusal(self) -> SignerError | None:
        """Return the error that refuses a new call now; None if the worker takes calls."""
        ...

    def signed(self, count: int) -> None:
        """Count signatures that were made."""
        ...


class StepTimer:
    """A timer of the steps of one call (docs/understand/protocol.md, section 5)."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.durations: list[tuple[int, int]] = []
        self._last = self.started

    def observe(self, step: int) -> None:
        """Note that a step is done: the microseconds since the one before."""
        now = time.monotonic()
        self.durations.append((step, _microseconds(now - self._last)))
        self._last = now


class PendingCall:
    """A call that is not answered yet: its client, once known, and its times, for answer and log."""

    def __init__(self, number: int, call: wire.Call) -> None:
        self.number = number
        self.call = call
        self.client: str | None = None
        self.steps: StepTimer | None = None
        self._came = time.monotonic()

    def start(self) -> StepTimer:
        """Start the timer: the call's turn has come."""
        self.steps = StepTimer()
        return self.steps

    def is_client(self, name: str) -> None:
        """Note the client's name."""
        self.client = name

    def times(self) -> tuple[int, int]:
        """Return the microseconds that the call waited, and those since."""
        now = time.monotonic()
        started = now if self.steps is None else self.steps.started
        return _microseconds(started - self._came), _microseconds(now - started)


class Connection:
    """A connection with one front, served until either ends or a frame is malformed."""

    def __init__(
        self, worker: WorkerPort, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._worker = worker
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()
        self._calls: set[asyncio.Task[None]] = set()
        self._uploads: dict[int, Upload] = {}
        self._last_id = 0

    @property
    def unanswered(self) -> int:
        """Number of calls that are not answered yet."""
        return len(self._calls) + sum(not upload.refused for upload in self._uploads.values())

    async def serve(self) -> None:
        """Send HELLO, then take frames until the connection ends."""
        number = 0
        try:
            await self._send(0, Kind.HELLO, wire.encode(self._worker.state()))
            while True:
                number = 0
                if (parts := await read_parts(self._reader)) is None:
                    break
                number = parts[0]
                await self._take(frame_of(*parts))
        except FrameMalformed as error:
            _log.error("frame-malformed", reason=error.message)
            await self._fail(number, error)
        except (OSError, TimeoutError) as error:
            _log.info("connection-lost", kind=type(error).__name__)
        finally:
            self._end()

    def _end(self) -> None:
        """Cancel the calls that have not begun: nobody would get the answer."""
        for task in self._calls:
            task.cancel()
        for upload in self._uploads.values():
            upload.close()
        self._uploads.clear()
        self._writer.close()

    async def close(self) -> None:
        """Close the connection, once the front has taken everything or SEND_TIMEOUT has passed."""
        self._writer.close()
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(SEND_TIMEOUT):
                await self._writer.wait_closed()

    # --- frames in -------------------------------------------------------------------------------------

    async def _take(self, frame: Frame) -> None:
        if frame.kind is Kind.CALL:
            await self._take_call(frame)
        elif frame.kind is Kind.CHUNK:
            await self._take_chunk(frame)
        else:
            raise FrameMalformed(f"frame: expected CALL or CHUNK, got {frame.kind.name}")

    async def _take_call(self, frame: Frame) -> None:
        if frame.id <= self._last_id:
            raise FrameMalformed(f"call: id: expected more than {self._last_id}, got {frame.id}")
        self._last_id = frame.id
        try:
            call = wire.decode(frame.payload, wire.Call)
        except FrameMalformed as error:
            # The frame itself is whole, so the other calls of this front need not end with it.
            _log.error("frame-malformed", reason=error.message)
            await self._fail(frame.id, error)
            return
        operation = call.operation
        length = 0
        if isinstance(operation, wire.Sign) and operation.digests is None:
            length = operation.message or 0
        upload = Upload(call, length) if length else None
        if upload is not None:
            self._uploads[frame.id] = upload
        try:
            if (refusal := self._worker.refusal()) is not None:
                raise refusal
            if isinstance(operation, wire.Sign):
                handlers.check_sign(operation, self._worker.limits)
        except SignerError as error:
            if upload is not None:
                upload.close()
            await self._fail(frame.id, error, PendingCall(frame.id, call))
            return
        if upload is None:
            self._begin(frame.id, call, Upload(call, 0))

    async def _take_chunk(self, frame: Frame) -> None:
        upload = self._uploads.get(frame.id)
        if upload is None:
            raise FrameMalformed(f"chunk: id {frame.id}: no message is expected")
        try:
            upload.add(frame.payload)
        except FrameMalformed:
            raise
        except SignerError as error:
            await self._refuse(frame.id, upload, error)
        if upload.complete:
            del self._uploads[frame.id]
            if not upload.refused:
                self._begin(frame.id, upload.call, upload)

    async def refuse_uploads(self, error: SignerError) -> None:
        """Refuse the calls whose message has not arrived in full."""
        for number, upload in list(self._uploads.items()):
            if not upload.refused:
                await self._refuse(number, upload, error)

    async def _refuse(self, number: int, upload: Upload, error: SignerError) -> None:
        upload.close()
        await self._fail(number, error, PendingCall(number, upload.call))

    # --- carrying out ----------------------------------------------------------------------------------

    def _begin(self, number: int, call: wire.Call, upload: Upload) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(PendingCall(number, call), upload))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _carry_out(self, pending: PendingCall, upload: Upload) -> None:
        worker = self._worker
        operation = pending.call.operation
        message = upload if isinstance(operation, wire.Sign) and operation.digests is None else None

        def work(server: Server) -> Any:
            server = replace(server, observe=pending.start().observe)
            result = handlers.carry_out(
                server,
                worker.identities,
                worker.limits,
                worker.approval,
                pending.call,
                message,
                pending.is_client,
            )
            if isinstance(result, SignOutcome) and not result.repeated:
                worker.signed(len(result.signatures))  # here: the front may have gone by then
            return result

        try:
            result = await asyncio.wrap_future(worker.token.ask(work))
            if isinstance(result, handlers.ReaderWork):
                rest = result
                result = read = await asyncio.wrap_future(worker.reader.ask(lambda _: rest.finish()))
                if (sign := rest.sign) is not None:
                    result = await asyncio.wrap_future(worker.token.ask(lambda server: sign(server, read)))
        except TokenSessionLost:
            # To others it is no reason to give up: the worker opens a new session.
            lost = WorkerUnavailable("the worker has lost its token")
            await self._fail(pending.number, lost, pending)
        except SignerError as error:
            await self._fail(pending.number, error, pending)
        except Exception:  # noqa: BLE001  logged where it was raised
            await self._fail(pending.number, INTERNAL, pending)
        else:
            await self._reply(pending, result)
        finally:
            upload.close()

    # --- frames out ------------------------------------------------------------------------------------

    async def send_state(self) -> None:
        """Send the worker's present state to the front."""
        await self._try_to_send(0, Kind.STATE, wire.encode(self._worker.state()))

    async def _reply(self, pending: PendingCall, result: Any) -> None:
        queued, took = pending.times()
        reply = wire.Reply(
            result=msgspec.Raw(wire.encode(result)),
            client=pending.client,
            steps=() if pending.steps is None else tuple(pending.steps.durations),
            queued=queued,
            took=took,
        )
        payload = wire.encode(reply)
        if len(payload) > MAX_PAYLOAD:
            await self._fail(pending.number, ServiceError("the answer is too long for the service"), pending)
            return
        _log_call(pending, None, queued, took)
        await self._try_to_send(pending.number, Kind.REPLY, payload)

    async def _fail(self, number: int, error: SignerError, pending: PendingCall | None = None) -> None:
        failure = wire.failure_of(error)
        if pending is not None:
            queued, took = pending.times()
            failure = msgspec.structs.replace(failure, client=pending.client, queued=queued, took=took)
            _log_call(pending, error, queued, took)
        await self._try_to_send(number, Kind.FAILURE, wire.encode(failure))

    async def _try_to_send(self, number: int, kind: Kind, payload: bytes) -> None:
        try:
            await self._send(number, kind, payload)
        except (OSError, TimeoutError):
            # Its reading end notices, too, and ends the connection.
            self._writer.close()

    async def _send(self, number: int, kind: Kind, payload: bytes) -> None:
        async with self._sending, asyncio.timeout(SEND_TIMEOUT):
            self._writer.write(frame_bytes(number, kind, payload))
            await self._writer.drain()


def _microseconds(seconds: float) -> int:
    return max(0, round(seconds * 1_000_000))


def _log_call(pending: PendingCall, error: SignerError | None, queued: int, took: int) -> None:
    _log.log(
        logging.INFO if error is None or error.http_status < 500 else logging.WARNING,
        "call",
        request_id=pending.call.request_id,
        operation=str(type(pending.call.operation).__struct_config__.tag),
        client=pending.client,
        code=None if error is None else error.code,
        reason=None if error is None else error.message,
        queued=queued,
        took=took,
    )
