"""Names and frozen records that every layer shares. No I/O, no cryptography beyond constants.

Numbers are those of docs/understand/protocol.md, section 1; lengths are in bytes, integers big endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import NewType, Protocol

CredentialId = NewType("CredentialId", bytes)
"""16 random bytes; the patent's ICARa."""
WrappedKey = NewType("WrappedKey", bytes)
"""A key encrypted under another: 40 bytes for KW of 32, the token's own format for SK."""
RollingValue = NewType("RollingValue", bytes)
"""RN_x: 32 bytes from the token's generator."""
Quantity = NewType("Quantity", bytes)
"""Q_i, an authorisation quantity: 40 bytes, KW under T_i. Never logged, never stored, never in a repr."""
SpkiDer = NewType("SpkiDer", bytes)
"""PK as a DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""
Digest = NewType("Digest", bytes)
"""A message digest: 32, 48 or 64 bytes."""

CREDENTIAL_ID_LENGTH = 16
NONCE_LENGTH = 16
KEY_LENGTH = 32
KW_LENGTH = 40
ROLLING_VALUE_LENGTH = 32
MAC_LENGTH = 32
MAX_ROLLING_VALUES = 6
MAX_DIGESTS = 65535
FAILURES_BEFORE_LOCK = 5
"""Wrong keys in a row after which the credential locks (docs/understand/protocol.md, 4, PIN check 2)."""


class Scheme(IntEnum):
    """How the card's key and SK are tied together (docs/understand/protocol.md, section 3)."""

    BASIC = 1
    """Figures 3 and 4."""
    PIN = 2
    """Figures 5 and 6."""
    ROLLING = 3
    """Figures 7 to 11; the default."""


class Combine(IntEnum):
    """The patent's invertible "+" (docs/understand/protocol.md, section 1)."""

    NONE = 0
    """Scheme basic: T_1 = D_1."""
    XOR = 1
    """K XOR m; CKM_XOR_BASE_AND_DATA."""
    CBC = 2
    """AES-256-CBC_K(m), iv zero, no padding; CKM_AES_CBC_ENCRYPT_DATA."""


class Mode(IntEnum):
    """What the card hashed (docs/understand/protocol.md, section 2)."""

    MESSAGE = 1
    DIGESTS = 2


class PinPolicy(IntEnum):
    """How long a verified PIN lasts on the card (docs/understand/protocol.md, section 4)."""

    NONE = 0
    """Scheme basic: no PIN."""
    ALWAYS = 1
    """One AUTHORISE."""
    SESSION = 2
    """Until reset."""


class PinCheck(IntEnum):
    """Who tells a wrong PIN from a right one (docs/understand/protocol.md, section 4)."""

    NONE = 0
    """Scheme basic: no PIN."""
    CARD = 1
    """The card, with all 32 bytes of POWF."""
    SERVER = 2
    """The card catches 255 of 256, the server the rest; the default."""


class Status(IntEnum):
    """A credential's life."""

    PENDING = 1
    """Created; only its certificate request may be signed."""
    ACTIVE = 2
    SUSPENDED = 3
    """By an operator, until resumed."""
    LOCKED = 4
    """By five wrong keys in a row, until unlocked."""
    REVOKED = 5
    """For ever: wrap(SK) and KW_MK(KCAR) are deleted, PK stays."""


class HashName(IntEnum):
    """Hash of a signature algorithm; the value is its length in bytes."""

    SHA256 = 32
    SHA384 = 48
    SHA512 = 64

    @property
    def hashlib_name(self) -> str:
        """Name for :func:`hashlib.new`."""
        return self.name.lower()


class Algorithm(IntEnum):
    """Signature algorithms (docs/understand/protocol.md, section 1); the u16 that the card binds into D."""

    RSA_PKCS1_SHA256 = 0x0101
    RSA_PKCS1_SHA384 = 0x0102
    RSA_PKCS1_SHA512 = 0x0103
    RSA_PSS_SHA256 = 0x0111
    RSA_PSS_SHA384 = 0x0112
    RSA_PSS_SHA512 = 0x0113
    ECDSA_SHA256 = 0x0201
    ECDSA_SHA384 = 0x0202
    ECDSA_SHA512 = 0x0203
    ED25519 = 0x0301

    @property
    def cli_name(self) -> str:
        """As the command line and evidence spell it, e.g. ``ecdsa-sha256``."""
        return self.name.lower().replace("_", "-")

    @property
    def hash(self) -> HashName | None:
        """The hash the algorithm signs; None for Ed25519, which signs the message itself."""
        if self is Algorithm.ED25519:
            return None
        return (HashName.SHA256, HashName.SHA384, HashName.SHA512)[(self & 0x0F) - 1]

    @property
    def is_rsa(self) -> bool:
        """RSASSA-PKCS1-v1_5 or RSASSA-PSS."""
        return self >> 8 == 0x01

    @property
    def is_pss(self) -> bool:
        """RSASSA-PSS, salt as long as the hash, MGF1 with the same hash."""
        return self >> 4 == 0x011

    @property
    def is_ecdsa(self) -> bool:
        """ECDSA on P-256, P-384 or P-521."""
        return self >> 8 == 0x02


