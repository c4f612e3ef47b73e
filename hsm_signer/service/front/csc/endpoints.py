"""The API of the Cloud Signature Consortium, 2.0.0.2, below /csc/v2, and what 1.0.4.0 calls it below /csc/v1.

Form only: what is asked becomes operations of the workers' socket, and errors the specification's words.
docs/call/csc.md says how each method maps to the protocol, what is not offered, and why.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request, Response

from hsm_signer.core import oids
from hsm_signer.core.interface import CredentialPage
from hsm_signer.errors import (
    AlgorithmNotAllowed,
    AuthorisationMismatch,
    ChallengeStale,
    InputError,
    NotAuthenticated,
)
from hsm_signer.service.front.calls import call, front_of
from hsm_signer.service.front.http.bodies import require_known_sender
from hsm_signer.service.front.openapi import SECURITY
from hsm_signer.service.wire.operations import (
    Access,
    ClientView,
    Examine,
    GetCertificates,
    GetChallenge,
    GetCredential,
    ListCredentials,
    Login,
    Logout,
    Sign,
    WhoAmI,
)
from hsm_signer.types import Authorisation, CredentialId, CredentialView, Digest, HashName, SignOutcome

from . import info as csc_info
from . import parameters
from . import sad as csc_sad
from .errors import CscError, error_response, invalid, invalid_authentication, invalid_parameter
from .models import (
    MAX_PAGE,
    Activation,
    AuthorizeAsked,
    AuthorizeAsked1,
    ChallengeAsked,
    CredentialAsked,
    CredentialInfo,
    CredentialInfo1,
    CredentialList,
    CredentialList1,
    CscChallenge,
    CscProblem,
    InfoAsked,
    ListAsked,
    LoginAsked,
    RevokeAsked,
    ServiceInfo,
    SignAsked,
    SignAsked1,
    Signatures,
    Token,
)

__all__ = ["error_response", "router"]

SPECS = "2.0.0.0"
SPECS_1 = "1.0.4.0"


async def _not_stored(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": CscProblem, "description": description}
    for status, description in (
        (400, "Unsupported, invalid or missing parameters"),
        (401, "No access token, or one that is not valid"),
        (403, "Not this client"),
        (429, "Too many requests"),
        ("4XX", "Not a request that is understood"),
        (500, "Unexpected"),
        (503, "For the moment"),
    )
}


def _router(version: str) -> APIRouter:
    return APIRouter(
        prefix=f"/csc/{version}", tags=["CSC"], responses=_ERRORS, dependencies=[Depends(_not_stored)]
    )


_AUTHORISED: dict[str, Any] = {
    "dependencies": [Depends(parameters.bearer), Depends(require_known_sender)],
    "openapi_extra": SECURITY,
    "response_model_exclude_none": True,
}
_BY_NAME: dict[str, Any] = {
    "dependencies": [Depends(parameters.basic)],
    "openapi_extra": {"security": [{"basic": []}]},
}
_v2 = _router("v2")
_v1 = _router("v1")


# --- the service -------------------------------------------------------------------------------------------


@_v2.post("/info", response_model_exclude_none=True)
async def info(request: Request, asked: Annotated[InfoAsked | None, Body()] = None) -> ServiceInfo:
    """What this service is and offers (11.1)."""
    return csc_info.service_info(front_of(request).settings, SPECS)


@_v1.post("/info", response_model_exclude_none=True)
async def info_1(request: Request, asked: Annotated[InfoAsked | None, Body()] = None) -> ServiceInfo:
    """As in version 1."""
    return csc_info.service_info(front_of(request).settings, SPECS_1)


@_v1.post("/auth/login", **_BY_NAME)
@_v2.post("/auth/login", **_BY_NAME)
async def login(request: Request, asked: Annotated[LoginAsked | None, Body()] = None) -> Token:
    """An access token for a client's name and secret (11.2). There are no refresh tokens."""
    if asked is not None and asked.refresh_token is not None:
        raise invalid("Invalid refresh_token")
    try:
        access: Access = await call(request, Login(lifetime=front_of(request).settings.access_lifetime))
    except NotAuthenticated as error:
        raise CscError("authentication_error", "An error occurred during authentication process") from error
    return Token(access_token=access.token, expires_in=access.expires_in)


@_v1.post("/auth/revoke", status_code=204, response_class=Response, **_AUTHORISED)
@_v2.post("/auth/revoke", status_code=204, response_class=Response, **_AUTHORISED)
async def revoke(request: Request, asked: RevokeAsked) -> None:
    """End an access token (11.3); one that is not known is no error."""
    if asked.token_type_hint not in (None, "access_token", "refresh_token"):
        raise invalid("Invalid string parameter token_type_hint")
    await call(request, Logout(token=asked.token))


