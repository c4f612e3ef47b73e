"""Acts that service.toml has two clients ask for: over HTTPS, and by the command line of two workstations."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hsm_signer.config import service as settings
from hsm_signer.errors import ApprovalAwaited, ConfigError
from hsm_signer.service import clients
from hsm_signer.service.roles import Role
from hsm_signer.types import Event
from tests.support.commandline import Cli, Ran
from tests.support.front import api, problem
from tests.support.service import Service, in_process, serving
from tests.support.tenants import Tenants

from .front.test_examples import OPERATIONS, answered

SETTINGS = '[approval]\nacts = ["unlock", "resume", "revoke"]\nwithin = 600\n'


@pytest.fixture(scope="module")
def guarded(
    template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Tenants]]:
    """A service that wants two clients."""
    folder = tmp_path_factory.mktemp("guarded")
    tenants = template_tenants.copy_to(folder / "home")
    with serving(tenants.home, settings=SETTINGS) as service:
        yield service, tenants
    shutil.rmtree(folder)


def post(client: httpx.Client, owner: str, act: str) -> httpx.Response:
    number = credential(client, owner)["credential_id"]
    return client.post(f"/v1/credentials/{number}/{act}")


def credential(client: httpx.Client, owner: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/users/{owner}/credential").json()
    return found


def test_one_asks_another_carries_out_and_evidence_has_both(guarded: tuple[Service, Tenants]) -> None:
    service, tenants = guarded
    with (
        api(service, tenants.tokens["app"]) as app,
        api(service, tenants.tokens["registrar"]) as registrar,
        api(service, tenants.tokens["admin"]) as admin,
    ):
        # What protects waits for nobody.
        assert post(registrar, "alice", "suspend").json()["status"] == "suspended"
        before = credential(app, "alice")
        for act, first, names in (
            ("resume", registrar, "client registrar + client admin"),
            ("revoke", app, "client app + client admin"),
        ):
            # It is the documented answer, and the documented example looks like it.
            answer = post(first, "alice", act)
            assert answer.status_code == 202
            answered(OPERATIONS[f"{act}Credential"][2]["responses"]["202"], answer)
            name = names.partition(" + ")[0]
            pending = answer.json()
            assert (pending["credential_id"], pending["act"], pending["actor"]) == (
                before["credential_id"],
                act,
                name,
            )
            assert credential(app, "alice")["status"] == before["status"]
            again = problem(post(first, "alice", act), 409, "approval.same-client")
            assert pending["until"] in again["hint"]
            assert credential(app, "alice")["status"] == before["status"]

            answer = post(admin, "alice", act)
            assert (answer.status_code, answer.json()["owner"]) == (200, "alice")
            query = {"credential_id": before["credential_id"]}
            *_, word, done = app.get("/v1/evidence", params=query).json()["entries"]
            assert (word["event"], word["counter"], word["actor"]) == (
                "asked",
                str(Event.named(act).number),
                name,
            )
            assert (done["event"], done["actor"]) == (act, names)
            before = credential(app, "alice")
        assert before["status"] == "revoked"

        # Who may not do it may not be the second, either: the first word gives nobody a role.
        assert post(admin, "bob", "revoke").status_code == 202
        problem(post(registrar, "bob", "revoke"), 403, "client.not-permitted")
        assert credential(app, "bob")["status"] == "active"


def test_a_removed_client_has_no_word(guarded: tuple[Service, Tenants]) -> None:
    service, tenants = guarded
    token = service.add_client("passing", Role.ADMIN)
    with api(service, token) as passing, api(service, tenants.tokens["admin"]) as admin:
        assert post(passing, "basil", "revoke").status_code == 202
        in_process(tenants.home, _remove, "passing")
        answer = post(admin, "basil", "revoke")
        assert (answer.status_code, answer.json()["actor"]) == (202, "client admin")
        assert credential(admin, "basil")["status"] == "active"


def _remove(server: Any, name: str) -> None:
    clients.remove(server.environment, server.store, name, actor="test", clock=server.clock)


def test_the_command_line_says_what_is_awaited(
    guarded: tuple[Service, Tenants],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    service, tenants = guarded
    (tmp_path / "home").mkdir(mode=0o700)
    cli = Cli(tmp_path / "home", tmp_path, monkeypatch, capfd)

    def revoke(name: str, status: int) -> Ran:
        there = ("--server", service.url, "--ca", str(service.ca))
        token = {"HSM_SIGNER_SERVER_TOKEN": tenants.tokens[name]}
        return cli("credential", "revoke", "paula", "--yes", "--json", *there, status=status, env=token)

    first = revoke("app", ApprovalAwaited.exit_status)
    assert first.out == ""
    assert first.error == (
        "error: revoke was asked for and is not done: a second client has to ask for it, too "
        "[approval.awaited]"
    )
    assert "hint: until 20" in first.err
    assert revoke("app", 3).code == "approval.same-client"
    assert revoke("admin", 0).json["status"] == "revoked"

    # Who is at the server is not asked whether somebody else agrees.
    operator = Cli(tenants.home.path, tmp_path, monkeypatch, capfd)
    assert operator("credential", "revoke", "peter", "--yes", "--json").json["status"] == "revoked"
    words = operator("audit", "list", "paula").out.splitlines()
    assert words[-2].split()[2:] == ["asked", "accepted", "revoke", "client", "app"]
    assert words[-1].split()[2:] == ["revoke", "accepted", *["client", "app", "+", "client", "admin"]]


def test_off_by_default(tmp_path: Path) -> None:
    """And then one client is enough: tests/service/worker/test_operations.py."""
    assert settings.load(tmp_path / "service.toml").approval.acts == ()


@pytest.mark.parametrize("act", ["suspend", "client-add-admin", "key-rotate", "", "Revoke"])
def test_other_acts_are_refused_by_name(tmp_path: Path, act: str) -> None:
    file = tmp_path / "service.toml"
    file.write_text(f'[approval]\nacts = ["revoke", "{act}"]\n')
    with pytest.raises(
        ConfigError, match=f"approval.acts: expected some of unlock, resume, revoke, got '{act}'"
    ):
        settings.load(file)


@pytest.mark.parametrize("within", ["0", "604801", '"1 h"'])
def test_how_long_has_bounds(tmp_path: Path, within: str) -> None:
    file = tmp_path / "service.toml"
    file.write_text(f"[approval]\nwithin = {within}\n")
    with pytest.raises(ConfigError, match=r"approval.within"):
        settings.load(file)
