"""The native interface, /v1: one endpoint for each thing that a server does (server/server.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hsm_signer.config.service import ACTS, LimitSettings
from hsm_signer.core import json_codec
from hsm_signer.core.interface import (
    Capabilities,
    CertificateChain,
    CertificationRequest,
    CredentialPage,
    EnrolmentRequest,
    EvidencePage,
    PendingApproval,
    RequestInfo,
    SignatureRequest,
)
from hsm_signer.errors import NotPermitted, RequestTooLarge, ServiceBusy
from hsm_signer.evidence.anchor import Anchor, anchor_from_json
from hsm_signer.service.front.calls import call, call_before_body, front_of, request_id_of
from hsm_signer.service.front.http.bodies import json_value, message_parts
from hsm_signer.service.front.http.routes import Interface
from hsm_signer.service.front.openapi import KNOWN_CLIENT
from hsm_signer.service.front.problems import json_response, problem_of
from hsm_signer.service.roles import PERMITTED
from hsm_signer.service.wire.operations import (
    BeginEnrolment,
    ChangeStatus,
    CheckAnchor,
    ClientView,
    GetAnchor,
    GetCapabilities,
    GetCertificates,
    GetCertificationRequest,
    GetChallenge,
    GetCredential,
    GetEvidence,
    GetRequestInfo,
    GiveUpEnrolment,
    ListCredentials,
    SetCertificates,
    Sign,
    StatusChange,
    WhoAmI,
)
from hsm_signer.types import (
    Authorisation,
    CardAnswer,
    Challenge,
    CredentialId,
    CredentialView,
    EnrolmentStarted,
    Event,
    Owner,
    SignOutcome,
)

from .examples import EXAMPLES
from .models import CredentialQuery, EvidenceQuery, ExportQuery, FindingList

NATIVE = Interface(
    prefix="/v1",
    security=KNOWN_CLIENT,
    refusals=(400, 401, 403, 408, 413, 429, 500, 503, 504),
    examples=EXAMPLES,
)
NDJSON = "application/x-ndjson"
MULTIPART_EXTRA = 64 << 10
"""Bytes of a message's request that are not the message."""


# --- who and what --------------------------------------------------------------------------------------


@NATIVE.endpoint("GET", "/capabilities", tag="service")
async def get_capabilities(request: Request) -> Capabilities:
    """What can be enrolled here, and how much one request may carry."""
    found: Capabilities = await call(request, GetCapabilities())
    return found


@NATIVE.endpoint("GET", "/whoami", tag="service")
async def who_am_i(request: Request) -> ClientView:
    """Who the service takes the caller for."""
    found: ClientView = await call(request, WhoAmI())
    return found


# --- credentials ---------------------------------------------------------------------------------------


@NATIVE.endpoint("GET", "/credentials", tag="credentials", refusals=(404,))
async def list_credentials(request: Request, query: CredentialQuery) -> CredentialPage:
    """Credentials, ascending by id."""
    operation = ListCredentials(owner=query.owner, after=query.after, limit=query.limit)
    found: CredentialPage = await call(request, operation)
    return found


@NATIVE.endpoint("GET", "/credentials/{credential_id}", tag="credentials", refusals=(404,))
async def get_credential(request: Request, credential_id: CredentialId) -> CredentialView:
    """One credential."""
    found: CredentialView = await call(request, GetCredential(credential_id=credential_id))
    return found


@NATIVE.endpoint("GET", "/users/{owner:path}/credential", tag="credentials", refusals=(404,))
async def get_credential_of_user(request: Request, owner: Owner) -> CredentialView:
    """A user's live credential, or the newest revoked one."""
    found: CredentialView = await call(request, GetCredential(owner=owner))
    return found


@NATIVE.endpoint(
    "GET", "/credentials/{credential_id}/certification-request", tag="credentials", refusals=(404, 409)
)
async def get_certification_request(request: Request, credential_id: CredentialId) -> CertificationRequest:
    """PKCS#10 request, as the card authorised it."""
    pem = await call(request, GetCertificationRequest(credential_id=credential_id))
    return CertificationRequest(pem)


