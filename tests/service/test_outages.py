"""Token, database, workers and front are taken away while clients sign over HTTPS, and come back.

Every request is sent again, as it is, until it is answered. So at the end evidence has exactly what was
acknowledged, each once; no card was blamed for what the machinery did; and what was not taken away is still
there.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.errors import (
    ChallengeStale,
    RecordConflict,
    ServiceBusy,
    ServiceStopping,
    ServiceTimeout,
    ServiceUnreachable,
    SignerError,
    StoreBusy,
    StoreReadOnly,
    StoreUnavailable,
    TokenUnavailable,
    WorkerUnavailable,
)
from hsm_signer.server.initialise import (
    TOKEN_FOLDER,
)
from hsm_signer.server.server import Server
from hsm_signer.service.wire import operations as wire
from hsm_signer.store.database import sqlite_url
from hsm_signer.testing import Home, Person
from hsm_signer.types import ACCEPTED, DigestList, Event, SignOutcome
from hsm_signer.workstation.remote import RemoteServer
from tests.support.fake_worker import FakeWorker, ask, pool_on, run, until
from tests.support.front import api, problem, send
from tests.support.other_users import Python, User, give, reachable
from tests.support.people import digests, use_store
from tests.support.postgresql import Postgresql, copy_store
from tests.support.scenes import authorise, check_evidence, database, verifies
from tests.support.service import WAIT, Service, free_port, serving
from tests.support.tenants import Tenants

# A connection that a killed process broke in its handshake is left to the garbage collector by the HTTP
# client: its complaint is about nothing here, and must not fall upon another file's test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    yield
    gc.collect()


SIGNERS = ("alice", "bob", "paula", "peter")
"""Two with rolling keys, two with PIN and the same card key; a client each."""
SOMEBODY = 54321
"""No user of this system."""
WORKERS = 2
RATES = "rate = 1000000.0\nburst = 1000000\ncredential_requests = 1000000\n"
PATIENCE = 120.0
"""Seconds that a client asks again."""
T = TypeVar("T")


@dataclass
class Load:
    """Clients that sign, each for one person, and what they were told."""

    service: Service
    tenants: Tenants
    acknowledged: list[tuple[DigestList, SignOutcome]] = field(default_factory=list)
    errors: list[SignerError] = field(default_factory=list)
    """Retryable ones: after each of them the same was asked again."""
    failures: list[BaseException] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    gone_for_good: bool = False
    """The service will not come back: who is told to stop need not have an answer."""

    def run(self, person: Person) -> None:
        """One client, until told to stop."""
        try:
            with self.client() as server:
                number = 0
                while not self.stop.is_set():
                    number += 1
                    self.sign(server, person, number)
        except _GivenUp:
            pass
        except BaseException as error:  # a thread's end has to be seen
            self.failures.append(error)

    def client(self) -> RemoteServer:
        """As a workstation has it, but that it says of every error."""
        return RemoteServer(self.service.url, token=self.tenants.tokens["signer"], ca=self.service.ca)

    def sign(self, server: RemoteServer, person: Person, number: int) -> None:
        """One authorisation, once or as often as it takes."""
        algorithm = person.key.default_algorithm
        names = (f"{person.name} {number} {part}".encode() for part in range(1 + 2 * (number % 3 == 0)))
        content = digests(*names, algorithm=algorithm)
        request = self.answered(partial(authorise, server, person, content))
        outcome = self.answered(partial(server.sign, request))
        self.acknowledged.append((content, outcome))

    def answered(self, ask: Callable[[], T]) -> T:
        """What comes of it in the end. Raises what asking again does not mend."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except SignerError as error:
                # Stale: this very request will never do, and nobody else has signed with this card.
                stale = isinstance(error, ChallengeStale)
                if stale or not error.retryable or time.monotonic() > until:
                    raise
                self.errors.append(error)
                if self.stop.is_set() and self.gone_for_good:
                    raise _GivenUp from error
                time.sleep(0.05)

    @property
    def codes(self) -> Counter[str]:
        """What went wrong for clients, how often."""
        return Counter(each.code for each in list(self.errors))

    @property
    def signatures(self) -> int:
        """So many were handed out."""
        return sum(len(outcome.signatures) for _, outcome in list(self.acknowledged))

    def until(self, fact: Callable[[], bool], what: str) -> None:
        """Wait for it. Raises AssertionError with the service's log."""
        until = time.monotonic() + PATIENCE
        while not fact():
            assert not self.failures, (self.failures, self.service.story)
            assert time.monotonic() < until, f"{what}: {self.codes}\n{self.service.story}"
            time.sleep(0.02)

    def wait_for_more(self, count: int = 12) -> None:
        """So many more authorisations acknowledged."""
        wanted = len(self.acknowledged) + count
        self.until(lambda: len(self.acknowledged) >= wanted, f"{wanted} authorisations")

    def wait_for_errors(self, *kinds: type[SignerError], count: int = 1) -> None:
        """So many more errors of one of these kinds."""
        wanted = self._count(kinds) + count
        self.until(lambda: self._count(kinds) >= wanted, f"{wanted} x {kinds}")

    def _count(self, kinds: tuple[type[SignerError], ...]) -> int:
        return sum(type(each) in kinds for each in list(self.errors))

    def only(self, *kinds: type[SignerError]) -> None:
        """Clients saw no other errors than these, and every one of these."""
        assert set(self.codes) == {each.code for each in kinds}, (self.codes, self.service.story)

    def everybody_signs(self) -> None:
        """Once more, in turn."""
        with self.client() as server:
            for name in SIGNERS:
                self.sign(server, self.tenants.home[name], -1)


