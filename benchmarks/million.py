"""What one signature takes with ever more credentials around it, on SQLite and on PostgreSQL.

The signatures are made in process by the same few credentials; the others are of real size and cannot sign.
The PostgreSQL server is started here, with its own settings for safety: fsync and synchronous_commit are on.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hsm_signer.server.initialise import (
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    Installation,
    no_prompt,
)
from hsm_signer.server.server import Server
from hsm_signer.types import KeySpec

from . import bulk
from .__main__ import SOFTHSM_CONF, enrolled, message, timed

ROUNDS = 220
WARM_UP = 20
SIGNERS = 5
"""Credentials that sign, spread over the table by their random ids."""


@contextmanager
def databases() -> Iterator[dict[str, str | None]]:
    """Name -> URL; None is SQLite in the home folder."""
    from tests.support import postgresql

    safe = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on", "shared_buffers": "256MB"}
    with postgresql.running(**safe) as server:
        yield {"SQLite": None, "PostgreSQL": server.url(server.make())}


def store_sizes(folder: Path, sizes: tuple[int, ...]) -> dict[str, list[dict[str, Any]]]:
    """Database -> the median milliseconds of a signature at each size."""
    found: dict[str, list[dict[str, Any]]] = {}
    with databases() as urls:
        for name, url in urls.items():
            home = folder / f"million-{name.lower()}"
            initialise(NewInstallation(home, softhsm_conf=SOFTHSM_CONF, store_url=url), no_prompt)
            with Installation.open(home).server() as server:
                found[name] = list(_measured(server, home, sizes))
    return found


def _measured(server: Server, home: Path, sizes: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Fill up to each size, then sign."""
    signers = [enrolled(server, home, KeySpec.P256, name=f"signer-{number}") for number in range(SIGNERS)]
    like = server.store.load(server.credential("signer-0").credential_id).sealed
    there = SIGNERS
    for size in sizes:
        start = time.perf_counter()
        bulk.load(server.store, like, size - there)
        loaded = time.perf_counter() - start
        there = size
        took = [
            timed(partial(server.sign, random.choice(signers).request(message(i)))) for i in range(ROUNDS)
        ][WARM_UP:]
        yield {
            "credentials": size,
            "milliseconds": statistics.median(took),
            "p99": statistics.quantiles(took, n=100)[-1],
            "loaded in seconds": loaded,
        }
