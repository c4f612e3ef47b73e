"""Floods over HTTPS: what a stranger, or a client that means harm, can do, and that nothing comes of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from hsm_signer.server.refusals import MINUTE, SHARE
from hsm_signer.store.database import sqlite_url
from hsm_signer.types import Event, SigningRequest
from tests.support.front import Wire, api, body_of, connected, problem, signatures_path
from tests.support.people import digests, use_store
from tests.support.postgresql import copy_store
from tests.support.scenes import altered, authorise, database
from tests.support.service import WAIT, Service, in_process, serving
from tests.support.tenants import Tenants

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def signs(service: Service, tenants: Tenants, client: str = "signer", person: str = "alice") -> None:
    """A client that is known gets a signature, over a new connection."""
    with service.worker(bearer=tenants.tokens["app"]) as worker:
        request = authorise(worker, tenants.home[person], digests(b"in a flood"))
    with api(service, tenants.tokens[client]) as known:
        answer = known.post(signatures_path(request), json=body_of(request))
        assert answer.status_code == 200, answer.text
        assert answer.json()["repeated"] is False


# --- refusals ----------------------------------------------------------------------------------------------

FLOOD = 60


@pytest.mark.parametrize("name", ["sqlite", "postgresql"])
def test_a_flood_of_refusals_does_not_fill_the_database(
    request: pytest.FixtureRequest, tenants: Tenants, name: str
) -> None:
    """By a client without the card, at two workers: each is refused, none is lost, a dozen rows hold all."""
    if name == "postgresql":
        url = request.getfixturevalue("postgresql_empty_url")
        copy_store(sqlite_url(database(tenants.home)), url)
        use_store(tenants.home, url)
    alice = tenants.home["alice"]
    with serving(tenants.home, workers=2) as service:
        with service.worker(bearer=tenants.tokens["app"]) as worker:
            good = authorise(worker, alice, digests(b"x"))
        forged = altered(good, x=(good.authorisation.x or 0) + 1)
        before = in_process(tenants.home, _of_alice)
        codes = []
        for _ in range(2):
            codes += flood(service, tenants.tokens["app"], forged)
        assert codes == [(409, "authorisation.stale")] * (2 * FLOOD)
        after = in_process(tenants.home, _of_alice)
        assert after.rows - before.rows <= SHARE + 2 * (SHARE + 1), "had it taken three minutes"
        assert after.refusals - before.refusals == 2 * FLOOD
        signs(service, tenants)
    # A minute later a worker writes the number; here the minute is over at once.
    written = in_process(tenants.home, _a_minute_later)
    assert (written.refusals, written.pending) == (after.refusals, 0)
    assert written.rows <= after.rows + 2


def flood(service: Service, token: str, request: SigningRequest) -> list[tuple[int, str]]:
    """FLOOD times the same request, eight at a time; status and code of each answer."""
    with api(service, token) as client, ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: client.post(signatures_path(request), json=body_of(request)), range(FLOOD))
        )
    return [(answer.status_code, answer.json()["code"]) for answer in answers]


@dataclass(frozen=True)
class Found:
    """Of one credential's evidence."""

    rows: int
    refusals: int
    """All of them: by their entries, and by numbers in entries and beside the record."""
    pending: int
    """Credentials with refusals that have no entry yet."""


def _of_alice(server: Any) -> Found:
    record = server.credential("alice")
    entries = [entry for _, entry in server.entries(record.credential_id)]
    single = [entry for entry in entries if entry.outcome == "authorisation.stale"]
    several = sum(entry.x for entry in entries if entry.event is Event.REFUSALS)
    with server.store.appending(record.credential_id) as chain:
        counted = chain.counted
        chain.leave()
    assert server.audit().good
    return Found(len(entries), len(single) + several + counted, len(server.store.counted_refusals()))


def _a_minute_later(server: Any) -> Found:
    from dataclasses import replace

    later = replace(server, clock=lambda: server.clock() + MINUTE)
    later.write_counted_refusals()
    return _of_alice(later)


# --- a service with few places -----------------------------------------------------------------------------

ALL, OF_ADDRESS, OF_STRANGERS = 16, 4, 8
CREDENTIAL_REQUESTS = 20
SETTINGS = f"""
[limits]
connections = {ALL}
connections_per_address = {OF_ADDRESS}
strangers = {OF_STRANGERS / ALL}
credential_requests = {CREDENTIAL_REQUESTS}
handshake_timeout = 4
header_timeout = 600
"""
STRANGERS = ("127.0.0.2", "127.0.0.3")
"""As many as it takes to hold every stranger's place."""
ANOTHER = "127.0.0.9"


@dataclass(frozen=True)
class Crowded:
    """A service with few places, whose clients are at 127.0.0.1."""

    service: Service
    tenants: Tenants

    def turned_away(self, source: str) -> bool:
        """Whether a connection from there is closed before it has said anything."""
        try:
            with Wire(self.service, source) as wire:
                wire.send(HEALTHZ)
                return wire.until_closed() == b""
        except OSError:
            return True

    def refused(self, of: str) -> float:
        """How many connections there was no place for."""
        with api(self.service) as client:
            lines = client.get("/metrics").text.splitlines()
        name = f'hsm_signer_connections_refused_total{{of="{of}"}} '
        return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    def wait_until_served(self, source: str) -> None:
        """Until a connection from there is answered."""
        until = time.monotonic() + WAIT
        while time.monotonic() < until:
            with suppress(OSError, AssertionError), Wire(self.service, source) as wire:
                wire.send(HEALTHZ)
                if wire.answer()[0] == 200:
                    return
            time.sleep(0.05)
        pytest.fail(f"{source} is never served")


