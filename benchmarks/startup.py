"""What a command costs as a process, from its start to its end, against an interpreter that does nothing.

Best of several: whatever else the machine does only ever adds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hsm_signer.card.pins import CardPin
from hsm_signer.config.installation import CARD_PIN_VARIABLE, HOME_VARIABLE

ROUNDS = 7
PYTHON = ("-c", "pass")
SQLALCHEMY = ("-c", "import sqlalchemy")


def startup(home: Path, address: str, pin: CardPin) -> dict[str, Any]:
    """Milliseconds of each command, and their ratios to an empty interpreter and to one import."""
    message, signature = home / "startup.txt", home / "startup.sig"
    message.write_text("message", encoding="utf-8")
    program = ("-m", "hsm_signer")
    commands: dict[str, Sequence[str]] = {
        "python -c pass": PYTHON,
        "python -c 'import sqlalchemy'": SQLALCHEMY,
        "hsm-signer --help": (*program, "--help"),
        "hsm-signer sign": (*program, "sign", str(message), "--card", address, "-f", "-o", str(signature)),
    }
    environment = os.environ | {HOME_VARIABLE: str(home), CARD_PIN_VARIABLE: pin.reveal().decode("ascii")}
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(ROUNDS):
        # In turns, so that noise hits all alike.
        for name, arguments in commands.items():
            best[name] = min(best[name], _once(arguments, environment))
    empty, library = (best[name] for name in list(commands)[:2])
    return {
        name: {"milliseconds": ms, "to pass": ms / empty, "to sqlalchemy": ms / library}
        for name, ms in best.items()
    }


def _once(arguments: Sequence[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return (time.perf_counter() - start) * 1000


def show(measured: dict[str, Any]) -> None:
    """A table."""
    print(f"Commands as processes, best of {ROUNDS}")
    print(f"{'':32} {'ms':>8} {'/ pass':>8} {'/ sqlalchemy':>13}")
    for name, row in measured.items():
        print(
            f"  {name:30} {row['milliseconds']:8.1f} {row['to pass']:8.2f} {row['to sqlalchemy']:13.2f}",
            flush=True,
        )
    print()
