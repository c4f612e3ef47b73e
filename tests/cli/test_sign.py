"""`sign`: one file, a batch, where the signatures go, and every way in which nothing is signed."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.card.commands import CardSession
from hsm_signer.cli import files
from hsm_signer.config.files import PRIVATE, write_beside
from hsm_signer.core.backoff import Backoff
from hsm_signer.errors import RecordConflict
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, WRONG_PIN, Home, make_person
from hsm_signer.types import PinCheck, SignOutcome
from tests.support import needs
from tests.support.commandline import Cli, changed, tree
from tests.support.scenes import passing_wrong_pins


@pytest.fixture
def openssl_verifies(run: Cli) -> Callable[..., bool]:
    """(user, file, signature, hash) -> whether openssl says so."""
    program = needs.program("openssl", "openssl")

    def verify(user: str, file: Path, signature: Path, digest: str = "sha256", *more: str) -> bool:
        key = run.folder / f"{user}.pem"
        if not key.exists():
            run("credential", "public-key", user, "-o", key)
        ran = subprocess.run(
            [program, "dgst", f"-{digest}", "-verify", key, "-signature", signature, *more, file],
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode == 0 and "Verified OK" in ran.stdout

    return verify


def test_one_file_beside_itself(
    run: Cli, home: Home, note: Path, openssl_verifies: Callable[..., bool]
) -> None:
    ran = run("sign", note, "--card", home["alice"].address, pin=PIN)
    assert ran.out == f"{note}.sig\n"
    assert ran.err == ""
    signature = note.with_name("note.txt.sig")
    assert openssl_verifies("alice", note, signature)
    good = run("verify", note, "--signature", signature, "--user", "alice")
    assert good.out == f"{note}: good signature by alice (ecdsa-sha256)\n"
    note.write_text("I owe Bob a hundred euros.\n")
    assert not openssl_verifies("alice", note, signature)


def test_json_says_everything(run: Cli, home: Home, note: Path) -> None:
    (run.folder / "other").write_bytes(b"")
    ran = run("sign", "note.txt", "other", "--card", home["bob"].address, "--json", pin=PIN)
    assert ran.err == ""
    assert [set(each) for each in ran.json] == [
        {"file", "signature", *SignOutcome.__struct_encode_fields__} - {"signatures"}
    ] * 2
    assert [each["file"] for each in ran.json] == ["note.txt", "other"]
    assert [each["signature"] for each in ran.json] == ["note.txt.sig", "other.sig"]
    assert {each["algorithm"] for each in ran.json} == {"rsa-pkcs1-sha256"}
    assert {each["owner"] for each in ran.json} == {"bob"}
    last = run("audit", "list", "bob", "--json").json[-1]
    assert {each["authorisation_digest"] for each in ran.json} == {last["authorisation_digest"]}
    assert {each["evidence_hash"] for each in ran.json} == {last["hash"]}
    assert {each["credential_id"] for each in ran.json} == {last["credential_id"]}
    assert last["mode"] == "digests"
    assert [base64.b64decode(each) for each in last["signatures"]] == [
        (run.folder / name).read_bytes() for name in ("note.txt.sig", "other.sig")
    ]


@pytest.mark.parametrize(
    ("user", "algorithm", "digest", "options"),
    [
        ("alice", "ecdsa-sha384", "sha384", ()),
        ("paula", "ecdsa-sha512", "sha512", ()),
        ("bob", "rsa-pkcs1-sha512", "sha512", ()),
        ("peter", "rsa-pss-sha256", "sha256", ("-sigopt", "rsa_padding_mode:pss")),
        ("basil", "ECDSA-SHA256", "sha256", ()),
    ],
)
def test_algorithms_and_where_they_are_hashed(
    run: Cli,
    home: Home,
    note: Path,
    openssl_verifies: Callable[..., bool],
    user: str,
    algorithm: str,
    digest: str,
    options: tuple[str, ...],
) -> None:
    card = home[user].address
    pin = PIN if home[user].has_pin else None
    for hash_on, mode in (("auto", "message"), ("card", "message"), ("host", "digests")):
        run("sign", note, "--card", card, "--algorithm", algorithm, "--hash-on", hash_on, "-f", pin=pin)
        assert run("audit", "list", user, "--limit", "1", "--json").json[0]["mode"] == mode
        signature = note.with_name("note.txt.sig")
        assert openssl_verifies(user, note, signature, digest, *options)
        found = run("verify", note, "--signature", signature, "--user", user, "--json").json
        assert found["algorithm"] == algorithm.lower()


def test_auto_takes_the_card_up_to_the_configured_size(run: Cli, home: Home) -> None:
    long, longer, empty = (run.folder / name for name in ("long", "longer", "empty"))
    long.write_bytes(b"x" * 4096)
    longer.write_bytes(b"x" * 4097)
    empty.write_bytes(b"")
    for path, mode in ((long, "message"), (longer, "digests"), (empty, "message")):
        run("sign", path, "--card", home["alice"].address, pin=PIN)
        assert run("audit", "list", "alice", "--limit", "1", "--json").json[0]["mode"] == mode
        run("verify", path, "--signature", f"{path}.sig", "--user", "alice")


def test_a_batch_is_one_authorisation(run: Cli, home: Home, openssl_verifies: Callable[..., bool]) -> None:
    names = [f"document {n}" for n in range(20)]
    for name in names:
        (run.folder / name).write_text(name)
    (run.folder / "out").mkdir()
    before = run("audit", "head").json["entries"]
    ran = run("sign", *names, "--card", home["alice"].address, "-o", "out", answers=(PIN,))
    assert run.asked == ["PIN of the card"]
    assert ran.out.splitlines() == [f"out/{name}.sig" for name in names]
    assert int(run("audit", "head").json["entries"]) == int(before) + 1
    for name in names[::7]:
        assert openssl_verifies("alice", run.folder / name, run.folder / "out" / f"{name}.sig")


def test_where_the_signature_goes(run: Cli, home: Home, note: Path) -> None:
    (run.folder / "out").mkdir()
    card = home["alice"].address
    assert run("sign", note, "--card", card, "-o", "mine", pin=PIN).out == "mine\n"
    assert run("sign", note, "--card", card, "-o", "out", pin=PIN).out == "out/note.txt.sig\n"
    first = (run.folder / "mine").read_bytes()
    run("sign", note, "--card", card, "-o", "mine", "--force", pin=PIN)
    assert (run.folder / "mine").read_bytes() != first
    assert not list(run.folder.glob(".*.tmp"))


def test_the_pin_comes_from_file_variable_or_prompt(run: Cli, home: Home, note: Path) -> None:
    card = home["alice"].address
    (run.folder / "pin").write_text(f"{PIN}\n")
    # A file comes before the variable, the variable before a prompt.
    run("sign", note, "--card", card, "-o", "1", "--pin-file", "pin", pin=WRONG_PIN)
    run("sign", note, "--card", card, "-o", "2", pin=PIN, answers=())
    ran = run("sign", note, "--card", card, "-o", "3", answers=(PIN,))
    assert run.asked == ["PIN of the card"]
    ran.tells_nothing()
    ran = run("sign", note, "--card", card, "-o", "4", status=2)
    assert ran.code == "pin.missing"
    assert "HSM_SIGNER_CARD_PIN" in ran.err


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({"pin": WRONG_PIN}, "HSM_SIGNER_CARD_PIN"),
        ({"answers": (WRONG_PIN,)}, "prompt"),
        ({}, "--pin-file wrong"),
    ],
    ids=["variable", "prompt", "file"],
)
def test_a_wrong_pin_uses_a_try_and_signs_nothing(
    run: Cli, home: Home, note: Path, options: dict[str, Any], source: str
) -> None:
    (run.folder / "wrong").write_text(WRONG_PIN)
    arguments = [] if options else ["--pin-file", "wrong"]
    card = home["alice"].address
    for left in ("2 tries left", "1 try left"):
        ran = run("--debug", "sign", note, "--card", card, *arguments, status=None, **options)
        assert (ran.status, ran.code) == (4, "card.pin-wrong")
        assert left in ran.error
        assert f"came from: {source}" in ran.err
        ran.tells_nothing()
    assert run("sign", note, "--card", card, *arguments, status=4, **options).code == "card.pin-blocked"
    assert not Path(f"{note}.sig").exists()
    # A blocked card asks nobody any more.
    assert run("sign", note, "--card", card, answers=(), status=4).code == "card.pin-blocked"


@pytest.mark.parametrize(
    ("arguments", "status", "code", "said"),
    [
        (("gone",), 2, "file.unusable", "gone: cannot be read: No such file"),
        (("folder",), 2, "file.unusable", "folder: is a folder"),
        (("pipe",), 2, "file.unusable", "pipe: expected a regular file"),
        (("note.txt", "gone"), 2, "file.unusable", "gone: "),
        (("note.txt", "note.txt"), 2, "input.invalid", "note.txt: is named twice"),
        (("note.txt", "./note.txt"), 2, "input.invalid", "note.txt: is named twice"),
        (("note.txt", "link"), 2, "input.invalid", "link: is the same file as note.txt"),
        (("signed",), 2, "file.unusable", "signed.sig: is there already"),
        (("note.txt", "signed"), 2, "file.unusable", "signed.sig: is there already"),
        (("note.txt", "-o", "no/where"), 2, "file.unusable", "there is no folder no"),
        (("note.txt", "-o", "signed"), 2, "file.unusable", "signed: is there already"),
        (("note.txt", "signed", "-o", "out.sig"), 2, "input.invalid", "-o names a folder"),
        (("note.txt", "folder/note.txt", "-o", "other"), 2, "input.invalid", "two signatures"),
        (("note.txt", "-o", "note.txt", "-f"), 2, "input.invalid", "a file to be signed"),
        (("note.txt", "-o", "pipe", "-f"), 2, "file.unusable", "no regular file"),
        (("n" * 300,), 2, "file.unusable", "File name too long"),
        (("note.txt", "--pin-file", "gone"), 2, "file.unusable", "gone"),
        (("note.txt", "--pin-file", "signed"), 2, "pin.malformed", "--pin-file signed"),
        (("note.txt", "--algorithm", "rsa-pss-sha256"), 3, "algorithm.not-allowed", "rsa-pss-sha256"),
        (("note.txt", "--algorithm", "ed25519"), 3, "algorithm.not-allowed", "ed25519"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else None,
)
def test_nothing_is_asked_of_the_card_for_nothing(
    run: Cli, home: Home, note: Path, arguments: tuple[str, ...], status: int, code: str, said: str
) -> None:
    """One line, the right status, no question, no try, no file."""
    folder = note.parent
    for name in ("folder", "other"):
        (folder / name).mkdir()
    (folder / "folder" / "note.txt").write_text("another")
    (folder / "link").symlink_to("note.txt")
    (folder / "signed").write_text("signed")
    (folder / "signed.sig").write_text("its signature")
    os.mkfifo(folder / "pipe")
    before = tree(folder)
    ran = run("sign", *arguments, "--card", home["alice"].address, status=status, answers=())
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.error
    assert not changed(before, tree(folder))


@pytest.mark.parametrize(
    ("card", "status", "code"),
    [
        ("alice.card", 2, "input.invalid"),
        ("sim:", 2, "input.invalid"),
        ("floppy:a", 2, "input.invalid"),
        ("sim:gone.card", 4, "card.not-found"),
        ("sim:blank.card", 4, "card.blank"),
        ("sim:cut.card", 4, "card.memory-damaged"),
        ("sim:folder", 4, "card.memory-damaged"),
    ],
)
def test_unusable_cards(run: Cli, home: Home, note: Path, card: str, status: int, code: str) -> None:
    run("card", "new", "sim:blank.card")
    (run.folder / "cut.card").write_bytes(home["alice"].card_path.read_bytes()[:-9])
    (run.folder / "folder").mkdir()
    ran = run("sign", note, "--card", card, status=status, answers=())
    assert (ran.code, ran.out) == (code, "")


def test_a_folder_where_nothing_can_be_written(run: Cli, home: Home, note: Path) -> None:
    for target in (Path("/proc/1"), Path("/proc")):
        if not target.is_dir():
            pytest.skip("no /proc")
        ran = run("sign", note, "--card", home["alice"].address, "-o", target / "x.sig", status=2, answers=())
        assert ran.code == "file.unusable"


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_when_the_disk_is_full_after_signing(
    run: Cli, home: Home, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Nothing is written where not everything can be; the words say so, and the evidence has it all."""
    for name in "abc":
        (run.folder / name).write_text(name)
    calls: list[Path] = []

    def full(path: Path, content: bytes, mode: int = PRIVATE) -> Path:
        if content:
            calls.append(path)
            if len(calls) == fails_at + 1:
                raise OSError(28, "No space left on device")
        return write_beside(path, content, mode)

    monkeypatch.setattr(files, "write_beside", full)
    ran = run("sign", "a", "b", "c", "--card", home["alice"].address, pin=PIN, status=2)
    assert f"{'abc'[fails_at]}.sig: cannot be written: No space left" in ran.error
    assert "written was: nothing" in ran.error
    assert "in the evidence" in ran.err
    assert not [*run.folder.glob(".*.tmp"), *run.folder.glob("*.sig")]


