"""What every command shares: the options before its name, and the way to installation, token and card."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ..errors import ConfigError, InputError, SignerError

if TYPE_CHECKING:
    from ..card.session import CardSession
    from ..installation import Installation
    from ..server import Server

OpenCard = Callable[[], "AbstractContextManager[CardSession]"]
T = TypeVar("T")

CARD_WAIT = 10.0
"""Seconds to wait for a card that another program holds, where no configuration says otherwise."""


class PathOption(click.Path):
    """A path as it was typed; whether it can be used is said by whoever uses it, as an error of ours."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)


PATH = PathOption()
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
card_argument = click.argument("card", metavar="CARD")
card_option = click.option("--card", required=True, metavar="CARD", help="The card, such as sim:PATH.")


@dataclass
class App:
    """The options before the command's name."""

    home: Path | None = None
    debug: bool = False

    def installation(self) -> Installation:
        """Raises NotInitialised, ConfigError."""
        from ..installation import Installation, resolve_home

        return Installation.open(resolve_home(self.home))

    @contextmanager
    def server(self, installation: Installation | None = None) -> Iterator[Server]:
        """Token and store opened; whoever runs the command is asked for the token's PIN if need be."""
        from .secret_input import ask_token_pin

        with (installation or self.installation()).server(ask_token_pin) as server:
            yield server

    def card_opener(self, address: str, installation: Installation | None = None) -> OpenCard:
        """Opens the card at ``address``; works without an installation, too."""
        from ..card.address import open_card

        wait = CARD_WAIT
        with suppress(ConfigError):  # a card can be looked at, and its PIN changed, anywhere
            wait = (installation or self.installation()).config.card.wait
        return partial(open_card, address, timeout=wait)


pass_app = click.make_pass_decorator(App)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal unless ``yes``. Raises InputError for a no, and where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to ask at", hint="--yes confirms it")
    if not click.confirm(question, err=True):
        raise InputError("not confirmed; nothing was changed")


def retrying(action: Callable[[], T]) -> T:
    """Carry out ``action`` again while it raises something that may pass; the last such error otherwise."""
    from ..workstation import RESUBMISSIONS, Pauses

    for attempt in range(RESUBMISSIONS - 1):
        try:
            return action()
        except SignerError as error:
            if not error.retryable:
                raise
            Pauses().wait(attempt)
    return action()
