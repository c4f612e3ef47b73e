"""The ASGI application: the native interface, the CSC interface, health and documentation."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hsm_signer.config.service import Settings
from hsm_signer.errors import SignerError

from . import docs_page, health, openapi
from .calls import Front
from .csc import endpoints as csc
from .http.limits import Limits
from .metrics import Metrics
from .native import endpoints as native
from .pool import Pool
from .problems import CLIENT_GONE, problem_response, status_of

CSC_PREFIX = "/csc/"
DESCRIPTION = """\
Signatures with keys that a smart card controls and an HSM uses, one message at a time (EP 0725512).

Bytes are base64 with padding, credential ids 32 lower-case hexadecimal digits. Every refusal is a problem
document (RFC 9457) with a `code` that never changes; `retryable` says that the same request may be sent
again: nothing is ever signed twice.
"""


def make_app(settings: Settings, pool: Pool) -> FastAPI:
    """The application over these workers; whoever runs it starts and stops the pool."""
    app = FastAPI(
        title="hsm-signer",
        version=version("hsm-signer"),
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    metrics = Metrics(pool)
    app.state.front = Front(settings, pool, metrics, asyncio.Semaphore(settings.limits.in_flight))
    app.state.readiness = health.Readiness(pool, settings.worker.count)
    app.include_router(native.router)
    app.include_router(csc.router)
    app.include_router(health.router)
    docs_page.mount(app)
    for kind in (SignerError, RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(Limits, limits=settings.limits, metrics=metrics, refuse=error_response)

    def document() -> dict[str, Any]:
        return openapi.document(app)

    app.openapi = document  # type: ignore[method-assign]
    return app


def error_response(request: Request, error: Exception) -> Response:
    """In the words of the interface that was asked."""
    if request.scope["path"].startswith(CSC_PREFIX):
        return csc.error_response(request, error)
    return problem_response(request, error)


async def _answer_error(request: Request, error: Exception) -> Response:
    request.state.code = status_of(error)[1]
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    return error_response(request, error)
