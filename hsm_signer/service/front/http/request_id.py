"""The id of a request, in its answer and in the logs of front and workers."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
USABLE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Take the client's X-Request-Id where it is usable, else 16 random bytes in hexadecimal.

    Endpoints find it as ``request.state.request_id``.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        offered = Headers(scope=scope).get(HEADER, "")
        request_id = offered if USABLE.fullmatch(offered) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
