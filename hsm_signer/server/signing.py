"""One authorisation becomes signatures: steps 1 to 10 of docs/understand/protocol.md, 5 (figs 4b, 6b, 9).

:func:`sign` is the whole of it, in order. Steps 3 to 8 happen inside the secure environment, under the same
numbers (:meth:`hsm_signer.token.environment.SecureEnvironment.sign`).
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable

from msgspec.structs import replace

from hsm_signer.core import algorithms
from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.content import Measured, measure
from hsm_signer.errors import (
    AlgorithmNotAllowed,
    ChallengeStale,
    CredentialLocked,
    CredentialPending,
    CredentialRevoked,
    CredentialSuspended,
    CredentialUnknown,
    EvidenceDamaged,
    EvidenceMissing,
    InputError,
    RecordConflict,
    RecordDamaged,
    RecordOutdated,
    Refused,
    SignatureInvalid,
    SignerError,
    StoreBusy,
    StoreDamaged,
    TokenMismatch,
    WrongKey,
    WrongKeyBefore,
)
from hsm_signer.evidence.chain import ChainPosition, next_entry
from hsm_signer.schemes import steps_of
from hsm_signer.schemes.authorise import d_of
from hsm_signer.store.store import Loaded, Store
from hsm_signer.token.environment import Observe, SecureEnvironment, Signed
from hsm_signer.types import (
    ACCEPTED,
    CREDENTIAL_ID_LENGTH,
    FAILURES_BEFORE_LOCK,
    KW_LENGTH,
    MAX_ROLLING_VALUES,
    NONCE_LENGTH,
    ROLLING_VALUE_LENGTH,
    Authorisation,
    Challenge,
    CredentialId,
    CredentialRecord,
    Digest,
    Event,
    EvidenceEntry,
    Mode,
    SealedRecord,
    SigningRequest,
    SignOutcome,
    Status,
)

Clock = Callable[[], int]
"""Microseconds since 1970-01-01T00:00:00Z."""
Admit = Callable[[CredentialRecord], None]
"""Whether who asks may use this credential: raises Refused. Told the record once its MAC and age held."""

MAX_COUNTING_ATTEMPTS = 20
MAX_COUNTER = 2**63 - 1
"""The highest x that a record can have: the largest integer that every database holds."""


def system_clock() -> int:
    """The machine's time, in microseconds since 1970-01-01T00:00:00Z."""
    return time.time_ns() // 1000


def sign(
    environment: SecureEnvironment,
    store: Store,
    request: SigningRequest,
    *,
    actor: str,
    clock: Clock = system_clock,
    observe: Observe = lambda _: None,
    admit: Admit = lambda _: None,
) -> SignOutcome:
    """Carry out one authorisation, exactly once.

    ``actor`` goes into the evidence; ``admit`` may refuse who asks, in step 1; ``observe`` is told the number
    of each step that is done. Every refusal of a known credential leaves an evidence entry, but for
    EvidenceMissing (nothing is added to a chain that was cut); only a wrong key (steps 4 and 5) changes the
    record.
    Raises the refusals of steps 1 to 5 (errors.Refused, RecordDamaged, RecordOutdated, EvidenceMissing),
    InputError, TokenError, StoreError; RecordConflict means nothing was released: ask again.
    """
    authorisation = request.authorisation
    check_lengths(authorisation)
    attempt = _Attempt(store, authorisation, actor, clock)
    try:
        # 1. Load the record, check its MAC, refuse what may not sign.
        record = load_checked(environment, store, authorisation.credential_id).sealed.record
        attempt.record = record
        admit(record)
        refuse_by_status(record)
        observe(1)

        # 2. H, D and every D_i from what arrived, not from what the caller says they are (491, 695, 886).
        measured = measure(request.content, authorisation.algorithm)
        d = d_of(record, authorisation, measured.mode, measured.h)
        attempt.measured, attempt.d = measured, d
        _refuse_unsuitable(record, authorisation, measured)
        if (before := store.carried_out(record.credential_id, d, attempt.quantities_hash)) is not None:
            return _stored_outcome(record, authorisation, measured, before)
        _refuse_stale(record, authorisation)
        observe(2)

        # 3 to 8. In the token: T_i, the keys from all Q_i, SK, KOWF, signatures, SK under V_x+1, erase.
        signed = environment.sign(record, authorisation, measured, observe)
    except CredentialUnknown:
        raise  # there is no chain to write to
    except WrongKeyBefore as error:
        attempt.note_refusal(error)
        raise
    except WrongKey as error:
        attempt.count_failure(environment, error)
        raise
    except (Refused, RecordDamaged, RecordOutdated, TokenMismatch) as error:
        attempt.note_refusal(error)
        raise

    # 9. One transaction: the new record, if nobody wrote it meanwhile, and the evidence.
    entry = store.commit(
        record.credential_id, record.version, lambda position: attempt.accepted(environment, position, signed)
    )
    observe(9)

    # 10. Only now.
    return SignOutcome(
        credential_id=record.credential_id,
        owner=record.owner,
        algorithm=authorisation.algorithm,
        spki=record.spki,
        signatures=signed.signatures,
        d=d,
        evidence_hash=entry_hash(entry),
        repeated=False,
        failures_before=record.failures,
    )


