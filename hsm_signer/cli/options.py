"""Options that more than one command takes, and values that are refused in our own words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from hsm_signer.errors import InputError


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


F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
files_argument = click.argument("file", nargs=-1, required=True, type=PATH, metavar="FILE...")
output_option = click.option(
    "-o", "--output", "out", type=PATH, metavar="OUT", help="Default: standard output."
)
"""Where one text goes that is printed otherwise."""


def force_option(what: str = "OUT") -> Callable[[F], F]:
    """--force; ``what`` it lets a command overwrite."""
    return click.option("-f", "--force", is_flag=True, help=f"Overwrite {what}.")


def hash_on_option(through_card: str = "every byte goes through the card") -> Callable[[F], F]:
    """--hash-on; ``through_card``: where the bytes go that the card hashes. See :func:`check_hash_on`."""
    return click.option(
        "--hash-on",
        type=click.Choice(("card", "host", "auto")),
        default="auto",
        show_default=True,
        help=f"card: {through_card}. host: the card authorises the digest. auto: card for one short file.",
    )


def check_hash_on(hash_on: str, files: Sequence[Path]) -> None:
    """Raises click's UsageError where the card would have to hash several files."""
    if hash_on == "card" and len(files) > 1:
        raise click.UsageError("--hash-on card hashes one FILE; a batch is authorised by its digests.")
