"""One authorisation becomes signatures: steps 1 to 10 of docs/understand/protocol.md, 5 (figs 4b, 6b, 9).

:meth:`Signing.sign` is the whole of it, in order. Steps 3 to 8 happen inside the secure environment, under
the same numbers (:meth:`hsm_signer.token.environment.SecureEnvironment.sign`).
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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
    InputError,
    RecordConflict,
    RecordDamaged,
    RecordOutdated,
    Refused,
    RefusedBefore,
    SignatureInvalid,
    StoreBusy,
    StoreDamaged,
    TokenMismatch,
    WrongKey,
    WrongKeyBefore,
)
from hsm_signer.schemes import steps_of
from hsm_signer.schemes.authorise import d_of
from hsm_signer.token.environment import SigningResult
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
    Scheme,
    Sealing,
    SigningRequest,
    SignOutcome,
    Status,
)

from .refusals import Refusals

Admit = Callable[[CredentialRecord], None]
"""Whether who asks may use this credential: raises Refused. Told the record once its MAC and age held."""

MAX_COUNTING_ATTEMPTS = 20
MAX_COUNTER = 2**63 - 1
"""The highest x that a record can have: the largest integer that every database holds."""


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that steps 1 and 2 let through."""

    authorisation: Authorisation
    record: CredentialRecord
    """As it was loaded; step 9 finds out whether it still is so."""
    measured: Measured
    d: Digest
    """D, 32 bytes."""
    quantities_hash: Digest
    """SHA-256(Q_1 || ...), 32 bytes."""
    earlier: EvidenceEntry | None
    """The entry of an equal request that got as far as SK before, accepted or a wrong key; None if none did:
    then x and the RN list are the record's, too."""


class _Attempt:
    """The evidence fields of a request, as far as they are known yet."""

    def __init__(self, entry: EvidenceEntry) -> None:
        self.entry = entry
        self.counted = False
        """Its entry was written with the record, as a failure."""

    def learn(self, **fields: Any) -> None:
        """Add fields of EvidenceEntry."""
        self.entry = replace(self.entry, **fields)


