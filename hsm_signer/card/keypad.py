"""Readers with a keypad: the PIN is typed there and never passes through the host.

PC/SC Workgroup specification, part 10 (IFDs with secure PIN entry capabilities), version 2.02. The host
hands the reader a command without its PIN and a description of where the PIN goes; the reader asks for it,
sends the command to the card and gives back the status word. Structures and fields bear that document's
names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from hsm_signer.errors import CardAnswerMalformed, InputError, PinMalformed, PinMissing

from .apdu import CHANGE_REFERENCE_DATA, VERIFY, Command
from .pins import PIN_MAX, PIN_MIN

GET_FEATURE_REQUEST = 3400
"""Function code of CM_IOCTL_GET_FEATURE_REQUEST; how it becomes a control code is the platform's."""
FEATURE_VERIFY_PIN_DIRECT = 0x06
FEATURE_MODIFY_PIN_DIRECT = 0x07
FEATURE_GET_TLV_PROPERTIES = 0x12
PROPERTY_MAX_APDU_DATA_SIZE = 0x0A
"""dwMaxAPDUDataSize: 0 where the reader takes short APDUs only."""

ENTRY_SECONDS = 30
"""How long the reader waits for the first and for each further key."""
ENTRY_LIMIT = 150.0
"""Seconds after which a reader has stopped answering: longer than two PINs of twelve slow digits."""

_ASCII_BYTES_LEFT = 0x82
"""bmFormatString: unit bytes, PIN at offset 0 of the data, left justified, ASCII."""
_NO_BLOCK = 0x00
"""bmPINBlockString and bmPINLengthFormat: no padding, no length in the block; Lc is the reader's to set."""
_KEY_PRESSED = 0x02
"""bEntryValidationCondition: the user ends the PIN with the confirmation key."""
_ENGLISH = 0x0409
_CONFIRM_NEW_ASK_OLD = 0x03
"""bConfirmPIN: the new PIN is typed twice, the old one is asked for."""
_DEFAULT_MESSAGE, _THREE_MESSAGES = 0xFF, 0x03
"""bNumberMessage: the reader's own text; one each for the old PIN, the new one, and the new one again."""
_NO_PROLOGUE = bytes(3)
"""bTeoPrologue: the driver fills in what T=1 needs."""


class Keypad(Protocol):
    """A reader's keypad; both commands return the card's SW1 SW2.

    Both raise PinMissing where nobody typed a PIN, PinMalformed where it was too short, too long or not
    repeated alike (no try was used), CardAnswerMalformed, InputError where the reader refuses the
    description, and what the connection raises.
    """

    def verify(self) -> bytes:
        """Send VERIFY with the PIN that is typed, 6 to 12 digits."""
        ...

    def change(self, digits: int) -> bytes:
        """Send CHANGE REFERENCE DATA with an old and a new PIN of ``digits`` digits each.

        The contract puts the old PIN's length before it and the new PIN right after. A reader can put a
        PIN only where the description says, so both lengths have to be known beforehand.
        """
        ...

    @property
    def can_change(self) -> bool:
        """Whether the reader can change a PIN."""
        ...


@runtime_checkable
class KeypadConnection(Protocol):
    """A connection whose reader may have a keypad."""

    def find_keypad(self) -> Keypad | None:
        """Return the reader's keypad, None where it has none."""
        ...


Control = Callable[[int, bytes], bytes]
"""Sends data with a control code to the reader, gives its answer (SCardControl)."""


class ReaderKeypad:
    """A keypad that uses FEATURE_VERIFY_PIN_DIRECT and FEATURE_MODIFY_PIN_DIRECT."""

    def __init__(self, control: Control, features: Mapping[int, int]) -> None:
        self._control = control
        self._features = features

    def verify(self) -> bytes:
        """See :class:`Keypad`."""
        return self._send(FEATURE_VERIFY_PIN_DIRECT, pin_verify(), "PIN")

    def change(self, digits: int) -> bytes:
        """See :class:`Keypad`."""
        return self._send(FEATURE_MODIFY_PIN_DIRECT, pin_modify(digits), f"PIN of {digits} digits")

    @property
    def can_change(self) -> bool:
        """Whether the reader can change a PIN."""
        return FEATURE_MODIFY_PIN_DIRECT in self._features

    def _send(self, feature: int, description: bytes, what: str) -> bytes:
        code = self._features.get(feature)
        if code is None:
            raise PinMissing(
                "the reader's keypad does not offer this", hint="give the PIN to this program instead"
            )
        answer = self._control(code, description)
        if len(answer) != 2:
            raise CardAnswerMalformed(f"keypad: expected a status word of 2 bytes, got {len(answer)}")
        word = int.from_bytes(answer, "big")
        if word in (_TIMED_OUT, _CANCELLED):
            how = "Nobody typed a PIN" if word == _TIMED_OUT else "PIN entry was cancelled"
            raise PinMissing(f"{how} at the reader's keypad", hint="no try was used")
        if word == _NOT_ALIKE:
            raise PinMalformed("the new PIN was typed differently the second time", hint="no try was used")
        if word == _WRONG_LENGTH:
            raise PinMalformed(f"keypad: expected a {what}", hint="no try was used")
        if word == _REFUSED:
            raise InputError(
                "the reader's keypad cannot enter this card's PIN",
                hint="give the PIN to this program instead",
            )
        return answer


