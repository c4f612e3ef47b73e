"""Requests and answers of the CSC API, as its specification names their members.

Types are strict and other members are let through: both as CSC API 2.0.0.2, 7.1 and 10 have it. A null is a
member that is not there. Version 1 (1.0.4.0) differs where a class says so.
"""

# ruff: noqa: N815 - the names are the specification's

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

MAX_SAD = 4096
"""Characters of a SAD, and of a card's answer: six rolling values need some 1400."""
MAX_PAGE = 100
"""Credentials in one answer of credentials/list."""

Text = Annotated[str, Field(max_length=4096)]
Sad = Annotated[str, Field(max_length=MAX_SAD)]
Answer = Annotated[str, Field(max_length=MAX_SAD)]
Hashes = Annotated[list[str], FailFast(), Field(max_length=65535)]
"""A megabyte of wrong ones must not become a megabyte of complaints: the first is enough."""
Certificates = Annotated[str, Field(pattern="^(none|single|chain)$")]
"""A pattern and no enumeration: OpenAPI 3.0 has no enumeration that may be null as well."""


class Asked(BaseModel):
    """What every request may carry; none of it changes anything."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    lang: Text | None = None
    clientData: str | None = None


class InfoAsked(Asked):
    """info"""


class LoginAsked(Asked):
    """auth/login"""

    refresh_token: Text | None = None
    """Always refused: none are given out."""
    rememberMe: bool | None = None
    """Taken, and without effect: there are no refresh tokens."""


class RevokeAsked(Asked):
    """auth/revoke"""

    token: Text
    token_type_hint: str | None = None


class Shown(Asked):
    """What is to be told of credentials."""

    certificates: Certificates | None = None
    """``single`` without it."""
    certInfo: bool | None = None
    authInfo: bool | None = None


class ListAsked(Shown):
    """credentials/list. Pages are of version 1, and taken in version 2 as well."""

    userID: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    credentialInfo: bool | None = None
    onlyValid: bool | None = None
    maxResults: Annotated[int, Field(ge=1)] | None = None
    pageToken: str | None = None


class CredentialAsked(Shown):
    """credentials/info"""

    credentialID: Text


class ChallengeAsked(Asked):
    """credentials/getChallenge"""

    credentialID: Text
    authObjectID: Text


class AuthObject(BaseModel):
    """What the user's device answered to one authentication object."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    id: Text
    value: Answer


class AuthorizeAsked(Asked):
    """credentials/authorize"""

    credentialID: Text
    numSignatures: int
    hashes: Hashes
    hashAlgorithmOID: Text
    authData: Annotated[list[AuthObject], FailFast(), Field(max_length=16)]
    description: Annotated[str, Field(max_length=500)] | None = None


class AuthorizeAsked1(Asked):
    """credentials/authorize of version 1: the hash algorithm is the one that the card authorised."""

    credentialID: Text
    numSignatures: int
    hash: Hashes
    OTP: Answer
    description: Annotated[str, Field(max_length=500)] | None = None


class SignAsked(Asked):
    """signatures/signHash"""

    credentialID: Text
    SAD: Sad
    hashes: Hashes
    hashAlgorithmOID: Text | None = None
    signAlgo: Text
    signAlgoParams: Text | None = None
    operationMode: str | None = None


class SignAsked1(Asked):
    """signatures/signHash of version 1"""

    credentialID: Text
    SAD: Sad
    hash: Hashes
    hashAlgo: Text | None = None
    signAlgo: Text
    signAlgoParams: Text | None = None


# --- answers -----------------------------------------------------------------------------------------------


class CscProblem(BaseModel):
    """An error (CSC API 2.0.0.2, 10.2)."""

    error: str
    error_description: str


class SignAlgorithms(BaseModel):
    """``info``, what can be signed with."""

    algos: list[str]


class SignatureFormats(BaseModel):
    """``info``, of signatures/signDoc, which is not offered."""

    formats: list[str]
    envelope_properties: list[list[str]]


class ServiceInfo(BaseModel):
    """info"""

    specs: str
    name: str
    logo: str
    region: str
    lang: str
    description: str
    authType: list[str]
    methods: list[str]
    asynchronousOperationMode: bool | None = None
    signAlgorithms: SignAlgorithms | None = None
    """This and what follows: not in version 1."""
    signature_formats: SignatureFormats | None = None
    conformance_levels: list[str] | None = None


class Token(BaseModel):
    """auth/login"""

    access_token: str
    expires_in: int
    """Seconds."""
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - RFC 6750, 4


class KeyInfo(BaseModel):
    """``key`` of a credential."""

    status: Literal["enabled", "disabled"]
    algo: list[str]
    len: int
    """Bits."""
    curve: str | None = None


class CertInfo(BaseModel):
    """``cert`` of a credential."""

    status: Literal["valid", "expired"] | None = None
    """Nothing without a certificate, and where it is not valid yet."""
    certificates: list[str] | None = None
    """Base64 of DER, leaf first."""
    issuerDN: str | None = None
    """RFC 4514."""
    serialNumber: str | None = None
    """Hexadecimal."""
    subjectDN: str | None = None
    """RFC 4514."""
    validFrom: str | None = None
    """YYYYMMDDHHmmssZ."""
    validTo: str | None = None


class AuthType(BaseModel):
    """One way to authorise."""

    type: Literal["ChallengeResponse"]
    id: str
    label: str
    description: str


class AuthInfo(BaseModel):
    """``auth`` of a credential."""

    mode: Literal["explicit"] = "explicit"
    expression: str | None = None
    objects: list[AuthType] | None = None


class CredentialInfo(BaseModel):
    """credentials/info, and one of ``credentialInfos``."""

    credentialID: str | None = None
    """In credentials/list only."""
    description: str
    key: KeyInfo
    cert: CertInfo
    auth: AuthInfo
    SCAL: Literal["2"] = "2"
    multisign: int
    lang: str


class Presence1(BaseModel):
    """``PIN`` and ``OTP`` of version 1."""

    presence: Literal["true", "false"]
    type: Literal["offline"] | None = None
    format: Literal["A"] | None = None
    label: str | None = None
    description: str | None = None


class CredentialInfo1(BaseModel):
    """credentials/info of version 1."""

    description: str
    key: KeyInfo
    cert: CertInfo
    authMode: Literal["explicit"] = "explicit"
    SCAL: Literal["2"] = "2"
    PIN: Presence1 | None = None
    OTP: Presence1 | None = None
    multisign: int
    lang: str


class CredentialList(BaseModel):
    """credentials/list"""

    credentialIDs: list[str]
    credentialInfos: list[CredentialInfo] | None = None
    onlyValid: bool | None = None
    nextPageToken: str | None = None
    """Where there are more."""


class CredentialList1(BaseModel):
    """credentials/list of version 1."""

    credentialIDs: list[str]
    nextPageToken: str | None = None


class CscChallenge(BaseModel):
    """credentials/getChallenge"""

    challenge: str


class Activation(BaseModel):
    """credentials/authorize"""

    SAD: str


class Signatures(BaseModel):
    """signatures/signHash"""

    signatures: list[str]