class _GivenUp(Exception):
    pass


@contextmanager
def signing(service: Service, tenants: Tenants) -> Iterator[Load]:
    """Clients at work; at the end everybody has the answer to what was asked last."""
    load = Load(service, tenants)
    threads = [threading.Thread(target=load.run, args=(tenants.home[name],)) for name in SIGNERS]
    for each in threads:
        each.start()
    try:
        yield load
    finally:
        load.stop.set()
        for each in threads:
            each.join(PATIENCE + WAIT)
    assert load.failures == [], (load.failures, service.story)


def check(home: Home, load: Load) -> None:
    """Evidence has what was acknowledged and nothing else, no failure was counted, the audit is good."""
    with home.server() as server:
        check_evidence(server, load.acknowledged)
        assert accepted(server) == {outcome.d for _, outcome in load.acknowledged}
        for name in SIGNERS:
            assert server.credential(name).failures == 0


def accepted(server: Server) -> set[bytes]:
    """Every D that was signed for."""
    return {
        entry.d
        for _, entry in server.entries()
        if entry.event is Event.SIGN and entry.outcome == ACCEPTED and entry.d is not None
    }


def nothing_restarted(service: Service) -> None:
    """Front and workers are the processes that they were."""
    for child in ("front", *(f"worker-{slot}" for slot in range(WORKERS))):
        assert len(service.find("started", child=child)) == 1, service.story
    assert not service.find("internal-error"), service.story


def wait_until_not_ready(service: Service, words: str, workers: int = WORKERS) -> None:
    """Until /readyz answers 503, with a reason from every worker in which this pattern is found."""
    until = time.monotonic() + WAIT
    while True:
        status, report = service.readiness()
        reasons = [each["reason"] or "" for each in report["workers"]]
        if status == 503 and all(re.search(words, reason) for reason in reasons):
            break
        assert time.monotonic() < until, f"{status} {report}\n{service.story}"
        time.sleep(0.1)
    assert report["ready"] is False
    assert len(reasons) == workers
    assert not any(each["signed"] for each in report["workers"])


def limits(*lines: str) -> str:
    """[limits] of service.toml."""
    return "\n".join(["[limits]", RATES, *lines, ""])


def set_busy_timeout(home: Home, seconds: float) -> None:
    """How long a worker waits for the database's lock."""
    config = home.path / CONFIG_FILE
    text = config.read_text()
    assert "busy_timeout = 10.0" in text
    config.write_text(text.replace("busy_timeout = 10.0", f"busy_timeout = {seconds}"))


# --- the token ---------------------------------------------------------------------------------------------


