"""The native interface, /v1: one endpoint for each thing that a server does (server.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from hsm_signer.core import json_codec
from hsm_signer.core.interface import (
    Capabilities,
    CertificateChain,
    CertificationRequest,
    CredentialPage,
    EnrolmentRequest,
    EvidencePage,
    RequestInfo,
    SignatureRequest,
)
from hsm_signer.errors import NotPermitted, RequestTooLarge, ServiceBusy
from hsm_signer.evidence.anchor import Anchor, anchor_from_json
from hsm_signer.service.front.calls import call, call_before_body, front_of, request_id_of
from hsm_signer.service.front.http.bodies import json_body, json_value, message_parts
from hsm_signer.service.front.openapi import MESSAGE_BODY, SECURITY, answers, body_of
from hsm_signer.service.front.problems import Entity, problem_of
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
    SignOutcome,
)

from . import models

router = APIRouter(prefix="/v1")

Id = Annotated[models.HexId, Path(description="Credential id, hexadecimal.")]
NDJSON = "application/x-ndjson"
MAY_SIGN = PERMITTED["sign"]
"""Looked at for the disk's sake alone; the worker decides."""


# --- who and what --------------------------------------------------------------------------------------


@router.get(
    "/capabilities",
    tags=["service"],
    summary="What can be enrolled here, and how much one request may carry",
    openapi_extra=SECURITY,
    responses=answers(200, Capabilities),
)
async def capabilities(request: Request, _: Annotated[models.NoQuery, Query()]) -> Response:
    return Entity(await call(request, GetCapabilities()))


@router.get(
    "/whoami",
    tags=["service"],
    summary="Who the service takes the caller for",
    openapi_extra=SECURITY,
    responses=answers(200, ClientView),
)
async def whoami(request: Request, _: Annotated[models.NoQuery, Query()]) -> Response:
    return Entity(await call(request, WhoAmI()))


# --- credentials ---------------------------------------------------------------------------------------


@router.get(
    "/credentials",
    tags=["credentials"],
    summary="Credentials, ascending by id",
    openapi_extra=SECURITY,
    responses=answers(200, CredentialPage, 404),
)
async def credentials(request: Request, query: Annotated[models.CredentialQuery, Query()]) -> Response:
    after = CredentialId(bytes.fromhex(query.after)) if query.after is not None else None
    return Entity(await call(request, ListCredentials(owner=query.owner, after=after, limit=query.limit)))


@router.get(
    "/credentials/{credential_id}",
    tags=["credentials"],
    summary="One credential",
    openapi_extra=SECURITY,
    responses=answers(200, CredentialView, 404),
)
async def credential(request: Request, credential_id: Id) -> Response:
    return Entity(await call(request, GetCredential(credential_id=_id(credential_id))))


@router.get(
    "/users/{owner:path}/credential",
    tags=["credentials"],
    summary="A user's live credential, or the newest revoked one",
    openapi_extra=SECURITY,
    responses=answers(200, CredentialView, 404),
)
async def credential_of(request: Request, owner: Annotated[models.OwnerName, Path()]) -> Response:
    return Entity(await call(request, GetCredential(owner=owner)))


@router.get(
    "/credentials/{credential_id}/certification-request",
    tags=["credentials"],
    summary="PKCS#10 request, as the card authorised it",
    openapi_extra=SECURITY,
    responses=answers(200, CertificationRequest, 404, 409),
)
async def certification_request(request: Request, credential_id: Id) -> Response:
    pem = await call(request, GetCertificationRequest(credential_id=_id(credential_id)))
    return Entity(CertificationRequest(pem))


@router.get(
    "/credentials/{credential_id}/certificates",
    tags=["credentials"],
    summary="The certificate chain kept for the credential",
    openapi_extra=SECURITY,
    responses=answers(200, CertificateChain, 404),
)
async def certificates(request: Request, credential_id: Id) -> Response:
    found = await call(request, GetCertificates(credential_id=_id(credential_id)))
    return Entity(CertificateChain(found))


@router.put(
    "/credentials/{credential_id}/certificates",
    tags=["credentials"],
    summary="Keep a certificate chain for the credential",
    status_code=204,
    openapi_extra={**SECURITY, "requestBody": body_of(CertificateChain)},
    responses=answers(204, None, 404, 409, 413, 415, 422),
)
async def set_certificates(request: Request, credential_id: Id) -> Response:
    chain = (await json_body(request, CertificateChain)).certificates
    await call(request, SetCertificates(credential_id=_id(credential_id), certificates=chain))
    return Response(status_code=204)