_RSA = tuple(a for a in Algorithm if a.is_rsa)
_ECDSA = tuple(a for a in Algorithm if a.is_ecdsa)


class KeySpec(IntEnum):
    """Key types that can be enrolled. The value is no protocol number: PK itself goes into the record."""

    P256 = 1
    P384 = 2
    P521 = 3
    RSA2048 = 4
    RSA3072 = 5
    RSA4096 = 6
    ED25519 = 7

    @property
    def cli_name(self) -> str:
        """As ``enrol --key`` takes it."""
        return self.name.lower()

    @property
    def rsa_bits(self) -> int | None:
        """Modulus length in bits; None for other keys."""
        return int(self.name[3:]) if self.name.startswith("RSA") else None

    @property
    def is_ecdsa(self) -> bool:
        """A NIST prime curve."""
        return self in (KeySpec.P256, KeySpec.P384, KeySpec.P521)

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """What a credential with this key may sign, ascending."""
        if self is KeySpec.ED25519:
            return (Algorithm.ED25519,)
        return _RSA if self.rsa_bits else _ECDSA

    @property
    def default_algorithm(self) -> Algorithm:
        """Used when the caller names none: the hash that matches the key's strength."""
        return {
            KeySpec.P256: Algorithm.ECDSA_SHA256,
            KeySpec.P384: Algorithm.ECDSA_SHA384,
            KeySpec.P521: Algorithm.ECDSA_SHA512,
            KeySpec.ED25519: Algorithm.ED25519,
        }.get(self, Algorithm.RSA_PKCS1_SHA256)


@dataclass(frozen=True, slots=True)
class CredentialRecord:
    """One credential as the store has it; the record MAC covers every field (docs/understand/protocol.md, 5).

    ``None`` means absent: in another scheme, or deleted by revocation.
    """

    format: int
    """u16, 1."""
    mac_key_id: bytes
    """8 bytes: which record MAC key made the MAC."""
    version: int
    """u64, raised by every write, 1 at enrolment: the compare-and-swap."""
    credential_id: CredentialId
    owner: str
    """The user's name."""
    status: Status
    scheme: Scheme
    combine: Combine
    pin_policy: PinPolicy
    pin_check: PinCheck
    token_serial: str
    mk_id: bytes
    """8 bytes: which MK wraps KCAR."""
    spki: SpkiDer
    algorithms: tuple[Algorithm, ...]
    """Ascending."""
    parameter: bytes | None
    """P of scheme pin: an RSA-OAEP ciphertext, or an uncompressed curve point."""
    wrapped_kcar: WrappedKey | None
    """KW_MK(KCAR), 40 bytes; None in scheme basic and when revoked."""
    wrap_mechanism: int
    """u32 CK_MECHANISM_TYPE that wraps SK."""
    wrapped_sk: WrappedKey | None
    """wrap(SK); None when revoked."""
    x: int | None
    """u64 counter of scheme rolling."""
    rn: RollingValue | None
    """RN_x."""
    rn_next: RollingValue | None
    """RN_x+1."""
    failures: int
    """u32 wrong keys in a row."""
    card_serial: bytes
    """8 bytes."""
    assurance: int
    """u8: 0, the enrolling workstation was trusted to carry the card's point."""
    request_hash: Digest | None
    """SHA-256 of the DER CertificationRequestInfo (RFC 2986, 4.1) that the first authorisation signs."""
    evidence_head: Digest | None
    """SHA-256 of the evidence entry written with this version of the record."""


@dataclass(frozen=True, slots=True)
class CredentialView:
    """What others than the server may see of a record: nothing wrapped, no challenge."""

    credential_id: CredentialId
    owner: str
    status: Status
    scheme: Scheme
    combine: Combine
    pin_policy: PinPolicy
    pin_check: PinCheck
    token_serial: str
    spki: SpkiDer
    algorithms: tuple[Algorithm, ...]
    version: int
    x: int | None
    failures: int
    card_serial: bytes
    assurance: int
    request_hash: Digest | None

    @classmethod
    def of(cls, record: CredentialRecord) -> CredentialView:
        """The record's fields of the same names."""
        return cls(**{each.name: getattr(record, each.name) for each in fields(cls)})


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A record and its MAC (32 bytes, HMAC-SHA-256 under a key that never leaves the token)."""

    record: CredentialRecord
    mac: bytes


class ByteSource(Protocol):
    """A message that can be read more than once, in pieces: bytes, or a file of any size."""

    def chunks(self) -> Iterator[bytes]:
        """The message from its beginning."""
        ...


@dataclass(frozen=True, slots=True)
class Message:
    """Mode 1: one message, all of it hashed by the card."""

    source: ByteSource


@dataclass(frozen=True, slots=True)
class DigestList:
    """Mode 2: the digests of documents the server never sees, signed in this order."""

    digests: tuple[Digest, ...]


Content = Message | DigestList


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a card needs to know to authorise; reading it changes nothing (step 880)."""

    credential_id: CredentialId
    scheme: Scheme
    x: int | None
    """None outside scheme rolling."""
    rolling_values: tuple[RollingValue, ...]
    """(RN_x, RN_x+1) for combine 2, (RN_x) for combine 1, empty outside scheme rolling."""
    algorithms: tuple[Algorithm, ...]
    """What the record allows."""
    spki: SpkiDer


