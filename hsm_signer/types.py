"""The entities that every layer shares, each defined once: names, types and bounds of its fields.

From these definitions come the JSON of the service and of the command line with its schema
(core/json_codec.py), the encoding between front and workers (service/wire) and the checks of rows read from
the store (store/rows.py). No I/O, no cryptography beyond constants.

Numbers are those of docs/understand/protocol.md, section 1; lengths are in bytes, integers big endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, NewType, Protocol, Self

from msgspec import Meta, Struct, structs

CREDENTIAL_ID_LENGTH = 16
NONCE_LENGTH = 16
KEY_LENGTH = 32
KEY_ID_LENGTH = 8
INSTALLATION_ID_LENGTH = 8
KW_LENGTH = 40
ROLLING_VALUE_LENGTH = 32
MAC_LENGTH = 32
HASH_LENGTH = 32
"""SHA-256."""
DIGEST_LENGTHS = (32, 48, 64)
"""Of what is signed: SHA-256, SHA-384, SHA-512."""
POINT_LENGTH = 65
"""An uncompressed point on P-256: 04 || x || y."""
SERIAL_LENGTH = 8
"""A card's serial."""
COMPRESSED_POINT_LENGTH = 33
"""A compressed point on P-256: 02 or 03, x."""
RAW_SIGNATURE_LENGTH = 64
"""ECDSA on P-256 as r || s."""
ORIGIN_CERTIFICATE_LENGTH = COMPRESSED_POINT_LENGTH + RAW_SIGNATURE_LENGTH
ORIGIN_LENGTH = ORIGIN_CERTIFICATE_LENGTH + RAW_SIGNATURE_LENGTH
"""A card's certificate of origin and its proof (docs/understand/apdu.md, Origin)."""
MAX_BLOB = 65535
"""Bytes of a key, public or wrapped, or of a certificate; RSA-4096 needs some 2400."""
MAX_SIGNATURE = 8192
"""Bytes of one signature."""
MAX_TRIES = 15
"""Of PIN or PUK."""
MAX_CERTIFICATES = 10
"""In one chain."""
MAX_OWNER = 255
"""Characters of a user's name."""
MAX_TEXT = 1024
"""Characters of any other text in a record or an entry."""
MAX_U64 = 2**63 - 1
"""The largest u64 that is ever written: the databases hold no larger integer."""
MAX_TIME = 253_402_300_799_999_999
"""The last microsecond of the year 9999: RFC 3339 has no later time."""
MAX_ROLLING_VALUES = 6
MAX_DIGESTS = 65535
FAILURES_BEFORE_LOCK = 5
"""Wrong keys in a row after which the credential locks (docs/understand/protocol.md, 4, PIN check 2)."""


# --- values ------------------------------------------------------------------------------------------------


IN_JSON = "x-json"
"""Where a Meta keeps the schema of a field's JSON, if that is not of the type the field has in Python."""


def _hexadecimal(*lengths: int) -> Meta:
    """Bytes that people compare: hexadecimal digits in JSON."""
    ways = [f"[0-9a-f]{{{2 * length}}}" for length in lengths]
    pattern = f"^(?:{'|'.join(ways)})$" if len(ways) > 1 else f"^{ways[0]}$"
    return Meta(
        min_length=min(lengths),
        max_length=max(lengths),
        extra={"json": "hexadecimal", "lengths": lengths},
        extra_json_schema={IN_JSON: {"type": "string", "pattern": pattern}},
    )


# Base64 as RFC 4648, section 4, has it, padding bits zero: each value has one spelling.
_BASE64_ENDS = ("", "[A-Za-z0-9+/][AQgw]==", "[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=")


