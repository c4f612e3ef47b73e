"""The card's side of vpcd, against a small vpcd written here: frames, power, removal, the log."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from card_applet_sim import CardError, SimulatedCard, vpcd
from card_applet_sim.vpcd import Redactor, Slot
from tests.support.card.host import OK, Host, Profile
from tests.support.pcscd import until
from tests.support.readers import Wrapped

ROOT = Path(__file__).parents[2]
SELECT = bytes.fromhex("00A4040009F048534D5349474E0100")
STATUS = bytes.fromhex("80CA000000")
SECONDS = 10.0


class Listener:
    """vpcd's side: waits for a card and speaks first."""

    def __init__(self, port: int = 0) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self._server.settimeout(SECONDS)
        self.port: int = self._server.getsockname()[1]

    def accept(self) -> socket.socket:
        connection, _ = self._server.accept()
        connection.settimeout(SECONDS)
        return connection

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    opened = Listener()
    yield opened
    opened.close()


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(2, "big") + payload


def receive(connection: socket.socket) -> bytes:
    def exactly(count: int) -> bytes:
        found = b""
        while len(found) < count:
            part = connection.recv(count - len(found))
            assert part, "the card went out"
            found += part
        return found

    return exactly(int.from_bytes(exactly(2), "big"))


@contextmanager
def served(card: vpcd.Card, listener: Listener) -> Iterator[socket.socket]:
    """vpcd's end of a connection that a card answers."""
    slot = Slot.connect(port=listener.port)
    thread = threading.Thread(target=slot.serve, args=(card,), daemon=True)
    thread.start()
    with listener.accept() as connection:
        yield connection
    thread.join(SECONDS)
    assert not thread.is_alive(), "the card notices that vpcd has gone"


def test_frames_that_come_together_and_in_pieces(card: SimulatedCard, listener: Listener) -> None:
    with served(card, listener) as vpcd_end:
        vpcd_end.sendall(frame(b"\x01") + frame(b"\x04") + frame(SELECT) + frame(b"\x04") + frame(STATUS))
        assert receive(vpcd_end) == card.atr
        assert receive(vpcd_end).endswith(b"\x90\x00")
        assert receive(vpcd_end) == card.atr
        assert receive(vpcd_end)[:4] == b"\x80\x02\x00\x01", "the poll between them changed nothing"
        for byte in frame(STATUS):
            vpcd_end.sendall(bytes([byte]))
            time.sleep(0.002)
        assert receive(vpcd_end).endswith(b"\x90\x00")


@pytest.mark.parametrize("order", [b"\x00", b"\x01", b"\x02"])
def test_power_and_reset_end_the_selection_and_have_no_reply(
    order: bytes, card: SimulatedCard, listener: Listener
) -> None:
    with served(card, listener) as vpcd_end:
        vpcd_end.sendall(frame(SELECT) + frame(order) + frame(STATUS))
        assert receive(vpcd_end).endswith(b"\x90\x00")
        assert receive(vpcd_end) == b"\x6d\x00"


def test_what_is_no_frame_of_vpcds_is_passed_over(card: SimulatedCard, listener: Listener) -> None:
    with served(card, listener) as vpcd_end:
        vpcd_end.sendall(frame(SELECT) + frame(b"") + frame(b"\x03") + frame(b"\xff") + frame(STATUS))
        assert receive(vpcd_end).endswith(b"\x90\x00")
        assert receive(vpcd_end).endswith(b"\x90\x00"), "and nothing was lost by it"


def test_the_longest_apdu(card: SimulatedCard, listener: Listener) -> None:
    with served(card, listener) as vpcd_end:
        vpcd_end.sendall(frame(SELECT))
        receive(vpcd_end)
        vpcd_end.sendall(frame(b"\x80\xca\0\0\0\x7f\xff" + bytes(32767)))
        assert receive(vpcd_end) == b"\x67\x00"
        vpcd_end.sendall(frame(bytes(65535)))
        assert receive(vpcd_end) == b"\x67\x00"


