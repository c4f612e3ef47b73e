"""Writes docs/run/commands.md and docs/man/hsm-signer.1 from the commands' own help.

    python scripts/reference.py           write both
    python scripts/reference.py --check   write nothing; exit status 1 if one of them is not current

Variables and exit statuses of the man page come from the tables of docs/run/configuration.md and errors.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from hsm_signer import __version__
from hsm_signer.cli.context import App
from hsm_signer.cli.main import ALIASES, PROGRAM, main

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "run" / "commands.md"
MAN = DOCS / "man" / "hsm-signer.1"
WIDTH = 100
"""Columns of a command's help."""


def commands(group: click.Group, parent: click.Context) -> Iterator[click.Context]:
    """Every command below a group, groups before what is in them."""
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
        yield context
        if isinstance(command, click.Group):
            yield from commands(command, context)


def contexts() -> list[click.Context]:
    """Of the program, and of every command."""
    top = click.Context(
        main, info_name=PROGRAM, obj=App(), **{**main.context_settings, "terminal_width": WIDTH}
    )
    return [top, *commands(main, top)]


# --- the page ----------------------------------------------------------------------------------------------


def page() -> str:
    """docs/run/commands.md."""
    top, *rest = contexts()
    parts = [
        "# Every command\n\n"
        "Made by `make reference` from the commands' own help, which `hsm-signer COMMAND --help` shows.\n\n",
        *(f"- [{name}](#{anchor(name)})\n" for name in (context.command_path for context in rest)),
        f"\n## {PROGRAM}\n\n```text\n{top.get_help()}\n```\n",
        f"\n{spellings()}\n",
    ]
    for context in rest:
        level = "##" if context.parent is top else "###"
        parts.append(f"\n{level} {context.command_path}\n\n```text\n{context.get_help()}\n```\n")
    return "".join(parts)


def anchor(heading: str) -> str:
    """Of a heading, as forges make it."""
    return heading.lower().replace(" ", "-")


def spellings() -> str:
    """One sentence about the aliases."""
    said = ", ".join(f"`{alias}` for `{name}`" for alias, name in ALIASES.items())
    return f"Other spellings are understood: {said}."


# --- the man page ------------------------------------------------------------------------------------------


def man_page() -> str:
    """docs/man/hsm-signer.1, in the macros of man(7)."""
    top, *rest = contexts()
    lines = [
        f'.TH HSM\\-SIGNER 1 "" "hsm\\-signer {__version__}" "User Commands"',
        ".SH NAME",
        f"hsm\\-signer \\- {escaped(summary(top.command).rstrip('.').lower())}",
        ".SH SYNOPSIS",
        ".B hsm\\-signer",
        escaped("[OPTIONS] COMMAND [ARGS]..."),
        ".SH DESCRIPTION",
        *paragraphs(top.command.help or ""),
        *paragraphs(top.command.epilog or ""),
        ".SH OPTIONS",
        *options(top),
        ".SH COMMANDS",
    ]
    for context in rest:
        name = context.command_path.removeprefix(f"{PROGRAM} ")
        usage = " ".join(context.command.collect_usage_pieces(context))
        lines += [f".SS {escaped(name)} {escaped(usage)}", *paragraphs(context.command.help or "")]
        lines += options(context)
    lines += [".SH ENVIRONMENT", *definitions("configuration.md", "| variable | what |")]
    lines += [".SH EXIT STATUS", *definitions("errors.md", "| exit status | what |")]
    lines += [
        ".SH FILES",
        ".TP\n.I ~/.hsm\\-signer",
        "The home folder: configuration, store, and what belongs to them.",
        ".TP\n.I config.toml, service.toml",
        "Its configuration, and the signing service's.",
        ".SH SEE ALSO",
        ".BR openssl\\-dgst (1),",
        ".BR pcscd (8)",
    ]
    return "\n".join(lines) + "\n"


def summary(command: click.Command) -> str:
    """The first sentence of a command's help."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def paragraphs(text: str) -> Iterator[str]:
    """A help text as roff."""
    for paragraph in filter(None, re.split(r"\n\s*\n", text.replace("\f", "\n\n"))):
        yield ".PP"
        yield escaped(" ".join(paragraph.split()))


def options(context: click.Context) -> Iterator[str]:
    """Options of a command as a tagged list; --help is everybody's and is left to the first."""
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        everybodys = "--help" in parameter.opts and context.parent is not None
        if record is None or everybodys or not isinstance(parameter, click.Option):
            continue
        yield f".TP\n.B {escaped(record[0])}"
        yield escaped(record[1])


def definitions(name: str, header: str) -> Iterator[str]:
    """A table of two columns of a page, as a tagged list."""
    lines = (DOCS / "run" / name).read_text(encoding="utf-8").splitlines()
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            return
        term, meaning = (cell.strip().replace("`", "") for cell in line.strip("|").split("|"))
        yield f".TP\n.B {escaped(term)}"
        yield escaped(meaning)


def escaped(text: str) -> str:
    """Text that roff takes for nothing else."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return f"\\&{text}" if text.startswith((".", "\\(aq")) else text


def run(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    made = {PAGE: page(), MAN: man_page()}
    if arguments == ["--check"]:
        stale = [path for path, text in made.items() if not path.exists() or path.read_text("utf-8") != text]
        for path in stale:
            print(f"{path.relative_to(DOCS.parent)} is not current: make reference", file=sys.stderr)
        return 1 if stale else 0
    for path, text in made.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
