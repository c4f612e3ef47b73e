"""`hsm-signer verify`: needs no card, and with --public-key no installation either."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import click

from hsm_signer.core.algorithms import holds, load_public_pem, verifiers
from hsm_signer.core.content import FileSource, digests_of
from hsm_signer.errors import AlgorithmUnsuitable, InputError, SignatureInvalid
from hsm_signer.types import Algorithm, SpkiDer
from hsm_signer.workstation.servers import AnyCredential

from . import files, output
from .choices import algorithm_option
from .context import App, pass_app
from .options import PATH, TEXT, json_option
from .progress import Progress
from .user_argument import records_of

MAX_SIGNATURE = 4096
"""Bytes; RSA of 16384 bits has 2048."""
MAX_PEM = 65536


OTHER_KEYS = (
    (b"BEGIN CERTIFICATE REQUEST", "a certificate request", "openssl req -in {} -pubkey -noout"),
    (b"BEGIN CERTIFICATE", "a certificate", "openssl x509 -in {} -pubkey -noout"),
    (b"BEGIN RSA PUBLIC KEY", "an RSA key of another form", "openssl rsa -RSAPublicKey_in -in {} -pubout"),
    (b"BEGIN RSA PRIVATE KEY", "a private key", "openssl pkey -in {} -pubout"),
    (b"BEGIN EC PRIVATE KEY", "a private key", "openssl pkey -in {} -pubout"),
    (b"BEGIN PRIVATE KEY", "a private key", "openssl pkey -in {} -pubout"),
    (b"BEGIN ENCRYPTED PRIVATE KEY", "a private key", "openssl pkey -in {} -pubout"),
    (b"ssh-", "an SSH key", "ssh-keygen -e -m PKCS8 -f {}"),
    (b"ecdsa-sha2-", "an SSH key", "ssh-keygen -e -m PKCS8 -f {}"),
    (
        b"\x30",
        "DER",
        "openssl pkey -pubin -inform DER -in {0} (of a certificate: openssl x509 -inform DER -in {0} -pubkey "
        "-noout)",
    ),
)
"""How a file begins, or which PEM block it has; what that is; what makes of it what we read."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    spki: SpkiDer
    record: AnyCredential | None
    """None for a public key from a file."""


@click.command("verify")
@click.argument("file", type=PATH, metavar="FILE")
@click.option("--signature", type=PATH, required=True, metavar="SIG", help="The signature's file.")
@click.option(
    "--user", type=TEXT, metavar="USER", help="Whose signature it should be: name or credential id."
)
@click.option("--public-key", type=PATH, metavar="PEM", help="File with a public key (BEGIN PUBLIC KEY).")
@algorithm_option("Take only this one. Default: every one that fits the key.")
@json_option
@pass_app
def command(
    app: App,
    file: Path,
    signature: Path,
    user: str | None,
    public_key: Path | None,
    algorithm: str | None,
    as_json: bool,
) -> None:
    """Verify FILE's signature under a user's key, or under a public key from a file.

    A user's revoked keys count as well: what they signed stays signed. Exit status 7 if the signature is not
    one of this file.
    """
    if (user is None) == (public_key is None):
        raise click.UsageError("Give either --user or --public-key.")

    message = files.look_at(file)
    signed = files.read_bounded(signature, MAX_SIGNATURE, "signature")
    candidates = _from_file(public_key) if public_key is not None else _of_user(app, user or "")
    accepted = tuple(Algorithm) if algorithm is None else (Algorithm.named(algorithm),)
    checks = [
        (candidate, fitting, verify)
        for candidate in candidates
        for fitting, verify in verifiers(candidate.spki).items()
        if fitting in accepted
    ]
    if not checks:
        raise AlgorithmUnsuitable(f"{algorithm} does not fit the key")
    with Progress() as progress:
        progress.start("Hashing", message.size)
        digests = digests_of(
            FileSource(message.path), {fitting.hash for _, fitting, _ in checks}, progress.step
        )
    for candidate, fitting, verify in checks:
        if holds(verify, digests[fitting.hash], signed):
            _show_good(file, signature, candidate.record, fitting, as_json=as_json)
            return
    whose = f"user {user!r}" if public_key is None else f"the key in {public_key}"
    raise SignatureInvalid(f"{signature} is not a signature of {file} by {whose}")


def _from_file(public_key: Path) -> list[_Candidate]:
    content = files.read_bounded(public_key, MAX_PEM, "public key")
    try:
        return [_Candidate(load_public_pem(content), None)]
    except InputError as error:
        for mark, what, making in OTHER_KEYS:
            if content.startswith(mark) or (mark.startswith(b"BEGIN") and b"-----" + mark in content):
                name = shlex.quote(str(public_key))
                output.add_hint(error, f"this is {what}; {making.format(name)} prints the public key")
                break
        raise


def _of_user(app: App, user: str) -> list[_Candidate]:
    with app.local_server() as server:
        return [_Candidate(record.spki, record) for record in records_of(server, user)]


def _show_good(
    file: Path, signature: Path, record: AnyCredential | None, algorithm: Algorithm, *, as_json: bool
) -> None:
    status = None if record is None else record.status.value
    if as_json:
        output.json_data(
            {
                "file": str(file),
                "signature": str(signature),
                "valid": True,
                "algorithm": algorithm.value,
                "owner": None if record is None else record.owner,
                "credential_id": None if record is None else record.credential_id.hex(),
                "credential_status": status,
            }
        )
        return
    by = "" if record is None else f" by {record.owner}"
    output.data(output.printable(f"{file}: good signature{by} ({algorithm.value})"))
    if status not in (None, "active"):
        output.warn(f"the credential is {status} now; whether it was when this was signed the evidence tells")
