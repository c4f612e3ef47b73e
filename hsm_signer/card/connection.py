"""The border between the driver and whatever carries APDUs: a simulated card, a reader, a network."""

from __future__ import annotations

from typing import Protocol


class CardConnection(Protocol):
    """One card, held for one user from opening to closing.

    A transport needs to know nothing of commands, chaining, 61xx or 6Cxx: the driver does all that above it.
    """

    def transmit(self, apdu: bytes) -> bytes:
        """Carry one short command APDU (4 to 261 bytes), return the card's answer, SW1 SW2 included.

        Raises CardRemoved where the way to the card broke off, CardMemoryDamaged where a simulated
        card's file did, or another CardError; nothing else.
        """
        ...

    def close(self) -> None:
        """Let go of the card; its transient memory dies. Harmless when repeated."""
        ...
