"""Every error there is, in the words of the CSC API; bodies that are not what they should be."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from hsm_signer import errors
from hsm_signer.service.front.csc.errors import CscError, error_response
from hsm_signer.service.front.csc.models import (
    CscAuthorizeRequest,
    CscChallengeRequest,
    CscInfoRequest,
    CscListRequest,
    CscLoginRequest,
    CscRequest,
    CscRevokeRequest,
    CscSignRequest,
    CscV1AuthorizeRequest,
    CscV1SignRequest,
)
from hsm_signer.service.front.csc.parameters import read_body

ERRORS = {
    "invalid_request",
    "access_denied",
    "invalid_token",
    "unauthorized_client",
    "server_error",
    "invalid_authentication_data",
}
SECRET = "hsc_secret"
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "call" / "csc.md"


def asked(
    path: str = "/csc/v2/signatures/signHash", headers: dict[str, str] | None = None, body: bytes = b""
) -> Request:
    """A request as far as errors and bodies are concerned."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    return Request(
        {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
            "query_string": b"",
            "server": ("h", 1),
        },
        receive,
    )


def told(
    error: Exception, path: str = "/csc/v2/signatures/signHash"
) -> tuple[int, dict[str, str], dict[str, str]]:
    """Status, body, headers."""
    response = error_response(asked(path), error)
    body = json.loads(bytes(response.body))
    assert set(body) == {"error", "error_description"}
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Type"] == "application/json"
    return response.status_code, body, dict(response.headers)


def raised(kind: type[errors.SignerError]) -> errors.SignerError:
    """One of this class, whatever arguments of its own it has."""
    error = kind.__new__(kind)
    errors.SignerError.__init__(error, "message of its own", hint="hint")
    return error


@pytest.mark.parametrize("kind", list(errors.all_errors()), ids=lambda kind: kind.__name__)
def test_every_error_has_an_answer(kind: type[errors.SignerError]) -> None:
    status, body, headers = told(raised(kind))
    assert body["error"] in ERRORS
    assert body["error_description"]
    assert 400 <= status <= 503
    told_otherwise = (errors.ChallengeStale, errors.RateLimited, errors.CredentialRateLimited)
    assert (status == 503) == (kind.retryable and kind not in told_otherwise)
    assert ("retry-after" in headers) == (status in (429, 503))
    assert (body["error"] == "server_error") == (status >= 500)
    if status >= 500:
        assert "message of its own" not in body["error_description"]
        assert kind.code in body["error_description"]


DISABLED = "The credential identified by credentialID is disabled"
WORDS: list[tuple[type[errors.SignerError], int, str, str]] = [
    (errors.CredentialUnknown, 400, "invalid_request", "Invalid parameter credentialID"),
    (errors.CredentialLocked, 400, "invalid_request", "Credential locked"),
    (errors.CredentialSuspended, 400, "invalid_request", DISABLED),
    (errors.CredentialRevoked, 400, "invalid_request", DISABLED),
    (errors.CredentialPending, 400, "invalid_request", DISABLED),
    (errors.ChallengeStale, 400, "invalid_request", "SAD expired"),
    (errors.AuthorisationMismatch, 400, "invalid_request", "Hash is not authorized by the SAD"),
    (errors.WrongKey, 400, "invalid_authentication_data", "The authentication data is invalid"),
    (errors.WrongKeyBefore, 400, "invalid_authentication_data", "The authentication data is invalid"),
    (errors.AlgorithmNotAllowed, 400, "invalid_request", "Invalid parameter signAlgo"),
    (errors.AlgorithmUnsuitable, 400, "invalid_request", "Invalid parameter signAlgo"),
    (errors.ChannelUnsuitable, 403, "access_denied", "The credential needs a client certificate"),
    (errors.NotAuthenticated, 401, "invalid_token", "The access token is not valid"),
    (errors.NotPermitted, 403, "unauthorized_client", "The client is not authorized to use this method"),
    (errors.RateLimited, 429, "access_denied", "Too many requests"),
    (errors.CredentialRateLimited, 429, "access_denied", "Too many requests"),
    (errors.RequestTooLarge, 413, "invalid_request", "message of its own"),
    (errors.ServiceBusy, 503, "server_error", "Temporarily unavailable: service.busy; send it again"),
    (errors.ServiceTimeout, 503, "server_error", "Temporarily unavailable: service.timeout; send it again"),
    (errors.RecordConflict, 503, "server_error", "Temporarily unavailable: record.conflict; send it again"),
    (errors.RecordDamaged, 500, "server_error", "The service cannot do this now: record.damaged"),
    (errors.TokenKeyMissing, 500, "server_error", "The service cannot do this now: token.key-missing"),
]


@pytest.mark.parametrize(("kind", "status", "error", "description"), WORDS, ids=lambda each: str(each)[-30:])
def test_words(kind: type[errors.SignerError], status: int, error: str, description: str) -> None:
    said, body, _ = told(raised(kind))
    assert (said, body) == (status, {"error": error, "error_description": description})