def examine(
    environment: SecureEnvironment, store: Store, request: SigningRequest, *, admit: Admit = lambda _: None
) -> None:
    """Steps 1 and 2 alone: whether :func:`sign` would go on to the token. Changes nothing, leaves no entry.

    For services that take an authorisation in one request and use it in the next. Raises what these steps
    refuse; a request carried out before is none of it.
    """
    authorisation = request.authorisation
    check_lengths(authorisation)
    record = load_checked(environment, store, authorisation.credential_id).sealed.record
    admit(record)
    refuse_by_status(record)
    measured = measure(request.content, authorisation.algorithm)
    d = d_of(record, authorisation, measured.mode, measured.h)
    _refuse_unsuitable(record, authorisation, measured)
    if store.carried_out(record.credential_id, d, quantities_hash(authorisation)) is None:
        _refuse_stale(record, authorisation)


def quantities_hash(authorisation: Authorisation) -> Digest:
    """SHA-256(Q_1 || ...): what evidence holds of them."""
    return Digest(hashlib.sha256(b"".join(authorisation.quantities)).digest())


def challenge(
    environment: SecureEnvironment,
    store: Store,
    credential_id: CredentialId,
    *,
    admit: Admit = lambda _: None,
) -> Challenge:
    """What the card needs for the credential's next authorisation (step 880). Changes nothing.

    Raises the refusals of step 1.
    """
    record = load_checked(environment, store, credential_id).sealed.record
    admit(record)
    refuse_by_status(record)
    return Challenge(
        credential_id=record.credential_id,
        scheme=record.scheme,
        x=record.x,
        rolling_values=steps_of(record.scheme).challenge(record),
        algorithms=record.algorithms,
        spki=record.spki,
    )


def load_checked(environment: SecureEnvironment, store: Store, credential_id: CredentialId) -> Loaded:
    """The credential with its MAC checked and its age held against the evidence.

    Raises CredentialUnknown, RecordDamaged, TokenMismatch,
    RecordOutdated (an old row was put back), EvidenceMissing (entries were removed), EvidenceDamaged (the
    entry that wrote the record is not the one the record names; all entries before it hang on that one).
    """
    loaded = store.load(credential_id)
    environment.check(loaded.sealed)
    record = loaded.sealed.record
    if record.version < loaded.newest_version:
        raise RecordOutdated(
            f"the record of {record.owner!r} is older than the evidence about it: an old row was put back",
            hint="restore the newest backup; `hsm-signer audit verify` shows the difference",
        )
    if record.version > loaded.newest_version:
        raise EvidenceMissing(
            f"evidence about {record.owner!r} is missing: the record is newer than its last entry",
            hint="restore the newest backup; `hsm-signer audit verify` shows the difference",
        )
    if loaded.written_by != record.evidence_head:
        raise EvidenceDamaged(
            f"evidence about {record.owner!r} was changed: its record names another entry",
            hint="restore the newest backup; `hsm-signer audit verify` shows what was changed",
        )
    return loaded


def refuse_by_status(record: CredentialRecord) -> None:
    """Raises for revoked, suspended and locked credentials (step 1)."""
    if record.status is Status.REVOKED:
        raise CredentialRevoked(f"the credential of {record.owner!r} is revoked")
    if record.status is Status.SUSPENDED:
        raise CredentialSuspended(
            f"the credential of {record.owner!r} is suspended",
            hint=f"an operator can end that: hsm-signer credential resume {shlex.quote(record.owner)}",
        )
    # The count alone says so too: a pending credential, or one that was suspended when locked.
    if record.status is Status.LOCKED or record.failures >= FAILURES_BEFORE_LOCK:
        raise CredentialLocked(
            f"the credential of {record.owner!r} is locked after {FAILURES_BEFORE_LOCK} wrong PINs in a row",
            hint=f"an operator can end that: hsm-signer credential unlock {shlex.quote(record.owner)}",
        )


