"""Enrol and sign through pcscd, simulator and Java applet: as a library, by command, with opensc-tool."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from card_applet_sim import SimulatedCard, vpcd
from hsm_signer.card.address import open_card
from hsm_signer.card.commands import CardState
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import CardPinWrong
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, PUK, WRONG_PIN
from hsm_signer.types import Algorithm, Content, KeySpec, Message, PinCheck, PinPolicy, Scheme
from hsm_signer.workstation.enrolment import (
    Enrolment,
    enrol,
)
from hsm_signer.workstation.signing import (
    sign_content,
)
from tests.support import needs
from tests.support.commandline import Process
from tests.support.jcardsim import JavaCard, command
from tests.support.people import digests
from tests.support.readers import Foreign, Reader, other_program

SELECT = "00A4040009F048534D5349474E01"


@pytest.fixture(params=["simulator", "jcardsim"])
def blank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[vpcd.Card]:
    """A blank card of either kind."""
    if request.param == "jcardsim":
        java = JavaCard()
        yield java
        java.close()
        return
    SimulatedCard.create(tmp_path / "card")
    with SimulatedCard(tmp_path / "card", lock_timeout=0) as opened:
        yield opened


def pin(text: str = PIN) -> CardPin:
    return CardPin(text, source="test")


CASES = {
    "basic": (Scheme.BASIC, PinPolicy.ALWAYS, PinCheck.CARD),
    "pin": (Scheme.PIN, PinPolicy.ALWAYS, PinCheck.CARD),
    "pin-server": (Scheme.PIN, PinPolicy.SESSION, PinCheck.SERVER),
    "rolling": (Scheme.ROLLING, PinPolicy.ALWAYS, PinCheck.CARD),
    "rolling-server": (Scheme.ROLLING, PinPolicy.SESSION, PinCheck.SERVER),
}
"""Combined by CBC, which every token can; XOR stands in the vectors of the conformance suite."""


def test_enrol_and_sign(server: Server, reader: Reader, blank: vpcd.Card) -> None:
    """Every scheme with a user of its own; the card is made blank in between."""
    with reader.holding(blank):
        for name in CASES:
            _a_life(name, server, reader)
    assert server.audit().good


def _a_life(name: str, server: Server, reader: Reader) -> None:
    """Messages, an empty one, many blocks, a list of digests; a wrong PIN; PIN and PUK; the end."""
    scheme, policy, check = CASES[name]
    basic = scheme is Scheme.BASIC
    wanted = Enrolment(
        owner=name,
        scheme=scheme,
        key=KeySpec.P256,
        pin=None if basic else pin(),
        puk=None if basic else CardPuk(PUK, source="test"),
        pin_policy=policy,
        pin_check=check,
    )

    def sign(content: Content, text: str = PIN) -> None:
        outcome = sign_content(
            server,
            lambda: open_card(reader.address),
            content,
            algorithm=Algorithm.ECDSA_SHA256,
            ask_pin=None if basic else lambda: pin(text),
        )
        assert outcome.owner == name

    enrolled = enrol(server, lambda: open_card(reader.address), wanted)
    assert not enrolled.resumed
    for length in (0, 1, 10_000):
        sign(Message(BytesSource(b"x" * length)))
    sign(digests(b"one", b"two", b"three"))
    with open_card(reader.address) as session:
        assert session.status().credential_id == enrolled.credential.credential_id
    if check is PinCheck.CARD and not basic:
        with pytest.raises(CardPinWrong) as error:
            sign(digests(b"one"), WRONG_PIN)
        assert error.value.tries_left == 2
    if not basic:
        with open_card(reader.address) as session:
            session.change_pin(pin(), pin("8675309"))
            session.unblock_pin(CardPuk(PUK, source="test"), pin("8675309"))
        sign(digests(b"one"), "8675309")
    with open_card(reader.address) as session:
        if not basic:
            session.verify_pin(pin("8675309"))
        session.factory_reset()
        assert session.status().state is CardState.BLANK


def test_by_command(process: Process, reader: Reader, blank: vpcd.Card, tmp_path: Path) -> None:
    """Every command of a card's life, with pcsc: alone and with a part of the reader's name."""
    document = tmp_path / "document"
    document.write_bytes(b"a contract\n" * 1000)
    assert "no card" in process("card", "list").out
    with reader.holding(blank):
        assert process("card", "selftest", "pcsc:").out.count("ok ") >= 7
        (row, _) = process("card", "list", "--json").json
        assert row["application"]
        assert row["status"]["state"] == "blank"
        process("enrol", "dora", "--card", "pcsc:test reader", "--puk-file", tmp_path / "puk", pin=PIN)
        process("sign", document, "--card", "pcsc:00 00", pin=PIN)
        process("verify", document, "--signature", f"{document}.sig", "--user", "dora")
        if isinstance(blank, JavaCard):
            return  # the rest is the same whatever the card
        wrong = process("sign", document, "-f", "--card", "pcsc:", pin="12345", status=2)
        assert "[pin.malformed]" in wrong.err
        table = process("card", "list").out.splitlines()
        assert table[0].split() == ["READER", "CARD", "USER", "SERIAL"]
        assert "active" in table[1]
        assert "dora" in table[1]
        assert "no card" in table[2]
        (row, empty) = process("card", "list", "--json").json
        assert (row["reader"], row["owner"], row["problem"]) == (reader.name, "dora", None)
        assert row["status"]["pin_tries"] == 3
        assert (empty["card_present"], empty["status"], empty["atr"]) == (False, None, None)
        info = process("card", "info", "pcsc:", "--json").json
        assert info["owner"] == "dora"
        assert process("pin", "tries", "--card", "pcsc:", "--json").json == {"pin": 3, "puk": 10}
        new = {"HSM_SIGNER_CARD_NEW_PIN": "8675309"}
        process("pin", "change", "--card", "pcsc:", pin=PIN, env=new)
        process("pin", "unblock", "--card", "pcsc:", "--puk-file", tmp_path / "puk", env=new)
        test = process("card", "selftest", "pcsc:", "--json").json
        assert test["good"]
        process("card", "reset", "pcsc:", "--yes", pin="8675309")
        assert process("card", "info", "pcsc:", "--json").json["state"] == "blank"


def test_commands_without_a_card(process: Process, reader: Reader, card: SimulatedCard) -> None:
    missing = process("card", "info", "pcsc:00 00", status=4)
    assert missing.err.startswith(f"error: there is no card in {reader.name} [card.not-found]\nhint: ")
    assert process("card", "info", "pcsc:00 00", "--wait", "0.3", status=4).err == missing.err
    assert "[input.invalid]" in process("card", "new", "pcsc:", status=2).err
    elsewhere = process("card", "list", status=4, env={"PCSCLITE_CSOCK_NAME": "/nowhere"})
    assert "(PC/SC) is not running [card.not-found]" in elsewhere.err


def test_a_card_that_is_shared(process: Process, reader: Reader, card: SimulatedCard) -> None:
    """The command works, and one line says that it is not alone."""
    with reader.holding(card):
        with other_program(reader.name):
            shared = process("card", "info", "pcsc:", "--json")
            assert shared.json["state"] == "blank"
            assert shared.err.splitlines()[0].startswith(
                f"warning: another program has the card in {reader.name}"
            )
        assert "another program" not in process("card", "info", "pcsc:", "--json").err


def test_wait_for_a_card(process: Process, reader: Reader, card: SimulatedCard) -> None:
    done: list[object] = []
    waiting = threading.Thread(
        target=lambda: done.append(process("card", "info", "pcsc:", "--wait", "60", "--json").json),
        daemon=True,
    )
    waiting.start()
    waiting.join(1.5)
    assert waiting.is_alive(), "there is no card yet"
    with reader.holding(card):
        waiting.join(30)
        assert not waiting.is_alive()
    assert isinstance(done[0], dict)
    assert done[0]["state"] == "blank"


def test_selftest_of_another_card(process: Process, reader: Reader) -> None:
    with reader.holding(Foreign()):
        ran = process("card", "selftest", "pcsc:", status=7)
        assert "MISSING" in ran.out
        assert "it lacks: application [verification.failed]" in ran.err
        assert not process("card", "selftest", "pcsc:", "--json", status=7).json["good"]
        listed = process("card", "list")
        assert "no signing application" in listed.out


# --- a program nobody here wrote -----------------------------------------------------------------------


def opensc(reader: Reader, *apdus: str) -> str:
    tool = needs.program("opensc-tool", "opensc")
    sends = [argument for apdu in apdus for argument in ("-s", apdu)]
    done = subprocess.run(
        [tool, "--reader", str(reader.number), *sends],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _java_process(reader: Reader) -> subprocess.Popen[bytes]:
    """The applet's own way into the reader."""
    arguments = command("VpcdBridge", "127.0.0.1", str(reader.port))
    return subprocess.Popen(arguments, stderr=subprocess.DEVNULL)