def test_the_card_loses_its_power_with_the_connection(card: SimulatedCard, listener: Listener) -> None:
    with served(card, listener) as vpcd_end:
        vpcd_end.sendall(frame(SELECT))
        receive(vpcd_end)
    assert Host(card).send("GET STATUS")[1] == 0x6D00


@pytest.mark.parametrize("cut", [b"\x00", b"\x00\x05\x00", b"\xff\xff"])
def test_a_connection_that_ends_in_a_frame(cut: bytes, card: SimulatedCard, listener: Listener) -> None:
    with served(card, listener) as vpcd_end:
        vpcd_end.sendall(cut)


def test_closing_takes_the_card_out(card: SimulatedCard, listener: Listener) -> None:
    slot = Slot.connect(port=listener.port)
    thread = threading.Thread(target=slot.serve, args=(card,), daemon=True)
    thread.start()
    with listener.accept() as vpcd_end:
        vpcd_end.sendall(frame(SELECT))
        receive(vpcd_end)
        slot.close()
        slot.close()
        assert vpcd_end.recv(1) == b""
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_a_reader_that_comes_late_goes_and_comes_back(card: SimulatedCard) -> None:
    first = Listener()
    port = first.port
    first.close()
    told: list[str] = []
    waiting = f"waiting for a virtual reader (pcscd with vpcd) at 127.0.0.1:{port}"

    def serve() -> None:
        with pytest.raises(CardError, match="no virtual reader"):
            vpcd.serve(card, "127.0.0.1", port, tell=told.append, patience=3.0)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    for times in (1, 2):
        until(lambda: told.count(waiting) == times, "it waits for a reader")  # noqa: B023
        again = Listener(port)
        with again.accept() as vpcd_end:
            vpcd_end.sendall(frame(SELECT))
            assert receive(vpcd_end).endswith(b"\x90\x00")
            # Before the connection ends, or the card would come straight back to this one.
            again.close()
    thread.join(SECONDS)
    assert not thread.is_alive()
    there = f"the card is in the reader at 127.0.0.1:{port}; Ctrl-C takes it out"
    gone = "the reader has gone"
    assert told == [waiting, there, gone, waiting, there, gone, waiting]


# --- the log -------------------------------------------------------------------------------------------

PROFILE = Profile()
PIN, PUK = PROFILE.pin, PROFILE.puk or b""


def test_the_log_shows_commands_and_no_secret(card: SimulatedCard, listener: Listener) -> None:
    """Every exchange of an enrolment, a signature, wrong orders of them, and what is no APDU."""
    log: list[str] = []
    slot = Slot.connect(port=listener.port)
    thread = threading.Thread(target=slot.serve, args=(card, log.append), daemon=True)
    thread.start()
    message = b"nobody else's business"
    with listener.accept() as vpcd_end:

        class Line:
            """A host at the far end."""

            def transmit(self, apdu: bytes) -> bytes:
                vpcd_end.sendall(frame(apdu))
                return receive(vpcd_end)

        line = Line()
        host = Host(line)
        host.select()
        assert host.install(PROFILE) == OK
        keys = host.sign(PROFILE, message)
        host.verify(PIN)
        host.change(PIN, b"999999")
        host.unblock(PUK, PIN)
        for command in ("HASH MESSAGE", "VERIFY"):
            host.send(command, message if command == "HASH MESSAGE" else PIN)
        answer = line.transmit(b"\x80\x64\0\0\x43\x02\x01\x02" + bytes(32) + b"\1" * 32 + b"\x05")
        assert answer[-2:] == b"\x61\x5b"
        rest = line.transmit(b"\x00\xc0\0\0\x00")
        # A PIN where none belongs: wrong class, wrong parameters, wrong length bytes, another instruction.
        for header in ("80200081", "00200080", "00A4040C", "80CA0001", "FFFFFFFF"):
            line.transmit(bytes.fromhex(header) + bytes([len(PIN)]) + PIN)
        line.transmit(b"\x00\x20\0\x81\x20" + PIN)
        line.transmit(PIN)
    thread.join(SECONDS)
    text = "\n".join(log)
    assert "> 00a40400 f048534d5349474e01\n< 9000 6f22" in text
    assert "> 00200081 [6 bytes]\n< 9000" in text
    assert "> 80640000 020102" in text
    assert "> 00c00000 Ne=256\n< 9000 [91 bytes]" in text
    assert "> [11 bytes, no APDU]\n< 6700" in text
    hidden = [PIN, PUK, b"999999", message, *keys, PROFILE.kcar, PROFILE.kek, answer[:5], rest[:-2]]
    for secret in hidden:
        assert secret.hex() not in text
        assert secret.decode("latin-1") not in text


