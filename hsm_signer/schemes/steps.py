"""The shape all three schemes share: challenge, create, and steps 3, 5 and 7 of a signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hsm_signer.types import Combine, CredentialRecord, Digest, Quantity, RollingValue, Scheme, WrappedKey

from .key_operations import Key, KeyPair, Workspace

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Recovered:
    """Keys out of **all** Q_i (step 3). Until every one has opened, SK stays wrapped."""

    unwraps_sk: Key
    compares: Key | None = None
    """The received KOWF once more, for step 5 (scheme pin)."""
    wraps_next: Key | None = None
    """What SK is wrapped under in step 7: W(V_x+1) (scheme rolling, combine 2); W(KOWF) or W(KEY) where a
    record of sealing 1 gets sealing 2."""
    rolls: Key | None = None
    """V_x once more, for step 7 (scheme rolling, combine 1)."""


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What a signature changes in the record (steps 892 to 896); outside scheme rolling only wrap(SK)."""

    wrapped_sk: WrappedKey
    x: int | None = None
    rn: RollingValue | None = None
    rn_next: RollingValue | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """What a scheme adds to a new record, and the keys the card must get (steps 751 to 755)."""

    kek: Key
    """KEY, KOWF or KEK1: goes to the card under K_2."""
    kcar: Key | None
    """Goes to the card under K_1; None in scheme basic."""
    wrapped_sk: WrappedKey
    wrapped_kcar: WrappedKey | None = None
    parameter: bytes | None = None
    x: int | None = None
    rn: RollingValue | None = None
    rn_next: RollingValue | None = None


class SchemeSteps(Protocol):
    """One scheme of docs/understand/protocol.md, section 3."""

    scheme: Scheme
    sk_extractable: bool
    """Whether SK must leave the token wrapped again after a signature."""
    sk_gives_kowf: bool
    """Whether SK also computes KOWF."""

    def challenge(self, record: CredentialRecord) -> tuple[RollingValue, ...]:
        """The RN list a card must use for this record."""
        ...

    def recover(
        self,
        workspace: Workspace,
        record: CredentialRecord,
        position_digests: Sequence[Digest],
        quantities: Sequence[Quantity],
    ) -> Recovered:
        """Step 3; raises AuthorisationMismatch."""
        ...

    def check(self, workspace: Workspace, record: CredentialRecord, sk: Key, keys: Recovered) -> None:
        """Step 5; raises WrongKey."""
        ...

    def rewrap(
        self, workspace: Workspace, record: CredentialRecord, sk: Key, keys: Recovered
    ) -> Rewrapped | None:
        """Step 7; None where wrap(SK) stays as it is."""
        ...

    def create(self, workspace: Workspace, pair: KeyPair, combine: Combine) -> Created:
        """Step 2 of enrolment."""
        ...


def rewrap_once(workspace: Workspace, sk: Key, keys: Recovered) -> Rewrapped | None:
    """Step 7 outside scheme rolling: wrap SK again only where its record gets sealing 2."""
    if keys.wraps_next is None:
        return None
    return Rewrapped(workspace.wrap_sk(keys.wraps_next, sk))


def need(value: _T | None, field: str) -> _T:
    """A field the record's scheme must have; the record's MAC held, so its absence is our own error."""
    if value is None:
        raise AssertionError(f"record without {field}")
    return value
