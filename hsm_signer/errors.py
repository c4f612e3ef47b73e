"""Every error a user can meet, in one tree.

Each class has a stable ``code`` (scripts and the audit trail keep it), an ``exit_status`` for the command
line and an ``http_status`` for the service. Messages are written in the user's words when they are raised;
``hint`` says what to do next, where there is something to do. ``retryable`` means: the same request may
succeed if sent again, nothing was lost and nothing was signed twice.

Exit statuses: 1 internal, 2 input or configuration, 3 authorisation refused, 4 card, 5 token, 6 store,
7 a verification that found something wrong, 8 try again, 9 the signing service, 10 not done before a second
client asks for it, too.

The tree, where names are indented below their base class:

    SignerError
        InputError
            FileError, PinMalformed, PinMissing, AlgorithmUnsuitable, CertificateUnsuitable,
            RequestTooLarge, RequestTooSlow, IdentityUnknown
            ConfigError
                NotInitialised, AlreadyInitialised
        CardError
            CardNotFound, CardInUse, CardRemoved, CardMemoryDamaged, CardAnswerMalformed, CardBlank,
            CardNotBlank, CardMismatch, CardOriginMissing, CardOriginWrong, CardPinBlocked, CardPukBlocked,
            CardPinNotVerified, CardRefused
            CardPinWrong
                CardPukWrong
        Refused
            CredentialUnknown, CredentialExists, CredentialRevoked, CredentialSuspended,
            CredentialLocked, CredentialPending, StatusUnsuitable, AlgorithmNotAllowed, ChallengeStale,
            AuthorisationMismatch, RefusedBefore, ChannelUnsuitable, ApprovalAwaited, ApprovalSameClient
            WrongKey
                WrongKeyBefore
        TokenError
            TokenNotFound, TokenPinWrong, TokenKeyMissing, TokenMismatch, TokenUnsuitable, TokenWeak
            TokenUnavailable
                TokenSessionLost
        StoreError
            StoreMissing, StoreReadOnly, StoreBusy, StoreUnavailable, StoreTooNew, StoreTooOld,
            StoreDamaged, RecordDamaged, RecordOutdated, EvidenceMissing, EvidenceDamaged, RecordConflict,
            ClientOutdated, InstallationDamaged, InstallationOutdated
        ServiceError
            ServiceUnreachable, ServiceAnswerMalformed, ServiceBusy, ServiceStopping, ServiceTimeout,
            WorkerLost, WorkerUnavailable, FrameMalformed, NotAuthenticated, NotPermitted,
            ClientExists, ClientUnknown
            RateLimited
                CredentialRateLimited
        VerificationFailed
            SignatureInvalid, AuditFailed, IdentityChanged, EnrolmentProofWrong, EnrolmentRequestChanged
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class SignerError(Exception):
    """Root of the tree; never raised itself."""

    code: ClassVar[str] = "internal"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    waited: ClassVar[bool] = False
    """The program has waited already, as long as the configuration says: a retry is of no use."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after: float | None = None
        """Seconds that the service asks to wait before the next attempt (RFC 9110, 10.2.3)."""


def in_general(error: SignerError) -> str:
    """Describe the kind of an error without names and paths, for those who do not run the service."""
    words = " ".join((type(error).__doc__ or "").split()).rstrip(".")
    return words[:1].lower() + words[1:]


def os_words(error: BaseException) -> str:
    """Return the operating system's words, such as ``Permission denied``; other errors' own text."""
    return getattr(error, "strerror", None) or str(error)


# --- input: files, configuration, arguments ------------------------------------------------------------


class InputError(SignerError):
    """Something the caller gave is not usable; nothing was changed."""

    code = "input.invalid"
    exit_status = 2
    http_status = 400


class ConfigError(InputError):
    """The configuration is missing, unreadable, has an unknown key or a value of the wrong type."""

    code = "config.invalid"


class NotInitialised(ConfigError):
    """There is no installation at this home."""

    code = "config.not-initialised"


class AlreadyInitialised(ConfigError):
    """There is an installation at this home already."""

    code = "config.already-initialised"
    http_status = 409


class FileError(InputError):
    """A file cannot be read or written."""

    code = "file.unusable"


