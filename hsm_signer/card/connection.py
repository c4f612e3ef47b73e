"""The interface of whatever carries APDUs to a card: a simulated card, a reader, a network."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class CardConnection(Protocol):
    """A connection to one card, for one user from opening to closing.

    A transport needs to know nothing of commands, chaining, 61xx or 6Cxx: the driver does all that above it.
    """

    def transmit(self, apdu: bytes) -> bytes:
        """Send one command APDU and return the card's answer, SW1 SW2 included.

        Short ones (4 to 261 bytes); longer ones only where the connection is an ExtendedConnection and says
        that it takes them.
        Raises CardRemoved where the way to the card broke off, CardMemoryDamaged where a simulated
        card's file did, or another CardError; nothing else.
        """
        ...

    def close(self) -> None:
        """Release the card, which loses its transient memory; harmless when repeated."""
        ...


@runtime_checkable
class ExtendedConnection(Protocol):
    """A connection that can also carry extended APDUs."""

    def takes_extended_length(self) -> bool:
        """Whether card and reader should take extended APDUs; 6700 to one of them means that they do not."""
        ...
