"""Around every request: its id, its client's rate, the size and time of its body, its line in the log."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import math
import re
import secrets
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsm_signer.config.service import LimitSettings
from hsm_signer.errors import NotAuthenticated, RateLimited, RequestTooLarge, RequestTooSlow, SignerError
from hsm_signer.service.front.metrics import Metrics
from hsm_signer.service.front.problems import CLIENT_GONE, status_of
from hsm_signer.service.logs import log

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
MESSAGE_PATH = re.compile(r"/v1/credentials/[^/]+/message-signatures")
MULTIPART_EXTRA = 64 << 10
"""Bytes of a message's request that are not the message."""
MAX_BUCKETS = 10_000
UNMATCHED = "unmatched"
"""Endpoint of what no route took: raw paths would be names that strangers choose."""
Refuse = Callable[[Request, Exception], Response]


class Buckets:
    """Token buckets, one for each client: ``burst`` requests at once, ``rate`` a second in the long run.

    A client has a bucket of its own once a worker has known it; before that, and without one, the peer's
    address counts. So nobody gets more by making tokens up.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def __contains__(self, key: bytes) -> bool:
        return key in self._left

    def take(self, key: bytes) -> float:
        """One request of ``key``: 0.0, or the seconds until one would be taken."""
        now = self._clock()
        left, before = self._left.pop(key, (float(self._burst), now))
        left = min(float(self._burst), left + (now - before) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._put(key, left - 1 if left >= 1 else left, now)
        return wait

    def know(self, key: bytes) -> None:
        """From now on ``key`` has a bucket of its own."""
        if key not in self._left:
            self._put(key, float(self._burst), self._clock())

    def _put(self, key: bytes, left: float, now: float) -> None:
        self._left[key] = (left, now)
        while len(self._left) > MAX_BUCKETS:
            self._left.popitem(last=False)


class Limits:
    """ASGI middleware; everything it refuses is refused before any endpoint sees it, or in its place."""

    def __init__(self, app: ASGIApp, *, limits: LimitSettings, metrics: Metrics, refuse: Refuse) -> None:
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._refuse = refuse
        self._buckets = Buckets(limits.rate, limits.burst)
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        """SHA-256 of an Authorization header -> its client's bucket, the same for all its access tokens."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await _Exchange(self, scope, receive, send).run()

    async def answer(self, exchange: _Exchange) -> None:
        """The endpoint's answer, or why there is none. Raises what nobody expected."""
        request = Request(exchange.scope)
        presented = self._check_rate(request)
        headers = request.headers
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length) > self.body_limit(exchange.scope):
            raise self.too_large(exchange.scope)
        await self._app(exchange.scope, exchange.receive, exchange.send)
        if presented is not None:
            self._learn(presented, exchange.state)

    def _check_rate(self, request: Request) -> bytes | None:
        """SHA-256 of the Authorization header, if there is one. Raises RateLimited."""
        if request.url.path == "/healthz":
            return None
        certificate: bytes | None = request.scope["state"].get("certificate")
        header = request.headers.get("authorization")
        presented = hashlib.sha256(header.encode()).digest() if header else None
        own = None if presented is None else self._known.get(presented)
        if own is not None and own in self._buckets:
            key = own
        elif certificate is not None:
            key = b"c" + certificate
        else:
            key = b"a" + _address(request).encode()
        if wait := self._buckets.take(key):
            self._metrics.rate_limited()
            request.scope["state"]["retry_after"] = max(1, math.ceil(wait))
            raise RateLimited("too many requests", hint=f"at most {self._limits.rate:g} a second")
        return presented

    def _learn(self, presented: bytes, state: dict[str, Any]) -> None:
        """Whose it is, as a worker has said, or that it is nobody's any more."""
        if (client := state.get("client")) is not None:
            key = b"n" + client.encode()
            self._buckets.know(key)
            self._known[presented] = key
            self._known.move_to_end(presented)
            while len(self._known) > MAX_BUCKETS:
                self._known.popitem(last=False)
        elif state.get("code") == NotAuthenticated.code:
            self._known.pop(presented, None)

    def body_limit(self, scope: Scope) -> int:
        """Bytes that the body of this request may have."""
        if scope["method"] == "POST" and MESSAGE_PATH.fullmatch(scope["path"]):
            return self._limits.message + MULTIPART_EXTRA
        return self._limits.body

    def too_large(self, scope: Scope) -> RequestTooLarge:
        """Says how long a body may be."""
        return RequestTooLarge(f"body: expected at most {self.body_limit(scope)} bytes")


class _Exchange:
    """One request and its answer on their way through."""

    def __init__(self, limits: Limits, scope: Scope, receive: Receive, send: Send) -> None:
        self._owner = limits
        self._receive = receive
        self._send = send
        self._began = time.monotonic()
        self._size = 0
        self._body_complete = False
        self._refusal: SignerError | None = None
        self.status: int | None = None
        self.scope = scope
        self.state = scope.setdefault("state", {})
        asked = Headers(scope=scope).get("x-request-id", "")
        self.request_id = asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(16)
        self.state["request_id"] = self.request_id

    async def run(self) -> None:
        try:
            await self._owner.answer(self)
        except SignerError as error:
            await self._say(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets an answer and we a line
            self._log_unexpected(error)
            await self._say(error)
        else:
            if self._refusal is not None and self.status is None:
                await self._say(self._refusal)
        finally:
            self._log()

    async def receive(self) -> Message:
        """The body, as long as it may be and as fast as it must."""
        if self._body_complete:
            return await self._receive()
        limit = self._owner._limits.body_timeout
        try:
            async with asyncio.timeout(self._began + limit - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            self._refusal = RequestTooSlow(f"body: it did not arrive within {limit:g} seconds")
            raise self._refusal from None
        if message["type"] != "http.request":
            self._body_complete = True
            return message
        self._size += len(message.get("body", b""))
        self._body_complete = not message.get("more_body", False)
        if self._size > self._owner.body_limit(self.scope):
            self._refusal = self._owner.too_large(self.scope)
            raise self._refusal
        return message

    async def send(self, message: Message) -> None:
        """The answer with the headers that every answer has; ours in its place where the body was refused."""
        if self._refusal is not None and self.status is None:
            return
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)

    async def _say(self, error: Exception) -> None:
        if self.status is not None:
            return  # too late for words: the connection is closed
        self.state["code"] = status_of(error)[1]
        response = self._owner._refuse(Request(self.scope), error)
        await response(self.scope, self._receive, self._pass)

    def _log_unexpected(self, error: Exception) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        log(
            "unexpected",
            level="error",
            request_id=self.request_id,
            error=type(error).__name__,
            where=" < ".join(f"{each.filename}:{each.lineno}" for each in reversed(frames[-6:])),
        )

    def _log(self) -> None:
        route = getattr(self.scope.get("route"), "path_format", UNMATCHED)
        status = self.status or CLIENT_GONE
        seconds = time.monotonic() - self._began
        self._owner._metrics.request(route, status, seconds)
        client = self.scope.get("client")
        log(
            "request",
            request_id=self.request_id,
            method=self.scope["method"],
            endpoint=route,
            status=status,
            milliseconds=round(seconds * 1000, 1),
            client=self.state.get("client"),
            peer=client[0] if client else None,
            code=self.state.get("code"),
        )


def _address(request: Request) -> str:
    """The peer's address; for IPv6 its network, since whoever has one address there has 2^64."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