class PinMalformed(InputError):
    """A PIN or PUK has the wrong length or alphabet; no try was used."""

    code = "pin.malformed"


class PinMissing(InputError):
    """No PIN was given and nobody can be asked."""

    code = "pin.missing"


class AlgorithmUnsuitable(InputError):
    """The algorithm does not fit the key, the mode or the digests."""

    code = "algorithm.unsuitable"


# --- card ----------------------------------------------------------------------------------------------


class CardError(SignerError):
    """The card, or the way to it."""

    code = "card.error"
    exit_status = 4
    http_status = 422


class CardNotFound(CardError):
    """No such card."""

    code = "card.not-found"


class CardInUse(CardError):
    """Another program holds the card."""

    code = "card.in-use"
    retryable = True
    waited = True


class CardRemoved(CardError):
    """The connection to the card broke off."""

    code = "card.removed"
    retryable = True


class CardMemoryDamaged(CardError):
    """The card's own memory is not usable (a simulated card: its file is damaged)."""

    code = "card.memory-damaged"


class CardAnswerMalformed(CardError):
    """The card answered something that the contract (docs/understand/apdu.md) does not allow."""

    code = "card.answer-malformed"


class CardBlank(CardError):
    """The card holds no credential."""

    code = "card.blank"


class CardNotBlank(CardError):
    """The card holds a credential already."""

    code = "card.not-blank"


class CardMismatch(CardError):
    """The card belongs to another credential, scheme or installation."""

    code = "card.mismatch"


class CardOriginMissing(CardError):
    """The card was never issued, and only cards of known issuers are enrolled."""

    code = "card.origin-missing"


class CardOriginWrong(CardError):
    """The card is of another issuer than those that are known, or its proof of origin does not hold."""

    code = "card.origin-wrong"


