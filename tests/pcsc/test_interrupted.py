"""The card goes out, or falls silent, at any step of a signature: one clear error, and the next works."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from card_applet_sim import SimulatedCard, vpcd
from hsm_signer.card.address import open_card
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pcsc import PcscConnection
from hsm_signer.card.pins import CardPin
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import CardNotFound, CardRemoved, SignerError
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, Home
from hsm_signer.types import Message, SignOutcome
from hsm_signer.workstation.signing import sign_content
from tests.support.pcscd import Inserted, until
from tests.support.readers import Reader, Wrapped

CONTENT = Message(BytesSource(b"a message" * 1000))


class Falling(Wrapped):
    """Goes out of the reader at the ``at``-th command, before it is carried out or before it is answered."""

    def __init__(self, card: vpcd.Card) -> None:
        super().__init__(card)
        self.at: int | None = None
        self.executes = False
        self.slot: Inserted | None = None
        self.count = 0

    def transmit(self, apdu: bytes) -> bytes:
        self.count += 1
        if self.count != self.at:
            return super().transmit(apdu)
        if self.executes:
            super().transmit(apdu)
        assert self.slot is not None
        self.slot.remove()
        return b"\x90\x00"


@pytest.fixture
def alices(home: Home) -> Iterator[SimulatedCard]:
    """The card of a user of the installation, who was enrolled elsewhere."""
    with SimulatedCard(home["alice"].card_path, lock_timeout=0) as opened:
        yield opened


def pin() -> CardPin:
    return CardPin(PIN, source="test")


def sign(server: Server, reader: Reader) -> SignOutcome:
    return sign_content(server, lambda: open_card(reader.address), CONTENT, algorithm=None, ask_pin=pin)


def test_removed_at_every_command(server: Server, reader: Reader, alices: SimulatedCard) -> None:
    card = Falling(alices)
    with reader.holding(card) as slot:
        card.slot = slot
        assert sign(server, reader).signatures
        commands = [event for event in card.events if event != "reset"]
        assert [event[2:4] for event in commands[-2:]] == ["20", "64"], "VERIFY, AUTHORISE"
        # Before each is carried out; the two that change the card also after that, without their answer.
        falls = [(at, False) for at in range(1, len(commands) + 1)]
        falls += [(at, True) for at in (len(commands) - 1, len(commands))]
        for at, executes in falls:
            card.at, card.executes, card.count = at, executes, 0
            with pytest.raises(CardRemoved) as error:
                sign(server, reader)
            assert error.value.retryable, at
            assert "\n" not in error.value.message
            card.at = None
            reader.service.await_card(reader.name, present=False)
            slot.remove()
            slot.insert()
            reader.service.await_card(reader.name)
        # The PIN that was right has cost no try, though its answer was lost once.
        with open_card(reader.address) as session:
            assert session.status().pin_tries == 3
        assert sign(server, reader).signatures
    assert server.audit().good


SILENCE = 60.0
"""Seconds that a card is silent, unless the test lets it go."""


class Silent(Wrapped):
    """Answers no more from the ``at``-th command on, until it is taken out."""

    def __init__(self, card: vpcd.Card) -> None:
        super().__init__(card)
        self.at: int | None = None
        self.count = 0

    def transmit(self, apdu: bytes) -> bytes:
        self.count += 1
        if self.at is not None and self.count >= self.at:
            until(lambda: self.at is None, "the test lets it go", SILENCE)
        return super().transmit(apdu)


@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_card_that_stops_answering(reader: Reader, card: SimulatedCard, at: int) -> None:
    silent = Silent(card)
    with reader.holding(silent) as slot:
        silent.at = at
        begun = time.monotonic()
        connection = PcscConnection(reader.name, answer_timeout=0.5)
        session = CardSession(connection)
        calls = [session.select, *[session.status] * 4]
        for call in calls[: at - 1]:
            call()
        with pytest.raises(CardRemoved) as error:
            calls[at - 1]()
        assert error.value.message == f"the card in {reader.name} has stopped answering"
        assert "take it out" in (error.value.hint or "")
        with pytest.raises(CardRemoved):
            session.status()
        connection.close()
        assert time.monotonic() - begun < SILENCE / 2, "nothing waited for the card, closing neither"
        with pytest.raises(SignerError) as another:
            PcscConnection(reader.name, timeout=0.2, answer_timeout=0.5)
        assert another.value.retryable
        silent.at = None
        slot.remove()
        reader.service.await_card(reader.name, present=False)
        slot.insert()
        reader.service.await_card(reader.name)
        with open_card(reader.address) as again:
            assert again.status().serial


def test_an_empty_answer(reader: Reader, card: SimulatedCard) -> None:
    """vpcd waits for ever after a frame without content; other drivers pass it on."""

    class Empty(Wrapped):
        def transmit(self, apdu: bytes) -> bytes:
            return b""

    with reader.holding(Empty(card)):
        connection = PcscConnection(reader.name, answer_timeout=0.5)
        try:
            with pytest.raises(CardRemoved):
                CardSession(connection).select()
        finally:
            connection.close()


def test_a_silent_card_ends_no_program_late(reader: Reader, card: SimulatedCard) -> None:
    """The call still hangs when the program ends; the program ends."""
    import subprocess
    import sys

    script = f"""
from hsm_signer.card.pcsc import PcscConnection
from hsm_signer.card.commands import CardSession
from hsm_signer.errors import CardRemoved
connection = PcscConnection({reader.name!r}, answer_timeout=0.3)
try:
    CardSession(connection).select()
except CardRemoved as error:
    print(error.message)
connection.close()
"""
    silent = Silent(card)
    with reader.holding(silent):
        silent.at = 1
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=SILENCE, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"the card in {reader.name} has stopped answering\n"
        assert time.monotonic() - begun < SILENCE / 2
        silent.at = None


def test_a_card_that_never_answers_to_reset(reader: Reader) -> None:
    class Mute:
        asked = 0

        @property
        def atr(self) -> bytes:
            self.asked += 1
            return b""

        def transmit(self, apdu: bytes) -> bytes:
            raise AssertionError("nobody gets as far as that")

        def reset(self) -> None:
            """Nothing to forget."""

    from tests.support.pcscd import inserted

    mute = Mute()
    with inserted(mute, reader.port):
        until(lambda: mute.asked > 0, "the service asks for its ATR")
        with pytest.raises(CardNotFound), open_card(reader.address):
            raise AssertionError


def test_the_serving_process_is_killed(home: Home, server: Server, reader: Reader) -> None:
    """card-applet-sim dies in the middle; its card's file is whole, and works in another reader."""
    import signal
    import subprocess
    import sys

    path = home["alice"].card_path
    command = [sys.executable, "-m", "card_applet_sim", "serve", str(path), "--port", str(reader.port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    reader.service.await_card(reader.name)
    with open_card(reader.address) as session:
        session.hash_message(BytesSource(b"m"))
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        with pytest.raises(CardRemoved):
            session.verify_pin(pin())
    reader.service.await_card(reader.name, present=False)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        reader.service.await_card(reader.name)
        assert sign(server, reader).signatures
    finally:
        process.terminate()
        process.wait(20)
        reader.service.await_card(reader.name, present=False)
