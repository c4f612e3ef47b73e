"""Cards for the simulator's own tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from card_applet_sim import SimulatedCard
from tests.support.card.host import OK, Host, Profile, stream

MakeCard = Callable[[Profile | None], Host]


@pytest.fixture
def card_path(tmp_path: Path) -> Path:
    """Memory of a blank card."""
    path = tmp_path / "card"
    SimulatedCard.create(path, random=stream("serial"))
    return path


@pytest.fixture
def card(card_path: Path) -> Iterator[SimulatedCard]:
    """A blank card, powered, nothing selected."""
    with SimulatedCard(card_path, random=stream("card"), lock_timeout=0) as opened:
        yield opened


@pytest.fixture
def make_card(card: SimulatedCard) -> MakeCard:
    """Select the card and, with a profile, enrol it."""

    def make(profile: Profile | None) -> Host:
        host = Host(card)
        assert host.select()[1] == OK
        if profile is not None:
            assert host.install(profile) == OK
        return host

    return make
