"""The API of the Cloud Signature Consortium, 2.0.0.2, below /csc/v2, and what 1.0.4.0 calls it below /csc/v1.

Form only: what is asked becomes operations of the workers' socket, and errors the specification's words.
docs/call/csc.md says how each method maps to the protocol, what is not offered, and why.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, UnsetType, structs
from starlette.requests import Request

from hsm_signer.core import oids
from hsm_signer.core.content import digest_list_hash
from hsm_signer.core.interface import CredentialPage
from hsm_signer.errors import (
    AlgorithmNotAllowed,
    AuthorisationMismatch,
    ChallengeStale,
    InputError,
    NotAuthenticated,
)
from hsm_signer.service.front.calls import call, front_of
from hsm_signer.service.front.http.routes import Interface
from hsm_signer.service.front.openapi import KNOWN_CLIENT, NAME_AND_SECRET
from hsm_signer.service.wire.operations import (
    Access,
    Activation,
    ClientView,
    Examine,
    GetCertificates,
    GetChallenge,
    GetCredential,
    ListCredentials,
    Login,
    Logout,
    OpenActivation,
    Sign,
    WhoAmI,
)
from hsm_signer.types import (
    Authorisation,
    CredentialId,
    CredentialView,
    Digest,
    HashName,
    SignOutcome,
)

from . import info as csc_info
from . import parameters
from . import sad as csc_sad
from .errors import CscError, error_response, invalid, invalid_authentication, invalid_parameter
from .examples import EXAMPLES
from .models import (
    MAX_PAGE,
    CscActivation,
    CscAuthorizeRequest,
    CscChallenge,
    CscChallengeRequest,
    CscCredentialInfo,
    CscCredentialList,
    CscCredentialRequest,
    CscInfoRequest,
    CscListRequest,
    CscLoginRequest,
    CscProblem,
    CscRevokeRequest,
    CscServiceInfo,
    CscSignatures,
    CscSignRequest,
    CscToken,
    CscV1AuthorizeRequest,
    CscV1CredentialInfo,
    CscV1CredentialList,
    CscV1SignRequest,
)

__all__ = ["VERSION_1", "VERSION_2", "error_response"]

SPECS = "2.0.0.0"
SPECS_1 = "1.0.4.0"


def _version(number: int) -> Interface:
    return Interface(
        prefix=f"/csc/v{number}",
        name=f"csc_v{number}",
        tag=f"CSC v{number}",
        read_body=parameters.read_body,
        query=None,
        check=parameters.bearer,
        security=KNOWN_CLIENT,
        refusals=(400, 401, 403, 408, 413, 429, 500, 503),
        problem=CscProblem,
        problem_media_type="application/json",
        examples=EXAMPLES,
    )


VERSION_2 = _version(2)
VERSION_1 = _version(1)
_FOR_ALL: dict[str, Any] = {"check": None, "security": ()}
_BY_NAME: dict[str, Any] = {"check": parameters.basic, "security": NAME_AND_SECRET}


# --- the service -------------------------------------------------------------------------------------------


@VERSION_2.endpoint("POST", "/info", **_FOR_ALL)
async def info(request: Request, body: CscInfoRequest) -> CscServiceInfo:
    """What this service is and offers (11.1)."""
    return csc_info.service_info(front_of(request).settings, SPECS)


@VERSION_1.endpoint("POST", "/info", id="cscV1Info", **_FOR_ALL)
async def info_of_version_1(request: Request, body: CscInfoRequest) -> CscServiceInfo:
    """What this service is and offers."""
    return csc_info.service_info(front_of(request).settings, SPECS_1)


@VERSION_1.endpoint("POST", "/auth/login", **_BY_NAME)
@VERSION_2.endpoint("POST", "/auth/login", **_BY_NAME)
async def login(request: Request, body: CscLoginRequest) -> CscToken:
    """An access token for a client's name and secret (11.2).

    There are no refresh tokens.
    """
    if body.refresh_token is not None:
        raise invalid("Invalid refresh_token")
    try:
        access: Access = await call(request, Login(lifetime=front_of(request).settings.access_lifetime))
    except NotAuthenticated as error:
        raise CscError("authentication_error", "An error occurred during authentication process") from error
    return CscToken(access_token=access.token, expires_in=access.expires_in)


@VERSION_1.endpoint("POST", "/auth/revoke", status=204)
@VERSION_2.endpoint("POST", "/auth/revoke", status=204)
async def revoke(request: Request, body: CscRevokeRequest) -> None:
    """End an access token (11.3); one that is not known is no error."""
    if body.token_type_hint not in (None, "access_token", "refresh_token"):
        raise invalid("Invalid string parameter token_type_hint")
    await call(request, Logout(token=body.token))


# --- credentials -------------------------------------------------------------------------------------------


@VERSION_2.endpoint("POST", "/credentials/list")
async def list_credentials(request: Request, body: CscListRequest) -> CscCredentialList:
    """The credentials of a user, or all that the client may see (11.4), in pages."""
    return await _list(request, body)


@VERSION_1.endpoint("POST", "/credentials/list", id="cscV1ListCredentials")
async def list_credentials_of_version_1(request: Request, body: CscListRequest) -> CscV1CredentialList:
    """The credentials of a user, or all that the client may see, in pages: ids only."""
    found = await _list(request, structs.replace(body, credentialInfo=None, onlyValid=None))
    return CscV1CredentialList(credentialIDs=found.credentialIDs, nextPageToken=found.nextPageToken)


async def _list(request: Request, body: CscListRequest) -> CscCredentialList:
    if body.userID is not None:
        client: ClientView = await call(request, WhoAmI())
        if client.owner is not None:
            raise invalid("userID parameter MUST be null")
    after = None if body.pageToken is None else parameters.identifier(body.pageToken, "pageToken")
    limit = min(body.maxResults or MAX_PAGE, MAX_PAGE)
    page: CredentialPage = await call(request, ListCredentials(owner=body.userID, after=after, limit=limit))
    listed = list(page.credentials)
    chains: dict[CredentialId, tuple[bytes, ...]] = {}
    if body.credentialInfo or body.onlyValid:
        for credential in listed:
            chains[credential.credential_id] = await _chain(request, credential.credential_id)
    if body.onlyValid:
        now = csc_info.now()
        listed = [
            credential
            for credential in listed
            if csc_info.is_usable(credential, chains[credential.credential_id], now)
        ]
    multisign = parameters.multisign(request)
    infos: tuple[CscCredentialInfo, ...] | UnsetType = UNSET
    if body.credentialInfo:
        infos = tuple(
            csc_info.credential_info(
                credential, chains[credential.credential_id], body, multisign, named=True
            )
            for credential in listed
        )
    return CscCredentialList(
        credentialIDs=tuple(credential.credential_id.hex() for credential in listed),
        credentialInfos=infos,
        onlyValid=True if body.onlyValid else UNSET,
        nextPageToken=page.credentials[-1].credential_id.hex() if page.more else UNSET,
    )


@VERSION_2.endpoint("POST", "/credentials/info")
async def get_credential(request: Request, body: CscCredentialRequest) -> CscCredentialInfo:
    """One credential: its key, its certificates, how it is authorised (11.5)."""
    credential, chain = await _credential(request, body)
    return csc_info.credential_info(credential, chain, body, parameters.multisign(request))


@VERSION_1.endpoint("POST", "/credentials/info", id="cscV1GetCredential")
async def get_credential_of_version_1(request: Request, body: CscCredentialRequest) -> CscV1CredentialInfo:
    """One credential: its key, its certificates, how it is authorised."""
    credential, chain = await _credential(request, body)
    return csc_info.credential_info_of_version_1(credential, chain, body, parameters.multisign(request))


async def _credential(
    request: Request, body: CscCredentialRequest
) -> tuple[CredentialView, tuple[bytes, ...]]:
    credential_id = parameters.identifier(body.credentialID)
    credential: CredentialView = await call(request, GetCredential(credential_id=credential_id))
    return credential, await _chain(request, credential_id)


async def _chain(request: Request, credential_id: CredentialId) -> tuple[bytes, ...]:
    chain: tuple[bytes, ...] = await call(request, GetCertificates(credential_id=credential_id))
    return chain


# --- authorisation -----------------------------------------------------------------------------------------


@VERSION_1.endpoint("POST", "/credentials/getChallenge")
@VERSION_2.endpoint("POST", "/credentials/getChallenge")
async def get_challenge(request: Request, body: CscChallengeRequest) -> CscChallenge:
    """What the card needs to authorise (11.8): step 880. Changes nothing."""
    credential_id = parameters.identifier(body.credentialID)
    if body.authObjectID != csc_info.CARD:
        raise invalid_parameter("authObjectID")
    challenge = await call(request, GetChallenge(credential_id=credential_id))
    return CscChallenge(challenge=csc_sad.challenge_text(challenge))


@VERSION_2.endpoint("POST", "/credentials/authorize")
async def authorize(request: Request, body: CscAuthorizeRequest) -> CscActivation:
    """The card's answer becomes the SAD (11.6), good for exactly these hashes, and for this client."""
    credential_id = parameters.identifier(body.credentialID)
    hashes = parameters.hashes(body.hashes)
    parameters.check_number(request, body.numSignatures, len(hashes))
    hash_name = oids.hash_of(body.hashAlgorithmOID)
    if hash_name is None:
        raise invalid_parameter("hashAlgorithmOID")
    parameters.check_lengths(hashes, hash_name)
    if [answer.id for answer in body.authData] != [csc_info.CARD]:
        raise invalid_parameter("authData")
    return await _authorize(request, credential_id, hashes, body.authData[0].value, hash_name)