def _base64(length: int, longest: int | None = None) -> Meta:
    """Other bytes, ``length`` of them, or ``length`` to ``longest``: base64 with padding in JSON."""
    if longest is None:
        pattern = f"^[A-Za-z0-9+/]{{{length // 3 * 4}}}{_BASE64_ENDS[length % 3]}$"
    else:
        pattern = f"^(?:[A-Za-z0-9+/]{{4}})*(?:{_BASE64_ENDS[1]}|{_BASE64_ENDS[2]})?$"
    return Meta(min_length=length, max_length=longest or length, extra_json_schema={"pattern": pattern})


_DECIMAL = {IN_JSON: {"type": "string", "pattern": "^(?:0|[1-9][0-9]{0,18})$"}}
# Not with "format": clients made of the schema would write a time in another spelling than it came in.
_TIME = {
    IN_JSON: {
        "type": "string",
        "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{6}Z$",
        "description": "RFC 3339, in UTC, with microseconds.",
    }
}
_NO_NUL = r"^[^\x00]*$"
_NO_CONTROLS = r"^[^\x00-\x1f\x7f]*$"

U8 = Annotated[int, Meta(ge=0, le=0xFF)]
U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
U64 = Annotated[int, Meta(ge=0, le=MAX_U64, extra_json_schema=_DECIMAL)]
"""In JSON text of decimal digits: JavaScript's numbers end at 2**53."""
Ordinal = Annotated[int, Meta(ge=1, le=MAX_U64, extra_json_schema=_DECIMAL)]
"""A u64 that counts from 1."""
Time = Annotated[int, Meta(ge=0, le=MAX_TIME, extra={"json": "time"}, extra_json_schema=_TIME)]
"""Microseconds since 1970-01-01T00:00:00Z; in JSON RFC 3339 in UTC."""
Tries = Annotated[int, Meta(ge=0, le=MAX_TRIES)]
Text = Annotated[str, Meta(max_length=MAX_TEXT, pattern=_NO_NUL)]
Code = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT, pattern=_NO_NUL)]
Owner = Annotated[str, Meta(min_length=1, max_length=MAX_OWNER, pattern=_NO_CONTROLS)]
"""A user's name; core/owners.py says what else it may not be."""
KeyId = Annotated[bytes, _hexadecimal(KEY_ID_LENGTH)]
InstallationId = Annotated[bytes, _hexadecimal(INSTALLATION_ID_LENGTH)]
PackedKey = Annotated[bytes, _hexadecimal(KEY_ID_LENGTH + 2)]
"""A token key in an installation's record: u8 kind || id(8) || u8 state."""
CardSerial = Annotated[bytes, _hexadecimal(SERIAL_LENGTH)]
Nonce = Annotated[bytes, _base64(NONCE_LENGTH)]
Point = Annotated[bytes, _base64(POINT_LENGTH)]
CardOrigin = Annotated[bytes, _base64(ORIGIN_LENGTH)]
"""The certificate of origin and the proof of origin of a card, joined."""
Mac = Annotated[bytes, _base64(MAC_LENGTH)]
Der = Annotated[bytes, _base64(1, MAX_BLOB)]
Signature = Annotated[bytes, _base64(1, MAX_SIGNATURE)]

CredentialId = NewType("CredentialId", Annotated[bytes, _hexadecimal(CREDENTIAL_ID_LENGTH)])
"""16 random bytes; the patent's ICARa."""
WrappedKey = NewType("WrappedKey", bytes)
"""A key encrypted under another: 40 bytes for KW of 32, the token's own format for SK."""
RollingValue = NewType("RollingValue", Annotated[bytes, _base64(ROLLING_VALUE_LENGTH)])
"""RN_x: 32 bytes from the token's generator."""
Quantity = NewType("Quantity", Annotated[bytes, _base64(KW_LENGTH)])
"""Q_i, an authorisation quantity: 40 bytes, KW under T_i. Never logged, never stored, never in a repr."""
SpkiDer = NewType("SpkiDer", Annotated[bytes, _base64(1, MAX_BLOB)])
"""PK as a DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""
FINGERPRINT_PATTERN = "^[0-9a-f]{4}(?:-[0-9a-f]{4}){9}$"
Fingerprint = NewType("Fingerprint", Annotated[str, Meta(pattern=FINGERPRINT_PATTERN)])
"""Of an installation's identity, as people compare it (core/identity.py)."""
Digest = NewType("Digest", bytes)
"""A message digest: 32, 48 or 64 bytes."""
AnyDigest = Annotated[Digest, _hexadecimal(*DIGEST_LENGTHS)]
Sha256 = Annotated[Digest, _hexadecimal(HASH_LENGTH)]
KeyWrap = Annotated[WrappedKey, _base64(KW_LENGTH)]
"""KW of a key of 32 bytes (RFC 3394)."""
TokenWrap = Annotated[WrappedKey, _base64(1, MAX_BLOB)]
"""A key as the token wraps it, in its own format."""


