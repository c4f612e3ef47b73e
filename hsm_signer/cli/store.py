"""`hsm-signer store`."""

from __future__ import annotations

import click

from . import output
from .context import App, pass_app


@click.group("store")
def command() -> None:
    """The database of records and evidence."""


@command.command("upgrade")
@pass_app
def upgrade(app: App) -> None:
    """Bring the store to this program's version.

    Does nothing where it is there already. Make a backup first, and stop other processes that use the store:
    an older program cannot open it then.
    """
    app.installation().upgrade_store()
    output.say("The store has this program's version.")
