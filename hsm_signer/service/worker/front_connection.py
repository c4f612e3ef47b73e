"""One connection of a front: frames in, frames out; a frame against the rules ends it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from hsm_signer.config.service import LimitSettings
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


class Desk(Protocol):
    """What a connection needs of its worker."""

    token: TokenThread
    reader: ReaderThread
    limits: LimitSettings
    identities: Identities

    def state(self) -> wire.WorkerState:
        """As it is now."""
        ...

    def refusal(self) -> SignerError | None:
        """Why no call can be taken now; None if one can."""
        ...

    def signed(self, count: int) -> None:
        """So many signatures were made."""
        ...


class Steps:
    """How long each step of docs/understand/protocol.md, section 5, took."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.durations: list[tuple[int, int]] = []
        self._last = self.started

    def observe(self, step: int) -> None:
        """This step is done."""
        now = time.monotonic()
        self.durations.append((step, _microseconds(now - self._last)))
        self._last = now


class InHand:
    """One call being carried out: what is known of it by and by."""

    def __init__(self, number: int, call: wire.Call) -> None:
        self.number = number
        self.call = call
        self.client: str | None = None
        self.steps: Steps | None = None
        self._came = time.monotonic()

    def start(self) -> Steps:
        """Its turn has come."""
        self.steps = Steps()
        return self.steps

    def is_client(self, name: str) -> None:
        """Who asks."""
        self.client = name

    def times(self) -> tuple[int, int]:
        """Microseconds that it waited, and since then."""
        now = time.monotonic()
        started = now if self.steps is None else self.steps.started
        return _microseconds(started - self._came), _microseconds(now - started)


class Connection:
    """Serves one front until it goes, breaks the rules, or the worker ends."""

    def __init__(self, desk: Desk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._desk = desk
        self._reader = reader
        self._writer = writer
        self._sending = asyncio.Lock()
        self._calls: set[asyncio.Task[None]] = set()
        self._uploads: dict[int, Upload] = {}
        self._last_id = 0

    @property
    def in_hand(self) -> int:
        """Calls not answered yet."""
        return len(self._calls) + sum(not each.refused for each in self._uploads.values())

    async def serve(self) -> None:
        """HELLO, then whatever comes."""
        number = 0
        try:
            await self._send(0, Kind.HELLO, wire.encode(self._desk.state()))
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
        """What has not begun never will: nobody would get the answer."""
        for task in self._calls:
            task.cancel()
        for upload in self._uploads.values():
            upload.close()
        self._uploads.clear()
        self._writer.close()

    async def close(self) -> None:
        """Close it once everything that was sent has gone, or nobody takes it."""
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
            if (refusal := self._desk.refusal()) is not None:
                raise refusal
            if isinstance(operation, wire.Sign):
                handlers.check_sign(operation, self._desk.limits)
        except SignerError as error:
            if upload is not None:
                upload.close()
            await self._fail(frame.id, error, InHand(frame.id, call))
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
        """Answer the calls whose message is still coming."""
        for number, upload in list(self._uploads.items()):
            if not upload.refused:
                await self._refuse(number, upload, error)

    async def _refuse(self, number: int, upload: Upload, error: SignerError) -> None:
        upload.close()
        await self._fail(number, error, InHand(number, upload.call))

    # --- carrying out ----------------------------------------------------------------------------------

    def _begin(self, number: int, call: wire.Call, upload: Upload) -> None:
        task = asyncio.get_running_loop().create_task(self._carry_out(InHand(number, call), upload))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _carry_out(self, it: InHand, upload: Upload) -> None:
        desk = self._desk
        operation = it.call.operation
        message = upload if isinstance(operation, wire.Sign) and operation.digests is None else None

        def work(server: Server) -> Any:
            server = replace(server, observe=it.start().observe)
            result = handlers.carry_out(server, desk.identities, desk.limits, it.call, message, it.is_client)
            if isinstance(result, SignOutcome) and not result.repeated:
                desk.signed(len(result.signatures))  # here: the front may have gone by then
            return result

        try:
            result = await asyncio.wrap_future(desk.token.ask(work))
            if isinstance(result, handlers.InReader):
                finish = result.finish
                result = await asyncio.wrap_future(desk.reader.ask(lambda _: finish()))
        except TokenSessionLost:
            # To others it is no reason to give up: the worker opens a new session.
            lost = WorkerUnavailable("the worker has lost its token")
            await self._fail(it.number, lost, it)
        except SignerError as error:
            await self._fail(it.number, error, it)
        except Exception:  # noqa: BLE001  logged where it was raised
            await self._fail(it.number, INTERNAL, it)
        else:
            await self._reply(it, result)
        finally:
            upload.close()

    # --- frames out ------------------------------------------------------------------------------------

    async def send_state(self) -> None:
        """Tell the front what the worker is now."""
        await self._try_to_send(0, Kind.STATE, wire.encode(self._desk.state()))

    async def _reply(self, it: InHand, result: Any) -> None:
        queued, took = it.times()
        reply = wire.Reply(
            result=msgspec.Raw(wire.encode(result)),
            client=it.client,
            steps=() if it.steps is None else tuple(it.steps.durations),
            queued=queued,
            took=took,
        )
        payload = wire.encode(reply)
        if len(payload) > MAX_PAYLOAD:
            await self._fail(it.number, ServiceError("the answer is too long for the service"), it)
            return
        _log_call(it, None, queued, took)
        await self._try_to_send(it.number, Kind.REPLY, payload)

    async def _fail(self, number: int, error: SignerError, it: InHand | None = None) -> None:
        failure = wire.failure_of(error)
        if it is not None:
            queued, took = it.times()
            failure = msgspec.structs.replace(failure, client=it.client, queued=queued, took=took)
            _log_call(it, error, queued, took)
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


def _log_call(it: InHand, error: SignerError | None, queued: int, took: int) -> None:
    _log.log(
        logging.INFO if error is None or error.http_status < 500 else logging.WARNING,
        "call",
        request_id=it.call.request_id,
        operation=str(type(it.call.operation).__struct_config__.tag),
        client=it.client,
        code=None if error is None else error.code,
        reason=None if error is None else error.message,
        queued=queued,
        took=took,
    )
