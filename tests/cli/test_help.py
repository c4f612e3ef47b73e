"""Help of every command, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hsm_signer.cli import choices
from hsm_signer.cli.context import App
from hsm_signer.cli.main import ALIASES, COMMANDS, main
from hsm_signer.testing import PIN, Home
from hsm_signer.types import Algorithm, KeySpec, PinCheck, PinPolicy, Scheme
from tests.support.commandline import Cli, Process

OPENING = {"sqlalchemy", "alembic", "pkcs11", "httpx", "card_applet_sim", "smartcard", "uvicorn", "fastapi"}
"""What stores, tokens, cards and services are opened with."""
HEAVY = OPENING | {"cryptography", "asn1crypto", "msgspec"}
NOT_FOR_SIGNING = {
    "alembic",
    "asn1crypto.csr",  # the rest of it python-pkcs11 imports itself
    "smartcard",
    "hsm_signer.core.certificate_requests",
    "hsm_signer.card.pcsc",
    "hsm_signer.token.probe",
    "hsm_signer.evidence.audit",
}
CONTRACT = {
    "init": (),
    "doctor": (),
    "identity": (),
    "enrol": (),
    "sign": (),
    "verify": (),
    "credential": (
        *("list", "show", "public-key", "request", "certificate"),
        *("suspend", "resume", "unlock", "revoke"),
    ),
    "card": ("list", "selftest", "new", "issue", "info", "reset"),
    "pin": ("change", "unblock", "tries"),
    "audit": ("list", "verify", "head"),
    "store": ("upgrade",),
    "serve": (),
    "client": ("add", "list", "remove"),
    "authorise": (),
    "submit": (),
}


def commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with its path."""
    context = click.Context(main, obj=App())
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        yield (name,), command
        if isinstance(command, click.Group):
            for sub in command.commands:
                yield (name, sub), command.commands[sub]


def test_the_commands_are_those_of_the_contract() -> None:
    found: dict[str, list[str]] = {}
    for path, _ in commands():
        found.setdefault(path[0], []).extend(path[1:])
    assert {name: tuple(subs) for name, subs in found.items()} == CONTRACT
    assert ALIASES == {"enroll": "enrol", "authorize": "authorise"}


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_help_of_every_command(nowhere: Cli, path: tuple[str, ...]) -> None:
    ran = nowhere(*path, "--help")
    assert ran.out.startswith(f"Usage: hsm-signer {' '.join(path)} ")
    assert ran.err == ""
    assert nowhere(*path, "-h").out == ran.out


def test_every_option_says_what_it_is() -> None:
    for path, command in commands():
        assert command.help, path
        assert command.help.splitlines()[0].endswith((".", ":")), path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, (path, parameter.name)


def test_main_help_lists_every_command_without_loading_one(nowhere: Cli) -> None:
    out = nowhere("--help").out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in out
        assert entry.help in " ".join(out.split())
    assert "enroll" not in out


@pytest.mark.parametrize("arguments", ["--help", "--version"])
def test_help_loads_nothing_heavy(arguments: str) -> None:
    program = (
        "import sys; sys.argv[0] = 'hsm-signer'\n"
        "from hsm_signer.cli.main import entry\n"
        "try:\n    entry()\nfinally:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, arguments], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name.partition(".")[0] for name in ran.stderr.split()}
    assert "click" in loaded
    assert not loaded & HEAVY
    assert not {"hsm_signer.types", "hsm_signer.config.installation"} & set(ran.stderr.split())


def test_help_of_no_command_loads_what_opens_something() -> None:
    program = (
        "import sys\n"
        "from hsm_signer.cli.main import COMMANDS, main\n"
        "for name in COMMANDS:\n    main.get_command(None, name)\n"
        "print(*sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(ran.stdout.split())
    assert {f"hsm_signer.cli.{entry.module}" for entry in COMMANDS.values()} <= loaded
    assert sorted({name.partition(".")[0] for name in loaded} & OPENING) == []


@pytest.mark.parametrize("group", [name for name, subs in CONTRACT.items() if subs])
def test_no_line_of_a_group_is_cut_off(nowhere: Cli, group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = nowhere(group, "--help").out.partition("Commands:")[2]
    assert listed.strip()
    assert "..." not in listed


def test_audit_list_says_what_it_leaves_out(nowhere: Cli) -> None:
    assert "newest 100" in nowhere("audit", "list", "--help").out


def test_signing_loads_only_what_it_needs(process: Process, home: Home, note: Path) -> None:
    program = (
        "import sys; sys.argv[0] = 'hsm-signer'\n"
        "from hsm_signer.__main__ import entry\n"
        "try:\n    entry()\nfinally:\n    print(*sys.modules, file=sys.stderr)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "sign", note, "--card", home["alice"].address],
        env=process.environment(PIN),
        cwd=process.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(ran.stderr.split())
    assert "sqlalchemy" in loaded
    assert sorted(loaded & NOT_FOR_SIGNING) == []


def test_written_out_names_are_those_of_the_types() -> None:
    assert {each.value for each in Algorithm} == set(choices.ALGORITHMS)
    assert [each.value for each in KeySpec] == list(choices.KEYS)
    assert set(choices.SCHEMES) == {each.value for each in Scheme}
    assert set(choices.PIN_CHECKS) == {each.value for each in PinCheck} - {"none"}
    assert set(choices.PIN_POLICIES) == {each.value for each in PinPolicy} - {"none"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sing",), "Did you mean sign?"),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("sign",), "Missing argument 'FILE...'"),
        (("sign", "x"), "Missing option '--card'"),
        (("sign", "x", "--card", "sim:c", "--algorithm", "md5"), "'md5' is not one of"),
        (("sign", "x", "y", "--card", "sim:c", "--hash-on", "card"), "hashes one FILE"),
        (("sign", "x", "--card", "sim:c", "--json", "-o", "-"), "both want standard output"),
        (("sign", "x", "y", "--card", "sim:c", "-o", "-"), "takes the signature of one FILE"),
        (("sign", "x", "--card", "sim:c", "--home", "h"), "goes before the command"),
        (("sign", "x", "--card", "sim:c", "--pin", "123456"), "No such option"),
        (("verify", "x", "--signature", "s"), "Give either --user or --public-key"),
        (("verify", "x", "--signature", "s", "--user", "u", "--public-key", "p"), "Give either"),
        (("enrol", "u", "--card", "sim:c", "--scheme", "basic", "--generate-pin"), "neither PIN nor PUK"),
        (("enrol", "u", "--card", "sim:c", "--pin-file", "p", "--generate-pin"), "Give either"),
        (("enrol", "u", "--card", "sim:c", "--puk-file", "p", "--no-puk"), "Give either"),
        (("enrol", "u", "--card", "sim:c", "--key", "dsa"), "'dsa' is not one of"),
        (("credential", "show"), "Missing argument 'USER'"),
        (("audit", "list", "--limit", "-1"), "not in the range"),
        (("init", "--module", "m", "--softhsm-conf", "f"), "without --module"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_usage_errors_are_exit_status_2(nowhere: Cli, arguments: tuple[str, ...], said: str) -> None:
    (nowhere.folder / "x").write_text("x")
    (nowhere.folder / "y").write_text("y")
    ran = nowhere(*arguments, status=2)
    assert said in ran.err
    assert ran.out == ""
    assert ran.code == "usage"
    assert ran.err.splitlines()[-1].endswith(" --help")
    assert 2 <= len(ran.err.splitlines()) <= 3
