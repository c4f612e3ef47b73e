"""What an operator and an attacker found at the finished service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hsm_signer.errors import (
    InputError,
    NotPermitted,
    RecordConflict,
    StoreReadOnly,
    TokenNotFound,
    TokenUnsuitable,
)
from hsm_signer.service.front.http.bodies import strict_json
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.operations import Call, Caller
from hsm_signer.types import Event, Message, Scheme, SigningRequest, SignOutcome
from tests.support.front import Wire, api, problem
from tests.support.people import Home
from tests.support.scenes import authorise, verifies
from tests.support.service import Service, serving

from .conftest import Running, Tenants
from .test_front_pool import FakeWorker, ask, pool_on, run, until
from .test_worker_operations import enrolled

# --- answers that nobody takes -----------------------------------------------------------------------------

FEW_CONNECTIONS = """
[limits]
connections = 3
body_timeout = 0.5
rate = 100000
burst = 100000
"""
BIG = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20
"""Two megabytes."""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Service]:
    with serving(Home(tmp_path, {}), part="front", settings=FEW_CONNECTIONS, ready=False) as service:
        service.wait_for("listening", part="front")
        yield service


def test_answers_that_nobody_takes_do_not_keep_a_connection(front: Service) -> None:
    """As many connections as there may be, each asking for more than the system buffers, none reading."""
    wires = [Wire(front) for _ in range(3)]
    try:
        for each in wires:
            each.send(BIG * 20)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                with Wire(front) as wire:
                    wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                    assert wire.answer()[0] == 200
                    break
            except (OSError, EOFError, AssertionError):
                time.sleep(0.1)
        else:
            pytest.fail("they hold their places for ever")
    finally:
        for each in wires:
            each.__exit__(None, None, None)


# --- a registrar whose answer was lost ---------------------------------------------------------------------


def test_registrar_gets_the_lost_answer_of_an_enrolment(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very request that finished it, and no other: the credential is not the registrar's to use."""
    with running.as_client("registrar") as registrar, running.as_client("app") as client:
        sent: list[SigningRequest] = []
        sign = registrar.sign

        def kept(request: SigningRequest) -> SignOutcome:
            sent.append(request)
            return sign(request)

        monkeypatch.setattr(registrar, "sign", kept)
        person = enrolled(registrar, tmp_path, Scheme.PIN, "lost-answer")
        again = sign(sent[-1])
        assert again.repeated
        verifies(again, sent[-1].content)
        number = again.credential_id
        assert isinstance(sent[-1].content, Message)
        info = b"".join(sent[-1].content.source.chunks())
        others = [authorise(client, person, info), authorise(client, person, b"text")]
        verifies(client.sign(others[1]), others[1].content)
        for each in others:
            with pytest.raises(NotPermitted, match="in enrolment only"):
                sign(each)
        entries = client.call(wire.GetEvidence(credential_id=number)).entries
        assert [entry.event for entry in entries] == [Event.ENROL, Event.ACTIVATE, Event.SIGN]


# --- one rate for one client -------------------------------------------------------------------------------

SLOW_RATE = """
[limits]
rate = 0.001
burst = 6
"""


def test_access_tokens_of_a_client_share_its_rate(tenants: Tenants, tmp_path: Path) -> None:
    with serving(tenants.home, part="workers") as workers:
        folder = tmp_path / "front"
        folder.mkdir()
        (folder / "run").symlink_to(workers.sockets)
        settings = f"bind = '127.0.0.1:0'\n{SLOW_RATE}"
        with serving(Home(folder, {}), part="front", settings=settings, ready=False) as service:
            service.wait_for("listening", part="front")
            service.wait_for("worker-connected")
            name, token = "signer", tenants.tokens["signer"]
            with api(service) as client:
                access = []
                for _ in range(2):
                    answer = client.post("/csc/v2/auth/login", auth=(name, token), json={})
                    access.append({"Authorization": f"Bearer {answer.json()['access_token']}"})
                # The address paid for the first login and for the first use of each token.
                for headers in (*access, *access, *access):
                    assert client.get("/v1/whoami", headers=headers).status_code == 200
                # The client paid for the second login and for four uses: one is left of six.
                assert client.get("/v1/whoami", headers=access[1]).status_code == 200
                for headers in access:
                    problem(client.get("/v1/whoami", headers=headers), 429, "client.rate-limited")


