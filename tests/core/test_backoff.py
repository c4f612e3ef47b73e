"""Pauses double up to the longest, with jitter; what is tried again ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_signer.core.backoff import Backoff
from hsm_signer.errors import ServiceBusy, SignerError, StoreError

EXACT = Backoff(first=0.5, longest=5.0, jitter=0.0)


def test_pauses_double_up_to_the_longest() -> None:
    assert [EXACT.pause(failures) for failures in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert EXACT.pause(10_000) == 5.0, "no overflow where something fails for days"


@pytest.mark.parametrize(("share", "pause"), [(0.0, 1.0), (0.5, 2.0), (1.0, 3.0)])
def test_jitter_is_a_share_of_the_pause(share: float, pause: float) -> None:
    assert Backoff(first=2.0, longest=9.0, random=lambda: share).pause(0) == pause


@pytest.mark.parametrize(("asked", "pause"), [(None, 0.5), (0.0, 0.5), (3.0, 3.0), (1e9, 8.0)])
def test_who_asks_for_more_gets_it_within_bounds(asked: float | None, pause: float) -> None:
    assert Backoff(first=0.5, longest=5.0, jitter=0.0, longest_asked=8.0).pause(0, asked) == pause


@given(st.integers(0, 10**9), st.floats(0, 1), st.none() | st.floats(0, 1e12))
def test_no_pause_is_longer_than_it_says(failures: int, share: float, asked: float | None) -> None:
    backoff = Backoff(first=0.1, longest=5.0, longest_asked=7.0, random=lambda: share)
    assert 0.05 <= backoff.pause(failures, asked) <= 7.5


class Failing:
    """Fails with each of these in turn, then succeeds."""

    def __init__(self, *errors: SignerError) -> None:
        self.errors = list(errors)
        self.slept: list[float] = []
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    def retry(self, may_pass: Callable[[SignerError], bool], attempts: int) -> str:
        backoff = Backoff(first=0.5, longest=5.0, jitter=0.0, sleep=self.slept.append)
        return backoff.retry(self, may_pass, attempts=attempts)


def test_what_may_pass_is_tried_again_until_it_succeeds() -> None:
    failing = Failing(ServiceBusy("one"), ServiceBusy("two"))
    assert failing.retry(lambda _: True, attempts=5) == "done"
    assert failing.slept == [0.5, 1.0]


def test_the_last_error_is_raised_and_nothing_waits_after_it() -> None:
    failing = Failing(ServiceBusy("one"), ServiceBusy("two"), ServiceBusy("three"))
    with pytest.raises(ServiceBusy, match="two"):
        failing.retry(lambda _: True, attempts=2)
    assert (failing.calls, failing.slept) == (2, [0.5])


def test_what_cannot_pass_is_raised_at_once() -> None:
    failing = Failing(StoreError("broken"))
    with pytest.raises(StoreError, match="broken"):
        failing.retry(lambda error: isinstance(error, ServiceBusy), attempts=5)
    assert (failing.calls, failing.slept) == (1, [])
