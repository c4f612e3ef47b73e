"""The certificates kept for credentials: public, and checked by whoever puts them here."""

from __future__ import annotations

import msgspec
from sqlalchemy import delete, insert, select

from hsm_signer.core.interface import Chain
from hsm_signer.errors import StoreDamaged
from hsm_signer.types import CredentialId

from .change import unknown
from .columns import BadValue, Columns
from .rows import who
from .schema import certificate
from .statements import LOCK, raw
from .transactions import Transactions


class ChainRow(msgspec.Struct, frozen=True):
    """The column beside the credential's id."""

    chain: Chain


_COLUMNS = Columns(ChainRow)


class CertificateRows(Transactions):
    """The table ``certificate``."""

    def certificates(self, credential_id: CredentialId) -> tuple[bytes, ...]:
        """Read a credential's certificate chain, DER, leaf first; empty without one. Raises StoreDamaged."""
        statement = select(*raw(certificate, ("chain",))).where(certificate.c.credential_id == credential_id)
        with self._reading() as connection:
            row = connection.execute(statement).one_or_none()
        if row is None:
            return ()
        try:
            return _COLUMNS.read(row).chain
        except BadValue as error:
            raise StoreDamaged(
                f"the certificates of {who(credential_id)} are damaged: the field chain is not {error}",
                hint="they can be uploaded again",
            ) from error

    def set_certificates(self, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
        """Keep ``chain``, DER, leaf first, in place of what is kept; empty removes it.

        Raises CredentialUnknown where there is no record, StoreError for what cannot be stored.
        """
        row = _COLUMNS.row(ChainRow(chain), "certificate chain")
        with self._writing() as connection:
            if connection.execute(LOCK, {"b_id": credential_id}).one_or_none() is None:
                raise unknown(credential_id)
            connection.execute(delete(certificate).where(certificate.c.credential_id == credential_id))
            if chain:
                connection.execute(insert(certificate), {**row, "credential_id": credential_id})