def test_a_wrong_key_in_version_1_is_a_wrong_one_time_password() -> None:
    status, body, _ = told(raised(errors.WrongKey), "/csc/v1/signatures/signHash")
    assert (status, body) == (400, {"error": "invalid_otp", "error_description": "The OTP is invalid"})


def test_who_is_not_known_is_told_how_to_say_it() -> None:
    _, _, headers = told(raised(errors.NotAuthenticated))
    assert headers["www-authenticate"] == 'Bearer realm="csc", error="invalid_token"'


def test_nothing_of_an_unexpected_error_is_told() -> None:
    status, body, _ = told(RuntimeError(SECRET))
    assert (status, body["error"]) == (500, "server_error")
    assert SECRET not in str(body)


@pytest.mark.parametrize(
    ("error", "status", "kind", "description"),
    [
        (HTTPException(404), 501, "invalid_request", "Unimplemented method requested"),
        (HTTPException(405, headers={"Allow": "POST"}), 405, "invalid_request", "Method Not Allowed"),
        (HTTPException(400, "no JSON"), 400, "invalid_request", "no JSON"),
        (ClientDisconnect(), 499, "invalid_request", "The client closed the connection"),
        (HTTPException(503), 503, "server_error", "Service Unavailable"),
    ],
)
def test_errors_of_http(error: Exception, status: int, kind: str, description: str) -> None:
    said, body, headers = told(error)
    assert (said, body) == (status, {"error": kind, "error_description": description})
    assert headers.get("allow") == ("POST" if status == 405 else None)


# --- bodies ------------------------------------------------------------------------------------------------

AUTHORIZE: dict[str, Any] = {
    "credentialID": "00" * 16,
    "numSignatures": 1,
    "hashes": ["AA=="],
    "hashAlgorithmOID": "2.16.840.1.101.3.4.2.1",
    "authData": [{"id": "CARD", "value": "e30"}],
}
SIGN: dict[str, Any] = {
    "credentialID": "00" * 16,
    "SAD": "csad2.e30",
    "hashes": ["AA=="],
    "hashAlgorithmOID": "2.16.840.1.101.3.4.2.1",
    "signAlgo": "1.2.840.113549.1.1.1",
}
ABSENT = object()


def string(name: str) -> str:
    """Text that is not there."""
    return f"Missing (or invalid type) string parameter {name}"


def integer(name: str) -> str:
    """A number that is not there."""
    return f"Missing (or invalid type) integer parameter {name}"


def array(name: str) -> str:
    """A list that is not there."""
    return f"Missing (or invalid type) array parameter {name}"


def read(model: type[CscRequest], body: Any) -> CscRequest:
    """As an endpoint gets it."""
    request = asked(headers={"content-type": "application/json"}, body=json.dumps(body).encode())
    return asyncio.run(read_body(request, model))


def complaint(model: type[CscRequest], body: Any) -> str:
    """What a client hears of this body."""
    with pytest.raises(CscError) as caught:
        read(model, body)
    assert caught.value.__cause__ is None, "it may quote what was sent"
    status, said, _ = told(caught.value)
    assert (status, said["error"]) == (400, "invalid_request")
    assert SECRET not in str(said)
    return said["error_description"]