def test_the_token_goes_and_comes_back_twice(tenants: Tenants) -> None:
    tokens = tenants.home.path / TOKEN_FOLDER
    away = tokens.with_name("elsewhere")
    with serving(tenants.home, workers=WORKERS, settings=limits()) as service:
        with signing(service, tenants) as load:
            for _ in range(2):
                load.wait_for_more()
                tokens.rename(away)
                wait_until_not_ready(service, "token|PKCS#11 module")
                load.wait_for_errors(WorkerUnavailable, TokenUnavailable, count=len(SIGNERS))
                away.rename(tokens)
                service.wait_until_ready()
                load.wait_for_more()
        load.everybody_signs()
        assert set(load.codes) <= {WorkerUnavailable.code, TokenUnavailable.code}, load.codes
        for slot in range(WORKERS):
            assert len(service.find("state", state="recovering", slot=slot)) >= 2
        nothing_restarted(service)
    check(tenants.home, load)


# --- the database ------------------------------------------------------------------------------------------


@pytest.fixture
def on_postgresql(tenants: Tenants, postgresql: Postgresql) -> Iterator[Tenants]:
    """The tenants, with their store on the server."""
    name = postgresql.make()
    url = postgresql.url(name)
    copy_store(sqlite_url(database(tenants.home)), url)
    use_store(tenants.home, url)
    yield tenants
    postgresql.drop(name)


def test_the_database_server_goes_and_comes_back_twice(
    on_postgresql: Tenants, postgresql: Postgresql
) -> None:
    home = on_postgresql.home
    with serving(home, workers=WORKERS, settings=limits()) as service:
        with signing(service, on_postgresql) as load:
            for _ in range(2):
                load.wait_for_more()
                postgresql.kill()
                try:
                    wait_until_not_ready(service, "database .* cannot be reached")
                    load.wait_for_errors(WorkerUnavailable, StoreUnavailable, count=len(SIGNERS))
                finally:
                    postgresql.start()
                service.wait_until_ready()
                load.wait_for_more()
        load.everybody_signs()
        assert set(load.codes) <= {WorkerUnavailable.code, StoreUnavailable.code}, load.codes
        for slot in range(WORKERS):
            assert len(service.find("state", state="recovering", slot=slot)) >= 2
        nothing_restarted(service)
    check(home, load)


def test_a_database_locked_for_too_long(tenants: Tenants) -> None:
    """SQLite has one writer; somebody else is it, and stays it."""
    set_busy_timeout(tenants.home, 0.3)
    with serving(tenants.home, workers=WORKERS, settings=limits()) as service:
        with signing(service, tenants) as load, ExitStack() as stack:
            load.wait_for_more()
            other = stack.enter_context(
                closing(sqlite3.connect(database(tenants.home), timeout=WAIT, isolation_level=None))
            )
            other.execute("BEGIN IMMEDIATE")
            load.wait_for_errors(StoreBusy, count=len(SIGNERS))
            wait_until_not_ready(service, "another process held the database")
            # Whoever reads does not mind.
            with load.client() as server, tenants.home["alice"].card() as card:
                credential_id = card.status().credential_id
                assert credential_id is not None
                assert server.challenge(credential_id).credential_id == credential_id
            other.execute("ROLLBACK")
            load.wait_for_more()
            service.wait_until_ready()
        load.everybody_signs()
        load.only(StoreBusy)
        with (
            api(service, tenants.tokens["signer"]) as client,
            load.client() as server,
            closing(sqlite3.connect(database(tenants.home), isolation_level=None)) as other,
        ):
            content = digests(b"x")
            request = authorise(server, tenants.home["alice"], content)
            other.execute("BEGIN IMMEDIATE")
            answer = send(client, request)
            told = answer.json()
            assert (answer.status_code, told["code"], told["retryable"]) == (503, StoreBusy.code, True)
            assert float(answer.headers["retry-after"]) > 0
            other.execute("ROLLBACK")
            outcome = server.sign(request)
            assert not outcome.repeated
            load.acknowledged.append((content, outcome))
        nothing_restarted(service)
        assert not service.find("state", state="recovering")
    check(tenants.home, load)


