"""Operations of the workers' socket, their results, and how a failure is told.

Encoded as MessagePack by msgspec, strictly: an unknown operation, field or enum member, a missing field or a
value of another type is an error (FrameMalformed). docs/understand/service.md, section "The workers' socket",
has the frames. VERSION rises with every change that the other side has to know of.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from hsm_signer.core.definitions import place
from hsm_signer.core.interface import (
    MAX_PAGE,
    Capabilities,
    Chain,
    CredentialPage,
    Digests,
    EnrolmentRequest,
    EvidencePage,
    PendingApproval,
    RequestInfo,
)
from hsm_signer.errors import (
    EvidenceDamaged,
    EvidenceMissing,
    FrameMalformed,
    RecordConflict,
    RecordDamaged,
    RecordOutdated,
    ServiceError,
    SignerError,
    StoreError,
    TokenError,
    TokenUnsuitable,
    all_errors,
    in_general,
)
from hsm_signer.evidence.anchor import Anchor
from hsm_signer.evidence.findings import Finding
from hsm_signer.service.roles import Role
from hsm_signer.types import (
    U64,
    Authorisation,
    Challenge,
    CredentialId,
    CredentialView,
    EnrolmentStarted,
    Event,
    Owner,
    Sha256,
    SignOutcome,
)

VERSION = 4

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
SAID_IN_FULL = (
    TokenUnsuitable,
    RecordConflict,
    RecordDamaged,
    RecordOutdated,
    EvidenceMissing,
    EvidenceDamaged,
)
"""Errors of token and store that are about what was asked for, not about this installation."""
PageSize = Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)]


class Operation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="op"):
    """What a worker can be asked for; the tag is the key of roles.PERMITTED."""


class GetCapabilities(Operation, frozen=True, kw_only=True, tag="capabilities"):
    """What the token and this service can do. -> Capabilities"""


class WhoAmI(Operation, frozen=True, kw_only=True, tag="who-am-i"):
    """Who the worker takes the caller for. -> ClientView"""


class Login(Operation, frozen=True, kw_only=True, tag="login"):
    """An access token for the caller, who came with name and secret. -> Access"""

    lifetime: Annotated[int, msgspec.Meta(ge=60, le=86400)]
    """Seconds."""


class Logout(Operation, frozen=True, kw_only=True, tag="logout"):
    """End an access token; an unknown one is no error (RFC 7009, 2.2). -> None"""

    token: Annotated[str, msgspec.Meta(max_length=4096)]

    def __repr__(self) -> str:
        """Without the token."""
        return "Logout(...)"


class ListCredentials(Operation, frozen=True, kw_only=True, tag="list-credentials"):
    """Records ascending by credential id, each with its MAC checked. -> CredentialPage

    A client bound to a user sees that user's only.
    """

    owner: Owner | None = None
    """None: everybody's."""
    after: CredentialId | None = None
    limit: PageSize = 100


class GetCredential(Operation, frozen=True, kw_only=True, tag="credential"):
    """One record by id, or a user's live one, or the newest revoked one. -> CredentialView"""

    credential_id: CredentialId | None = None
    owner: Owner | None = None
    """Exactly one of the two."""


class GetCertificates(Operation, frozen=True, kw_only=True, tag="certificates"):
    """The chain kept for a credential, leaf first; empty without one. -> tuple[bytes, ...]"""

    credential_id: CredentialId


class SetCertificates(Operation, frozen=True, kw_only=True, tag="set-certificates"):
    """Keep a chain (DER, leaf first); the leaf certifies the credential's PK. Empty: remove it. -> None"""

    credential_id: CredentialId
    certificates: Chain


class GetCertificationRequest(Operation, frozen=True, kw_only=True, tag="certification-request"):
    """PKCS#10 as the first authorisation signed it, PEM. -> str"""

    credential_id: CredentialId


class GetChallenge(Operation, frozen=True, kw_only=True, tag="challenge"):
    """What the card needs for its next authorisation (step 880). -> Challenge"""

    credential_id: CredentialId


class Sign(Operation, frozen=True, kw_only=True, tag="sign"):
    """Carry out what a card authorised (steps 1 to 10). -> SignOutcome

    Exactly one of ``digests`` and ``message``; a message follows in CHUNK frames of the same id.
    """

    authorisation: Authorisation
    digests: Digests | None = None
    message: U64 | None = None
    """Bytes of the message."""


