"""The native interface, /v1: one endpoint for each thing that a server does (server.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from hsm_signer.core import forms
from hsm_signer.errors import NotPermitted, RequestTooLarge, ServiceBusy
from hsm_signer.evidence.anchor import Anchor
from hsm_signer.service.front.calls import call, call_before_body, front_of, request_id_of
from hsm_signer.service.front.http.bodies import StrictRoute, message_parts
from hsm_signer.service.front.openapi import MESSAGE_BODY, SECURITY, answers
from hsm_signer.service.front.problems import Json, problem_of
from hsm_signer.service.roles import PERMITTED
from hsm_signer.service.wire.operations import (
    BeginEnrolment,
    Capabilities,
    CapabilitiesResult,
    ChangeStatus,
    CheckAnchor,
    ClientView,
    CredentialPage,
    EvidencePage,
    GetAnchor,
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
    WhoAmI,
)
from hsm_signer.types import Authorisation, CredentialId, Event

from . import models

router = APIRouter(prefix="/v1", route_class=StrictRoute)

Id = Annotated[models.HexId, Path(description="Credential id, hexadecimal.")]
NDJSON = "application/x-ndjson"
MAY_SIGN = frozenset(role.cli_name for role in PERMITTED["sign"])
"""Looked at for the disk's sake alone; the worker decides."""


def _limits(request: Request) -> forms.Limits:
    limits = front_of(request).settings.limits
    return forms.Limits(limits.body, limits.message, limits.digests)


# --- who and what --------------------------------------------------------------------------------------


@router.get(
    "/capabilities",
    tags=["service"],
    summary="What can be enrolled here, and how much one request may carry",
    openapi_extra=SECURITY,
    responses=answers(200, models.CapabilitiesView),
)
async def capabilities(request: Request, _: Annotated[models.NoQuery, Query()]) -> Response:
    found: CapabilitiesResult = await call(request, Capabilities())
    return Json(forms.capabilities_to_json(found.combines, found.obstacles, _limits(request)))


@router.get(
    "/whoami",
    tags=["service"],
    summary="Who the service takes the caller for",
    openapi_extra=SECURITY,
    responses=answers(200, models.WhoAmIView),
)
async def whoami(request: Request, _: Annotated[models.NoQuery, Query()]) -> Response:
    found: ClientView = await call(request, WhoAmI())
    return Json(
        {
            "name": found.name,
            "roles": list(found.roles),
            "owner": found.owner,
            "certificate": found.certificate,
        }
    )


# --- credentials ---------------------------------------------------------------------------------------


@router.get(
    "/credentials",
    tags=["credentials"],
    summary="Credentials, ascending by id",
    openapi_extra=SECURITY,
    responses=answers(200, models.CredentialList, 404),
)
async def credentials(request: Request, query: Annotated[models.CredentialQuery, Query()]) -> Response:
    after = CredentialId(bytes.fromhex(query.after)) if query.after is not None else None
    page: CredentialPage = await call(
        request, ListCredentials(owner=query.owner, after=after, limit=query.limit)
    )
    return Json(
        {"credentials": [forms.credential_to_json(each) for each in page.credentials], "more": page.more}
    )


@router.get(
    "/credentials/{credential_id}",
    tags=["credentials"],
    summary="One credential",
    openapi_extra=SECURITY,
    responses=answers(200, models.CredentialBody, 404),
)
async def credential(request: Request, credential_id: Id) -> Response:
    found = await call(request, GetCredential(credential_id=_id(credential_id)))
    return Json(forms.credential_to_json(found))


@router.get(
    "/users/{owner:path}/credential",
    tags=["credentials"],
    summary="A user's live credential, or the newest revoked one",
    openapi_extra=SECURITY,
    responses=answers(200, models.CredentialBody, 404),
)
async def credential_of(request: Request, owner: Annotated[models.OwnerName, Path()]) -> Response:
    return Json(forms.credential_to_json(await call(request, GetCredential(owner=owner))))


@router.get(
    "/credentials/{credential_id}/certification-request",
    tags=["credentials"],
    summary="PKCS#10 request, as the card authorised it",
    openapi_extra=SECURITY,
    responses=answers(200, models.CertificationRequest, 404, 409),
)
async def certification_request(request: Request, credential_id: Id) -> Response:
    return Json({"pem": await call(request, GetCertificationRequest(credential_id=_id(credential_id)))})