@pytest.fixture
def as_somebody(
    request: pytest.FixtureRequest, tenants: Tenants
) -> Iterator[Callable[[], AbstractContextManager[tuple[Tenants, Service]]]]:
    """Nobody forbids root to write: a service that is run by somebody else."""

    with reachable() as folder:
        somebody = User(SOMEBODY, SOMEBODY)
        moved = tenants.copy_to(folder / "home")

        @contextmanager
        def started() -> Iterator[tuple[Tenants, Service]]:
            if os.geteuid() != 0:
                with serving(moved.home) as service:
                    yield moved, service
                return
            give(moved.home.path, somebody)
            python: Python = request.getfixturevalue("python_for_others")
            environment = {**python.environment, "HOME": str(folder)}
            with serving(
                moved.home, python=python.executable, environment=environment, user=somebody
            ) as service:
                yield moved, service

        yield started


def test_a_database_that_may_not_be_written(
    as_somebody: Callable[[], AbstractContextManager[tuple[Tenants, Service]]],
) -> None:
    with as_somebody() as (tenants, service):
        token = tenants.tokens["signer"]
        with api(service, token) as client, RemoteServer(service.url, token=token, ca=service.ca) as server:
            request = authorise(server, tenants.home["alice"], digests(b"x"))
            # Whoever has it open can go on writing; the next worker cannot.
            database(tenants.home).chmod(0o400)
            service.kill(service.pid_of("worker-0"))
            service.wait_for("started", child="worker-0", generation=2)
            service.wait_for_worker()
            wait_until_not_ready(service, "cannot be written", workers=1)
            for _ in range(3):
                answer = send(client, request)
                told = answer.json()
                assert (answer.status_code, told["code"]) == (503, StoreReadOnly.code), told
                assert "cannot be written" in told["detail"]
                assert told["retryable"] is False
                assert server.challenge(request.authorisation.credential_id).x == request.authorisation.x
            database(tenants.home).chmod(0o600)
            service.wait_until_ready()
            outcome = server.sign(request)
            assert not outcome.repeated
            verifies(outcome, request.content)
        assert len(service.find("started", child="worker-0")) == 2, service.story
        assert not service.find("internal-error"), service.story


# --- workers and front -------------------------------------------------------------------------------------


def test_workers_that_stand_still(tenants: Tenants) -> None:
    """Nothing answers for a while, and nothing is lost: what was at a worker is carried out by and by."""
    settings = limits("request_timeout = 1.0")
    with serving(tenants.home, workers=WORKERS, settings=settings) as service:
        load = Load(service, tenants)
        workers = [service.pid_of(f"worker-{slot}") for slot in range(WORKERS)]
        requests = []
        with api(service, tenants.tokens["signer"]) as client, load.client() as server:
            for name in ("alice", "paula"):
                content = digests(b"x", algorithm=tenants.home[name].key.default_algorithm)
                requests.append(authorise(server, tenants.home[name], content))
            with frozen(service, workers):
                assert client.get("/healthz").status_code == 200
                # A worker takes two at a time, so each of these is with one.
                for request in requests:
                    answer = send(client, request)
                    assert problem(answer, 504, ServiceTimeout.code)["retryable"] is True
            for request in requests:
                outcome = load.answered(partial(server.sign, request))
                assert outcome.repeated
                assert isinstance(request.content, DigestList)
                load.acknowledged.append((request.content, outcome))
        with signing(service, tenants) as under_load:
            under_load.wait_for_more()
            with frozen(service, workers):
                under_load.wait_for_errors(ServiceTimeout, ServiceBusy, count=2 * len(SIGNERS))
            service.wait_until_ready()
            under_load.wait_for_more()
        under_load.everybody_signs()
        # What timed out was still with a worker: whoever asked again may have been in its own way.
        expected = {ServiceTimeout.code, ServiceBusy.code, RecordConflict.code}
        assert set(under_load.codes) <= expected, under_load.codes
        load.acknowledged += under_load.acknowledged
        nothing_restarted(service)
    check(tenants.home, load)


@contextmanager
def frozen(service: Service, pids: list[int]) -> Iterator[None]:
    """They stand still."""
    for pid in pids:
        service.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            service.kill(pid, signal.SIGCONT)