class CardPinWrong(CardError):
    """Wrong PIN; ``tries_left`` more before the card blocks it (status word 63Cx)."""

    code = "card.pin-wrong"

    def __init__(self, message: str, *, tries_left: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.tries_left = tries_left


class CardPukWrong(CardPinWrong):
    """Wrong PUK; ``tries_left`` more before the card blocks it (status word 63Cx)."""

    code = "card.puk-wrong"


class CardPinBlocked(CardError):
    """The PIN's retry counter is at zero (status word 6983)."""

    code = "card.pin-blocked"


class CardPukBlocked(CardError):
    """The PUK's retry counter is at zero, or the card has no PUK (status word 6983)."""

    code = "card.puk-blocked"


class CardPinNotVerified(CardError):
    """The command needs a PIN verified for this message (status word 6982)."""

    code = "card.pin-not-verified"


class CardRefused(CardError):
    """Any other status word; ``status_word`` holds it."""

    code = "card.refused"

    def __init__(self, message: str, *, status_word: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status_word = status_word


# --- authorisation -------------------------------------------------------------------------------------


class Refused(SignerError):
    """A request the server understood and will not carry out."""

    code = "refused"
    exit_status = 3
    http_status = 403


class CredentialUnknown(Refused):
    """No credential of that id or user here."""

    code = "credential.unknown"
    http_status = 404


class CredentialExists(Refused):
    """The user has a live credential already."""

    code = "credential.exists"
    http_status = 409


class CredentialRevoked(Refused):
    """Revoked: the wrapped private key no longer exists."""

    code = "credential.revoked"


class CredentialSuspended(Refused):
    """Suspended by an operator; ``credential resume`` ends it."""

    code = "credential.suspended"


class CredentialLocked(Refused):
    """Too many wrong PINs that only the server could see; ``credential unlock`` ends it."""

    code = "credential.locked"


class CredentialPending(Refused):
    """Enrolment is not finished: only its own certificate request may be signed."""

    code = "credential.pending"


class StatusUnsuitable(Refused):
    """The credential's status does not allow this change of status."""

    code = "credential.status-unsuitable"
    http_status = 409


class ApprovalAwaited(Refused):
    """Asked for and written down, not done: the service awaits a second client's word."""

    code = "approval.awaited"
    exit_status = 10
    http_status = 202


class ApprovalSameClient(Refused):
    """The client that asked for an act asks again; the second word has to be another client's."""

    code = "approval.same-client"
    http_status = 409


class AlgorithmNotAllowed(Refused):
    """The record does not list this algorithm."""

    code = "algorithm.not-allowed"


class ChallengeStale(Refused):
    """x or the RN list is not the record's: another signature came first. Ask the card again."""

    code = "authorisation.stale"
    exit_status = 8
    http_status = 409
    retryable = True


class AuthorisationMismatch(Refused):
    """Q does not open under T: another message, another card, another position (step 3; never counts)."""

    code = "authorisation.mismatch"


class RefusedBefore(Refused):
    """What a card authorised was refused while its credential was pending, and stays refused."""

    code = "authorisation.refused-before"


class WrongKey(Refused):
    """Q opened, but its key does not open SK: a wrong PIN that slipped past the card (steps 4 and 5)."""

    code = "authorisation.wrong-key"


class WrongKeyBefore(WrongKey):
    """A wrong-key request sent again; counted the first time only."""

    code = "authorisation.wrong-key-again"


# --- token ---------------------------------------------------------------------------------------------


class TokenError(SignerError):
    """The PKCS#11 token, or the way to it."""

    code = "token.error"
    exit_status = 5
    http_status = 503


class TokenNotFound(TokenError):
    """Module or token not there."""

    code = "token.not-found"


class TokenPinWrong(TokenError):
    """The token refuses its PIN."""

    code = "token.pin-wrong"


class TokenKeyMissing(TokenError):
    """MK or the record MAC key is not on the token (re-initialised, or another token)."""

    code = "token.key-missing"


class TokenMismatch(TokenError):
    """The record belongs to another token or another MK."""

    code = "token.mismatch"


class TokenUnsuitable(TokenError):
    """The token lacks what the scheme or key type needs."""

    code = "token.unsuitable"


class TokenWeak(TokenError):
    """The token does not enforce what keeps keys inside it."""

    code = "token.weak"


class TokenUnavailable(TokenError):
    """The token stopped answering."""

    code = "token.unavailable"
    retryable = True


class TokenSessionLost(TokenUnavailable):
    """This process's session is given up: only a new one helps, and whoever waits here waits for nothing."""

    code = "token.session-lost"
    retryable = False


# --- store ---------------------------------------------------------------------------------------------


class StoreError(SignerError):
    """The database outside the token."""

    code = "store.error"
    exit_status = 6
    http_status = 503


class StoreMissing(StoreError):
    """There is no database there, or it holds no store."""

    code = "store.missing"


class StoreReadOnly(StoreError):
    """The database cannot be written."""

    code = "store.read-only"


class StoreBusy(StoreError):
    """Another process held the database for too long."""

    code = "store.busy"
    exit_status = 8
    retryable = True
    waited = True


class StoreUnavailable(StoreError):
    """The database server cannot be reached. The same request again finds out what was written."""

    code = "store.unavailable"
    retryable = True
    waited = True


class StoreTooNew(StoreError):
    """Written by a newer version of this program."""

    code = "store.too-new"


class StoreTooOld(StoreError):
    """Needs an upgrade first."""

    code = "store.too-old"


class StoreDamaged(StoreError):
    """The database, or a row that has no MAC to tell better, cannot be read."""

    code = "store.damaged"


class RecordDamaged(StoreError):
    """A record's MAC does not hold: some field is not what this installation wrote."""

    code = "record.damaged"


class RecordOutdated(StoreError):
    """A record is older than the evidence about it: an old row was put back."""

    code = "record.outdated"


class EvidenceMissing(StoreError):
    """A record is newer than the evidence about it: entries were removed."""

    code = "evidence.missing"


class EvidenceDamaged(StoreError):
    """Evidence was changed: an entry's MAC does not hold, or a record names another one."""

    code = "evidence.damaged"


class ClientOutdated(StoreError):
    """A client's row is not the one its evidence ends with: an old row was put back."""

    code = "client.outdated"


class InstallationDamaged(StoreError):
    """The installation's own row is missing, was changed, or is another's."""

    code = "installation.damaged"


class InstallationOutdated(StoreError):
    """The installation's own row is older than its evidence: an old row was put back."""

    code = "installation.outdated"


class RecordConflict(StoreError):
    """Somebody else wrote the record in between; nothing was released."""

    code = "record.conflict"
    exit_status = 8
    http_status = 409
    retryable = True


class CertificateUnsuitable(InputError):
    """The certificate is not one of the credential's key, or cannot be read."""

    code = "certificate.unsuitable"
    http_status = 422


# --- service ---------------------------------------------------------------------------------------------


class ServiceError(SignerError):
    """The signing service, or the way to it."""

    code = "service.error"
    exit_status = 9
    http_status = 500


class ServiceUnreachable(ServiceError):
    """No answer from the service: not there, not trusted (TLS), or the connection broke."""

    code = "service.unreachable"
    http_status = 503
    retryable = True
    waited = True


class ServiceAnswerMalformed(ServiceError):
    """What answers is not this service, or another version of it."""

    code = "service.answer-malformed"
    http_status = 502


class ServiceBusy(ServiceError):
    """More requests in flight than the service takes; nothing was begun."""

    code = "service.busy"
    http_status = 503
    retryable = True


class ServiceStopping(ServiceError):
    """The service is shutting down; nothing was begun."""

    code = "service.stopping"
    http_status = 503
    retryable = True


class ServiceTimeout(ServiceError):
    """No answer in time. The same request again finds out: nothing is signed twice."""

    code = "service.timeout"
    http_status = 504
    retryable = True


class WorkerLost(ServiceError):
    """The worker that carried the request out has ended. The same request again finds out how far it came."""

    code = "worker.lost"
    http_status = 503
    retryable = True


class WorkerUnavailable(ServiceError):
    """No worker is ready: starting, or without its token or store."""

    code = "worker.unavailable"
    http_status = 503
    retryable = True


class FrameMalformed(ServiceError):
    """What came over the workers' socket is not of the agreed form."""

    code = "worker.frame-malformed"


class RateLimited(ServiceError):
    """Too many requests of one client; nothing was begun."""

    code = "client.rate-limited"
    http_status = 429
    retryable = True


class CredentialRateLimited(RateLimited):
    """Too many requests of one client about one credential; nothing was begun."""

    code = "credential.rate-limited"


class NotAuthenticated(ServiceError):
    """Who asks did not say who they are, or not so that the service believes it."""

    code = "client.not-authenticated"
    http_status = 401


class NotPermitted(ServiceError):
    """Known, but without the role for this."""

    code = "client.not-permitted"
    http_status = 403


class ChannelUnsuitable(Refused):
    """Scheme basic is accepted over mutually authenticated TLS only (docs/understand/protocol.md, 3)."""

    code = "channel.unsuitable"


class ClientExists(ServiceError):
    """There is a client of that name, or with that certificate."""

    code = "client.exists"
    exit_status = 2
    http_status = 409


class ClientUnknown(ServiceError):
    """There is no client of that name."""

    code = "client.unknown"
    exit_status = 2
    http_status = 404


class RequestTooLarge(InputError):
    """Body, message or list longer than the service takes."""

    code = "request.too-large"
    http_status = 413


class RequestTooSlow(InputError):
    """The body did not arrive in time."""

    code = "request.too-slow"
    http_status = 408


class IdentityUnknown(InputError):
    """Nobody has said which installation is behind the service, and nobody can be asked."""

    code = "identity.unknown"


# --- verification --------------------------------------------------------------------------------------


class VerificationFailed(SignerError):
    """A check that ran to its end and found something wrong."""

    code = "verification.failed"
    exit_status = 7
    http_status = 422


class SignatureInvalid(VerificationFailed):
    """The signature is not one of this message under this key."""

    code = "signature.invalid"


class AuditFailed(VerificationFailed):
    """Evidence, records and anchor do not agree."""

    code = "audit.failed"


class IdentityChanged(VerificationFailed):
    """The installation behind the service is not the one that is known here."""

    code = "identity.changed"


class EnrolmentProofWrong(VerificationFailed):
    """What came for the card is not what the installation signed for this user and this card."""

    code = "enrolment.proof-wrong"


class EnrolmentRequestChanged(VerificationFailed):
    """The server keeps another certificate request than the workstation makes of user, subject and key."""

    code = "enrolment.request-changed"


def all_errors(root: type[SignerError] = SignerError) -> Iterator[type[SignerError]]:
    """Go through every class of the tree, ``root`` first."""
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)
