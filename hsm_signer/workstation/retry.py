"""Repeating a request to a server: which errors are temporary, how often and how long to try again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hsm_signer.core.backoff import Backoff
from hsm_signer.errors import ChallengeStale, SignerError

BACKOFF = Backoff(first=0.02, longest=0.5, longest_asked=10.0)
"""All pauses together outlast a worker of the service that is started anew."""
ATTEMPTS = 12
"""How often the same request is sent, at most: against one other process that signs without a pause with the
same credential, seven in vain were seen in 400 signatures."""
PATIENCE = 90.0
"""Seconds after which the same request is not sent again: an attempt may last as long as its own timeout."""

T = TypeVar("T")


def retry(request: Callable[[], T], backoff: Backoff = BACKOFF) -> T:
    """Repeat a request while it raises a temporary error; raises any other error, and the last one."""
    return backoff.retry(request, may_pass, attempts=ATTEMPTS, patience=PATIENCE)


def may_pass(error: SignerError) -> bool:
    """Tell whether an error is temporary: the same request may succeed later."""
    return error.retryable and not error.waited and not isinstance(error, ChallengeStale)
