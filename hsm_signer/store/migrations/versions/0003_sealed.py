"""Keys that open only inside the token; indexes that a chain's length costs nothing."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """New columns; what is there keeps every value."""
    for column in (
        sa.Column("sealing", sa.Integer, nullable=False, server_default="1"),
        sa.Column("wrapped_seal", sa.LargeBinary),
        sa.Column("card_point", sa.LargeBinary),
        sa.Column("enrolment_proof", sa.LargeBinary),
        sa.Column("suspended_by", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("credential", column)
    op.drop_index("evidence_accepted", "evidence")
    op.drop_index("evidence_version", "evidence")
    op.create_index("evidence_carried_out", "evidence", ["credential_id", "d", "sequence"])
    op.create_index("evidence_written", "evidence", ["credential_id", "record_version", "sequence"])
