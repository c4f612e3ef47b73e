"""Too much, too slow, too often: what the front refuses before any worker hears of it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from hsm_signer.service.front.http.token_bucket import MAX_BUCKETS, TokenBuckets
from hsm_signer.testing import Home
from tests.support.front import Wire, api, connected, problem
from tests.support.service import Service, serving
from tests.support.tenants import Tenants

# --- buckets -----------------------------------------------------------------------------------------------


class Clock:
    """Stands still until told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_burst_and_then_the_rate() -> None:
    clock = Clock()
    buckets = TokenBuckets(rate=2.0, burst=3, clock=clock)
    assert [buckets.take(b"a") for _ in range(3)] == [0.0] * 3
    assert buckets.take(b"a") == pytest.approx(0.5)
    clock.now += 0.25
    assert buckets.take(b"a") == pytest.approx(0.25)
    clock.now += 0.25
    assert buckets.take(b"a") == 0.0
    assert buckets.take(b"a") > 0
    assert buckets.take(b"b") == 0.0, "everybody has a bucket"
    clock.now += 1000
    assert [buckets.take(b"a") for _ in range(3)] == [0.0] * 3
    assert buckets.take(b"a") > 0, "never more than the burst"


def test_table_of_buckets_does_not_grow_for_ever() -> None:
    buckets = TokenBuckets(rate=1.0, burst=1, clock=Clock())
    buckets.take(b"first")
    for number in range(MAX_BUCKETS - 1):
        buckets.take(number.to_bytes(4, "big"))
    assert buckets.take(b"first") > 0, "used a moment ago"
    buckets.take(b"one more")
    assert len(buckets) == MAX_BUCKETS
    assert b"first" in buckets
    assert (0).to_bytes(4, "big") not in buckets, "the one not used for longest goes"


def test_known_client_keeps_what_it_used() -> None:
    buckets = TokenBuckets(rate=1.0, burst=1, clock=Clock())
    assert buckets.take(b"a") == 0.0
    buckets.add(b"a")
    assert buckets.take(b"a") > 0
    buckets.add(b"b")
    assert b"b" in buckets
    assert buckets.take(b"b") == 0.0


# --- a front alone, with narrow limits ---------------------------------------------------------------------

