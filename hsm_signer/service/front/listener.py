"""The front as a process: listens, serves, reloads its certificate, stops when its work is done."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import ssl
import stat
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import uvloop
from uvicorn.config import Config
from uvicorn.server import ServerState

from hsm_signer.config.service import Settings
from hsm_signer.errors import ConfigError, SignerError, os_words
from hsm_signer.service.logs import Log

from .app import App
from .http.places import Place, Places
from .http.slow_clients import Connection
from .http.tls import load_certificate, make_certificate_for_trying, make_context
from .pool import Pool

_log = Log(__name__)

CLOSING_TIMEOUT = 1.0
"""Seconds for TLS's own goodbye, and for the last bytes of answers."""
BACKLOG = 512
ACCEPT_PAUSE = 0.1
"""Seconds before the next attempt, where the system has no descriptor left for a connection."""


def run(settings: Settings, folder: Path, sockets: Path) -> None:
    """Serve until SIGTERM, SIGINT or the end of a pipe on standard input.

    ``folder``: relative paths of the settings are relative to it. Raises ConfigError before anything
    listens.
    """
    _many_descriptors()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Front(settings, folder, sockets).serve())


class _Front:
    def __init__(self, settings: Settings, folder: Path, sockets: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._stop = asyncio.Event()
        self._state = ServerState()
        self._handshakes: set[asyncio.Task[None]] = set()
        limits, worker = settings.limits, settings.worker
        self._pool = Pool(
            sockets,
            workers=worker.count,
            in_flight=limits.in_flight,
            timeout=limits.request_timeout,
            user=worker.user,
        )
        self._app = App(settings, self._pool)
        self._places = Places(limits)

    async def serve(self) -> None:
        host, port = parse_bind(self._settings.bind)
        make_certificate_for_trying(self._settings.tls, self._folder, host)
        context = make_context(self._settings.tls, self._folder)
        listening = _listen(host, port)
        listening.listen(BACKLOG)
        config = Config(
            self._app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=self._settings.limits.keep_alive,  # type: ignore[arg-type]
        )
        self._watch_signals(context)
        _watch_input(self._stop.set)
        await self._pool.start()
        clock = asyncio.ensure_future(_keep_date(self._state))
        accepting = asyncio.ensure_future(self._accept(listening, context, config))
        _log.info("listening", url=_url(listening))
        await self._stop.wait()
        _log.info("stopping")
        for task in (accepting, *self._handshakes):
            task.cancel()
        listening.close()
        await self._finish(self._state)
        clock.cancel()
        await self._pool.stop()
        _log.info("stopped")

    async def _accept(self, listening: socket.socket, context: ssl.SSLContext, config: Config) -> None:
        """Give each connection its place, from the moment it is there, or close it."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except ConnectionError:
                continue  # it has gone again
            except OSError as error:
                _log.warning("not-accepted", reason=os_words(error))
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            place = self._places.take(peer[0])
            if isinstance(place, str):
                accepted.close()
                self._app.front.metrics.connection_refused(place)
                continue
            connection = Connection(config, self._state, self._settings.limits, loop, place)
            task = loop.create_task(self._shake_hands(accepted, context, connection, place))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _shake_hands(
        self, accepted: socket.socket, context: ssl.SSLContext, connection: Connection, place: Place
    ) -> None:
        """Carry out the handshake; from then on the connection has its place."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._settings.limits.handshake_timeout,
                ssl_shutdown_timeout=CLOSING_TIMEOUT,
            )
        except OSError:
            pass  # too slow, gone, or it speaks no TLS
        finally:
            if connection not in self._state.connections:
                place.free()

    async def _finish(self, state: ServerState) -> None:
        """Requests in flight get their answers, as long as there is time."""
        for connection in list(state.connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.limits.stop_timeout
        while state.tasks and (left := until - loop.time()) > 0:
            await asyncio.wait(state.tasks, timeout=left)
        for task in state.tasks:
            task.cancel()
        until = loop.time() + CLOSING_TIMEOUT
        while state.connections and loop.time() < until:
            await asyncio.sleep(0.02)
        for connection in list(state.connections):
            connection.transport.abort()

    def _watch_signals(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

        def reload() -> None:
            try:
                load_certificate(context, self._settings.tls, self._folder)
            except SignerError as error:
                _log.error("certificate-unusable", code=error.code, detail=error.message)
            else:
                _log.info("certificate-reloaded")

        loop.add_signal_handler(signal.SIGHUP, reload)


def parse_bind(bind: str) -> tuple[str, int]:
    """HOST:PORT, or [ADDRESS]:PORT for IPv6. Raises ConfigError."""
    host, colon, port = bind.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f"bind: expected HOST:PORT or [ADDRESS]:PORT, got {bind!r}")
    return host, int(port)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            listening.bind(address)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise ConfigError(f"bind: {host} port {port}: {os_words(error).lower()}") from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


async def _keep_date(state: ServerState) -> None:
    """The Date header of every answer (RFC 9110, 6.6.1)."""
    while True:
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        await asyncio.sleep(1)


def _watch_input(ended: Callable[[], None]) -> None:
    """The end of a pipe on standard input is the end of whoever started this process."""
    try:
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return
    except OSError:
        return
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ended()

    loop.add_reader(0, readable)


def _many_descriptors() -> None:
    """As many as the system lets us have: connections, messages on disk."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except (OSError, ValueError) as error:
        _log.warning("open-files-not-raised", reason=str(error))