@NATIVE.endpoint("GET", "/credentials/{credential_id}/certificates", tag="credentials", refusals=(404,))
async def get_certificates(request: Request, credential_id: CredentialId) -> CertificateChain:
    """The certificate chain kept for the credential."""
    return CertificateChain(await call(request, GetCertificates(credential_id=credential_id)))


@NATIVE.endpoint(
    "PUT",
    "/credentials/{credential_id}/certificates",
    tag="credentials",
    status=204,
    refusals=(404, 409, 415, 422),
)
async def set_certificates(request: Request, credential_id: CredentialId, body: CertificateChain) -> None:
    """Keep a certificate chain for the credential, instead of the one before; an empty one removes it."""
    await call(request, SetCertificates(credential_id=credential_id, certificates=body.certificates))


def _change_of_status(event: Event, summary: str) -> None:
    async def change(request: Request, credential_id: CredentialId) -> CredentialView | Response | None:
        operation = ChangeStatus(credential_id=credential_id, event=event)
        result: StatusChange = await call(request, operation)
        return result.credential if result.awaited is None else json_response(result.awaited, 202)

    change.__doc__ = summary
    NATIVE.endpoint(
        "POST",
        f"/credentials/{{credential_id}}/{event.value}",
        id=f"{event.value}Credential",
        tag="credentials",
        refusals=(404, 409),
        answer=CredentialView,
        other_answers={202: PendingApproval} if event.value in ACTS else {},
    )(change)


_change_of_status(Event.SUSPEND, "No signatures until resumed.")
APPROVAL = "202 where the service wants a second client to ask for the same: nothing is done yet."
_change_of_status(Event.RESUME, f"End a suspension.\n\n{APPROVAL}")
_change_of_status(Event.UNLOCK, f"End a lock by wrong PINs.\n\n{APPROVAL}")
_change_of_status(Event.REVOKE, f"For ever: the wrapped private key is deleted.\n\n{APPROVAL}")


# --- signing -------------------------------------------------------------------------------------------

_SIGNING = {"tag": "signing", "refusals": (404, 409, 415)}
MAY_SIGN = PERMITTED["sign"]
"""Looked at for the disk's sake alone; the worker decides."""


@NATIVE.endpoint("GET", "/credentials/{credential_id}/challenge", tag="signing", refusals=(404,))
async def get_challenge(request: Request, credential_id: CredentialId) -> Challenge:
    """What the card needs to know to authorise; asking changes nothing."""
    found: Challenge = await call(request, GetChallenge(credential_id=credential_id))
    return found


@NATIVE.endpoint("POST", "/credentials/{credential_id}/signatures", **_SIGNING)
async def create_signatures(
    request: Request, credential_id: CredentialId, body: SignatureRequest
) -> SignOutcome:
    """Sign a list of digests under one authorisation of the card."""
    most = front_of(request).settings.limits.digests
    if len(body.digests) > most:
        raise RequestTooLarge(f"digests: expected at most {most}, got {len(body.digests)}")
    authorisation = Authorisation.of(credential_id, body.authorisation)
    found: SignOutcome = await call(request, Sign(authorisation=authorisation, digests=body.digests))
    return found


def _message_size(limits: LimitSettings) -> int:
    return limits.message + MULTIPART_EXTRA


@NATIVE.endpoint(
    "POST",
    "/credentials/{credential_id}/message-signatures",
    **_SIGNING,
    size=_message_size,
    part=CardAnswer,
)
async def create_message_signature(request: Request, credential_id: CredentialId) -> SignOutcome:
    """Sign one message, of which the card has hashed every byte."""
    front = front_of(request)
    # Who may not sign must not fill our disk: that is found out before anything of the message is taken. The
    # worker decides it again.
    client: ClientView = await call_before_body(request, WhoAmI())
    if MAY_SIGN.isdisjoint(client.roles):
        raise NotPermitted(
            f"client {client.name!r} may not ask for sign", hint="it needs role signer or registrar"
        )
    if front.uploads.locked():
        raise ServiceBusy("too many messages are being received; nothing was begun")
    async with front.uploads:
        parts = await message_parts(request, front.settings.limits.message)
    try:
        answer = json_codec.read(CardAnswer, parts.authorisation, "authorisation")
    except BaseException:
        parts.message.close()
        raise
    operation = Sign(authorisation=Authorisation.of(credential_id, answer), message=parts.size)
    found: SignOutcome = await call(request, operation, message=parts.message)
    return found


