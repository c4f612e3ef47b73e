"""One HTTPS connection: uvicorn's, with the client's certificate, its place, and limits of its own."""

from __future__ import annotations

import asyncio
import hashlib

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from hsm_signer.config.service import LimitSettings
from hsm_signer.core import json_codec
from hsm_signer.errors import InputError
from hsm_signer.service.front.problems import MEDIA_TYPE, problem_of

from .places import Place

MAX_HEAD = 64 << 10
"""Bytes of a request's head."""


class Connection(HttpToolsProtocol):
    """Closes itself where a head is too slow or too long, where an answer is not taken, and after an upgrade
    that was asked for.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        limits: LimitSettings,
        loop: asyncio.AbstractEventLoop,
        place: Place,
    ) -> None:
        super().__init__(config, server_state, {}, loop)
        self._place = place
        self._limits = limits
        self._slow: asyncio.TimerHandle | None = None
        self._head = 0
        """Bytes that came while a head was awaited."""
        self._in_head = True
        self._upgrade = False
        """Whether an upgrade was asked for: what the parser has from there on is no HTTP to it."""
        self._untaken: asyncio.TimerHandle | None = None
        self._left = 0
        """Bytes of answers that the client had not taken when it was looked last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """After the handshake."""
        super().connection_made(transport)
        self.app_state = {"place": self._place}
        ssl_object = transport.get_extra_info("ssl_object")
        # There only if the handshake proved it and client_ca stands for it (CERT_OPTIONAL).
        certificate = ssl_object.getpeercert(True) if ssl_object is not None else None
        if certificate is not None:
            self.app_state["certificate"] = hashlib.sha256(certificate).digest()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer stays behind, and the place is free."""
        self._place.free()
        self._head_is_there()
        self._is_taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What comes between requests belongs to a head, whatever it is."""
        if self._upgrade or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        if self._slow is not None:
            self._head += len(data)
        super().data_received(data)
        if self._slow is not None and self._head > MAX_HEAD:
            self.transport.abort()

    def pause_writing(self) -> None:
        """More of an answer is here than the client takes: it goes on taking some, or is cut off."""
        super().pause_writing()
        self._left = self.transport.get_write_buffer_size()
        self._await_taking()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        self._is_taken()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """The first byte of a head, also of one that comes while another request is answered."""
        self._in_head = True
        self._await_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Headers after the body (trailers) are dropped: nobody may add one to a request under way."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        self._head_is_there()
        super().on_headers_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Answered as if no upgrade had been asked for (RFC 9110, 7.8), and then the end.

        The parser leaves out the body of such a request: read on, it would be taken for the next one.
        """
        self._upgrade = True
        self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """To what is no HTTP: a problem document, without a request id, for it is no request."""
        body = json_codec.encode(problem_of(InputError("this is no HTTP request"), "-"))
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"
            b"content-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (MEDIA_TYPE.encode(), len(body), body)
        )
        self.transport.close()

    def _await_head(self) -> None:
        if self._slow is None:
            self._head = 0
            self._slow = self.loop.call_later(self._limits.header_timeout, self._too_slow)

    def _head_is_there(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        self._slow = None
        self.transport.abort()

    def _await_taking(self) -> None:
        self._is_taken()
        self._untaken = self.loop.call_later(self._limits.body_timeout, self._look_at_taking)

    def _is_taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _look_at_taking(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left < self._left:
            self._left = left
            self._await_taking()
        else:
            self.transport.abort()