def _change_of_status(event: Event, summary: str) -> None:
    name = event.value

    async def change(request: Request, credential_id: Id) -> Response:
        return Entity(await call(request, ChangeStatus(credential_id=_id(credential_id), event=event)))

    router.add_api_route(
        f"/credentials/{{credential_id}}/{name}",
        change,
        methods=["POST"],
        name=name,
        tags=["credentials"],
        summary=summary,
        openapi_extra=SECURITY,
        responses=answers(200, CredentialView, 404, 409),
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
    responses=answers(200, Challenge, 404),
)
async def challenge(request: Request, credential_id: Id) -> Response:
    return Entity(await call(request, GetChallenge(credential_id=_id(credential_id))))


@router.post(
    "/credentials/{credential_id}/signatures",
    tags=["signing"],
    summary="Sign a list of digests under one authorisation of the card",
    openapi_extra={**SECURITY, "requestBody": body_of(SignatureRequest)},
    responses=answers(200, SignOutcome, 404, 409, 413, 415),
)
async def signatures(request: Request, credential_id: Id) -> Response:
    body = await json_body(request, SignatureRequest)
    most = front_of(request).settings.limits.digests
    if len(body.digests) > most:
        raise RequestTooLarge(f"digests: expected at most {most}, got {len(body.digests)}")
    authorisation = Authorisation.of(_id(credential_id), body.authorisation)
    return Entity(await call(request, Sign(authorisation=authorisation, digests=body.digests)))


@router.post(
    "/credentials/{credential_id}/message-signatures",
    tags=["signing"],
    summary="Sign one message, of which the card has hashed every byte",
    openapi_extra={**SECURITY, "requestBody": MESSAGE_BODY},
    responses=answers(200, SignOutcome, 404, 409, 413, 415),
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
        answer = json_codec.read(CardAnswer, parts.authorisation, "authorisation")
        authorisation = Authorisation.of(_id(credential_id), answer)
    except BaseException:
        parts.message.close()
        raise
    operation = Sign(authorisation=authorisation, message=parts.size)
    return Entity(await call(request, operation, message=parts.message))


# --- enrolment -----------------------------------------------------------------------------------------


@router.post(
    "/enrolments",
    tags=["enrolment"],
    summary="Make keys and a pending credential for a blank card",
    status_code=201,
    openapi_extra={**SECURITY, "requestBody": body_of(EnrolmentRequest)},
    responses=answers(201, EnrolmentStarted, 409, 413, 415),
)
async def begin_enrolment(request: Request) -> Response:
    wanted = await json_body(request, EnrolmentRequest)
    return Entity(await call(request, BeginEnrolment(wanted=wanted)), status_code=201)


@router.get(
    "/enrolments/{credential_id}/request-info",
    tags=["enrolment"],
    summary="The message of a credential's first authorisation",
    openapi_extra=SECURITY,
    responses=answers(200, RequestInfo, 404, 409),
)
async def request_info(request: Request, credential_id: Id) -> Response:
    found = await call(request, GetRequestInfo(credential_id=_id(credential_id)))
    return Entity(RequestInfo(found))


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
    responses=answers(200, EvidencePage, 404),
)
async def evidence(request: Request, query: Annotated[models.EvidenceQuery, Query()]) -> Response:
    return Entity(await _page(request, query, query.after, query.limit))


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
    responses=answers(200, Anchor),
)
async def anchor(request: Request, _: Annotated[models.NoQuery, Query()]) -> Response:
    return Entity(await call(request, GetAnchor()))


@router.post(
    "/evidence/anchor/check",
    tags=["evidence"],
    summary="What is no longer as it was when the anchor was made",
    openapi_extra={**SECURITY, "requestBody": body_of(Anchor)},
    responses=answers(200, models.Findings, 413, 415),
)
async def check_anchor(request: Request) -> Response:
    anchor = anchor_from_json(await json_value(request))
    return Entity(models.Findings(await call(request, CheckAnchor(anchor=anchor))))


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
            yield b"".join(json_codec.encode(entry) + b"\n" for entry in page.entries)
            if not page.more or not page.entries:
                return
            page = await _page(request, query, page.entries[-1].number)
    except Exception as error:  # noqa: BLE001 - the status is sent already: all that can be told is told here
        yield msgspec.json.encode({"error": problem_of(error, request_id_of(request))}) + b"\n"


def _id(text: str) -> CredentialId:
    return CredentialId(bytes.fromhex(text))
