"""Transactions on the database, which every group of the store's methods uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, exc
from sqlalchemy.engine import URL

from hsm_signer.errors import RecordConflict

from .database import BEGIN, is_sqlite, is_unique_violation, translated


class Transactions:
    """A database engine with its two kinds of transactions."""

    def __init__(self, engine: Engine, url: URL) -> None:
        """Keep an engine; Store.create and Store.open call this."""
        self._engine = engine
        self._url = url
        self._writer = engine.execution_options(**{BEGIN: "BEGIN IMMEDIATE"})
        self._reader = (
            engine
            if is_sqlite(url)
            # Several statements, one moment; SQLite's readers have that without asking.
            else engine.execution_options(isolation_level="REPEATABLE READ")
        )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Begin a transaction that sees one moment."""
        with translated(self._url), self._reader.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """Begin a transaction that writes all or nothing. Raises RecordConflict for a row that is there."""
        with translated(self._url):
            try:
                with self._writer.begin() as connection:
                    yield connection
            except exc.IntegrityError as error:
                if is_unique_violation(error):
                    raise RecordConflict(
                        "somebody else wrote the same record in between; nothing was changed",
                        hint="try again",
                    ) from error
                raise
