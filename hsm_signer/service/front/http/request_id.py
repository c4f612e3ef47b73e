"""The id of a request, in its answer and in the logs of front and workers."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"
USABLE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Draw the id of each request: 16 random bytes in hexadecimal.

    A client's own X-Request-Id stands beside it where it is usable, and never in its place: whoever chooses
    ids could have two requests look like one. Endpoints find both in ``request.state``, as ``request_id`` and
    ``client_request_id``; the second is missing where there is none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        offered = Headers(scope=scope).get(HEADER, "")
        request_id = secrets.token_hex(16)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        if USABLE.fullmatch(offered):
            state["client_request_id"] = offered

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)
