"""The JSON of the native interface, as OpenAPI shows it and as what comes is checked.

What these let through is of the right form; forms.py makes our types of it and writes every answer. The
models of answers are for the documentation, and tests hold the answers against them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import CoreSchema, core_schema

from hsm_signer.core import forms
from hsm_signer.service.front.problems import EXPECTED
from hsm_signer.types import (
    KW_LENGTH,
    MAX_DIGESTS,
    MAX_ROLLING_VALUES,
    NONCE_LENGTH,
    ROLLING_VALUE_LENGTH,
    Algorithm,
    Combine,
    Event,
    HashName,
    KeySpec,
    Mode,
    PinCheck,
    PinPolicy,
    Scheme,
    Status,
)

# Base64 as RFC 4648, section 4, has it, padding bits zero: each value has one spelling.
_LAST = {0: "", 1: "[A-Za-z0-9+/][AQgw]==", 2: "[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]="}


def _base64(*lengths: int) -> Any:
    """For text that is base64 of one of these lengths; of at least one byte without."""
    if lengths:
        ways = "|".join(f"[A-Za-z0-9+/]{{{each // 3 * 4}}}{_LAST[each % 3]}" for each in lengths)
        pattern = f"^(?:{ways})$" if len(lengths) > 1 else f"^{ways}$"
        words = f"base64 of {' or '.join(map(str, lengths))} bytes"
        # The lengths are in the pattern: for whoever reads the schema they are there once more.
        extra = {"minLength": (min(lengths) + 2) // 3 * 4, "maxLength": (max(lengths) + 2) // 3 * 4}
    else:
        pattern = f"^(?:[A-Za-z0-9+/]{{4}})*(?:[A-Za-z0-9+/]{{4}}|{_LAST[1]}|{_LAST[2]})$"
        words, extra = "base64 of some bytes", {}
    EXPECTED[pattern] = words
    return Field(
        strict=True,
        pattern=pattern,
        description=f"{words[0].upper()}{words[1:]} (RFC 4648, 4).",
        json_schema_extra={**extra},
    )


def _text(pattern: str, words: str, longest: int = 255) -> Any:
    EXPECTED[pattern] = words
    return Field(strict=True, pattern=pattern, max_length=longest)


class _OneOf:
    """For text that is the command line's name of an enumeration's member."""

    def __init__(self, kind: type[IntEnum]) -> None:
        self._names = [forms.name_of(each) for each in kind]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.literal_schema(self._names)


Bytes = Annotated[str, _base64()]
Bytes8 = Annotated[str, _base64(8)]
Bytes16 = Annotated[str, _base64(NONCE_LENGTH)]
Bytes32 = Annotated[str, _base64(ROLLING_VALUE_LENGTH)]
Bytes40 = Annotated[str, _base64(KW_LENGTH)]
Bytes65 = Annotated[str, _base64(forms.POINT_LENGTH)]
DigestText = Annotated[str, _base64(*HashName)]
HexId = Annotated[str, _text("^[0-9a-f]{32}$", "32 lower-case hexadecimal digits", 32)]
HexHash = Annotated[str, _text("^[0-9a-f]{64}$", "64 lower-case hexadecimal digits", 64)]
_NO_CONTROLS = "^[^\\x00-\\x1f\\x7f]+$"
OwnerName = Annotated[str, _text(_NO_CONTROLS, "a name without control characters", forms.MAX_NAME)]
SubjectText = Annotated[str, _text(_NO_CONTROLS, "a name without control characters", forms.MAX_SUBJECT)]
AlgorithmName = Annotated[str, _OneOf(Algorithm)]
SchemeName = Annotated[str, _OneOf(Scheme)]
CombineName = Annotated[str, _OneOf(Combine)]
PinPolicyName = Annotated[str, _OneOf(PinPolicy)]
PinCheckName = Annotated[str, _OneOf(PinCheck)]
KeyName = Annotated[str, _OneOf(KeySpec)]
StatusName = Annotated[str, _OneOf(Status)]
EventName = Annotated[str, _OneOf(Event)]
ModeName = Annotated[str, _OneOf(Mode)]
U64 = Annotated[int, Field(strict=True, ge=0, le=2**64 - 1)]
U63 = Annotated[int, Field(strict=True, ge=0, le=2**63 - 1)]
Tries = Annotated[int, Field(strict=True, ge=0, le=forms.MAX_TRIES)]


class Model(BaseModel):
    """Nothing that is not declared, and no value turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- what comes ----------------------------------------------------------------------------------------


class AuthorisationBody(Model):
    """The card's answer, with what it was asked (docs/understand/protocol.md, section 5)."""

    model_config = ConfigDict(title="Authorisation")

    algorithm: AlgorithmName
    x: U64 | None = Field(description="As the challenge has it; null outside scheme rolling.")
    rolling_values: list[Bytes32] = Field(max_length=MAX_ROLLING_VALUES)
    nonce: Bytes16
    quantities: list[Bytes40] = Field(min_length=1, max_length=MAX_ROLLING_VALUES)


class SignatureRequest(Model):
    """One authorisation and the digests that it is for."""

    authorisation: AuthorisationBody
    digests: list[DigestText] = Field(min_length=1, max_length=MAX_DIGESTS)


class EnrolmentRequest(Model):
    """What a new credential shall be, and the blank card's point."""

    owner: OwnerName
    scheme: SchemeName
    combine: CombineName
    key: KeyName
    pin_policy: PinPolicyName
    pin_check: PinCheckName
    pin_tries: Tries
    puk_tries: Tries
    card_point: Bytes65
    card_serial: Bytes8
    subject: SubjectText | None = Field(
        default=None, description="RFC 4514 name for the certificate request; CN=OWNER without."
    )


