"""Data fields: what is well formed (docs/understand/apdu.md, order of checks, 8), what INSTALL holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Never

from . import constants as c
from .constants import Combine, PinCheck, PinPolicy, Scheme, Sw, Tag


class Refused(Exception):
    """A status word other than 9000."""

    def __init__(self, word: int) -> None:
        super().__init__(f"{word:04X}")
        self.word = word


def refuse(word: int) -> Never:
    """Answer ``word``."""
    raise Refused(word)


def tlv(tag: int, value: bytes) -> bytes:
    """One TLV; ``value`` has fewer than 128 bytes."""
    return bytes([tag, len(value)]) + value


def parse_tlvs(data: bytes) -> dict[int, bytes]:
    """One-byte tags, one-byte lengths below 128, each tag once. Raises Refused(6A80) for anything else."""
    found: dict[int, bytes] = {}
    while data:
        if len(data) < 2 or data[0] in found or data[1] > 0x7F or len(data) < 2 + data[1]:
            refuse(Sw.WRONG_DATA)
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


def pin(data: bytes) -> bytes:
    """``data`` if it is a well-formed PIN: 6 to 12 ASCII digits. Raises Refused(6A80)."""
    if not (c.PIN_MIN <= len(data) <= c.PIN_MAX and all(0x30 <= byte <= 0x39 for byte in data)):
        refuse(Sw.WRONG_DATA)
    return data


def puk(data: bytes) -> bytes:
    """``data`` if it is a well-formed PUK: 16 to 32 bytes of 21 to 7E. Raises Refused(6A80)."""
    if not (c.PUK_MIN <= len(data) <= c.PUK_MAX and all(0x21 <= byte <= 0x7E for byte in data)):
        refuse(Sw.WRONG_DATA)
    return data


def split(data: bytes) -> tuple[bytes, bytes]:
    """u8 length || first || second. Raises Refused(6A80) where the first is cut off."""
    if len(data) < 1 + data[0]:
        refuse(Sw.WRONG_DATA)
    return data[1 : 1 + data[0]], data[1 + data[0] :]


_BASIC_TLVS = {
    Tag.CREDENTIAL_ID: c.CREDENTIAL_ID_LENGTH,
    Tag.SCHEME: 1,
    Tag.COMBINE: 1,
    Tag.POINT: c.POINT_LENGTH,
    Tag.WRAPPED_KEK: c.WRAPPED_KEY_LENGTH,
}
"""Tags INSTALL wants in scheme basic, with their lengths."""
_PIN_TLVS = {
    **_BASIC_TLVS,
    Tag.PIN_POLICY: 1,
    Tag.PIN_CHECK: 1,
    Tag.WRAPPED_KCAR: c.WRAPPED_KEY_LENGTH,
    Tag.PIN: 0,
    Tag.TRIES: 2,
}
"""In the other schemes; 0: checked by its own rule. The PUK may be absent."""


@dataclass(frozen=True, slots=True)
class InstallData:
    """INSTALL's TLVs, well formed; whether the wrapped keys open is not known yet."""

    scheme: Scheme
    combine: Combine
    pin_policy: PinPolicy
    pin_check: PinCheck
    pin_tries: int
    """1 to 15; 0 in scheme basic."""
    puk_tries: int
    """Likewise, also where there is no PUK."""
    credential_id: bytes
    """16 bytes."""
    token_point: bytes
    """65 bytes, not known to be on the curve."""
    wrapped_kcar: bytes = field(repr=False)
    """40 bytes; empty in scheme basic."""
    wrapped_kek: bytes = field(repr=False)
    """40 bytes."""
    pin: bytes = field(repr=False)
    """Empty in scheme basic."""
    puk: bytes | None = field(repr=False)

    @property
    def parameters(self) -> bytes:
        """What K_r binds besides the points: 22 bytes."""
        tries = (self.pin_tries, self.puk_tries)
        return self.credential_id + bytes(
            [self.scheme, self.combine, self.pin_policy, self.pin_check, *tries]
        )


def parse_install(data: bytes) -> InstallData:
    """Section "INSTALL TLVs". Raises Refused(6A80)."""
    tlvs = parse_tlvs(data)
    basic = tlvs.get(Tag.SCHEME) == bytes([Scheme.BASIC])
    lengths = _BASIC_TLVS if basic else _PIN_TLVS
    if set(tlvs) - {Tag.PUK} != set(lengths) or (basic and Tag.PUK in tlvs):
        refuse(Sw.WRONG_DATA)
    if any(len(tlvs[tag]) != length for tag, length in lengths.items() if length):
        refuse(Sw.WRONG_DATA)
    try:
        scheme = Scheme(tlvs[Tag.SCHEME][0])
        combine = Combine(tlvs[Tag.COMBINE][0])
        policy = PinPolicy.NONE if basic else PinPolicy(tlvs[Tag.PIN_POLICY][0])
        check = PinCheck.NONE if basic else PinCheck(tlvs[Tag.PIN_CHECK][0])
    except ValueError:
        raise Refused(Sw.WRONG_DATA) from None
    if not (basic == (combine is Combine.NONE) == (policy is PinPolicy.NONE) == (check is PinCheck.NONE)):
        refuse(Sw.WRONG_DATA)
    pin_tries, puk_tries = (0, 0) if basic else tlvs[Tag.TRIES]
    if not basic:
        if not all(c.TRIES_MIN <= tries <= c.TRIES_MAX for tries in (pin_tries, puk_tries)):
            refuse(Sw.WRONG_DATA)
        pin(tlvs[Tag.PIN])
        if Tag.PUK in tlvs:
            puk(tlvs[Tag.PUK])
    return InstallData(
        scheme=scheme,
        combine=combine,
        pin_policy=policy,
        pin_check=check,
        pin_tries=pin_tries,
        puk_tries=puk_tries,
        credential_id=tlvs[Tag.CREDENTIAL_ID],
        token_point=tlvs[Tag.POINT],
        wrapped_kcar=tlvs.get(Tag.WRAPPED_KCAR, b""),
        wrapped_kek=tlvs[Tag.WRAPPED_KEK],
        pin=tlvs.get(Tag.PIN, b""),
        puk=tlvs.get(Tag.PUK),
    )
