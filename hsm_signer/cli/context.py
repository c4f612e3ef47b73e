"""What every command shares: the options before its name, and the way to installation, token and card."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Any name but none at all. click would look whether it can be read, and not say so in our way."""
        if not str(value):
            raise InputError(f"{named(param)}: expected the name of a file or folder, found nothing")
        return Path(value)


class TextOption(click.types.StringParamType):
    """Text in UTF-8: what goes into a database or onto a token cannot be other bytes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raises InputError."""
        try:
            str(value).encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"{named(param)}: expected text in UTF-8") from None
        return str(value)


def named(param: click.Parameter | None) -> str:
    """An option or argument as the command line shows it."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return "argument" if param is None else param.human_readable_name.strip("[].")


PATH = PathOption()
TEXT = TextOption()
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
F = TypeVar("F", bound=Callable[..., Any])


def _set_wait(context: click.Context, _: click.Parameter, seconds: float) -> None:
    context.ensure_object(App).wait = seconds


wait_option = click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=0.0,
    metavar="SECONDS",
    expose_value=False,
    callback=_set_wait,
    help="Wait so long for a card to be put into the reader.",
)
"""Kept in :class:`App`, whose cards are opened accordingly."""


def card_argument(command: F) -> F:
    """CARD, and how long to wait for it."""
    return click.argument("card", metavar="CARD")(wait_option(command))


def card_option(command: F) -> F:
    """The same as an option."""
    option = click.option("--card", required=True, metavar="CARD", help="The card: pcsc:READER or sim:PATH.")
    return option(wait_option(command))


@dataclass
class App:
    """The options before the command's name."""

    home: Path | None = None
    debug: bool = False
    wait: float = 0.0
    """Seconds to wait for a card that is not there yet."""

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
        return partial(open_card, address, timeout=wait, wait=self.wait)


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
            if not error.retryable or error.waited:
                raise
            Pauses().wait(attempt)
    return action()