class Signing(Refusals):
    """The part of the server that carries out what cards authorised."""

    def sign(self, request: SigningRequest, *, admit: Admit = lambda _: None) -> SignOutcome:
        """Carry out one authorisation, exactly once.

        ``admit`` may refuse who asks, in step 1. Every refusal of a known credential is in evidence, by an
        entry of its own or counted, but for EvidenceMissing (nothing is added to a chain that was cut); only
        a wrong key (steps 4 and 5), and in scheme basic not even that, changes the record. ``observe`` is
        told the number of each step that is done.
        Raises the refusals of steps 1 to 5 (errors.Refused, RecordDamaged, RecordOutdated, EvidenceMissing),
        InputError, TokenError, StoreError; RecordConflict means nothing was released: ask again.
        """
        attempt = self._attempt(request.authorisation)
        with self._refusal_in_evidence(attempt):
            # 1 and 2. Load the record, refuse what may not sign, look for a stored answer.
            checked = self._check(request, admit, attempt)
            if checked.earlier is not None:
                return _earlier_outcome(checked, checked.earlier)
            # 3 to 8. In the token: S, T_i, the keys from all Q_i, SK, KOWF, signatures, SK under W(V_x+1),
            # erase.
            try:
                result = self.environment.sign(
                    checked.record, checked.authorisation, checked.measured, self.observe
                )
            except WrongKey as error:
                # T_1 of scheme basic is public: whoever may ask gets this far without the card.
                if checked.record.scheme is not Scheme.BASIC:
                    self._count_failure(checked, attempt.entry, error)
                    attempt.counted = True
                raise

        # 9. One transaction: the new record, if nobody wrote it meanwhile, and the evidence.
        record = checked.record
        with self.store.changing(record.credential_id, record.version) as change:
            written = self.place(
                attempt.entry,
                change.position,
                event=Event.ACTIVATE if record.status is Status.PENDING else Event.SIGN,
                record_version=record.version + 1,
                digests=checked.measured.digests,
                signatures=result.signatures,
            )
            sealed = self.seal(record, written, status=Status.ACTIVE, failures=0, **_sealed_fields(result))
            change.write(sealed, written)
        self.remember(written)
        self.observe(9)

        # 10. Only now.
        return _outcome(checked, written.entry, repeated=False)

    def examine(self, request: SigningRequest, *, admit: Admit = lambda _: None) -> None:
        """Carry out steps 1 and 2 alone: whether :meth:`sign` would go on to the token. Changes nothing.

        For services that take an authorisation in one request and use it in the next. Leaves no evidence.
        Raises what these steps refuse; a request carried out before is none of it.
        """
        self._check(request, admit, self._attempt(request.authorisation))

    def challenge(self, credential_id: CredentialId, *, admit: Admit = lambda _: None) -> Challenge:
        """Return what the card needs for the credential's next authorisation (step 880). Changes nothing.

        Raises the refusals of step 1.
        """
        record = self.load(credential_id).sealed.record
        admit(record)
        _refuse_by_status(record)
        return Challenge(
            credential_id=record.credential_id,
            scheme=record.scheme,
            x=record.x,
            rolling_values=steps_of(record.scheme).challenge(record),
            algorithms=record.algorithms,
            spki=record.spki,
        )

    def carried_out(self, record: CredentialRecord, request: SigningRequest) -> EvidenceEntry | None:
        """Find the entry of this very request, if it got as far as SK before; None if it did not.

        Raises EvidenceDamaged where the entry's MAC does not hold.
        """
        authorisation = request.authorisation
        measured = measure(request.content, authorisation.algorithm)
        d = d_of(record, authorisation, measured.mode, measured.h)
        return self._earlier(record, d, _quantities_hash(authorisation))

    def _earlier(self, record: CredentialRecord, d: Digest, quantities_hash: Digest) -> EvidenceEntry | None:
        found = self.store.carried_out(record.credential_id, d, quantities_hash)
        if found is None:
            return None
        self.environment.check_entry(found)
        return found.entry

    def _attempt(self, authorisation: Authorisation) -> _Attempt:
        """Begin with what the request says of itself; raises InputError for what it cannot be."""
        _check_lengths(authorisation)
        draft = self.draft(authorisation.credential_id, Event.SIGN, record_version=0)
        return _Attempt(
            replace(
                draft,
                nonce=authorisation.nonce,
                x=authorisation.x,
                algorithm=authorisation.algorithm,
                quantities_hash=_quantities_hash(authorisation),
            )
        )

    def _check(self, request: SigningRequest, admit: Admit, attempt: _Attempt) -> CheckedRequest:
        """Carry out steps 1 and 2; ``attempt`` learns what they find out. Raises what they refuse."""
        # 1. Load the record, check its MAC, refuse what may not sign.
        authorisation = request.authorisation
        record = self.load(authorisation.credential_id).sealed.record
        attempt.learn(record_version=record.version)
        admit(record)
        _refuse_by_status(record)
        self.observe(1)

        # 2. H, D and every D_i from what arrived, not from what the caller says they are (491, 695, 886).
        measured = measure(request.content, authorisation.algorithm)
        d = d_of(record, authorisation, measured.mode, measured.h)
        attempt.learn(d=d, mode=measured.mode, h=measured.h)
        _refuse_unsuitable(record, authorisation, measured)
        quantities_hash = _quantities_hash(authorisation)
        earlier = self._earlier(record, d, quantities_hash)
        if earlier is not None and earlier.outcome == CredentialPending.code:
            raise RefusedBefore(
                "this was refused before, while the enrolment was not finished: it stays refused",
                hint="sign again, with a new authorisation by the card",
            )
        if earlier is None:
            _refuse_stale(record, authorisation)
            self.observe(2)
        return CheckedRequest(authorisation, record, measured, d, quantities_hash, earlier)

    @contextmanager
    def _refusal_in_evidence(self, attempt: _Attempt) -> Iterator[None]:
        """Leave an entry that changes no record, or count, where the body is refused."""
        try:
            yield
        except CredentialUnknown:
            raise  # there is no chain to write to
        except (Refused, RecordDamaged, RecordOutdated, TokenMismatch) as error:
            if not attempt.counted:
                self.write_refusal(attempt.entry, error.code)
            raise

    def _count_failure(self, checked: CheckedRequest, draft: EvidenceEntry, error: WrongKey) -> None:
        """Write one more failure into the record, the lock after the fifth in a row, and the entry.

        Whoever signs at the same time must not make a failure go uncounted: it is counted on the record as it
        then is. Raises WrongKeyBefore where the same request was counted meanwhile, StoreBusy where counting
        does not succeed.
        """
        for _ in range(MAX_COUNTING_ATTEMPTS):
            record = self.load(checked.record.credential_id).sealed.record
            # After the record: whoever counts this request later than this look writes the record, too.
            if self._earlier(record, checked.d, checked.quantities_hash) is not None:
                raise WrongKeyBefore(
                    "this request was refused at the same moment: its key opens nothing"
                ) from error
            failures = record.failures + 1
            locks = record.status is Status.ACTIVE and failures >= FAILURES_BEFORE_LOCK
            status = Status.LOCKED if locks else record.status
            try:
                with self.store.changing(record.credential_id, record.version) as change:
                    written = self.place(
                        draft, change.position, outcome=error.code, record_version=record.version + 1
                    )
                    change.write(self.seal(record, written, failures=failures, status=status), written)
            except RecordConflict:
                continue
            self.remember(written)
            left = FAILURES_BEFORE_LOCK - failures
            error.hint = (
                "the credential is locked now: an operator can end that with hsm-signer credential unlock"
                if left <= 0
                else f"probably a mistyped PIN that the card could not tell; {left} more and it locks"
            )
            return
        raise StoreBusy("a wrong key could not be counted: the record is written all the time") from error


