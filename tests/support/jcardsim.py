"""The Java applet in jCardSim, in a process of its own, line by line.

card_applet's bridge: POWER, RESET and NEW (a fresh card) answer the ATR, a line of hexadecimal its answer.
"""

from __future__ import annotations

import select
import subprocess
from pathlib import Path

from . import needs

JAR = Path(__file__).resolve().parents[2] / "card_applet" / "bridge" / "target" / "card-bridge.jar"
SECONDS = 30.0
"""For one answer; starting the virtual machine on a busy one is the longest."""
OPTIONS = ("-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Dcom.licel.jcardsim.randomdata.secure=1")


def command(main: str, *arguments: str) -> list[str]:
    """How to run a class of the bridge; skips, or fails in CI, where Java or the jar is missing."""
    needs.marked("applet")
    java = needs.program("java", "default-jdk-headless")
    if not JAR.exists():
        needs.missing("the Java applet", "make applet")
    return [java, *OPTIONS, "-cp", str(JAR), f"org.hsmsigner.sim.{main}", *arguments]


class JavaCard:
    """A blank card with the applet; as :class:`card_applet_sim.vpcd.Card`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            command("Bridge"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.atr = self._ask("POWER")
        """Answer to reset."""

    def _ask(self, line: str) -> bytes:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(line.encode("ascii") + b"\n")
        stdin.flush()
        # One line is asked for at a time, so nothing stays behind in the buffer.
        ready, _, _ = select.select([stdout], [], [], SECONDS)
        assert ready, f"jCardSim: no answer within {SECONDS} seconds"
        answer = stdout.readline().decode("ascii").strip()
        assert answer, "jCardSim: an empty answer, or its process has ended"
        assert not answer.startswith("ERROR"), answer
        return bytes.fromhex(answer)

    def transmit(self, apdu: bytes) -> bytes:
        """Data || SW1 SW2."""
        return self._ask(apdu.hex())

    def reset(self) -> None:
        """Power off and on."""
        self._ask("RESET")

    def renew(self) -> None:
        """Another card, fresh from the loader."""
        self.atr = self._ask("NEW")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)
        assert self._process.stdout is not None
        self._process.stdout.close()
