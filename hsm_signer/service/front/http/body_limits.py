"""How long a request's body may be, and how long it may take."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsm_signer.errors import RequestTooLarge, RequestTooSlow


class BodyLimits:
    """Refuse bodies above ``size`` bytes, and those that are not there after ``seconds``, in all.

    A body that announces its length is refused before any of it is read. Raises RequestTooLarge and
    RequestTooSlow where the body is received.
    """

    def __init__(self, app: ASGIApp, size: int, seconds: float) -> None:
        self._app = app
        self._size = size
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > self._size:
            raise self._too_large()
        deadline = time.monotonic() + self._seconds
        received = 0
        complete = False

        async def receive_within_limits() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise RequestTooSlow(f"body: it did not arrive within {self._seconds:g} seconds") from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._size:
                raise self._too_large()
            return message

        await self._app(scope, receive_within_limits, send)

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"body: expected at most {self._size} bytes")
