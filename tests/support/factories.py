"""Records, entries and whole credentials for tests: real P-256 signatures, a MAC under a key of the tests."""

from __future__ import annotations

import hashlib
import hmac
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from msgspec.structs import replace
from sqlalchemy import column as sql_column
from sqlalchemy import create_engine, insert, inspect, select
from sqlalchemy import table as sql_table

from hsm_signer.core.canonical import entry_hash, installation_bytes, record_bytes
from hsm_signer.core.chain_position import START, ChainPosition, client_chain, link_bytes, position_of
from hsm_signer.core.content import digest_list_hash
from hsm_signer.evidence.audit import ChainRow
from hsm_signer.evidence.chain import draft_entry, next_entry
from hsm_signer.store import schema
from hsm_signer.store.client_rows import ClientChange, ClientRow
from hsm_signer.store.database import parse_url, sqlite_url
from hsm_signer.store.store import Store
from hsm_signer.types import (
    ACCEPTED,
    INSTALLATION_CHAIN,
    Algorithm,
    Combine,
    CredentialId,
    CredentialRecord,
    Digest,
    Event,
    EvidenceEntry,
    InstallationRecord,
    Mode,
    PinCheck,
    PinPolicy,
    RollingValue,
    Scheme,
    SealedEntry,
    SealedInstallation,
    SealedRecord,
    Sealing,
    SpkiDer,
    Status,
    SuspendedBy,
    TokenKey,
    TokenKeyKind,
    TokenKeyState,
    WrappedKey,
)

MAC_KEY = b"record MAC key of the tests"
TIME = 1_700_000_000_000_000
FORMAT_1: dict[str, Any] = {
    "format": 1,
    "sealing": Sealing.CARD,
    "wrapped_seal": None,
    "card_point": None,
    "enrolment_proof": None,
    "suspended_by": SuspendedBy.NOBODY,
}
"""What makes a record one of format 1, as older versions wrote it."""


def sha(*parts: object) -> Digest:
    """A digest that is different for different parts."""
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


def seal(record: CredentialRecord) -> SealedRecord:
    return SealedRecord(record, hmac.digest(MAC_KEY, record_bytes(record), "sha256"))


def check_mac(sealed: SealedRecord) -> bool:
    return hmac.compare_digest(seal(sealed.record).mac, sealed.mac)


NO_AUTHORISATION: dict[str, Any] = {
    "d": None,
    "nonce": None,
    "x": None,
    "algorithm": None,
    "mode": None,
    "h": None,
    "quantities_hash": None,
    "digests": (),
    "signatures": (),
}
"""The fields of an entry that is about no authorisation."""


def seal_entry(entry: EvidenceEntry) -> SealedEntry:
    link = link_bytes(entry.credential_id, position_of(entry))
    return SealedEntry(entry, hmac.digest(MAC_KEY, link, "sha256"))


def entry_holds(sealed: SealedEntry) -> bool:
    return seal_entry(sealed.entry) == sealed


def first_of_installation() -> tuple[SealedInstallation, SealedEntry]:
    """The installation's own record and its first entry."""
    return next_of_installation(START, Event.BEGIN)


def next_of_installation(
    position: ChainPosition, event: Event = Event.SETTINGS
) -> tuple[SealedInstallation, SealedEntry]:
    """The next version of the installation's own record, and its entry."""
    version = position.sequence + 1
    draft = draft_entry(INSTALLATION_CHAIN, event, actor="tests", record_version=version)
    entry = next_entry(position, draft, time=TIME)
    record = InstallationRecord(
        format=1,
        mac_key_id=bytes(8),
        version=version,
        installation_id=b"installs",
        epoch=0,
        keys=(TokenKey(TokenKeyKind.MASTER, bytes(8), TokenKeyState.ACTIVE).packed,),
        group_policy=None,
        evidence_head=entry_hash(entry),
    )
    mac = hmac.digest(MAC_KEY, installation_bytes(record), "sha256")
    return SealedInstallation(record, mac), seal_entry(entry)


def put_client(store: Store, row: ClientRow) -> ClientRow:
    """Write a client as adding one does, and give the row as it then is."""
    with store.changing_client(row.name) as change:
        entry = _client_entry(change, row.name, Event.CLIENT_ADDED)
        row = replace(row, version=entry.entry.record_version, evidence_head=entry_hash(entry.entry))
        change.add(row, entry)
    return row


def drop_client(store: Store, name: str) -> None:
    """Remove a client."""
    with store.changing_client(name) as change:
        change.remove(_client_entry(change, name, Event.CLIENT_REMOVED))


