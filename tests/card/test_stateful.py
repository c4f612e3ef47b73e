"""The machine of the conformance tests on the simulator in process, which can be looked into."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis.stateful import invariant, rule

from card_applet_sim import SimulatedCard, memory
from tests.support.card import machine
from tests.support.card.host import BASIC, Profile
from tests.support.card.machine import PROFILES, RNS
from tests.support.card.targets import SimulatorTarget


class WhiteBoxMachine(machine.CardMachine):
    """Card and model side by side, and the card's memories."""

    target: SimulatorTarget

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "card"
        self.target = SimulatorTarget(self.path)
        super().__init__()

    def teardown(self) -> None:
        self.target.close()
        self.folder.cleanup()

    @property
    def card(self) -> SimulatedCard:
        return self.target.card

    @rule()
    def reopen(self) -> None:
        self.target.reopen()
        self.model.power_off()

    # What always holds

    @invariant()
    def memory_is_as_the_model(self) -> None:
        content = self.path.read_bytes()
        image = memory.decode(content)
        model, personality = self.model, image.personality
        assert not image.wiping
        assert image.serial == self.serial
        assert (personality is None) == (model.profile is None)
        if personality and model.profile:
            assert personality.credential_id == model.profile.credential_id
            assert (personality.pin.left if personality.pin else 0) == model.pin_left
            if personality.puk:
                assert personality.puk.left == model.puk_left
        for secret in self.secrets - {profile.kcar for profile in PROFILES}:
            if not (model.profile and model.profile.scheme == BASIC and secret == model.profile.kek):
                assert secret not in content

    @invariant()
    def verified_is_as_the_model(self) -> None:
        # White box: asking by VERIFY would break a chain.
        assert self.card._applet._transient.verified == self.model.verified


def test_any_sequence_of_apdus() -> None:
    machine.run(WhiteBoxMachine, examples=60, steps=45)


def test_the_model_knows_a_working_card() -> None:
    """The machine above would find nothing with a model that refuses everything: here both must succeed."""
    one = WhiteBoxMachine()
    try:
        one.host.select()
        steps: list[Callable[[], object]] = [
            lambda: one.enrol(Profile()),
            lambda: one.hash_message(False, b"m"),
            lambda: one.verify(b"", True),
            lambda: one.authorise(0x0201, 2),
        ]
        for step in steps:
            step()
        assert one.model.profile == Profile()
        assert one.model.loaded is None
        assert not one.model.verified
        assert one.host.authorise(0x0201, RNS[:2])[1] == 0x6985
    finally:
        one.teardown()
