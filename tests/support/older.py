"""Records as older versions wrote them: format 1, sealing 1."""

from __future__ import annotations

from msgspec.structs import replace
from pkcs11 import Attribute

from hsm_signer.core import algorithms
from hsm_signer.core.canonical import entry_hash, record_bytes
from hsm_signer.core.content import measure
from hsm_signer.schemes import steps_of
from hsm_signer.schemes.authorise import d_of, position_digests
from hsm_signer.schemes.key_operations import KekUse
from hsm_signer.server.server import Server
from hsm_signer.testing import Person
from hsm_signer.types import (
    CredentialRecord,
    Event,
    Scheme,
    SealedRecord,
)

from .factories import FORMAT_1
from .scenes import authorise


def as_older_versions_made_it(server: Server, person: Person) -> CredentialRecord:
    """Write the person's record as a version before sealing 2 would have it, and return it.

    The card gives the key for it, as in a signature; in the token SK, opened under W(K), is wrapped under K
    itself. Nothing else of the record changes, but for its version.
    """
    request = authorise(server, person, b"for an older version")
    record = person.record(server)
    authorisation, measured = request.authorisation, measure(request.content, request.authorisation.algorithm)
    positions = position_digests(
        d_of(record, authorisation, measured.mode, measured.h), authorisation.rolling_values
    )
    assert record.wrapped_seal is not None
    assert record.wrapped_sk is not None
    with server.environment._workspace() as workspace:
        workspace.open_seal(record.wrapped_seal, record.credential_id)
        if person.scheme is Scheme.BASIC:
            t = workspace.public_transient(positions[0])
        else:
            assert record.wrapped_kcar is not None
            kcar = workspace.unwrap_kcar(record.wrapped_kcar, record.combine)
            t = workspace.transient(kcar, record.combine, positions[0])
        sk = workspace.unwrap_sk(
            workspace.open_quantity(t, authorisation.quantities[0], KekUse.UNWRAP_SK),
            record.wrapped_sk,
            algorithms.key_spec_of(record.spki),
            authorisation.algorithm,
            extractable=True,
            gives_kowf=steps_of(record.scheme).sk_gives_kowf,
        )
        key = workspace._open(t, authorisation.quantities[0], Attribute.WRAP, "private_wrap")
        wrapped_sk = workspace.wrap_sk(key, sk)
    older = replace(record, **FORMAT_1, wrapped_sk=wrapped_sk)
    return write_as_format_1(server, older)


def write_as_format_1(server: Server, record: CredentialRecord) -> CredentialRecord:
    """Write the next version of a record that says nothing format 1 could not say, under the token's MAC."""
    older = replace(record, format=1, version=record.version + 1)
    assert replace(older, **FORMAT_1) == older
    draft = server.draft(record.credential_id, Event.RESUME, older.version)
    with server.store.changing(record.credential_id, record.version) as change:
        entry = server.place(draft, change.position)
        written = replace(older, evidence_head=entry_hash(entry.entry))
        change.write(SealedRecord(written, server.environment._mac(record_bytes(written))), entry)
    return server.credential_by_id(record.credential_id)