def check_lengths(authorisation: Authorisation) -> None:
    """Raises InputError, naming the field, for anything of the wrong length and an x that cannot be."""
    for field, value, length in (
        ("credential id", authorisation.credential_id, CREDENTIAL_ID_LENGTH),
        ("R", authorisation.nonce, NONCE_LENGTH),
        *((f"RN_{i}", rn, ROLLING_VALUE_LENGTH) for i, rn in enumerate(authorisation.rolling_values, 1)),
        *((f"Q_{i}", q, KW_LENGTH) for i, q in enumerate(authorisation.quantities, 1)),
    ):
        if len(value) != length:
            raise InputError(f"authorisation: {field}: expected {length} bytes, got {len(value)}")
    if not 1 <= len(authorisation.quantities) <= MAX_ROLLING_VALUES:
        raise InputError(f"authorisation: expected 1 to {MAX_ROLLING_VALUES} quantities")
    if len(authorisation.rolling_values) > MAX_ROLLING_VALUES:
        raise InputError(f"authorisation: expected at most {MAX_ROLLING_VALUES} rolling values")
    if authorisation.x is not None and not 0 <= authorisation.x <= MAX_COUNTER:
        raise InputError(f"authorisation: x: expected 0 to {MAX_COUNTER}")


def _refuse_unsuitable(record: CredentialRecord, authorisation: Authorisation, measured: Measured) -> None:
    if authorisation.algorithm not in record.algorithms:
        allowed = ", ".join(each.value for each in record.algorithms)
        raise AlgorithmNotAllowed(
            f"{authorisation.algorithm.value} is not allowed for the credential of {record.owner!r}",
            hint=f"allowed: {allowed}",
        )
    if record.status is Status.PENDING and (
        measured.mode is not Mode.MESSAGE or measured.h != record.request_hash
    ):
        raise CredentialPending(
            f"the enrolment of {record.owner!r} is not finished: only its certificate request can be signed",
            hint=f"run hsm-signer enrol {shlex.quote(record.owner)} again with the same card",
        )


def _refuse_stale(record: CredentialRecord, authorisation: Authorisation) -> None:
    if authorisation.x != record.x or authorisation.rolling_values != steps_of(record.scheme).challenge(
        record
    ):
        raise ChallengeStale(
            "the authorisation was made for an older challenge: another signature came first",
            hint="sign again: the card gets the new challenge",
        )


def _stored_outcome(
    record: CredentialRecord, authorisation: Authorisation, measured: Measured, stored: EvidenceEntry
) -> SignOutcome:
    """A lost answer, given again: the signatures of the evidence, once they verify for this message.

    Raises WrongKeyBefore for a request that was refused for its key: the very same one is no new guess, and
    whoever caught it on its way cannot lock anybody with it. Raises StoreDamaged.
    """
    if stored.outcome != ACCEPTED:
        raise WrongKeyBefore("this request was refused before: its key does not open the private key")
    signed = measured.digests or (measured.message or b"",)
    verify = algorithms.verifier(record.spki, authorisation.algorithm)
    try:
        for each, signature in zip(signed, stored.signatures, strict=True):
            verify(each, signature)
    except (SignatureInvalid, ValueError) as error:
        raise StoreDamaged(
            "this was signed before, but the stored signatures do not verify",
            hint="run `hsm-signer audit verify`",
        ) from error
    return SignOutcome(
        credential_id=record.credential_id,
        owner=record.owner,
        algorithm=authorisation.algorithm,
        spki=record.spki,
        signatures=stored.signatures,
        d=stored.d or Digest(b""),
        evidence_hash=entry_hash(stored),
        repeated=True,
        failures_before=0,
    )


