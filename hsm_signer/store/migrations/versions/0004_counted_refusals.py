"""Refusals that are counted instead of written, and an index over those that are written."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A new column, 0 everywhere, and two partial indexes."""
    op.add_column(
        "credential", sa.Column("counted_refusals", sa.BigInteger, nullable=False, server_default="0")
    )
    op.execute("CREATE INDEX credential_refusals ON credential (credential_id) WHERE counted_refusals > 0")
    op.execute(
        "CREATE INDEX evidence_refused ON evidence (credential_id, sequence) "
        "WHERE outcome <> 'accepted' AND outcome <> 'authorisation.wrong-key'"
    )
