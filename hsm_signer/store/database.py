"""The database, SQLite or PostgreSQL: its URL, its engine, and its errors as StoreError.

SQLite: WAL, so that readers do not wait for the writer; synchronous FULL, so that a signature released
after a commit has its evidence after a power cut, too; every writer begins IMMEDIATE, so that two of them
never read the same version and then fail at the commit.

PostgreSQL: a commit that was answered is on the server's disk, whatever its settings say; nobody waits for
ever, neither for a lock, nor for an answer, nor for a host that is gone; a connection that the server has
closed is noticed before it is used. SQL errors do not leave this package.
"""

from __future__ import annotations

import os
import select
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.engine import URL

from hsm_signer.errors import (
    ConfigError,
    StoreBusy,
    StoreDamaged,
    StoreError,
    StoreMissing,
    StoreReadOnly,
    StoreUnavailable,
)

BEGIN = "hsm_signer_begin"
"""Execution option: how a transaction begins on SQLite."""

SQLITE_PREFIX = "sqlite:///"

MISSING_HINT = "`hsm-signer init` makes one; or check the store's URL in the configuration"
READ_ONLY_HINT = "check the owner and the permissions of the file and of its folder"
DAMAGED_HINT = "put back a backup, then audit it"

CONNECTIONS = 3
"""To a database server, from one process: two that work at a time, and an audit."""
_STATEMENT_TIMEOUT = 30.0
"""Seconds that one statement may take beside waiting for a lock; but not what reads everything there is."""
_IDLE_TIMEOUT = 120.0
"""Seconds that a transaction may wait for this program, which keeps others waiting meanwhile."""
_CONNECTION = {
    "application_name": "hsm-signer",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""libpq's parameters (the store's URL may have others): seconds, but for the last, which is milliseconds."""

# Both spell the same: SQLAlchemy's default driver has changed between its versions.
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}


def parse_url(url: str) -> URL:
    """Parse a database URL of a kind the store can use. Raises ConfigError.

    What follows ``sqlite:///`` is a path, as it is: nothing in it is escaped and no options follow.
    """
    if url.startswith(SQLITE_PREFIX):
        # SQLAlchemy's versions differ in what "%" and "?" mean here; a file's name may hold both.
        path = url.removeprefix(SQLITE_PREFIX)
        if path in ("", ":memory:"):
            raise ConfigError("a store on SQLite is a file: sqlite:///PATH")
        return URL.create(_DRIVERS["sqlite"], database=path)
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        # The text is not repeated: what cannot be parsed may hold a password all the same.
        raise ConfigError(
            "the store's URL cannot be understood",
            hint="it looks like sqlite:////var/lib/hsm-signer/store.db",
        ) from error
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    if parsed.drivername not in _DRIVERS.values():
        raise ConfigError(f"the store can be on sqlite or postgresql, not on {parsed.drivername}")
    if is_sqlite(parsed):
        raise ConfigError("a store on SQLite is a file: sqlite:///PATH")
    return parsed


def is_sqlite(url: URL) -> bool:
    """Tell whether a URL is of SQLite, and so names a file on this machine."""
    return url.get_backend_name() == "sqlite"


def path_of(url: URL) -> Path:
    """Return the file of a SQLite URL."""
    return Path(url.database or "")


def name_of(url: URL) -> str:
    """Name the database for messages: a path, or a URL without its password."""
    if is_sqlite(url):
        return str(path_of(url))
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


def sqlite_url(path: Path) -> str:
    """Make the URL of a SQLite store at ``path``, whatever characters that holds."""
    return f"{SQLITE_PREFIX}{path}"


def make_engine(
    url: URL,
    *,
    busy_timeout: float,
    connections: int = CONNECTIONS,
    wal: bool = False,
    immutable: bool = False,
) -> Engine:
    """Make an engine that has not connected yet.

    ``busy_timeout`` in seconds: how long to wait for another writer. ``connections``: how many at most to a
    database server. ``wal``: switch the SQLite file to WAL.
    ``immutable``: SQLite reads the file as it is, without a lock; nobody may write it meanwhile.
    Raises ConfigError where the database's driver is not installed.
    """
    if is_sqlite(url):
        engine = create_engine(url, creator=_sqlite_connect(path_of(url), busy_timeout, wal, immutable))
        event.listen(engine, "begin", _begin)
        return engine
    try:
        engine = create_engine(
            url,
            isolation_level="READ COMMITTED",
            pool_size=connections,
            max_overflow=0,
            pool_timeout=busy_timeout,
            connect_args={name: value for name, value in _CONNECTION.items() if name not in url.query},
        )
    except (exc.NoSuchModuleError, ImportError) as error:
        raise ConfigError(
            f"the driver for {url.get_backend_name()} is not installed",
            hint="pip install 'hsm-signer[postgresql]'",
        ) from error
    event.listen(engine, "connect", _postgresql_settings(busy_timeout))
    event.listen(engine, "checkout", _still_there)
    return engine


def _sqlite_connect(
    path: Path, busy_timeout: float, wal: bool, immutable: bool
) -> Callable[[], sqlite3.Connection]:
    # A URI, because only it can say: never make the file. Read-write falls back to reading by itself where
    # the file is read-only.
    mode = "ro&immutable=1" if immutable else "rw"
    uri = f"file:{quote(str(path.absolute()))}?mode={mode}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=busy_timeout,
            # The pool hands a connection to one thread at a time.
            check_same_thread=False,
            # The module's own BEGIN comes too late, before the first write; _begin does it instead.
            isolation_level=None,
        )
        connection.text_factory = _text_or_bytes
        try:
            if wal:
                # Once: the file remembers it.
                connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            # What revocation deletes is overwritten, too.
            connection.execute("PRAGMA secure_delete=ON")
            # Somebody else may have made the file: its schema calls no functions, its pages are checked.
            connection.execute("PRAGMA trusted_schema=OFF")
            connection.execute("PRAGMA cell_size_check=ON")
        except BaseException:
            connection.close()
            raise
        return connection

    return connect


def _text_or_bytes(data: bytes) -> str | bytes:
    """Text that is no UTF-8 stays bytes, so that the check of its field can name it."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(BEGIN, "BEGIN"))


