"""Options that more than one command takes, and values that are refused in our own words."""

from __future__ import annotations

from collections.abc import Callable
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


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")


yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")


F = TypeVar("F", bound=Callable[..., Any])
