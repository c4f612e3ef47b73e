"""The version of a database's schema, and its upgrade to this program's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, column, inspect, select, table, type_coerce
from sqlalchemy.engine import URL
from sqlalchemy.types import NullType

from hsm_signer.errors import (
    StoreDamaged,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreTooNew,
    StoreTooOld,
    os_words,
)

from . import schema
from .database import (
    BEGIN,
    MISSING_HINT,
    READ_ONLY_HINT,
    is_sqlite,
    make_engine,
    name_of,
    translated,
    without_timeouts,
)

_REVISION = select(type_coerce(column("version_num"), NullType())).select_from(table(schema.VERSION_TABLE))


def check_empty(connection: Connection, url: URL) -> None:
    """Raise StoreError where there is a table, whoever made it."""
    if inspect(connection).get_table_names():
        raise StoreError(f"there is a database at {name_of(url)} already; it was left alone")


def check_revision(connection: Connection, url: URL) -> None:
    """Raise StoreMissing, StoreTooOld, StoreTooNew, StoreDamaged where the schema is not this version's."""
    name = name_of(url)
    if not inspect(connection).has_table(schema.VERSION_TABLE):
        raise StoreMissing(f"the database {name} holds no store", hint=MISSING_HINT)
    found: list[Any] = list(connection.execute(_REVISION).scalars())
    if found == [schema.HEAD]:
        return
    if len(found) > 1 or not all(isinstance(revision, str) for revision in found):
        raise StoreDamaged(f"the database {name} does not say which version it has")
    if not found or found[0] in schema.REVISIONS:
        raise StoreTooOld(
            f"the store {name} was written by an older version", hint="hsm-signer store upgrade brings it on"
        )
    raise StoreTooNew(
        f"the store {name} was written by a newer version of this program", hint="install that version"
    )


@contextmanager
def migrating(url: URL, busy_timeout: float) -> Iterator[tuple[Connection, Callable[[], None]]]:
    """Begin one writing transaction: its connection, and what brings its schema up to date."""
    engine = make_engine(url, busy_timeout=busy_timeout)
    try:
        with translated(url), engine.execution_options(**{BEGIN: "BEGIN IMMEDIATE"}).begin() as connection:
            _alone(connection, url)
            yield connection, lambda: _migrate(connection)
    finally:
        engine.dispose()


def _alone(connection: Connection, url: URL) -> None:
    """Lock the schema against another upgrade; on SQLite BEGIN IMMEDIATE has done so."""
    without_timeouts(connection, url)
    if not is_sqlite(url):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('{schema.VERSION_TABLE}'))")


def _migrate(connection: Connection) -> None:
    # Here and not above: Alembic takes longer to import than a signature takes to make.
    from alembic import command
    from alembic.config import Config

    config = Config()
    # The configuration knows "%" as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def make_file(path: Path) -> bool:
    """Make an empty file that only its owner reads; False if there is one already."""
    try:
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        if not path.is_file():
            raise StoreError(f"{path} is no file, so it cannot become a database") from None
        return False
    except FileNotFoundError as error:
        raise StoreError(f"the folder {path.parent} does not exist") from error
    except OSError as error:
        raise StoreReadOnly(f"{path} cannot be made: {os_words(error)}", hint=READ_ONLY_HINT) from error
    return True