@pytest.mark.parametrize(
    ("model", "whole", "name", "value", "expected"),
    [
        (CscAuthorizeRequest, AUTHORIZE, "credentialID", ABSENT, string("credentialID")),
        (CscAuthorizeRequest, AUTHORIZE, "credentialID", 7, string("credentialID")),
        (CscAuthorizeRequest, AUTHORIZE, "numSignatures", ABSENT, integer("numSignatures")),
        (CscAuthorizeRequest, AUTHORIZE, "numSignatures", "1", integer("numSignatures")),
        (CscAuthorizeRequest, AUTHORIZE, "numSignatures", 1.5, integer("numSignatures")),
        (CscAuthorizeRequest, AUTHORIZE, "numSignatures", True, integer("numSignatures")),
        (CscAuthorizeRequest, AUTHORIZE, "hashes", ABSENT, array("hashes")),
        (CscAuthorizeRequest, AUTHORIZE, "hashes", None, array("hashes")),
        (CscAuthorizeRequest, AUTHORIZE, "hashes", "AA==", array("hashes")),
        (CscAuthorizeRequest, AUTHORIZE, "hashes", [7], "Invalid Base64 hash string parameter"),
        (CscAuthorizeRequest, AUTHORIZE, "hashAlgorithmOID", ABSENT, string("hashAlgorithmOID")),
        (CscAuthorizeRequest, AUTHORIZE, "authData", ABSENT, array("authData")),
        (CscAuthorizeRequest, AUTHORIZE, "authData", {"id": "CARD"}, array("authData")),
        (CscAuthorizeRequest, AUTHORIZE, "authData", [SECRET], "Invalid parameter authData"),
        (CscAuthorizeRequest, AUTHORIZE, "authData", [{"id": SECRET}], "Invalid parameter authData"),
        (
            CscAuthorizeRequest,
            AUTHORIZE,
            "authData",
            [{"id": "CARD", "value": SECRET * 500}],
            "Invalid parameter authData",
        ),
        (CscAuthorizeRequest, AUTHORIZE, "description", SECRET * 51, "Invalid parameter description"),
        (CscSignRequest, SIGN, "SAD", ABSENT, string("SAD")),
        (CscSignRequest, SIGN, "SAD", [SECRET], string("SAD")),
        (CscSignRequest, SIGN, "SAD", SECRET * 500, "Invalid parameter SAD"),
        (CscSignRequest, SIGN, "signAlgo", ABSENT, string("signAlgo")),
        (CscSignRequest, SIGN, "signAlgoParams", 5, string("signAlgoParams")),
        (CscSignRequest, SIGN, "hashAlgorithmOID", 5, string("hashAlgorithmOID")),
        (CscSignRequest, SIGN, "operationMode", 5, "Invalid parameter operationMode"),
        (CscSignRequest, SIGN, "clientData", 5, "Invalid parameter clientData"),
        (CscV1SignRequest, SIGN, "hash", ABSENT, array("hash")),
        (CscV1SignRequest, {**SIGN, "hash": []}, "hashAlgo", 5, string("hashAlgo")),
        (CscV1AuthorizeRequest, {**AUTHORIZE, "hash": []}, "OTP", ABSENT, string("OTP")),
        (CscChallengeRequest, {"credentialID": ""}, "authObjectID", ABSENT, string("authObjectID")),
        (CscRevokeRequest, {}, "token", ABSENT, string("token")),
        (CscRevokeRequest, {}, "token", SECRET * 500, "Invalid string parameter token"),
        (CscLoginRequest, {}, "refresh_token", 5, "Invalid string parameter refresh_token"),
        (CscLoginRequest, {}, "rememberMe", "yes", "Invalid parameter rememberMe"),
        (CscListRequest, {}, "userID", "", "Invalid parameter userID"),
        (CscListRequest, {}, "userID", 5, "Invalid parameter userID"),
        (CscListRequest, {}, "certificates", "all", "Invalid parameter certificates"),
        (CscListRequest, {}, "certificates", 5, "Invalid parameter certificates"),
        (CscListRequest, {}, "maxResults", 0, "Invalid parameter maxResults"),
        (CscListRequest, {}, "onlyValid", 1, "Invalid parameter onlyValid"),
    ],
)
def test_wrong_members(
    model: type[CscRequest], whole: dict[str, Any], name: str, value: Any, expected: str
) -> None:
    body = {key: each for key, each in whole.items() if key != name}
    if value is not ABSENT:
        body[name] = value
    assert complaint(model, body) == expected


def test_one_complaint_about_a_list_is_enough() -> None:
    wrong = {"credentialID": "x", "SAD": "x", "signAlgo": "x", "hashes": [5] * 1000}
    assert complaint(CscSignRequest, wrong) == "Invalid Base64 hash string parameter"


@pytest.mark.parametrize("body", [[], "text", 5, None])
def test_bodies_that_are_no_objects(body: Any) -> None:
    assert complaint(CscInfoRequest, body) == "The request is not a JSON object"


@pytest.mark.parametrize(("model", "whole"), [(CscAuthorizeRequest, AUTHORIZE), (CscSignRequest, SIGN)])
def test_other_members_are_let_through(model: type[CscRequest], whole: dict[str, Any]) -> None:
    found = read(model, {**whole, "clientData": "mine", "somethingNew": {"a": 1}, "lang": None})
    assert found.clientData == "mine"
    assert not hasattr(found, "somethingNew")


# --- docs/call/csc.md ------------------------------------------------------------------------------------


def table() -> str:
    """Every code that has words of its own, ascending; then the others, without those of cards."""
    rows = []
    retried = []
    for kind in errors.all_errors():
        status, said, _ = told(raised(kind))
        if kind.code in said["error_description"]:
            if kind.retryable and not issubclass(kind, errors.CardError):
                retried.append(kind.code)
        elif said["error_description"] != "message of its own":
            rows.append((kind.code, str(status), said["error"], said["error_description"]))
    again = ", ".join(sorted(retried))
    rows = [
        *sorted(rows),
        (again, "503", "server_error", "Temporarily unavailable: CODE; send it again"),
        ("other errors of input", "theirs", "invalid_request", "their own words"),
        ("any other", "500", "server_error", "The service cannot do this now: CODE"),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_documentation_has_every_code() -> None:
    """If this fails after a change of an error, put what :func:`table` gives into the section "Errors"."""
    assert table() in DOCUMENT.read_text(encoding="utf-8")
