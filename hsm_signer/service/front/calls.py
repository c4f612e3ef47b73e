"""Calls from a request to a worker, with what identifies the client."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from starlette.requests import ClientDisconnect, Request

from hsm_signer.config.service import Settings
from hsm_signer.errors import CredentialRateLimited, NotAuthenticated, SignerError
from hsm_signer.service.wire.operations import (
    AnyOperation,
    Call,
    Caller,
    Failure,
    credential_of,
    decode_result,
    error_of,
)
from hsm_signer.types import Digest

from .http.token_bucket import TokenBuckets

if TYPE_CHECKING:
    from .metrics import Metrics
    from .pool import Pool

MAX_SECRET = 4096
"""Characters of a bearer token, or of a name and secret together: more is not looked at."""
_HINT = "send Authorization: Bearer TOKEN, or a client certificate; hsm-signer client add makes a client"


@dataclass(frozen=True, slots=True)
class Front:
    """What every endpoint works with, got by :func:`front_of` from its request."""

    settings: Settings
    pool: Pool
    metrics: Metrics
    uploads: asyncio.Semaphore
    """Messages being received at once: each may fill a file."""
    credential_requests: TokenBuckets
    """For each requester and credential."""


def front_of(request: Request) -> Front:
    """Return the front that answers a request."""
    front: Front = request.app.front
    return front


def request_id_of(request: Request) -> str:
    """Return the request's id, as X-Request-Id has it."""
    return str(getattr(request.state, "request_id", "-"))


def caller_of(request: Request) -> Caller:
    """Collect what a request carries to identify its client; the worker checks it.

    ``Authorization: Bearer`` (RFC 6750, 2.1), ``Basic`` (RFC 7617), and the certificate of the TLS handshake.
    Raises NotAuthenticated where there is none of them, or one that cannot be read.
    """
    certificate: Digest | None = getattr(request.state, "certificate", None)
    headers = request.headers.getlist("authorization")
    if not headers:
        if certificate is None:
            raise NotAuthenticated("who asks is not said", hint=_HINT)
        return Caller(certificate=certificate)
    scheme, _, value = headers[0].partition(" ")
    value = value.strip()
    if len(headers) > 1 or not value or len(value) > MAX_SECRET:
        raise NotAuthenticated("authorization: expected one header, Bearer TOKEN", hint=_HINT)
    if scheme.lower() == "bearer":
        return Caller(bearer=value, certificate=certificate)
    if scheme.lower() == "basic":
        return Caller(**_name_and_secret(value), certificate=certificate)
    raise NotAuthenticated("authorization: expected the scheme Bearer", hint=_HINT)


def _name_and_secret(value: str) -> dict[str, str]:
    try:
        text = base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        text = ""
    name, colon, secret = text.partition(":")
    if not colon or not 1 <= len(name) <= 255:
        raise NotAuthenticated("authorization: expected Basic and base64 of NAME:SECRET")
    return {"name": name, "secret": secret}


async def call(request: Request, operation: AnyOperation, *, message: BinaryIO | None = None) -> Any:
    """Have a worker carry out ``operation`` and return its result (wire/operations.py has their types).

    ``message`` holds the bytes that Sign.message counts, from its position on; it is closed once it is not
    needed, whatever happens. Raises what the worker refuses with, ServiceBusy, ServiceTimeout, WorkerLost,
    WorkerUnavailable; ClientDisconnect once nobody waits for the answer.
    """
    return await _call(request, operation, message, _gone(request))


async def call_before_body(request: Request, operation: AnyOperation) -> Any:
    """As :func:`call`, while the body is still to be read: whether the client goes away is not seen."""
    return await _call(request, operation, None, asyncio.Event().wait())


async def _call(
    request: Request, operation: AnyOperation, message: BinaryIO | None, until: Coroutine[Any, Any, Any]
) -> Any:
    front = front_of(request)
    gone = asyncio.ensure_future(until)
    try:
        _refuse_too_many(front, request, operation)
        sent = Call(caller=caller_of(request), request_id=request_id_of(request), operation=operation)
    except BaseException:
        gone.cancel()
        if message is not None:
            message.close()
        raise
    waiting = asyncio.ensure_future(front.pool.call(sent, message))
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            gone.result()  # raises where a body came that is too long or too slow
            raise ClientDisconnect
        answer = waiting.result()
        if answer.client is not None:
            request.state.client = answer.client
        if isinstance(answer, Failure):
            raise error_of(answer.code, answer.message, answer.hint)
        result = decode_result(operation, answer.result)
    except SignerError as error:
        front.metrics.failed(operation, error)
        raise
    finally:
        waiting.cancel()
        gone.cancel()
    front.metrics.answered(operation, answer)
    return result


def _refuse_too_many(front: Front, request: Request, operation: AnyOperation) -> None:
    """Raise CredentialRateLimited where a requester asks too often about one credential.

    Each has a bucket of its own: a stranger who knows the id uses up nobody else's.
    """
    credential_id = credential_of(operation)
    if credential_id is None:
        return
    if wait := front.credential_requests.take(request.state.requester + credential_id):
        front.metrics.rate_limited()
        request.state.retry_after = max(1, math.ceil(wait))
        raise CredentialRateLimited(
            "too many requests about this credential",
            hint=f"at most {front.settings.limits.credential_requests} a minute",
        )


async def _gone(request: Request) -> None:
    """Wait until the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
