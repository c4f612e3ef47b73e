"""`python -m benchmarks.service`: the service over HTTPS against the same cycle in process, all in one run.

Authorisations of scheme pin are made before anything is measured (the patent's "at some future time"), so
that cards cost nothing here; what is sent are different requests of 32 credentials, over 32 connections at
once. The load comes from a process of its own on the same machine: with as many busy processes as cores, one
takes time from another, so the processors' time that the workers and the front spent is shown, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from hsm_signer.card.address import create_card, open_card
from hsm_signer.card.commands import authorise_content
from hsm_signer.core import json_codec
from hsm_signer.core.interface import SignatureRequest
from hsm_signer.server.installation import Installation
from hsm_signer.server.server import Server
from hsm_signer.service import clients
from hsm_signer.service.roles import Role
from hsm_signer.types import Challenge, Digest, DigestList, HashName, KeySpec, Scheme, SigningRequest
from hsm_signer.workstation.enrolment import (
    Enrolment,
    enrol,
)
from hsm_signer.workstation.signing import (
    card_credential,
)

from . import million
from .__main__ import PIN, installation, say

CONNECTIONS = 32
CREDENTIALS = 32
BATCH = 50
KEYS = (KeySpec.P256, KeySpec.RSA2048)
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Owner:
    """A credential of scheme pin, whose card authorises without asking the server."""

    address: str
    key: KeySpec
    challenge: Challenge

    def request(self, first: int, count: int) -> SigningRequest:
        """An authorisation over ``count`` digests that nobody else signs."""
        length = (self.key.default_algorithm.hash or HashName.SHA256).length
        content = DigestList(tuple(Digest((first + i).to_bytes(length, "big")) for i in range(count)))
        with open_card(self.address) as card:
            algorithm = self.key.default_algorithm
            authorisation = authorise_content(card, self.challenge, content, algorithm, lambda: PIN)
        return SigningRequest(authorisation, content)


def owners(server: Server, folder: Path, key: KeySpec) -> list[Owner]:
    """Enrolled, with simulated cards."""
    found = []
    for number in range(CREDENTIALS):
        name = f"{key.value}-{number}"
        address = f"sim:{folder / name}.card"
        create_card(address)
        enrol(server, partial(open_card, address), Enrolment(name, Scheme.PIN, key, PIN, None))
        with open_card(address) as card:
            found.append(Owner(address, key, server.challenge(card_credential(card))))
    return found


def body_of(request: SigningRequest) -> dict[str, str]:
    """As benchmarks.load sends it."""
    if not isinstance(request.content, DigestList):
        raise TypeError("digests only")
    authorisation = request.authorisation
    body = SignatureRequest(authorisation.answer, request.content.digests)
    return {
        "path": f"/v1/credentials/{authorisation.credential_id.hex()}/signatures",
        "body": json_codec.encode(body).decode("ascii"),
    }


@dataclass(frozen=True)
class Service:
    """A running `hsm-signer serve`."""

    host: str
    port: int
    ca: Path
    children: dict[str, list[int]]
    """``front`` and ``worker`` -> process ids."""
    started_in: float
    """Seconds from the start of the process to the first 200 of /readyz."""


@contextmanager
def serving(home: Path, workers: int) -> Iterator[Service]:
    """Until the ``with`` ends."""
    start = time.perf_counter()
    log = (home / f"serve-{workers}.log").open("w+b")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "hsm_signer", "--home", str(home)),
            *("serve", "--bind", "127.0.0.1:0", "--workers", str(workers)),
        ],
        stderr=log,
    )
    try:
        url = _wait_for_url(Path(log.name), process)
        ca = home / "tls" / "server.pem"
        with httpx.Client(verify=ssl.create_default_context(cafile=str(ca))) as client:
            while _ready_workers(client, url) < workers:
                time.sleep(0.01)
        started_in = time.perf_counter() - start
        host, _, port = url.removeprefix("https://").rpartition(":")
        yield Service(host, int(port), ca, _children(process.pid), started_in)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


def _wait_for_url(log: Path, process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("event") == "listening" and "url" in entry:
                return str(entry["url"])
        time.sleep(0.01)
    raise SystemExit(log.read_text(encoding="utf-8"))


def _ready_workers(client: httpx.Client, url: str) -> int:
    try:
        answer = client.get(f"{url}/readyz").json()
    except httpx.HTTPError:
        return 0
    return sum(each["state"] == "ready" for each in answer.get("workers", []))


def _children(pid: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"front": [], "worker": []}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
        for kind in found:
            if f"hsm_signer.{kind}" in command:
                found[kind].append(int(child))
    return found


def cpu_seconds(pids: list[int]) -> float:
    """User and system time so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS


def over_https(service: Service, token: str, requests: list[SigningRequest]) -> dict[str, Any]:
    """All of ``requests``, 32 at once."""
    lines = "\n".join(json.dumps({**body_of(each), "token": token}) for each in requests)
    before = {kind: cpu_seconds(pids) for kind, pids in service.children.items()}
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.load", service.host, str(service.port)),
            *(str(service.ca), str(CONNECTIONS)),
        ],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise SystemExit(ran.stderr)
    measured = json.loads(ran.stdout)
    signatures = sum(len(each.content.digests) for each in requests if isinstance(each.content, DigestList))
    took = sorted(measured["milliseconds"])
    return {
        "signatures a second": signatures / measured["seconds"],
        "p50": statistics.median(took),
        "p99": took[int(len(took) * 0.99)],
        **{
            f"{kind}, CPU ms a signature": (cpu_seconds(pids) - before[kind]) * 1000 / signatures
            for kind, pids in service.children.items()
        },
    }