def _client_entry(change: ClientChange, name: str, event: Event) -> SealedEntry:
    draft = draft_entry(client_chain(name), event, actor="tests", record_version=change.version + 1)
    return seal_entry(next_entry(change.position, draft, time=TIME))


def chain_row(sealed: SealedRecord) -> ChainRow:
    """What an audit holds the record's chain against."""
    record = sealed.record
    return ChainRow(
        record.credential_id,
        record.owner,
        record.version,
        record.evidence_head,
        check_mac(sealed),
        record.spki,
        record.opens_with_card_alone,
    )


def end_of(store: Store, credential_id: CredentialId) -> ChainPosition:
    """Where a chain ends."""
    *_, (_, last) = store.entries(credential_id)
    return position_of(last)


def verify(spki: SpkiDer, algorithm: Algorithm, digest: bytes, signature: bytes) -> bool:
    assert algorithm is Algorithm.ECDSA_SHA256
    key = serialization.load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    try:
        key.verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except InvalidSignature:
        return False
    return True


@cache
def _empty_store() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        Store.create(sqlite_url(path)).close()
        return path.read_bytes()


def new_store(path: Path) -> str:
    """An empty store at ``path``, and its URL. Migrations run once: they take longer than most tests."""
    path.write_bytes(_empty_store())
    return sqlite_url(path)


def older_store(url: str, revision: str, like: Store) -> None:
    """A store of an older version in an empty database, with the records and the evidence of ``like``.

    The records have to be of format 1: what an older version has no column for is left out.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    engine = create_engine(parse_url(url))
    with engine.begin() as connection, like._engine.connect() as now:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for table in (schema.credential, schema.evidence):
            # PostgreSQL counts the numbers itself.
            kept = {column["name"] for column in inspect(connection).get_columns(table.name)} - {"id"}
            for row in now.execute(select(table).order_by(*table.primary_key)):
                assert row._mapping.get("format", 1) == 1
                values = {name: value for name, value in row._mapping.items() if name in kept}
                columns: list[Any] = [sql_column(name) for name in values]
                connection.execute(insert(sql_table(table.name, *columns)), values)
    engine.dispose()


def credential_id(number: int) -> CredentialId:
    return CredentialId(number.to_bytes(16, "big"))


def make_record(**changes: Any) -> CredentialRecord:
    """A record of scheme rolling with every field set."""
    record = CredentialRecord(
        format=2,
        mac_key_id=b"mackeyid",
        version=1,
        credential_id=credential_id(1),
        owner="alice",
        status=Status.PENDING,
        scheme=Scheme.ROLLING,
        combine=Combine.CBC,
        pin_policy=PinPolicy.ALWAYS,
        pin_check=PinCheck.SERVER,
        token_serial="0123456789abcdef",
        mk_id=b"mkmkmkmk",
        spki=SpkiDer(b"spki"),
        algorithms=(Algorithm.ECDSA_SHA256, Algorithm.ECDSA_SHA384),
        parameter=b"parameter",
        wrapped_kcar=WrappedKey(bytes(range(40))),
        wrap_mechanism=0x8000210A,
        wrapped_sk=WrappedKey(b"wrapped sk"),
        x=7,
        rn=RollingValue(sha("rn")),
        rn_next=RollingValue(sha("rn_next")),
        failures=2,
        card_serial=b"cardcard",
        assurance=0,
        request_hash=sha("request"),
        evidence_head=sha("head"),
        sealing=Sealing.TOKEN,
        wrapped_seal=WrappedKey(bytes(range(40, 80))),
        card_point=b"\x04" + bytes(range(64)),
        enrolment_proof=sha("proof"),
        suspended_by=SuspendedBy.REGISTRAR,
    )
    return replace(record, **changes)


def make_entry(**changes: Any) -> EvidenceEntry:
    """An accepted signature's entry with every field set."""
    entry = EvidenceEntry(
        sequence=1,
        time=TIME,
        credential_id=credential_id(1),
        event=Event.SIGN,
        outcome=ACCEPTED,
        record_version=1,
        actor="operator",
        previous=Digest(bytes(32)),
        d=sha("d"),
        nonce=bytes(range(16)),
        x=7,
        algorithm=Algorithm.ECDSA_SHA256,
        mode=Mode.DIGESTS,
        h=sha("h"),
        quantities_hash=sha("q"),
        digests=(sha(1), sha(2)),
        signatures=(b"one", b"another"),
    )
    return replace(entry, **changes)


