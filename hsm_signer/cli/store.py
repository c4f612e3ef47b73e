"""`hsm-signer store`."""

from __future__ import annotations

import click

from hsm_signer.config.home import resolve_home

from . import output
from .context import App, pass_app
from .findings import finding_line
from .secret_input import ask_token_pin


@click.group("store")
def command() -> None:
    """The database of records and evidence."""


@command.command("upgrade")
@click.option(
    "--leave-damaged",
    is_flag=True,
    help="Go on although evidence is damaged; what it is about is refused from then on.",
)
@pass_app
def upgrade(app: App, leave_damaged: bool) -> None:
    """Bring an installation to this program's version.

    Its store, its keys on the token, and config.toml. Does nothing where it is there already. Make a backup
    first, and stop other processes that use the installation: an older program cannot open it then. Killed
    half-way, it goes on when it is run again.
    """
    from hsm_signer.server.upgrade import upgrade as carry_out

    done = carry_out(
        resolve_home(app.home),
        ask_token_pin,
        lambda words: output.say(f"{words} ..."),
        lambda finding: output.say(finding_line(finding)),
        leave_damaged=leave_damaged,
    )
    if done:
        output.say("The installation has this program's version.")
    else:
        output.say("The installation has this program's version already.")
