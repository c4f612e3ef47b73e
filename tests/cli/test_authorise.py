"""`authorise` and `submit`: the card now, the server later."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from hsm_signer.server.installation import Installation
from hsm_signer.testing import PIN, WRONG_PIN, Home, Person, make_person
from hsm_signer.types import Algorithm, KeySpec, Scheme
from tests.support.commandline import Cli


def person(home: Home, scheme: Scheme, key: KeySpec = KeySpec.P256) -> Person:
    with home.server() as server:
        more = (Algorithm.ECDSA_SHA384,) if key is KeySpec.P256 else ()
        return make_person(server, home.path / "cards", "olga", scheme=scheme, key=key, more_algorithms=more)


@pytest.fixture
def elsewhere(nowhere: Cli) -> Cli:
    """Where neither installation nor service is."""
    return nowhere


OFFLINE = (Scheme.PIN, Scheme.BASIC)


@pytest.mark.parametrize("scheme", OFFLINE)
def test_the_card_now_and_the_server_later(
    run: Cli, elsewhere: Cli, home: Home, note: Path, tmp_path: Path, scheme: Scheme
) -> None:
    olga = person(home, scheme)
    public = run("credential", "public-key", "olga", "-o", "olga.pem")
    assert public.status == 0
    ran = elsewhere(
        *("authorise", note, "--card", olga.address, "-o", "later.json", "--public-key", "olga.pem"), pin=PIN
    ).tells_nothing()
    assert ran.out == "later.json\n"
    request = tmp_path / "later.json"
    assert stat.S_IMODE(request.stat().st_mode) == 0o600
    written = json.loads(request.read_text())
    assert written["names"] == ["note.txt"]
    assert written["message"] is not None

    note.unlink()  # the request holds all that is needed
    ran = run("submit", "later.json")
    assert ran.out == "note.txt.sig\n"
    assert "before" not in ran.err
    note.write_text("I owe Bob ten euros.\n")
    run("verify", "note.txt", "--signature", "note.txt.sig", "--user", "olga")

    assert run("submit", "later.json", status=2).code == "file.unusable"
    first = (tmp_path / "note.txt.sig").read_bytes()
    again = run("submit", "later.json", "--force", "--json")
    assert "had been carried out before" in again.err
    assert again.json[0]["repeated"] is True
    assert (tmp_path / "note.txt.sig").read_bytes() == first
    entries = run("audit", "list", "olga", "--json").json
    assert [each["event"] for each in entries] == ["enrol", "activate", "sign"]


def test_a_batch_goes_by_its_digests(
    run: Cli, elsewhere: Cli, home: Home, note: Path, tmp_path: Path
) -> None:
    olga = person(home, Scheme.PIN)
    other = tmp_path / "sub" / "other.bin"
    other.parent.mkdir()
    other.write_bytes(bytes(100_000))
    elsewhere(
        *("authorise", note, other, "--card", olga.address, "-o", "later.json"),
        *("--algorithm", "ecdsa-sha384"),
        pin=PIN,
    )
    written = json.loads((tmp_path / "later.json").read_text())
    assert (written["names"], written["message"]) == (["note.txt", "other.bin"], None)
    (tmp_path / "out").mkdir()
    ran = run("submit", "later.json", "-o", "out")
    assert ran.out.splitlines() == ["out/note.txt.sig", "out/other.bin.sig"]
    for file, signature in ((note, "out/note.txt.sig"), (other, "out/other.bin.sig")):
        shown = run("verify", file, "--signature", signature, "--user", "olga", "--json").json
        assert shown["algorithm"] == "ecdsa-sha384"


def authorised(elsewhere: Cli, olga: Person, note: Path, *more: str) -> Path:
    """The request's file."""
    options = ("--card", olga.address, "-o", "later.json", "--algorithm", "ecdsa-sha256", *more)
    elsewhere("authorise", note, *options, pin=PIN if olga.has_pin else None)
    return elsewhere.folder / "later.json"


@pytest.mark.parametrize("scheme", OFFLINE)
@pytest.mark.parametrize("hash_on", ["card", "host"])
def test_a_request_that_was_changed_is_refused(
    run: Cli, elsewhere: Cli, home: Home, note: Path, scheme: Scheme, hash_on: str
) -> None:
    olga = person(home, scheme)
    request = authorised(elsewhere, olga, note, "--hash-on", hash_on)
    good = json.loads(request.read_text())
    assert (good["digests"] is None) == (hash_on == "card")
    changes = [("algorithm", "ecdsa-sha384"), ("nonce", "AAAAAAAAAAAAAAAAAAAAAA==")]
    for name, value in changes:
        if hash_on == "host" and name == "algorithm":
            continue  # another length of digest: refused before the token is asked
        changed = {**good, "authorisation": {**good["authorisation"], name: value}}
        request.write_text(json.dumps(changed))
        assert run("submit", request, status=3).code == "authorisation.mismatch"
    another = {"message": "AAAA"} if hash_on == "card" else {"digests": ["00" * 32]}
    request.write_text(json.dumps({**good, **another}))
    assert run("submit", request, status=3).code == "authorisation.mismatch"
    request.write_text(json.dumps(good))
    run("submit", request)


