"""The simulator and the Java applet side by side: equal answers wherever nothing random is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.card import contract, host, machine
from tests.support.card.host import OK, Profile
from tests.support.card.model import COMMANDS, parse
from tests.support.card.targets import JavaTarget, SimulatorTarget, Target, make_blank

RANDOM = tuple(COMMANDS[name].header for name in ("BEGIN PERSONALISATION", "BEGIN ISSUE", "AUTHORISE"))
"""Answers with a point, or with R and what follows from it: only their lengths are compared."""

pytestmark = pytest.mark.applet


class DifferentialMachine(machine.CardMachine):
    """Two cards that get the same commands; the first is also held to the model."""

    twin: Target

    def __init__(self) -> None:
        super().__init__()
        self.twin_serial = make_blank(self.twin)
        self.twin.reset()
        self.twin_point = b""
        self.bent: Callable[[], bytes] | None = None

    def answered(self, apdu: bytes, answer: bytes) -> None:
        if self.bent is not None and apdu[:4] == COMMANDS["INSTALL"].header:
            # The wrapped keys are for one card's point; everything else is the same.
            data = self.bent()
            apdu = apdu[:4] + (bytes([len(data)]) + data if data else b"")
        twin = self.twin.transmit(apdu)
        assert len(twin) == len(answer), apdu.hex()
        assert twin[-2:] == answer[-2:], f"{twin[-2:].hex()}, expected {answer[-2:].hex()}, to {apdu.hex()}"
        parsed = parse(apdu)
        whole = answer[-2:] == b"\x90\x00" and parsed is not None and parsed.header[1] != 0xC0
        if not whole or parsed is None:
            return
        if parsed.header == COMMANDS["BEGIN PERSONALISATION"].header:
            parts = host.parse(twin[:-2])
            self.twin_point = parts[0x90]
            if self.model.issued:
                host.check_origin(parts)
        if parsed.header not in RANDOM:
            assert twin.replace(self.twin_serial, self.serial) == answer, apdu.hex()

    def install(self, profile: Profile, bend: Callable[[bytes], bytes]) -> None:
        self.bent = lambda: bend(host.install_data(profile, self.twin_point))
        try:
            super().install(profile, bend)
        finally:
            self.bent = None


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[SimulatorTarget, JavaTarget]]:
    """Both cards, blank."""
    java = JavaTarget()
    try:
        with SimulatorTarget(tmp_path / "card") as simulator:
            yield simulator, java
    finally:
        java.close()


class Both:
    """A target that resets two cards and answers for the first."""

    platform_as_documented = True
    shrinks = True
    renews = True

    def __init__(self, first: Target, second: Target) -> None:
        self._first, self._second = first, second

    def transmit(self, apdu: bytes, /) -> bytes:
        return self._first.transmit(apdu)

    def reset(self) -> None:
        self._first.reset()
        self._second.reset()

    def renew(self) -> None:
        self._first.renew()
        self._second.renew()

    def carries(self, apdu: bytes) -> bool:
        return self._first.carries(apdu) and self._second.carries(apdu)

    def close(self) -> None:
        raise AssertionError("their owner closes them")


def _bound(first: Target, second: Target) -> type[DifferentialMachine]:
    class Bound(DifferentialMachine):
        target = Both(first, second)
        twin = second

    return Bound


def test_random_commands_have_the_same_answers(pair: tuple[SimulatorTarget, JavaTarget]) -> None:
    machine.run(_bound(*pair), examples=80, steps=50)


def test_a_difference_is_found(pair: tuple[SimulatorTarget, JavaTarget]) -> None:
    """One status word changed, in a state that takes an enrolment to reach: the machine must see it."""

    class Bent(JavaTarget):
        def __init__(self) -> None:
            """The pair's own card is used."""

        def transmit(self, apdu: bytes, /) -> bytes:
            answer = pair[1].transmit(apdu)
            return b"\x63\xc1" if answer == b"\x63\xc2" else answer

        def reset(self) -> None:
            pair[1].reset()

        def renew(self) -> None:
            pair[1].renew()

    with pytest.raises(AssertionError, match="63c1, expected 63c2"):
        machine.run(_bound(pair[0], Bent()), examples=30, steps=50, shrinks=False)


def test_a_long_message_and_a_long_list(pair: tuple[SimulatorTarget, JavaTarget]) -> None:
    """What random sequences do not reach: many blocks, of every size, extended ones too."""
    digests = (256).to_bytes(2, "big") + b"\x20" + bytes(256 * 32)
    for profile in (host.BASIC_PROFILE, Profile()):
        for data, command, mode in ((b"m" * 5000, "HASH MESSAGE", 1), (digests, "LOAD DIGESTS", 2)):
            h = host.sha256(data if mode == 1 else b"hsm-signer/1/digests" + data)
            for block in (1, 63, 64, 255, 256, 4096) if mode == 1 else (3, 255, 4096):
                for card in pair:
                    make_blank(card)
                    slot = host.Host(card)
                    assert slot.install(profile) == OK
                    assert slot.chained(command, data, block) == OK
                    if profile.pin:
                        assert slot.verify(profile.pin) == OK
                    values = host.default_values(profile)
                    answer, word = slot.authorise(0x0201, values)
                    assert word == OK
                    opened = host.open_answer(profile, answer, 0x0201, mode, h, values)
                    assert opened == host.expected_keys(profile, values)


def test_contract_of_the_page_is_what_both_say(pair: tuple[SimulatorTarget, JavaTarget]) -> None:
    """Version and features, which the machine compares and the model does not know."""
    for card in pair:
        make_blank(card)
        status = host.Host(card).status()
        assert int.from_bytes(status[0x80], "big") == contract.version()
        origin = contract.features()["origin"]
        assert int.from_bytes(status[0x88], "big") | origin == sum(contract.features().values())
        assert not machine.is_issued(status)


def test_an_origin_of_both(pair: tuple[SimulatorTarget, JavaTarget]) -> None:
    """Issued, enrolled, reset and enrolled again: each proves its own point, by the key that was issued."""
    certificates = set()
    for card in pair:
        make_blank(card)
        slot = host.Host(card)
        assert slot.issue() == OK
        for profile in (Profile(), host.BASIC_PROFILE):
            data, word = slot.send("BEGIN PERSONALISATION")
            assert word == OK
            answer = host.parse(data)
            host.check_origin(answer)
            certificates.add(answer[0x8B])
            issued = b"hsm-signer/2/card-issue" + answer[0x8B][:33] + answer[0x87]
            host.check_ecdsa(host.token_point(host.ISSUER_KEY), issued, answer[0x8B][33:])
            assert slot.send("INSTALL", host.install_data(profile, answer[0x90]))[1] == OK
            assert slot.sign(profile) == host.expected_keys(profile)
            assert slot.send("BEGIN ISSUE")[1] == 0x6985
            make_blank(card)
        assert slot.send("BEGIN ISSUE")[1] == 0x6985
    assert len(certificates) == 2
