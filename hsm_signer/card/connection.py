"""The border between the driver and whatever carries APDUs: a simulated card, a reader, a network."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class CardConnection(Protocol):
    """One card, held for one user from opening to closing.

    A transport needs to know nothing of commands, chaining, 61xx or 6Cxx: the driver does all that above it.
    """

    def transmit(self, apdu: bytes) -> bytes:
        """Carry one command APDU, return the card's answer, SW1 SW2 included.

        Short ones (4 to 261 bytes); longer ones only where the connection is an ExtendedConnection and says
        that it takes them.
        Raises CardRemoved where the way to the card broke off, CardMemoryDamaged where a simulated
        card's file did, or another CardError; nothing else.
        """
        ...

    def close(self) -> None:
        """Let go of the card; its transient memory dies. Harmless when repeated."""
        ...


@runtime_checkable
class ExtendedConnection(Protocol):
    """A connection that may carry more than short APDUs; CardConnection promises no such thing."""

    def takes_extended_length(self) -> bool:
        """Whether card and way can be expected to take them; 6700 to one of them means: after all not."""
        ...
