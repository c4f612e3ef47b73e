"""Queries of the native interface; its bodies are core/interface.py's and types.py's."""

from __future__ import annotations

from msgspec import Struct

from hsm_signer.evidence.findings import Finding
from hsm_signer.service.wire.operations import PageSize
from hsm_signer.types import U64, CredentialId, Owner


class CredentialQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which credentials."""

    owner: Owner | None = None
    """Those of this user."""
    after: CredentialId | None = None
    """Those whose id is above this one."""
    limit: PageSize = 100
    """At most so many."""


class ExportQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which entries."""

    credential_id: CredentialId | None = None
    """Those of this credential."""
    after: U64 | None = None
    """Those whose number is above this one."""


class EvidenceQuery(ExportQuery, frozen=True):
    """Which entries, and how many of them."""

    limit: PageSize = 100
    """At most so many."""


class FindingList(Struct, frozen=True, forbid_unknown_fields=True):
    """What is wrong; empty where everything is as it was."""

    findings: tuple[Finding, ...]
