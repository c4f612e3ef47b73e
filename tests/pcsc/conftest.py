"""A reader of a PC/SC service of our own, and cards to put into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from card_applet_sim import SimulatedCard
from tests.support.pcscd import Pcscd
from tests.support.readers import MakeCard, Reader


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