NARROW = """
[limits]
body = 4096
message = 8192
header_timeout = 0.5
body_timeout = 1
keep_alive = 0.5
connections = 5
strangers = 1.0
in_flight = 1
request_timeout = 2
rate = 100000
burst = 100000
"""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Without any worker: nothing here needs one."""
    folder = tmp_path_factory.mktemp("f")
    home = Home(folder, {})
    with serving(home, part="front", settings=NARROW, ready=False) as service:
        service.wait_for("listening", part="front")
        yield service
    shutil.rmtree(folder)


ID = "00" * 16
POST = (
    f"POST /v1/credentials/{ID}/signatures HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
    "Content-Type: application/json\r\n"
)
UPLOAD = (
    f"POST /v1/credentials/{ID}/message-signatures HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"
    "Content-Type: multipart/form-data; boundary=b\r\n"
)


def refused(wire: Wire, status: int, code: str) -> None:
    """The one answer, after which the connection is closed."""
    found, body = wire.answer()
    assert (found, json.loads(body)["code"]) == (status, code)
    assert wire.until_closed() == b""


@pytest.mark.parametrize("start", [POST, UPLOAD], ids=["json", "message"])
def test_length_that_is_too_much(front: Service, start: str) -> None:
    """Refused by its announcement: nothing of the body is waited for."""
    with Wire(front) as wire:
        wire.send(f"{start}Content-Length: 100000000\r\n\r\n".encode())
        refused(wire, 413, "request.too-large")


def test_body_that_becomes_too_much(front: Service) -> None:
    """Without a length in advance."""
    with Wire(front) as wire:
        wire.send(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode())
        with suppress(OSError):  # it closed already; what it said is still there
            for _ in range(200):
                wire.send(b"400\r\n" + bytes(1024) + b"\r\n")
        found, body = wire.answer()
        assert (found, json.loads(body)["code"]) == (413, "request.too-large")


def test_body_that_takes_too_long(front: Service) -> None:
    with Wire(front) as wire:
        wire.send(f"{POST}Content-Length: 1000\r\n\r\n-".encode())
        refused(wire, 408, "request.too-slow")


def test_body_in_drops(front: Service) -> None:
    """The time is that of the whole body: a byte now and then does not make it longer."""
    with Wire(front) as wire:
        wire.send(f"{POST}Content-Length: 1000\r\n\r\n".encode())
        wire.socket.settimeout(0.1)
        received = b""
        until = time.monotonic() + 30
        while not received and time.monotonic() < until:
            wire.send(b" ")
            try:
                received = wire.socket.recv(65536)
            except TimeoutError:
                continue
        assert b" 408 " in received


@pytest.mark.parametrize(
    "head", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n", b"\r\n", b"GET /"]
)
def test_head_that_takes_too_long(front: Service, head: bytes) -> None:
    with Wire(front) as wire:
        wire.send(head)
        assert wire.until_closed() == b""


def drip_until_cut_off(wire: Wire, drop: bytes) -> None:
    """Send it again and again until the front has had enough."""
    wire.socket.settimeout(0.1)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            wire.send(drop)
            if wire.socket.recv(100) == b"":
                return
        except TimeoutError:
            continue
        except OSError:
            return
    pytest.fail("it listens for ever")


def test_head_in_drops(front: Service) -> None:
    with Wire(front) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\n")
        drip_until_cut_off(wire, b"x: y\r\n")


def test_head_of_the_next_request_that_takes_too_long(front: Service) -> None:
    with Wire(front) as wire:
        for _ in range(3):
            wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wire.answer() == (200, b'{"status":"ok"}')
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        assert wire.until_closed() == b""


def test_idle_connection_is_closed(front: Service) -> None:
    with Wire(front) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        wire.answer()
        assert wire.until_closed() == b""


def test_body_after_its_answer_does_not_keep_the_connection(front: Service) -> None:
    """401 comes before the body is there; whoever goes on sending it is cut off."""
    with Wire(front) as wire:
        wire.send(
            f"POST /v1/credentials/{ID}/revoke HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n".encode()
        )
        assert wire.answer()[0] == 401
        drip_until_cut_off(wire, b"x")


def test_endless_head(front: Service) -> None:
    with Wire(front) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\n")
        try:
            for _ in range(1000):
                wire.send(b"x-more: " + b"y" * 1000 + b"\r\n")
        except OSError:
            pass
        assert wire.until_closed() == b""
    assert_alive(front)


def assert_alive(front: Service) -> None:
    with api(front) as client:
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "data", [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"{}\r\n\r\n"]
)
def test_no_http(front: Service, data: bytes) -> None:
    with Wire(front) as wire:
        wire.send(data)
        found = wire.until_closed()
        assert found == b"" or (b" 400 " in found and b'"code":"input.invalid"' in found)
    assert_alive(front)


def test_smuggled_length(front: Service) -> None:
    """Both Content-Length and Transfer-Encoding: refused (RFC 9112, 6.3)."""
    with Wire(front) as wire:
        wire.send(f"{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /".encode())
        found = wire.until_closed()
        assert b" 400 " in found or b" 401 " in found
        assert found.count(b"HTTP/1.1") == 1


def test_trailer_is_no_header(front: Service) -> None:
    """A header after the body must not say who asks: without one in front, it is nobody."""
    with Wire(front) as wire:
        start = POST.replace("Authorization: Bearer x\r\n", "")
        body = {
            "authorisation": {
                "algorithm": "ecdsa-sha256",
                "counter": None,
                "rolling_values": [],
                "nonce": "AAAAAAAAAAAAAAAAAAAAAA==",
                "quantities": ["A" * 54 + "=="],
            },
            "digests": ["ab" * 32],
        }
        text = json.dumps(body).encode()
        wire.send(f"{start}Transfer-Encoding: chunked\r\nTrailer: authorization\r\n\r\n".encode())
        wire.send(b"%x\r\n%b\r\n0\r\nAuthorization: Bearer x\r\n\r\n" % (len(text), text))
        status, answer = wire.answer()
        assert (status, json.loads(answer)["code"]) == (401, "client.not-authenticated")


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


def test_more_connections_than_there_may_be(front: Service) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(front)) for _ in range(5)]
        for wire in wires:
            wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wire.answer()[0] == 200
        # Before the handshake, which costs most of it.
        with connected(front) as more, suppress(ConnectionError):
            assert more.recv(1) == b""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            assert_alive(front)
            break
        except httpx.TransportError:
            time.sleep(0.05)
    else:
        pytest.fail("closed connections are not forgotten")


BIG = b"GET /docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"


def test_answers_that_nobody_takes_do_not_keep_a_connection(front: Service) -> None:
    """As many connections as there may be, each asking for more than the system buffers, none reading."""
    wires = [Wire(front) for _ in range(5)]
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


def test_more_in_flight_than_there_may_be(front: Service) -> None:
    """No worker is there: the first waits for one, the second is refused at once, the first in the end."""
    with Wire(front) as first, Wire(front) as second:
        ask = b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n"
        first.send(ask)
        until = time.monotonic() + 30
        with api(front, "x") as client:
            while "hsm_signer_in_flight 1.0" not in client.get("/metrics").text:
                assert time.monotonic() < until
                time.sleep(0.01)
        second.send(ask)
        for wire, code in ((second, "service.busy"), (first, "worker.unavailable")):
            status, body = wire.answer()
            found = json.loads(body)
            assert (status, found["code"], found["retryable"]) == (503, code, True)


def test_client_that_does_not_wait(front: Service) -> None:
    """Its call leaves the queue, and the next one has its place."""
    with Wire(front) as wire:
        wire.send(
            b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nX-Request-Id: gone\r\nAuthorization: Bearer x\r\n\r\n"
        )
    line = front.wait_for("request", client_request_id="gone")
    assert (line["status"], line["code"]) == (499, "client.gone")
    with api(front, "x") as client:
        problem(client.get("/v1/whoami"), 503, "worker.unavailable")


def test_no_worker(front: Service) -> None:
    with api(front, "x") as client:
        found = problem(client.get("/v1/whoami"), 503, "worker.unavailable")
        assert "cannot be reached" in found["hint"]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert client.get("/v1/whoami").headers["retry-after"] == "1"


# --- the rate, with a worker that knows clients ------------------------------------------------------------

SLOW_RATE = """
[limits]
rate = 0.001
burst = 6
"""


@dataclass(frozen=True)
class Rated:
    """A service that takes six requests of everybody."""

    service: Service
    tenants: Tenants


@pytest.fixture
def rated(tenants: Tenants, tmp_path: Path) -> Iterator[Rated]:
    with serving(tenants.home, part="workers") as workers:
        settings = f"bind = '127.0.0.1:0'\n{SLOW_RATE}"
        folder = tmp_path / "front"
        folder.mkdir()
        (folder / "run").symlink_to(workers.sockets)
        with serving(Home(folder, {}), part="front", settings=settings, ready=False) as service:
            service.wait_for("listening", part="front")
            service.wait_for("worker-connected")
            yield Rated(service, tenants)


def test_rate_of_each_client(rated: Rated) -> None:
    with api(rated.service, rated.tenants.tokens["signer"]) as signer:
        # The first is the address's, since nobody knows the token yet; six more are the client's own.
        for _ in range(7):
            assert signer.get("/v1/whoami").status_code == 200
        answer = signer.get("/v1/whoami")
        assert problem(answer, 429, "client.rate-limited")["retryable"]
        assert int(answer.headers["retry-after"]) > 1
        # A prober has a bucket of its own, which is one all the same.
        probes = [signer.get("/healthz").status_code for _ in range(8)]
        assert probes == [200] * 6 + [429] * 2
    with api(rated.service, rated.tenants.tokens["auditor"]) as auditor:
        for _ in range(7):
            assert auditor.get("/v1/whoami").status_code == 200
    # Tokens that nobody knows have no bucket: however many are made up, the address has four left.
    found = []
    with api(rated.service) as stranger:
        for number in range(6):
            answer = stranger.get("/v1/whoami", headers={"Authorization": f"Bearer hsc_{number:043d}"})
            found.append(answer.status_code)
    assert found == [401] * 4 + [429] * 2
    with api(rated.service) as stranger:
        assert stranger.get("/metrics").status_code == 429
    line = rated.service.wait_for("request", status=429)
    assert line["code"] == "client.rate-limited"


def test_access_tokens_of_a_client_share_its_rate(rated: Rated) -> None:
    name, token = "signer", rated.tenants.tokens["signer"]
    with api(rated.service) as client:
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
