"""The worker's process: arguments, signals, the socket, the watchdog, the end.

It ends with status 0 when it was told to, when its standard input ends (who started it has gone), and when it
has made so many signatures that it should be started anew; with 70 when token or database did not return.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import gc
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hsm_signer.config import service as settings
from hsm_signer.config.service import Settings
from hsm_signer.core.card_origin import OriginPolicy
from hsm_signer.errors import ServiceBusy, ServiceStopping, SignerError
from hsm_signer.server.installation import origin_policy
from hsm_signer.service import logs
from hsm_signer.service.logs import Log
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import peer_of, socket_path

from . import sockets
from .access import Identities
from .front_connection import Connection
from .threads import ReaderThread, TokenThread, unavailable

_log = Log(__name__)

HUNG = 70
"""Exit status when the watchdog ends the process: EX_SOFTWARE of sysexits.h."""
MAX_CALLS = 1024
"""Calls that are not answered yet; one more is refused."""
MAX_CONNECTIONS = 64
"""Fronts at once, old ones that have not noticed their end included."""
GOODBYE = 1.0
"""Seconds for a front to close its connection once a worker that ends has said so and has answered all."""
SECOND_WATCH = 10.0
"""Seconds later than the watchdog: for a module that hangs and holds Python's lock with it."""
GARBAGE_THRESHOLD = 50_000
"""As the command line has it (cli/main.py)."""


class Worker:
    """One worker: its event loop, connections and two threads."""

    def __init__(
        self, home: Path, chosen: Settings, policy: OriginPolicy, folder: Path, slot: int, generation: int
    ) -> None:
        self.limits = chosen.limits
        self.approval = chosen.approval
        self.identities = Identities()
        self._settings = chosen.worker
        self._folder = folder
        self._slot = slot
        self._generation = generation
        self._state = "starting"
        self._reason: str | None = None
        self._signatures = 0
        self._loop = asyncio.new_event_loop()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._drain = asyncio.Event()
        self.token = TokenThread(home, chosen, self._tell, policy)
        self.reader = ReaderThread()

    # --- what connections ask ----------------------------------------------------------------------------

    def state(self) -> wire.WorkerState:
        """Return the worker's present state."""
        return wire.WorkerState(
            version=wire.VERSION,
            slot=self._slot,
            generation=self._generation,
            pid=os.getpid(),
            state=self._state,
            reason=self._reason,
            signatures=self._signatures,
        )

    def refusal(self) -> SignerError | None:
        """Return the error that refuses a new call now; None if the worker takes calls."""
        if self._state == "draining":
            return ServiceStopping("the worker is ending")
        if self._state != "ready":
            return unavailable(self._state, self._reason)
        if sum(connection.unanswered for connection in self._connections) >= MAX_CALLS:
            return ServiceBusy(f"the worker has {MAX_CALLS} calls in hand")
        return None

    def signed(self, count: int) -> None:
        """Count signatures, from the token's thread; after ``recycle_after`` of them the worker ends."""
        self._loop.call_soon_threadsafe(self._count, count)

    def _count(self, signatures: int) -> None:
        self._signatures += signatures
        if self._signatures >= self._settings.recycle_after:
            self.drain(f"{self._signatures} signatures made")

    # --- states ------------------------------------------------------------------------------------------

    def _tell(self, state: str, reason: str | None) -> None:
        """Change the state, from the token's thread."""
        self._loop.call_soon_threadsafe(self._change, state, reason)

    def _change(self, state: str, reason: str | None) -> None:
        if self._state == "draining":
            return
        self._state, self._reason = state, reason
        if state == "ready":
            gc.freeze()
        level = logging.WARNING if state == "recovering" else logging.INFO
        _log.log(level, "state", state=state, reason=reason)
        for connection in self._connections:
            self._start(connection.send_state())

    def drain(self, reason: str) -> None:
        """Take no new calls, finish the present ones, and end."""
        self._change("draining", reason)
        self._drain.set()

    def _start(self, work: asyncio._CoroutineLike[None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the process -------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to end; return the exit status. Raises ConfigError without a socket."""
        sock = sockets.listen(self._folder, self._slot, sockets.socket_group(self._settings))
        allowed = sockets.allowed_users(self._settings)
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._run(sock, allowed))
        finally:
            faulthandler.cancel_dump_traceback_later()
            socket_path(self._folder, self._slot).unlink(missing_ok=True)
        return 0

    async def _run(self, sock: socket.socket, allowed: frozenset[int]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.drain, signal.Signals(number).name)
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            self._loop.add_reader(0, self._parent_gone)
        self._start(self._watch())
        self.token.start()
        self.reader.start()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, allowed)

        server = await asyncio.start_unix_server(connected, sock=sock)
        _log.info("listening", path=str(socket_path(self._folder, self._slot)), pid=os.getpid())
        await self._drain.wait()
        server.close()
        for connection in list(self._connections):
            await connection.refuse_uploads(ServiceStopping("the worker is ending"))
        while any(connection.unanswered for connection in self._connections):
            await asyncio.sleep(0.01)
        # A front that has not read yet that this is the end may send one more: to be refused, not lost.
        until = self._loop.time() + GOODBYE
        while self._connections and self._loop.time() < until:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            await connection.close()
        self.token.stop()
        self.reader.stop()
        while self.token.is_alive() or self.reader.is_alive():
            await asyncio.sleep(0.01)
        _log.info("ended", signatures=self._signatures)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, allowed: frozenset[int]
    ) -> None:
        peer = peer_of(writer.get_extra_info("socket"))
        if peer.uid not in allowed or len(self._connections) >= MAX_CONNECTIONS:
            # Without a word: who may not ask learns nothing.
            reason = "too many connections" if peer.uid in allowed else "user not allowed"
            _log.warning("peer-refused", reason=reason, uid=peer.uid, pid=peer.pid)
            writer.transport.abort()
            return
        connection = Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.discard(connection)

    def _parent_gone(self) -> None:
        if not os.read(0, 4096):
            self._loop.remove_reader(0)
            self.drain("standard input has ended")

    # --- the watchdog --------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            now = time.monotonic()
            due = min(
                (thread.due for thread in (self.token, self.reader) if thread.due is not None), default=None
            )
            if due is not None and now > due:
                _log.error("hung", reason="token or database did not return in time")
                os._exit(HUNG)
            left = self._settings.operation_timeout if due is None else due - now
            # It needs no Python to run; nothing here can be sure of that.
            faulthandler.dump_traceback_later(left + SECOND_WATCH, exit=True)
            await asyncio.sleep(min(1.0, self._settings.operation_timeout / 4))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hsm_signer.service.worker", description="One worker; `hsm-signer serve` starts them."
    )
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--generation", type=int, required=True)
    options = parser.parse_args(arguments)
    os.umask(0o077)
    gc.set_threshold(GARBAGE_THRESHOLD)
    logs.configure(sys.stderr, part="worker", slot=options.slot, generation=options.generation)
    try:
        chosen = settings.load(options.settings)
        folder = options.settings.absolute().parent / chosen.worker.sockets
        sockets.make_folder(folder, sockets.socket_group(chosen.worker))
        policy = origin_policy(options.settings)
        return Worker(options.home, chosen, policy, folder, options.slot, options.generation).run()
    except SignerError as error:
        _log.error("failed", code=error.code, reason=error.message, hint=error.hint)
        return error.exit_status
