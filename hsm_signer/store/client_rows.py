"""Clients of the service and the access tokens they gave back: rows. Their MAC is for clients.py to check."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from sqlalchemy import LargeBinary, bindparam, delete, insert, select, text

from hsm_signer.errors import ClientExists, ClientUnknown, RecordConflict, StoreDamaged
from hsm_signer.types import Code, Mac, Sha256, Text, Time

from .columns import BadValue, Columns
from .pages import unspeakable
from .schema import client, revoked_access
from .statements import Row, raw
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


_COLUMNS = Columns(ClientRow)
_CLIENT = raw(client, _COLUMNS.names)

_HASH = bindparam("b_hash", type_=LargeBinary())
_REVOKED = select(*raw(revoked_access, ("hash",))).where(revoked_access.c.hash == _HASH)
_REVOKE = text(
    f"INSERT INTO {revoked_access.name} (hash, expires) VALUES (:b_hash, :b_expires) ON CONFLICT DO NOTHING"  # noqa: S608
).bindparams(_HASH)


class ClientRows(Transactions):
    """The tables ``client`` and ``revoked_access``."""

    def insert_client(self, row: ClientRow) -> None:
        """Add a client. Raises ClientExists where its name, its token or its certificate is another's."""
        values = _COLUMNS.row(row, "client")
        try:
            with self._writing() as connection:
                connection.execute(insert(client), values)
        except RecordConflict as conflict:
            if self.client_by_name(row.name) is not None:
                raise ClientExists(
                    f"there is a client {row.name} already",
                    hint=f"hsm-signer client remove {row.name} makes room, and ends its token",
                ) from conflict
            raise ClientExists("there is a client with this certificate or token already") from conflict

    def delete_client(self, name: str) -> None:
        """Remove a client, whatever its row holds. Raises ClientUnknown."""
        count = 0
        if not unspeakable(name):
            with self._writing() as connection:
                count = connection.execute(delete(client).where(client.c.name == name)).rowcount
        if count != 1:
            raise ClientUnknown(f"there is no client {name!r}")

    def clients(self) -> list[ClientRow]:
        """Read every client, ascending by name. Raises StoreDamaged."""
        with self._reading() as connection:
            rows = connection.execute(select(*_CLIENT)).all()
        # Not the database's order: that of text is a matter of its locale.
        return sorted(map(_client_from_row, rows), key=lambda row: row.name)

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
        return None if row is None else _client_from_row(row)

    def revoke_access(self, access_hash: bytes, expires: int, *, now: int) -> None:
        """Keep in mind that an access token (its SHA-256) was given back; once more is no error.

        ``expires``, ``now``: microseconds since 1970-01-01T00:00:00Z. What has expired is forgotten.
        """
        with self._writing() as connection:
            connection.execute(delete(revoked_access).where(revoked_access.c.expires < now))
            connection.execute(_REVOKE, {"b_hash": access_hash, "b_expires": expires})

    def access_revoked(self, access_hash: bytes) -> bool:
        """Tell whether :meth:`revoke_access` was called for a token, as long as it has not expired."""
        with self._reading() as connection:
            return connection.execute(_REVOKED, {"b_hash": access_hash}).one_or_none() is not None


def _client_from_row(row: Row) -> ClientRow:
    try:
        return _COLUMNS.read(row)
    except BadValue as error:
        name = f" {row[0][:64]!r}" if isinstance(row[0], str) else ""
        raise StoreDamaged(
            f"the row of client{name} is damaged: its field {error.field} is not {error}",
            hint="remove the client and add it anew",
        ) from error
