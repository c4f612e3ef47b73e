"""Keys that open only inside the token, entries under a MAC, the installation's own record."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """New columns and tables; what is there keeps every value. MACs are made later, with the token."""
    for column in (
        sa.Column("sealing", sa.Integer, nullable=False, server_default="1"),
        sa.Column("wrapped_seal", sa.LargeBinary),
        sa.Column("card_point", sa.LargeBinary),
        sa.Column("enrolment_proof", sa.LargeBinary),
        sa.Column("suspended_by", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("credential", column)
    op.add_column("evidence", sa.Column("mac", sa.LargeBinary))
    op.drop_index("evidence_accepted", "evidence")
    op.drop_index("evidence_version", "evidence")
    op.create_index("evidence_carried_out", "evidence", ["credential_id", "d", "sequence"])
    op.create_index("evidence_written", "evidence", ["credential_id", "record_version", "sequence"])
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.Column("mac_key_id", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("installation_id", sa.LargeBinary, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("keys", sa.LargeBinary, nullable=False),
        sa.Column("sealed", sa.Integer, nullable=False),
        sa.Column("evidence_head", sa.LargeBinary, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    op.add_column("client", sa.Column("version", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("client", sa.Column("evidence_head", sa.LargeBinary))
    op.add_column("revoked_access", sa.Column("mac", sa.LargeBinary))
    op.create_table(
        "approval",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("act", sa.Text, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("asked", sa.BigInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
