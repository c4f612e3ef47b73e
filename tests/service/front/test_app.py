"""The application over workers that do what the test says: what a real one does only by accident."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from hsm_signer.config.service import LimitSettings, Settings, WorkerSettings
from hsm_signer.core.interface import EvidencePage, NumberedEntry
from hsm_signer.service.front import health
from hsm_signer.service.front.app import App
from hsm_signer.service.roles import Role
from hsm_signer.service.wire.operations import (
    Call,
    ClientView,
    GetEvidence,
    SelfTest,
    WhoAmI,
    decode,
    encode,
)
from tests.support.factories import make_entry
from tests.support.fake_worker import FakeWorker, pool_on, run, until


@asynccontextmanager
async def application(folder: Path, *, workers: int = 1, **limits: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(limits=LimitSettings(**limits), worker=WorkerSettings(count=workers))
    async with pool_on(folder, workers=workers, timeout=settings.limits.request_timeout) as pool:
        transport = httpx.ASGITransport(app=App(settings, pool))
        async with httpx.AsyncClient(
            transport=transport, base_url="https://front", headers={"Authorization": "Bearer x"}
        ) as client:
            yield client


async def ask(client: httpx.AsyncClient, method: str, path: str) -> asyncio.Task[httpx.Response]:
    task = asyncio.ensure_future(client.request(method, path))
    await asyncio.sleep(0)
    return task


def with_worker(test: Callable[[FakeWorker, httpx.AsyncClient], Awaitable[None]], **limits: Any) -> None:
    async def inside(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, application(folder, **limits) as client:
            await until(lambda: worker.connections)
            await test(worker, client)

    run(inside)


def entry(number: int) -> NumberedEntry:
    return NumberedEntry.of(number, make_entry(sequence=number))


def test_export_page_by_page() -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        task = await ask(client, "GET", "/v1/evidence/export?after=7")
        for index, numbers in enumerate(([8, 9], [11], [])):
            await until(lambda: len(worker.calls) == index + 1)  # noqa: B023
            operation = decode(worker.calls[index].payload, Call).operation
            assert isinstance(operation, GetEvidence)
            assert operation.after == (7, 9, 11)[index]
            worker.reply(index + 1, EvidencePage(tuple(map(entry, numbers)), more=bool(numbers)))
        lines = [json.loads(line) for line in (await task).text.splitlines()]
        assert [each["number"] for each in lines] == ["8", "9", "11"]

    with_worker(test)


def test_export_that_cannot_go_on_says_so() -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        task = await ask(client, "GET", "/v1/evidence/export")
        await until(lambda: worker.calls)
        worker.reply(1, EvidencePage((entry(1),), more=True))
        await until(lambda: len(worker.calls) == 2)
        worker.hang_up()
        answer = await task
        assert answer.status_code == 200
        first, last = (json.loads(line) for line in answer.text.splitlines())
        assert first["number"] == "1"
        assert (last["error"]["code"], last["error"]["status"]) == ("worker.lost", 503)
        assert last["error"]["retryable"]
        assert last["error"]["request_id"] == answer.headers["x-request-id"]

    with_worker(test)


def test_export_that_cannot_begin_is_refused() -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        task = await ask(client, "GET", "/v1/evidence/export")
        await until(lambda: worker.calls)
        worker.fail(1, "client.not-permitted")
        assert (await task).status_code == 403

    with_worker(test)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("client.not-authenticated", 401),
        ("token.unavailable", 503),
        ("store.busy", 503),
        ("internal", 500),
        ("of.another.version", 500),
        ("worker.frame-malformed", 500),
        ("certificate.unsuitable", 422),
    ],
)
def test_refusal_of_a_worker(code: str, status: int) -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        task = await ask(client, "GET", "/v1/whoami")
        await until(lambda: worker.calls)
        worker.fail(1, code)
        answer = await task
        known = code if code != "of.another.version" else "service.error"
        assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (status, known, "no")
        assert ("retry-after" in answer.headers) is (status == 503)
        assert ("www-authenticate" in answer.headers) is (status == 401)
        if code.startswith("token."):
            text = (await client.get("/metrics")).text
            assert f'hsm_signer_token_errors_total{{code="{code}"}} 1.0' in text

    with_worker(test)


def test_result_that_is_none() -> None:
    """A worker of another version: nothing of it goes out."""

    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        task = await ask(client, "GET", "/v1/whoami")
        await until(lambda: worker.calls)
        worker.reply(1, {"secret": "value"})
        answer = await task
        assert (answer.status_code, answer.json()["code"]) == (500, "worker.frame-malformed")
        assert "value" not in answer.text

    with_worker(test)


def test_what_nobody_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        def broken(_: object) -> None:
            raise ZeroDivisionError("with a secret in its words")

        monkeypatch.setattr("hsm_signer.service.front.native.endpoints.CertificationRequest", broken)
        task = await ask(client, "GET", "/v1/credentials/" + "0" * 32 + "/certification-request")
        await until(lambda: worker.calls)
        worker.reply(1, "PEM")
        answer = await task
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        assert "secret" not in answer.text

    with_worker(test)


def test_worker_that_does_not_answer_in_time() -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        answer = await client.get("/v1/whoami")
        assert (answer.status_code, answer.json()["code"]) == (504, "service.timeout")
        assert answer.json()["retryable"]
        assert len(worker.calls) == 1, "the front does not ask again"

    with_worker(test, request_timeout=0.3)


# --- messages ----------------------------------------------------------------------------------------------

UPLOAD = f"/v1/credentials/{'00' * 16}/message-signatures"
HEADERS = {"content-type": "multipart/form-data; boundary=b"}


async def upload(client: httpx.AsyncClient, worker: FakeWorker, pause: float) -> httpx.Response:
    """A message without end, from a client that the worker knows."""

    async def content() -> AsyncIterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="message"; filename="m"\r\n\r\n'
        while True:
            await asyncio.sleep(pause)
            yield bytes(10_000)

    task = asyncio.ensure_future(client.post(UPLOAD, content=content(), headers=HEADERS))
    await until(lambda: worker.calls)
    assert isinstance(decode(worker.calls[-1].payload, Call).operation, WhoAmI)
    worker.reply(len(worker.calls), ClientView("c", (Role.SIGNER,), None, False))
    return await task


def test_message_that_becomes_too_much() -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        answer = await upload(client, worker, 0)
        assert (answer.status_code, answer.json()["code"]) == (413, "request.too-large")
        assert answer.headers["connection"] == "close"
        assert len(worker.calls) == 1

    with_worker(test, message=100_000)


def test_message_of_a_client_that_may_not_sign() -> None:
    """Refused before anything of it is taken: the disk is for those who may."""

    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        task = asyncio.ensure_future(client.post(UPLOAD, content=b"no message", headers=HEADERS))
        await until(lambda: worker.calls)
        worker.reply(1, ClientView("c", (Role.AUDITOR, Role.ADMIN), None, False))
        answer = await task
        assert (answer.status_code, answer.json()["code"]) == (403, "client.not-permitted")
        assert len(worker.calls) == 1

    with_worker(test)


def test_message_that_takes_too_long() -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        answer = await upload(client, worker, 0.05)
        assert (answer.status_code, answer.json()["code"]) == (408, "request.too-slow")
        assert len(worker.calls) == 1

    with_worker(test, body_timeout=0.5)


def test_more_messages_at_once_than_there_may_be() -> None:
    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        first = asyncio.ensure_future(upload(client, worker, 0.05))
        await until(lambda: client_is_uploading(client))
        task = asyncio.ensure_future(client.post(UPLOAD, content=b"", headers=HEADERS))
        await until(lambda: len(worker.calls) == 2)
        worker.reply(2, ClientView("c", (Role.SIGNER,), None, False))
        assert (await task).json()["code"] == "service.busy"
        first.cancel()
        await until(lambda: not client_is_uploading(client))

    with_worker(test, in_flight=1)


def client_is_uploading(client: httpx.AsyncClient) -> bool:
    """Whether the only place for a message is taken."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    found: bool = transport.app.front.uploads.locked()  # type: ignore[attr-defined]
    return found