def test_after_a_revocation_it_is_good_for_nothing(run: Cli, elsewhere: Cli, home: Home, note: Path) -> None:
    olga = person(home, Scheme.PIN)
    request = authorised(elsewhere, olga, note)
    run("credential", "suspend", "olga")
    assert run("submit", request, status=3).code == "credential.suspended"
    run("credential", "resume", "olga")
    run("credential", "revoke", "olga", "--yes")
    assert run("submit", request, status=3).code == "credential.revoked"
    assert not (run.folder / "note.txt.sig").exists()


def test_a_rolling_card_is_refused(elsewhere: Cli, home: Home, note: Path) -> None:
    ran = elsewhere(
        *("authorise", note, "--card", home["alice"].address, "-o", "x.json", "--algorithm", "ecdsa-sha256"),
        status=4,
        pin=PIN,
    )
    assert ran.code == "card.mismatch"
    assert "needs the server's challenge" in ran.error
    assert not (elsewhere.folder / "x.json").exists()


def test_mistakes_before_the_card_is_asked(elsewhere: Cli, home: Home, note: Path, tmp_path: Path) -> None:
    olga = person(home, Scheme.PIN)
    card = ("--card", olga.address, "-o", "later.json")
    one = ("authorise", note, *card)
    assert elsewhere(*one, status=2, pin=PIN).code == "usage"
    assert elsewhere(*one, "--algorithm", "ed25519", "--public-key", "x", status=2, pin=PIN).code == "usage"
    assert elsewhere(*one, "--public-key", "nothing.pem", status=2, pin=PIN).code == "file.unusable"
    twin = tmp_path / "sub" / "note.txt"
    twin.parent.mkdir()
    twin.write_text("another")
    both = ("authorise", note, twin, *card, "--algorithm", "ecdsa-sha256")
    assert "same name" in elsewhere(*both, status=2, pin=PIN).error
    assert elsewhere(*both, "--hash-on", "card", status=2, pin=PIN).code == "usage"
    large = tmp_path / "large"
    large.write_bytes(bytes((1 << 20) + 1))
    whole = ("authorise", large, *card, "--algorithm", "ecdsa-sha256", "--hash-on", "card")
    assert "at most 1048576 bytes" in elsewhere(*whole, status=2, pin=PIN).error
    (tmp_path / "later.json").write_text("mine")
    there = elsewhere(*one, "--algorithm", "ecdsa-sha256", status=2, pin=PIN)
    assert "is there already" in there.error
    assert (tmp_path / "later.json").read_text() == "mine"


def test_a_wrong_pin_leaves_no_request(elsewhere: Cli, home: Home, note: Path) -> None:
    olga = person(home, Scheme.PIN)
    ran = elsewhere(
        *("authorise", note, "--card", olga.address, "-o", "x.json", "--algorithm", "ecdsa-sha256"),
        status=4,
        pin=WRONG_PIN,
    ).tells_nothing()
    assert ran.code == "card.pin-wrong"
    assert not (elsewhere.folder / "x.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', "\x00" * 10])
def test_what_is_no_request_is_one_clear_error(run: Cli, tmp_path: Path, text: str) -> None:
    (tmp_path / "request.json").write_text(text)
    ran = run("submit", "request.json", status=2)
    assert ran.code == "input.invalid"
    assert "request: expected" in ran.error


def test_a_request_leads_to_no_other_folder(
    run: Cli, elsewhere: Cli, home: Home, note: Path, tmp_path: Path
) -> None:
    olga = person(home, Scheme.PIN)
    request = authorised(elsewhere, olga, note)
    written = json.loads(request.read_text())
    for name in ("../note.txt", str(tmp_path / "x"), ""):
        request.write_text(json.dumps({**written, "names": [name]}))
        assert "names[0]: expected" in run("submit", request, status=2).error
    request.write_text(json.dumps(written))
    assert run("submit", request, "-o", "nowhere", status=2).code == "file.unusable"
    (tmp_path / "note.txt.sig").symlink_to(Installation.open(home.path).home / "config.toml")
    assert run("submit", request, "--force", status=2).code == "input.invalid"


def test_signatures_are_named_as_those_of_sign() -> None:
    from hsm_signer.cli import signing
    from hsm_signer.workstation import offline

    assert offline.ENDING == signing.SUFFIX
