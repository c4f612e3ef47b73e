"""The certificates kept for credentials: public, and checked by whoever puts them here.

They are written with the record and the entry that says so (change.py).
"""

from __future__ import annotations

from sqlalchemy import select

from hsm_signer.errors import StoreDamaged
from hsm_signer.types import CredentialId

from .columns import BadValue
from .rows import CHAIN, who
from .schema import certificate
from .statements import raw
from .transactions import Transactions


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
            return CHAIN.read(row).chain
        except BadValue as error:
            raise StoreDamaged(
                f"the certificates of {who(credential_id)} are damaged: the field chain is not {error}",
                hint="they can be uploaded again",
            ) from error
