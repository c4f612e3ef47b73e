"""The ASGI application: the native interface, the CSC interface, health and documentation."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from hsm_signer.config.service import Settings

from . import docs_page, health, openapi
from .calls import Front
from .csc import endpoints as csc
from .http.access_log import AccessLog
from .http.error_answers import ErrorAnswers
from .http.rate_limit import RateLimit
from .http.request_id import RequestId
from .http.request_metrics import RequestMetrics
from .http.response_headers import ResponseHeaders
from .http.routes import routes_of
from .http.token_bucket import TokenBuckets
from .metrics import Metrics
from .native import endpoints as native
from .pool import Pool
from .problems import problem_response

CSC_PREFIX = "/csc/"
INTERFACES = (native.NATIVE, csc.VERSION_2, csc.VERSION_1, health.HEALTH)


class App:
    """The application over these workers; whoever runs it starts and stops the pool."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        metrics = Metrics(pool)
        limits = settings.limits
        self.front = Front(
            settings,
            pool,
            metrics,
            asyncio.Semaphore(limits.in_flight),
            TokenBuckets(limits.credential_requests / 60, limits.credential_requests),
        )
        self.readiness = health.ReadinessCheck(pool, settings.worker.count)
        self.document = openapi.document(INTERFACES, settings)
        """OpenAPI's."""
        routes = [*routes_of(INTERFACES, limits), *docs_page.routes_of(self.document)]
        app: ASGIApp = Router(routes, redirect_slashes=False)
        # A request meets the last of these first.
        app = RateLimit(app, limits, metrics)
        app = ErrorAnswers(app, error_response)
        app = RequestMetrics(app, metrics)
        app = AccessLog(app)
        app = ResponseHeaders(app)
        self._serve = RequestId(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        scope["app"] = self
        await self._serve(scope, receive, send)


def error_response(request: Request, error: Exception) -> Response:
    """The answer to a request that failed, in the words of the interface that was asked."""
    if request.scope["path"].startswith(CSC_PREFIX):
        return csc.error_response(request, error)
    return problem_response(request, error)
