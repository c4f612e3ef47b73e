"""`hsm-signer credential`: what an operator sees of credentials and does to them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsm_signer.core import json_codec
from hsm_signer.core.algorithms import key_spec_of, spki_pem
from hsm_signer.core.card_origin import assurance_in_words
from hsm_signer.core.certificates import MAX_PEM, from_pem, to_pem
from hsm_signer.errors import CertificateUnsuitable, RecordDamaged, SignerError
from hsm_signer.evidence.findings import Finding
from hsm_signer.types import (
    FAILURES_BEFORE_LOCK,
    CredentialId,
    CredentialRecord,
    CredentialView,
    Event,
    Scheme,
)
from hsm_signer.workstation.retry import retry
from hsm_signer.workstation.servers import AnyCredential

from . import files, output
from .context import App, confirm, pass_app, service_options
from .options import PATH, force_option, json_option, output_option, yes_option
from .protected_files import protected_paths
from .user_argument import record_of, records_of, user_argument

if TYPE_CHECKING:
    from hsm_signer.store.store import Store


@click.group("credential")
def command() -> None:
    """List, show, export, suspend, resume, unlock, revoke; keep certificates.

    USER is a user's name, or a credential id of 32 hexadecimal digits.
    """


@command.command("list")
@service_options
@json_option
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List all credentials, revoked ones included.

    One that cannot be read or whose MAC does not hold is named on standard error, and the exit status is 6.
    """
    damaged: list[Finding] = []
    refused: list[SignerError] = []
    records = _far(app) if app.service() is not None else _near(app, damaged, refused)
    records.sort(key=lambda record: (record.owner, record.status.value == "revoked", record.credential_id))
    if as_json:
        output.json_data([_described(record) for record in records])
    else:
        output.table(
            ("USER", "STATUS", "KEY", "SCHEME", "CREDENTIAL ID"),
            (
                tuple(described[name] for name in ("owner", "status", "key", "scheme", "credential_id"))
                for described in map(_described, records)
            ),
        )
    for finding in damaged:
        output.say(f"error: {output.printable(finding.words)} [{finding.code}]")
    for error in refused:
        output.show_error(error)
    if damaged or refused:
        click.get_current_context().exit(RecordDamaged.exit_status)


def _near(app: App, damaged: list[Finding], refused: list[SignerError]) -> list[AnyCredential]:
    """All that are good; what is wrong with the others goes into the lists."""
    records: list[AnyCredential] = []
    with app.local_server() as server:
        for sealed in server.store.list_records(damaged.append):
            try:
                server.environment.check(sealed)
            except SignerError as error:
                if error.exit_status not in (RecordDamaged.exit_status, 5):
                    raise
                refused.append(error)
            else:
                records.append(sealed.record)
    return records


def _far(app: App) -> list[AnyCredential]:
    """All that the service lets us see."""
    with app.server() as server:
        return list(server.credentials())


@command.command("show")
@user_argument
@service_options
@json_option
@pass_app
def show(app: App, user: str, as_json: bool) -> None:
    """Show everything about a user's credential but its secrets.

    Through a service without what the evidence tells: that is for its auditors.
    """
    with app.server() as server:
        record = record_of(server, user)
        described = _details(record)
        earlier = [
            other for other in records_of(server, record.owner) if other.credential_id != record.credential_id
        ]
    if app.service() is None:
        with app.installation().open_store() as store:
            described |= _evidence(store, record.credential_id)
    if as_json:
        output.json_data({**described, "other_credentials": [_described(other) for other in earlier]})
        return
    words = {**described, "assurance": assurance_in_words(record.assurance)}
    rows = [(name.replace("_", " "), _words(words[name])) for name in SHOWN if name in words]
    rows += [("other", f"{other.credential_id.hex()} ({other.status.value})") for other in earlier]
    output.fields(rows)


@command.command("public-key")
@user_argument
@output_option
@force_option()
@service_options
@pass_app
def public_key(app: App, user: str, out: Path | None, force: bool) -> None:
    """Print a user's public key (PEM), as openssl reads it."""
    _check_output(app, out, force=force)

    with app.server() as server:
        pem = spki_pem(record_of(server, user).spki)
    _put(pem, out, force=force)


def _check_output(app: App, out: Path | None, *, force: bool) -> None:
    if out is not None:
        files.check_outputs([out], force=force, protected=protected_paths(app))


def _put(pem: str, out: Path | None, *, force: bool) -> None:
    if out is None:
        output.data(pem.rstrip())
    else:
        files.write_all([(out, pem.encode("ascii"))], force=force)


@command.command("request")
@user_argument
@output_option
@force_option()
@service_options
@pass_app
def request(app: App, user: str, out: Path | None, force: bool) -> None:
    """Print a user's certificate request (PKCS#10, PEM).

    It is the one that the card had signed at enrolment.
    """
    _check_output(app, out, force=force)
    with app.server() as server:
        pem = server.certification_request(record_of(server, user).credential_id)
    _put(pem, out, force=force)


