"""Requests and answers of the CSC API, as its specification names their members.

Types are strict and other members are let through: both as CSC API 2.0.0.2, 7.1 and 10 have it. A null is a
member that is not there. Version 1 (1.0.4.0) differs where a class says so.
"""

# ruff: noqa: N815 - the names are the specification's

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from hsm_signer.types import Owner

MAX_SAD = 4096
"""Characters of a SAD, and of a card's answer: six rolling values need some 1400."""
MAX_PAGE = 100
"""Credentials in one answer of credentials/list."""

Text = Annotated[str, Meta(max_length=4096)]
Sad = Annotated[str, Meta(max_length=MAX_SAD)]
Answer = Annotated[str, Meta(max_length=MAX_SAD)]
Description = Annotated[str, Meta(max_length=500)]
PageSize = Annotated[int, Meta(ge=1)]
Hashes = Annotated[tuple[str, ...], Meta(max_length=65535)]
AuthObjects = Annotated[tuple["AuthObject", ...], Meta(max_length=16)]
Certificates = Literal["none", "single", "chain"]


# --- requests ----------------------------------------------------------------------------------------------


class CscRequest(Struct, frozen=True, kw_only=True):
    """What every request may carry; none of it changes anything."""

    lang: Text | None = None
    clientData: str | None = None


class CscInfoRequest(CscRequest, frozen=True, kw_only=True):
    """info"""


class CscLoginRequest(CscRequest, frozen=True, kw_only=True):
    """auth/login"""

    refresh_token: Text | None = None
    """Always refused: none are given out."""
    rememberMe: bool | None = None
    """Taken, and without effect: there are no refresh tokens."""


class CscRevokeRequest(CscRequest, frozen=True, kw_only=True):
    """auth/revoke"""

    token: Text
    token_type_hint: str | None = None


class CscShownRequest(CscRequest, frozen=True, kw_only=True):
    """What is to be told of credentials."""

    certificates: Certificates | None = None
    """``single`` without it."""
    certInfo: bool | None = None
    authInfo: bool | None = None


class CscListRequest(CscShownRequest, frozen=True, kw_only=True):
    """credentials/list. Pages are of version 1, and taken in version 2 as well."""

    userID: Owner | None = None
    credentialInfo: bool | None = None
    onlyValid: bool | None = None
    maxResults: PageSize | None = None
    pageToken: str | None = None


class CscCredentialRequest(CscShownRequest, frozen=True, kw_only=True):
    """credentials/info"""

    credentialID: Text


class CscChallengeRequest(CscRequest, frozen=True, kw_only=True):
    """credentials/getChallenge"""

    credentialID: Text
    authObjectID: Text


class AuthObject(Struct, frozen=True):
    """What the user's device answered to one authentication object."""

    id: Text
    value: Answer


class CscAuthorizeRequest(CscRequest, frozen=True, kw_only=True):
    """credentials/authorize"""

    credentialID: Text
    numSignatures: int
    hashes: Hashes
    hashAlgorithmOID: Text
    authData: AuthObjects
    description: Description | None = None


class CscV1AuthorizeRequest(CscRequest, frozen=True, kw_only=True):
    """credentials/authorize of version 1: the hash algorithm is the one that the card authorised."""

    credentialID: Text
    numSignatures: int
    hash: Hashes
    OTP: Answer
    description: Description | None = None


class CscSignRequest(CscRequest, frozen=True, kw_only=True):
    """signatures/signHash"""

    credentialID: Text
    SAD: Sad
    hashes: Hashes
    hashAlgorithmOID: Text | None = None
    signAlgo: Text
    signAlgoParams: Text | None = None
    operationMode: str | None = None


class CscV1SignRequest(CscRequest, frozen=True, kw_only=True):
    """signatures/signHash of version 1"""

    credentialID: Text
    SAD: Sad
    hash: Hashes
    hashAlgo: Text | None = None
    signAlgo: Text
    signAlgoParams: Text | None = None


# --- answers -----------------------------------------------------------------------------------------------


class CscProblem(Struct, frozen=True):
    """An error (CSC API 2.0.0.2, 10.2)."""

    error: str
    error_description: str


class SignAlgorithms(Struct, frozen=True):
    """``info``, what can be signed with."""

    algos: tuple[str, ...]


