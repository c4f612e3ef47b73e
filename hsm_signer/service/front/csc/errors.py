"""Errors as the CSC API tells them (CSC API 2.0.0.2, 10 and the tables of each method).

Clients compare descriptions, so those of the specification are given to the letter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

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


def invalid_authentication() -> CscError:
    """400: the card's answer is not one, is not of this challenge, or its PIN was wrong."""
    return CscError("invalid_authentication_data", "The authentication data is invalid")


class _Told(NamedTuple):
    error: str
    description: str
    status: int = 400


_DISABLED = _Told("invalid_request", "The credential identified by credentialID is disabled")

_TABLE: tuple[tuple[type[SignerError], _Told], ...] = (
    (CredentialUnknown, _Told("invalid_request", "Invalid parameter credentialID")),
    (CredentialLocked, _Told("invalid_request", "Credential locked")),
    (CredentialSuspended, _DISABLED),
    (CredentialRevoked, _DISABLED),
    (CredentialPending, _DISABLED),
    (ChallengeStale, _Told("invalid_request", "SAD expired")),
    (AuthorisationMismatch, _Told("invalid_request", "Hash is not authorized by the SAD")),
    (WrongKey, _Told("invalid_authentication_data", "The authentication data is invalid")),
    (AlgorithmNotAllowed, _Told("invalid_request", "Invalid parameter signAlgo")),
    (AlgorithmUnsuitable, _Told("invalid_request", "Invalid parameter signAlgo")),
    (ChannelUnsuitable, _Told("access_denied", "The credential needs a client certificate", 403)),
    (NotAuthenticated, _Told("invalid_token", "The access token is not valid", 401)),
    (NotPermitted, _Told("unauthorized_client", "The client is not authorized to use this method", 403)),
    (RateLimited, _Told("access_denied", "Too many requests", 429)),
)
"""The first class that fits; docs/call/csc.md has this table."""


def error_response(request: Request, error: Exception) -> Response:
    """The answer to any error of a request to /csc/: JSON of ``error`` and ``error_description``.

    For SignerError, RequestValidationError, HTTPException and ClientDisconnect; any other is 500
    server_error, without a word of it.
    """
    if isinstance(error, CscError):
        told = _Told(error.error, error.detail, error.status_code)
        headers = dict(error.headers or {})
    elif isinstance(error, RequestValidationError):
        told, headers = _validation(error.errors()), {}
    elif isinstance(error, HTTPException):
        told, headers = _http(error), dict(error.headers or {})
    elif isinstance(error, SignerError):
        told, headers = _signer(error)
    elif isinstance(error, ClientDisconnect):
        told, headers = _Told("invalid_request", "The client closed the connection", CLIENT_GONE), {}
    else:
        told, headers = _Told("server_error", "An internal error occurred", 500), {}
    if told.error == "invalid_authentication_data" and request.url.path.startswith(VERSION_1):
        told = _Told("invalid_otp", "The OTP is invalid", told.status)
    return JSONResponse(
        {"error": told.error, "error_description": told.description},
        told.status,
        {"Cache-Control": "no-store", **headers},
    )


def _signer(error: SignerError) -> tuple[_Told, dict[str, str]]:
    for kind, told in _TABLE:
        if isinstance(error, kind):
            if told.status == 401:
                return told, {"WWW-Authenticate": 'Bearer realm="csc", error="invalid_token"'}
            return told, {"Retry-After": str(RETRY_AFTER)} if told.status == 429 else {}
    if error.retryable:
        told = _Told("server_error", f"Temporarily unavailable: {error.code}; send it again", 503)
        return told, {"Retry-After": str(RETRY_AFTER)}
    if isinstance(error, InputError):
        return _Told("invalid_request", error.message, error.http_status), {}
    return _Told("server_error", f"The service cannot do this now: {error.code}", 500), {}


def _http(error: HTTPException) -> _Told:
    if error.status_code == 404:
        return _Told("invalid_request", "Unimplemented method requested", 501)
    kind = "invalid_request" if error.status_code < 500 else "server_error"
    return _Told(kind, error.detail, error.status_code)


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


def _validation(errors: Sequence[Any]) -> _Told:
    """The words for the first thing that is wrong with a body; never what was in it."""
    first = errors[0]
    place = tuple(first["loc"])
    if len(place) < 2 or not isinstance(place[1], str):
        return _Told("invalid_request", "The request is not a JSON object")
    name = place[1]
    if len(place) == 3 and name in ("hashes", "hash"):
        return _Told("invalid_request", "Invalid Base64 hash string parameter")
    of_type = first["type"] == "missing" or first["type"].endswith("_type")
    if len(place) == 2 and of_type and name in _KINDS:
        return _Told("invalid_request", f"Missing (or invalid type) {_KINDS[name]} parameter {name}")
    if name in ("token", "refresh_token"):
        return _Told("invalid_request", f"Invalid string parameter {name}")
    return _Told("invalid_request", f"Invalid parameter {name}")