# --- enumerations ------------------------------------------------------------------------------------------


class ProtocolEnum(Enum):
    """A choice of the protocol: its value is its public name, ``number`` what bytes and rows have."""

    _value_: str
    number: int

    def __new__(cls, name: str, number: int) -> Self:
        member = object.__new__(cls)
        member._value_ = name
        member.number = number
        return member

    @classmethod
    def named(cls, name: str) -> Self:
        """The member with this public name. Raises ValueError."""
        for member in cls:
            if member.value == name:
                return member
        raise ValueError(f"no {cls.__name__} has the name {name!a}")

    @classmethod
    def numbered(cls, number: int) -> Self:
        """The member with this number. Raises ValueError."""
        for member in cls:
            if member.number == number:
                return member
        raise ValueError(f"no {cls.__name__} has the number {number}")


class Scheme(ProtocolEnum):
    """How the card's key and SK are tied together (docs/understand/protocol.md, section 3)."""

    BASIC = "basic", 1
    """Figures 3 and 4."""
    PIN = "pin", 2
    """Figures 5 and 6."""
    ROLLING = "rolling", 3
    """Figures 7 to 11; the default."""


class Combine(ProtocolEnum):
    """The patent's invertible "+" (docs/understand/protocol.md, section 1)."""

    NONE = "none", 0
    """Scheme basic: T_1 = D_1."""
    XOR = "xor", 1
    """K XOR m; CKM_XOR_BASE_AND_DATA."""
    CBC = "cbc", 2
    """AES-256-CBC_K(m), iv zero, no padding; CKM_AES_CBC_ENCRYPT_DATA."""


class Mode(ProtocolEnum):
    """What the card hashed (docs/understand/protocol.md, section 2)."""

    MESSAGE = "message", 1
    DIGESTS = "digests", 2


class PinPolicy(ProtocolEnum):
    """How long a verified PIN lasts on the card (docs/understand/protocol.md, section 4)."""

    NONE = "none", 0
    """Scheme basic: no PIN."""
    ALWAYS = "always", 1
    """One AUTHORISE."""
    SESSION = "session", 2
    """Until reset."""


class PinCheck(ProtocolEnum):
    """Who tells a wrong PIN from a right one (docs/understand/protocol.md, section 4)."""

    NONE = "none", 0
    """Scheme basic: no PIN."""
    CARD = "card", 1
    """The card, with all 32 bytes of POWF."""
    SERVER = "server", 2
    """The card catches 255 of 256, the server the rest; the default."""


class Sealing(ProtocolEnum):
    """What it takes to open wrap(SK) (docs/understand/protocol.md, section 3)."""

    CARD = "card", 1
    """The card's key alone; only records made by older versions, until their next signature."""
    TOKEN = "token", 2
    """The card's key and S, a secret of this credential that never leaves the token in clear."""


class Status(ProtocolEnum):
    """A credential's life."""

    PENDING = "pending", 1
    """Created; only its certificate request may be signed."""
    ACTIVE = "active", 2
    SUSPENDED = "suspended", 3
    """By an operator, until resumed."""
    LOCKED = "locked", 4
    """By five wrong keys in a row, until unlocked."""
    REVOKED = "revoked", 5
    """For ever: wrap(SK), KW_MK(KCAR) and KW_MK(S) are deleted, PK stays."""


