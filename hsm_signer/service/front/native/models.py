"""Queries and answers of the native interface that are the front's own; all others are the entities'.

Queries are text: pydantic makes numbers of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field

from hsm_signer.core.interface import MAX_PAGE
from hsm_signer.evidence.findings import Finding
from hsm_signer.service.front.problems import EXPECTED
from hsm_signer.types import MAX_OWNER, MAX_U64


def _text(pattern: str, words: str, longest: int) -> Any:
    EXPECTED[pattern] = words
    return Field(strict=True, pattern=pattern, max_length=longest)


HexId = Annotated[str, _text("^[0-9a-f]{32}$", "32 lower-case hexadecimal digits", 32)]
_NO_CONTROLS = "^[^\\x00-\\x1f\\x7f]+$"
OwnerName = Annotated[str, _text(_NO_CONTROLS, "a name without control characters", MAX_OWNER)]


class Model(BaseModel):
    """Nothing that is not declared, and no value turned into another type."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CredentialQuery(Model):
    """Which credentials."""

    owner: OwnerName | None = None
    after: HexId | None = Field(default=None, description="Those whose id is above this one.")
    limit: int = Field(default=100, ge=1, le=MAX_PAGE)


class ExportQuery(Model):
    """Which entries."""

    credential_id: HexId | None = None
    after: int = Field(default=0, ge=0, le=MAX_U64, description="Those whose number is above this one.")


class EvidenceQuery(ExportQuery):
    """Which entries, and how many of them."""

    limit: int = Field(default=100, ge=1, le=MAX_PAGE)


class NoQuery(Model):
    """No parameters."""


class Findings(Struct, frozen=True):
    """Empty where everything is as it was."""

    findings: tuple[Finding, ...]


class Health(Model):
    """The front answers."""

    status: Literal["ok"]


class WorkerView(Model):
    """One worker."""

    slot: int
    generation: int | None = Field(description="How often the slot was started; null: not connected.")
    state: str
    reason: str | None
    signatures: int = Field(description="Made by this process.")
    signed: bool = Field(description="Whether its token signed for this answer.")


class Readiness(Model):
    """Whether signatures can be made."""

    ready: bool
    workers: list[WorkerView]
