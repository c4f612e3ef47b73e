"""`hsm-signer audit`: the evidence, its check, and the anchor to keep elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsm_signer.core import json_codec
from hsm_signer.core.canonical import entry_hash
from hsm_signer.core.interface import NumberedEntry
from hsm_signer.errors import AuditFailed, CredentialUnknown, StoreDamaged, StoreError
from hsm_signer.evidence.anchor import decode_anchor, encode_anchor
from hsm_signer.evidence.audit import AuditReport
from hsm_signer.evidence.findings import Finding
from hsm_signer.types import INSTALLATION_CHAIN, CredentialId, Event, EvidenceEntry

from . import files, output
from .context import App, pass_app
from .findings import finding_line
from .options import PATH, TEXT, force_option, json_option, output_option
from .protected_files import protected_paths
from .user_argument import credential_ids

if TYPE_CHECKING:
    from hsm_signer.store.store import Store

MAX_ANCHOR = 4096
NEWEST = 100


@click.group("audit")
def command() -> None:
    """List and verify the evidence; print an anchor.

    Every attempt to sign and every change of a credential left an entry, accepted or refused, chained to the
    one before it. Refusals that come too often share one, which says how many they were.
    """


@command.command("list")
@click.argument("user", required=False, type=TEXT, metavar="[USER]")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=NEWEST,
    show_default=True,
    metavar="N",
    help="The newest N entries; 0: all.",
)
@json_option
@pass_app
def list_(app: App, user: str | None, limit: int, as_json: bool) -> None:
    """List evidence, oldest first: all of it, or what is about USER.

    Without --limit only the newest 100 entries are shown; --limit 0 shows all. It is shown as the store has
    it; `audit verify` says whether to believe it. Needs no token.
    """
    damaged: list[Finding] = []
    found: list[tuple[int, EvidenceEntry]] = []
    with app.installation().open_store() as store:
        chains: Iterable[CredentialId | None] = (None,) if user is None else credential_ids(store, user)
        for credential_id in chains:
            found += store.entries(credential_id, limit=limit or None, damaged=damaged.append)
        owners = _owners(store, {entry.credential_id for _, entry in found})
    found.sort(key=lambda numbered: numbered[0])
    found = found[-limit:] if limit else found
    if as_json:
        output.json_data([_entry(number, entry, owners) for number, entry in found])
    else:
        output.table(
            ("TIME", "USER", "EVENT", "OUTCOME", "SIGNED", "ALGORITHM", "ACTOR"),
            (
                (
                    output.moment(entry.time),
                    _whose(entry.credential_id, owners),
                    entry.event.value,
                    _outcome(entry),
                    str(len(entry.signatures) or ""),
                    entry.algorithm.value if entry.algorithm else "",
                    entry.actor,
                )
                for _, entry in found
            ),
        )
    for finding in damaged:
        output.say(f"error: {output.printable(finding.words)} [{finding.code}]")
    if damaged:
        click.get_current_context().exit(StoreDamaged.exit_status)


@command.command("verify")
@click.option("--anchor", type=PATH, metavar="FILE", help="Check against an anchor that `audit head` made.")
@json_option
@pass_app
def verify(app: App, anchor: Path | None, as_json: bool) -> None:
    """Check chains, signatures and records against each other.

    Exit status 7 if something does not agree. Old rows put back together with their old evidence are found
    by an anchor only.
    """
    held = None
    if anchor is not None:
        held = decode_anchor(files.read_bounded(anchor, MAX_ANCHOR, "anchor").decode("utf-8", "replace"))
    with app.local_server(for_audit=True) as server:
        report = server.audit()
        findings = [*report.findings, *(server.check_anchor(held) if held is not None else ())]
    anchored = held is not None
    if as_json:
        output.json_data(
            {
                "good": not findings,
                "records": report.records,
                "chains": report.chains,
                "entries": report.entries,
                "signatures": report.signatures,
                "unchecked_signatures": report.unchecked,
                "records_at_sealing_1": report.at_sealing_1,
                "anchor_checked": anchored,
                "findings": json_codec.to_json(findings),
            }
        )
    else:
        for finding in findings:
            output.data(finding_line(finding))
        output.data(_summary(report, anchored=anchored, good=not findings))
    if findings:
        raise AuditFailed(f"{output.count(len(findings), 'thing')} not as it should be")


@command.command("head")
@output_option
@force_option()
@click.option("--json", "as_json", is_flag=True, help="An anchor is JSON anyway.")
@pass_app
def head(app: App, out: Path | None, force: bool, as_json: bool) -> None:
    """Print an anchor: one hash over all evidence so far.

    It is one line of JSON, signed by the installation. Keep it where whoever can write the store cannot.
    `audit verify --anchor` checks against it.
    """
    del as_json
    if out is not None:
        files.check_outputs([out], force=force, protected=protected_paths(app))

    with app.local_server() as server:
        line = encode_anchor(server.anchor())
    if out is None:
        output.data(line)
    else:
        files.write_all([(out, line.encode("ascii") + b"\n")], force=force)


def _owners(store: Store, credential_ids: set[CredentialId]) -> dict[CredentialId, str]:
    """Names as the records have them; an enrolment that was given up has none."""
    owners = {}
    for credential_id in credential_ids - {INSTALLATION_CHAIN}:
        try:
            owners[credential_id] = store.load(credential_id).sealed.record.owner
        except (CredentialUnknown, StoreError):
            continue
    return owners


def _outcome(entry: EvidenceEntry) -> str:
    """The outcome; with their number where the entry is about several refusals, with the act asked for."""
    if entry.event is Event.ASKED:
        acts = {event.number: event.value for event in Event}
        return f"{entry.outcome} {acts.get(entry.x or 0, '?')}"
    several = entry.event is Event.REFUSALS
    return f"{entry.outcome} {output.count(entry.x or 0, 'time')}" if several else entry.outcome


def _whose(chain: CredentialId, owners: dict[CredentialId, str]) -> str:
    """Whose chain it is, for people."""
    if chain == INSTALLATION_CHAIN:
        return "(installation)"
    return owners.get(chain) or chain.hex()


def _entry(number: int, entry: EvidenceEntry, owners: dict[CredentialId, str]) -> dict[str, Any]:
    """As the service has it, with the user's name and the hash that the next entry holds."""

    described: dict[str, Any] = json_codec.to_json(NumberedEntry.of(number, entry))
    return {**described, "owner": owners.get(entry.credential_id), "hash": entry_hash(entry).hex()}


def _summary(report: AuditReport, *, anchored: bool, good: bool) -> str:
    counted = ", ".join(
        output.count(number, noun)
        for number, noun in (
            (report.records, "record"),
            (report.chains, "chain"),
            (report.entries, "entry"),
            (report.signatures, "signature"),
        )
    )
    unchecked = f"; {output.count(report.unchecked, 'signature')} not checkable" if report.unchecked else ""
    old = f"; {output.count(report.at_sealing_1, 'record')} still at sealing 1" if report.at_sealing_1 else ""
    verdict = "all good" if good else "not all good"
    return f"checked {counted}{', the anchor' if anchored else ''}{unchecked}{old}: {verdict}"