def test_an_answer_is_shown_for_its_own_command_only() -> None:
    redactor = Redactor()
    redactor.command(STATUS)
    assert redactor.answer(b"\x01\x90\x00") == "< 9000 01"
    redactor.command(b"\x00\xc0\0\0\0")
    assert redactor.answer(b"\x01\x90\x00") == "< 9000 [1 byte]"
    redactor.command(STATUS)
    redactor.command(b"nonsense")
    assert redactor.answer(b"\x01\x90\x00") == "< 9000 [1 byte]"


# --- the command ---------------------------------------------------------------------------------------


def start(path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "card_applet_sim", "serve", str(path), *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_control_c_is_card_removal(tmp_path: Path, listener: Listener) -> None:
    SimulatedCard.create(tmp_path / "card")
    process = start(tmp_path / "card", "--port", str(listener.port), "--apdu-log", "-")
    with listener.accept() as vpcd_end:
        vpcd_end.sendall(frame(SELECT) + frame(b"\x00\x20\0\x81\x06" + PIN))
        assert receive(vpcd_end).endswith(b"\x90\x00")
        assert receive(vpcd_end) == b"\x69\x85"
        process.send_signal(signal.SIGINT)
        assert vpcd_end.recv(1) == b""
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert err.splitlines()[-1] == "the card has been taken out"
    assert "Traceback" not in err
    assert out.splitlines()[0] == "> 00a40400 f048534d5349474e01 Ne=256"
    assert PIN.hex() not in out


def test_the_log_goes_to_a_file(tmp_path: Path, listener: Listener) -> None:
    SimulatedCard.create(tmp_path / "card")
    process = start(tmp_path / "card", "--port", str(listener.port), "--apdu-log", str(tmp_path / "log"))
    with listener.accept() as vpcd_end:
        vpcd_end.sendall(frame(SELECT))
        assert receive(vpcd_end).endswith(b"\x90\x00")
        process.terminate()
        process.communicate(timeout=SECONDS)
    assert (tmp_path / "log").read_text().startswith("> 00a40400")


def test_no_reader_in_time_and_no_card(tmp_path: Path, listener: Listener) -> None:
    listener.close()
    SimulatedCard.create(tmp_path / "card")
    process = start(tmp_path / "card", "--port", str(listener.port), "--patience", "0.2")
    _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("card-applet-sim: no virtual reader at 127.0.0.1:")
    process = start(tmp_path / "none", "--port", str(listener.port))
    _, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, err.count("\n")) == (1, 1)
    assert "there is no card memory at" in err


def test_a_slot_that_is_taken(
    card: SimulatedCard, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel connects a second card to a slot; vpcd says nothing to it while it has the first."""
    monkeypatch.setattr(vpcd, "_SILENCE", 0.1)
    told: list[str] = []
    wrapped = Wrapped(card)

    def serve() -> None:
        with pytest.raises(CardError):
            vpcd.serve(wrapped, "127.0.0.1", listener.port, tell=told.append, patience=0.2)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener.accept() as vpcd_end:
        until(lambda: bool(told), "it says that nobody speaks")
        assert told == [f"the reader at 127.0.0.1:{listener.port} says nothing: does it hold another card?"]
        vpcd_end.sendall(frame(SELECT))
        assert receive(vpcd_end).endswith(b"\x90\x00")
        listener.close()
    thread.join(SECONDS)
    assert "the card is in the reader" in told[1]
