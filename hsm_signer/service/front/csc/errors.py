"""Errors as the CSC API tells them (CSC API 2.0.0.2, 10 and the tables of each method).

Clients compare descriptions, so those of the specification are given to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import ValidationError, json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hsm_signer.errors import (
    AlgorithmNotAllowed,
    AlgorithmUnsuitable,
    AuthorisationMismatch,
    ChallengeStale,
    ChannelUnsuitable,
    CredentialLocked,
    CredentialPending,
    CredentialRevoked,
    CredentialSuspended,
    CredentialUnknown,
    InputError,
    NotAuthenticated,
    NotPermitted,
    RateLimited,
    SignerError,
    WrongKey,
)
from hsm_signer.service.front.problems import CLIENT_GONE

from .models import CscProblem

VERSION_1 = "/csc/v1/"
RETRY_AFTER = 1
"""Seconds after which a request that failed for the moment may be sent again."""


class CscError(HTTPException):
    """An error in the specification's own words.

    An HTTPException, so that whoever answers those hands it to :func:`error_response`.
    """

    def __init__(
        self, error: str, description: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, description, headers)
        self.error = error


def invalid(description: str) -> CscError:
    """400 invalid_request."""
    return CscError("invalid_request", description)


def invalid_parameter(name: str) -> CscError:
    """400: there, of the right type, and not usable."""
    return invalid(f"Invalid parameter {name}")


def missing_string(name: str) -> CscError:
    """400: not there, or not text."""
    return invalid(f"Missing (or invalid type) string parameter {name}")


def no_object() -> CscError:
    """400: the body is something else."""
    return invalid("The request is not a JSON object")


def invalid_authentication() -> CscError:
    """400: the card's answer is not one, is not of this challenge, or its PIN was wrong."""
    return CscError("invalid_authentication_data", "The authentication data is invalid")


class _Answer(NamedTuple):
    error: str
    description: str
    status: int = 400


_DISABLED = _Answer("invalid_request", "The credential identified by credentialID is disabled")

_TABLE: tuple[tuple[type[SignerError], _Answer], ...] = (
    (CredentialUnknown, _Answer("invalid_request", "Invalid parameter credentialID")),
    (CredentialLocked, _Answer("invalid_request", "Credential locked")),
    (CredentialSuspended, _DISABLED),
    (CredentialRevoked, _DISABLED),
    (CredentialPending, _DISABLED),
    (ChallengeStale, _Answer("invalid_request", "SAD expired")),
    (AuthorisationMismatch, _Answer("invalid_request", "Hash is not authorized by the SAD")),
    (WrongKey, _Answer("invalid_authentication_data", "The authentication data is invalid")),
    (AlgorithmNotAllowed, _Answer("invalid_request", "Invalid parameter signAlgo")),
    (AlgorithmUnsuitable, _Answer("invalid_request", "Invalid parameter signAlgo")),
    (ChannelUnsuitable, _Answer("access_denied", "The credential needs a client certificate", 403)),
    (NotAuthenticated, _Answer("invalid_token", "The access token is not valid", 401)),
    (NotPermitted, _Answer("unauthorized_client", "The client is not authorized to use this method", 403)),
    (RateLimited, _Answer("access_denied", "Too many requests", 429)),
)
"""The first class that fits; docs/call/csc.md has this table."""


def error_response(request: Request, error: Exception) -> Response:
    """The answer to any error of a request to /csc/: JSON of ``error`` and ``error_description``.

    For SignerError, HTTPException and ClientDisconnect; any other is 500 server_error, without a word of it.
    """
    if isinstance(error, CscError):
        answer = _Answer(error.error, error.detail, error.status_code)
        headers = dict(error.headers or {})
    elif isinstance(error, HTTPException):
        answer, headers = _http(error), dict(error.headers or {})
    elif isinstance(error, SignerError):
        answer, headers = _signer(error)
    elif isinstance(error, ClientDisconnect):
        answer, headers = _Answer("invalid_request", "The client closed the connection", CLIENT_GONE), {}
    else:
        answer, headers = _Answer("server_error", "An internal error occurred", 500), {}
    if answer.error == "invalid_authentication_data" and request.url.path.startswith(VERSION_1):
        answer = _Answer("invalid_otp", "The OTP is invalid", answer.status)
    return Response(
        json.encode(CscProblem(answer.error, answer.description)),
        answer.status,
        {"Cache-Control": "no-store", **headers},
        "application/json",
    )


def _signer(error: SignerError) -> tuple[_Answer, dict[str, str]]:
    for kind, answer in _TABLE:
        if isinstance(error, kind):
            if answer.status == 401:
                return answer, {"WWW-Authenticate": 'Bearer realm="csc", error="invalid_token"'}
            return answer, {"Retry-After": str(RETRY_AFTER)} if answer.status == 429 else {}
    if error.retryable:
        answer = _Answer("server_error", f"Temporarily unavailable: {error.code}; send it again", 503)
        return answer, {"Retry-After": str(RETRY_AFTER)}
    if isinstance(error, InputError):
        return _Answer("invalid_request", error.message, error.http_status), {}
    return _Answer("server_error", f"The service cannot do this now: {error.code}", 500), {}


def _http(error: HTTPException) -> _Answer:
    if error.status_code == 404:
        return _Answer("invalid_request", "Unimplemented method requested", 501)
    kind = "invalid_request" if error.status_code < 500 else "server_error"
    return _Answer(kind, error.detail, error.status_code)


# --- what is wrong with a body ---------------------------------------------------------------------------

_KINDS = {
    "credentialID": "string",
    "authObjectID": "string",
    "token": "string",
    "numSignatures": "integer",
    "hashes": "array",
    "hash": "array",
    "hashAlgorithmOID": "string",
    "hashAlgo": "string",
    "authData": "array",
    "OTP": "string",
    "SAD": "string",
    "signAlgo": "string",
    "signAlgoParams": "string",
}
"""Parameters whose absence the specification has words for."""


_OF_ANOTHER_TYPE = re.compile(r"Expected .*, got .* - at `\$\.(\w+)`")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_SOMEWHERE = re.compile(r".* - at `\$\.(\w+)(.*)`", re.DOTALL)


def wrong_member(error: ValidationError) -> CscError:
    """The words for what is wrong with a JSON object; never what was in it."""
    message = str(error)
    absent = _MISSING.fullmatch(message) or _OF_ANOTHER_TYPE.fullmatch(message)
    if absent and (kind := _KINDS.get(absent[1])) is not None:
        return invalid(f"Missing (or invalid type) {kind} parameter {absent[1]}")
    if (place := _SOMEWHERE.fullmatch(message)) is None:
        return no_object()
    name, inner = place.groups()
    if inner and name in ("hashes", "hash"):
        return invalid("Invalid Base64 hash string parameter")
    if name in ("token", "refresh_token"):
        return invalid(f"Invalid string parameter {name}")
    return invalid_parameter(name)