class SuspendedBy(ProtocolEnum):
    """Whose suspension it is: a registrar cannot end an administrator's."""

    NOBODY = "nobody", 0
    REGISTRAR = "registrar", 1
    ADMIN = "admin", 2
    """An administrator of the service, or the operator at the server itself."""


class HashName(Enum):
    """Hash of a signature algorithm; the value is its name for :func:`hashlib.new`."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def length(self) -> int:
        """Bytes of a digest."""
        return int(self.value[3:]) // 8


class Algorithm(ProtocolEnum):
    """Signature algorithms (docs/understand/protocol.md, section 1); the u16 that the card binds into D."""

    RSA_PKCS1_SHA256 = "rsa-pkcs1-sha256", 0x0101
    RSA_PKCS1_SHA384 = "rsa-pkcs1-sha384", 0x0102
    RSA_PKCS1_SHA512 = "rsa-pkcs1-sha512", 0x0103
    RSA_PSS_SHA256 = "rsa-pss-sha256", 0x0111
    RSA_PSS_SHA384 = "rsa-pss-sha384", 0x0112
    RSA_PSS_SHA512 = "rsa-pss-sha512", 0x0113
    ECDSA_SHA256 = "ecdsa-sha256", 0x0201
    ECDSA_SHA384 = "ecdsa-sha384", 0x0202
    ECDSA_SHA512 = "ecdsa-sha512", 0x0203
    ED25519 = "ed25519", 0x0301

    @property
    def hash(self) -> HashName | None:
        """The hash the algorithm signs; None for Ed25519, which signs the message itself."""
        if self is Algorithm.ED25519:
            return None
        return (HashName.SHA256, HashName.SHA384, HashName.SHA512)[(self.number & 0x0F) - 1]

    @property
    def is_rsa(self) -> bool:
        """RSASSA-PKCS1-v1_5 or RSASSA-PSS."""
        return self.number >> 8 == 0x01

    @property
    def is_pss(self) -> bool:
        """RSASSA-PSS, salt as long as the hash, MGF1 with the same hash."""
        return self.number >> 4 == 0x011

    @property
    def is_ecdsa(self) -> bool:
        """ECDSA on P-256, P-384 or P-521."""
        return self.number >> 8 == 0x02


_RSA = tuple(algorithm for algorithm in Algorithm if algorithm.is_rsa)
_ECDSA = tuple(algorithm for algorithm in Algorithm if algorithm.is_ecdsa)


class KeySpec(Enum):
    """Key types that can be enrolled. No protocol number: the record holds PK itself."""

    P256 = "p256"
    P384 = "p384"
    P521 = "p521"
    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"
    ED25519 = "ed25519"

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
        """Every algorithm that fits this key, ascending."""
        if self is KeySpec.ED25519:
            return (Algorithm.ED25519,)
        return _RSA if self.rsa_bits else _ECDSA

    @property
    def default_algorithms(self) -> tuple[Algorithm, ...]:
        """What a new credential with this key may sign where nobody asks for more, ascending.

        Of ECDSA those whose hash is no longer than the curve's order: of a longer one only the leftmost bits
        are signed (FIPS 186-5, 6.4.1), and another document's digest may begin with them.
        """
        if not self.is_ecdsa:
            return self.algorithms
        bits = int(self.name[1:])
        return tuple(
            algorithm
            for algorithm in self.algorithms
            if algorithm.hash is not None and 8 * algorithm.hash.length <= bits
        )

    @property
    def default_algorithm(self) -> Algorithm:
        """Used when the caller names none: the hash that matches the key's strength."""
        return {
            KeySpec.P256: Algorithm.ECDSA_SHA256,
            KeySpec.P384: Algorithm.ECDSA_SHA384,
            KeySpec.P521: Algorithm.ECDSA_SHA512,
            KeySpec.ED25519: Algorithm.ED25519,
        }.get(self, Algorithm.RSA_PKCS1_SHA256)


