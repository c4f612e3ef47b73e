"""`hsm-signer serve`."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click
import msgspec

from hsm_signer.config import installation as config
from hsm_signer.config import service as settings
from hsm_signer.config.home import resolve_home
from hsm_signer.errors import ConfigError, InputError
from hsm_signer.service import supervisor

from .context import App, pass_app
from .options import PATH, TEXT

PARTS = ("all", "front", "workers")
MAX_PORT = 65535


@click.command("serve")
@click.option("--bind", type=TEXT, metavar="HOST:PORT", help="Where to listen, in place of the settings'.")
@click.option(
    "--workers", type=click.IntRange(1, 256), metavar="N", help="How many workers, in place of the settings'."
)
@click.option(
    "--part",
    type=click.Choice(PARTS),
    default="all",
    show_default=True,
    help="The front alone, the workers alone, or both.",
)
@click.option("--settings", "settings_file", type=PATH, metavar="FILE", help="Default: HOME/service.toml.")
@pass_app
def command(app: App, bind: str | None, workers: int | None, part: str, settings_file: Path | None) -> None:
    """Run the signing service until SIGTERM or Control-C; logs go to standard error, one JSON object a line.

    At a terminal the lines are words. SIGHUP has it read its certificate and key again. Where front and
    workers are different system users they are started by root, or each part by its own user.
    """
    home = None
    if part != "front" or settings_file is None:
        home = resolve_home(app.home)
    if settings_file is None and home is not None:
        settings_file = home / settings.SETTINGS_FILE
    elif settings_file is None or not settings_file.is_file():
        raise ConfigError(f"--settings: there is no file {settings_file}")
    chosen = settings.load(settings_file)
    if workers is not None:
        chosen = msgspec.structs.replace(chosen, worker=msgspec.structs.replace(chosen.worker, count=workers))
    check_bind(chosen.bind, "bind")
    more: tuple[str, ...] = ()
    if bind is not None:
        check_bind(bind, "--bind")
        more += ("--bind", bind)
    if part != "front":
        _check_home(app, chosen.worker.user)
    status = supervisor.run(home, settings_file, chosen, part, front_arguments=more)
    sys.exit(status)


def _check_home(app: App, user: str | None) -> None:
    """What can be said before anything starts. Raises NotInitialised, ConfigError."""
    if user is not None and os.geteuid() == 0:
        config.load(resolve_home(app.home))  # another user's: the workers look whether others can write there
    else:
        app.installation()


def check_bind(text: str, what: str) -> None:
    """HOST:PORT or [ADDRESS]:PORT. Raises InputError."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    good = bool(host) and (":" not in host or bracketed)
    if not good or re.fullmatch("[0-9]{1,5}", port) is None or int(port) > MAX_PORT:
        raise InputError(f"{what}: expected HOST:PORT or [ADDRESS]:PORT, got {text!r}")