class SignatureFormats(Struct, frozen=True):
    """``info``, of signatures/signDoc, which is not offered."""

    formats: tuple[str, ...]
    envelope_properties: tuple[tuple[str, ...], ...]


class CscServiceInfo(Struct, frozen=True, kw_only=True):
    """info"""

    specs: str
    name: str
    logo: str
    region: str
    lang: str
    description: str
    authType: tuple[str, ...]
    methods: tuple[str, ...]
    asynchronousOperationMode: bool | UnsetType = UNSET
    signAlgorithms: SignAlgorithms | UnsetType = UNSET
    """This and what follows: not in version 1."""
    signature_formats: SignatureFormats | UnsetType = UNSET
    conformance_levels: tuple[str, ...] | UnsetType = UNSET


class CscToken(Struct, frozen=True):
    """auth/login"""

    access_token: str
    expires_in: int
    """Seconds."""
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - RFC 6750, 4

    def __repr__(self) -> str:
        """Without the token."""
        return f"{type(self).__name__}(expires_in={self.expires_in})"


class KeyInfo(Struct, frozen=True):
    """``key`` of a credential."""

    status: Literal["enabled", "disabled"]
    algo: tuple[str, ...]
    len: int
    """Bits."""
    curve: str | UnsetType = UNSET


class CertInfo(Struct, frozen=True, kw_only=True):
    """``cert`` of a credential."""

    status: Literal["valid", "expired"] | UnsetType = UNSET
    """Nothing without a certificate, and where it is not valid yet."""
    certificates: tuple[str, ...] | UnsetType = UNSET
    """Base64 of DER, leaf first."""
    issuerDN: str | UnsetType = UNSET
    """RFC 4514."""
    serialNumber: str | UnsetType = UNSET
    """Hexadecimal."""
    subjectDN: str | UnsetType = UNSET
    """RFC 4514."""
    validFrom: str | UnsetType = UNSET
    """YYYYMMDDHHmmssZ."""
    validTo: str | UnsetType = UNSET


class AuthType(Struct, frozen=True):
    """One way to authorise."""

    type: Literal["ChallengeResponse"]
    id: str
    label: str
    description: str


class AuthInfo(Struct, frozen=True, kw_only=True):
    """``auth`` of a credential."""

    mode: Literal["explicit"] = "explicit"
    expression: str | UnsetType = UNSET
    objects: tuple[AuthType, ...] | UnsetType = UNSET


class CscCredentialInfo(Struct, frozen=True, kw_only=True):
    """credentials/info, and one of ``credentialInfos``."""

    credentialID: str | UnsetType = UNSET
    """In credentials/list only."""
    description: str
    key: KeyInfo
    cert: CertInfo
    auth: AuthInfo
    SCAL: Literal["2"] = "2"
    multisign: int
    lang: str


class Presence(Struct, frozen=True, kw_only=True):
    """``PIN`` and ``OTP`` of version 1."""

    presence: Literal["true", "false"]
    type: Literal["offline"] | UnsetType = UNSET
    format: Literal["A"] | UnsetType = UNSET
    label: str | UnsetType = UNSET
    description: str | UnsetType = UNSET


class CscV1CredentialInfo(Struct, frozen=True, kw_only=True):
    """credentials/info of version 1."""

    description: str
    key: KeyInfo
    cert: CertInfo
    authMode: Literal["explicit"] = "explicit"
    SCAL: Literal["2"] = "2"
    PIN: Presence | UnsetType = UNSET
    OTP: Presence | UnsetType = UNSET
    multisign: int
    lang: str


class CscCredentialList(Struct, frozen=True, kw_only=True):
    """credentials/list"""

    credentialIDs: tuple[str, ...]
    credentialInfos: tuple[CscCredentialInfo, ...] | UnsetType = UNSET
    onlyValid: bool | UnsetType = UNSET
    nextPageToken: str | UnsetType = UNSET
    """Where there are more."""


class CscV1CredentialList(Struct, frozen=True, kw_only=True):
    """credentials/list of version 1."""

    credentialIDs: tuple[str, ...]
    nextPageToken: str | UnsetType = UNSET


class CscChallenge(Struct, frozen=True):
    """credentials/getChallenge"""

    challenge: str


class CscActivation(Struct, frozen=True):
    """credentials/authorize"""

    SAD: str


class CscSignatures(Struct, frozen=True):
    """signatures/signHash"""

    signatures: tuple[str, ...]
