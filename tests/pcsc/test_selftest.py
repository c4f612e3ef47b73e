"""The self-test of a card, and what an answer to reset says."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from card_applet_sim import SimulatedCard
from hsm_signer.card.atr import extended_length, historical_bytes
from hsm_signer.card.selftest import SelfTest, on_curve, probe
from hsm_signer.errors import CardRemoved
from tests.support.card.host import OK, Host, Profile
from tests.support.readers import Foreign, MakeCard, Wrapped


class Direct:
    """A card without a reader between."""

    def __init__(self, card: Wrapped | SimulatedCard | Foreign) -> None:
        self._card = card

    def transmit(self, apdu: bytes) -> bytes:
        return self._card.transmit(apdu)

    def close(self) -> None:
        """Nothing to give back."""


def found(test: SelfTest) -> dict[str, bool | None]:
    return {check.name: check.passed for check in test.checks}


def test_a_good_blank_card(card: SimulatedCard) -> None:
    test = probe(Direct(card))
    assert test.passed
    assert found(test) == {
        "application": True,
        "status": True,
        "combinations": True,
        "digest lists": True,
        "extended length": None,
        "state": True,
        "key pair on P-256": True,
        "another key pair": True,
        "selection again": True,
    }
    assert all(check.seconds is not None for check in test.checks if check.name.endswith("pair on P-256"))
    # The key pair is forgotten: INSTALL has no personalisation key.
    assert Host(card).send("INSTALL", b"x")[1] == 0x6985


def test_a_card_in_use_is_not_changed(card: SimulatedCard) -> None:
    host = Host(card)
    host.select()
    assert host.install(Profile()) == OK
    before = host.status()
    wrapped = Wrapped(card)
    test = probe(Direct(wrapped))
    assert test.passed
    assert found(test)["key pair on P-256"] is None
    assert not any(event.startswith("8060") for event in wrapped.events)
    assert host.status() == before


def test_another_card() -> None:
    test = probe(Direct(Foreign()))
    assert not test.passed
    assert [check.found for check in test.missing] == ["the card does not hold the signing application"]
    assert test.status is None


def bent(card: SimulatedCard, instruction: int, old: bytes, new: bytes) -> SelfTest:
    class Bent(Wrapped):
        def transmit(self, apdu: bytes) -> bytes:
            answer = super().transmit(apdu)
            return answer.replace(old, new) if apdu[1] == instruction else answer

    return probe(Direct(Bent(card)))


def test_what_is_missing_is_named(make_card: MakeCard) -> None:
    features = b"\x88\x02\x00\x0f"
    for number, (bits, missing) in enumerate(
        [(0x0E, []), (0x0D, []), (0x0B, ["combinations"]), (0x07, ["digest lists"]), (0x03, None)]
    ):
        card = make_card(str(number))

        class Lacking(Wrapped):
            answer = b"\x88\x02\x00" + bytes([bits])

            def transmit(self, apdu: bytes) -> bytes:
                return super().transmit(apdu).replace(features, self.answer)

        test = probe(Direct(Lacking(card)))
        expected = ["combinations", "digest lists"] if missing is None else missing
        assert [check.name for check in test.missing] == expected


def test_a_generator_that_repeats_itself(card: SimulatedCard) -> None:
    class Same(Wrapped):
        point = b""

        def transmit(self, apdu: bytes) -> bytes:
            answer = super().transmit(apdu)
            if apdu[1] != 0x60:
                return answer
            self.point = self.point or answer
            return self.point

    test = probe(Direct(Same(card)))
    assert [check.name for check in test.missing] == ["another key pair"]
    assert "no random numbers" in test.missing[0].found


def test_a_status_that_differs(card: SimulatedCard) -> None:
    test = bent(card, 0xCA, b"\x88\x02\x00\x0f", b"\x88\x02\x00\x0e")
    assert [check.name for check in test.missing] == ["status"]


def test_a_card_that_goes_out(card: SimulatedCard) -> None:
    class Going(Wrapped):
        def transmit(self, apdu: bytes) -> bytes:
            if apdu[1] == 0x60:
                raise CardRemoved("out")
            return super().transmit(apdu)

    with pytest.raises(CardRemoved):
        probe(Direct(Going(card)))


def test_a_card_without_the_curve(card: SimulatedCard) -> None:
    test = bent(card, 0x60, b"\x90\x00", b"\x6f\x00")
    assert {check.name for check in test.missing} >= {"another key pair"}


@given(st.integers(1, 2**256 - 1))
def test_on_curve(scalar: int) -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    key = ec.derive_private_key(scalar % (order - 1) + 1, ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert on_curve(point)
    assert not on_curve(point[:-1] + bytes([point[-1] ^ 1]))
    assert not on_curve(point[:-1])
    assert not on_curve(b"\x02" + point[1:])
    assert not on_curve(b"\x04" + bytes(64))


ATRS = {
    # The simulator's: T=0 and T=1 offered, category 80, capabilities 80 21 C0.
    "3B89800180738021C05353474E93": True,
    "3B89800180738021805353474ED3": False,  # the same without extended length
    "3B80800101": False,  # no historical bytes
    "3B00": False,
    "3BF81300008131FE454A434F5076323431B7": False,  # a J3H145: text, no TLVs
    "3B": False,
    "": False,
    "3BFF": False,
    "3B8980018073": False,  # cut off
    "3B0600738021C000": False,  # the capabilities' length runs into the status
    "3B0800738021C0009000": True,  # category 00: three bytes of status at the end
    "3B04807F0000": False,
}


@pytest.mark.parametrize("atr", ATRS)
def test_extended_length(atr: str) -> None:
    assert extended_length(bytes.fromhex(atr)) is ATRS[atr]


@given(st.binary(max_size=40))
def test_any_atr(atr: bytes) -> None:
    extended_length(atr)
    assert historical_bytes(atr) in atr
