"""A simulated card in its slot: power, transport and one applet (the host's view)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import reduce
from operator import xor
from pathlib import Path
from types import TracebackType
from typing import Self

from . import memory
from .applet import Applet
from .command_data import Refused
from .constants import SERIAL_LENGTH, Sw
from .keys import random_bytes
from .memory import CardError, Image, PersistentMemory, WriteStage
from .reader import AnswerBuffer, MalformedApdu, parse, status

_GET_RESPONSE = (0x00, 0xC0, 0x00, 0x00)


def _atr(*, extended_length: bool) -> bytes:
    """ATR (ISO 7816-3, 8.2): T=1, historical bytes of category 80 (ISO 7816-4, 12.1.1), TCK.

    Card capabilities (tag 7, length 3): selection by full DF name; data coding byte 21; chaining, and
    extended length where the card has it. Card issuer's data (tag 5, length 3): "SGN".
    """
    history = bytes([0x80, 0x73, 0x80, 0x21, 0xC0 if extended_length else 0x80, 0x53]) + b"SGN"
    checked = bytes([0x80 | len(history), 0x80, 0x01]) + history
    return b"\x3b" + checked + bytes([reduce(xor, checked)])


class SimulatedCard:
    """A card whose persistent memory is one file. Not for several threads at once.

    Everything that a real card forgets at power-off is forgotten by :meth:`reset` and :meth:`close`;
    everything else is in the file when :meth:`transmit` returns.
    """

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, random: Callable[[int], bytes] = os.urandom) -> None:
        """Make a blank card's memory, mode 0600. Raises CardExists, CardError."""
        memory.create(Path(path), Image(random_bytes(random, SERIAL_LENGTH)))

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        random: Callable[[int], bytes] = os.urandom,
        lock_timeout: float = 10.0,
        extended_length: bool = True,
        fault: Callable[[WriteStage], None] | None = None,
    ) -> None:
        """Open and lock the card; its power is on, nothing is selected.

        ``random``: the card's generator. ``lock_timeout``: seconds to wait for another opener.
        ``extended_length``: False simulates a card with short APDUs only. ``fault`` is called at every stage
        of every persistent write and may raise: CardTorn (the power is lost; ``transmit`` raises it) or
        OSError (a failing memory; 6581).
        Raises CardMissing, CardBusy, MemoryDamaged, CardError.
        """
        self._memory = PersistentMemory(Path(path), lock_timeout=lock_timeout, fault=fault)
        self._applet = Applet(self._memory, random, extended_length=extended_length)
        self._answers = AnswerBuffer()
        self._extended = extended_length
        self.atr = _atr(extended_length=extended_length)
        """Answer to reset."""

    def transmit(self, apdu: bytes) -> bytes:
        """Answer one APDU: data || SW1 SW2. Whatever the bytes are, the answer is a status word.

        Raises CardError after :meth:`close`, and what ``fault`` raises; the card has then lost its power.
        """
        if self._memory.closed:
            raise CardError("the card has been removed")
        try:
            return self._transmit(bytes(apdu))
        except BaseException:
            self.reset()
            raise

    def _transmit(self, raw: bytes) -> bytes:
        try:
            apdu = parse(raw, extended=self._extended)
        except MalformedApdu:
            return status(Sw.WRONG_LENGTH)
        header = (apdu.cla, apdu.ins, apdu.p1, apdu.p2)
        if self._answers and header == _GET_RESPONSE and not apdu.data:
            return self._answers.get_response(apdu.ne)
        self._answers.clear()
        try:
            return self._answers.answer(self._applet.process(apdu), apdu.ne)
        except Refused as refused:
            return status(refused.word)

    def reset(self) -> None:
        """Power off and on: transient memory dies, nothing is selected."""
        self._applet.power_off()
        self._answers.clear()

    def close(self) -> None:
        """Take the card out: transient memory dies, the lock is given back. May be called twice."""
        self.reset()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
