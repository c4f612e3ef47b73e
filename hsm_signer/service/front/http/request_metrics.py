"""Every answer in the metrics."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hsm_signer.service.front.metrics import Metrics
from hsm_signer.service.front.problems import CLIENT_GONE

from .access_log import endpoint_of


class RequestMetrics:
    """Count each request by route and status, and the seconds from its head to the end of its answer."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

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
            self._metrics.request(endpoint_of(scope), status, time.monotonic() - began)
