"""A PC/SC service of the tests' own: pcscd with vpcd's two readers, apart from the machine's.

It runs with a run folder of its own put over the system's (a private mount), so it neither finds nor
disturbs a pcscd that is there already, and programs reach it by PCSCLITE_CSOCK_NAME.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from card_applet_sim import vpcd

from . import needs

SOCKET_VARIABLE = "PCSCLITE_CSOCK_NAME"
RUN_FOLDER = Path("/run/pcscd")
DRIVERS = (
    "/usr/lib/pcsc/drivers/serial/libifdvpcd.so",
    "/usr/lib64/pcsc/drivers/serial/libifdvpcd.so",
)
READER = "Test Reader"
SLOTS = (f"{READER} 00 00", f"{READER} 00 01")
"""What pcscd makes of the name."""
PATIENCE = 20.0
"""Seconds for whatever takes a fraction of one."""


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for something that happens elsewhere; fails with ``what`` when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} seconds"
        time.sleep(0.01)


def _free_ports() -> int:
    """The first of two neighbouring free ports."""
    for port in range(41000 + os.getpid() % 8000, 60000, 2):
        try:
            for each in (port, port + 1):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", each))
        except OSError:
            continue
        return port
    raise AssertionError("no free port")


class Pcscd:
    """The service; ``start`` and ``stop`` as often as a test wants."""

    def __init__(self, folder: Path) -> None:
        driver = next((each for each in DRIVERS if Path(each).exists()), None)
        if driver is None:
            needs.missing("vsmartcard's vpcd", "apt-get install vsmartcard-vpcd")
        self._program = shutil.which("pcscd", path=os.defpath + ":/usr/sbin:/sbin")
        if self._program is None:
            needs.missing("pcscd", "apt-get install pcscd")
        self._unshare = needs.program("unshare", "util-linux")
        self.port = _free_ports()
        self._run = folder / "run"
        self._configuration = folder / "reader.conf.d"
        self._log = folder / "pcscd.log"
        self._no_readers = folder / "no-reader.conf.d"
        self._run.mkdir()
        self._configuration.mkdir()
        self._no_readers.mkdir()
        (self._configuration / "vpcd").write_text(
            f'FRIENDLYNAME "{READER}"\n'
            f"DEVICENAME /dev/null:{self.port:#x}\n"
            f"LIBPATH {driver}\n"
            f"CHANNELID {self.port:#x}\n"
        )
        self.socket = self._run / "pcscd.comm"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, readers: bool = True) -> None:
        """Ready when it returns. Skips, or fails in CI, where the machine allows no private mount."""
        assert self._process is None
        needs.marked("reader")
        become_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        script = (
            f'mkdir -p {RUN_FOLDER}; mount --bind "$1" {RUN_FOLDER} && '
            f'exec setpriv --pdeathsig KILL "$2" --foreground --info --config "$3" $4'
        )
        # The signal at its parent's death: a test run that is killed leaves no service behind.
        option = "--disable-polkit" if "--disable-polkit" in self._help() else ""
        configuration = self._configuration if readers else self._no_readers
        arguments = [str(self._run), self._program or "", str(configuration), option]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._unshare, *become_root, "--mount", "sh", "-c", script, "pcscd", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            until(lambda: self.running is False or self._answers(), "pcscd")
        except AssertionError:
            self.stop()
            raise
        if not self.running:
            self._process = None
            said = self._log.read_text(errors="replace").splitlines() or ["it says nothing"]
            needs.missing("a pcscd of the tests' own, in a mount namespace of its own,", said[-1])

    def _help(self) -> str:
        done = subprocess.run([self._program or "", "--help"], capture_output=True, check=False, timeout=20)
        return (done.stdout + done.stderr).decode(errors="replace")

    @property
    def running(self) -> bool:
        """The process is alive."""
        return self._process is not None and self._process.poll() is None

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def stop(self, *, kill: bool = False) -> None:
        """By signal; a driver that hangs in a card's silence is killed."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)
        self._process = None
        for each in self._run.iterdir():
            each.unlink()

    def restart(self) -> None:
        """As an administrator does."""
        self.stop()
        self.start()

    def ensure(self) -> None:
        """Started, whatever the test before did."""
        if not self.running:
            self._process = None
            self.start()

    def await_card(self, reader: str, *, present: bool = True) -> None:
        """Until the service has seen that a card went in or out; it looks every 0.4 s.

        Its log counts, not the reader's state: a card that is put back between two looks was never out,
        as far as the service knows, and is not powered again.
        """
        until(lambda: self._has_seen(reader) == present, f"card {'in' if present else 'out of'} {reader}")

    def _has_seen(self, reader: str) -> bool:
        log = self._log.read_text(errors="replace")
        return log.count(f"Card inserted into {reader}\n") > log.count(f"Card Removed From {reader}\n")

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find it."""
        return {SOCKET_VARIABLE: str(self.socket)}


@dataclass(frozen=True)
class State:
    """What the service says of a reader; nobody connects to the card for it."""

    reader: str
    present: bool
    in_use: bool


def states() -> list[State]:
    """Of all readers, through pyscard's own functions."""
    from smartcard import scard

    code, context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
    assert code == 0, hex(code)
    try:
        code, names = scard.SCardListReaders(context, [])
        assert code == 0, hex(code)
        code, found = scard.SCardGetStatusChange(context, 0, [(name, 0) for name in names])
        assert code == 0, hex(code)
    finally:
        scard.SCardReleaseContext(context)
    used = scard.SCARD_STATE_INUSE | scard.SCARD_STATE_EXCLUSIVE
    return [
        State(name, bool(flags & scard.SCARD_STATE_PRESENT), bool(flags & used)) for name, flags, _ in found
    ]


@dataclass
class Inserted:
    """A card in a slot, served by a thread of this process."""

    card: vpcd.Card
    port: int
    log: list[str] = field(default_factory=list)
    failure: BaseException | None = None
    _slot: vpcd.Slot | None = None
    _thread: threading.Thread | None = None

    def insert(self) -> None:
        """Connect and answer."""
        self._slot = vpcd.Slot.connect(port=self.port)
        self._thread = threading.Thread(target=self._serve, args=(self._slot,), daemon=True)
        self._thread.start()

    def _serve(self, slot: vpcd.Slot) -> None:
        try:
            slot.serve(self.card, self.log.append)
        except BaseException as error:
            self.failure = error

    def remove(self) -> None:
        """Close the connection; harmless when repeated."""
        if self._slot is not None:
            self._slot.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)
            assert not self._thread.is_alive()
        self._slot = self._thread = None


@contextmanager
def inserted(card: vpcd.Card, port: int) -> Iterator[Inserted]:
    """A card in the slot of ``port`` while the block lasts."""
    slot = Inserted(card, port)
    slot.insert()
    try:
        yield slot
    finally:
        with suppress(OSError):
            slot.remove()
