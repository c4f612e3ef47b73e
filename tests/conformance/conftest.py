"""The targets: the simulator in process and through PC/SC, the Java applet, or the card that CARD names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from card_applet_sim import SimulatedCard
from tests.support import pcscd as service
from tests.support.card import targets
from tests.support.card.host import stream
from tests.support.card.targets import CARD_VARIABLE, JavaTarget, ReaderTarget, SimulatorTarget, Target

NAMES = ("physical",) if os.environ.get(CARD_VARIABLE) else ("simulator", "pcsc", "jcardsim")


@pytest.fixture(scope="module", params=NAMES)
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A card for a module's tests; each makes it blank first."""
    folder = tmp_path_factory.mktemp("card")
    with ExitStack() as stack:
        card = _open(request, folder / "card", stack)
        stack.callback(card.close)
        yield card


def _open(request: pytest.FixtureRequest, path: Path, stack: ExitStack) -> Target:
    if request.param == "physical":
        return targets.physical()
    if request.param == "simulator":
        return SimulatorTarget(path)
    if request.param == "jcardsim":
        return JavaTarget()
    pcscd: service.Pcscd = request.getfixturevalue("pcscd")
    SimulatedCard.create(path, random=stream("serial"))
    card = stack.enter_context(SimulatedCard(path, random=stream("pcsc"), lock_timeout=0))
    stack.callback(pcscd.await_card, service.SLOTS[0], present=False)
    stack.enter_context(service.inserted(card, pcscd.port))
    pcscd.await_card(service.SLOTS[0])
    return ReaderTarget(service.SLOTS[0], physical=False)