# --- credentials -------------------------------------------------------------------------------------------


@_v2.post("/credentials/list", **_AUTHORISED)
async def credentials_list(
    request: Request, asked: Annotated[ListAsked | None, Body()] = None
) -> CredentialList:
    """The credentials of a user, or all that the client may see (11.4), in pages."""
    return await _list(request, asked or ListAsked())


@_v1.post("/credentials/list", **_AUTHORISED)
async def credentials_list_1(
    request: Request, asked: Annotated[ListAsked | None, Body()] = None
) -> CredentialList1:
    """As in version 1: ids only."""
    asked = asked or ListAsked()
    found = await _list(request, asked.model_copy(update={"credentialInfo": None, "onlyValid": None}))
    return CredentialList1(credentialIDs=found.credentialIDs, nextPageToken=found.nextPageToken)


async def _list(request: Request, asked: ListAsked) -> CredentialList:
    if asked.userID is not None:
        client: ClientView = await call(request, WhoAmI())
        if client.owner is not None:
            raise invalid("userID parameter MUST be null")
    after = None if asked.pageToken is None else parameters.identifier(asked.pageToken, "pageToken")
    limit = min(asked.maxResults or MAX_PAGE, MAX_PAGE)
    page: CredentialPage = await call(request, ListCredentials(owner=asked.userID, after=after, limit=limit))
    found = list(page.credentials)
    chains: dict[CredentialId, tuple[bytes, ...]] = {}
    if asked.credentialInfo or asked.onlyValid:
        chains = {each.credential_id: await _chain(request, each.credential_id) for each in found}
    if asked.onlyValid:
        now = csc_info.now()
        found = [each for each in found if csc_info.is_usable(each, chains[each.credential_id], now)]
    multisign = parameters.multisign(request)
    infos = [
        csc_info.credential_info(each, chains[each.credential_id], asked, multisign, named=True)
        for each in found
        if asked.credentialInfo
    ]
    return CredentialList(
        credentialIDs=[each.credential_id.hex() for each in found],
        credentialInfos=infos if asked.credentialInfo else None,
        onlyValid=True if asked.onlyValid else None,
        nextPageToken=page.credentials[-1].credential_id.hex() if page.more else None,
    )


@_v2.post("/credentials/info", **_AUTHORISED)
async def credentials_info(request: Request, asked: CredentialAsked) -> CredentialInfo:
    """One credential: its key, its certificates, how it is authorised (11.5)."""
    credential, chain = await _credential(request, asked)
    return csc_info.credential_info(credential, chain, asked, parameters.multisign(request))


@_v1.post("/credentials/info", **_AUTHORISED)
async def credentials_info_1(request: Request, asked: CredentialAsked) -> CredentialInfo1:
    """As in version 1."""
    credential, chain = await _credential(request, asked)
    return csc_info.credential_info_1(credential, chain, asked, parameters.multisign(request))


async def _credential(request: Request, asked: CredentialAsked) -> tuple[CredentialView, tuple[bytes, ...]]:
    credential_id = parameters.identifier(asked.credentialID)
    credential: CredentialView = await call(request, GetCredential(credential_id=credential_id))
    return credential, await _chain(request, credential_id)


async def _chain(request: Request, credential_id: CredentialId) -> tuple[bytes, ...]:
    chain: tuple[bytes, ...] = await call(request, GetCertificates(credential_id=credential_id))
    return chain


# --- authorisation -----------------------------------------------------------------------------------------


@_v1.post("/credentials/getChallenge", **_AUTHORISED)
@_v2.post("/credentials/getChallenge", **_AUTHORISED)
async def get_challenge(request: Request, asked: ChallengeAsked) -> CscChallenge:
    """What the card needs to authorise (11.8): step 880. Changes nothing."""
    credential_id = parameters.identifier(asked.credentialID)
    if asked.authObjectID != csc_info.CARD:
        raise invalid_parameter("authObjectID")
    challenge = await call(request, GetChallenge(credential_id=credential_id))
    return CscChallenge(challenge=csc_sad.challenge_text(challenge))