@VERSION_1.endpoint("POST", "/credentials/authorize", id="cscV1Authorize")
async def authorize_of_version_1(request: Request, body: CscV1AuthorizeRequest) -> CscActivation:
    """The card's answer, in OTP, becomes the SAD, good for exactly these hashes, and for this client."""
    credential_id = parameters.identifier(body.credentialID)
    hashes = parameters.hashes(body.hash)
    parameters.check_number(request, body.numSignatures, len(hashes))
    return await _authorize(request, credential_id, hashes, body.OTP, None)


async def _authorize(
    request: Request,
    credential_id: CredentialId,
    hashes: tuple[Digest, ...],
    text: str,
    hash_name: HashName | None,
) -> CscActivation:
    try:
        answer = csc_sad.read_answer(text)
    except InputError as error:
        raise invalid_authentication() from error
    made_for = answer.algorithm.hash
    if made_for is None:
        raise invalid_authentication()  # Ed25519 signs messages, not hashes
    if hash_name not in (None, made_for):
        raise invalid_parameter("hashAlgorithmOID")
    parameters.check_lengths(hashes, made_for)
    authorisation = Authorisation.of(credential_id, answer)
    try:
        sealed: bytes = await call(request, Examine(authorisation=authorisation, digests=hashes))
    except (ChallengeStale, AlgorithmNotAllowed, InputError) as error:
        raise invalid_authentication() from error
    return CscActivation(SAD=csc_sad.sad_text(sealed))


