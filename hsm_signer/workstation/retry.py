"""Which errors of a server may pass, and how a workstation waits until they have."""

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
    """Make a request again while it raises an error that may pass; raises any other, and the last one."""
    return backoff.retry(request, may_pass, attempts=ATTEMPTS, patience=PATIENCE)


def may_pass(error: SignerError) -> bool:
    """Whether the same request may succeed later, and was not waited for already."""
    return error.retryable and not error.waited and not isinstance(error, ChallengeStale)