_TIMED_OUT, _CANCELLED, _NOT_ALIKE, _WRONG_LENGTH, _REFUSED = 0x6400, 0x6401, 0x6402, 0x6403, 0x6B80
"""Status words of the reader, not the card."""


def pin_verify() -> bytes:
    """Make a PIN_VERIFY_STRUCTURE for VERIFY; integers of two and four bytes are little endian.

    The command is given by its header alone: Lc and the data come from what is typed.
    """
    return _structure(
        bytes((ENTRY_SECONDS, ENTRY_SECONDS, _ASCII_BYTES_LEFT, _NO_BLOCK, _NO_BLOCK))
        + _lengths(PIN_MIN, PIN_MAX)
        + bytes((_KEY_PRESSED, _DEFAULT_MESSAGE))
        + struct.pack("<H", _ENGLISH)
        + bytes(1),  # bMsgIndex
        _header(VERIFY),
    )


def pin_modify(digits: int) -> bytes:
    """Make a PIN_MODIFY_STRUCTURE for CHANGE REFERENCE DATA with PINs of ``digits`` digits, 6 to 12.

    The command is complete but for the PINs: u8 length of the old one, room for both, filled with FF.
    Raises PinMalformed for another number.
    """
    if not PIN_MIN <= digits <= PIN_MAX:
        raise PinMalformed(f"keypad: expected PINs of {PIN_MIN} to {PIN_MAX} digits, not {digits}")
    data = bytes((digits,)) + b"\xff" * (2 * digits)
    old, new = 1, 1 + digits
    return _structure(
        bytes((ENTRY_SECONDS, ENTRY_SECONDS, _ASCII_BYTES_LEFT, _NO_BLOCK | digits, _NO_BLOCK, old, new))
        + _lengths(digits, digits)
        + bytes((_CONFIRM_NEW_ASK_OLD, _KEY_PRESSED, _THREE_MESSAGES))
        + struct.pack("<H", _ENGLISH)
        + bytes((0, 1, 2)),  # bMsgIndex1 to 3: old, new, new again
        _header(CHANGE_REFERENCE_DATA) + bytes((len(data),)) + data,
    )


def parse_features(answer: bytes) -> dict[int, int]:
    """Read the control code of each feature from the answer to GET_FEATURE_REQUEST.

    Each is a tag, the length 4 and a control code, big endian. Raises CardAnswerMalformed.
    """
    if len(answer) % 6 or any(answer[i + 1] != 4 for i in range(0, len(answer), 6)):
        raise CardAnswerMalformed("the reader's list of features is malformed: expected TLVs of 6 bytes")
    return {answer[i]: int.from_bytes(answer[i + 2 : i + 6], "big") for i in range(0, len(answer), 6)}


def max_apdu_data_size(properties: bytes) -> int | None:
    """Read dwMaxAPDUDataSize from the answer to FEATURE_GET_TLV_PROPERTIES; None where it is not there.

    TLVs with one-byte tags and lengths; their numbers are little endian. What is malformed ends the search.
    """
    position = 0
    while position + 2 <= len(properties):
        tag, length = properties[position], properties[position + 1]
        value = properties[position + 2 : position + 2 + length]
        if tag == PROPERTY_MAX_APDU_DATA_SIZE and len(value) == length == 4:
            return int.from_bytes(value, "little")
        position += 2 + length
    return None


def _lengths(shortest: int, longest: int) -> bytes:
    """Encode wPINMaxExtraDigit: the shortest PIN in the high byte, the longest in the low one."""
    return struct.pack("<H", shortest << 8 | longest)


def _structure(head: bytes, apdu: bytes) -> bytes:
    return head + _NO_PROLOGUE + struct.pack("<I", len(apdu)) + apdu


def _header(command: Command) -> bytes:
    return bytes((command.cla, command.ins, command.p1, command.p2))
