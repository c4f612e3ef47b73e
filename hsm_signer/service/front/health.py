"""For whoever runs the service: is it there, can it sign, how is it doing. Nobody has to say who they are."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from hsm_signer.errors import SignerError
from hsm_signer.service.wire.operations import Call, Caller, Failure, SelfTest, WorkerState

from .calls import front_of
from .http.routes import Example, Interface
from .pool import Pool
from .problems import json_response

FRESH = 1.0
"""Seconds that an answer of the workers stands for: no prober can keep the tokens busy."""


class Health(Struct, frozen=True):
    """The front answers."""

    status: Literal["ok"]


class WorkerHealth(Struct, frozen=True):
    """One worker."""

    slot: int
    generation: int | None
    """How often the slot was started; null: not connected."""
    state: str
    reason: str | None
    """Why it cannot sign."""
    signatures: int
    """Made by this process."""
    signed: bool
    """Whether its token signed for this answer."""


class Readiness(Struct, frozen=True):
    """Whether signatures can be made, and every worker's state."""

    ready: bool
    """At least one worker signed."""
    workers: tuple[WorkerHealth, ...]


HEALTH = Interface(
    tag="health",
    refusals=(400, 413, 429, 500),
    examples={
        "getHealth": Example(answer=Health("ok")),
        "getReadiness": Example(
            answer=Readiness(ready=True, workers=(WorkerHealth(0, 1, "ready", None, 1742, signed=True),))
        ),
        "getMetrics": Example(
            answer="# HELP hsm_signer_queue Calls waiting for a worker.\n"
            "# TYPE hsm_signer_queue gauge\nhsm_signer_queue 0.0\n"
        ),
    },
)


@HEALTH.endpoint("GET", "/healthz")
async def get_health(request: Request) -> Health:
    """Whether the front answers; says nothing of the workers."""
    return Health("ok")


@HEALTH.endpoint("GET", "/readyz", answer=Readiness, other_answers={503: Readiness})
async def get_readiness(request: Request) -> Readiness | Response:
    """Whether signatures can be made: every worker signs with a key of its own making.

    503 where none of them could.
    """
    found: Readiness = await request.app.readiness.check()
    return found if found.ready else json_response(found, 503)


@HEALTH.endpoint("GET", "/metrics", media_type="text/plain")
async def get_metrics(request: Request) -> Response:
    """Counters and times, in the text format of Prometheus."""
    return Response(front_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


class ReadinessCheck:
    """Self-tests of all workers: one run for all who ask meanwhile, and for FRESH seconds more."""

    def __init__(self, pool: Pool, workers: int) -> None:
        """``workers``: how many there should be."""
        self._pool = pool
        self._workers = workers
        self._run: asyncio.Task[Readiness] | None = None
        self._until = 0.0

    async def check(self) -> Readiness:
        """The newest result, or a new one."""
        if self._run is None or (self._run.done() and time.monotonic() >= self._until):
            self._run = asyncio.ensure_future(self._ask_all())
        # Who asks may go away; the others wait on.
        return await asyncio.shield(self._run)

    async def _ask_all(self) -> Readiness:
        states = {state.slot: state for state in self._pool.workers()}
        slots = sorted({*states, *range(self._workers)})
        workers = await asyncio.gather(*(self._ask(slot, states.get(slot)) for slot in slots))
        self._until = time.monotonic() + FRESH
        return Readiness(ready=any(worker.signed for worker in workers), workers=tuple(workers))

    async def _ask(self, slot: int, state: WorkerState | None) -> WorkerHealth:
        if state is None:
            return WorkerHealth(slot, None, "missing", "not connected", 0, signed=False)
        reason = state.reason
        signed = False
        if state.state == "ready":
            call = Call(caller=Caller(), request_id="readyz", operation=SelfTest())
            try:
                answer = await self._pool.call_on(slot, call)
            except SignerError as error:
                reason = error.message
            else:
                signed = not isinstance(answer, Failure)
                reason = answer.message if isinstance(answer, Failure) else None
        return WorkerHealth(slot, state.generation, state.state, reason, state.signatures, signed=signed)
