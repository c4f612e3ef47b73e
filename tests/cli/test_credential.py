"""`credential`: what an operator sees and does."""

from __future__ import annotations

import hashlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hsm_signer.core.algorithms import load_public_pem
from hsm_signer.errors import RecordConflict
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, Home, Person
from hsm_signer.types import CredentialView, KeySpec, Scheme
from tests.support.commandline import Cli, changed, tree
from tests.support.needs import program
from tests.support.scenes import passing_wrong_pins


def test_list_and_show(run: Cli, home: Home) -> None:
    listed = run("credential", "list", "--json")
    assert [each["owner"] for each in listed.json] == ["alice", "basil", "bob", "paula", "peter"]
    assert {frozenset(each) for each in listed.json} == {
        frozenset((*CredentialView.__struct_encode_fields__, "key"))
    }
    lines = run("credential", "list").out.splitlines()
    assert lines[0].split()[:2] == ["USER", "STATUS"]
    assert lines[1].split() == ["alice", "active", "p256", "rolling", listed.json[0]["credential_id"]]
    for user in home.people:
        ran = run("credential", "show", user, "--json")
        assert (ran.json["owner"], ran.json["scheme"]) == (user, home[user].scheme.value)
        assert ran.json["card_serial"] == run("card", "info", home[user].address, "--json").json["serial"]
        pem = run("credential", "public-key", user).out
        assert ran.json["public_key_sha256"] == hashlib.sha256(load_public_pem(pem.encode())).hexdigest()
        assert (ran.json["counter"] is None) == (ran.json["scheme"] != "rolling")
        assert (ran.json["pin_check"] == "none") == (ran.json["scheme"] == "basic")
        words = run("credential", "show", ran.json["credential_id"]).out
        for value in (user, ran.json["credential_id"], ran.json["public_key_sha256"], ran.json["enrolled"]):
            assert str(value) in words


def test_public_key_to_a_file(run: Cli) -> None:
    pem = run("credential", "public-key", "bob").out
    assert pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert pem.endswith("-----END PUBLIC KEY-----\n")
    assert run("credential", "public-key", "bob", "-o", "bob.pem").out == ""
    assert (run.folder / "bob.pem").read_text() == pem
    assert run("credential", "public-key", "bob", "-o", "bob.pem", status=2).code == "file.unusable"
    run("credential", "public-key", "bob", "-o", "bob.pem", "-f")


