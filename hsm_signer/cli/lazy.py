"""A group of commands that imports a command's module only when that command is named.

`hsm-signer --help` is asked often and by people who wait; it must not load a database library to print a
list of words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Entry:
    """One command of the group: where it is, and the line that the group's help shows for it."""

    module: str
    """Of this package; its ``command`` is the command."""
    help: str


class LazyGroup(click.Group):
    """Commands in the order of their table, which also knows their help."""

    def __init__(
        self, *args: Any, entries: Mapping[str, Entry], aliases: Mapping[str, str], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._entries = entries
        self._aliases = aliases

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All but the aliases."""
        return list(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None for an unknown name."""
        entry = self._entries.get(self._aliases.get(cmd_name, cmd_name))
        if entry is None:
            return None
        command: click.Command = import_module(f".{entry.module}", __package__).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A mistyped name is answered with the ones that are like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if like := get_close_matches(args[0], self._entries):
                raise click.UsageError(f"{error.message} Did you mean {' or '.join(like)}?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self._entries.items()])
