"""Cards that the conformance suite runs against: anything that answers APDUs and can be reset.

Nothing here looks into a card; what a target cannot carry, or leaves to its platform, it says itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import pytest

from card_applet_sim import SimulatedCard
from hsm_signer.card import pcsc
from tests.support import needs
from tests.support.jcardsim import JavaCard

from .host import OK, Host, stream
from .model import parse

CARD_VARIABLE = "CARD"
CONSENT_VARIABLE = "CARD_MAY_BE_ERASED"
_TRIES = 15
"""The most that INSTALL allows."""


class Target(Protocol):
    """A card under test."""

    platform_as_documented: bool
    """Before SELECT it answers as docs/understand/apdu.md has it for the simulator; others as they like."""
    shrinks: bool
    """Failing sequences may be replayed to find a shorter one."""
    renews: bool
    """Another card can take its place, so it may be issued, which is for a card's life."""

    def transmit(self, apdu: bytes, /) -> bytes:
        """Data || SW1 SW2."""
        ...

    def reset(self) -> None:
        """Power off and on; nothing is selected."""
        ...

    def renew(self) -> None:
        """Put another blank card in its place, where ``renews``."""
        ...

    def carries(self, apdu: bytes) -> bool:
        """Whether these bytes get to the card at all."""
        ...

    def close(self) -> None:
        """Done with it."""
        ...


def make_blank(target: Target) -> bytes:
    """Reset the credential away whatever it is; the card's serial.

    Needs no PIN: wrong ones, until PIN and PUK are blocked. So it works after a test that failed, too.
    """
    slot = Host(target)
    assert slot.select()[1] == OK
    if slot.send("FACTORY RESET")[1] != OK:
        for number in range(_TRIES):
            if slot.verify(f"{number:06}".encode()) == 0x6983:
                break
        for number in range(_TRIES):
            if slot.unblock(f"no-PUK-at-all-{number:02}".encode(), b"000000") in (0x6983, 0x6A88):
                break
        assert slot.send("FACTORY RESET")[1] == OK
    status = slot.status()
    assert status[0x81] == b"\x01"
    return status[0x87]


class SimulatorTarget:
    """The simulator in this process."""

    platform_as_documented = True
    shrinks = True
    renews = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._random = stream("target")
        self.card = self._new()

    def _new(self) -> SimulatedCard:
        SimulatedCard.create(self._path, random=stream("serial"))
        return self._open()

    def _open(self) -> SimulatedCard:
        return SimulatedCard(self._path, random=self._random, lock_timeout=0)

    def transmit(self, apdu: bytes, /) -> bytes:
        return self.card.transmit(apdu)

    def reset(self) -> None:
        self.card.reset()

    def renew(self) -> None:
        self.card.close()
        self._path.unlink()
        self.card = self._new()

    def reopen(self) -> None:
        """Out of the slot and in again."""
        self.card.close()
        self.card = self._open()

    def carries(self, apdu: bytes) -> bool:
        return True

    def close(self) -> None:
        self.card.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JavaTarget:
    """The Java applet in jCardSim, over its bridge's lines."""

    platform_as_documented = True
    shrinks = True
    renews = True

    def __init__(self) -> None:
        self._card = JavaCard()

    def transmit(self, apdu: bytes, /) -> bytes:
        return self._card.transmit(apdu)

    def reset(self) -> None:
        self._card.reset()

    def renew(self) -> None:
        self._card.renew()

    def carries(self, apdu: bytes) -> bool:
        return True

    def close(self) -> None:
        self._card.close()


class ReaderTarget:
    """A card in a reader, through pcscd and pyscard; ``name`` as ``pcsc:NAME`` has it."""

    renews = False

    def __init__(self, name: str, *, physical: bool) -> None:
        self._name = name
        self._physical = physical
        self.platform_as_documented = not physical
        self.shrinks = not physical
        self._connection = pcsc.open_reader(name)

    def transmit(self, apdu: bytes, /) -> bytes:
        return self._connection.transmit(apdu)

    def reset(self) -> None:
        self._connection.close()
        self._connection = pcsc.open_reader(self._connection.reader)

    def renew(self) -> None:
        raise AssertionError("nobody is here to put another card in")

    def carries(self, apdu: bytes) -> bool:
        """A single byte is no APDU but an order to a virtual reader; real ones are spared all that is none.

        Other logical channels and secure messaging are a real platform's business.
        """
        if not self._physical:
            return len(apdu) >= 4
        parsed = parse(apdu)
        extended = len(apdu) > 5 and apdu[4] == 0
        return parsed is not None and not extended and apdu[0] in (0x00, 0x10, 0x80, 0x90)

    def close(self) -> None:
        self._connection.close()


def physical() -> ReaderTarget:
    """The card named by CARD. Its credential is erased, so that has to be allowed in words."""
    card = os.environ[CARD_VARIABLE]
    if os.environ.get(CONSENT_VARIABLE) != "yes":
        pytest.fail(f"these tests erase whatever is on {card}; if that is meant: {CONSENT_VARIABLE}=yes")
    if not card.startswith("pcsc:"):
        pytest.fail(f"{CARD_VARIABLE}: expected pcsc:READER, found {card}")
    needs.pyscard()
    return ReaderTarget(card.removeprefix("pcsc:"), physical=True)
