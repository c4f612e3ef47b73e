"""`make bench`: what a signature costs, against what it must cost. All numbers of one run on one machine.

(a) is a bare C_Sign with a key that stays on the token, (b) the shortest sequence of the same token calls,
both straight to the C interface (bare.py). Ratios are what counts; absolute times belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlalchemy

from hsm_signer.card.address import create_card, open_card
from hsm_signer.card.commands import authorise_content
from hsm_signer.card.pins import CardPin, generate_puk
from hsm_signer.core.content import BytesSource, measure
from hsm_signer.server.initialise import (
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    Installation,
    no_prompt,
)
from hsm_signer.server.server import Server
from hsm_signer.token import softhsm
from hsm_signer.token.session import TokenSession
from hsm_signer.types import Content, Digest, DigestList, HashName, KeySpec, Message, Scheme, SigningRequest
from hsm_signer.workstation import signing as workstation
from hsm_signer.workstation.enrolment import (
    Enrolment,
    enrol,
)

from . import startup
from .bare import BareToken

SOFTHSM_CONF = Path(__file__).resolve().parents[1] / "softhsm.conf"
SPY_PATHS = (
    "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so",
    "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/pkcs11-spy.so",
)
KEYS = (KeySpec.P256, KeySpec.RSA2048, KeySpec.RSA3072)
BATCH = 100
STEPS = {
    1: "load record, check MAC",
    2: "H, D, look for a stored answer",
    3: "S, KCAR, T_i, keys from Q_i",
    4: "unwrap SK",
    5: "compare KOWF",
    6: "sign and verify",
    7: "wrap SK again",
    8: "destroy session objects",
    9: "one transaction",
}
PIN = CardPin("493817", source="benchmark")


@dataclass(frozen=True)
class Signer:
    """An enrolled user of the benchmark."""

    server: Server
    address: str
    key: KeySpec

    def request(self, content: Content) -> SigningRequest:
        """The card's part, not measured."""
        with open_card(self.address) as card:
            challenge = self.server.challenge(workstation.card_credential(card))
            algorithm = self.key.default_algorithm
            authorisation = authorise_content(card, challenge, content, algorithm, lambda: PIN)
        return SigningRequest(authorisation, content)


def say(text: str = "") -> None:
    """Words and tables go to stdout: they are what this program is for."""
    print(text, flush=True)


