"""One line in the log for every request."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsm_signer.service.front.problems import CLIENT_GONE
from hsm_signer.service.logs import Log

_log = Log(__name__)

UNMATCHED = "unmatched"
"""Endpoint of what no route took: raw paths would be names that strangers choose."""


def endpoint_of(scope: Scope) -> str:
    """The template of the route that took the request, never its path or query: those may name people."""
    return getattr(scope.get("route"), "path_format", UNMATCHED)


class AccessLog:
    """Log each request once it is answered; its status is 499 where nobody waited for the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        began = time.monotonic()
        status = CLIENT_GONE

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            state = scope["state"]
            peer = scope.get("client")
            _log.info(
                "request",
                request_id=state.get("request_id"),
                client_request_id=state.get("client_request_id"),
                method=scope["method"],
                endpoint=endpoint_of(scope),
                status=status,
                milliseconds=round((time.monotonic() - began) * 1000, 1),
                client=state.get("client"),
                peer=peer[0] if peer else None,
                code=state.get("code"),
            )
