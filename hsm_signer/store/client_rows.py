"""Clients of the service and the access tokens they gave back: rows. Their MAC is for clients.py to check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
from sqlalchemy import Connection, LargeBinary, bindparam, delete, insert, select
from sqlalchemy import text as sql_text

from hsm_signer.core.canonical import ABSENT, entry_hash, number, text, value
from hsm_signer.core.chain_position import START, client_chain
from hsm_signer.errors import ClientExists, ClientUnknown, RecordConflict, StoreDamaged
from hsm_signer.types import U64, Code, Digest, Mac, SealedEntry, Sha256, Text, Time

from .change import check_place, newest_version, position_from
from .columns import BadValue, Columns
from .pages import unspeakable
from .rows import entry_from_row, entry_row
from .schema import client, revoked_access
from .statements import INSERT_ENTRY, LAST, NEWEST_VERSION, WRITER, Row, raw
from .transactions import Transactions


class ClientRow(msgspec.Struct, frozen=True):
    """One client, not believed yet: the token checks the MAC."""

    name: Code
    roles: Annotated[bytes, msgspec.Meta(min_length=1, max_length=255)]
    """One byte each, ascending (roles.Role)."""
    token_hash: Sha256 | None
    """SHA-256 of the bearer token's text."""
    certificate_hash: Sha256 | None
    """SHA-256 of the DER certificate."""
    owner: Code | None
    """The only user whose credentials it may see and use; None: any."""
    created: Time
    created_by: Text
    mac: Mac
    version: U64
    """1 when it was added, or added anew after a removal with a higher one; 0 as version 0.1 wrote it."""
    evidence_head: Sha256 | None
    """SHA-256 of the entry that says it was added; None at version 0."""


class GivenBack(msgspec.Struct, frozen=True):
    """An access token that was given back, not believed yet: the token checks the MAC."""

    expires: Time
    mac: Mac | None
    """None in rows of version 0.1."""


def client_bytes(row: ClientRow) -> bytes:
    """Encode a client for its MAC, which covers every field."""
    data = b"".join(
        (
            text(row.name),
            value(row.roles),
            value(row.token_hash),
            value(row.certificate_hash),
            ABSENT if row.owner is None else text(row.owner),
            number(row.created, 8),
            text(row.created_by),
        )
    )
    if row.version:
        data += number(row.version, 8) + value(row.evidence_head)
    return data


_COLUMNS = Columns(ClientRow)
_GIVEN_BACK = Columns(GivenBack)
_CLIENT = raw(client, _COLUMNS.names)
CLIENTS = select(*_CLIENT)

_HASH = bindparam("b_hash", type_=LargeBinary())
_REVOKED = select(*raw(revoked_access, ("expires", "mac"))).where(revoked_access.c.hash == _HASH)
_REVOKE = sql_text(
    f"INSERT INTO {revoked_access.name} (hash, expires, mac) "  # noqa: S608  the table's own name
    "VALUES (:b_hash, :b_expires, :b_mac) ON CONFLICT DO NOTHING"
).bindparams(_HASH)


class ClientChange:
    """A client's chain to which one entry is added, with what it says; :meth:`ClientRows.changing_client`."""

    def __init__(self, connection: Connection, name: str) -> None:
        """Look at the chain and the row. Raises StoreDamaged."""
        self._connection = connection
        self._name = name
        chain = client_chain(name)
        last = connection.execute(LAST, {"b_id": chain}).one_or_none()
        self.position = START if last is None else position_from(chain, *last)
        """Where the chain ends, as its row says: believed by nobody before the token has checked its MAC."""
        newest = connection.execute(NEWEST_VERSION, {"b_id": chain}).scalar_one()
        self.version = newest_version(newest, f"a version in the evidence of client {name!r}")
        """The highest in the chain; 0 if there is none."""

    def add(self, row: ClientRow, entry: SealedEntry) -> None:
        """Write a client, in place of the row of its name, with the entry that says so."""
        if row.version != self.version + 1 or row.evidence_head != entry_hash(entry.entry):
            raise ValueError("the row does not name the entry written with it")
        self._write(entry)
        self._connection.execute(insert(client), _COLUMNS.row(row, "client"))

    def remove(self, entry: SealedEntry) -> None:
        """Remove the client, whatever its row holds. Raises ClientUnknown."""
        if self._connection.execute(delete(client).where(client.c.name == self._name)).rowcount != 1:
            raise client_unknown(self._name)
        self._write(entry)

    def replace(self, row: ClientRow, entry: SealedEntry) -> None:
        """Write a client of version 0 anew, with its first entry."""
        self._connection.execute(delete(client).where(client.c.name == self._name))
        self.add(row, entry)

    def _write(self, entry: SealedEntry) -> None:
        check_place(entry.entry, self.position, client_chain(self._name))
        if entry.entry.record_version != self.version + 1:
            raise ValueError("an entry about a client has the next version")
        self._connection.execute(INSERT_ENTRY, entry_row(entry))