def _simulator_process(reader: Reader, tmp_path: Path) -> subprocess.Popen[bytes]:
    SimulatedCard.create(tmp_path / "served")
    arguments = [sys.executable, "-m", "card_applet_sim", "serve", str(tmp_path / "served")]
    return subprocess.Popen([*arguments, "--port", str(reader.port)], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("kind", ["simulator", "jcardsim"])
def test_opensc_tool_selects_and_talks(kind: str, reader: Reader, tmp_path: Path, process: Process) -> None:
    """Card process, service and program: three of them, none of which shares code with another."""
    card = _java_process(reader) if kind == "jcardsim" else _simulator_process(reader, tmp_path)
    try:
        reader.service.await_card(reader.name)
        said = opensc(reader, SELECT, "80CA0000", "00200081", "806EAA55", "80CA0001")
        words = [line for line in said.splitlines() if line.startswith("Received")]
        expected = ["0x90, SW2=0x00", "0x90, SW2=0x00", "0x69, SW2=0x85", "0x90, SW2=0x00", "0x6A, SW2=0x86"]
        assert [word.split("SW1=")[1].split(")")[0] for word in words] == expected
        assert "F0 48 53 4D 53 49 47 4E" in said, "the AID in the answer to SELECT"
        listed = process("card", "list", "--json").json
        assert listed[0]["status"]["serial"].upper() in said.replace(" ", "")
    finally:
        card.terminate()
        card.wait(20)
        reader.service.await_card(reader.name, present=False)
