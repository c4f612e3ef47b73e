"""`hsm-signer init`."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import click

from hsm_signer.config.home import resolve_home
from hsm_signer.errors import InputError

from . import output
from .context import App, pass_app
from .options import PATH, TEXT
from .secret_input import ask_token_pin


@click.command("init")
@click.option(
    "--module",
    type=TEXT,
    metavar="PATH",
    help="PKCS#11 module of a token that exists. Without it a SoftHSM2 token is made, for trials.",
)
@click.option("--token-label", type=TEXT, metavar="L", help="The token's label.")
@click.option("--token-pin-file", type=PATH, metavar="FILE", help="The token's user PIN; FILE stays in use.")
@click.option("--softhsm-conf", type=PATH, metavar="FILE", help="SoftHSM2 settings to start from.")
@click.option(
    "--store-url", type=TEXT, metavar="URL", help="Where to make the store. Default: sqlite:///store.db."
)
@click.option(
    "--accept-weak-token",
    is_flag=True,
    help="Take a token that does not enforce what keeps keys inside it, for trials.",
)
@pass_app
def command(
    app: App,
    module: str | None,
    token_label: str | None,
    token_pin_file: Path | None,
    softhsm_conf: Path | None,
    store_url: str | None,
    accept_weak_token: bool,
) -> None:
    """Make an installation in --home: master key and record key on the token, store, config.toml.

    The folder must not exist yet, or be empty. The keys made on the token never leave it: without a backup
    of the token all credentials are lost with it.
    """
    if module is not None and softhsm_conf is not None:
        raise click.UsageError("--softhsm-conf is for the token that is made without --module.")

    from hsm_signer.server.initialise import NewInstallation, initialise

    home = resolve_home(app.home)
    _refuse_odd(home, "the installation's folder")
    if token_pin_file is not None:
        if token_pin_file == Path("-"):
            raise InputError("--token-pin-file: expected a file that stays, not standard input")
        try:
            token_pin_file = token_pin_file.expanduser()
        except RuntimeError as error:
            raise InputError(f"--token-pin-file: {error}") from error
        _refuse_odd(token_pin_file.absolute(), "--token-pin-file")
    config = initialise(
        NewInstallation(
            home=home,
            module=module,
            token_label=token_label,
            token_pin_file=token_pin_file,
            softhsm_conf=softhsm_conf,
            store_url=store_url,
            accept_weak_token=accept_weak_token,
        ),
        ask_token_pin,
        tell=output.say,
    )
    output.say(f"The installation is in {home}; its token is {config.token.uri.partition('?')[0]}")
    if module is None:
        output.say("SoftHSM2 keeps its keys in files, for whoever reads this folder: for trials only.")
    output.say("Next:")
    output.say("  hsm-signer doctor                             shows what this token can do")
    output.say("  hsm-signer card new sim:alice.card            makes a simulated card")
    output.say("  hsm-signer enrol alice --card sim:alice.card  gives it control of a new key")


def _refuse_odd(path: Path, what: str) -> None:
    """SoftHSM2's settings and a PKCS#11 URI hold paths as text, one to a line."""
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in str(path)):
        raise InputError(
            f"{what} {path}: expected a path in UTF-8 without control characters",
            hint="take another name",
        )
