"""A card in a virtual reader: the card's side of vsmartcard's vpcd, which pcscd loads as a reader driver.

Frames both ways are a length, u16 big endian, and as many bytes. vpcd speaks first:

    00            power off                        no reply
    01            power on                         no reply
    02            reset                            no reply
    04            give the ATR; also a poll        the ATR
    2 and more    command APDU                     response APDU

Closing the connection is taking the card out. vpcd knows no authentication: for trials and tests.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from . import constants as c
from .memory import CardError
from .reader import MalformedApdu, parse

HOST, PORT = "127.0.0.1", 35963
"""Where Debian's vpcd waits for the card in its first slot; the second slot's port is one higher."""
_POWER_OFF, _POWER_ON, _RESET, _GET_ATR = b"\x00", b"\x01", b"\x02", b"\x04"
_LONGEST = 0xFFFF
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts to connect; each pause is twice the one before."""
_CONNECT_TIMEOUT = 5.0
_SILENCE = 3.0
"""Seconds in which vpcd polls for a card several times."""


class Card(Protocol):
    """What goes into the slot. :class:`card_applet_sim.SimulatedCard` is one."""

    @property
    def atr(self) -> bytes:
        """Answer to reset; asking for it changes nothing."""
        ...

    def transmit(self, apdu: bytes, /) -> bytes:
        """Data || SW1 SW2."""
        ...

    def reset(self) -> None:
        """Transient memory dies."""
        ...


class Slot:
    """One connection to vpcd. ``close`` from any thread takes the card out."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @classmethod
    def connect(cls, host: str = HOST, port: int = PORT) -> Slot:
        """Raises OSError."""
        return cls(socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT))

    def serve(self, card: Card, log: Callable[[str], None] | None = None) -> None:
        """Answer until vpcd closes the connection or :meth:`close` is called; ``log`` gets a line each way.

        Raises what the card raises; the card is then out. Whatever ends it, the card has lost its power.
        """
        self._socket.settimeout(None)
        redactor = Redactor()
        try:
            while (frame := self._receive()) is not None:
                if frame == _GET_ATR:
                    self._send(card.atr)
                elif frame in (_POWER_OFF, _POWER_ON, _RESET):
                    card.reset()
                elif len(frame) > 1:
                    answer = card.transmit(frame)
                    if log is not None:
                        log(redactor.command(frame))
                        log(redactor.answer(answer))
                    self._send(answer)
                # Anything else is no frame that vpcd knows: nothing to do, nothing to reply.
        finally:
            card.reset()
            self.close()

    def spoken_to(self, seconds: float | None) -> bool:
        """Whether vpcd says something, or ends the connection, within ``seconds``; None waits for ever."""
        ready, _, _ = select.select([self._socket], [], [], seconds)
        return bool(ready)

    def close(self) -> None:
        """The card is out. May be called twice."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _receive(self) -> bytes | None:
        head = self._exactly(2)
        if head is None:
            return None
        length = int.from_bytes(head)
        return self._exactly(length) if length else b""

    def _exactly(self, count: int) -> bytes | None:
        """``count`` bytes, neither fewer nor more: frames coalesce. None where the connection ended."""
        parts = b""
        while len(parts) < count:
            try:
                # vpcd sends length and payload in two writes. Without an immediate acknowledgement of the
                # first its kernel holds the second back for 40 ms; Linux forgets the option again and again.
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
                part = self._socket.recv(count - len(parts))
            except OSError:
                return None
            if not part:
                return None
            parts += part
        return parts

    def _send(self, payload: bytes) -> None:
        with suppress(OSError):  # the next read finds out that nobody is there
            self._socket.sendall(len(payload[:_LONGEST]).to_bytes(2) + payload[:_LONGEST])


_QUICKACK: int = getattr(socket, "TCP_QUICKACK", socket.TCP_NODELAY)
"""Linux has it; elsewhere an option that is set anyway."""


def serve(
    card: Card,
    host: str,
    port: int,
    *,
    tell: Callable[[str], None],
    log: Callable[[str], None] | None = None,
    patience: float | None = None,
) -> None:
    """Keep the card in the slot at ``host:port`` for ever, over restarts of pcscd; Ctrl-C takes it out.

    ``tell`` gets a line when the card goes in or falls out. ``patience``: seconds to wait for vpcd, at the
    beginning and after each loss; None waits for ever. Raises CardError when they have passed, and what the
    card raises.
    """
    while True:
        slot = _connect(host, port, tell, patience)
        # The kernel takes a second connection that vpcd does not look at before the first is gone.
        if not slot.spoken_to(_SILENCE):
            tell(f"the reader at {host}:{port} says nothing: does it hold another card?")
            slot.spoken_to(None)
        tell(f"the card is in the reader at {host}:{port}; Ctrl-C takes it out")
        slot.serve(card, log)
        tell("the reader has gone")


def _connect(host: str, port: int, tell: Callable[[str], None], patience: float | None) -> Slot:
    deadline = None if patience is None else time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            return Slot.connect(host, port)
        except OSError as error:
            if deadline is not None and time.monotonic() + pause > deadline:
                why = error.strerror or error
                raise CardError(
                    f"no virtual reader at {host}:{port} ({why}): is pcscd running, with vpcd?"
                ) from error
            if pause == _FIRST_PAUSE:
                tell(f"waiting for a virtual reader (pcscd with vpcd) at {host}:{port}")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


class Redactor:
    """Lines for a log of APDUs that may be shown to others.

    Only what is known to be harmless is written out; of everything else, whatever a host sends or a card
    answers, the header, the number of bytes and the status word.
    """

    def __init__(self) -> None:
        self._show_answer = False

    def command(self, raw: bytes) -> str:
        """``> 00200081 [6 bytes]``."""
        self._show_answer = False
        try:
            apdu = parse(raw)
        except MalformedApdu:
            return f"> [{_bytes(len(raw))}, no APDU]"
        header = (apdu.cla & ~c.CHAINING, apdu.ins, apdu.p1, apdu.p2)
        self._show_answer = header in _ANSWER_SHOWN
        data = ""
        if apdu.data:
            data = f" {apdu.data.hex()}" if header in _DATA_SHOWN else f" [{_bytes(len(apdu.data))}]"
        le = "" if apdu.ne is None else f" Ne={apdu.ne}"
        return f"> {raw[:4].hex()}{data}{le}"

    def answer(self, raw: bytes) -> str:
        """``< 9000 [56 bytes]``, after the line of its command."""
        data = ""
        if raw[:-2]:
            data = f" {raw[:-2].hex()}" if self._show_answer else f" [{_bytes(len(raw) - 2)}]"
        return f"< {raw[-2:].hex()}{data}"


def _header(command: c.Command) -> tuple[int, int, int, int]:
    return command.cla, command.ins, command.p1, command.p2


_DATA_SHOWN = frozenset(map(_header, (c.SELECT, c.LOAD_DIGESTS, c.AUTHORISE)))
"""No PIN, PUK or key, and no message, which may be nobody else's business."""
_ANSWER_SHOWN = frozenset(map(_header, (c.SELECT, c.GET_STATUS, c.BEGIN_PERSONALISATION)))
"""AUTHORISE's Q opens with what a server knows; GET RESPONSE may carry it."""


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
