"""Keys that open only inside the token, evidence under a MAC, the installation's own row; better indexes."""

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
    # Under a MAC from here on; `store upgrade` seals what is there already.
    op.add_column("evidence", sa.Column("mac", sa.LargeBinary))
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("format", sa.Integer, nullable=False),
        sa.Column("mac_key_id", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("installation_id", sa.LargeBinary, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("keys", sa.LargeBinary, nullable=False),
        sa.Column("group_policy", sa.LargeBinary),
        sa.Column("evidence_head", sa.LargeBinary, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    # Clients get chains of their own.
    op.add_column("client", sa.Column("version", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("client", sa.Column("evidence_head", sa.LargeBinary))
    op.add_column("revoked_access", sa.Column("mac", sa.LargeBinary))
    op.drop_index("evidence_accepted", "evidence")
    op.drop_index("evidence_version", "evidence")
    op.create_index("evidence_carried_out", "evidence", ["credential_id", "d", "sequence"])
    op.create_index("evidence_written", "evidence", ["credential_id", "record_version", "sequence"])
