"""What the service needs: its clients, the access tokens given back, certificates of credentials."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From records and evidence alone; nothing that is there is touched."""
    op.create_table(
        "client",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("roles", sa.LargeBinary, nullable=False),
        sa.Column("token_hash", sa.LargeBinary, unique=True),
        sa.Column("certificate_hash", sa.LargeBinary, unique=True),
        sa.Column("owner", sa.Text),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "revoked_access",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("expires", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "certificate",
        sa.Column("credential_id", sa.LargeBinary, primary_key=True),
        sa.Column("chain", sa.LargeBinary, nullable=False),
    )