def test_the_front_is_killed_and_comes_back(tenants: Tenants) -> None:
    arguments = ("--bind", f"127.0.0.1:{free_port()}")
    with serving(tenants.home, workers=WORKERS, settings=limits(), arguments=arguments) as service:
        with signing(service, tenants) as load:
            for times in (1, 2):
                load.wait_for_more()
                service.kill(service.pid_of("front"))
                service.wait_for("ended", child="front", count=times, status=-signal.SIGKILL)
                service.wait_for("listening", part="front", count=times + 1)
                load.wait_for_more()
        load.everybody_signs()
        assert set(load.codes) <= {ServiceUnreachable.code, WorkerUnavailable.code}, load.codes
        assert len({each["url"] for each in service.find("listening", part="front")}) == 1
        for slot in range(WORKERS):
            assert len(service.find("started", child=f"worker-{slot}")) == 1
    check(tenants.home, load)


def test_the_service_stops_under_load(tenants: Tenants) -> None:
    """Whatever was carried out has been answered."""
    with serving(tenants.home, workers=WORKERS, settings=limits()) as service:
        with signing(service, tenants) as load:
            load.gone_for_good = True
            load.wait_for_more(20)
            service.process.send_signal(signal.SIGTERM)
            assert service.wait() == 0
            load.wait_for_errors(ServiceUnreachable, count=len(SIGNERS))
        assert set(load.codes) <= {ServiceUnreachable.code, ServiceStopping.code}, load.codes
        ended = {each["child"]: each["status"] for each in service.find("ended") if "child" in each}
        assert ended == {"front": 0, "worker-0": 0, "worker-1": 0}, service.story
    check(tenants.home, load)


def test_nobody_notices_that_workers_are_started_anew(tenants: Tenants) -> None:
    settings = limits() + "[worker]\nrecycle_after = 20\n"
    with serving(tenants.home, workers=WORKERS, settings=settings) as service:
        with signing(service, tenants) as load:
            load.until(lambda: load.signatures >= 100, "100 signatures")
        assert load.errors == [], service.story
        service.wait_until_ready()
        with api(service) as client:
            counters = metrics(client)
        assert counters["hsm_signer_worker_restarts_total"] >= 100 / 20 - WORKERS
        assert counters["hsm_signer_worker_lost_total"] == 0
        assert {each["status"] for each in service.find("ended") if "child" in each} == {0}
    check(tenants.home, load)


def metrics(client: httpx.Client) -> dict[str, float]:
    """/metrics by name, those without labels."""
    lines = client.get("/metrics").text.splitlines()
    pairs: list[list[Any]] = [line.split() for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_a_call_that_crosses_the_workers_end_is_refused(tenants: Tenants) -> None:
    """Not lost: a front that has not read yet that the worker ends may have sent one more."""
    with serving(tenants.home, part="workers") as service:
        with service.worker(bearer=tenants.tokens["app"]) as client:
            service.kill(service.pid_of("worker-0"), signal.SIGTERM)
            client.wait_for_state("draining")
            time.sleep(0.05)  # a front that is slow
            with pytest.raises(ServiceStopping):
                client.call(wire.WhoAmI())
        service.wait_for("started", child="worker-0", generation=2)
        service.wait_for_worker()
        # And one that holds on to its connection keeps nobody up.
        with service.worker() as holding:
            service.kill(service.pid_of("worker-0"), signal.SIGTERM)
            assert holding.is_closed()
        service.wait_for("ended", child="worker-0", count=2, status=0)


def test_the_front_lets_go_of_a_worker_that_ends() -> None:
    """Once it has every answer: the worker waits for that."""

    async def test(folder: Path) -> None:
        async with FakeWorker(folder).running() as worker, pool_on(folder) as pool:
            asked = ask(pool)
            await until(lambda: worker.calls)
            (connection,) = worker.connections
            worker.become("draining")
            await until(lambda: pool.workers()[0].state == "draining")
            assert not connection.is_closing()
            worker.reply(1)
            await asked
            await until(connection.is_closing)
            assert pool.lost == 0

    run(test)