@command.command("certificate")
@user_argument
@click.option("--import", "source", type=PATH, metavar="PEM", help="Keep this chain: the leaf, then issuers.")
@click.option(
    "--export", "out", type=PATH, metavar="OUT", help="Write the chain to OUT instead of printing it."
)
@click.option("--remove", is_flag=True, help="Keep none any more.")
@force_option()
@service_options
@pass_app
def certificate(
    app: App, user: str, source: Path | None, out: Path | None, remove: bool, force: bool
) -> None:
    """Print, keep or remove a user's certificates (PEM).

    The first must be of the user's key, and each next one the issuer of the one before. Whether anybody
    trusts them is not asked.
    """
    if (source is not None) + (out is not None) + remove > 1:
        raise click.UsageError("Give one of --import, --export and --remove.")
    if source is not None or remove:
        _keep(app, user, source)
        return
    _check_output(app, out, force=force)

    with app.server() as server:
        record = record_of(server, user)
        chain = server.certificates(record.credential_id)
    if not chain:
        raise CertificateUnsuitable(
            f"no certificate is kept for {record.owner!r}",
            hint="hsm-signer credential certificate USER --import PEM keeps one",
        )
    _put(to_pem(chain), out, force=force)


def _keep(app: App, user: str, source: Path | None) -> None:
    """The chain in this file, or none."""
    chain = () if source is None else from_pem(files.read_bounded(source, MAX_PEM, "certificates"))
    with app.server() as server:
        record = record_of(server, user)
        server.set_certificates(record.credential_id, chain)
    kept = f"{output.count(len(chain), 'certificate')} kept" if chain else "No certificate is kept any more"
    output.say(f"{kept} for {output.printable(record.owner)}.")


@command.command("suspend")
@user_argument
@service_options
@json_option
@pass_app
def suspend(app: App, user: str, as_json: bool) -> None:
    """Refuse a user's signatures until `resume`."""
    _change(app, user, Event.SUSPEND, as_json=as_json)


@command.command("resume")
@user_argument
@service_options
@json_option
@pass_app
def resume(app: App, user: str, as_json: bool) -> None:
    """End a suspension; a lock that was there before stays."""
    _change(app, user, Event.RESUME, as_json=as_json)


@command.command("unlock")
@user_argument
@service_options
@json_option
@pass_app
def unlock(app: App, user: str, as_json: bool) -> None:
    """End the lock that wrong PINs brought about.

    Their count begins anew.
    """
    _change(app, user, Event.UNLOCK, as_json=as_json)


@command.command("revoke")
@user_argument
@yes_option
@service_options
@json_option
@pass_app
def revoke(app: App, user: str, yes: bool, as_json: bool) -> None:
    """Delete a user's private key for ever.

    The public key and the evidence stay. It needs no card, and the card becomes useless. The user can be
    enrolled again with another key.
    """
    _change(app, user, Event.REVOKE, as_json=as_json, ask=True, yes=yes)


def _change(
    app: App, user: str, event: Event, *, as_json: bool, ask: bool = False, yes: bool = False
) -> None:
    from hsm_signer.server.credentials import CHANGES

    with app.server() as server:
        record = record_of(server, user)
        if isinstance(record, CredentialRecord):
            CHANGES[event](record)  # what cannot be done is said before anybody is asked
        if ask:
            confirm(
                f"Revoke the credential of {output.printable(record.owner)} "
                f"({record.credential_id.hex()}) for ever?",
                yes=yes,
            )
        changed = retry(lambda: server.change_status(record.credential_id, event))
    if as_json:
        output.json_data(_described(changed))
    else:
        output.say(f"The credential of {output.printable(changed.owner)} is {changed.status.value}.")


def _described(record: AnyCredential) -> dict[str, Any]:
    """As the service has it, and of which kind its key is."""
    described: dict[str, Any] = json_codec.to_json(CredentialView.of(record))
    return {**described, "key": key_spec_of(record.spki).value}


def _details(record: AnyCredential) -> dict[str, Any]:
    """In the order in which an operator reads it."""
    return {
        **_described(record),
        "failures_before_lock": None if record.scheme is Scheme.BASIC else FAILURES_BEFORE_LOCK,
        "public_key_sha256": hashlib.sha256(record.spki).hexdigest(),
    }


def _evidence(store: Store, credential_id: CredentialId) -> dict[str, Any]:
    entries = list(store.entries(credential_id, limit=1))
    first = next((entry for _, entry in store.entries(credential_id)), None)
    return {
        "enrolled": None if first is None else json_codec.time_to_json(first.time),
        "last_evidence": json_codec.time_to_json(entries[-1][1].time) if entries else None,
        "evidence_entries": str(entries[-1][1].sequence) if entries else "0",
    }


SHOWN = (
    "owner",
    "credential_id",
    "status",
    "key",
    "scheme",
    "failures",
    "failures_before_lock",
    "combine",
    "pin_check",
    "pin_policy",
    "algorithms",
    "counter",
    "version",
    "card_serial",
    "token_serial",
    "assurance",
    "public_key_sha256",
    "enrolled",
    "last_evidence",
    "evidence_entries",
)
"""In the order in which an operator reads it; keys and hashes nobody reads are in JSON only."""


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
