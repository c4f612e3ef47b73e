"""How often each client may ask."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hsm_signer.config.service import LimitSettings
from hsm_signer.errors import NotAuthenticated, RateLimited
from hsm_signer.service.front.metrics import Metrics

from .places import Place, network_of
from .token_bucket import MAX_BUCKETS, TokenBuckets

PROBED = "/healthz"
"""A prober must not take the front for dead because others at its address ask too much: it has a bucket of
its own."""


class RateLimit:
    """Refuse what comes too often with RateLimited.

    A client has a bucket of its own once a worker has known it; before that, and without one, the peer's
    address counts. So nobody gets more by making tokens up. Endpoints find the bucket's key as
    ``request.state.requester``.
    """

    def __init__(self, app: ASGIApp, limits: LimitSettings, metrics: Metrics) -> None:
        self._app = app
        self._rate = limits.rate
        self._metrics = metrics
        self._buckets = TokenBuckets(limits.rate, limits.burst)
        self._known: OrderedDict[bytes | None, bytes] = OrderedDict()
        """SHA-256 of an Authorization header -> its client's bucket, the same for all its access tokens."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope)
        header = request.headers.get("authorization")
        presented = hashlib.sha256(header.encode()).digest() if header else None
        self._take(request, presented)
        try:
            await self._app(scope, receive, send)
        except NotAuthenticated:
            self._known.pop(presented, None)
            raise
        finally:
            if (client := scope["state"].get("client")) is not None:
                self._learn(scope["state"].get("place"), presented, client)

    def _take(self, request: Request, presented: bytes | None) -> None:
        state: dict[str, Any] = request.scope["state"]
        certificate: bytes | None = state.get("certificate")
        own = self._known.get(presented)
        if request.scope["path"] == PROBED:
            key = b"p" + _address(request)
        elif own is not None and own in self._buckets:
            key = own
        elif certificate is not None:
            key = b"c" + certificate
        else:
            key = b"a" + _address(request)
        state["requester"] = key
        if wait := self._buckets.take(key):
            self._metrics.rate_limited()
            state["retry_after"] = max(1, math.ceil(wait))
            raise RateLimited("too many requests", hint=f"at most {self._rate:g} a second")

    def _learn(self, place: Place | None, presented: bytes | None, client: str) -> None:
        """Remember whose header this is, and where it came from, as a worker has said."""
        if place is not None:
            place.recognise()
        if presented is None:
            return
        key = b"n" + client.encode()
        self._buckets.add(key)
        self._known[presented] = key
        self._known.move_to_end(presented)
        while len(self._known) > MAX_BUCKETS:
            self._known.popitem(last=False)


def _address(request: Request) -> bytes:
    return network_of(request.client.host if request.client else "").encode()