def test_folders_of_signatures_are_synced(
    run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(
        files, "sync_folder", lambda folder: synced.append((folder, (folder / "note.txt.sig").exists()))
    )
    (run.folder / "to").mkdir()
    run("sign", note, "--card", home["alice"].address, "-o", "to", pin=PIN)
    assert synced == [(Path("to"), True)]


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.folder / "a").write_text("a")
    real = CardSession.authorise

    def meanwhile(session: CardSession, *arguments: Any) -> Any:
        (run.folder / "note.txt.sig").write_text("somebody else's")
        return real(session, *arguments)

    monkeypatch.setattr(CardSession, "authorise", meanwhile)
    ran = run("sign", "a", "note.txt", "--card", home["alice"].address, pin=PIN, status=2)
    assert "note.txt.sig: cannot be written: File exists" in ran.error
    assert "written was: a.sig" in ran.error
    assert (run.folder / "note.txt.sig").read_text() == "somebody else's"


@pytest.mark.parametrize(
    ("change", "code"), [("suspend", "credential.suspended"), ("revoke", "credential.revoked")]
)
def test_refused_credentials_ask_nobody(run: Cli, home: Home, note: Path, change: str, code: str) -> None:
    run("credential", change, "alice", *(["--yes"] if change == "revoke" else []))
    ran = run("sign", note, "--card", home["alice"].address, answers=(), status=3)
    assert (ran.code, ran.out) == (code, "")
    assert not Path(f"{note}.sig").exists()


