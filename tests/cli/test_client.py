"""`client`: who may use the service."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hsm_signer.cli.clients import ROLES
from hsm_signer.errors import NotAuthenticated
from hsm_signer.server.base import system_clock
from hsm_signer.service import clients
from hsm_signer.service.roles import Role
from hsm_signer.testing import Home
from tests.support.authority import Authority
from tests.support.commandline import Cli


def test_roles_are_those_of_the_service() -> None:
    assert [each.value for each in Role] == list(ROLES)


def test_a_client_comes_and_goes(run: Cli, home: Home) -> None:
    ran = run("client", "add", "desk", "--role", "signer", "--role", "registrar", "--user", "alice")
    token = ran.out.strip()
    assert re.fullmatch(r"hsc_[A-Za-z0-9_-]{43}", token)
    assert token not in ran.err
    assert "not shown again" in ran.err
    with home.server() as server:
        found = clients.identify(server.environment, server.store, token, None, system_clock)
    assert (found.name, found.owner) == ("desk", "alice")
    assert found.roles == frozenset({Role.SIGNER, Role.REGISTRAR})

    listed = run("client", "list", "--json").json
    assert [(each["name"], each["roles"], each["owner"]) for each in listed] == [
        ("desk", ["signer", "registrar"], "alice")
    ]
    assert token not in run("client", "list").out

    assert "desk is no client any more" in run("client", "remove", "desk").err
    assert run("client", "list", "--json").json == []
    with home.server() as server, pytest.raises(NotAuthenticated):
        clients.identify(server.environment, server.store, token, None, system_clock)


def test_one_with_a_certificate_gets_no_token(run: Cli, home: Home, tmp_path: Path) -> None:
    from hsm_signer.core.certificates import to_pem

    certificate = Authority("desk").certificate
    pem = tmp_path / "desk.pem"
    pem.write_text(to_pem([certificate]))
    ran = run("client", "add", "desk", "--role", "signer", "--certificate", pem, "--json")
    assert ran.json["token"] is None
    assert ran.json["certificate_sha256"] == clients.certificate_hash(certificate).hex()
    table = run("client", "list").out
    assert re.search(r"desk +signer +certificate", table)
    again = run("client", "add", "other", "--role", "admin", "--certificate", pem, status=2)
    assert again.code == "client.exists"


def test_mistakes(run: Cli, tmp_path: Path) -> None:
    run("client", "add", "desk", "--role", "signer")
    assert run("client", "add", "desk", "--role", "admin", status=2).code == "client.exists"
    assert run("client", "remove", "nobody", status=2).code == "client.unknown"
    assert run("client", "add", "x", status=2).code == "usage"
    assert run("client", "add", "x", "--role", "king", status=2).code == "usage"
    assert run("client", "add", "a b", "--role", "signer", status=2).code == "input.invalid"
    assert run("client", "add", "x", "--role", "signer", "--user", " ", status=2).code == "input.invalid"
    note = tmp_path / "note.pem"
    note.write_text("no certificate")
    wrong = run("client", "add", "x", "--role", "signer", "--certificate", note, status=2)
    assert wrong.code == "certificate.unsuitable"
    assert [each["name"] for each in run("client", "list", "--json").json] == ["desk"]


def test_where_there_is_no_installation(nowhere: Cli) -> None:
    for arguments in (("add", "x", "--role", "signer"), ("list",), ("remove", "x")):
        assert nowhere("client", *arguments, status=2).code == "config.not-initialised"
