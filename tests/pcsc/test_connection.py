"""The driver's connection through pcscd: who holds the card, which card is meant, what goes wrong."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from card_applet_sim import SimulatedCard
from hsm_signer.card import pcsc
from hsm_signer.card.address import connect_card, create_card, open_card
from hsm_signer.card.commands import CardSession, CardState
from hsm_signer.card.pcsc import PcscConnection, list_cards, open_reader
from hsm_signer.card.pins import CardPin
from hsm_signer.errors import CardInUse, CardNotFound, CardRemoved, InputError, SignerError
from tests.support.card.host import OK, Host, Profile
from tests.support.commandline import Process
from tests.support.pcscd import SLOTS, Pcscd, states, until
from tests.support.readers import Foreign, MakeCard, Reader, Wrapped, other_program

SELECT = bytes.fromhex("00A4040009F048534D5349474E0100")
VERIFY = bytes.fromhex("00200081")


def enrolled(card: SimulatedCard) -> SimulatedCard:
    host = Host(card)
    host.select()
    assert host.install(Profile()) == OK
    card.reset()
    return card


def message_of(error: pytest.ExceptionInfo[Any]) -> str:
    """One line, no code of PC/SC's as a name, and something to do."""
    assert isinstance(error.value, SignerError)
    assert "\n" not in error.value.message
    assert "SCARD" not in error.value.message
    assert error.value.hint
    return error.value.message


# --- a card held open ----------------------------------------------------------------------------------


def test_the_card_is_ours_alone_and_is_reset_afterwards(reader: Reader, card: SimulatedCard) -> None:
    wrapped = Wrapped(enrolled(card))
    pin = CardPin(Profile().pin.decode(), source="test")
    with reader.holding(wrapped):
        with open_card(reader.address) as session:
            assert session.status().state is CardState.ACTIVE
            session.verify_pin(pin)
            assert session.pin_state().verified
            with pytest.raises(CardInUse) as error:
                PcscConnection(reader.name, timeout=0.2)
            assert message_of(error) == f"another program holds the card in {reader.name}"
            assert error.value.retryable
        assert wrapped.events[-1] == "reset", "KEK and verification are gone"
        assert Host(card).send("GET STATUS")[1] == 0x6D00
        with open_card(reader.address) as session:
            assert not session.pin_state().verified


def test_a_closed_connection(reader: Reader, card: SimulatedCard) -> None:
    with reader.holding(card):
        connection = PcscConnection(reader.name)
        assert connection.atr == card.atr
        assert not connection.shared
        connection.close()
        connection.close()
        with pytest.raises(CardRemoved):
            connection.transmit(SELECT)
        assert connection.find_keypad() is None


def test_a_single_byte_never_gets_to_the_driver(reader: Reader, card: SimulatedCard) -> None:
    """vpcd would take it for an order and wait for ever."""
    with reader.holding(card), connect_card(reader.address) as connection:
        for short in (b"", b"\0", b"\0\0\0"):
            with pytest.raises(ValueError, match="4 bytes at least"):
                connection.transmit(short)
        assert connection.transmit(SELECT)[-2:] == b"\x90\x00"


def test_a_program_that_is_killed_gives_the_card_back(reader: Reader, card: SimulatedCard) -> None:
    """By SIGKILL, the PIN verified: whoever comes next finds nothing of it."""
    wrapped = Wrapped(enrolled(card))
    script = f"""
import os, signal
from hsm_signer.card.address import open_card
from hsm_signer.card.pins import CardPin
with open_card({reader.address!r}) as session:
    session.verify_pin(CardPin({Profile().pin.decode()!r}, source="test"))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    with reader.holding(wrapped):
        done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60, cwd=Path.cwd())
        assert done.returncode == -9
        until(lambda: wrapped.events[-1] == "reset", "pcscd resets what a dead program held")
        with open_card(reader.address) as session:
            assert not session.pin_state().verified


def test_the_card_another_program_has_open(
    reader: Reader, card: SimulatedCard, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Shared, in a transaction; a word about it; and the other program cannot come between."""
    with reader.holding(card), other_program(reader.name):
        with caplog.at_level(logging.WARNING), connect_card(reader.address) as connection:
            assert isinstance(connection, PcscConnection)
            assert connection.shared
            assert CardSession(connection).select().state is CardState.BLANK
            with pytest.raises(CardInUse):
                PcscConnection(reader.name, timeout=0.3)
        words = (
            f"another program has the card in {reader.name} open, too; it waits until this command is done"
        )
        assert [record.getMessage() for record in caplog.records] == [words]
        ran = Process(tmp_path, tmp_path)("card", "info", reader.address)
        assert f"warning: {words}" in ran.err.splitlines()
        ran = Process(tmp_path, tmp_path)("--verbose", "card", "info", reader.address)
        assert f"info: card connected in {reader.name}, protocol T=1" in ran.err.splitlines()