# --- enrolment -----------------------------------------------------------------------------------------


@NATIVE.endpoint("POST", "/enrolments", tag="enrolment", status=201, refusals=(409, 415))
async def begin_enrolment(request: Request, body: EnrolmentRequest) -> EnrolmentStarted:
    """Make keys and a pending credential for a blank card."""
    found: EnrolmentStarted = await call(request, BeginEnrolment(wanted=body))
    return found


@NATIVE.endpoint("GET", "/enrolments/{credential_id}/request-info", tag="enrolment", refusals=(404, 409))
async def get_request_info(request: Request, credential_id: CredentialId) -> RequestInfo:
    """The message of a credential's first authorisation, its key proven to be its user's."""
    found: RequestInfo = await call(request, GetRequestInfo(credential_id=credential_id))
    return found


@NATIVE.endpoint("DELETE", "/enrolments/{credential_id}", tag="enrolment", status=204, refusals=(404, 409))
async def give_up_enrolment(request: Request, credential_id: CredentialId) -> None:
    """Give up a pending credential whose card never got its keys."""
    await call(request, GiveUpEnrolment(credential_id=credential_id))


# --- evidence ------------------------------------------------------------------------------------------

EXPORT_PAGE = 500
"""Entries asked for at once: a few hundred kilobytes at most, but for long lists of digests."""


@NATIVE.endpoint("GET", "/evidence", tag="evidence", refusals=(404,))
async def list_evidence(request: Request, query: EvidenceQuery) -> EvidencePage:
    """Entries in the order of writing."""
    return await _page(request, query, query.after or 0, query.limit)


@NATIVE.endpoint(
    "GET",
    "/evidence/export",
    tag="evidence",
    refusals=(404,),
    media_type=NDJSON,
)
async def export_evidence(request: Request, query: ExportQuery) -> Response:
    """All entries, one a line.

    A last line {"error": problem} tells where it could not go on.
    """
    first = await _page(request, query, query.after or 0, EXPORT_PAGE)
    return StreamingResponse(_lines(request, query, first), media_type=NDJSON)


@NATIVE.endpoint("GET", "/evidence/anchor", tag="evidence")
async def get_anchor(request: Request) -> Anchor:
    """An anchor over all chains, to keep elsewhere."""
    found: Anchor = await call(request, GetAnchor())
    return found


async def _read_anchor(request: Request, _: type[Anchor]) -> Anchor:
    """Also one that an older version made."""
    return anchor_from_json(await json_value(request))


@NATIVE.endpoint("POST", "/evidence/anchor/check", tag="evidence", refusals=(415,), read_body=_read_anchor)
async def check_anchor(request: Request, body: Anchor) -> FindingList:
    """What is no longer as it was when the anchor was made."""
    return FindingList(await call(request, CheckAnchor(anchor=body)))


async def _page(request: Request, query: ExportQuery, after: int, limit: int) -> EvidencePage:
    operation = GetEvidence(credential_id=query.credential_id, after=after, limit=limit)
    page: EvidencePage = await call(request, operation)
    return page


async def _lines(request: Request, query: ExportQuery, page: EvidencePage) -> AsyncIterator[bytes]:
    try:
        while True:
            yield b"".join(json_codec.encode(entry) + b"\n" for entry in page.entries)
            if not page.more or not page.entries:
                return
            page = await _page(request, query, page.entries[-1].number, EXPORT_PAGE)
    except Exception as error:  # noqa: BLE001 - the status is sent already: all that can be told is told here
        problem = problem_of(error, request_id_of(request))
        yield b'{"error":' + json_codec.encode(problem) + b"}\n"
