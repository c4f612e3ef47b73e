"""`hsm-signer sign`: files in, signatures out; one file or a batch under one authorisation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from hsm_signer.card.pins import CardPin
from hsm_signer.core.algorithms import key_spec_of
from hsm_signer.core.content import BytesSource, FileSource, file_digest
from hsm_signer.errors import AlgorithmNotAllowed, AlgorithmUnsuitable, FileError, InputError, SignerError
from hsm_signer.types import Algorithm, Content, DigestList, HashName, Message, SignOutcome
from hsm_signer.workstation.signing import AskPin, card_credential, sign_content

from . import files, output
from .choices import algorithm_option
from .context import App, card_option, pass_app, service_options
from .files import Input
from .options import PATH, check_hash_on, files_argument, force_option, hash_on_option, json_option
from .progress import WORTH_SHOWING_ON_CARD, Progress
from .protected_files import protected_paths
from .secret_input import Secret, card_pin, pin_file_option

SUFFIX = ".sig"
STDOUT = Path("-")


@click.command("sign")
@files_argument
@card_option
@click.option(
    "-o",
    "--output",
    "out",
    type=PATH,
    metavar="OUT",
    help="The signature's file, or a folder; - is standard output. Default: FILE.sig beside each FILE.",
)
@algorithm_option("Default: the one that suits the key.")
@hash_on_option()
@pin_file_option
@force_option("signatures that are there")
@service_options
@json_option
@pass_app
def command(
    app: App,
    file: tuple[Path, ...],
    card: str,
    out: Path | None,
    algorithm: str | None,
    hash_on: str,
    pin_file: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Sign files with the key that CARD controls.

    A reader with a keypad asks for the PIN itself, unless --pin-file or the variable gives it.
    Several FILEs are one batch: one PIN, one authorisation over the list of their digests. The signatures'
    paths go to standard output, one a line. ECDSA signatures are DER, as openssl verifies them.
    """
    check_hash_on(hash_on, file)
    if as_json and out == STDOUT:
        raise click.UsageError("--json and -o - both want standard output.")

    inputs = files.look_at_all(file)
    outputs = _outputs(file, out)

    files.check_outputs(
        [path for path in outputs if path != STDOUT],
        force=force,
        inputs=inputs,
        protected=protected_paths(app, card, the_file_of_the_PIN=pin_file),
        what="two signatures",
    )
    output.check_stdout(read=outputs == [STDOUT])
    with Progress() as progress:
        outcome = _sign(app, inputs, card, algorithm, hash_on, pin_file, progress)
    hand_over(outcome, [str(file.path) for file in inputs], outputs, force=force, as_json=as_json)


def hand_over(
    outcome: SignOutcome, names: Sequence[str], outputs: Sequence[Path], *, force: bool, as_json: bool
) -> None:
    """Write the signatures and say where they are. ``names``: what was signed, in the same order."""
    if outcome.failures_before:
        guesses = output.count(outcome.failures_before, "wrong PIN")
        output.warn(
            f"since the signature before this one the server counted {guesses} that the card could not tell; "
            "if they were not yours, somebody may have a copy of the card: have the credential suspended"
        )

    done = f"the signing itself is done and in the evidence: {outcome.d.hex()}"
    if list(outputs) == [STDOUT]:
        try:
            output.binary(outcome.signatures[0])
        except FileError as error:
            error.hint = f"{done}\nthe signature was not written"
            raise
        return
    try:
        files.write_all(list(zip(outputs, outcome.signatures, strict=True)), force=force)
    except SignerError as error:
        output.add_hint(error, done)
        raise
    try:
        _show(names, outputs, outcome, as_json=as_json)
    except FileError as error:
        raise FileError(f"{error.message}; written was: {', '.join(map(str, outputs))}", hint=done) from error


def _show(names: Sequence[str], outputs: Sequence[Path], outcome: SignOutcome, *, as_json: bool) -> None:
    if as_json:
        from hsm_signer.core import json_codec

        # The signatures are in the files.
        described = json_codec.to_json(outcome)
        del described["signatures"]
        output.json_data(
            [
                {
                    "file": name,
                    "signature": str(path),
                    **described,
                }
                for name, path in zip(names, outputs, strict=True)
            ]
        )
    else:
        output.data("\n".join(map(str, outputs)))


