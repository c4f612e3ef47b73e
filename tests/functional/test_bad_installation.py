"""A store or a configuration that cannot be used, as whoever opens an installation meets it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hsm_signer.config.installation import CONFIG_FILE
from hsm_signer.errors import (
    ConfigError,
    NotInitialised,
    SignerError,
    StoreBusy,
    StoreDamaged,
    StoreMissing,
    StoreReadOnly,
    StoreTooNew,
)
from hsm_signer.server.initialise import (
    TOKEN_FOLDER,
)
from hsm_signer.server.installation import (
    SOFTHSM_FILE,
    Installation,
)
from hsm_signer.testing import Home
from hsm_signer.token import softhsm
from hsm_signer.types import SigningRequest
from tests.support import processes, victim
from tests.support.scenes import (
    authorise,
    chain,
    credential_row,
    database,
    message,
    sql,
    still_signs,
    verifies,
)


def refuses(home: Home, error: type[SignerError], match: str) -> SignerError:
    """The server does not open."""
    with pytest.raises(SignerError, match=match) as caught, home.server():
        pass
    assert type(caught.value) is error, caught.value
    return caught.value


def works(home: Home) -> None:
    """After the cause has gone."""
    with home.server() as server:
        still_signs(server, home["alice"])


# --- the store ---------------------------------------------------------------------------------------------


def test_store_missing(home: Home) -> None:
    database(home).rename(home.path / "elsewhere.db")
    error = refuses(home, StoreMissing, "no database at .*store.db")
    assert error.hint is not None
    assert not database(home).exists(), "nothing is made in its place"
    (home.path / "elsewhere.db").rename(database(home))
    works(home)


def test_store_is_an_empty_file(home: Home) -> None:
    database(home).write_bytes(b"")
    refuses(home, StoreMissing, "holds no store")


def test_store_is_something_else(home: Home) -> None:
    database(home).write_bytes(b"not a database, " * 100)
    refuses(home, StoreDamaged, "is not a database")


def test_store_from_a_newer_version(home: Home) -> None:
    (revision,) = sql(home, "SELECT version_num FROM alembic_version")[0]
    sql(home, "UPDATE alembic_version SET version_num = '9999'")
    error = refuses(home, StoreTooNew, "newer version")
    assert error.hint is not None
    sql(home, "UPDATE alembic_version SET version_num = ?", revision)
    works(home)


@pytest.fixture
def impatient(home: Home) -> Home:
    """Waits a tenth of a second for other writers."""
    path = home.path / CONFIG_FILE
    text = path.read_text()
    assert "busy_timeout = 10.0" in text
    path.write_text(text.replace("busy_timeout = 10.0", "busy_timeout = 0.1"))
    return home


@pytest.mark.parametrize("name", ["alice", "paula"])
def test_store_locked_by_another_writer(impatient: Home, name: str) -> None:
    """Nothing is released, reading goes on, and the same request is good once the lock is gone."""
    home, person = impatient, impatient[name]
    with home.server() as server:
        credential_id = person.record(server).credential_id
        request = authorise(server, person)
        row = credential_row(home, credential_id)
        with closing(sqlite3.connect(database(home), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy) as caught:
                server.sign(request)
            assert caught.value.retryable
            server.challenge(credential_id)
            other.execute("ROLLBACK")
        assert credential_row(home, credential_id) == row
        assert len(chain(server, credential_id)) == 2
        verifies(server.sign(request), message())
        still_signs(server, person)


def test_refusal_that_cannot_be_noted_is_no_refusal(impatient: Home) -> None:
    """A request that is refused while nothing can be written is not answered by a refusal without a trace:
    the caller is told that the store is busy."""
    home = impatient
    with home.server() as server:
        request = authorise(server, home["paula"])
        forged = SigningRequest(request.authorisation, message(b"forged"))
        with closing(sqlite3.connect(database(home), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreBusy):
                server.sign(forged)


@pytest.fixture
def for_everybody(template_home: Home, tmp_path: Path) -> Iterator[Home]:
    """A home that another user of the machine can use, in a folder that everybody can enter."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="shown-"))
    folder.chmod(0o755)
    home = template_home.copy_to(folder / "home")
    for path in (home.path, *home.path.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    # What everybody can write is not trusted.
    home.path.chmod(0o755)
    (home.path / CONFIG_FILE).chmod(0o644)
    yield home
    shutil.rmtree(folder)


def test_store_read_only(for_everybody: Home, tmp_path: Path) -> None:
    """The signature is withheld: it may not be without evidence."""
    home = for_everybody
    with home.server() as server:
        request = authorise(server, home["alice"])
        entries = list(server.entries())
    for path in home.path.glob("store.db*"):
        path.chmod(0o444)
    report = home.path / "report"
    report.touch()
    report.chmod(0o666)

    assert processes.run(victim.sign_as_nobody, home.path, request, report) == 0

    assert report.read_text() == f"{StoreReadOnly.code} challenge-answered nothing-released"
    for path in home.path.glob("store.db*"):
        path.chmod(0o666)
    with home.server() as server:
        assert list(server.entries()) == entries
        verifies(server.sign(request), message())


def test_relative_store_path_follows_the_home(home: Home, tmp_path: Path) -> None:
    """An installation can be moved; where the command is run makes no difference."""
    moved = home.path.rename(tmp_path / "moved")
    conf = moved / SOFTHSM_FILE
    conf.write_text(softhsm.configuration(conf.read_text(), moved / TOKEN_FOLDER))
    before = Path.cwd()
    os.chdir("/")
    try:
        with Installation.open(moved).server() as server:
            assert len(list(server.credentials())) == 5
    finally:
        os.chdir(before)


def test_store_url_of_another_kind(home: Home) -> None:
    _edit(home, lambda text: text.replace("sqlite:///store.db", "mysql://somewhere/x"))
    refuses(home, ConfigError, "sqlite or postgresql, not on mysql")


# --- the configuration, opened with everything behind it ---------------------------------------------------


def _edit(home: Home, change: Callable[[str], str]) -> None:
    path = home.path / CONFIG_FILE
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


def test_configuration_missing(home: Home) -> None:
    (home.path / CONFIG_FILE).unlink()
    error = refuses(home, NotInitialised, "there is no installation in")
    assert error.hint is not None
    assert "hsm-signer init" in error.hint


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("[token]", '[token]\ncolour = "red"', "unknown key 'token.colour'"),
        ("format = 2", "format = 3", "format: expected int <= 2"),
        ("format = 2", 'format = "2"', "format: expected int, got str"),
        ("busy_timeout = 10.0", "busy_timeout = -1.0", "store.busy_timeout: expected float > 0"),
        ("busy_timeout = 10.0", 'busy_timeout = "10"', "store.busy_timeout: expected float, got str"),
        ("pin_tries = 3", "pin_tries = 16", "card.pin_tries: expected int <= 15"),
        ("pin_tries = 3", "pin_tries = 0", "card.pin_tries: expected int >= 1"),
        ("pkcs11:", "pkcs12:", "token.uri: expected a PKCS#11 URI"),
        ("pkcs11:token", "pkcs11:colour=red;token", "token.uri: unknown attribute 'colour'"),
    ],
)
def test_configuration_names_the_field_and_what_was_expected(
    home: Home, old: str, new: str, match: str
) -> None:
    text = (home.path / CONFIG_FILE).read_text()
    _edit(home, lambda it: it.replace(old, new))
    error = refuses(home, ConfigError, match)
    assert "Traceback" not in error.message
    (home.path / CONFIG_FILE).write_text(text)
    works(home)