class Certificates(Model):
    """A chain, DER each, the leaf first; empty: none."""

    certificates: list[Bytes] = Field(max_length=forms.MAX_CERTIFICATES)


class AnchorBody(Model):
    """One hash over every credential's last evidence entry, to keep elsewhere."""

    model_config = ConfigDict(title="Anchor")

    format: Literal[1]
    time: U63 = Field(description="Microseconds since 1970-01-01T00:00:00Z.")
    last_entry: U63
    credentials: U63
    entries: U63
    root: HexHash


class CredentialQuery(Model):
    """Which credentials."""

    owner: OwnerName | None = None
    after: HexId | None = Field(default=None, description="Those whose id is above this one.")
    limit: int = Field(default=100, ge=1, le=1000)


class ExportQuery(Model):
    """Which entries."""

    credential_id: HexId | None = None
    after: int = Field(default=0, ge=0, le=2**63 - 1, description="Those whose number is above this one.")


class EvidenceQuery(ExportQuery):
    """Which entries, and how many of them."""

    limit: int = Field(default=100, ge=1, le=1000)


class NoQuery(Model):
    """No parameters."""


# --- what goes -----------------------------------------------------------------------------------------


class LimitsView(Model):
    """What one request may carry."""

    body: int = Field(description="Bytes.")
    message: int = Field(description="Bytes of a message that travels whole.")
    digests: int


class CapabilitiesView(Model):
    """What can be enrolled here."""

    combines: list[CombineName] = Field(description="The default first.")
    obstacles: dict[str, str] = Field(description='"SCHEME/KEY" -> why not, or "".')
    limits: LimitsView


class WhoAmIView(Model):
    """Who the service takes the caller for."""

    name: str
    roles: list[str]
    owner: str | None = Field(description="The only user whose credentials it may see; null: any.")
    certificate: bool = Field(description="Whether a client certificate said so.")


class CredentialBody(Model):
    """A credential, without anything wrapped."""

    model_config = ConfigDict(title="Credential")

    credential_id: HexId
    owner: str
    status: StatusName
    scheme: SchemeName
    combine: CombineName
    pin_policy: PinPolicyName
    pin_check: PinCheckName
    token_serial: str
    public_key: Bytes = Field(description="SubjectPublicKeyInfo, DER (RFC 5280, 4.1.2.7), base64.")
    algorithms: list[AlgorithmName]
    version: U64
    x: U64 | None
    failures: int
    card_serial: Bytes8
    assurance: int
    request_hash: Bytes32 | None


class CredentialList(Model):
    """Some credentials; ``more``: there are others after the last."""

    credentials: list[CredentialBody]
    more: bool


class ChallengeBody(Model):
    """What a card needs to know to authorise."""

    model_config = ConfigDict(title="Challenge")

    credential_id: HexId
    scheme: SchemeName
    x: U64 | None
    rolling_values: list[Bytes32]
    algorithms: list[AlgorithmName]
    public_key: Bytes


class OutcomeBody(Model):
    """What is released, after record and evidence are committed."""

    model_config = ConfigDict(title="SignOutcome")

    credential_id: HexId
    owner: str
    algorithm: AlgorithmName
    public_key: Bytes
    signatures: list[Bytes] = Field(description="In the order of the digests; ECDSA in DER.")
    d: Bytes32 = Field(description="D, the identity of the authorisation.")
    evidence_hash: Bytes32
    repeated: bool = Field(description="The stored answer to an earlier, equal request.")
    failures_before: int


class PersonalisationBody(Model):
    """What INSTALL gives to the card."""

    model_config = ConfigDict(title="CardPersonalisation")

    credential_id: HexId
    scheme: SchemeName
    combine: CombineName
    pin_policy: PinPolicyName
    pin_check: PinCheckName
    pin_tries: int
    puk_tries: int
    token_point: Bytes65
    wrapped_kcar: Bytes40 | None
    wrapped_kek: Bytes40


class BegunBody(Model):
    """A pending credential, and what its card must get."""

    model_config = ConfigDict(title="Enrolment")

    credential: CredentialBody
    personalisation: PersonalisationBody
    request_info: Bytes


class RequestInfo(Model):
    """CertificationRequestInfo, DER (RFC 2986, 4.1): the message of the first authorisation."""

    request_info: Bytes


class CertificationRequest(Model):
    """PKCS#10 as the first authorisation signed it."""

    pem: str


class EntryBody(Model):
    """One entry of the evidence."""

    model_config = ConfigDict(title="EvidenceEntry")

    number: int = Field(description="The store's number of it.")
    sequence: U64
    time: U64
    credential_id: HexId
    event: EventName
    outcome: str
    record_version: U64
    actor: str
    previous: Bytes32
    d: Bytes32 | None
    nonce: Bytes16 | None
    x: U64 | None
    algorithm: AlgorithmName | None
    mode: ModeName | None
    h: Bytes32 | None
    quantities_hash: Bytes32 | None
    digests: list[DigestText]
    signatures: list[Bytes]


class EntryList(Model):
    """Some entries; ``more``: there are others after the last."""

    entries: list[EntryBody]
    more: bool


class FindingBody(Model):
    """One thing that is no longer as it was."""

    model_config = ConfigDict(title="Finding")

    code: str
    words: str


class FindingList(Model):
    """Empty where everything is as it was."""

    findings: list[FindingBody]


class Health(Model):
    """The front answers."""

    status: Literal["ok"]


class WorkerView(Model):
    """One worker."""

    slot: int
    generation: int | None = Field(description="How often the slot was started; null: not connected.")
    state: str
    reason: str | None
    signatures: int = Field(description="Made by this process.")
    signed: bool = Field(description="Whether its token signed for this answer.")


class Readiness(Model):
    """Whether signatures can be made."""

    ready: bool
    workers: list[WorkerView]