def _outputs(paths: Sequence[Path], out: Path | None) -> list[Path]:
    """Name the file of each signature."""
    beside = [path.with_name(path.name + SUFFIX) for path in paths]
    if out is None:
        return beside
    if out == STDOUT:
        if len(paths) > 1:
            raise click.UsageError("-o - takes the signature of one FILE.")
        if sys.stdout is not None and sys.stdout.isatty():
            raise InputError(
                "a signature is binary and would garble the terminal", hint="-o FILE, or pipe it: -o - | ..."
            )
        return [STDOUT]
    if out.is_dir():
        return [out / path.name for path in beside]
    if len(paths) > 1:
        raise InputError(f"{out}: for several files -o names a folder that is there")
    return [out]


@dataclass(frozen=True, slots=True)
class ContentForCard:
    """The content that the card is asked to authorise."""

    content: Content
    size: int
    """Bytes that go to the card."""


def _sign(
    app: App,
    inputs: Sequence[Input],
    card: str,
    algorithm_name: str | None,
    hash_on: str,
    pin_file: Path | None,
    progress: Progress,
) -> SignOutcome:
    installation = app.here()
    open_card = app.card_opener(card, installation)
    pin = card_pin(pin_file, before_prompt=progress.done)
    with open_card() as session:
        credential_id = card_credential(session)
        at_keypad = pin.wanted_at_keypad(session)
    with app.server(installation) as server:
        # The card is not held while the host hashes: that may take long.
        challenge = server.challenge(credential_id)
        algorithm = (
            key_spec_of(challenge.spki).default_algorithm
            if algorithm_name is None
            else Algorithm.named(algorithm_name)
        )
        _refuse_other_key(algorithm, challenge.algorithms)
        on_card_up_to = app.card_settings(installation).hash_on_card_up_to
        prepared = prepare(inputs, algorithm, hash_on, on_card_up_to, progress)
        with pin_for_card(pin, prepared.size, progress, at_keypad=at_keypad) as ask_pin:
            return sign_content(
                server,
                open_card,
                prepared.content,
                algorithm=algorithm,
                ask_pin=ask_pin,
                progress=progress.step,
            )


@contextmanager
def pin_for_card(
    pin: Secret[CardPin], size: int, progress: Progress, *, at_keypad: bool
) -> Iterator[AskPin | None]:
    """What asks for the PIN while the card authorises ``size`` bytes; None where nobody here is to be asked.

    Shows the card's progress; an error about the PIN says where the PIN came from.
    """
    if at_keypad:
        output.say("If the reader asks for the card's PIN, type it there.")
    progress.start("Card", size, worth=WORTH_SHOWING_ON_CARD)
    with pin.blamed():
        yield pin if pin.available and not at_keypad else None


def _refuse_other_key(algorithm: Algorithm, allowed: Sequence[Algorithm]) -> None:
    """Refuse an algorithm that the credential does not have, before hours of hashing."""
    if algorithm not in allowed:
        names = ", ".join(other.value for other in allowed)
        raise AlgorithmNotAllowed(
            f"this credential does not sign with {algorithm.value}", hint=f"it signs with: {names}"
        )


def prepare(
    inputs: Sequence[Input],
    algorithm: Algorithm,
    hash_on: str,
    on_card_up_to: int,
    progress: Progress,
    *,
    keep_up_to: int | None = None,
) -> ContentForCard:
    """Prepare the content for the card: the message, or the digests of all files.

    ``on_card_up_to``: bytes of the longest file that --hash-on auto sends through the card. ``keep_up_to``:
    bytes of the longest message, where it has to be kept whole. Raises AlgorithmUnsuitable, InputError,
    FileError.
    """
    first, hash_name = inputs[0], algorithm.hash
    if hash_name is None and (len(inputs) > 1 or hash_on == "host"):
        raise AlgorithmUnsuitable(f"{algorithm.value} signs one whole FILE, hashed by the card")
    at_once = on_card_up_to if keep_up_to is None else min(on_card_up_to, keep_up_to)
    if hash_on == "auto" and len(inputs) == 1 and first.size <= at_once:
        # Read once: a file that changes between card and server would only be refused.
        message = files.read_bounded(first.path, at_once, "the file has grown")
    elif hash_on != "card" and hash_name is not None:
        return _digests(inputs, hash_name, progress)
    elif keep_up_to is None:
        return ContentForCard(Message(FileSource(first.path)), first.size)
    else:
        message = files.read_bounded(first.path, keep_up_to, "message of a request")
    return ContentForCard(Message(BytesSource(message)), len(message))


def _digests(inputs: Sequence[Input], hash_name: HashName, progress: Progress) -> ContentForCard:
    total = sum(file.size for file in inputs)
    progress.start("Hashing" if len(inputs) == 1 else f"Hashing {len(inputs)} files", total)
    digests = tuple(file_digest(file.path, hash_name, progress.step) for file in inputs)
    return ContentForCard(DigestList(digests), sum(map(len, digests)))
