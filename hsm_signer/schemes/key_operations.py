"""What a scheme may ask of the secure environment: key operations without PKCS#11.

A :class:`Key` is opaque and lives as long as its workspace. No operation gives a key's bytes. The token room
implements :class:`Workspace`; section 6 of docs/understand/protocol.md says which attributes each key gets.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from hsm_signer.types import Combine, Digest, Quantity, RollingValue, WrappedKey


class Key(Protocol):
    """A session object on the token."""

    @property
    def handle(self) -> int:
        """CK_OBJECT_HANDLE, for counting and traces only."""
        ...


class KeyPair(Protocol):
    """A freshly generated SK and PK, both session objects."""

    @property
    def private(self) -> Key:
        """SK: SIGN, EXTRACTABLE; in scheme pin also UNWRAP (RSA) or DERIVE (EC)."""
        ...

    @property
    def public(self) -> Key:
        """PK."""
        ...


class KekUse(Enum):
    """The one thing a key encrypting key may do once it is on the token."""

    UNWRAP_SK = "unwrap SK"
    """W(K); for a record of sealing 1 K itself."""
    WRAP_SK = "wrap SK"
    """W(K), always."""
    COMPARE = "compare by CMAC"
    ROLL = "become V_x+1 by XOR"


class Workspace(Protocol):
    """Key operations; every key made here is destroyed when the workspace ends."""

    def random(self, length: int) -> bytes:
        """``length`` bytes from the token's generator."""
        ...

    # signing

    def unwrap_kcar(self, wrapped: WrappedKey, combine: Combine) -> Key:
        """KCAR from KW_MK(KCAR)."""
        ...

    def transient(self, kcar: Key, combine: Combine, d_i: Digest) -> Key:
        """T_i = combine(KCAR, D_i)."""
        ...

    def public_transient(self, d_1: Digest) -> Key:
        """T_1 = D_1 of scheme basic: public bytes, the one import there is."""
        ...

    def open_quantity(self, t: Key, q: Quantity, use: KekUse) -> Key:
        """The key inside Q_i, or what ``use`` makes of it; AuthorisationMismatch where Q_i does not open."""
        ...

    def recompute_kowf(self, sk: Key, parameter: bytes) -> Key:
        """KOWF(SK, P), for comparison only."""
        ...

    def same_key(self, one: Key, other: Key) -> bool:
        """Whether two COMPARE keys are equal, by a CMAC of a fresh random block under each."""
        ...

    def roll_by_xor(self, v: Key, difference: bytes) -> Key:
        """W(V_x+1) for V_x+1 = V_x XOR difference (32 bytes), to wrap SK (combine 1; steps 891 to 893)."""
        ...

    def wrap_sk(self, w: Key, sk: Key) -> WrappedKey:
        """wrap_W(SK)."""
        ...

    def sealed(self, kek: Key) -> Key:
        """W(K) = CBC_K(Y), to wrap SK: it takes the card's key and this token's S to make it again."""
        ...

    # enrolment

    def new_kcar(self, combine: Combine) -> Key:
        """A fresh KCAR, extractable so that it can go to the card and the store."""
        ...

    def new_key(self) -> Key:
        """A fresh KEY of scheme basic: gives W(KEY), extractable so that it can go to the card."""
        ...

    def new_kek1(self, combine: Combine) -> Key:
        """A fresh KEK1 of scheme rolling, extractable so that it can go to the card."""
        ...

    def variant(self, kek1: Key, combine: Combine, rn: RollingValue) -> Key:
        """V = combine(KEK1, RN), which gives W(V) (step 754)."""
        ...

    def new_parameter(self, pair: KeyPair) -> bytes:
        """P of scheme pin: 01 or 02 (SHA-1, SHA-256) || RSA-OAEP_PK(32 random bytes), or a random point of
        SK's curve (04 || x || y)."""
        ...

    def first_kowf(self, pair: KeyPair, parameter: bytes) -> Key:
        """KOWF(SK, P), which gives W(KOWF), extractable so that it can go to the card."""
        ...

    def wrap_kcar(self, kcar: Key) -> WrappedKey:
        """KW_MK(KCAR), 40 bytes."""
        ...