# --- long bodies of strangers ------------------------------------------------------------------------------


def test_long_json_of_a_stranger_is_not_read(tenants: Tenants) -> None:
    """To find every fault in a megabyte takes seconds, in which nobody else is served."""
    path = f"/v1/credentials/{'00' * 16}/signatures"
    head = {"Content-Type": "application/json"}
    long = b"[" + b" " * 20_000
    with serving(tenants.home) as service, api(service) as stranger:
        problem(stranger.post(path, content=b"[", headers=head), 400, "input.invalid")
        problem(stranger.post(path, content=long, headers=head), 401, "client.not-authenticated")
        made_up = {**head, "Authorization": f"Bearer hsc_{'A' * 43}"}
        problem(stranger.post(path, content=long, headers=made_up), 401, "client.not-authenticated")
        known = {**head, "Authorization": f"Bearer {tenants.tokens['signer']}"}
        problem(stranger.post(path, content=long, headers=known), 400, "input.invalid")


def test_names_in_an_object_are_counted() -> None:
    assert strict_json(b"{" + b",".join(b'"%d":0' % each for each in range(100)) + b"}", "body")
    with pytest.raises(InputError, match="at most 100 names"):
        strict_json(b"{" + b",".join(b'"%d":0' % each for each in range(101)) + b"}", "body")


# --- a request in the body of another ----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
def test_body_of_an_upgrade_is_no_request(front: Service, protocol: str) -> None:
    """A proxy that sees one request must not get two answers: the second would be somebody else's."""
    inner = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with Wire(front) as wire:
        wire.send(
            b"POST /csc/v2/info HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            b"Upgrade: %b\r\nContent-Length: %d\r\n\r\n" % (protocol.encode(), len(inner))
        )
        wire.answer()
        with suppress(OSError):
            wire.send(inner)
        assert wire.until_closed() == b""


# --- evidence that takes long ------------------------------------------------------------------------------


def test_signatures_go_past_calls_that_only_read() -> None:
    """Anchors over a million chains take minutes: as many as anybody likes must not stop the signing."""

    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            await until(pool.workers)
            anchor = Call(caller=Caller(bearer="b"), request_id="anchor", operation=wire.GetAnchor())
            anchors = [asyncio.ensure_future(pool.call(anchor)) for _ in range(5)]
            await until(lambda: worker.calls)
            others = [ask(pool, "other") for _ in range(3)]
            await until(lambda: len(worker.calls) == 3)
            assert [worker.asked(index) for index in range(3)] == ["anchor", "other", "other"]
            worker.reply(2)
            await until(lambda: len(worker.calls) == 4)
            assert worker.asked(3) == "other"
            worker.reply(1)
            await until(lambda: len(worker.calls) == 5)
            assert worker.asked(4) == "anchor"
            worker.reply(3)
            worker.reply(4)
            await asyncio.gather(*others)
            assert pool.queue == 3
            for each in anchors:
                each.cancel()
            await asyncio.gather(*anchors, return_exceptions=True)

    run(test)


# --- what strangers are told, and what they can make us do --------------------------------------------------


def test_lists_of_a_stranger_are_not_read_in_csc(front: Service) -> None:
    """A megabyte of wrong hashes: refused for who sends it, before one of them is looked at."""
    with api(front) as client:
        for path in ("v2/credentials/authorize", "v2/signatures/signHash", "v1/signatures/signHash"):
            wrong = {"hashes": [5] * 100_000}
            answer = client.post(f"/csc/{path}", json=wrong, headers={"Authorization": "Bearer hsc_nobody"})
            # No worker is there to say who it is: so long nothing is read.
            assert answer.status_code == 503, answer.text


def test_token_and_store_are_told_by_kind() -> None:
    for error in (TokenNotFound("module /opt/x.so", hint="/opt"), StoreReadOnly("/var/lib/store.db cannot")):
        told = wire.failure_of(error)
        assert told.code == error.code
        assert "/" not in told.message
        assert told.hint is None
    for said in (TokenUnsuitable("no ed25519"), RecordConflict("again", hint="again"), InputError("x: y")):
        assert wire.failure_of(said).message == said.message
