"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from msgspec import UNSET, Struct, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hsm_signer.core import json_codec
from hsm_signer.errors import ChallengeStale, InputError, NotAuthenticated, SignerError

from .calls import request_id_of

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 1
"""Seconds, where nothing better is known."""
CLIENT_GONE = 499
"""Only in logs: nobody is there to read it."""


class Problem(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every refusal looks like (RFC 9457)."""

    type: str = "about:blank"
    title: str
    """The status in words."""
    status: int
    """The HTTP status."""
    detail: str
    """What is wrong, for people."""
    code: str
    """What is wrong, for programs; it never changes."""
    hint: str | UnsetType = UNSET
    """What to do next."""
    retryable: bool
    """The same request may succeed later; nothing is signed twice."""
    request_id: str
    """As X-Request-Id of the answer."""
    client_request_id: str | UnsetType = UNSET
    """X-Request-Id of the request: at most 64 letters, digits, dots, hyphens and underscores."""


class HttpError(HTTPException):
    """A refusal of HTTP itself: no such path, no such method, another media type.

    No SignerError: these codes are HTTP's own, and no command of ours ever ends with them.
    """

    hint = None
    retryable = False

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.http_status = status
        self.code = code
        self.message = message


def json_response(value: Any, status: int = 200) -> Response:
    """Make a JSON response of a struct."""
    return Response(json_codec.encode(value), status, media_type="application/json")


def status_of(error: Exception) -> tuple[int, str]:
    """Return HTTP status and code of any error."""
    known = known_error(error)
    return known.http_status, known.code


def known_error(error: Exception) -> SignerError | HttpError:
    """Convert an exception to a SignerError, without particulars for one that is not expected."""
    if isinstance(error, SignerError | HttpError):
        return error
    if isinstance(error, HTTPException):
        return _http_error(error)
    if isinstance(error, ClientDisconnect):
        return HttpError(CLIENT_GONE, "client.gone", "the client closed the connection")
    return SignerError("something went wrong inside the service")


def problem_of(error: Exception, request_id: str, client_request_id: str | UnsetType = UNSET) -> Problem:
    """Make the problem document of an error."""
    known = known_error(error)
    return Problem(
        title=title_of(known.http_status),
        status=known.http_status,
        detail=known.message,
        code=known.code,
        hint=UNSET if known.hint is None else known.hint,
        # For the command line it means the command, which asks the card again; here this very request.
        retryable=known.retryable and not isinstance(known, ChallengeStale),
        request_id=request_id,
        client_request_id=client_request_id,
    )


def title_of(status: int) -> str:
    """The status in words."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"


def problem_response(request: Request, error: Exception) -> Response:
    """Make the response to a request that failed."""
    own = getattr(request.state, "client_request_id", UNSET)
    problem = problem_of(error, request_id_of(request), own)
    response = Response(json_codec.encode(problem), problem.status, headers_of(request, error))
    response.headers["content-type"] = MEDIA_TYPE
    return response


def headers_of(request: Request, error: Exception) -> dict[str, str]:
    """Make the headers that HTTP requires: WWW-Authenticate with 401, Retry-After with 429 and 503."""
    known = known_error(error)
    headers = dict(known.headers or {}) if isinstance(known, HttpError) else {}
    if isinstance(known, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="hsm-signer"'
    if known.http_status in (429, 503):
        headers["Retry-After"] = str(getattr(request.state, "retry_after", RETRY_AFTER))
    if known.http_status in (408, 413):
        # The rest of the body is still to come, and nobody wants it.
        headers["Connection"] = "close"
    return headers


def _http_error(error: HTTPException) -> HttpError:
    headers = error.headers
    if error.status_code == 404:
        return HttpError(404, "request.path-unknown", "there is nothing at this path", headers)
    if error.status_code == 405:
        return HttpError(405, "request.method-unsuitable", "this path does not take this method", headers)
    words = str(error.detail or title_of(error.status_code))
    return HttpError(error.status_code, InputError.code, words[:1].lower() + words[1:], headers)