@_v2.post("/credentials/authorize", **_AUTHORISED)
async def authorize(request: Request, asked: AuthorizeAsked) -> Activation:
    """The card's answer becomes the SAD (11.6), good for exactly these hashes."""
    credential_id = parameters.identifier(asked.credentialID)
    hashes = parameters.hashes(asked.hashes)
    parameters.check_number(request, asked.numSignatures, len(hashes))
    hash_name = oids.hash_of(asked.hashAlgorithmOID)
    if hash_name is None:
        raise invalid_parameter("hashAlgorithmOID")
    parameters.check_lengths(hashes, hash_name)
    if [each.id for each in asked.authData] != [csc_info.CARD]:
        raise invalid_parameter("authData")
    return await _authorize(request, credential_id, hashes, asked.authData[0].value, hash_name)


@_v1.post("/credentials/authorize", **_AUTHORISED)
async def authorize_1(request: Request, asked: AuthorizeAsked1) -> Activation:
    """As in version 1: the card's answer in OTP."""
    credential_id = parameters.identifier(asked.credentialID)
    hashes = parameters.hashes(asked.hash)
    parameters.check_number(request, asked.numSignatures, len(hashes))
    return await _authorize(request, credential_id, hashes, asked.OTP, None)


async def _authorize(
    request: Request,
    credential_id: CredentialId,
    hashes: tuple[Digest, ...],
    answer: str,
    hash_name: HashName | None,
) -> Activation:
    try:
        authorisation = csc_sad.read_answer(credential_id, answer)
    except InputError as error:
        raise invalid_authentication() from error
    made_for = authorisation.algorithm.hash
    if made_for is None:
        raise invalid_authentication()  # Ed25519 signs messages, not hashes
    if hash_name not in (None, made_for):
        raise invalid_parameter("hashAlgorithmOID")
    parameters.check_lengths(hashes, made_for)
    try:
        await call(request, Examine(authorisation=authorisation, digests=hashes))
    except (ChallengeStale, AlgorithmNotAllowed, InputError) as error:
        raise invalid_authentication() from error
    return Activation(SAD=csc_sad.sad_text(authorisation, hashes))


@_v1.post("/credentials/extendTransaction", include_in_schema=False)
@_v2.post("/credentials/extendTransaction", include_in_schema=False)
async def extend_transaction() -> None:
    """Not offered: the card has authorised its hashes and no others, so there is nothing to extend."""
    raise invalid("extendTransaction is not offered: the card authorises each list of hashes anew")


# --- signatures --------------------------------------------------------------------------------------------


@_v2.post("/signatures/signHash", **_AUTHORISED)
async def sign_hash(request: Request, asked: SignAsked) -> Signatures:
    """Signatures of the hashes that the card authorised (11.10), in their order.

    The same request again gives the same signatures: nothing is signed twice.
    """
    if asked.operationMode not in (None, "S"):
        raise invalid_parameter("operationMode")
    return await _sign(request, asked, asked.hashes, asked.hashAlgorithmOID, "hashAlgorithmOID")


@_v1.post("/signatures/signHash", **_AUTHORISED)
async def sign_hash_1(request: Request, asked: SignAsked1) -> Signatures:
    """As in version 1."""
    return await _sign(request, asked, asked.hash, asked.hashAlgo, "hashAlgo")


async def _sign(
    request: Request,
    asked: SignAsked | SignAsked1,
    texts: Sequence[str],
    hash_oid: str | None,
    hash_parameter: str,
) -> Signatures:
    credential_id = parameters.identifier(asked.credentialID)
    try:
        sad = csc_sad.read_sad(asked.SAD)
    except InputError as error:
        raise invalid_parameter("SAD") from error
    if sad.credential_id != credential_id:
        raise invalid_parameter("SAD")
    authorisation = Authorisation.of(credential_id, sad.authorisation)
    hashes = parameters.hashes(texts)
    algorithm = parameters.algorithm(asked.signAlgo, asked.signAlgoParams, hash_oid, hash_parameter)
    if algorithm is not authorisation.algorithm:
        raise invalid_parameter("signAlgo")
    assert algorithm.hash is not None
    parameters.check_lengths(hashes, algorithm.hash)
    if not sad.covers(hashes):
        raise AuthorisationMismatch("the SAD is of other hashes")
    leaf = csc_info.leaf_of(await _chain(request, credential_id))
    if leaf is not None and leaf.status(csc_info.now()) == "expired":
        raise invalid("Signing certificate is expired")
    try:
        outcome: SignOutcome = await call(request, Sign(authorisation=authorisation, digests=hashes))
    except InputError as error:
        raise invalid_parameter("SAD") from error
    return Signatures(signatures=[base64.b64encode(each).decode("ascii") for each in outcome.signatures])


router = APIRouter()
router.include_router(_v2)
router.include_router(_v1)
"""Everything below /csc/."""
