"""A reader of a PC/SC service of our own, and cards to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from card_applet_sim import SimulatedCard, vpcd
from tests.support.pcscd import SLOTS, Inserted, Pcscd, inserted


@dataclass(frozen=True)
class Reader:
    """One of the service's two."""

    service: Pcscd
    number: int

    @property
    def name(self) -> str:
        """As the service calls it."""
        return SLOTS[self.number]

    @property
    def address(self) -> str:
        """As --card takes it."""
        return f"pcsc:{self.name}"

    @property
    def port(self) -> int:
        """Where vpcd waits for its card."""
        return self.service.port + self.number

    @contextmanager
    def holding(self, card: vpcd.Card) -> Iterator[Inserted]:
        """the card in the reader, seen by the service; in the end it is out, and that is seen, too."""
        try:
            with inserted(card, self.port) as slot:
                self.service.await_card(self.name)
                yield slot
        finally:
            if self.service.running:
                self.service.await_card(self.name, present=False)


@pytest.fixture
def reader(pcscd: Pcscd) -> Reader:
    """The first reader."""
    pcscd.ensure()
    return Reader(pcscd, 0)


@pytest.fixture
def other_reader(pcscd: Pcscd) -> Reader:
    """The second."""
    pcscd.ensure()
    return Reader(pcscd, 1)


MakeCard = Callable[[str], SimulatedCard]


@pytest.fixture
def make_card(tmp_path: Path) -> Iterator[MakeCard]:
    """Blank simulated cards, by names of the test's."""
    made: list[AbstractContextManager[SimulatedCard]] = []

    def make(name: str) -> SimulatedCard:
        SimulatedCard.create(tmp_path / name)
        made.append(card := SimulatedCard(tmp_path / name, lock_timeout=0))
        return card

    yield make
    for card in made:
        card.__exit__(None, None, None)


@pytest.fixture
def card(make_card: MakeCard) -> SimulatedCard:
    """A blank simulated card, in no reader yet."""
    return make_card("card")


class Wrapped:
    """A card whose answers a test bends: a base to override ``transmit``."""

    def __init__(self, card: vpcd.Card) -> None:
        self.card = card
        self.events: list[str] = []
        """Commands as hexadecimal, and ``reset``."""

    @property
    def atr(self) -> bytes:
        """The card's."""
        return self.card.atr

    def transmit(self, apdu: bytes) -> bytes:
        """Pass on and keep."""
        self.events.append(apdu.hex())
        return self.card.transmit(apdu)

    def reset(self) -> None:
        """Pass on and keep."""
        self.events.append("reset")
        self.card.reset()
