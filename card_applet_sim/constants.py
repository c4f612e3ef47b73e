"""Numbers of the contract (docs/understand/apdu.md). Tests hold every one of them to that page's tables."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

AID = bytes.fromhex("F048534D5349474E01")
AID_TAG = 0x84
"""Inside 6F, as ISO 7816-4 has it; in status and INSTALL the same tag is the credential id."""
KEY_REFERENCE = 0x81
VERSION = 0x0001
CHAINING = 0x10
"""Bit of CLA (ISO 7816-4, 5.4.1): more blocks of this command follow."""


class Sw(IntEnum):
    """Status words; ``WRONG_SECRET`` and ``MORE_DATA`` carry a count in their low bits."""

    OK = 0x9000
    MORE_DATA = 0x6100
    WRONG_SECRET = 0x63C0
    MEMORY_FAILURE = 0x6581
    WRONG_LENGTH = 0x6700
    NO_CHAINING = 0x6884
    NOT_VERIFIED = 0x6982
    BLOCKED = 0x6983
    CONDITIONS = 0x6985
    WRONG_DATA = 0x6A80
    NOT_FOUND = 0x6A82
    WRONG_P1P2 = 0x6A86
    NO_REFERENCE_DATA = 0x6A88
    UNKNOWN_INSTRUCTION = 0x6D00
    UNKNOWN_CLASS = 0x6E00


class State(IntEnum):
    """Status tag 81."""

    BLANK = 0x01
    ACTIVE = 0x03
    PIN_BLOCKED = 0x04


class Scheme(IntEnum):
    """How the card's key and SK are tied together."""

    BASIC = 0x01
    PIN = 0x02
    ROLLING = 0x03


class Combine(IntEnum):
    """The invertible combination; NONE in scheme basic only."""

    NONE = 0x00
    XOR = 0x01
    CBC = 0x02


class Mode(IntEnum):
    """What was hashed: a message (HASH MESSAGE) or a list of digests (LOAD DIGESTS)."""

    MESSAGE = 0x01
    DIGESTS = 0x02


class PinPolicy(IntEnum):
    """How long a verification lasts; NONE in scheme basic only."""

    NONE = 0x00
    ALWAYS = 0x01
    SESSION = 0x02


class PinCheck(IntEnum):
    """How much of the PIN's POWF the card keeps; NONE in scheme basic only."""

    NONE = 0x00
    CARD = 0x01
    SERVER = 0x02

    @property
    def kept(self) -> int:
        """Bytes of POWF in persistent memory."""
        return {PinCheck.NONE: 0, PinCheck.CARD: 32, PinCheck.SERVER: 1}[self]


class Role(IntEnum):
    """First byte of what F and POWF hash."""

    PIN = 0x01
    PUK = 0x02


class Feature(IntEnum):
    """Bits of status tag 88, as masks."""

    EXTENDED_LENGTH = 0x0001
    COMBINE_XOR = 0x0002
    COMBINE_CBC = 0x0004
    DIGEST_LISTS = 0x0008
    ORIGIN = 0x0010


class Tag(IntEnum):
    """Tags of status, INSTALL, templates and the card's origin."""

    FCI = 0x6F
    PROPRIETARY = 0xA5
    VERSION = 0x80
    STATE = 0x81
    SCHEME = 0x82
    COMBINE = 0x83
    CREDENTIAL_ID = 0x84
    PIN_LEFT = 0x85
    PUK_LEFT = 0x86
    SERIAL = 0x87
    FEATURES = 0x88
    PIN_POLICY = 0x89
    PIN_CHECK = 0x8A
    ORIGIN_CERTIFICATE = 0x8B
    ORIGIN_PROOF = 0x8C
    ORIGIN_POINT = 0x8D
    POINT = 0x90
    WRAPPED_KCAR = 0x91
    WRAPPED_KEK = 0x92
    PIN = 0x93
    PUK = 0x94
    TRIES = 0x95


@dataclass(frozen=True, slots=True)
class Command:
    """One line of the command table."""

    cla: int
    """Without the chaining bit."""
    ins: int
    p1: int
    p2: int
    chained: bool
    nc_min: int
    nc_max: int
    states: frozenset[State]


SHORT_DATA_MAX = 255
EXTENDED_DATA_MAX = 32767
INSTALL_MAX = 233
DIGESTS_HEADER = 3
SIGNATURE_LENGTH = 64
"""r || s of ECDSA on P-256."""

