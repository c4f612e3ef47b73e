"""Token buckets: how many requests each client may make at once, and in the long run."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MAX_BUCKETS = 10_000


class TokenBuckets:
    """One bucket for each key: ``burst`` requests at once, ``rate`` a second in the long run.

    At most MAX_BUCKETS are kept; the one unused for longest goes first.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._left: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def __contains__(self, key: bytes) -> bool:
        return key in self._left

    def take(self, key: bytes) -> float:
        """Take one request from the bucket of ``key``: 0.0, or the seconds until it would be allowed."""
        now = self._clock()
        left, before = self._left.pop(key, (float(self._burst), now))
        left = min(float(self._burst), left + (now - before) * self._rate)
        wait = 0.0 if left >= 1 else (1 - left) / self._rate
        self._put(key, left - 1 if left >= 1 else left, now)
        return wait

    def add(self, key: bytes) -> None:
        """Give ``key`` a full bucket, unless it has one."""
        if key not in self._left:
            self._put(key, float(self._burst), self._clock())

    def _put(self, key: bytes, left: float, now: float) -> None:
        self._left[key] = (left, now)
        while len(self._left) > MAX_BUCKETS:
            self._left.popitem(last=False)