def test_a_card_of_another_installation(
    run: Cli, home: Home, template_home: Home, note: Path, tmp_path: Path
) -> None:
    other = template_home.copy_to(tmp_path / "other")
    run("card", "new", "sim:carol.card")
    run("--home", other.path, "enrol", "carol", "--card", "sim:carol.card", pin=PIN)
    ran = run("sign", note, "--card", "sim:carol.card", status=3, answers=())
    assert ran.code == "credential.unknown"


def test_what_may_be_tried_again_is_tried_again_without_asking_again(
    run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two conflicts, then a stale challenge, then success; the person is asked once."""
    from hsm_signer.errors import ChallengeStale

    real, troubles = Server.sign, [RecordConflict("c"), RecordConflict("c"), ChallengeStale("s")]

    def troubled(server: Server, request: Any) -> Any:
        if troubles:
            raise troubles.pop(0)
        return real(server, request)

    monkeypatch.setattr(Server, "sign", troubled)
    run("sign", note, "--card", home["alice"].address, answers=(PIN,))
    assert run.asked == ["PIN of the card"]
    assert not troubles


def test_what_never_gets_better_is_told_with_status_8(
    run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise RecordConflict("the record is written all the time")

    monkeypatch.setattr(Server, "sign", never)
    monkeypatch.setattr(Backoff, "pause", lambda *_: 0.0)
    ran = run("sign", note, "--card", home["alice"].address, pin=PIN, status=8)
    assert ran.code == "record.conflict"
    assert not Path(f"{note}.sig").exists()


def test_a_file_that_changes_between_card_and_server(
    run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = CardSession.authorise

    def then_changed(session: CardSession, *arguments: Any) -> Any:
        answer = real(session, *arguments)
        note.write_text("I owe Bob a million euros.\n")
        return answer

    monkeypatch.setattr(CardSession, "authorise", then_changed)
    ran = run("sign", note, "--card", home["alice"].address, "--hash-on", "card", pin=PIN, status=3)
    assert ran.code == "authorisation.mismatch"
    # Read once by the host: what was authorised is what is signed, whatever the file says now.
    run("sign", note, "--card", home["alice"].address, "--hash-on", "host", pin=PIN)


def test_debug_shows_where_and_no_secret(run: Cli, home: Home, note: Path) -> None:
    ran = run("--debug", "sign", note, "--card", home["alice"].address, pin=WRONG_PIN, status=None)
    assert ran.status == 4
    assert "Traceback" in ran.err
    ran.tells_nothing()
    ran = run("--debug", "sign", note, "--card", home["alice"].address, pin="12345x", status=None)
    assert "12345x" not in ran.err
    (run.folder / "pin").write_bytes(b"4938\xff17")
    ran = run("--debug", "sign", note, "--card", home["alice"].address, "--pin-file", "pin", status=None)
    assert "4938" not in ran.err


def test_ed25519_is_always_hashed_by_the_card(note: Path) -> None:
    """No token here can wrap such a key; what would go to the card is decided all the same."""
    from hsm_signer.cli import signing
    from hsm_signer.cli.progress import Progress
    from hsm_signer.errors import AlgorithmUnsuitable
    from hsm_signer.types import Algorithm, Message

    found = files.look_at(note)
    for hash_on in ("auto", "card"):
        prepared = signing.prepare([found], Algorithm.ED25519, hash_on, 0, Progress())
        assert isinstance(prepared.content, Message)
    for inputs, hash_on in (([found], "host"), ([found, found], "auto")):
        with pytest.raises(AlgorithmUnsuitable, match="one whole FILE"):
            signing.prepare(inputs, Algorithm.ED25519, hash_on, 4096, Progress())


def test_wrong_pins_that_slipped_past_the_card_are_told(run: Cli, home: Home, tmp_path: Path) -> None:
    """Whoever has an unnoticed copy of a card is found out by its owner's next signature."""
    with home.server() as server:
        person = make_person(server, tmp_path, "dora", pin_check=PinCheck.SERVER)
    (wrong,) = passing_wrong_pins(person, 1, PIN)
    (run.folder / "dora.txt").write_text("dora")
    ran = run("sign", "dora.txt", "--card", person.address, pin=wrong, status=3)
    assert ran.code == "authorisation.wrong-key"
    ran = run("sign", "dora.txt", "--card", person.address, pin=PIN)
    assert "warning: since the signature before this one the server counted 1 wrong PIN" in ran.err
    assert "warning" not in run("sign", "dora.txt", "--card", person.address, "-f", pin=PIN).err