@router.get(
    "/credentials/{credential_id}/certificates",
    tags=["credentials"],
    summary="The certificate chain kept for the credential",
    openapi_extra=SECURITY,
    responses=answers(200, models.Certificates, 404),
)
async def certificates(request: Request, credential_id: Id) -> Response:
    found = await call(request, GetCertificates(credential_id=_id(credential_id)))
    return Json(forms.certificates_to_json(found))


@router.put(
    "/credentials/{credential_id}/certificates",
    tags=["credentials"],
    summary="Keep a certificate chain for the credential",
    status_code=204,
    openapi_extra=SECURITY,
    responses=answers(204, None, 404, 409, 413, 415, 422),
)
async def set_certificates(request: Request, credential_id: Id, body: models.Certificates) -> Response:
    chain = forms.certificates_from_json(body.model_dump())
    await call(request, SetCertificates(credential_id=_id(credential_id), certificates=chain))
    return Response(status_code=204)


def _change_of_status(event: Event, summary: str) -> None:
    name = forms.name_of(event)

    async def change(request: Request, credential_id: Id) -> Response:
        found = await call(request, ChangeStatus(credential_id=_id(credential_id), event=event))
        return Json(forms.credential_to_json(found))

    router.add_api_route(
        f"/credentials/{{credential_id}}/{name}",
        change,
        methods=["POST"],
        name=name,
        tags=["credentials"],
        summary=summary,
        openapi_extra=SECURITY,
        responses=answers(200, models.CredentialBody, 404, 409),
    )


_change_of_status(Event.SUSPEND, "No signatures until resumed")
_change_of_status(Event.RESUME, "End a suspension")
_change_of_status(Event.UNLOCK, "End a lock by wrong PINs")
_change_of_status(Event.REVOKE, "For ever: the wrapped private key is deleted")


# --- signing -------------------------------------------------------------------------------------------


@router.get(
    "/credentials/{credential_id}/challenge",
    tags=["signing"],
    summary="What the card needs to know to authorise; asking changes nothing",
    openapi_extra=SECURITY,
    responses=answers(200, models.ChallengeBody, 404),
)
async def challenge(request: Request, credential_id: Id) -> Response:
    found = await call(request, GetChallenge(credential_id=_id(credential_id)))
    return Json(forms.challenge_to_json(found))


@router.post(
    "/credentials/{credential_id}/signatures",
    tags=["signing"],
    summary="Sign a list of digests under one authorisation of the card",
    openapi_extra=SECURITY,
    responses=answers(200, models.OutcomeBody, 404, 409, 413, 415),
)
async def signatures(request: Request, credential_id: Id, body: models.SignatureRequest) -> Response:
    most = front_of(request).settings.limits.digests
    if len(body.digests) > most:
        raise RequestTooLarge(f"digests: expected at most {most}, got {len(body.digests)}")
    authorisation = _authorisation(credential_id, body.authorisation.model_dump())
    digests = forms.digests_from_json(body.digests)
    outcome = await call(request, Sign(authorisation=authorisation, digests=digests))
    return Json(forms.outcome_to_json(outcome))


@router.post(
    "/credentials/{credential_id}/message-signatures",
    tags=["signing"],
    summary="Sign one message, of which the card has hashed every byte",
    openapi_extra={**SECURITY, "requestBody": MESSAGE_BODY},
    responses=answers(200, models.OutcomeBody, 404, 409, 413, 415),
)
async def message_signatures(request: Request, credential_id: Id) -> Response:
    front = front_of(request)
    # Who may not sign must not fill our disk: that is found out before anything of the message is taken. The
    # worker decides it again.
    client = await call_before_body(request, WhoAmI())
    if MAY_SIGN.isdisjoint(client.roles):
        raise NotPermitted(
            f"client {client.name!r} may not ask for sign", hint="it needs role signer or registrar"
        )
    if front.uploads.locked():
        raise ServiceBusy("too many messages are being received; nothing was begun")
    async with front.uploads:
        parts = await message_parts(request, front.settings.limits.message)
    try:
        authorisation = _authorisation(credential_id, parts.authorisation)
    except BaseException:
        parts.message.close()
        raise
    operation = Sign(authorisation=authorisation, message=parts.size)
    return Json(forms.outcome_to_json(await call(request, operation, message=parts.message)))


# --- enrolment -----------------------------------------------------------------------------------------