class Examine(Operation, frozen=True, kw_only=True, tag="examine"):
    """Steps 1 and 2 alone: would this be carried out, as far as can be said without the token? -> bytes

    The result is an Activation, sealed for the client that asks.
    """

    authorisation: Authorisation
    digests: Digests


class OpenActivation(Operation, frozen=True, kw_only=True, tag="open-activation"):
    """What Examine gave to this very client. -> Activation"""

    sealed: Annotated[bytes, msgspec.Meta(max_length=4096)]

    def __repr__(self) -> str:
        """Without the card's answer."""
        return "OpenActivation(...)"


class BeginEnrolment(Operation, frozen=True, kw_only=True, tag="begin-enrolment"):
    """Keys in the token and a pending record. -> EnrolmentStarted"""

    wanted: EnrolmentRequest


class GetRequestInfo(Operation, frozen=True, kw_only=True, tag="request-info"):
    """The message of a credential's first authorisation, its key proven to be its user's. -> RequestInfo"""

    credential_id: CredentialId


class GiveUpEnrolment(Operation, frozen=True, kw_only=True, tag="give-up-enrolment"):
    """Delete a pending record whose card never got its keys. -> None"""

    credential_id: CredentialId


class ChangeStatus(Operation, frozen=True, kw_only=True, tag="change-status"):
    """Suspend, resume, unlock or revoke. -> StatusChange

    Its key in roles.PERMITTED is the event's name.
    """

    credential_id: CredentialId
    event: Event


class GetEvidence(Operation, frozen=True, kw_only=True, tag="evidence"):
    """Entries in the order of writing, those numbered above ``after``. -> EvidencePage"""

    credential_id: CredentialId | None = None
    after: U64 = 0
    limit: PageSize = 100


class GetAnchor(Operation, frozen=True, kw_only=True, tag="anchor"):
    """An anchor over all chains, to keep elsewhere. -> Anchor"""


class CheckAnchor(Operation, frozen=True, kw_only=True, tag="check-anchor"):
    """What is no longer as it was when the anchor was made. -> tuple[Finding, ...]"""

    anchor: Anchor


class SelfTest(Operation, frozen=True, kw_only=True, tag="self-test"):
    """Make a credential in the token, sign with it, forget it; look whether the store can be written.

    Asked by the front itself, for `/readyz`, without a client. -> None
    """


AnyOperation = (
    GetCapabilities
    | WhoAmI
    | Login
    | Logout
    | ListCredentials
    | GetCredential
    | GetCertificates
    | SetCertificates
    | GetCertificationRequest
    | GetChallenge
    | Sign
    | Examine
    | OpenActivation
    | BeginEnrolment
    | GetRequestInfo
    | GiveUpEnrolment
    | ChangeStatus
    | GetEvidence
    | GetAnchor
    | CheckAnchor
    | SelfTest
)


def credential_of(operation: AnyOperation) -> CredentialId | None:
    """Find the credential that an operation is about, where it names one by its id."""
    if isinstance(operation, Sign | Examine):
        return operation.authorisation.credential_id
    return getattr(operation, "credential_id", None)


