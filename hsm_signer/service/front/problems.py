"""Errors as problem documents (RFC 9457), and what FastAPI finds wrong in this project's words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
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


class Problem(BaseModel):
    """What every refusal looks like (RFC 9457)."""

    model_config = ConfigDict(extra="forbid", title="Problem")

    type: str = Field(description="about:blank")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What is wrong, for people.")
    code: str = Field(description="What is wrong, for programs; it never changes.")
    hint: str | None = Field(default=None, description="What to do next.")
    retryable: bool = Field(description="The same request may succeed later; nothing is signed twice.")
    request_id: str = Field(description="As X-Request-Id.")


class HttpError(HTTPException):
    """What HTTP itself refuses: no such path, no such method, another media type.

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


class Json(Response):
    """JSON, encoded by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """UTF-8."""
        return msgspec.json.encode(content)


class Entity(Json):
    """A struct in the service's own JSON (core/json_codec.py)."""

    def render(self, content: Any) -> bytes:
        """UTF-8."""
        return json_codec.encode(content)


def status_of(error: Exception) -> tuple[int, str]:
    """HTTP status and code of any error."""
    known = known_error(error)
    return known.http_status, known.code


def known_error(error: Exception) -> SignerError | HttpError:
    """The error of our own that says this; one without any particulars for what nobody expected."""
    if isinstance(error, SignerError | HttpError):
        return error
    if isinstance(error, RequestValidationError):
        return InputError(validation_words(error.errors()))
    if isinstance(error, HTTPException):
        return _http_error(error)
    if isinstance(error, ClientDisconnect):
        return HttpError(CLIENT_GONE, "client.gone", "the client closed the connection")
    return SignerError("something went wrong inside the service")


def problem_of(error: Exception, request_id: str) -> dict[str, Any]:
    """The problem document."""
    known = known_error(error)
    status, code = status_of(known)
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": title_of(status),
        "status": status,
        "detail": known.message,
        "code": code,
        # For the command line it means the command, which asks the card again; here this very request.
        "retryable": known.retryable and not isinstance(known, ChallengeStale),
        "request_id": request_id,
    }
    if known.hint is not None:
        document["hint"] = known.hint
    return document


def title_of(status: int) -> str:
    """The status in words."""
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Error"


def problem_response(request: Request, error: Exception) -> Response:
    """The answer to a request that failed."""
    document = problem_of(error, request_id_of(request))
    response = Response(
        msgspec.json.encode(document), status_code=document["status"], headers=headers_of(request, error)
    )
    response.headers["content-type"] = MEDIA_TYPE
    return response


def headers_of(request: Request, error: Exception) -> dict[str, str]:
    """What HTTP wants beside the body: WWW-Authenticate with 401, Retry-After with 429 and 503."""
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


# --- what pydantic found -------------------------------------------------------------------------------

EXPECTED: dict[str, str] = {}
"""Regular expression of a field -> what it says, in words (models.py fills it)."""


def validation_words(errors: Sequence[Any]) -> str:
    """The first finding: which field, and what was expected. Never what was found: it may be a quantity."""
    first = errors[0]
    where = _field(first["loc"])
    kind, context = first["type"], first.get("ctx") or {}
    if kind == "missing":
        return f"{where}: missing"
    if kind == "extra_forbidden":
        return f"{where}: unknown field"
    if kind == "string_pattern_mismatch":
        return f"{where}: expected {EXPECTED.get(context.get('pattern', ''), 'another form')}"
    words = re.sub(r"^(Input|String|List|Value) should (be |have |match )?", "", str(first["msg"]))
    return f"{where}: expected {words[:1].lower()}{words[1:]}"


def _field(location: Sequence[Any]) -> str:
    """("body", "digests", 3) as "digests[3]"."""
    rest = location[1:] if location and location[0] in ("body", "query", "path", "header") else location
    words = ""
    for each in rest:
        if isinstance(each, int):
            words += f"[{each}]"
        else:
            words += ("." if words else "") + ascii(str(each)[:64])[1:-1]
    return words or "body"