def test_the_certificate_request_can_be_had_again(run: Cli) -> None:
    for user in ("alice", "peter", "basil"):
        run("credential", "request", user, "-o", f"{user}.csr")
        checked = subprocess.run(
            [program("openssl", "openssl"), "req", "-verify", "-noout", "-subject", "-in", f"{user}.csr"],
            cwd=run.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"CN = {user}" in checked.stdout
        assert "verify OK" in checked.stderr
    assert run("credential", "request", "alice").out == (run.folder / "alice.csr").read_text()
    assert run("credential", "request", "nobody", status=3).code == "credential.unknown"


def test_revoke_asks(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("credential", "revoke", "alice", status=2)
    assert "no terminal" in ran.error
    assert "--yes" in ran.err
    answers = iter(("n", "y"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _: next(answers))
    ran = run("credential", "revoke", "alice", status=2)
    assert "not confirmed; nothing was changed" in ran.error
    assert run("credential", "show", "alice", "--json").json["status"] == "active"
    ran = run("credential", "revoke", "alice")
    assert ran.out == ""
    assert run("credential", "show", "alice", "--json").json["status"] == "revoked"


@pytest.mark.parametrize("command", ["show", "public-key", "suspend", "resume", "unlock", "revoke"])
def test_unknown_users(run: Cli, command: str) -> None:
    before = tree(run.folder)
    for user in ("zoe", "ab" * 16, "", "al\x1bice", "alic\0e"):
        ran = run("credential", command, user, status=3)
        assert (ran.code, ran.out) == ("credential.unknown", "")
        assert "\x1b" not in ran.err
    assert not changed(before, tree(run.folder))


def test_a_name_that_looks_like_an_id(run: Cli) -> None:
    """It is taken as a name where no credential has that id, and refused where one has."""
    name = "00" * 16
    run("card", "new", "sim:zero.card")
    run("enrol", name, "--card", "sim:zero.card", pin=PIN)
    assert run("credential", "show", name, "--json").json["owner"] == name
    alice = run("credential", "show", "alice", "--json").json["credential_id"]
    run("card", "new", "sim:sly.card")
    run("enrol", alice, "--card", "sim:sly.card", pin=PIN)
    ran = run("credential", "revoke", alice, "--yes", status=2)
    assert "both a user's name and the id" in ran.error


def test_changes_are_tried_again(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    real, troubles = Server.change_status, [RecordConflict("c")] * 3

    def troubled(server: Server, *arguments: object) -> object:
        if troubles:
            raise troubles.pop()
        return real(server, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Server, "change_status", troubled)
    run("credential", "suspend", "alice")
    assert not troubles


def test_damaged_records_do_not_hide_the_others(run: Cli, home: Home) -> None:
    with sqlite3.connect(home.path / "store.db") as store:
        store.execute("UPDATE credential SET owner = 'mallory' WHERE owner = 'bob'")
        store.execute("UPDATE credential SET status = 77 WHERE owner = 'paula'")
    store.close()
    ran = run("credential", "list", "--json", status=6)
    assert [each["owner"] for each in ran.json] == ["alice", "basil", "peter"]
    assert ran.err.count("error: ") == 2
    assert "'mallory'" in ran.err
    assert run("credential", "show", "mallory", status=6).code == "record.damaged"
    assert run("credential", "show", "alice").status == 0


def test_five_wrong_pins_that_only_the_server_sees_lock_and_unlock_helps(run: Cli, note: Path) -> None:
    run("card", "new", "sim:carol.card")
    run("enrol", "carol", "--card", "sim:carol.card", pin=PIN)
    carol = Person("carol", Scheme.ROLLING, KeySpec.P256, run.folder / "carol.card")
    for left, wrong in zip((4, 3, 2, 1, 0), passing_wrong_pins(carol, 5, PIN), strict=True):
        ran = run("sign", note, "--card", carol.address, pin=wrong, status=3)
        assert ran.code == "authorisation.wrong-key"
        assert ("credential unlock" if not left else f"{left} more and it locks") in ran.err
        assert "came from: HSM_SIGNER_CARD_PIN" in ran.err
        assert wrong not in ran.out + ran.err
    assert run("credential", "show", "carol", "--json").json["status"] == "locked"
    assert run("sign", note, "--card", carol.address, answers=(), status=3).code == "credential.locked"
    assert run("credential", "unlock", "carol", "--json").json["failures"] == 0
    run("sign", note, "--card", carol.address, pin=PIN)


def test_certificates_are_kept_beside_the_key(run: Cli, tmp_path: Path) -> None:
    from hsm_signer.core.certificates import from_pem, to_pem
    from tests.support.authority import Authority

    assert run("credential", "certificate", "alice", status=2).code == "certificate.unsuitable"
    chain = Authority().chain(run("credential", "request", "alice").out)
    (tmp_path / "alice.pem").write_text(to_pem(chain))
    assert (
        "2 certificates kept for alice"
        in run("credential", "certificate", "alice", "--import", "alice.pem").err
    )
    assert from_pem(run("credential", "certificate", "alice").out.encode()) == tuple(chain)
    run("credential", "certificate", "alice", "--export", "out.pem")
    assert (tmp_path / "out.pem").read_text() == to_pem(chain)
    assert run("credential", "certificate", "alice", "--export", "out.pem", status=2).code == "file.unusable"

    for user, file in (("bob", "alice.pem"), ("alice", "note.txt")):
        (tmp_path / "note.txt").write_text("no certificate")
        wrong = run("credential", "certificate", user, "--import", file, status=2)
        assert wrong.code == "certificate.unsuitable"
    both = run("credential", "certificate", "alice", "--import", "alice.pem", "--remove", status=2)
    assert both.code == "usage"
    assert from_pem(run("credential", "certificate", "alice").out.encode()) == tuple(chain)

    run("credential", "certificate", "alice", "--remove")
    assert run("credential", "certificate", "alice", status=2).code == "certificate.unsuitable"
