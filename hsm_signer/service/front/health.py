"""For whoever runs the service: is it there, can it sign, how is it doing. Nobody has to say who they are."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from hsm_signer.errors import SignerError
from hsm_signer.service.wire.operations import Call, Caller, Failure, SelfTest, WorkerState

from .calls import front_of
from .native import models
from .openapi import answers
from .pool import Pool
from .problems import Json

router = APIRouter()

FRESH = 1.0
"""Seconds that an answer of the workers stands for: no prober can keep the tokens busy."""


@router.get(
    "/healthz",
    tags=["health"],
    summary="Whether the front answers; says nothing of the workers",
    responses=answers(200, models.Health, everywhere=(400, 413)),
)
async def healthz(_: Annotated[models.NoQuery, Query()]) -> Response:
    return Json({"status": "ok"})


@router.get(
    "/readyz",
    tags=["health"],
    summary="Whether signatures can be made: every worker signs with a key of its own making",
    responses={
        **answers(200, models.Readiness, everywhere=(400, 413, 429, 500)),
        503: {"description": "No worker signed", "model": models.Readiness},
    },
)
async def readyz(request: Request, _: Annotated[models.NoQuery, Query()]) -> Response:
    report = await request.app.state.readiness.report()
    return Json(report, status_code=200 if report["ready"] else 503)


@router.get(
    "/metrics",
    tags=["health"],
    summary="Counters and times, in Prometheus' text format",
    response_class=Response,
    responses=answers(
        200, None, everywhere=(400, 413, 429, 500), content={"text/plain": {"schema": {"type": "string"}}}
    ),
)
async def metrics(request: Request, _: Annotated[models.NoQuery, Query()]) -> Response:
    return Response(front_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


class Readiness:
    """Self-tests of all workers: one run for all who ask meanwhile, and a second longer."""

    def __init__(self, pool: Pool, workers: int) -> None:
        self._pool = pool
        self._workers = workers
        self._run: asyncio.Task[dict[str, Any]] | None = None
        self._until = 0.0

    async def report(self) -> dict[str, Any]:
        """``ready``: at least one worker signed; and every worker's state."""
        if self._run is None or (self._run.done() and time.monotonic() >= self._until):
            self._run = asyncio.ensure_future(self._ask_all())
        # Who asks may go away; the others wait on.
        return await asyncio.shield(self._run)

    async def _ask_all(self) -> dict[str, Any]:
        there = {state.slot: state for state in self._pool.workers()}
        slots = sorted({*there, *range(self._workers)})
        found = await asyncio.gather(*(self._ask(slot, there.get(slot)) for slot in slots))
        self._until = time.monotonic() + FRESH
        return {"ready": any(each["signed"] for each in found), "workers": found}

    async def _ask(self, slot: int, state: WorkerState | None) -> dict[str, Any]:
        if state is None:
            return _view(slot, None, "missing", "not connected", 0, False)
        reason = state.reason
        signed = False
        if state.state == "ready":
            try:
                answer = await self._pool.call_on(
                    slot, Call(caller=Caller(), request_id="readyz", operation=SelfTest())
                )
            except SignerError as error:
                reason = error.message
            else:
                signed = not isinstance(answer, Failure)
                reason = answer.message if isinstance(answer, Failure) else None
        return _view(slot, state.generation, state.state, reason, state.signatures, signed)


def _view(
    slot: int, generation: int | None, state: str, reason: str | None, signatures: int, signed: bool
) -> dict[str, Any]:
    return {
        "slot": slot,
        "generation": generation,
        "state": state,
        "reason": reason,
        "signatures": signatures,
        "signed": signed,
    }
