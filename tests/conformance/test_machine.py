"""The state machine on every target."""

from __future__ import annotations

from tests.support.card import machine
from tests.support.card.targets import ReaderTarget, SimulatorTarget, Target


def test_any_sequence_of_apdus(target: Target) -> None:
    # tests/card has the simulator in process for longer.
    examples = 8 if isinstance(target, SimulatorTarget) else 20
    slow = isinstance(target, ReaderTarget) and not target.platform_as_documented
    machine.run(machine.bound(target), examples=5 if slow else examples, steps=40, shrinks=target.shrinks)
