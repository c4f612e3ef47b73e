"""The pages for operators say what is so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

import msgspec
import pytest

from hsm_signer.cli.main import INTERRUPTED
from hsm_signer.config import installation as config
from hsm_signer.config import service as settings
from hsm_signer.errors import all_errors
from hsm_signer.service.roles import PERMITTED, Role
from tests.support.commandline import VARIABLES
from tests.support.documents import PAGES, table
from tests.support.people import ROOT

from .test_help import CONTRACT


def _settings(prefix: str, kind: type[msgspec.Struct]) -> Iterator[tuple[str, str, str]]:
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    for field in msgspec.structs.fields(kind):
        inner = field.type
        sections = [each for each in (inner, *get_args(inner)) if isinstance(each, type)]
        if section := next((each for each in sections if issubclass(each, msgspec.Struct)), None):
            yield from _settings(f"{prefix}{field.name}.", section)
            continue
        written = [getattr(each, "__supertype__", each) for each in (inner, *get_args(inner))]
        bare = next(t for t in names if t.__name__ in re.findall(r"\w+", str(written)))
        listed = get_origin(inner) is tuple
        if field.required:
            default = "required"
        elif field.default is None:
            default = "none"
        else:
            default = f'"{field.default}"' if isinstance(field.default, str) else str(field.default).lower()
        if listed:
            yield prefix + field.name, f"list of {names[bare]}s", "[]"
        else:
            yield prefix + field.name, names[bare], default


def test_every_setting_is_in_the_reference() -> None:
    rows = table("| key | type | default | what |", "run/configuration.md", "config.toml")
    assert [tuple(row[:3]) for row in rows] == list(_settings("", config.Config))
    assert all(row[3] for row in rows)


def test_every_setting_of_the_service_is_in_its_reference() -> None:
    rows = table("| key | type | default | what |", "run/configuration.md", "service.toml")
    assert [tuple(row[:3]) for row in rows] == list(_settings("", settings.Settings))
    assert all(row[3] for row in rows)


def test_the_table_of_roles_is_what_workers_go_by() -> None:
    rows = table("| operation | signer | registrar | auditor | admin |", "run/service.md")
    said = {row[0]: {role for role, cell in zip(Role, row[1:], strict=True) if cell} for row in rows}
    assert said == PERMITTED
    assert {row[0] for row in rows if "pending only" in row} == {"challenge", "sign"}


def test_every_variable_is_in_the_reference() -> None:
    assert {row[0] for row in table("| variable | what |", "run/configuration.md")} == set(VARIABLES)


def test_every_error_is_in_the_reference() -> None:
    rows = table("| code | exit status | again | what |", "run/errors.md")
    expected = [(e.code, str(e.exit_status), "yes" if e.retryable else "") for e in all_errors()]
    assert sorted(tuple(row[:3]) for row in rows) == sorted(expected)
    assert len({row[0] for row in rows}) == len(rows)
    assert all(row[3] for row in rows)


def test_every_exit_status_is_in_the_reference() -> None:
    listed = {int(row[0]) for row in table("| exit status | what |", "run/errors.md")}
    assert listed == {0, INTERRUPTED} | {error.exit_status for error in all_errors()}


CODE = re.compile(r"(?ms)^```(?:console|text)\n(.*?)^```$|`([^`\n]+)`|^ {4}([^\n]*)$")
"""Blocks, what stands between backticks, and indented lines."""


def commands_named(page: Path) -> set[tuple[str, str]]:
    """Every `hsm-signer COMMAND [SUB]` in a page's code."""
    code = "\n".join("".join(found.groups("")) for found in CODE.finditer(page.read_text(encoding="utf-8")))
    return set(re.findall(r"(?<![\w./-])hsm-signer ([a-z]+)(?: ([a-z-]+))?", code))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_documents_exist(page: Path) -> None:
    for command, sub in commands_named(page):
        assert command in CONTRACT, command
        if CONTRACT[command]:
            assert sub in CONTRACT[command], (command, sub)


def test_documents_name_every_command() -> None:
    assert {command for page in PAGES for command, _ in commands_named(page)} == set(CONTRACT)
