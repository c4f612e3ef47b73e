"""Reading of an answer to reset (ATR; ISO 7816-3, 8.2; ISO 7816-4, 12.1.1)."""

from __future__ import annotations

_COMPACT_TLV = 0x80
"""Category indicator: the historical bytes are compact TLVs, without a status at their end."""
_COMPACT_TLV_AND_STATUS = 0x00
"""The same, and three bytes of status after them."""
_CAPABILITIES = 7
"""Compact tag of the card's capabilities."""
_EXTENDED = 0x40
"""In their third byte: extended Lc and Le fields."""


def historical_bytes(atr: bytes) -> bytes:
    """Return the historical bytes; empty where there are none or the ATR ends too early."""
    if len(atr) < 2:
        return b""
    count, follows = atr[1] & 0x0F, atr[1] >> 4
    position = 2
    # TA, TB, TC, TD, as far as the four bits announce them; the next four are in TD.
    while follows:
        position += follows.bit_count()
        if not follows & 0x08:
            break
        if position > len(atr):
            return b""
        follows = atr[position - 1] >> 4
    part = atr[position : position + count]
    return part if len(part) == count else b""


def extended_length(atr: bytes) -> bool:
    """Tell whether the card says that it takes extended APDUs; False where the ATR cannot be read."""
    history = historical_bytes(atr)
    if not history or history[0] not in (_COMPACT_TLV, _COMPACT_TLV_AND_STATUS):
        return False
    tlvs = history[1:-3] if history[0] == _COMPACT_TLV_AND_STATUS else history[1:]
    position = 0
    while position < len(tlvs):
        tag, length = tlvs[position] >> 4, tlvs[position] & 0x0F
        value = tlvs[position + 1 : position + 1 + length]
        if tag == _CAPABILITIES:
            return len(value) == length >= 3 and bool(value[2] & _EXTENDED)
        position += 1 + length
    return False