_FRESH = "hsm_signer_fresh"
"""Of a connection that nobody has used yet."""


def _postgresql_settings(busy_timeout: float) -> Callable[[Any, Any], None]:
    timeouts = {
        "lock_timeout": busy_timeout,
        "statement_timeout": busy_timeout + _STATEMENT_TIMEOUT,
        "idle_in_transaction_session_timeout": _IDLE_TIMEOUT,
    }
    # 0 would mean for ever.
    said = [f"SET {name} = {max(1, round(seconds * 1000))}" for name, seconds in timeouts.items()]
    # "off" is answered before anything is written. The other values all wait for this server's disk.
    said.append(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )

    def on_connect(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("; ".join(said))
        connection.commit()
        record.info[_FRESH] = True

    return on_connect


def _still_there(connection: Any, record: Any, _proxy: Any) -> None:
    """Check a connection of the pool before its next use; on DisconnectionError the pool makes another.

    A server says nothing on a connection that asks for nothing. If there is something to read it is the end,
    or the server's last words; seen without asking it, which would take as long as a statement.
    """
    if record.info.pop(_FRESH, False):
        return
    if not connection.closed:
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if not poll.poll(0):
            return
    raise exc.DisconnectionError("the server has closed the connection")


def without_timeouts(connection: Connection, url: URL) -> None:
    """Let this transaction take its time: what reads all there is does, and so does whoever looks at it."""
    if not is_sqlite(url):
        connection.exec_driver_sql(
            "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
        )


# --- errors ------------------------------------------------------------------------------------------------


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn what the database raises into an error of the store; everything else passes."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _translate(url, error) from error
    except UnicodeDecodeError as error:
        # SQLite quotes a damaged schema in its message, and Python cannot read that.
        raise StoreDamaged(f"the database {name_of(url)} is damaged", hint=DAMAGED_HINT) from error
    except exc.TimeoutError as error:
        raise StoreBusy("all connections to the database are in use") from error


def is_unique_violation(error: exc.IntegrityError) -> bool:
    """Tell whether there is a second row where there may be one; other integrity errors are our mistakes."""
    original = error.orig
    if isinstance(original, sqlite3.Error):
        return original.sqlite_errorcode in (
            sqlite3.SQLITE_CONSTRAINT_UNIQUE,
            sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
        )
    return getattr(original, "sqlstate", None) == "23505"


def _words(original: BaseException | None) -> str:
    """Return the driver's error message, in one line."""
    return " ".join(str(original).split()).rstrip(".")


def _translate(url: URL, error: exc.DBAPIError) -> StoreError:
    if is_sqlite(url):
        return _translate_sqlite(path_of(url), error.orig)
    return _translate_postgresql(url, error)


def _translate_sqlite(path: Path, original: BaseException | None) -> StoreError:
    code = getattr(original, "sqlite_errorcode", None) or 0
    # The lower byte is the kind, the rest says more (https://www.sqlite.org/rescode.html).
    kind = code & 0xFF
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(f"another process is writing to {path} and has not finished in time")
    if kind == sqlite3.SQLITE_READONLY:
        return StoreReadOnly(f"{path} cannot be written", hint=READ_ONLY_HINT)
    if kind in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        if not path.exists():
            return StoreMissing(f"there is no database at {path}", hint=MISSING_HINT)
        if not os.access(path, os.R_OK):
            return StoreError(f"{path} cannot be read", hint=READ_ONLY_HINT)
        return StoreReadOnly(f"{path} cannot be written: its folder is read-only", hint=READ_ONLY_HINT)
    if kind == sqlite3.SQLITE_NOTADB:
        return StoreDamaged(f"{path} is not a database, or its beginning is damaged")
    if kind == sqlite3.SQLITE_CORRUPT or code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return StoreDamaged(f"{path} is damaged: {_words(original)}", hint=DAMAGED_HINT)
    if kind == sqlite3.SQLITE_ERROR:
        # Our SQL is fixed: if a table or column is not there, somebody took it away.
        return StoreDamaged(f"{path} does not hold what its version says: {_words(original)}")
    if kind == sqlite3.SQLITE_FULL:
        return StoreError(f"there is no room left to write {path}; nothing was changed")
    if kind == sqlite3.SQLITE_IOERR:
        return StoreError(f"{path} cannot be read or written: {_words(original)}")
    return StoreError(f"the database {path} refuses: {_words(original)}")


def _translate_postgresql(url: URL, error: exc.DBAPIError) -> StoreError:
    name, said = name_of(url), _words(error.orig)
    state = getattr(error.orig, "sqlstate", None) or ""
    # https://www.postgresql.org/docs/current/errcodes-appendix.html
    if state in ("55P03", "40001", "40P01"):
        return StoreBusy(f"another process is writing to {name} and has not finished in time")
    if state == "57014":
        return StoreBusy(f"the database {name} has not answered in time")
    if state in ("25006", "42501"):
        return StoreReadOnly(f"{name} cannot be written by this database user")
    if state.startswith(("XX", "42")):
        return StoreDamaged(f"{name} does not hold what its version says: {said}")
    if state == "53100":
        return StoreError(f"there is no room left to write {name}; nothing was changed")
    if state == "3D000" or (not state and f'database "{url.database}" does not exist' in said):
        return StoreMissing(
            f"there is no database {name}", hint="createdb makes one; or check the store's URL"
        )
    if state.startswith("28") or (not state and any(words in said for words in _NOT_LET_IN)):
        return StoreError(f"the database server does not let us in: {said}", hint="check the store's URL")
    if not state or state.startswith(("08", "57P", "53", "25P03")):
        # If it broke at the commit, nobody knows whether that was written; asking again finds out by D.
        return StoreUnavailable(f"the database {name} cannot be reached: {said}")
    return StoreError(f"the database {name} refuses: {said}")


# While it connects, libpq gives the server's words and not their number.
_NOT_LET_IN = ("authentication failed", "no password supplied", "pg_hba.conf", 'role "', "permission denied")
