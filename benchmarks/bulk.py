"""Fills a store with credentials that nobody can use, so that it has the size of a real one.

Each is like a given record in every length, with a credential id, an owner and an entry of evidence of its
own. The chains are good; the MACs are random, so that no server signs with any of them.

    python -m benchmarks.bulk HOME COUNT
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Table

from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.chain_position import START
from hsm_signer.evidence.chain import draft_entry, next_entry
from hsm_signer.server.installation import Installation
from hsm_signer.store.database import is_sqlite
from hsm_signer.store.rows import enrolment_row, entry_row, record_row
from hsm_signer.store.schema import credential, evidence
from hsm_signer.store.store import Store
from hsm_signer.types import (
    CREDENTIAL_ID_LENGTH,
    MAC_LENGTH,
    CredentialId,
    Event,
    EvidenceEntry,
    SealedEntry,
    SealedRecord,
    Status,
)

BATCH = 20_000
"""Credentials in one transaction."""
RANDOM = ("mac", "wrapped_kcar", "wrapped_sk", "rn", "rn_next", "card_serial", "request_hash")
"""Columns that are other bytes in every row: what cannot be compressed must not be here, either."""
Row = dict[str, Any]


def load(store: Store, like: SealedRecord, count: int) -> list[CredentialId]:
    """Write ``count`` credentials like ``like``, active, with their ENROL entries; their ids, ascending.

    Owners are "bulk-" and 32 hexadecimal digits. Two runs of it make twice as many.
    """
    ids = sorted(CredentialId(os.urandom(CREDENTIAL_ID_LENGTH)) for _ in range(count))
    rows = _rows(ids, like)
    write = _sqlite if is_sqlite(store._url) else _postgresql
    with closing(store._engine.raw_connection()) as connection:
        while batch := list(islice(rows, BATCH)):
            write(connection, credential, [record for record, _ in batch])
            write(connection, evidence, [entry for _, entry in batch])
            connection.commit()
    if is_sqlite(store._url):
        store.forget()
    else:
        # As autovacuum would do it, but now.
        with store._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE) credential, evidence")
    return ids


def _rows(ids: list[CredentialId], like: SealedRecord) -> Iterator[tuple[Row, Row]]:
    """Rows of ``credential`` and of ``evidence``, without the number that the database gives."""
    record = replace(like.record, version=1, status=Status.ACTIVE)
    # Checked once, like any row; what differs is of one length.
    record_like = record_row(SealedRecord(record, like.mac)) | enrolment_row(os.urandom(300), 0)
    now = time.time_ns() // 1000
    first = _enrolment(ids[0], now) if ids else None
    entry_like = entry_row(SealedEntry(first, bytes(MAC_LENGTH))) if first else {}
    lengths = {name: len(record_like[name]) for name in RANDOM if record_like[name] is not None}
    total = sum(lengths.values())
    for number, credential_id in enumerate(ids):
        noise, at = os.urandom(total), 0
        row = dict(record_like)
        for name, length in lengths.items():
            row[name] = noise[at : at + length]
            at += length
        digest = entry_hash(_enrolment(credential_id, now + number))
        row["credential_id"] = credential_id
        row["owner"] = f"bulk-{credential_id.hex()}"
        row["created"] = now + number
        row["evidence_head"] = digest
        yield (
            row,
            entry_like | {"credential_id": credential_id, "time": now + number, "hash": digest},
        )


def _enrolment(credential_id: CredentialId, now: int) -> EvidenceEntry:
    draft = draft_entry(credential_id, Event.ENROL, actor="bulk", record_version=1)
    return next_entry(START, draft, time=now)


def _sqlite(connection: Any, table: Table, rows: list[Row]) -> None:
    columns = list(rows[0])
    marks = ", ".join("?" * len(columns))
    cursor = connection.cursor()
    if not connection.dbapi_connection.in_transaction:
        cursor.execute("BEGIN IMMEDIATE")
    cursor.executemany(
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})",
        ([row[name] for name in columns] for row in rows),
    )
    cursor.close()


def _postgresql(connection: Any, table: Table, rows: list[Row]) -> None:
    columns = list(rows[0])
    types = {"TEXT": "text", "INTEGER": "int4", "BIGINT": "int8", "BLOB": "bytea"}
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table.name} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types([types[str(table.c[name].type)] for name in columns])
        for row in rows:
            copy.write_row([row[name] for name in columns])


def main() -> None:
    """Take the first record of an installation's store as the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    with Installation.open(arguments.home).open_store() as store:
        (like,) = store.record_page(None, 1)
        began = time.monotonic()
        load(store, like, arguments.count)
        print(f"{arguments.count} credentials in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
