"""The card's transient memory: what dies at reset, power-off, deselection and re-selection."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .constants import Command, Mode

if TYPE_CHECKING:
    from hashlib import _Hash

    from .keys import CardKey


@dataclass(slots=True)
class PartialHash:
    """A chain of HASH MESSAGE or LOAD DIGESTS under way: no message, no list, only the hash and a count."""

    command: Command
    mode: Mode
    hash: _Hash = field(repr=False)
    digest_length: int = 0
    """32, 48 or 64 in mode 2, otherwise 0."""
    missing: int = 0
    """Bytes of the list still to come; 0 in mode 1."""


@dataclass(frozen=True, slots=True)
class LoadedHash:
    """What AUTHORISE is about."""

    mode: Mode
    h: bytes
    """H, 32 bytes."""
    digest_length: int


class TransientMemory:
    """What dies at reset, power-off, deselection and re-selection."""

    __slots__ = ("_kek", "loaded", "origin", "partial", "personalisation", "selected")

    def __init__(self) -> None:
        self.selected = False
        self.partial: PartialHash | None = None
        self.loaded: LoadedHash | None = None
        self.personalisation: CardKey | None = None
        self.origin: CardKey | None = None
        """The pair of BEGIN ISSUE, until ISSUE."""
        self._kek = bytearray()

    def __repr__(self) -> str:
        return f"TransientMemory(selected={self.selected}, verified={self.verified})"

    @property
    def verified(self) -> bool:
        """The PIN is verified, which is the same as: the KEK is here."""
        return bool(self._kek)

    @property
    def kek(self) -> bytes:
        """KOWF or KEK1, 32 bytes; only while verified."""
        assert self._kek
        return bytes(self._kek)

    def verify(self, kek: bytes) -> None:
        """Keep the unblinded KEK (32 bytes): verified."""
        self.forget_kek()
        self._kek += kek

    def forget_kek(self) -> None:
        """Not verified any more. Overwrites what Python lets one overwrite."""
        self._kek[:] = bytes(len(self._kek))
        self._kek.clear()

    def take_personalisation(self) -> CardKey | None:
        """The ephemeral key, which is gone afterwards."""
        key, self.personalisation = self.personalisation, None
        return key

    def clear(self) -> None:
        """Everything but the selection."""
        self.forget_kek()
        self.partial = self.loaded = self.personalisation = self.origin = None

    def power_off(self) -> None:
        """Everything."""
        self.clear()
        self.selected = False
