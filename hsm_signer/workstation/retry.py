"""When to ask again, and how long to wait before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

PAUSE = 0.02
"""Seconds of the first pause; each is twice as long as the one before, plus a random share."""
LONGEST_PAUSE = 0.5
"""All pauses together outlast a worker of the service that is started anew."""
LONGEST_WAIT_ASKED = 10.0
"""Seconds: a service that asks for a longer pause than this is not obeyed."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """How to wait between attempts; tests put in their own."""

    sleep: Callable[[float], None] = time.sleep
    share: Callable[[], float] = random.random

    def wait(self, attempt: int, asked: float | None = None) -> None:
        """Before attempt ``attempt`` + 1; ``asked``: the seconds that the service wants to be left alone."""
        pause = min(PAUSE * 2**attempt, LONGEST_PAUSE) * (0.5 + self.share())
        self.sleep(max(pause, min(asked or 0.0, LONGEST_WAIT_ASKED)))