class Event(ProtocolEnum):
    """What an evidence entry is about."""

    SIGN = "sign", 1
    ENROL = "enrol", 2
    ACTIVATE = "activate", 3
    """The signature that made a pending credential active."""
    SUSPEND = "suspend", 4
    RESUME = "resume", 5
    UNLOCK = "unlock", 6
    REVOKE = "revoke", 7
    EXPIRE = "expire", 8
    """A pending credential given up: its record is deleted."""
    REFUSALS = "refusals", 14
    """Several refusals that have no entry of their own; ``x`` says how many."""
    CERTIFICATES = "certificates", 10
    """Other certificates are kept for the credential."""
    BEGIN = "begin", 20
    """The installation's own first entry."""
    CLIENT_ADDED = "client-added", 30
    CLIENT_REMOVED = "client-removed", 31
    SETTINGS = "settings", 34
    """A service runs with other settings than the last one did."""
    ASKED = "asked", 35
    """A client asks for an act that needs a second one's word; ``x`` is the number of the act's event."""


class TokenKeyKind(ProtocolEnum):
    """What a key on the token is for."""

    MASTER = "master", 1
    """MK: wraps KCAR and S of every credential."""
    RECORD_MAC = "record-mac", 2
    """Seals records and evidence."""
    IDENTITY = "identity", 6
    """ECDSA P-256: signs what others have to believe of this installation."""


class TokenKeyState(ProtocolEnum):
    """Where a key on the token is in its life."""

    ACTIVE = "active", 1
    RETIRING = "retiring", 2
    """Another one is active; rows still hang on this one."""
    ENDING = "ending", 3
    """No row hangs on it any more; it is being destroyed."""


# --- entities ----------------------------------------------------------------------------------------------

PUBLIC_NAMES = {
    "spki": "public_key",
    "x": "counter",
    "d": "authorisation_digest",
    "h": "message_hash",
}
"""Attributes that the protocol's own letters name -> how everybody else reads them."""
RollingValues = Annotated[tuple[RollingValue, ...], Meta(max_length=MAX_ROLLING_VALUES)]
Quantities = Annotated[tuple[Quantity, ...], Meta(min_length=1, max_length=MAX_ROLLING_VALUES)]
Algorithms = Annotated[tuple[Algorithm, ...], Meta(min_length=1, max_length=len(Algorithm))]