class Caller(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a request carries to identify its client; the worker decides who it is."""

    bearer: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    """A client's token or an access token, as it came."""
    name: Name | None = None
    """With ``secret``: HTTP Basic (RFC 7617), for Login alone."""
    secret: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    certificate: Sha256 | None = None
    """SHA-256 of the DER client certificate that the TLS handshake proved."""

    def __repr__(self) -> str:
        """Without anything secret."""
        return "Caller(...)"


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payload of a CALL frame."""

    caller: Caller
    request_id: Annotated[str, msgspec.Meta(max_length=64)]
    """For the logs of both sides."""
    operation: AnyOperation


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payload of a REPLY frame."""

    result: msgspec.Raw
    client: str | None = None
    """The client's name, for the front's log."""
    steps: tuple[tuple[int, int], ...] = ()
    """(step of docs/understand/protocol.md, section 5, microseconds since the step before), in order."""
    queued: int = 0
    """Microseconds that the call waited in the worker."""
    took: int = 0
    """Microseconds from then to the answer."""


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payload of a FAILURE frame: an error of errors.py, by its code."""

    code: str
    message: str
    hint: str | None = None
    client: str | None = None
    queued: int = 0
    took: int = 0


class WorkerState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payload of a HELLO frame, the first that a worker sends, and of a STATE frame whenever it changes."""

    version: int
    """VERSION of the worker."""
    slot: int
    """Which of the workers it is, from 0."""
    generation: int
    """How often this slot has been started, from 1."""
    pid: int
    state: str
    """``starting``, ``ready``, ``recovering`` (token or store lost; ``reason`` says why) or ``draining``."""
    reason: str | None = None
    signatures: int = 0
    """Signatures made by this process."""


# --- results ------------------------------------------------------------------------------------------------


class ClientView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A client without anything secret."""

    name: Name
    roles: tuple[Role, ...]
    owner: Owner | None
    """The only user whose credentials it may see and use; none: any."""
    certificate: bool
    """Whether it has been identified by a client certificate."""


class StatusChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a change of status: exactly one of the two."""

    credential: CredentialView | None
    """As it then is."""
    awaited: PendingApproval | None
    """What a second client has to ask for before it is done."""


class Activation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An authorisation that was examined, and what it is for."""

    authorisation: Authorisation
    digests_hash: Sha256
    """H of the list of digests (docs/understand/protocol.md, section 2)."""


class Access(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of Login: an access token."""

    token: str
    expires_in: int
    """Seconds."""

    def __repr__(self) -> str:
        """Without the token."""
        return f"Access(expires_in={self.expires_in})"


_T = TypeVar("_T")
_RESULTS: dict[type[Operation], Any] = {
    GetCapabilities: Capabilities,
    WhoAmI: ClientView,
    Login: Access,
    Logout: None,
    ListCredentials: CredentialPage,
    GetCredential: CredentialView,
    GetCertificates: Chain,
    SetCertificates: None,
    GetCertificationRequest: str,
    GetChallenge: Challenge,
    Sign: SignOutcome,
    Examine: bytes,
    OpenActivation: Activation,
    BeginEnrolment: EnrolmentStarted,
    GetRequestInfo: RequestInfo,
    GiveUpEnrolment: None,
    ChangeStatus: StatusChange,
    GetEvidence: EvidencePage,
    GetAnchor: Anchor,
    CheckAnchor: tuple[Finding, ...],
    SelfTest: None,
}
_ENCODER = msgspec.msgpack.Encoder()
_CODES = {error.code: error for error in all_errors()}


def encode(message: Any) -> bytes:
    """Encode as MessagePack."""
    return _ENCODER.encode(message)


def decode(data: bytes, kind: type[_T]) -> _T:
    """Decode MessagePack strictly as ``kind``; raises FrameMalformed, which quotes none of the data."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _malformed(kind.__name__, error) from None


def decode_result(operation: Operation, result: msgspec.Raw) -> Any:
    """Decode a reply's result as the operation's type of result; raises FrameMalformed."""
    try:
        return msgspec.msgpack.decode(result, type=_RESULTS[type(operation)])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _malformed(f"the result of {type(operation).__name__}", error) from None


def _malformed(what: str, error: Exception) -> FrameMalformed:
    """Without the error's own words, which may quote what was sent."""
    return FrameMalformed(f"expected {what}: {type(error).__name__} {place(error)}".rstrip())


def failure_of(error: SignerError) -> Failure:
    """Make the failure that carries an error over the socket.

    Of token and store only its kind: paths, labels and what to repair are for the worker's log.
    """
    if isinstance(error, TokenError | StoreError) and not isinstance(error, SAID_IN_FULL):
        return Failure(code=error.code, message=in_general(error))
    return Failure(code=error.code, message=error.message, hint=error.hint)


def error_of(code: str, message: str, hint: str | None) -> SignerError:
    """Make the error of a failure, of the class that has its code; ServiceError for an unknown code."""
    kind = _CODES.get(code)
    if kind is None:
        return ServiceError(message, hint=hint)
    # Some have arguments of their own (tries left, a status word): those come from cards, not from here.
    error = kind.__new__(kind)
    SignerError.__init__(error, message, hint=hint)
    return error