_ANY = frozenset(State)
_BLANK = frozenset({State.BLANK})
_INSTALLED = frozenset({State.ACTIVE, State.PIN_BLOCKED})
_ACTIVE = frozenset({State.ACTIVE})

SELECT = Command(0x00, 0xA4, 0x04, 0x00, False, 0, SHORT_DATA_MAX, _ANY)
GET_STATUS = Command(0x80, 0xCA, 0x00, 0x00, False, 0, 0, _ANY)
VERIFY = Command(0x00, 0x20, 0x00, 0x81, False, 0, SHORT_DATA_MAX, _INSTALLED)
CHANGE_REFERENCE_DATA = Command(0x00, 0x24, 0x00, 0x81, False, 1, SHORT_DATA_MAX, _INSTALLED)
RESET_RETRY_COUNTER = Command(0x00, 0x2C, 0x00, 0x81, False, 1, SHORT_DATA_MAX, _INSTALLED)
BEGIN_PERSONALISATION = Command(0x80, 0x60, 0x00, 0x00, False, 0, 0, _BLANK)
INSTALL = Command(0x80, 0x62, 0x00, 0x00, False, 1, INSTALL_MAX, _BLANK)
HASH_MESSAGE = Command(0x00, 0x2A, 0x90, 0x80, True, 0, EXTENDED_DATA_MAX, _ACTIVE)
LOAD_DIGESTS = Command(0x80, 0x66, 0x00, 0x00, True, 0, EXTENDED_DATA_MAX, _ACTIVE)
AUTHORISE = Command(0x80, 0x64, 0x00, 0x00, False, 3, SHORT_DATA_MAX, _ACTIVE)
FACTORY_RESET = Command(0x80, 0x6E, 0xAA, 0x55, False, 0, 0, _ANY)
BEGIN_ISSUE = Command(0x80, 0x68, 0x00, 0x00, False, 0, 0, _BLANK)
ISSUE = Command(0x80, 0x6A, 0x00, 0x00, False, SIGNATURE_LENGTH, SIGNATURE_LENGTH, _BLANK)

COMMANDS = {
    "SELECT": SELECT,
    "GET STATUS": GET_STATUS,
    "VERIFY": VERIFY,
    "CHANGE REFERENCE DATA": CHANGE_REFERENCE_DATA,
    "RESET RETRY COUNTER": RESET_RETRY_COUNTER,
    "BEGIN PERSONALISATION": BEGIN_PERSONALISATION,
    "INSTALL": INSTALL,
    "HASH MESSAGE": HASH_MESSAGE,
    "LOAD DIGESTS": LOAD_DIGESTS,
    "AUTHORISE": AUTHORISE,
    "FACTORY RESET": FACTORY_RESET,
    "BEGIN ISSUE": BEGIN_ISSUE,
    "ISSUE": ISSUE,
}

ALGORITHM_DIGEST_LENGTH = {
    0x0101: 32,
    0x0102: 48,
    0x0103: 64,
    0x0111: 32,
    0x0112: 48,
    0x0113: 64,
    0x0201: 32,
    0x0202: 48,
    0x0203: 64,
    0x0301: 0,
}
"""Algorithm to the length of the digests it signs in mode 2; 0: not in mode 2."""

DIGEST_LENGTHS = (32, 48, 64)
DIGESTS_MAX = 65535
PIN_MIN, PIN_MAX = 6, 12
PUK_MIN, PUK_MAX = 16, 32
TRIES_MIN, TRIES_MAX = 1, 15
ROLLING_VALUES_MAX = 6
ANSWER_MAX = 256
CREDENTIAL_ID_LENGTH = 16
SERIAL_LENGTH = 8
NONCE_LENGTH = 16
SALT_LENGTH = 16
KEY_LENGTH = 32
WRAPPED_KEY_LENGTH = 40
POINT_LENGTH = 65
COMPRESSED_POINT_LENGTH = 33
ORIGIN_CERTIFICATE_LENGTH = COMPRESSED_POINT_LENGTH + SIGNATURE_LENGTH

LABEL_DIGESTS = b"hsm-signer/1/digests"
LABEL_AUTHORISE = b"hsm-signer/1/authorise"
LABEL_POSITION = b"hsm-signer/1/position"
LABEL_BLIND = b"hsm-signer/1/blind"
LABEL_POWF = b"hsm-signer/1/powf"
LABEL_PERSONALISE = b"hsm-signer/1/personalise"
LABEL_CARD_ORIGIN = b"hsm-signer/2/card-origin"