@dataclass(frozen=True, slots=True)
class Authorisation:
    """The card's answer, with what it was asked (steps 482, 694, 885)."""

    credential_id: CredentialId
    algorithm: Algorithm
    x: int | None
    rolling_values: tuple[RollingValue, ...]
    nonce: bytes
    """R, 16 random bytes of the card."""
    quantities: tuple[Quantity, ...] = field(repr=False)
    """Q_1 ... Q_max(n, 1), 40 bytes each."""


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """One signature, or one batch, as it reaches the server."""

    authorisation: Authorisation
    content: Content


@dataclass(frozen=True, slots=True)
class SignOutcome:
    """What is released, after record and evidence are committed."""

    credential_id: CredentialId
    owner: str
    algorithm: Algorithm
    spki: SpkiDer
    signatures: tuple[bytes, ...]
    """One in message mode, one per digest in digest mode, same order; ECDSA in DER (RFC 3279, 2.2.3)."""
    d: Digest
    """D, the identity of the authorisation."""
    evidence_hash: Digest
    """SHA-256 of the evidence entry."""
    repeated: bool
    """True where the answer is the stored one of an earlier, equal request."""
    failures_before: int
    """Wrong keys counted since the signature before this one: somebody else may have guessed at the PIN."""

    @property
    def signature(self) -> bytes:
        """The only signature, as a message has it. Raises ValueError where digests have several."""
        (signature,) = self.signatures
        return signature


@dataclass(frozen=True, slots=True)
class NewCredential:
    """What enrolment asks for (docs/understand/protocol.md, section 7)."""

    owner: str
    scheme: Scheme
    combine: Combine
    key: KeySpec
    pin_policy: PinPolicy
    pin_check: PinCheck
    pin_tries: int
    puk_tries: int
    card_point: bytes
    """65 bytes: 04 || x || y on P-256."""
    card_serial: bytes
    """8 bytes."""


@dataclass(frozen=True, slots=True)
class CardPersonalisation:
    """What INSTALL gives to the card, all public or wrapped (docs/understand/protocol.md, section 7)."""

    credential_id: CredentialId
    scheme: Scheme
    combine: Combine
    pin_policy: PinPolicy
    pin_check: PinCheck
    pin_tries: int
    """1 to 15; 0 in scheme basic."""
    puk_tries: int
    """1 to 15; 0 in scheme basic."""
    token_point: bytes
    """65 bytes: 04 || x || y on P-256."""
    wrapped_kcar: WrappedKey | None
    """KW_K1(KCAR); None in scheme basic."""
    wrapped_kek: WrappedKey
    """KW_K2(KEY, KOWF or KEK1)."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A pending credential, and what its card must get."""

    credential: CredentialView
    personalisation: CardPersonalisation
    request_info: bytes
    """DER CertificationRequestInfo: the message of the first authorisation."""


class Event(IntEnum):
    """What an evidence entry is about."""

    SIGN = 1
    ENROL = 2
    ACTIVATE = 3
    """The signature that made a pending credential active."""
    SUSPEND = 4
    RESUME = 5
    UNLOCK = 6
    REVOKE = 7
    EXPIRE = 8
    """A pending credential given up: its record is deleted."""


ACCEPTED = "accepted"
"""Outcome of an entry that is no refusal; otherwise the refusing error's code."""


@dataclass(frozen=True, slots=True)
class EvidenceEntry:
    """One link of a credential's chain (docs/understand/protocol.md, section 5). Never Q, only its hash."""

    sequence: int
    """u64, 1 for the first of the credential, then without gap."""
    time: int
    """Microseconds since 1970-01-01T00:00:00Z."""
    credential_id: CredentialId
    event: Event
    outcome: str
    """``accepted`` or an error code of errors.py."""
    record_version: int
    """u64: version of the record that this entry wrote, or that refused it; 0 where the record itself was
    refused (MAC, age, master key)."""
    actor: str
    """Who asked: a system user or a service client."""
    previous: Digest
    """SHA-256 of the credential's previous entry; 32 zero bytes for the first."""
    d: Digest | None = None
    nonce: bytes | None = None
    x: int | None = None
    algorithm: Algorithm | None = None
    mode: Mode | None = None
    h: Digest | None = None
    quantities_hash: Digest | None = None
    """SHA-256(Q_1 || ... || Q_n)."""
    digests: tuple[bytes, ...] = ()
    """What was signed: the list of mode 2; in mode 1 the message's digest under the algorithm's hash."""
    signatures: tuple[bytes, ...] = ()
