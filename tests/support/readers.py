"""A reader of the tests' PC/SC service, cards that behave otherwise, and another program at the same card."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from card_applet_sim import SimulatedCard, vpcd

from .pcscd import SLOTS, Inserted, Pcscd, inserted

MakeCard = Callable[[str], SimulatedCard]
"""Blank simulated cards, by names of the test's."""


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


class Foreign:
    """A card without our application, as every other card answers."""

    atr = bytes.fromhex("3B00")

    def transmit(self, apdu: bytes) -> bytes:
        return b"\x6a\x82" if apdu[1] == 0xA4 else b"\x6d\x00"

    def reset(self) -> None:
        """Nothing to forget."""


@contextmanager
def other_program(reader: str, *, exclusive: bool = False, transaction: bool = False) -> Iterator[Any]:
    """Another process that has the card open, as pyscard's user would."""
    script = """
import sys
from smartcard import scard as s
code, context = s.SCardEstablishContext(0)
mode = s.SCARD_SHARE_EXCLUSIVE if "exclusive" in sys.argv else s.SCARD_SHARE_SHARED
code, card, protocol = s.SCardConnect(context, sys.argv[1], mode, 3)
assert code == 0, hex(code)
if "transaction" in sys.argv:
    assert s.SCardBeginTransaction(card) == 0
for line in iter(lambda: (print("ready", flush=True), sys.stdin.readline())[1], ""):
    if line == "end\\n":
        assert s.SCardEndTransaction(card, s.SCARD_LEAVE_CARD) == 0
    elif line == "reset\\n":
        code, protocol = s.SCardReconnect(card, mode, 3, s.SCARD_RESET_CARD)
        assert code == 0, hex(code)
    elif line == "leave\\n":
        assert s.SCardDisconnect(card, s.SCARD_LEAVE_CARD) == 0
"""
    options = ["exclusive"] * exclusive + ["transaction"] * transaction
    process = subprocess.Popen(
        [sys.executable, "-c", script, reader, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"

    def say(word: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()
        if word != "go":
            assert process.stdout.readline() == "ready\n"

    try:
        yield say
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()
