"""The tables: one column per field, so that SQL can search and a damaged field can be named.

Only what SQLite and PostgreSQL both have: integers up to 2**63 - 1, text without NUL, bytes, and a partial
unique index. The tables here are what the migrations lead to; a test holds the two together.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    event,
)

from hsm_signer.errors import WrongKey
from hsm_signer.types import ACCEPTED, Status

REVISIONS = ("0001", "0002", "0003", "0004")
"""Every revision of the schema, oldest first. Kept here because asking Alembic takes too long on opening."""
HEAD = REVISIONS[-1]
VERSION_TABLE = "alembic_version"

metadata = MetaData()

credential = Table(
    "credential",
    metadata,
    Column("credential_id", LargeBinary, primary_key=True),
    Column("format", Integer, nullable=False),
    Column("mac_key_id", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("owner", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("scheme", Integer, nullable=False),
    Column("combine", Integer, nullable=False),
    Column("pin_policy", Integer, nullable=False),
    Column("pin_check", Integer, nullable=False),
    Column("token_serial", Text, nullable=False),
    Column("mk_id", LargeBinary, nullable=False),
    Column("spki", LargeBinary, nullable=False),
    Column("algorithms", LargeBinary, nullable=False),
    Column("parameter", LargeBinary),
    Column("wrapped_kcar", LargeBinary),
    Column("wrap_mechanism", BigInteger, nullable=False),
    Column("wrapped_sk", LargeBinary),
    Column("x", BigInteger),
    Column("rn", LargeBinary),
    Column("rn_next", LargeBinary),
    Column("failures", BigInteger, nullable=False),
    Column("card_serial", LargeBinary, nullable=False),
    Column("assurance", Integer, nullable=False),
    Column("request_hash", LargeBinary),
    Column("evidence_head", LargeBinary),
    Column("mac", LargeBinary, nullable=False),
    Column("request", LargeBinary),
    Column("created", BigInteger, nullable=False),
    # Since 0003, which adds them at the end.
    Column("sealing", Integer, nullable=False, server_default="1"),
    Column("wrapped_seal", LargeBinary),
    Column("card_point", LargeBinary),
    Column("enrolment_proof", LargeBinary),
    Column("suspended_by", Integer, nullable=False, server_default="0"),
    # Since 0004.
    Column("counted_refusals", BigInteger, nullable=False, server_default="0"),
)
"""One row per credential. Beside the record: ``mac``; ``request``, the DER CertificationRequestInfo that
``request_hash`` is of; ``created``, microseconds since 1970; ``counted_refusals``, those without an entry
yet. The last three are not under the MAC: the first is under its hash, the second decides only when a pending
credential is given up, the third is the number in an entry to come."""

# Enrolment looks for old pending records each time, and they are few.
event.listen(
    credential,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        f"CREATE INDEX credential_pending ON credential (created) WHERE status = {Status.PENDING.number}"
    ),
)
# Revoked credentials stay as tombstones, any number per user. Written out, in the words both databases have:
# Index(..., postgresql_where=...) would import PostgreSQL's dialects, and asyncio with them, at every start.
event.listen(
    credential,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "CREATE UNIQUE INDEX credential_live_owner ON credential (owner) "
        f"WHERE status <> {Status.REVOKED.number}"
    ),
)
Index("credential_owner", credential.c.owner)
# The workers look for them each minute, and there are hardly ever any.
event.listen(
    credential,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "CREATE INDEX credential_refusals ON credential (credential_id) WHERE counted_refusals > 0"
    ),
)

evidence = Table(
    "evidence",
    metadata,
    # SQLite numbers rows by itself only in a column that is INTEGER to the letter.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("credential_id", LargeBinary, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("event", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("record_version", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("previous", LargeBinary, nullable=False),
    Column("d", LargeBinary),
    Column("nonce", LargeBinary),
    Column("x", BigInteger),
    Column("algorithm", Integer),
    Column("mode", Integer),
    Column("h", LargeBinary),
    Column("quantities_hash", LargeBinary),
    Column("digests", LargeBinary, nullable=False),
    Column("signatures", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    # Since 0003; NULL in entries of before that no upgrade has sealed.
    Column("mac", LargeBinary),
    UniqueConstraint("credential_id", "sequence", name="evidence_chain"),
    # AUTOINCREMENT: a number is never given twice, even if the newest rows were deleted.
    sqlite_autoincrement=True,
)
"""One row per attempt; rows are only ever added. No foreign key: a chain outlives an expired credential.
``hash`` is SHA-256 of the entry, kept so that the end of a chain is found without reading the entry, and
believed only under ``mac``; audit and anchor compute it anew."""

# All three columns of what is asked for, so that a chain's length costs nothing.
Index("evidence_carried_out", evidence.c.credential_id, evidence.c.d, evidence.c.sequence)
Index("evidence_written", evidence.c.credential_id, evidence.c.record_version, evidence.c.sequence)
UNCOUNTED_REFUSAL = f"outcome <> '{ACCEPTED}' AND outcome <> '{WrongKey.code}'"
"""SQL: an entry that neither changed a record nor counted as a wrong key."""
event.listen(
    evidence,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        f"CREATE INDEX evidence_refused ON evidence (credential_id, sequence) WHERE {UNCOUNTED_REFUSAL}"
    ),
)

installation = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("format", Integer, nullable=False),
    Column("mac_key_id", LargeBinary, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("installation_id", LargeBinary, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("keys", LargeBinary, nullable=False),
    Column("group_policy", LargeBinary),
    Column("evidence_head", LargeBinary, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)
"""One row, number 1: what the installation knows of itself, sealed as records are. Its chain is that of 16
zero bytes."""

client = Table(
    "client",
    metadata,
    Column("name", Text, primary_key=True),
    Column("roles", LargeBinary, nullable=False),
    Column("token_hash", LargeBinary, unique=True),
    Column("certificate_hash", LargeBinary, unique=True),
    Column("owner", Text),
    Column("created", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    # Since 0003, which adds them at the end.
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("evidence_head", LargeBinary),
)
"""One row per client of the service, under a MAC of the token's and with a chain of its own: who can write
the database gives nobody a role, nor one back. ``roles``: one byte each, ascending; both hashes SHA-256;
``created``: microseconds since 1970."""

revoked_access = Table(
    "revoked_access",
    metadata,
    Column("hash", LargeBinary, primary_key=True),
    Column("expires", BigInteger, nullable=False),
    Column("mac", LargeBinary),
)
"""Access tokens given back before their time, until that is over: SHA-256 and microseconds since 1970."""

certificate = Table(
    "certificate",
    metadata,
    Column("credential_id", LargeBinary, primary_key=True),
    Column("chain", LargeBinary, nullable=False),
)
"""The certificates kept for a credential, leaf first, DER each, as encoding.sequence has them. Public, and
under their authorities' signatures: no MAC."""