def in_process(home: Path, requests: list[SigningRequest]) -> dict[str, Any]:
    """The same kind of requests, one after another, in one process with nothing else at work."""
    signatures = 0
    with Installation.open(home).server() as server:
        server.sign(requests[0])
        start, cpu = time.perf_counter(), time.process_time()
        for each in requests[1:]:
            signatures += len(server.sign(each).signatures)
        seconds, spent = time.perf_counter() - start, time.process_time() - cpu
    return {"signatures a second": signatures / seconds, "CPU ms a signature": spent * 1000 / signatures}


def throughput(home: Path, token: str, everybody: dict[KeySpec, list[Owner]], count: int) -> dict[str, Any]:
    """Every row: in process, one worker, two workers, in turns."""
    kinds = [(key, digests) for key in everybody for digests in (1, BATCH)]
    used = iter(range(0, 1 << 40, BATCH))

    def requests(key: KeySpec, digests: int) -> list[SigningRequest]:
        number = count if digests == 1 else max(CONNECTIONS, count // 8)
        return [everybody[key][i % CREDENTIALS].request(next(used), digests) for i in range(number)]

    rows: list[dict[str, Any]] = []
    for key, digests in kinds:
        rows.append({"key": key.value, "digests": digests})
        rows[-1]["in process"] = in_process(home, requests(key, digests))
    started = {}
    for workers in (1, 2):
        with serving(home, workers) as service:
            started[str(workers)] = service.started_in
            over_https(service, token, requests(KEYS[0], 1)[:CONNECTIONS])  # warming up
            for row, (key, digests) in zip(rows, kinds, strict=True):
                row[str(workers)] = over_https(service, token, requests(key, digests))
    for row in rows:
        one, two = (row[each]["signatures a second"] for each in ("1", "2"))
        row["1 worker / in process"] = one / row["in process"]["signatures a second"]
        row["2 workers / 1 worker"] = two / one
    return {"throughput": rows, "started in": started}


def show(result: dict[str, Any]) -> None:
    """Tables."""
    say(f"Signatures a second over HTTPS, {CONNECTIONS} clients; CPU in ms a signature")
    say(
        f"{'key':8} {'digests':>7} {'process':>8} {'1 worker':>9} {'/process':>8} {'2 workers':>9} {'/1':>5}"
        f" {'p50, 1':>7} {'p99, 1':>7} {'p50, 2':>7} {'p99, 2':>7}   CPU: process worker  front"
    )
    for row in result["throughput"]:
        one, two = row["1"], row["2"]
        say(
            f"{row['key']:8} {row['digests']:7} {row['in process']['signatures a second']:8.0f}"
            f" {one['signatures a second']:9.0f} {row['1 worker / in process']:8.2f}"
            f" {two['signatures a second']:9.0f} {row['2 workers / 1 worker']:5.2f}"
            f" {one['p50']:7.1f} {one['p99']:7.1f} {two['p50']:7.1f} {two['p99']:7.1f}"
            f"   {row['in process']['CPU ms a signature']:12.2f} {one['worker, CPU ms a signature']:6.2f}"
            f" {one['front, CPU ms a signature']:6.2f}"
        )
    say()
    for workers, seconds in result["started in"].items():
        say(f"`serve` with {workers} worker(s): {seconds:.2f} s until /readyz says that every one signs")
    say()
    for database, points in result["store"].items():
        for point in points:
            growth = point["milliseconds"] / points[0]["milliseconds"]
            say(
                f"{database:12} {point['credentials']:>9} credentials"
                f" {point['milliseconds']:7.2f} ms a signature   {growth:.2f}"
            )


def main() -> None:
    """Everything, as tables on stdout and as JSON in ``--out FOLDER``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer requests: for trying, not for quoting")
    parser.add_argument(
        "--credentials", type=int, metavar="N", help="the most in a store: 1,000,000, with --quick 10,000"
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="FOLDER")
    arguments = parser.parse_args()
    count, most = (200, 10_000) if arguments.quick else (1_600, 1_000_000)
    most = arguments.credentials or most
    arguments.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "connections": CONNECTIONS,
    }
    with tempfile.TemporaryDirectory(prefix="hsm-signer-bench-") as temporary:
        home = Path(temporary) / "home"
        with installation(home) as (_, _, server):
            everybody = {key: owners(server, home, key) for key in KEYS}
            _, token = clients.add(
                server.environment,
                server.store,
                name="load",
                roles=(Role.SIGNER,),
                certificate=None,
                actor="benchmark",
                clock=server.clock,
            )
        (home / "service.toml").write_text(
            "[limits]\nrate = 1000000.0\nburst = 1000000\ncredential_requests = 1000000\n"
        )
        result |= throughput(home, token or "", everybody, count)
        result["store"] = million.store_sizes(Path(temporary), (10, most))
    show(result)
    (arguments.out / "service.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    say(f"\n{arguments.out}/service.json")


if __name__ == "__main__":
    main()
