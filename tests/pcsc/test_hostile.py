"""Cards that answer what they like, through the real service: one of our errors each, and never a hang."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from card_applet_sim import SimulatedCard, vpcd
from hsm_signer.card.address import connect_card, open_card
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin
from hsm_signer.card.selftest import probe
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import (
    CardAnswerMalformed,
    CardError,
    CardRefused,
    CardRemoved,
    InputError,
    SignerError,
)
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, Home
from hsm_signer.types import KeySpec, Message, PinCheck, Scheme
from hsm_signer.workstation.enrolment import (
    Enrolment,
    enrol,
)
from hsm_signer.workstation.signing import (
    sign_content,
)
from tests.support.readers import Reader, Wrapped

SELECT, VERIFY, BEGIN, HASH, AUTHORISE = 0xA4, 0x20, 0x60, 0x2A, 0x64


class Bent(Wrapped):
    """Answers to one instruction are bent."""

    def __init__(self, card: vpcd.Card, instruction: int, bend: Callable[[bytes], bytes]) -> None:
        super().__init__(card)
        self.instruction, self.bend = instruction, bend
        self.bending = True

    def transmit(self, apdu: bytes) -> bytes:
        answer = super().transmit(apdu)
        return self.bend(answer) if self.bending and apdu[1] == self.instruction else answer


class Endless(Wrapped):
    """After one instruction there is always more to fetch."""

    def __init__(self, card: vpcd.Card, instruction: int) -> None:
        super().__init__(card)
        self._instruction, self.part = instruction, b""
        self.fetched = 0
        self.bending = True

    def transmit(self, apdu: bytes) -> bytes:
        if self.bending and apdu[1] in (self._instruction, 0xC0):
            self.fetched += apdu[1] == 0xC0
            return self.part + b"\x61\x00"
        return super().transmit(apdu)


@pytest.fixture
def alices(home: Home) -> Iterator[SimulatedCard]:
    with SimulatedCard(home["alice"].card_path, lock_timeout=0) as opened:
        yield opened


def sign(server: Server, reader: Reader, message: bytes = b"m") -> object:
    return sign_content(
        server,
        lambda: open_card(reader.address),
        Message(BytesSource(message)),
        algorithm=None,
        ask_pin=lambda: CardPin(PIN, source="test"),
    )


BENT: dict[str, tuple[int, Callable[[bytes], bytes], tuple[type[SignerError], ...]]] = {
    "one byte": (SELECT, lambda _: b"\x90", (CardAnswerMalformed, CardRemoved)),
    "cut": (SELECT, lambda a: a[:9] + a[-2:], (CardAnswerMalformed,)),
    "too long": (SELECT, lambda a: a[:-2] + bytes(400) + a[-2:], (CardAnswerMalformed, CardRemoved)),
    "far too long": (SELECT, lambda _: bytes(65000), (CardAnswerMalformed, CardRemoved)),
    "noise": (SELECT, lambda _: b"\xff" * 40 + b"\x90\x00", (CardAnswerMalformed,)),
    "unknown word": (HASH, lambda _: b"\x12\x34", (CardRefused,)),
    "data where none belong": (HASH, lambda a: b"data" + a, (CardAnswerMalformed,)),
    "wrong Le for ever": (AUTHORISE, lambda _: b"\x6c\x10", (CardAnswerMalformed,)),
    "Q cut": (AUTHORISE, lambda a: a[:-3] + a[-2:], (CardAnswerMalformed,)),
    "Q of another": (AUTHORISE, lambda a: a[:-10] + bytes(8) + a[-2:], (SignerError,)),
    "no tries of fifteen": (VERIFY, lambda _: b"\x63\xc0", (CardError,)),
}


def test_bent_answers(server: Server, reader: Reader, alices: SimulatedCard) -> None:
    card = Bent(alices, 0, bytes)
    with reader.holding(card):
        for name, (instruction, bend, expected) in BENT.items():
            card.instruction, card.bend, card.bending = instruction, bend, True
            with pytest.raises(expected) as error:
                sign(server, reader)
            assert "\n" not in error.value.message, name
            card.bending = False
            assert sign(server, reader), name
    assert server.audit().good


def test_endless_answers(server: Server, reader: Reader, alices: SimulatedCard) -> None:
    card = Endless(alices, AUTHORISE)
    with reader.holding(card):
        for part in (b"", b"\0", bytes(256)):
            card.part, card.fetched, card.bending = part, 0, True
            with pytest.raises(CardAnswerMalformed):
                sign(server, reader)
            assert card.fetched <= 256
            card.bending = False
            assert sign(server, reader)


def _off_curve(answer: bytes) -> bytes:
    return answer[:66] + bytes([answer[66] ^ 1]) + answer[67:]


POINTS: dict[str, Callable[[bytes], bytes]] = {
    "off the curve": _off_curve,
    "at infinity": lambda a: a[:2] + bytes(65) + a[67:],
    "compressed": lambda a: a[:2] + b"\x02" + a[3:],
    "too short": lambda a: b"\x90\x40" + a[2:66] + a[67:],
    "beyond the field": lambda a: a[:3] + b"\xff" * 32 + a[35:],
}


def test_points(server: Server, reader: Reader, card: SimulatedCard) -> None:
    """The server never computes with them, the card stays blank, and then it is enrolled after all."""
    wanted = Enrolment(
        owner="dora",
        scheme=Scheme.ROLLING,
        key=KeySpec.P256,
        pin=CardPin(PIN, source="test"),
        puk=None,
        pin_check=PinCheck.CARD,
    )
    bent = Bent(card, BEGIN, bytes)
    with reader.holding(bent):
        for name, bend in POINTS.items():
            bent.bend = bend
            with connect_card(reader.address) as connection:
                found = probe(connection)
            assert "key pair on P-256" in {check.name for check in found.missing}, name
            with pytest.raises((CardError, InputError)):
                enrol(server, lambda: open_card(reader.address), wanted)
        bent.bending = False
        enrolled = enrol(server, lambda: open_card(reader.address), wanted)
        assert enrolled.credential.owner == "dora"


def test_a_card_that_stops_taking_extended_apdus(
    server: Server, reader: Reader, alices: SimulatedCard
) -> None:
    """It said it takes them, in its answer to reset and its features; it gets short ones then."""

    class Short(Wrapped):
        def transmit(self, apdu: bytes) -> bytes:
            return super().transmit(apdu) if len(apdu) <= 261 else b"\x67\x00"

    card = Short(alices)
    with reader.holding(card):
        assert sign(server, reader, b"x" * 5000)
        sent = [len(event) // 2 for event in card.events if event.startswith("102a")]
    assert sent == [260] * 19, "19 whole blocks of 255 bytes and the rest"


def test_extended_apdus_where_card_and_reader_take_them(
    server: Server, reader: Reader, alices: SimulatedCard
) -> None:
    card = Wrapped(alices)
    with reader.holding(card):
        assert sign(server, reader, b"x" * 9000)
    sent = [len(event) // 2 for event in card.events if event[2:8] == "2a9080"]
    assert sent == [4096 + 7, 4096 + 7, 9000 - 8192 + 7]


def test_an_answer_lost_under_an_extended_block(
    server: Server, reader: Reader, alices: SimulatedCard
) -> None:
    """The card hashed the block and its answer did not come through; the hash must not count it twice."""

    class Lossy(Wrapped):
        def transmit(self, apdu: bytes) -> bytes:
            answer = super().transmit(apdu)
            return answer if len(apdu) <= 261 else b"\x67\x00"

    with reader.holding(Lossy(alices)):
        assert sign(server, reader, b"x" * 5000), "the server hashes the same message"


class T0(Wrapped):
    """A T=0 card: five header bytes, no data both ways, GET RESPONSE for answers, 6Cxx for a wrong Le."""

    @property
    def atr(self) -> bytes:
        return bytes.fromhex("3B00")

    def __init__(self, card: vpcd.Card) -> None:
        super().__init__(card)
        self._waiting = b""

    def transmit(self, apdu: bytes) -> bytes:
        self.events.append(apdu.hex())
        assert len(apdu) >= 5
        p3 = apdu[4]
        assert len(apdu) in (5, 5 + p3), "case 4 is no TPDU"
        if apdu[1] == 0xC0:
            assert self._waiting, "nothing waits"
            wanted = p3 or 256
            answer, self._waiting = self._waiting[:wanted], self._waiting[wanted:]
            return answer + (b"\x61" + bytes([len(self._waiting) & 0xFF]) if self._waiting else b"\x90\x00")
        self._waiting = b""
        if len(apdu) > 5:
            answer = self.card.transmit(apdu)
            if answer[:-2]:
                self._waiting = answer[:-2]
                return b"\x61" + bytes([len(self._waiting) & 0xFF])
            return answer
        answer = self.card.transmit(apdu)
        if len(answer) > 2 and p3 != len(answer) - 2:
            # The command is given again with the right Le.
            return b"\x6c" + bytes([len(answer) - 2])
        return answer


def test_t0(server: Server, reader: Reader, alices: SimulatedCard) -> None:
    card = T0(alices)
    with reader.holding(card):
        with connect_card(reader.address) as connection:
            session = CardSession(connection)
            assert session.select() == session.status()
        assert sign(server, reader, b"x" * 1000)
        assert not any(event.startswith("002a90800") for event in card.events), "short blocks only"
    fetched = [event for event in card.events if event.startswith("00c0")]
    corrected = [event for event in card.events if event.startswith("80ca") and not event.endswith("00")]
    assert fetched
    assert corrected