class Credential(Struct, frozen=True, forbid_unknown_fields=True, rename=PUBLIC_NAMES):
    """What record and view of a credential share: nothing wrapped, no challenge."""

    credential_id: CredentialId
    owner: Owner
    """The user's name."""
    status: Status
    scheme: Scheme
    combine: Combine
    pin_policy: PinPolicy
    pin_check: PinCheck
    token_serial: Text
    spki: SpkiDer
    """PK, a DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""
    algorithms: Algorithms
    """What the key may sign, ascending."""
    version: Ordinal
    """Raised by every write, 1 at enrolment."""
    x: U64 | None
    """Counter of scheme rolling; none in other schemes."""
    failures: U32
    """Wrong keys in a row."""
    card_serial: CardSerial
    assurance: U8
    """0: the workstation was trusted to carry the card's point; 1: the card's origin was checked."""
    request_hash: Sha256 | None
    """SHA-256 of the DER CertificationRequestInfo (RFC 2986, 4.1) that the first authorisation signs."""


class CredentialView(Credential, frozen=True):
    """A credential as others than the server may see it: nothing wrapped, no challenge."""

    @classmethod
    def of(cls, credential: Credential) -> CredentialView:
        """What may be seen of a record."""
        return cls(*[getattr(credential, name) for name in cls.__struct_fields__])


class CredentialRecord(Credential, frozen=True):
    """One credential as the store has it; the record MAC covers every field (docs/understand/protocol.md, 5).

    ``None`` means absent: in another scheme, or deleted by revocation.
    """

    format: Annotated[int, Meta(ge=1, le=2)]
    """2; 1 in rows of older versions, which say nothing in the fields from ``sealing`` on."""
    mac_key_id: KeyId
    """Which record MAC key made the MAC."""
    mk_id: KeyId
    """Which MK wraps KCAR."""
    parameter: Der | None
    """P of scheme pin: an RSA-OAEP ciphertext, or an uncompressed curve point."""
    wrapped_kcar: KeyWrap | None
    """KW_MK(KCAR), 40 bytes; None in scheme basic and when revoked."""
    wrap_mechanism: U32
    """CK_MECHANISM_TYPE that wraps SK."""
    wrapped_sk: TokenWrap | None
    """wrap(SK); None when revoked."""
    rn: RollingValue | None
    """RN_x."""
    rn_next: RollingValue | None
    """RN_x+1."""
    evidence_head: Sha256 | None
    """SHA-256 of the evidence entry written with this version of the record."""
    sealing: Sealing
    """What it takes to open ``wrapped_sk``."""
    wrapped_seal: KeyWrap | None
    """KW_MK(S), 40 bytes; None at sealing 1 and when revoked."""
    card_point: Point | None
    """The card's point at enrolment; None in records of format 1."""
    enrolment_proof: Sha256 | None
    """SHA-256 of the identity key's signature over the enrolment; None in records of format 1."""
    suspended_by: SuspendedBy
    """Who has to end a suspension."""

    @property
    def opens_with_card_alone(self) -> bool:
        """Whether there is a wrap(SK) of sealing 1; it gets sealing 2 at the next signature."""
        return self.wrapped_sk is not None and self.sealing is Sealing.CARD


class SealedRecord(Struct, frozen=True):
    """A record and its MAC (32 bytes, HMAC-SHA-256 under a key that never leaves the token)."""

    record: CredentialRecord
    mac: Mac


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


class Challenge(Struct, frozen=True, forbid_unknown_fields=True, rename=PUBLIC_NAMES):
    """What a card needs to know to authorise; reading it changes nothing (step 880)."""

    credential_id: CredentialId
    scheme: Scheme
    x: U64 | None
    """None outside scheme rolling."""
    rolling_values: RollingValues
    """(RN_x, RN_x+1) for combine cbc, (RN_x) for combine xor, empty outside scheme rolling."""
    algorithms: Algorithms
    """What the record allows."""
    spki: SpkiDer
    """PK, a DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""


class CardAnswer(Struct, frozen=True, forbid_unknown_fields=True, rename=PUBLIC_NAMES):
    """The card's answer, with what it was asked (steps 482, 694, 885)."""

    algorithm: Algorithm
    x: U64 | None
    """As the challenge has it; none outside scheme rolling."""
    rolling_values: RollingValues
    """As the challenge has them."""
    nonce: Nonce
    """R, 16 random bytes of the card."""
    quantities: Quantities
    """Q_1 ... Q_max(n, 1)."""

    def __repr__(self) -> str:
        """Without the quantities."""
        shown = (name for name in self.__struct_fields__ if name != "quantities")
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


class Authorisation(CardAnswer, frozen=True):
    """The card's answer, with what it was asked and of which credential."""

    credential_id: CredentialId

    @classmethod
    def of(cls, credential_id: CredentialId, answer: CardAnswer) -> Authorisation:
        """``answer`` as one of the card that holds ``credential_id``."""
        return cls(**structs.asdict(answer), credential_id=credential_id)

    @property
    def answer(self) -> CardAnswer:
        """Without the credential: what goes where the credential is named already."""
        return CardAnswer(*structs.astuple(self)[:-1])


