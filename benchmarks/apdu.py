"""What an APDU costs through the whole stack: simulator, vpcd, pcscd, pyscard, driver.

A service of its own is started for it, as for the tests. The bound is the project's own: 2 ms at the median.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from card_applet_sim import SimulatedCard
from hsm_signer.card.apdu import AID, SELECT, encode
from hsm_signer.card.pcsc import PcscConnection
from tests.support.pcscd import SLOTS, Pcscd, inserted

ROUNDS = 2000
BOUND = 2.0
"""Milliseconds, median."""
STATUS = bytes.fromhex("80CA000000")
BLOCK = bytes.fromhex("002A9080FF") + bytes(255)


def main() -> int:
    """Print the table; 1 where the bound is broken."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = Pcscd(folder)
        os.environ.update(service.environment)
        service.start()
        try:
            return _measure(service, folder)
        finally:
            service.stop()


def _measure(service: Pcscd, folder: Path) -> int:
    SimulatedCard.create(folder / "card")
    with SimulatedCard(folder / "card") as card:
        direct = {"GET STATUS": _times(card.transmit, STATUS), "255 bytes": _times(card.transmit, BLOCK)}
        with inserted(card, service.port):
            service.await_card(SLOTS[0])
            connection = PcscConnection(SLOTS[0])
            through = {
                "GET STATUS": _times(connection.transmit, STATUS),
                "255 bytes": _times(connection.transmit, BLOCK),
            }
            connection.close()
    print(f"{'APDU, milliseconds':<22}{'in process':>12}{'PC/SC':>10}{'95 %':>10}")
    for name, times in through.items():
        low, high = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        print(f"{name:<22}{statistics.median(direct[name]):>12.3f}{low:>10.3f}{high:>10.3f}")
    worst = max(statistics.median(times) for times in through.values())
    good = worst < BOUND
    print(f"{'ok' if good else 'TOO SLOW'}: median {worst:.3f} ms, bound {BOUND:g} ms")
    return 0 if good else 1


def _times(transmit: Callable[[bytes], bytes], apdu: bytes) -> list[float]:
    transmit(encode(SELECT, AID))
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        transmit(apdu)
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


if __name__ == "__main__":
    sys.exit(main())
