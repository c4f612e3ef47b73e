"""`audit`: list, verify, head."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from hsm_signer.errors import ChallengeStale
from hsm_signer.server.base import system_clock
from hsm_signer.server.refusals import MINUTE, SHARE
from hsm_signer.testing import PIN, Home
from tests.support.commandline import Cli, changed, tree
from tests.support.older import as_older_versions_made_it
from tests.support.scenes import altered, authorise


def _sql(home: Home, statement: str) -> None:
    with sqlite3.connect(home.path / "store.db") as store:
        store.execute(statement)
    store.close()


def test_list(run: Cli, home: Home, note: Path) -> None:
    run("sign", note, "--card", home["alice"].address, pin=PIN)
    everything = run("audit", "list", "--json").json
    assert [each["number"] for each in everything] == [str(n + 1) for n in range(len(everything))]
    assert set(everything[-1]) == {
        "number", "sequence", "time", "owner", "credential_id", "event", "outcome", "actor", "record_version",
        "algorithm", "mode", "authorisation_digest", "nonce", "counter", "message_hash", "quantities_hash",
        "digests", "signatures", "previous", "hash",
    }  # fmt: skip
    alice = run("audit", "list", "alice", "--json").json
    assert [each["event"] for each in alice] == ["enrol", "activate", "sign"]
    assert [each["sequence"] for each in alice] == ["1", "2", "3"]
    assert [each["previous"] for each in alice[1:]] == [each["hash"] for each in alice[:-1]]
    assert run("audit", "list", alice[0]["credential_id"], "--json").json == alice
    assert run("audit", "list", "--limit", "1", "--json").json == alice[-1:]
    assert run("audit", "list", "--limit", "0", "--json").json == everything
    words = run("audit", "list", "alice").out.splitlines()
    assert len(words) == 4
    assert words[3].split()[1:6] == ["alice", "sign", "accepted", "1", "ecdsa-sha256"]
    assert run("audit", "list", "zoe", status=3).code == "credential.unknown"


def test_list_says_how_many_were_refused(run: Cli, home: Home) -> None:
    with home.server() as opened:
        alice = home["alice"]
        request = altered(authorise(opened, alice), x=2**40)
        later = replace(opened, clock=lambda: system_clock() + MINUTE)
        for server, times in ((opened, SHARE + 7), (later, 1)):
            for _ in range(times):
                with pytest.raises(ChallengeStale):
                    server.sign(request)
    several, last = run("audit", "list", "alice").out.splitlines()[-2:]
    assert several.split()[1:] == ["alice", "refusals", "refused", "7", "times", "various"]
    assert last.split()[2:4] == ["sign", "authorisation.stale"]
    entry = run("audit", "list", "alice", "--json").json[-2]
    assert (entry["event"], entry["outcome"], entry["counter"]) == ("refusals", "refused", "7")
    assert run("audit", "verify").out.endswith(": all good\n")


def test_a_list_needs_no_token(run: Cli, home: Home) -> None:
    assert run("audit", "head").json["credentials"] == "6"
    shutil.rmtree(home.path / "tokens")
    assert len(run("audit", "list").out.splitlines()) > 5
    for command in ("head", "verify"):
        assert run("audit", command, status=5).code == "token.not-found"


def test_verify_counts_records_at_sealing_1(run: Cli, home: Home, note: Path) -> None:
    with home.server() as server:
        as_older_versions_made_it(server, home["alice"])
    ran = run("audit", "verify")
    assert ran.out.endswith("5 signatures; 1 record still at sealing 1: all good\n")
    assert run("audit", "verify", "--json").json["records_at_sealing_1"] == 1
    run("sign", note, "--card", home["alice"].address, pin=PIN)
    assert "sealing" not in run("audit", "verify").out
    assert run("audit", "verify", "--json").json["records_at_sealing_1"] == 0


def test_verify_and_anchor(run: Cli, home: Home, note: Path) -> None:
    ran = run("audit", "verify")
    assert ran.out == "checked 5 records, 6 chains, 11 entries, 5 signatures: all good\n"
    assert ran.err == ""
    line = run("audit", "head").out
    assert line.count("\n") == 1
    one, other = json.loads(line), run("audit", "head", "--json").json
    assert {name for name in one if one[name] != other[name]} == {"time", "signed"}
    run("audit", "head", "-o", "anchor")
    assert run("audit", "head", "-o", "anchor", status=2).code == "file.unusable"
    old = (home.path / "store.db").read_bytes()
    run("sign", note, "--card", home["alice"].address, pin=PIN)
    ran = run("audit", "verify", "--anchor", "anchor", "--json")
    assert (ran.json["good"], ran.json["anchor_checked"], ran.json["findings"]) == (True, True, [])
    assert run("audit", "verify", "--anchor", "anchor").out.endswith(", the anchor: all good\n")
    # An old database put back as a whole: only the newest anchor knows.
    run("audit", "head", "-o", "anchor", "-f")
    (home.path / "store.db").write_bytes(old)
    assert run("audit", "verify").status == 0
    ran = run("audit", "verify", "--anchor", "anchor", "--json", status=7)
    assert ran.code == "audit.failed"
    assert not ran.json["good"]
    assert {each["code"] for each in ran.json["findings"]} == {"anchor.entries", "anchor.root"}


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("UPDATE credential SET owner = 'mallory' WHERE owner = 'bob'", "record.mac"),
        ("DELETE FROM credential WHERE owner = 'bob'", "record.missing"),
        ("DELETE FROM evidence WHERE sequence = 1 AND credential_id ="
         " (SELECT credential_id FROM credential WHERE owner = 'bob')", "chain.gap"),
        ("UPDATE evidence SET actor = 'mallory' WHERE id = 2", "chain.previous"),
        ("UPDATE evidence SET actor = 'mallory' WHERE id = 1", "entry.mac"),
    ],
    ids=["changed", "deleted", "entry deleted", "entry changed", "of the installation itself"],
)  # fmt: skip
def test_findings_are_exit_status_7(run: Cli, home: Home, statement: str, code: str) -> None:
    _sql(home, statement)
    before = tree(run.folder)
    ran = run("audit", "verify", status=7)
    assert ran.code == "audit.failed"
    assert any(line.startswith(f"{code}: ") for line in ran.out.splitlines())
    assert ran.out.rstrip().endswith("not all good")
    found = run("audit", "verify", "--json", status=7).json
    assert code in {each["code"] for each in found["findings"]}
    assert set(found["findings"][0]) == {"code", "words", "owner", "credential_id", "sequence"}
    assert not changed(before, tree(run.folder))


def test_entries_that_cannot_be_read(run: Cli, home: Home) -> None:
    _sql(home, "UPDATE evidence SET event = 'nonsense' WHERE id = 3")
    ran = run("audit", "list", "--json", status=6)
    assert len(ran.json) == 10
    assert ran.err.startswith("error: ")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"x" * 5000, b'{"format": 2}'])
def test_what_is_no_anchor(run: Cli, content: bytes) -> None:
    (run.folder / "anchor").write_bytes(content)
    ran = run("audit", "verify", "--anchor", "anchor", "--json", status=2)
    assert (ran.code, ran.out) == ("input.invalid", "")
    assert run("audit", "verify", "--anchor", "gone", status=2).code == "file.unusable"


def test_names_cannot_move_the_cursor(run: Cli, home: Home) -> None:
    _sql(home, "UPDATE credential SET owner = 'bo\x1b[2Jb' WHERE owner = 'bob'")
    _sql(home, "UPDATE evidence SET actor = 'ro\x1b[2Jot' WHERE id = 1")
    for command, status in ((("audit", "list"), 0), (("audit", "verify"), 7), (("credential", "list"), 6)):
        ran = run(*command, status=status)
        assert "\x1b" not in ran.out + ran.err
