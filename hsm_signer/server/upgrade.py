"""`hsm-signer store upgrade`: an installation of an older version becomes one of this version.

Three steps, each of which may be killed and done again: the schema, in one transaction; the evidence, which
gets a MAC for each entry, and with it the installation's own record; config.toml, at last. Once config.toml
names the installation nothing is sealed afterwards any more: whoever writes the database cannot have a
forgery sealed by asking for an upgrade.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from hsm_signer.config import installation as configuration
from hsm_signer.config.files import write_whole
from hsm_signer.config.home import current_actor
from hsm_signer.config.installation import CONFIG_FILE, FORMAT, Config
from hsm_signer.core.chain_position import client_chain
from hsm_signer.errors import AuditFailed, FileError, os_words
from hsm_signer.evidence.chain import draft_entry
from hsm_signer.evidence.findings import ENTRY_TIME, RECORD_WITHOUT_EVIDENCE, Finding
from hsm_signer.store.snapshot import Snapshot
from hsm_signer.store.store import Store
from hsm_signer.token.seal import TokenSeal
from hsm_signer.types import CredentialId, Event, SealedEntry

from .audit import audit_store
from .base import system_clock
from .client_seal import client_holds, sealed_client
from .installation import AskSecret, Installation, absolute_url
from .installation_record import begin
from .place import place

SEALED_AT_A_TIME = 500
Tell = Callable[[str], None]
Report = Callable[[Finding], None]


def upgrade(
    home: Path,
    ask: AskSecret,
    tell: Tell = lambda _: None,
    report: Report = lambda _: None,
    *,
    leave_damaged: bool = False,
) -> bool:
    """Bring an installation to this version; False if it was there already.

    ``report`` is told what is damaged. ``leave_damaged``: go on all the same; what it is about is refused
    from then on. Raises AuditFailed without it, and whatever configuration, token and store refuse.
    """
    installation = Installation.open(home, older=True)
    config = installation.config
    Store.upgrade(absolute_url(config.store.url, home), busy_timeout=config.store.busy_timeout)
    if config.format == FORMAT:
        return False
    assert config.token.master_key is not None
    assert config.token.record_key is not None
    with installation.open_store() as store, installation.open_token(ask, read_write=True) as session:
        seal = TokenSeal(session, bytes.fromhex(config.token.record_key))
        stored = store.installation()
        if stored is not None:
            # Killed before config.toml was written.
            sealed = stored.sealed
            seal.check_installation(sealed)
        else:
            tell("checking all evidence and sealing it")
            _seal_evidence(store, seal, report, leave_damaged=leave_damaged)
            _chain_clients(store, seal)
            tell("making the identity key")
            sealed = begin(
                session,
                installation.profile(session),
                store,
                mk_id=bytes.fromhex(config.token.master_key),
                record_key_id=seal.record_key_id,
                actor=current_actor(),
                time=system_clock(),
            )
    _write_config(home / CONFIG_FILE, config, sealed.record.installation_id.hex())
    return True


def _seal_evidence(store: Store, seal: TokenSeal, report: Report, *, leave_damaged: bool) -> None:
    """Give every entry its MAC, once its whole chain is known to be good. Raises AuditFailed."""
    # One moment for the check and for what is sealed: nothing can come in between.
    with store.snapshot() as snapshot:
        found = audit_store(snapshot, seal, entry_holds=lambda entry: _unsealed_or_ours(seal, entry))
        chainless = {client_chain(row.name) for row in snapshot.clients(lambda _: None) if not row.version}
        # A clock that was set back is no damage, nor is a client that gets its chain only now.
        findings = [
            finding
            for finding in found.findings
            if finding.code != ENTRY_TIME
            and not (finding.code == RECORD_WITHOUT_EVIDENCE and finding.credential_id in chainless)
        ]
        for finding in findings:
            report(finding)
        if findings and not leave_damaged:
            raise AuditFailed(
                "the evidence is not as it was written; the upgrade is not finished",
                hint="restore the newest backup; with --leave-damaged the upgrade goes on without it",
            )
        damaged = {finding.credential_id for finding in findings}
        for some in _batches(_without_mac(snapshot, damaged), SEALED_AT_A_TIME):
            store.seal_entries([seal.seal_entry(sealed.entry) for sealed in some])


def _chain_clients(store: Store, seal: TokenSeal) -> None:
    """Give every client of the service a chain; what is damaged is left for the audit to find."""
    with store.snapshot() as snapshot:
        rows = list(snapshot.clients(lambda _: None))
    for row in rows:
        if row.version or not client_holds(seal, row):
            continue
        with store.changing_client(row.name) as change:
            chain = client_chain(row.name)
            version = change.version + 1
            draft = draft_entry(chain, Event.CLIENT_ADDED, actor=current_actor(), record_version=version)
            entry = place(seal, draft, change.position, time=system_clock())
            change.replace(sealed_client(seal, row, entry), entry)


def _unsealed_or_ours(seal: TokenSeal, sealed: SealedEntry) -> bool:
    """Whether an entry may be sealed, or was by a run that was killed."""
    return sealed.mac is None or seal.seal_entry(sealed.entry).mac == sealed.mac


def _without_mac(snapshot: Snapshot, damaged: set[CredentialId | None]) -> Iterator[SealedEntry]:
    # What cannot be read is among the damaged; here it only has to be passed over.
    for sealed in snapshot.chains(lambda _: None):
        if sealed.mac is None and sealed.entry.credential_id not in damaged:
            yield sealed


def _batches(items: Iterable[SealedEntry], size: int) -> Iterator[list[SealedEntry]]:
    source = iter(items)
    while some := list(islice(source, size)):
        yield some


def _write_config(path: Path, config: Config, installation_id: str) -> None:
    """Write config.toml in today's format, with the operator's comments where that can be done."""
    token = msgspec.structs.replace(config.token, master_key=None, record_key=None)
    wanted = msgspec.structs.replace(config, format=FORMAT, installation=installation_id, token=token)
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not re.match(r"\s*(master_key|record_key)\s*=", line)]
        text = re.sub(
            r"(?m)^\s*format\s*=.*$", f'format = {FORMAT}\ninstallation = "{installation_id}"', "".join(kept)
        )
        if not configuration.says(text, wanted):
            text = configuration.dump(wanted)
        write_whole(path, text.encode("utf-8"))
    except OSError as error:
        raise FileError(f"{path}: {os_words(error)}") from error