@pytest.fixture(scope="module")
def crowded(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowded]:
    folder = tmp_path_factory.mktemp("crowded")
    tenants = template_tenants.copy_to(folder / "home")
    with serving(tenants.home, settings=SETTINGS) as service:
        signs(service, tenants)
        yield Crowded(service, tenants)
    shutil.rmtree(folder)


def test_connections_of_one_address(crowded: Crowded) -> None:
    """It has its own few, also where it is known; others are served."""
    before = crowded.refused("address")
    with ExitStack() as stack:
        for _ in range(OF_ADDRESS):
            wire = stack.enter_context(Wire(crowded.service, STRANGERS[0]))
            wire.send(HEALTHZ)
            assert wire.answer()[0] == 200
        assert crowded.turned_away(STRANGERS[0])
        assert crowded.refused("address") == before + 1
        crowded.wait_until_served(ANOTHER)
        signs(crowded.service, crowded.tenants)
    crowded.wait_until_served(STRANGERS[0])


def test_strangers_leave_places_for_known_clients(crowded: Crowded) -> None:
    before = crowded.refused("strangers")
    with ExitStack() as stack:
        for source in STRANGERS:
            for _ in range(OF_ADDRESS):
                wire = stack.enter_context(Wire(crowded.service, source))
                wire.send(HEALTHZ)
                assert wire.answer()[0] == 200
                # And holds its place with a request that never ends.
                wire.send(HEALTHZ[:20])
        assert crowded.turned_away(ANOTHER)
        assert crowded.refused("strangers") == before + 1
        for _ in range(3):
            signs(crowded.service, crowded.tenants)
    crowded.wait_until_served(ANOTHER)


def test_a_token_that_is_made_up_makes_nobody_known(crowded: Crowded) -> None:
    """Nor does a request that needs no client."""
    newcomer = "127.0.0.20"
    with ExitStack() as stack:
        for source in STRANGERS:
            for _ in range(OF_ADDRESS):
                wire = stack.enter_context(Wire(crowded.service, source))
                wire.send(b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hsc_no\r\n\r\n")
                status, body = wire.answer()
                assert (status, json.loads(body)["code"]) == (401, "client.not-authenticated")
        assert crowded.turned_away(newcomer)
        # A token that is one does: of this address there is room, and its places are no stranger's any more.
        stack.close()
        token = crowded.tenants.tokens["auditor"].encode()
        crowded.wait_until_served(newcomer)
        with Wire(crowded.service, newcomer) as wire:
            wire.send(b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n" % token)
            assert wire.answer()[0] == 200
        with ExitStack() as again:
            for source in STRANGERS:
                for _ in range(OF_ADDRESS):
                    wire = again.enter_context(Wire(crowded.service, source))
                    wire.send(HEALTHZ)
                    assert wire.answer()[0] == 200
            assert crowded.turned_away("127.0.0.10")
            with Wire(crowded.service, newcomer) as wire:
                wire.send(HEALTHZ)
                assert wire.answer()[0] == 200


def test_handshakes_that_never_end(crowded: Crowded) -> None:
    """They hold places from the first moment, and for the handshake's time at most."""
    before = crowded.refused("strangers")
    with ExitStack() as stack:
        silent = [
            stack.enter_context(closing(connected(crowded.service, source)))
            for source in STRANGERS
            for _ in range(OF_ADDRESS)
        ]
        # Some of them begin, and go no further.
        for half_open in silent[::2]:
            half_open.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert crowded.turned_away("127.0.0.11")
        assert crowded.refused("strangers") == before + 1
        signs(crowded.service, crowded.tenants)
        for half_open in silent:
            half_open.settimeout(WAIT)
            with suppress(ConnectionError):
                assert half_open.recv(100) == b"", "closed by the service, though nobody here gave up"
        crowded.wait_until_served("127.0.0.11")


def test_requests_about_one_credential(crowded: Crowded) -> None:
    """Of each client a share: neither a stranger nor another client uses up somebody's."""
    tokens = crowded.tenants.tokens
    with api(crowded.service, tokens["app"]) as client:
        bob = client.get("/v1/users/bob/credential").json()["credential_id"]
        paula = client.get("/v1/users/paula/credential").json()["credential_id"]
        path = f"/v1/credentials/{bob}/challenge"
        # A stranger who knows the id.
        with api(crowded.service, "hsc_" + "0" * 43) as stranger:
            answers = [stranger.get(path) for _ in range(CREDENTIAL_REQUESTS + 5)]
            assert [answer.status_code for answer in answers[:CREDENTIAL_REQUESTS]] == [
                401
            ] * CREDENTIAL_REQUESTS
            problem(answers[-1], 429, "credential.rate-limited")
        answers = [client.get(path) for _ in range(CREDENTIAL_REQUESTS + 5)]
        assert {answer.status_code for answer in answers[:CREDENTIAL_REQUESTS]} == {200}
        found = problem(answers[-1], 429, "credential.rate-limited")
        assert (found["retryable"], found["hint"]) == (True, f"at most {CREDENTIAL_REQUESTS} a minute")
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert client.get(f"/v1/credentials/{paula}/challenge").status_code == 200
        tells = client.post(
            "/csc/v2/credentials/getChallenge", json={"credentialID": bob, "authObjectID": "CARD"}
        )
        assert (tells.status_code, tells.json()["error_description"]) == (429, "Too many requests")
    signs(crowded.service, crowded.tenants, person="bob")