class _Attempt:
    """What is known so far of one attempt, and how it goes into the evidence."""

    def __init__(self, store: Store, authorisation: Authorisation, actor: str, clock: Clock) -> None:
        self._store = store
        self._authorisation = authorisation
        self._actor = actor
        self._clock = clock
        self.quantities_hash = quantities_hash(authorisation)
        self.record: CredentialRecord | None = None
        """Only once its MAC held."""
        self.measured: Measured | None = None
        self.d: Digest | None = None

    def accepted(
        self, environment: SecureEnvironment, position: ChainPosition, signed: Signed
    ) -> tuple[SealedRecord, EvidenceEntry]:
        """The new record and the entry, inside the transaction."""
        record = self.record
        if record is None:
            raise AssertionError("accepted without a record")
        pending = record.status is Status.PENDING
        entry = self._entry(
            position,
            Event.ACTIVATE if pending else Event.SIGN,
            ACCEPTED,
            record.version + 1,
            signatures=signed.signatures,
        )
        changed = replace(
            record,
            version=record.version + 1,
            status=Status.ACTIVE,
            failures=0,
            evidence_head=entry_hash(entry),
        )
        if (rolled := signed.rolled) is not None:
            changed = replace(
                changed,
                wrapped_sk=rolled.wrapped_sk,
                x=rolled.x,
                rn=rolled.rn,
                rn_next=rolled.rn_next,
            )
        return environment.seal(changed), entry

    def note_refusal(self, error: SignerError) -> None:
        """An entry that changes no record."""
        version = self.record.version if self.record is not None else 0
        self._store.append(
            self._authorisation.credential_id,
            lambda position: self._entry(position, Event.SIGN, error.code, version),
        )

    def count_failure(self, environment: SecureEnvironment, error: WrongKey) -> None:
        """An entry, one more failure in the record, and the lock after the fifth in a row.

        Whoever signs at the same time must not make a failure go uncounted: it is counted on the record as
        it then is. Raises WrongKeyBefore where the same request was counted meanwhile, StoreBusy where
        counting does not succeed.
        """
        record = self.record
        if record is None:
            raise AssertionError("a wrong key without a record")
        for _ in range(MAX_COUNTING_ATTEMPTS):
            failures = record.failures + 1
            locks = record.status is Status.ACTIVE and failures >= FAILURES_BEFORE_LOCK
            counted = replace(
                record,
                version=record.version + 1,
                failures=failures,
                status=Status.LOCKED if locks else record.status,
            )

            def build(
                position: ChainPosition, counted: CredentialRecord = counted
            ) -> tuple[SealedRecord, EvidenceEntry]:
                entry = self._entry(position, Event.SIGN, error.code, counted.version)
                return environment.seal(replace(counted, evidence_head=entry_hash(entry))), entry

            try:
                self._store.commit(record.credential_id, record.version, build)
            except RecordConflict:
                self._refuse_if_counted(error)
                record = load_checked(environment, self._store, record.credential_id).sealed.record
                continue
            left = FAILURES_BEFORE_LOCK - failures
            error.hint = (
                "the credential is locked now: an operator can end that with hsm-signer credential unlock"
                if left <= 0
                else f"probably a mistyped PIN that the card could not tell; {left} more and it locks"
            )
            return
        raise StoreBusy("a wrong key could not be counted: the record is written all the time") from error

    def _refuse_if_counted(self, error: WrongKey) -> None:
        """Raises WrongKeyBefore where the very same request, sent twice at once, was counted meanwhile."""
        if self.d is None:
            raise AssertionError("a wrong key without D")
        credential_id = self._authorisation.credential_id
        if self._store.carried_out(credential_id, self.d, self.quantities_hash) is not None:
            again = WrongKeyBefore("this request was refused at the same moment: its key opens nothing")
            self.note_refusal(again)
            raise again from error

    def _entry(
        self,
        position: ChainPosition,
        event: Event,
        outcome: str,
        record_version: int,
        signatures: tuple[bytes, ...] = (),
    ) -> EvidenceEntry:
        authorisation, measured = self._authorisation, self.measured
        return next_entry(
            position,
            time=self._clock(),
            credential_id=authorisation.credential_id,
            event=event,
            outcome=outcome,
            record_version=record_version,
            actor=self._actor,
            d=self.d,
            nonce=authorisation.nonce,
            x=authorisation.x,
            algorithm=authorisation.algorithm,
            mode=measured.mode if measured is not None else None,
            h=measured.h if measured is not None else None,
            quantities_hash=self.quantities_hash,
            # A refused list could be long, and H says which it was.
            digests=measured.digests if measured is not None and outcome == ACCEPTED else (),
            signatures=signatures,
        )
