"""What a check found, as lines for people."""

from __future__ import annotations

from hsm_signer.evidence.findings import Finding
from hsm_signer.types import INSTALLATION_CHAIN

from . import output


def finding_line(finding: Finding) -> str:
    """Say in one line what was found, and where."""
    where = [finding.owner or ""]
    if finding.credential_id == INSTALLATION_CHAIN:
        where.append("the installation itself")
    elif finding.credential_id is not None:
        where.append(f"credential {finding.credential_id.hex()}")
    if finding.sequence is not None:
        where.append(f"entry {finding.sequence}")
    place = ", ".join(filter(None, where))
    return output.printable(f"{finding.code}: {place}{': ' if place else ''}{finding.words}")