@router.post(
    "/enrolments",
    tags=["enrolment"],
    summary="Make keys and a pending credential for a blank card",
    status_code=201,
    openapi_extra=SECURITY,
    responses=answers(201, models.BegunBody, 409, 413, 415),
)
async def begin_enrolment(request: Request, body: models.EnrolmentRequest) -> Response:
    wanted, subject = forms.new_credential_from_json(body.model_dump())
    begun = await call(request, BeginEnrolment(wanted=wanted, subject=subject))
    return Json(forms.begun_to_json(begun), status_code=201)


@router.get(
    "/enrolments/{credential_id}/request-info",
    tags=["enrolment"],
    summary="The message of a credential's first authorisation",
    openapi_extra=SECURITY,
    responses=answers(200, models.RequestInfo, 404, 409),
)
async def request_info(request: Request, credential_id: Id) -> Response:
    found = await call(request, GetRequestInfo(credential_id=_id(credential_id)))
    return Json({"request_info": forms.bytes_to_json(found)})


@router.delete(
    "/enrolments/{credential_id}",
    tags=["enrolment"],
    summary="Give up a pending credential whose card never got its keys",
    status_code=204,
    openapi_extra=SECURITY,
    responses=answers(204, None, 404, 409),
)
async def give_up_enrolment(request: Request, credential_id: Id) -> Response:
    await call(request, GiveUpEnrolment(credential_id=_id(credential_id)))
    return Response(status_code=204)


# --- evidence ------------------------------------------------------------------------------------------


@router.get(
    "/evidence",
    tags=["evidence"],
    summary="Entries in the order of writing",
    openapi_extra=SECURITY,
    responses=answers(200, models.EntryList, 404),
)
async def evidence(request: Request, query: Annotated[models.EvidenceQuery, Query()]) -> Response:
    page = await _page(request, query, query.after, query.limit)
    return Json({"entries": [forms.entry_to_json(*each) for each in page.entries], "more": page.more})


@router.get(
    "/evidence/export",
    tags=["evidence"],
    summary='All entries, one a line; a last line {"error": problem} where it could not go on',
    openapi_extra=SECURITY,
    response_class=StreamingResponse,
    responses=answers(200, None, 404, content={NDJSON: {"schema": {"type": "string"}}}),
)
async def export(request: Request, query: Annotated[models.ExportQuery, Query()]) -> Response:
    first = await _page(request, query, query.after)
    return StreamingResponse(_lines(request, query, first), media_type=NDJSON)


@router.get(
    "/evidence/anchor",
    tags=["evidence"],
    summary="An anchor over all chains, to keep elsewhere",
    openapi_extra=SECURITY,
    responses=answers(200, models.AnchorBody),
)
async def anchor(request: Request, _: Annotated[models.NoQuery, Query()]) -> Response:
    return Json(await call(request, GetAnchor()))


@router.post(
    "/evidence/anchor/check",
    tags=["evidence"],
    summary="What is no longer as it was when the anchor was made",
    openapi_extra=SECURITY,
    responses=answers(200, models.FindingList, 413, 415),
)
async def check_anchor(request: Request, body: models.AnchorBody) -> Response:
    found = await call(request, CheckAnchor(anchor=msgspec.convert(body.model_dump(), type=Anchor)))
    return Json({"findings": [{"code": each.code, "words": each.words} for each in found]})


EXPORT_PAGE = 500
"""Entries asked for at once: a few hundred kilobytes at most, but for long lists of digests."""


async def _page(
    request: Request, query: models.ExportQuery, after: int, limit: int = EXPORT_PAGE
) -> EvidencePage:
    credential_id = _id(query.credential_id) if query.credential_id is not None else None
    page: EvidencePage = await call(
        request, GetEvidence(credential_id=credential_id, after=after, limit=limit)
    )
    return page


async def _lines(request: Request, query: models.ExportQuery, page: EvidencePage) -> AsyncIterator[bytes]:
    try:
        while True:
            lines = [msgspec.json.encode(forms.entry_to_json(*each)) + b"\n" for each in page.entries]
            yield b"".join(lines)
            if not page.more or not page.entries:
                return
            page = await _page(request, query, page.entries[-1][0])
    except Exception as error:  # noqa: BLE001 - the status is sent already: all that can be told is told here
        yield msgspec.json.encode({"error": problem_of(error, request_id_of(request))}) + b"\n"


def _id(text: str) -> CredentialId:
    return CredentialId(bytes.fromhex(text))


def _authorisation(credential_id: str, fields: Any) -> Authorisation:
    return forms.authorisation_from_json(_id(credential_id), fields, "authorisation")