@dataclass(frozen=True, slots=True)
class SigningRequest:
    """One signature, or one batch, as it reaches the server."""

    authorisation: Authorisation
    content: Content


class SignOutcome(Struct, frozen=True, forbid_unknown_fields=True, rename=PUBLIC_NAMES):
    """What is released, after record and evidence are committed."""

    credential_id: CredentialId
    owner: Owner
    algorithm: Algorithm
    spki: SpkiDer
    """PK, a DER SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""
    signatures: Annotated[tuple[Signature, ...], Meta(min_length=1, max_length=MAX_DIGESTS)]
    """One in message mode, one per digest in digest mode, same order; ECDSA in DER (RFC 3279, 2.2.3)."""
    d: Sha256
    """D, the identity of the authorisation."""
    evidence_hash: Sha256
    """SHA-256 of the evidence entry."""
    repeated: bool
    """True where the answer is the stored one of an earlier, equal request."""
    failures_before: U32
    """Wrong keys counted since the signature before this one: somebody else may have guessed at the PIN."""

    @property
    def signature(self) -> bytes:
        """The only signature, as a message has it. Raises ValueError where digests have several."""
        (signature,) = self.signatures
        return signature


class NewCredential(Struct, frozen=True, forbid_unknown_fields=True):
    """What enrolment asks for (docs/understand/protocol.md, section 7)."""

    owner: Owner
    scheme: Scheme
    combine: Combine
    key: KeySpec
    pin_policy: PinPolicy
    pin_check: PinCheck
    pin_tries: Tries
    """1 to 15; 0 in scheme basic."""
    puk_tries: Tries
    """1 to 15; 0 in scheme basic."""
    card_point: Point
    """The blank card's point on P-256: 04 || x || y."""
    card_serial: CardSerial
    card_origin: CardOrigin | None = None
    """What the card proves of its origin; none of a card that was never issued."""
    more_algorithms: Annotated[tuple[Algorithm, ...], Meta(max_length=len(Algorithm))] = ()
    """What the key may sign besides what its type may by default, by explicit choice: ECDSA with a hash that
    is longer than the curve's order."""

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """What the record will allow, ascending."""
        wanted = {*self.key.default_algorithms, *self.more_algorithms}
        return tuple(sorted(wanted, key=lambda algorithm: algorithm.number))


class CardPersonalisation(Struct, frozen=True, forbid_unknown_fields=True):
    """What INSTALL gives to the card, all public or wrapped (docs/understand/protocol.md, section 7)."""

    credential_id: CredentialId
    scheme: Scheme
    combine: Combine
    pin_policy: PinPolicy
    pin_check: PinCheck
    pin_tries: Tries
    """1 to 15; 0 in scheme basic."""
    puk_tries: Tries
    """1 to 15; 0 in scheme basic."""
    token_point: Point
    """The token's point on P-256: 04 || x || y."""
    wrapped_kcar: KeyWrap | None
    """KW_K1(KCAR); None in scheme basic."""
    wrapped_kek: KeyWrap
    """KW_K2(KEY, KOWF or KEK1)."""


class InstallationSignature(Struct, frozen=True, forbid_unknown_fields=True, rename=PUBLIC_NAMES):
    """A statement's signature by the installation's own key, its identity."""

    installation_id: InstallationId
    spki: SpkiDer
    """The identity's public key, P-256: a DER SubjectPublicKeyInfo. Whose it is tells its fingerprint."""
    signature: Signature
    """ECDSA over the statement's SHA-256, in DER (RFC 3279, 2.2.3)."""


class EnrolmentStarted(Struct, frozen=True, forbid_unknown_fields=True):
    """A pending credential, and what its card must get."""

    credential: CredentialView
    personalisation: CardPersonalisation
    request_info: Der
    """DER CertificationRequestInfo (RFC 2986, 4.1) as the server keeps it. A workstation makes it itself and
    compares: it is the message of the first authorisation."""
    proof: InstallationSignature
    """Of the enrolment: user, key, parameters, both points, wrapped keys (docs/understand/protocol.md, 7)."""