class Person:
    """One credential and its owner: writes it to a store the way signing and enrolment do."""

    def __init__(self, number: int, owner: str | None = None, **record: Any) -> None:
        """``record``: fields that are not as :func:`make_record` has them."""
        self.id = credential_id(number)
        self.key = ec.generate_private_key(ec.SECP256R1())
        spki = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.record = make_record(
            version=0,
            credential_id=self.id,
            owner=owner or f"user{number}",
            spki=SpkiDer(spki),
            failures=0,
            **record,
        )

    @property
    def sealed(self) -> SealedRecord:
        return seal(self.record)

    def next(
        self,
        position: ChainPosition,
        event: Event,
        *,
        outcome: str = ACCEPTED,
        record: dict[str, Any] | None = None,
        **fields: Any,
    ) -> tuple[SealedRecord, SealedEntry]:
        """The next version of the record, and its entry, for this end of the chain."""
        version = self.record.version + 1
        draft = draft_entry(self.id, event, actor="tests", outcome=outcome, record_version=version)
        entry = next_entry(position, draft, time=TIME + position.sequence, **fields)
        new = replace(self.record, version=version, evidence_head=entry_hash(entry), **(record or {}))
        return seal(new), seal_entry(entry)

    def _keep(self, store: Store) -> None:
        self.record = store.load(self.id).sealed.record

    def enrol(self, store: Store, *, created: int = TIME) -> Person:
        store.insert(*self.next(START, Event.ENROL), request=b"request", created=created)
        self._keep(store)
        return self

    def write(self, store: Store, event: Event, **fields: Any) -> EvidenceEntry:
        with store.changing(self.id, self.record.version) as change:
            sealed, written = self.next(change.position, event, **fields)
            change.write(sealed, written)
        self._keep(store)
        return written.entry

    def signature_fields(self, *names: object) -> dict[str, Any]:
        """The fields of an accepted signature over a digest list: one digest per name."""
        digests = tuple(sha(name) for name in names)
        return {
            "d": sha("D", *names),
            "nonce": bytes(16),
            "x": self.record.x,
            "algorithm": Algorithm.ECDSA_SHA256,
            "mode": Mode.DIGESTS,
            "h": digest_list_hash(digests),
            "quantities_hash": sha("Q", *names),
            "digests": digests,
            "signatures": tuple(
                self.key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))) for digest in digests
            ),
        }

    def activate(self, store: Store) -> EvidenceEntry:
        fields = self.signature_fields("request")
        # Mode 1: the card hashed the request itself.
        fields |= {"mode": Mode.MESSAGE, "h": fields["digests"][0]}
        return self.write(store, Event.ACTIVATE, record={"status": Status.ACTIVE}, **fields)

    def sign(self, store: Store, *names: object) -> EvidenceEntry:
        return self.write(store, Event.SIGN, **self.signature_fields(*names))

    def refused(self, store: Store, **changes: Any) -> EvidenceEntry:
        """An attempt that is refused and does not count."""
        with store.appending(self.id) as chain:
            written = self.refusal(chain.position, **changes)
            chain.append(written)
        return written.entry

    def refusal(
        self,
        position: ChainPosition,
        *,
        version: int | None = None,
        outcome: str = "authorisation.mismatch",
        **fields: Any,
    ) -> SealedEntry:
        version = self.record.version if version is None else version
        draft = draft_entry(self.id, Event.SIGN, actor="tests", outcome=outcome, record_version=version)
        return seal_entry(next_entry(position, draft, time=TIME, **fields))

    def failed(self, store: Store) -> EvidenceEntry:
        """An attempt that is refused and counts."""
        return self.write(
            store,
            Event.SIGN,
            outcome="authorisation.wrong-key",
            record={"failures": self.record.failures + 1},
        )

    def certify(self, store: Store, *chain: bytes) -> None:
        with store.changing(self.id, self.record.version) as change:
            sealed, written = self.next(change.position, Event.CERTIFICATES)
            change.keep(chain)
            change.write(sealed, written)
        self._keep(store)

    def expire(self, store: Store) -> EvidenceEntry:
        with store.changing(self.id, self.record.version) as change:
            written = self.last(change.position)
            change.expire(written)
        return written.entry

    def last(self, position: ChainPosition) -> SealedEntry:
        """The end of a chain whose credential is given up."""
        draft = draft_entry(self.id, Event.EXPIRE, actor="tests", record_version=self.record.version + 1)
        return seal_entry(next_entry(position, draft, time=TIME))
