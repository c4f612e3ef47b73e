"""The first schema: credentials and the evidence about them.

Written out and not taken from schema.py: that one changes, and what this revision made must not.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From an empty database."""
    op.create_table(
        "credential",
        sa.Column("credential_id", sa.LargeBinary, primary_key=True),
        sa.Column("format", sa.Integer, nullable=False),
        sa.Column("mac_key_id", sa.LargeBinary, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("scheme", sa.Integer, nullable=False),
        sa.Column("combine", sa.Integer, nullable=False),
        sa.Column("pin_policy", sa.Integer, nullable=False),
        sa.Column("pin_check", sa.Integer, nullable=False),
        sa.Column("token_serial", sa.Text, nullable=False),
        sa.Column("mk_id", sa.LargeBinary, nullable=False),
        sa.Column("spki", sa.LargeBinary, nullable=False),
        sa.Column("algorithms", sa.LargeBinary, nullable=False),
        sa.Column("parameter", sa.LargeBinary),
        sa.Column("wrapped_kcar", sa.LargeBinary),
        sa.Column("wrap_mechanism", sa.BigInteger, nullable=False),
        sa.Column("wrapped_sk", sa.LargeBinary),
        sa.Column("x", sa.BigInteger),
        sa.Column("rn", sa.LargeBinary),
        sa.Column("rn_next", sa.LargeBinary),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("card_serial", sa.LargeBinary, nullable=False),
        sa.Column("assurance", sa.Integer, nullable=False),
        sa.Column("request_hash", sa.LargeBinary),
        sa.Column("evidence_head", sa.LargeBinary),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("request", sa.LargeBinary),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    live = sa.text("status <> 5")
    op.create_index(
        "credential_live_owner",
        "credential",
        ["owner"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
    pending = sa.text("status = 1")
    op.create_index(
        "credential_pending", "credential", ["created"], sqlite_where=pending, postgresql_where=pending
    )
    op.create_index("credential_owner", "credential", ["owner"])
    op.create_table(
        "evidence",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("credential_id", sa.LargeBinary, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("event", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("record_version", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("previous", sa.LargeBinary, nullable=False),
        sa.Column("d", sa.LargeBinary),
        sa.Column("nonce", sa.LargeBinary),
        sa.Column("x", sa.BigInteger),
        sa.Column("algorithm", sa.Integer),
        sa.Column("mode", sa.Integer),
        sa.Column("h", sa.LargeBinary),
        sa.Column("quantities_hash", sa.LargeBinary),
        sa.Column("digests", sa.LargeBinary, nullable=False),
        sa.Column("signatures", sa.LargeBinary, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("credential_id", "sequence", name="evidence_chain"),
        sqlite_autoincrement=True,
    )
    op.create_index("evidence_accepted", "evidence", ["credential_id", "d"])
    op.create_index("evidence_version", "evidence", ["credential_id", "record_version"])