def test_a_transaction_of_another_program_is_waited_for(reader: Reader, card: SimulatedCard) -> None:
    with reader.holding(card), other_program(reader.name, transaction=True) as say:
        begun = time.monotonic()
        with pytest.raises(CardInUse) as error:
            PcscConnection(reader.name, timeout=0.3)
        assert 0.2 < time.monotonic() - begun < 20
        message_of(error)
        timer = threading.Timer(0.5, say, ["end"])
        timer.start()
        with open_card(reader.address, timeout=10) as session:
            assert session.status().state is CardState.BLANK
        timer.join(10)
        # What was given up above has let go again, too.
        until(lambda: _opens(reader), "the card is free")


def _opens(reader: Reader) -> bool:
    try:
        PcscConnection(reader.name, timeout=0.2).close()
    except CardInUse:
        return False
    return True


def test_an_exclusive_holder_is_waited_for(reader: Reader, card: SimulatedCard) -> None:
    with reader.holding(card), other_program(reader.name, exclusive=True) as say:
        with pytest.raises(CardInUse) as error:
            PcscConnection(reader.name, timeout=0.0)
        message_of(error)
        timer = threading.Timer(0.5, say, ["leave"])
        timer.start()
        with open_card(reader.address, timeout=10) as session:
            assert session.status().state is CardState.BLANK
        timer.join(10)