ACCEPTED = "accepted"
"""Outcome of an entry that is no refusal; otherwise the refusing error's code."""


class EvidenceEntry(Struct, frozen=True, forbid_unknown_fields=True, rename=PUBLIC_NAMES):
    """One link of a credential's chain (docs/understand/protocol.md, section 5). Never Q, only its hash."""

    sequence: Ordinal
    """1 for the first of the credential, then without gap."""
    time: Time
    credential_id: CredentialId
    event: Event
    outcome: Code
    """``accepted`` or an error's code."""
    record_version: U64
    """Version of the record that this entry wrote, or that refused it; 0 where the record itself was
    refused (MAC, age, master key)."""
    actor: Text
    """Who asked: a system user or a service client."""
    previous: Sha256
    """SHA-256 of the credential's previous entry; 32 zero bytes for the first."""
    d: Sha256 | None
    """D, the identity of the authorisation."""
    nonce: Nonce | None
    """R, 16 random bytes of the card."""
    x: U64 | None
    """Counter of scheme rolling; in event refusals their number."""
    algorithm: Algorithm | None
    mode: Mode | None
    h: Sha256 | None
    """H, what the card hashed: the message, or the list of digests."""
    quantities_hash: Sha256 | None
    """SHA-256(Q_1 || ... || Q_n)."""
    digests: Annotated[tuple[AnyDigest, ...], Meta(max_length=MAX_DIGESTS)]
    """What was signed: the list of mode digests; in mode message its digest under the algorithm's hash."""
    signatures: Annotated[tuple[Signature, ...], Meta(max_length=MAX_DIGESTS)]


class SealedEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """An entry and the MAC made when it was written; None where an older version wrote it."""

    entry: EvidenceEntry
    mac: Mac | None


INSTALLATION_CHAIN = CredentialId(bytes(CREDENTIAL_ID_LENGTH))
"""The chain of the installation's own entries, among those of the credentials: 16 zero bytes."""


class TokenKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key on the token as the installation's record names it."""

    kind: TokenKeyKind
    key_id: KeyId
    """Its CKA_ID."""
    state: TokenKeyState

    @property
    def packed(self) -> bytes:
        """u8 kind || id(8) || u8 state."""
        return bytes((self.kind.number, *self.key_id, self.state.number))

    @classmethod
    def unpack(cls, packed: bytes) -> TokenKey:
        """Read a key from its 10 bytes. Raises ValueError for an unknown kind or state."""
        return cls(TokenKeyKind.numbered(packed[0]), packed[1:-1], TokenKeyState.numbered(packed[-1]))


class InstallationRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """What an installation knows of itself; sealed and chained as credentials are (protocol.md, 8)."""

    format: Annotated[int, Meta(ge=1, le=1)]
    """1."""
    mac_key_id: KeyId
    """Which record MAC key made the MAC."""
    version: Ordinal
    """Raised by every write, 1 at the beginning."""
    installation_id: InstallationId
    """8 random bytes, for ever."""
    epoch: U32
    """Raised by every restore from a backup; 0 at the beginning."""
    keys: Annotated[tuple[PackedKey, ...], Meta(min_length=1, max_length=255)]
    """The keys on the token, ascending."""
    group_policy: Sha256 | None
    """Of the group of servers it belongs to; None where there is no group."""
    evidence_head: Sha256
    """SHA-256 of the entry written with this version of the record."""

    @property
    def token_keys(self) -> tuple[TokenKey, ...]:
        """The keys on the token. Raises ValueError for a kind or state that this version does not know."""
        return tuple(map(TokenKey.unpack, self.keys))


class SealedInstallation(Struct, frozen=True, forbid_unknown_fields=True):
    """An installation's record and its MAC, as a credential's is made."""

    record: InstallationRecord
    mac: Mac