def _refuse_by_status(record: CredentialRecord) -> None:
    """Raise for revoked, suspended and locked credentials (step 1)."""
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


def _check_lengths(authorisation: Authorisation) -> None:
    """Raise InputError, naming the field, for anything of the wrong length and an x that cannot be."""
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
        allowed = ", ".join(algorithm.value for algorithm in record.algorithms)
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


def _quantities_hash(authorisation: Authorisation) -> Digest:
    """Hash the quantities for the evidence: SHA-256(Q_1 || ...)."""
    return Digest(hashlib.sha256(b"".join(authorisation.quantities)).digest())


def _sealed_fields(result: SigningResult) -> dict[str, Any]:
    """Make the record's secret fields after a signature: sealing 2, and SK wrapped anew where it was."""
    sealed = {"sealing": Sealing.TOKEN, "wrapped_seal": result.wrapped_seal}
    if (rewrapped := result.rewrapped) is None:
        return sealed
    return sealed | {
        "wrapped_sk": rewrapped.wrapped_sk,
        "x": rewrapped.x,
        "rn": rewrapped.rn,
        "rn_next": rewrapped.rn_next,
    }


def _earlier_outcome(checked: CheckedRequest, earlier: EvidenceEntry) -> SignOutcome:
    """Repeat a lost answer: the signatures in the evidence, once they verify for this message.

    Raises WrongKeyBefore for a request that was refused for its key: the very same one is no new guess, and
    whoever caught it on its way cannot lock anybody with it. Raises StoreDamaged.
    """
    if earlier.outcome != ACCEPTED:
        raise WrongKeyBefore("this request was refused before: its key does not open the private key")
    measured = checked.measured
    verify = algorithms.verifier(checked.record.spki, checked.authorisation.algorithm)
    try:
        for signed, signature in zip(
            measured.digests or (measured.message or b"",), earlier.signatures, strict=True
        ):
            verify(signed, signature)
    except (SignatureInvalid, ValueError) as error:
        raise StoreDamaged(
            "this was signed before, but the stored signatures do not verify",
            hint="run `hsm-signer audit verify`",
        ) from error
    return _outcome(checked, earlier, repeated=True)


def _outcome(checked: CheckedRequest, entry: EvidenceEntry, *, repeated: bool) -> SignOutcome:
    return SignOutcome(
        credential_id=checked.record.credential_id,
        owner=checked.record.owner,
        algorithm=checked.authorisation.algorithm,
        spki=checked.record.spki,
        signatures=entry.signatures,
        d=checked.d,
        evidence_hash=entry_hash(entry),
        repeated=repeated,
        failures_before=0 if repeated else checked.record.failures,
    )