def test_two_of_our_programs_take_turns(reader: Reader, card: SimulatedCard) -> None:
    failures: list[BaseException] = []
    inside = threading.Lock()

    def use() -> None:
        try:
            for _ in range(5):
                with open_card(reader.address, timeout=20) as session:
                    assert inside.acquire(blocking=False), "both had the card"
                    assert session.status().state is CardState.BLANK
                    inside.release()
        except BaseException as error:
            failures.append(error)

    with reader.holding(card):
        threads = [threading.Thread(target=use, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    assert not failures


def test_another_program_resets_the_card(reader: Reader, card: SimulatedCard) -> None:
    """Possible in the moment before our transaction, or where a driver does not keep to it."""
    with reader.holding(card), other_program(reader.name) as say:
        connection = PcscConnection(reader.name)
        try:
            CardSession(connection).select()
            service = connection._service
            service._call(service.scard.SCardEndTransaction, service._card, service.scard.SCARD_LEAVE_CARD)
            say("reset")
            with pytest.raises(CardRemoved) as error:
                CardSession(connection).status()
            assert message_of(error) == f"another program has reset the card in {reader.name}"
            assert error.value.retryable
        finally:
            connection.close()
        with open_card(reader.address) as session:
            assert session.status().state is CardState.BLANK


# --- what goes away ------------------------------------------------------------------------------------


def test_no_card_then_one(reader: Reader, card: SimulatedCard) -> None:
    with pytest.raises(CardNotFound) as error, open_card(reader.address):
        raise AssertionError
    assert message_of(error) == f"there is no card in {reader.name}"
    assert "--wait" in (error.value.hint or "")
    with reader.holding(card), open_card(reader.address) as session:
        assert session.status().state is CardState.BLANK


def test_the_card_is_taken_out_and_put_back(reader: Reader, card: SimulatedCard) -> None:
    with reader.holding(card) as slot:
        with open_card(reader.address) as session:
            slot.remove()
            with pytest.raises(CardRemoved) as error:
                session.status()
            assert message_of(error).startswith(("the card was taken out", "the connection to the card"))
            assert error.value.retryable
            with pytest.raises(CardRemoved):
                session.status()
        reader.service.await_card(reader.name, present=False)
        slot.insert()
        reader.service.await_card(reader.name)
        with open_card(reader.address) as session:
            assert session.status().state is CardState.BLANK


def test_a_foreign_card(reader: Reader) -> None:
    with reader.holding(Foreign()):
        with pytest.raises(CardNotFound) as error, open_card(reader.address):
            raise AssertionError
        assert message_of(error) == "the card does not hold the signing application"


def test_the_service_is_restarted(reader: Reader, make_card: MakeCard, pcscd: Pcscd) -> None:
    card = make_card("one")
    with reader.holding(card) as slot, open_card(reader.address) as session:
        pcscd.restart()
        with pytest.raises(CardRemoved) as error:
            session.status()
        assert message_of(error) == "the machine's smart card service was stopped or restarted"
        slot.remove()
        slot.insert()
        pcscd.await_card(reader.name)
        with open_card(reader.address) as again:
            assert again.status().state is CardState.BLANK


def test_no_service(reader: Reader, pcscd: Pcscd) -> None:
    pcscd.stop()
    calls: list[Callable[[], object]] = [
        list_cards,
        lambda: open_reader(""),
        lambda: open_reader("", wait=5),
        lambda: PcscConnection(reader.name),
    ]
    for call in calls:
        with pytest.raises(CardNotFound) as error:
            call()
        assert message_of(error) == "the machine's smart card service (PC/SC) is not running"
    pcscd.start()
    assert [found.reader for found in list_cards()] == list(SLOTS)


def test_no_reader(pcscd: Pcscd) -> None:
    """A service without a driver: pcscd with a configuration that names none."""
    pcscd.stop()
    pcscd.start(readers=False)
    try:
        assert list_cards() == []
        with pytest.raises(CardNotFound) as error:
            open_reader("")
        assert message_of(error) == "there is no smart card reader"
        with pytest.raises(CardNotFound) as error:
            PcscConnection(SLOTS[0])
        assert message_of(error) == "there is no smart card reader"
    finally:
        pcscd.restart()


def test_no_pyscard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smartcard", None)
    for call in (list_cards, lambda: open_reader("")):
        with pytest.raises(InputError) as error:
            call()
        assert message_of(error).startswith("cards in readers need the Python package pyscard")
        assert "hsm-signer[pcsc]" in (error.value.hint or "")


def test_pyscard_is_imported_late() -> None:
    script = "import sys, hsm_signer.card.pcsc, hsm_signer.card.address; sys.exit('smartcard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


# --- which card ----------------------------------------------------------------------------------------


def test_by_name_and_without(reader: Reader, other_reader: Reader, make_card: MakeCard) -> None:
    one, two = make_card("one"), make_card("two")
    serials = [Host(card).select()[0] and Host(card).status()[0x87] for card in (one, two)]

    def serial(name: str) -> bytes:
        with open_card(f"pcsc:{name}") as session:
            return session.status().serial

    with reader.holding(one):
        # One card there is, in whichever reader.
        assert serial("") == serial("Test") == serial("rEADER") == serial("00 00") == serials[0]
        with pytest.raises(CardNotFound) as missing:
            serial("00 01")
        assert message_of(missing) == f"there is no card in {other_reader.name}"
        with pytest.raises(CardNotFound) as missing:
            serial("gemalto")
        assert message_of(missing) == "no reader's name contains 'gemalto'"
        assert all(name in (missing.value.hint or "") for name in SLOTS)
        with other_reader.holding(two):
            assert serial("00 01") == serials[1]
            assert serial(reader.name) == serials[0]
            for name in ("", "Test Reader"):
                with pytest.raises(InputError) as error:
                    serial(name)
                assert "2 readers hold a card" in message_of(error)
                assert all(slot in (error.value.hint or "") for slot in SLOTS)
        with other_reader.holding(Foreign()):
            assert serial("") == serials[0], "one of two cards has our application"
    with reader.holding(Foreign()), other_reader.holding(Foreign()), pytest.raises(InputError) as error:
        serial("")
    assert "2 readers hold a card" in message_of(error)


def test_no_card_in_several_readers(reader: Reader) -> None:
    with pytest.raises(CardNotFound) as error:
        open_reader("Test")
    assert message_of(error) == "there is no card in any of 2 readers"
    assert all(name in (error.value.hint or "") for name in SLOTS)


def test_a_card_in_use_is_meant_where_no_other_is_ours(
    reader: Reader, other_reader: Reader, card: SimulatedCard
) -> None:
    """Two programs with a bare pcsc: at once: the second waits for the card, and takes no foreign one."""
    with reader.holding(card), other_reader.holding(Foreign()), open_card(reader.address):
        with pytest.raises(CardInUse) as error:
            open_reader("", timeout=0.2)
        assert reader.name in message_of(error)


def test_waiting_for_a_card(reader: Reader, card: SimulatedCard) -> None:
    begun = time.monotonic()
    with pytest.raises(CardNotFound):
        open_reader("", wait=0.7)
    assert 0.6 < time.monotonic() - begun < 20
    with reader.holding(Wrapped(card)) as slot:
        slot.remove()
        reader.service.await_card(reader.name, present=False)
        timer = threading.Timer(0.5, slot.insert)
        timer.start()
        begun = time.monotonic()
        with open_card("pcsc:", wait=30) as session:
            assert session.status().state is CardState.BLANK
        assert time.monotonic() - begun < 20, "the card is seen when it comes, not at the end"
        timer.join(10)


def test_waiting_costs_nothing_where_a_card_is(reader: Reader, card: SimulatedCard) -> None:
    with reader.holding(card):
        begun = time.monotonic()
        open_reader("", wait=30).close()
        assert time.monotonic() - begun < 20


# --- looking at all ------------------------------------------------------------------------------------


def test_all_readers(reader: Reader, other_reader: Reader, make_card: MakeCard) -> None:
    first, second = list_cards()
    assert (first.reader, second.reader) == SLOTS
    assert not first.present
    assert first.atr == b""
    assert first.status is None
    assert first.problem is None
    card = enrolled(make_card("one"))
    with reader.holding(card), other_reader.holding(Foreign()):
        first, second = list_cards()
        assert first.present
        assert first.atr == card.atr
        assert first.status is not None
        assert first.status.credential_id == Profile().credential_id
        assert second.present
        assert second.status is None
        assert isinstance(second.problem, CardNotFound)
        with open_card(reader.address) as session:
            session.hash_message(Piece(b"m"))
            first, _ = list_cards()
            assert first.status is None
            assert isinstance(first.problem, CardInUse)
            session.verify_pin(CardPin(Profile().pin.decode(), source="test"))
            assert session.pin_state().verified, "looking has not disturbed who holds the card"
    assert not any(state.in_use for state in states())


class Piece:
    """A message."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def chunks(self) -> Iterator[bytes]:
        yield self._data


# --- addresses -----------------------------------------------------------------------------------------


def test_addresses() -> None:
    with pytest.raises(InputError) as error:
        create_card("pcsc:")
    assert "docs/run/readers.md" in (error.value.hint or "")
    with pytest.raises(InputError, match="expected sim:PATH or pcsc:READER"), open_card("gem:x"):
        raise AssertionError
    with pytest.raises(InputError, match="nothing follows the colon"), open_card("sim:"):
        raise AssertionError


@pytest.mark.parametrize(
    ("apdu", "tpdu"),
    [
        ("806EAA55", "806EAA5500"),
        ("80CA000000", "80CA000000"),
        ("0020008106313233343536", "0020008106313233343536"),
        ("00A4040002F04800", "00A4040002F048"),
        ("00A4040001F000", "00A4040001F0"),
    ],
)
def test_t0(apdu: str, tpdu: str) -> None:
    assert pcsc.for_t0(bytes.fromhex(apdu)).hex().upper() == tpdu