def timed(call: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


@contextmanager
def installation(folder: Path) -> Iterator[tuple[Installation, TokenSession, Server]]:
    """A fresh home, opened."""
    initialise(NewInstallation(folder, softhsm_conf=SOFTHSM_CONF), no_prompt)
    opened = Installation.open(folder)
    with opened.server() as server:
        yield opened, server.environment.session, server


def enrolled(
    server: Server, folder: Path, key: KeySpec, scheme: Scheme = Scheme.ROLLING, name: str | None = None
) -> Signer:
    """A user with a new simulated card."""
    name = name or f"{scheme.value}-{key.value}"
    address = f"sim:{folder / name}.card"
    create_card(address)
    pin, puk = (None, None) if scheme is Scheme.BASIC else (PIN, generate_puk())
    enrol(server, lambda: open_card(address), Enrolment(name, scheme, key, pin, puk))
    return Signer(server, address, key)


class Watch:
    """When each step was done."""

    def __init__(self) -> None:
        self._marks = [(0, time.perf_counter())]

    def mark(self, step: int) -> None:
        """For ``observe``."""
        self._marks.append((step, time.perf_counter()))

    def spent(self) -> Iterator[tuple[int, float]]:
        """Step and milliseconds since the step before."""
        for (_, before), (step, after) in pairwise(self._marks):
            yield step, (after - before) * 1000


def message(i: int) -> Message:
    """A short message, each another."""
    return Message(BytesSource(f"message {i}".encode()))


def batch(i: int, key: KeySpec) -> DigestList:
    """A list of :data:`BATCH` digests, each list another."""
    length = (key.default_algorithm.hash or HashName.SHA256).length
    return DigestList(tuple(Digest((i * BATCH + n).to_bytes(length, "big")) for n in range(BATCH)))


def cycles(opened: Installation, session: TokenSession, server: Server, rounds: int) -> list[dict[str, Any]]:
    """Per key type: (a), (b), the token's part and the whole, interleaved so that noise hits all alike."""
    rows = []
    for key in KEYS:
        signer = enrolled(server, opened.home, key)
        algorithm = key.default_algorithm
        bare = BareToken(opened.token_uri.module_path or "", session.slot_id, key, algorithm)
        digest = bytes((algorithm.hash or HashName.SHA256).length)
        samples: dict[str, list[float]] = {name: [] for name in ("a", "b", "token", "whole", "batch")}
        steps: dict[int, list[float]] = {number: [] for number in STEPS}
        for i in range(rounds + 2):
            once = {
                "a": timed(partial(bare.sign_resident, digest)),
                "b": timed(partial(bare.cycle, digest)),
            }
            request = signer.request(message(i))
            record = server.credential_by_id(request.authorisation.credential_id)
            measured = measure(request.content, algorithm)
            once["token"] = timed(partial(server.environment.sign, record, request.authorisation, measured))
            watch = Watch()
            once["whole"] = timed(partial(replace(server, observe=watch.mark).sign, request))
            if i % 4 == 0:
                request = signer.request(batch(i, key))
                once["batch"] = timed(partial(server.sign, request)) / BATCH
            if i < 2:
                continue  # warming up
            for name, value in once.items():
                samples[name].append(value)
            for number, spent in watch.spent():
                steps[number].append(spent)
        bare.close()
        median = {name: statistics.median(values) for name, values in samples.items() if values}
        rows.append(
            {
                "key": key.value,
                "milliseconds": median,
                "b / token": median["b"] / median["token"],
                "b / whole": median["b"] / median["whole"],
                "a / whole": median["a"] / median["whole"],
                "a / batch": median["a"] / median["batch"],
                "steps": {n: statistics.median(v) for n, v in steps.items() if v},
            }
        )
    return rows


def show_cycles(rows: list[dict[str, Any]]) -> None:
    """Tables."""
    say("One signature, scheme rolling, in ms (medians); ratios above 1 would beat the bare calls")
    say(
        f"{'key':8} {'(a) C_Sign':>10} {'(b) calls':>10} {'token':>8} {'whole':>8} {'batch/100':>10}"
        f" {'b/token':>8} {'b/whole':>8} {'a/batch':>8}"
    )
    for row in rows:
        ms = row["milliseconds"]
        say(
            f"{row['key']:8} {ms['a']:10.3f} {ms['b']:10.3f} {ms['token']:8.3f} {ms['whole']:8.3f}"
            f" {ms['batch']:10.3f} {row['b / token']:8.2f} {row['b / whole']:8.2f} {row['a / batch']:8.2f}"
        )
    say()
    say("Where the whole goes, step by step (docs/understand/protocol.md, section 5), in ms")
    say(f"{'step':38} " + " ".join(f"{row['key']:>8}" for row in rows))
    for number, name in STEPS.items():
        say(f"{number} {name:36} " + " ".join(f"{row['steps'].get(number, 0.0):8.3f}" for row in rows))
    say()


def store_sizes(folder: Path, rounds: int, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """The same credential's signatures with ever more credentials around it."""
    rows: list[dict[str, Any]] = []
    with installation(folder) as (_, _, server):
        signer = enrolled(server, folder, KeySpec.P256)
        engine = sqlalchemy.create_engine(f"sqlite:///{folder / 'store.db'}")
        there = 1
        for size in sizes:
            _multiply(engine, there, size)
            there = size
            whole = []
            for i in range(rounds + 2):
                request = signer.request(message(size + i))
                whole.append(timed(partial(server.sign, request)))
            rows.append({"credentials": size, "milliseconds": statistics.median(whole[2:])})
        engine.dispose()
    for row in rows:
        row["against the first"] = row["milliseconds"] / rows[0]["milliseconds"]
    return rows


def _multiply(engine: sqlalchemy.Engine, there: int, size: int) -> None:
    """Copies of the one record and of its entries under other ids and names; nobody signs with them."""
    with engine.begin() as connection:
        for table, fresh in (("credential", ("credential_id", "owner")), ("evidence", ("credential_id",))):
            columns = [c["name"] for c in sqlalchemy.inspect(engine).get_columns(table)]
            kept = [c for c in columns if c not in fresh and not (table == "evidence" and c == "id")]
            values = {"credential_id": "CAST(printf('%016d', n.i) AS BLOB)", "owner": "'user ' || n.i"}
            connection.execute(
                sqlalchemy.text(
                    f"WITH RECURSIVE n(i) AS (SELECT :low UNION ALL SELECT i + 1 FROM n WHERE i < :high) "
                    f"INSERT INTO {table} ({', '.join((*fresh, *kept))}) "
                    f"SELECT {', '.join(values[c] for c in fresh)}, {', '.join('t.' + c for c in kept)} "
                    f"FROM n, (SELECT * FROM {table} WHERE credential_id = "
                    f"(SELECT credential_id FROM credential WHERE owner NOT LIKE 'user %') LIMIT 2) AS t"
                ),
                {"low": there + 1, "high": size},
            )


def calls_per_signature(folder: Path) -> dict[str, int]:
    """PKCS#11 calls of one signature per scheme, counted by OpenSC's pkcs11-spy in a process of its own."""
    spy = next((path for path in SPY_PATHS if Path(path).exists()), None)
    if spy is None:
        return {}
    log = folder.with_suffix(".spy")
    environment = os.environ | {"PKCS11SPY": softhsm.find_module(), "PKCS11SPY_OUTPUT": str(log)}
    subprocess.run([sys.executable, "-m", "benchmarks.traced", str(folder), spy], env=environment, check=True)
    counts: dict[str, int] = json.loads(folder.with_suffix(".json").read_text())
    return counts


def memory(folder: Path, signatures: int) -> dict[str, Any]:
    """Peak resident memory while one process signs ``signatures`` times, in kB."""
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", str(folder), str(signatures)],
        check=True,
        capture_output=True,
        text=True,
    )
    measured: dict[str, Any] = json.loads(ran.stdout)
    return measured


def main() -> None:
    """Everything, as tables on stdout and as JSON in ``--json FILE``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: for trying, not for quoting")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    arguments = parser.parse_args()
    rounds, signatures = (20, 500) if arguments.quick else (120, 20_000)
    sizes = (10, 1_000) if arguments.quick else (10, 10_000, 100_000)
    result: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "rounds": rounds}
    say(f"hsm-signer benchmark: {result['machine']}, Python {platform.python_version()}, SoftHSM2\n")
    with tempfile.TemporaryDirectory(prefix="hsm-signer-bench-") as temporary:
        base = Path(temporary)
        with installation(base / "cycles") as (opened, session, server):
            result["cycles"] = cycles(opened, session, server, rounds)
        show_cycles(result["cycles"])
        result["calls"] = calls_per_signature(base / "calls")
        say("PKCS#11 calls per signature, record MAC included (the bare sequence makes 24):")
        for scheme, count in result["calls"].items():
            say(f"  {scheme:14} {count}")
        say()
        result["store"] = store_sizes(base / "store", rounds // 2, sizes)
        say("The whole signature (p256) against the number of credentials in the store")
        for row in result["store"]:
            say(
                f"  {row['credentials']:>8} credentials {row['milliseconds']:8.3f} ms"
                f"   {row['against the first']:.2f}"
            )
        say()
        result["memory"] = memory(base / "memory", signatures)
        show_memory(result["memory"])
        say()
        home = base / "startup"
        with installation(home) as (_, _, server):
            signer = enrolled(server, home, KeySpec.P256)
        result["startup"] = startup.startup(home, signer.address, PIN)
        startup.show(result["startup"])
    result["peak of this process, kB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def show_memory(measured: dict[str, Any]) -> None:
    """Growth per signature, and what of it is SoftHSM's."""
    say(f"Resident memory of one process over {measured['signatures']} signatures (p256, scheme rolling)")
    for point in measured["points"]:
        say(f"  after {point['signatures']:>6}: {point['kB']:>8} kB")
    say(f"  growth {measured['bytes per signature']:.0f} bytes a signature")


if __name__ == "__main__":
    main()
