"""`hsm-signer authorise`: what the card does for a signature, without a server; `submit` does the rest."""

from __future__ import annotations

from pathlib import Path

import click

from hsm_signer.card.commands import authorise_content
from hsm_signer.config.files import PRIVATE
from hsm_signer.core.algorithms import key_spec_of, load_public_pem
from hsm_signer.errors import CardMismatch
from hsm_signer.types import (
    Algorithm,
    Authorisation,
    Challenge,
    Scheme,
    SpkiDer,
)
from hsm_signer.workstation import offline
from hsm_signer.workstation.signing import card_credential

from . import files, output
from .choices import algorithm_option
from .context import App, card_option, pass_app
from .options import PATH, check_hash_on, files_argument, force_option, hash_on_option, json_option
from .progress import Progress
from .protected_files import protected_paths
from .secret_input import card_pin, pin_file_option
from .signing import ContentForCard, pin_for_card, prepare

MAX_PEM = 65536


@click.command("authorise")
@files_argument
@card_option
@click.option(
    "-o", "--output", "out", type=PATH, required=True, metavar="OUT", help="The request's file, JSON."
)
@algorithm_option("Needed without --public-key, for the card does not know its key.")
@click.option(
    "--public-key",
    type=PATH,
    metavar="PEM",
    help="File with the credential's public key, which tells the algorithm.",
)
@hash_on_option("every byte goes through the card, and into OUT")
@pin_file_option
@force_option()
@json_option
@pass_app
def command(
    app: App,
    file: tuple[Path, ...],
    card: str,
    out: Path,
    algorithm: str | None,
    public_key: Path | None,
    hash_on: str,
    pin_file: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Have CARD authorise FILEs now; `submit` has them signed later.

    It needs neither a server nor an installation. For cards of schemes pin and basic: one of scheme rolling
    needs the server's challenge. Several FILEs are one batch under one authorisation.

    Keep OUT like a key: it stays good until it is submitted or the credential is suspended or revoked, and in
    scheme basic it holds the card's own key, closed by nothing but its file's mode, which is 0600.
    """
    check_hash_on(hash_on, file)
    if (algorithm is None) == (public_key is None):
        raise click.UsageError("Give either --algorithm or --public-key.")

    inputs = files.look_at_all(file)
    protected = protected_paths(app, card, the_file_of_the_PIN=pin_file, the_public_key=public_key)
    files.check_outputs([out], force=force, inputs=inputs, protected=protected)
    chosen = _algorithm(algorithm, public_key)
    with Progress() as progress:
        up_to = app.card_settings_or_default().hash_on_card_up_to
        prepared = prepare(inputs, chosen, hash_on, up_to, progress, keep_up_to=offline.MAX_MESSAGE)
        # What cannot be kept is said before the card is asked.
        names = tuple(file.path.name for file in inputs)
        offline.check_names(names)
        authorisation = _authorise(app, card, prepared, chosen, pin_file, progress)
    request = offline.encode(authorisation, prepared.content, names)
    files.write_all([(out, request)], force=force, mode=PRIVATE)
    if as_json:
        output.json_data(
            {
                "request": str(out),
                "credential_id": authorisation.credential_id.hex(),
                "algorithm": chosen.value,
                "files": list(names),
            }
        )
    else:
        output.data(str(out))
        output.say(f"{output.count(len(names), 'file')} authorised; hsm-signer submit has it signed.")


def _algorithm(name: str | None, public_key: Path | None) -> Algorithm:
    if name is not None:
        return Algorithm.named(name)
    assert public_key is not None
    pem = files.read_bounded(public_key, MAX_PEM, "public key")
    return key_spec_of(load_public_pem(pem)).default_algorithm


def _authorise(
    app: App,
    card: str,
    prepared: ContentForCard,
    algorithm: Algorithm,
    pin_file: Path | None,
    progress: Progress,
) -> Authorisation:
    pin = card_pin(pin_file, before_prompt=progress.done)
    with app.card_opener(card)() as session:
        credential_id = card_credential(session)
        scheme = session.status().scheme
        if scheme is None or scheme is Scheme.ROLLING:
            raise CardMismatch(
                "a card of scheme rolling needs the server's challenge: nothing can be authorised in advance",
                hint="hsm-signer sign asks card and server together",
            )
        challenge = Challenge(credential_id, scheme, None, (), (algorithm,), SpkiDer(b""))
        at_keypad = pin.wanted_at_keypad(session)
        with pin_for_card(pin, prepared.size, progress, at_keypad=at_keypad) as ask_pin:
            return authorise_content(session, challenge, prepared.content, algorithm, ask_pin, progress.step)