@VERSION_1.endpoint("POST", "/credentials/extendTransaction", documented=False)
@VERSION_2.endpoint("POST", "/credentials/extendTransaction", documented=False)
async def extend_transaction(request: Request) -> None:
    """Not offered: the card has authorised its hashes and no others, so there is nothing to extend."""
    raise invalid("extendTransaction is not offered: the card authorises each list of hashes anew")


# --- signatures --------------------------------------------------------------------------------------------


@VERSION_2.endpoint("POST", "/signatures/signHash")
async def sign_hash(request: Request, body: CscSignRequest) -> CscSignatures:
    """Signatures of the hashes that the card authorised (11.10), in their order.

    The same request again gives the same signatures: nothing is signed twice.
    """
    if body.operationMode not in (None, "S"):
        raise invalid_parameter("operationMode")
    return await _sign(request, body, body.hashes, body.hashAlgorithmOID, "hashAlgorithmOID")


@VERSION_1.endpoint("POST", "/signatures/signHash", id="cscV1SignHash")
async def sign_hash_of_version_1(request: Request, body: CscV1SignRequest) -> CscSignatures:
    """Signatures of the hashes that the card authorised, in their order.

    The same request again gives the same signatures: nothing is signed twice.
    """
    return await _sign(request, body, body.hash, body.hashAlgo, "hashAlgo")


async def _sign(
    request: Request,
    body: CscSignRequest | CscV1SignRequest,
    texts: Sequence[str],
    hash_oid: str | None,
    hash_parameter: str,
) -> CscSignatures:
    credential_id = parameters.identifier(body.credentialID)
    try:
        sealed = csc_sad.read_sad(body.SAD)
        activation: Activation = await call(request, OpenActivation(sealed=sealed))
    except InputError as error:
        raise invalid_parameter("SAD") from error
    authorisation = activation.authorisation
    if authorisation.credential_id != credential_id:
        raise invalid_parameter("SAD")
    hashes = parameters.hashes(texts)
    algorithm = parameters.algorithm(body.signAlgo, body.signAlgoParams, hash_oid, hash_parameter)
    if algorithm is not authorisation.algorithm:
        raise invalid_parameter("signAlgo")
    assert algorithm.hash is not None
    parameters.check_lengths(hashes, algorithm.hash)
    if digest_list_hash(hashes) != activation.digests_hash:
        raise AuthorisationMismatch("the SAD is of other hashes")
    leaf = csc_info.leaf_of(await _chain(request, credential_id))
    if leaf is not None and leaf.status(csc_info.now()) == "expired":
        raise invalid("Signing certificate is expired")
    try:
        outcome: SignOutcome = await call(request, Sign(authorisation=authorisation, digests=hashes))
    except InputError as error:
        raise invalid_parameter("SAD") from error
    return CscSignatures(
        tuple(base64.b64encode(signature).decode("ascii") for signature in outcome.signatures)
    )