def client_unknown(name: str) -> ClientUnknown:
    """There is no such client."""
    return ClientUnknown(f"there is no client {name!r}")


class ClientRows(Transactions):
    """The tables ``client`` and ``revoked_access``."""

    @contextmanager
    def changing_client(self, name: str) -> Iterator[ClientChange]:
        """Begin a change of one client, which is written when the ``with`` ends.

        Raises ClientUnknown for what can be no name; ClientExists where name, token or certificate are
        another's.
        """
        if unspeakable(name):
            raise client_unknown(name)
        try:
            with self._writing() as connection:
                yield ClientChange(connection, name)
        except RecordConflict as conflict:
            if self.client_by_name(name) is not None:
                raise ClientExists(
                    f"there is a client {name} already",
                    hint=f"hsm-signer client remove {name} makes room, and ends its token",
                ) from conflict
            raise ClientExists("there is a client with this certificate or token already") from conflict

    def age_of_client(self, row: ClientRow) -> tuple[int, Digest | None]:
        """Read the highest version in a client's chain, and the hash of the entry of the row's own version.

        Raises StoreDamaged.
        """
        own = {"b_id": client_chain(row.name), "b_version": row.version}
        with self._reading() as connection:
            newest = connection.execute(NEWEST_VERSION, own).scalar_one()
            writer = connection.execute(WRITER, own).one_or_none()
        version = newest_version(newest, f"a version in the evidence of client {row.name!r}")
        return version, None if writer is None else entry_hash(entry_from_row(writer).entry)

    def clients(self) -> list[ClientRow]:
        """Read every client, ascending by name. Raises StoreDamaged."""
        with self._reading() as connection:
            rows = connection.execute(CLIENTS).all()
        # Not the database's order: that of text is a matter of its locale.
        return sorted(map(client_from_row, rows), key=lambda row: row.name)

    def client_by_name(self, name: str) -> ClientRow | None:
        """Find a client by its name; None if there is no such client. Raises StoreDamaged."""
        return None if unspeakable(name) else self._client(client.c.name == name)

    def client_by_token_hash(self, token_hash: bytes) -> ClientRow | None:
        """Find a client by the SHA-256 of its token's text; None if nobody has it. Raises StoreDamaged."""
        return self._client(client.c.token_hash == token_hash)

    def client_by_certificate_hash(self, certificate_hash: bytes) -> ClientRow | None:
        """Find a client by the SHA-256 of its DER certificate; None if nobody has it. Raises StoreDamaged."""
        return self._client(client.c.certificate_hash == certificate_hash)

    def _client(self, condition: Any) -> ClientRow | None:
        with self._reading() as connection:
            row = connection.execute(select(*_CLIENT).where(condition)).one_or_none()
        return None if row is None else client_from_row(row)

    def revoke_access(self, access_hash: bytes, expires: int, mac: Mac, *, now: int) -> None:
        """Keep in mind that an access token (its SHA-256) was given back; once more is no error.

        ``expires``, ``now``: microseconds since 1970-01-01T00:00:00Z; ``mac``: over both. What has expired is
        forgotten.
        """
        with self._writing() as connection:
            connection.execute(delete(revoked_access).where(revoked_access.c.expires < now))
            connection.execute(_REVOKE, {"b_hash": access_hash, "b_expires": expires, "b_mac": mac})

    def given_back(self, access_hash: bytes) -> GivenBack | None:
        """Read what :meth:`revoke_access` wrote for a token, as long as it has not expired.

        Raises StoreDamaged.
        """
        with self._reading() as connection:
            row = connection.execute(_REVOKED, {"b_hash": access_hash}).one_or_none()
        try:
            return None if row is None else _GIVEN_BACK.read(row)
        except BadValue as error:
            raise StoreDamaged(
                f"an access token that was given back is damaged: its field {error.field} is not {error}"
            ) from error


def client_from_row(row: Row) -> ClientRow:
    try:
        return _COLUMNS.read(row)
    except BadValue as error:
        name = f" {row[0][:64]!r}" if isinstance(row[0], str) else ""
        raise StoreDamaged(
            f"the row of client{name} is damaged: its field {error.field} is not {error}",
            hint="remove the client and add it anew",
        ) from error
