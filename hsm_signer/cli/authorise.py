"""`hsm-signer authorise`: what the card does for a signature, without a server; `submit` does the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsm_signer.errors import AlgorithmUnsuitable, CardMismatch

from . import files, output
from .choices import ALGORITHMS, ALGORITHMS_IN_SHORT, choice
from .context import (
    App,
    card_option,
    pass_app,
)
from .files import Input
from .options import (
    PATH,
    json_option,
)
from .progress import WORTH_SHOWING_ON_CARD, Progress
from .secret_input import card_pin, pin_file_option
from .signing import prepare

if TYPE_CHECKING:
    from hsm_signer.types import Algorithm, Authorisation, Content

MAX_PEM = 65536


@click.command("authorise")
@click.argument("file", nargs=-1, required=True, type=PATH, metavar="FILE...")
@card_option
@click.option(
    "-o", "--output", "out", type=PATH, required=True, metavar="OUT", help="The request's file, JSON."
)
@click.option(
    "--algorithm",
    type=choice(ALGORITHMS),
    metavar="NAME",
    help=f"Needed without --public-key, for the card does not know its key. {ALGORITHMS_IN_SHORT}.",
)
@click.option(
    "--public-key",
    type=PATH,
    metavar="PEM",
    help="File with the credential's public key, which tells the algorithm.",
)
@click.option(
    "--hash-on",
    type=choice(("card", "host", "auto")),
    default="auto",
    show_default=True,
    help="card: every byte goes through the card, and into OUT. host: the card authorises the digest. auto: "
    "card for one short file.",
)
@pin_file_option
@click.option("-f", "--force", is_flag=True, help="Overwrite OUT.")
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
    if hash_on == "card" and len(file) > 1:
        raise click.UsageError("--hash-on card hashes one FILE; a batch is authorised by its digests.")
    if (algorithm is None) == (public_key is None):
        raise click.UsageError("Give either --algorithm or --public-key.")

    from hsm_signer.workstation import offline

    from .protected_files import kept

    inputs = files.look_at_all(file)
    read = kept(app, card, the_file_of_the_PIN=pin_file, the_public_key=public_key)
    files.check_outputs([out], force=force, inputs=inputs, kept=read)
    chosen = _algorithm(algorithm, public_key)
    with Progress() as progress:
        content = _content(app, inputs, chosen, hash_on, progress)
        # What cannot be kept is said before the card is asked.
        names = tuple(each.path.name for each in inputs)
        offline.check_names(names)
        authorisation = _authorise(app, card, content, chosen, pin_file, progress)
    request = offline.encode(authorisation, content, names)
    files.write_all([(out, request)], force=force, mode=files.PRIVATE)
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
    from hsm_signer.core.algorithms import key_spec_of, load_public_pem
    from hsm_signer.types import Algorithm

    if name is not None:
        return Algorithm.named(name)
    assert public_key is not None
    pem = files.read_bounded(public_key, MAX_PEM, "public key")
    return key_spec_of(load_public_pem(pem)).default_algorithm


def _content(
    app: App, inputs: Sequence[Input], algorithm: Algorithm, hash_on: str, progress: Progress
) -> Content:
    """Read once, and small enough where it goes into the request whole."""
    from hsm_signer.core.content import BytesSource
    from hsm_signer.types import Message
    from hsm_signer.workstation.offline import MAX_MESSAGE

    if algorithm.hash is None and (len(inputs) > 1 or hash_on == "host"):
        raise AlgorithmUnsuitable(f"{algorithm.value} signs one whole FILE, hashed by the card")
    up_to = app.card_settings_or_default().hash_on_card_up_to
    if hash_on == "card" or algorithm.hash is None or (hash_on == "auto" and len(inputs) == 1):
        whole = hash_on == "card" or algorithm.hash is None
        if whole or inputs[0].size <= min(up_to, MAX_MESSAGE):
            message = files.read_bounded(inputs[0].path, MAX_MESSAGE, "message of a request")
            return Message(BytesSource(message))
    return prepare(inputs, algorithm, "host", 0, progress).content


def _authorise(
    app: App, card: str, content: Content, algorithm: Algorithm, pin_file: Path | None, progress: Progress
) -> Authorisation:
    from hsm_signer.card.commands import authorise_content
    from hsm_signer.types import Challenge, DigestList, Scheme, SpkiDer
    from hsm_signer.workstation.signing import card_credential

    pin = card_pin(pin_file, before_prompt=progress.done)
    with app.card_opener(card)() as session:
        credential_id = card_credential(session)
        scheme = session.status().scheme
        if scheme is None or scheme is Scheme.ROLLING:
            raise CardMismatch(
                "a card of scheme rolling needs the server's challenge: nothing can be authorised in advance",
                hint="hsm-signer sign asks card and server together",
            )
        at_keypad = not pin.given and session.keypad is not None
        if at_keypad:
            output.say("If the reader asks for the card's PIN, type it there.")
        whole = content.digests if isinstance(content, DigestList) else content.source.chunks()
        size = sum(map(len, whole))
        progress.start("Card", size, worth=WORTH_SHOWING_ON_CARD)
        with pin.blamed():
            return authorise_content(
                session,
                Challenge(credential_id, scheme, None, (), (algorithm,), SpkiDer(b"")),
                content,
                algorithm,
                pin if pin.available and not at_keypad else None,
                progress.step,
            )
