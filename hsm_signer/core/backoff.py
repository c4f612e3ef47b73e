"""Exponential backoff: how long to wait before an action is tried again."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hsm_signer.errors import SignerError

_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """A schedule of pauses. All times are seconds."""

    first: float
    """The first pause; each further one is twice as long."""
    longest: float
    """No pause is longer, but for jitter."""
    jitter: float = 0.5
    """Each pause is longer or shorter by a random share of itself, at most this one."""
    longest_asked: float = 0.0
    """A peer may ask for a longer pause than the schedule's, up to this one."""
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    """From 0 to 1. Tests put in their own, as for ``sleep``."""

    def pause(self, failures: int, retry_after: float | None = None) -> float:
        """Return the seconds to wait before the next attempt, after ``failures`` + 1 failed ones.

        ``retry_after``: the seconds that a peer wants to be left alone.
        """
        pause = min(self.first * 2.0 ** min(failures, 64), self.longest)
        pause *= 1 + self.jitter * (2 * self.random() - 1)
        return max(pause, min(retry_after or 0.0, self.longest_asked))

    def retry(
        self,
        action: Callable[[], T],
        may_pass: Callable[[SignerError], bool],
        *,
        attempts: int,
        patience: float = math.inf,
    ) -> T:
        """Call ``action`` until it succeeds, and return its result.

        Raises an error of the action that ``may_pass`` does not accept, and any error of the last attempt:
        there are ``attempts`` at most, and none begins once ``patience`` seconds have passed.
        """
        started = time.monotonic()
        for failures in range(attempts - 1):
            try:
                return action()
            except SignerError as error:
                if not may_pass(error) or time.monotonic() - started > patience:
                    raise
                pause = self.pause(failures, error.retry_after)
                _log.info(
                    "attempt %d of %d failed, the next one in %.2f s: %s [%s]",
                    failures + 1,
                    attempts,
                    pause,
                    error.message,
                    error.code,
                )
                self.sleep(pause)
        return action()