# --- readiness ---------------------------------------------------------------------------------------------


def test_readiness_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask at the same time, and a moment after it."""
    monkeypatch.setattr(health, "FRESH", 60.0)

    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        tasks = [await ask(client, "GET", "/readyz") for _ in range(10)]
        await until(lambda: worker.calls)
        await asyncio.sleep(0.05)
        assert [type(decode(each.payload, Call).operation) for each in worker.calls] == [SelfTest]
        worker.reply(1)
        answers = [await task for task in tasks] + [await client.get("/readyz")]
        assert {each.status_code for each in answers} == {200}
        assert len(worker.calls) == 1

    with_worker(test)


def test_readiness_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FRESH", 0.0)

    async def test(worker: FakeWorker, client: httpx.AsyncClient) -> None:
        task = await ask(client, "GET", "/readyz")
        await until(lambda: worker.calls)
        worker.reply(1)
        assert (await task).status_code == 200
        task = await ask(client, "GET", "/readyz")
        await until(lambda: len(worker.calls) == 2)
        worker.fail(2, "token.unavailable")
        answer = await task
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["workers"][0]["reason"] == "no"

    with_worker(test)


def test_readiness_with_some_workers() -> None:
    """One that signs is enough; what is wrong with the others is said."""

    async def test(folder: Path) -> None:
        lost = FakeWorker(folder, 1, state="recovering", reason="no token")
        async with (
            FakeWorker(folder, 0).running() as good,
            lost.running(),
            application(folder, workers=3) as client,
        ):
            await until(lambda: good.connections and lost.connections)
            while len((await client.get("/metrics")).text.split('hsm_signer_workers{state="ready"} 1.0')) < 2:
                await asyncio.sleep(0.01)
            task = await ask(client, "GET", "/readyz")
            await until(lambda: good.calls)
            good.reply(1)
            answer = await task
            assert answer.status_code == 200
            found = [(each["state"], each["signed"], each["reason"]) for each in answer.json()["workers"]]
            assert found == [
                ("ready", True, None),
                ("recovering", False, "no token"),
                ("missing", False, "not connected"),
            ]
            assert lost.calls == []

    run(test)


def test_encoded_pages_are_what_workers_send() -> None:
    """The pages above are of the type that the wire decodes."""
    page = EvidencePage((entry(1),), more=False)
    assert decode(encode(page), EvidencePage) == page
