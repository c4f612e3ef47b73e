"""A PostgreSQL server of the tests' own: its own data, its own socket, nobody else's."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import create_engine, insert, select

from hsm_signer.store import schema
from hsm_signer.store.database import parse_url
from hsm_signer.store.store import Store

from . import needs
from .other_users import reachable_folder

USER = "postgres"
TIMEOUT = 60
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "32MB",
    "autovacuum": "off",
    # Data of a test is not kept, and the kernel outlives every process that is killed here.
    "fsync": "off",
    "full_page_writes": "off",
    # One call at a start after a kill, not one for each of a thousand files.
    "recovery_init_sync_method": "syncfs",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %a ",
}


class Postgresql:
    """One server. Started as root, it runs as the system user postgres: it refuses to run as root."""

    def __init__(self, **settings: str) -> None:
        """``settings``: of postgresql.conf, over those of :data:`SETTINGS`."""
        self.programs = needs.postgresql()
        self.folder = reachable_folder()
        self._settings = {**SETTINGS, "unix_socket_directories": str(self.folder), **settings}
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            self._as = {"user": USER, "group": USER, "extra_groups": []}
            shutil.chown(self.folder, USER, USER)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N")

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "log").read_text(errors="replace")

    def _run(self, program: str, *arguments: str | Path) -> None:
        ran = subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **self._as,
        )
        assert ran.returncode == 0, ran.stderr

    # --- its life ---

    def start(self) -> None:
        """Start and wait until it answers."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        deadline = time.monotonic() + TIMEOUT
        while True:
            with (self.folder / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [self.programs / "postgres", "-D", self._data, *options],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    **self._as,
                )
            while self._process.poll() is None:
                try:
                    with self.connect():
                        return
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline, self.log
                    time.sleep(0.01)
            # What is left of a killed one has not ended yet, and keeps the shared memory.
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as the power does it: the processes of its connections end by themselves."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(TIMEOUT)

    def stop(self) -> None:
        """End it at once, without writing back what its log has."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(TIMEOUT)

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- what is in it ---

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Not through the program: as its administrator."""
        return psycopg.connect(
            host=str(self.folder), user=USER, dbname=database, autocommit=True, connect_timeout=10
        )

    def url(self, database: str, user: str = USER) -> str:
        """As the configuration takes it."""
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def execute(self, database: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """One statement in a database."""
        with self.connect(database) as connection:
            cursor = connection.execute(sql.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def make(self, template: str = "template0", name: str | None = None) -> str:
        """A new database; its name."""
        name = name or f"test{next(self._numbers)}"
        self.execute("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def empty(self, name: str) -> None:
        """Delete every row of a store, much faster than to make another; nobody stays connected."""
        with self.connect(name) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            for table in schema.metadata.sorted_tables:
                connection.execute(f"DELETE FROM {table.name}".encode())
            connection.execute("ALTER SEQUENCE evidence_id_seq RESTART")

    def drop(self, name: str) -> None:
        """Delete a database, whoever is connected."""
        self.execute("postgres", f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running(**settings: str) -> Iterator[Postgresql]:
    """A server for as long as the ``with`` lasts."""
    server = Postgresql(**settings)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def copy_store(source: str, target: str) -> None:
    """Everything in the store ``source`` into a new one in the empty database ``target``; both are URLs."""
    Store.create(target).close()
    engines = [create_engine(parse_url(url)) for url in (source, target)]
    with engines[0].connect() as reading, engines[1].begin() as writing:
        for table in schema.metadata.sorted_tables:
            if rows := [dict(row._mapping) for row in reading.execute(select(table))]:
                writing.execute(insert(table), rows)
        writing.exec_driver_sql("SELECT setval('evidence_id_seq', coalesce(max(id), 1)) FROM evidence")
    for engine in engines:
        engine.dispose()
