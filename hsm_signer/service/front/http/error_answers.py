"""Whatever goes wrong has an answer: the last resort around all endpoints."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsm_signer.errors import SignerError
from hsm_signer.service.front.problems import status_of
from hsm_signer.service.logs import Log

_log = Log(__name__)

ErrorResponse = Callable[[Request, Exception], Response]
EXPECTED = (SignerError, HTTPException, ClientDisconnect)
FRAMES = 6
"""Of a traceback in the log: files and lines, never values."""


class ErrorAnswers:
    """Answer every exception as ``respond`` says, and log those that nobody expected.

    The access log finds the error's code as ``state["code"]``. Once an answer has begun it is too late for
    words: the connection is closed.
    """

    def __init__(self, app: ASGIApp, respond: ErrorResponse) -> None:
        self._app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:  # noqa: BLE001 - whatever it was, the client gets an answer and we a line
            scope["state"]["code"] = status_of(error)[1]
            if not isinstance(error, EXPECTED):
                _log_unexpected(scope, error)
            if not begun:
                await self._respond(Request(scope), error)(scope, receive, send)


def _log_unexpected(scope: Scope, error: Exception) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    _log.error(
        "unexpected",
        request_id=scope["state"].get("request_id"),
        error=type(error).__name__,
        where=" < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames[-FRAMES:])),
    )
