"""`enrol`: checks first, then prompts; PIN and PUK shown once; interrupted and finished."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.card.commands import CardSession
from hsm_signer.cli import enrolment
from hsm_signer.errors import CardRemoved
from hsm_signer.testing import PIN, WRONG_PIN, Home
from hsm_signer.workstation.enrolment import enrol
from tests.support import needs
from tests.support.commandline import Cli, changed, tree

PUK_LINE = re.compile(r"^PUK: ([A-Z2-9]{4}-){5}[A-Z2-9]{4}$", re.MULTILINE)


@pytest.fixture
def card(run: Cli) -> str:
    """A blank card."""
    run("card", "new", "sim:new.card")
    return "sim:new.card"


def test_enrol_shows_the_puk_once_and_writes_the_request(run: Cli, card: str, note: Path) -> None:
    openssl = needs.program("openssl", "openssl")
    request = ("--csr", "carol.csr", "--subject", "CN=Carol,O=Example")
    ran = run("enrol", "carol", "--card", card, *request, pin=PIN)
    assert PUK_LINE.fullmatch(ran.out.rstrip("\n"))
    assert PIN not in ran.out + ran.err
    checked = subprocess.run(
        [openssl, "req", "-in", "carol.csr", "-verify", "-noout", "-subject"],
        cwd=run.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "verify OK" in checked.stderr + checked.stdout
    assert "CN = Carol" in checked.stdout
    shown = run("credential", "show", "carol", "--json").json
    assert (shown["key"], shown["scheme"], shown["pin_check"]) == ("p256", "rolling", "server")
    assert (shown["pin_policy"], shown["status"]) == ("always", "active")
    run("sign", note, "--card", card, pin=PIN)
    puk = ran.out.removeprefix("PUK: ").strip()
    variables = {"HSM_SIGNER_CARD_PUK": puk, "HSM_SIGNER_CARD_NEW_PIN": "818283"}
    run("pin", "unblock", "--card", card, env=variables)
    run("sign", note, "--card", card, "--force", pin="818283")


def test_enroll_json_with_everything_generated(run: Cli, card: str) -> None:
    ran = run("enroll", "carol", "--card", card, "--generate-pin", "--csr", "c.csr", "--scheme", "pin",
              "--key", "p384", "--pin-check", "card", "--pin-policy", "session", "--json")  # fmt: skip
    assert set(ran.json) == {
        "owner", "credential_id", "key", "scheme", "card_serial", "resumed", "pin", "puk", "csr",
    }  # fmt: skip
    assert ran.json["owner"] == "carol"
    assert (ran.json["key"], ran.json["scheme"], ran.json["csr"]) == ("p384", "pin", "c.csr")
    assert not ran.json["resumed"]
    assert ran.err == ""
    assert re.fullmatch("[0-9]{6}", ran.json["pin"])
    (run.folder / "f").write_text("")
    run("sign", "f", "--card", card, pin=ran.json["pin"])
    shown = run("card", "info", card, "--json").json
    assert (shown["pin_check"], shown["pin_policy"]) == ("card", "session")
    assert (shown["owner"], shown["credential_id"]) == ("carol", ran.json["credential_id"])


def test_puk_to_a_file_and_generated_pin_on_standard_output(run: Cli, card: str) -> None:
    ran = run("enrol", "carol", "--card", card, "--generate-pin", "--puk-file", "puk")
    assert re.fullmatch(r"PIN: [0-9]{6}\n", ran.out)
    assert stat.S_IMODE((run.folder / "puk").stat().st_mode) == 0o600
    assert PUK_LINE.fullmatch("PUK: " + (run.folder / "puk").read_text().strip())
    (run.folder / "new").write_text("818283\n")
    run("pin", "unblock", "--card", card, "--puk-file", "puk", "--new-pin-file", "new")
    assert run("pin", "tries", "--card", card, "--json").json == {"pin": 3, "puk": 10}


def test_without_puk_and_with_a_prompt(run: Cli, card: str) -> None:
    ran = run("enrol", "carol", "--card", card, "--no-puk", answers=("12", PIN, WRONG_PIN, PIN, PIN))
    # Too short; not repeated; repeated.
    assert run.asked == [
        "PIN for the card",
        "PIN for the card",
        "PIN for the card, once more",
        "PIN for the card",
        "PIN for the card, once more",
    ]
    assert ran.out == ""
    ran.tells_nothing()
    assert "no PUK" in ran.err
    assert run("pin", "tries", "--card", card, "--json").json == {"pin": 3, "puk": None}


def test_scheme_basic_has_no_pin(run: Cli, card: str, note: Path) -> None:
    ran = run("enrol", "carol", "--card", card, "--scheme", "basic", "--json")
    assert "pin" not in ran.json
    assert "puk" not in ran.json
    run("sign", note, "--card", card)
    for command in (("change",), ("unblock",), ("tries",)):
        assert run("pin", *command, "--card", card, status=4).code == "card.error"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("alice", "--card", "sim:new.card"), 3, "credential.exists"),
        (("carol", "--card", "sim:gone.card"), 4, "card.not-found"),
        (("carol", "--card", "new.card"), 2, "input.invalid"),
        (("carol", "--card", "sim:{home}/cards/alice.card"), 4, "card.not-blank"),
        (("carol", "--card", "sim:broken.card"), 4, "card.memory-damaged"),
        (("carol", "--card", "sim:new.card", "--key", "ed25519"), 5, "token.unsuitable"),
        (("", "--card", "sim:new.card"), 2, "input.invalid"),
        (("caro\x1bl", "--card", "sim:new.card"), 2, "input.invalid"),
        (("carol", "--card", "sim:new.card", "--subject", "Carol"), 2, "input.invalid"),
        (("carol", "--card", "sim:new.card", "--csr", "no/c.csr"), 2, "file.unusable"),
        (("carol", "--card", "sim:new.card", "--csr", "there"), 2, "file.unusable"),
        (("carol", "--card", "sim:new.card", "--puk-file", "there"), 2, "file.unusable"),
        (("carol", "--card", "sim:new.card", "--pin-file", "gone"), 2, "file.unusable"),
        (("carol", "--card", "sim:new.card", "--pin-file", "there"), 2, "pin.malformed"),
        (("carol", "--card", "sim:new.card", "--pin-file", "empty"), 2, "input.invalid"),
        (("carol", "--card", "sim:new.card"), 2, "pin.missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_refused_before_anything_changes(
    run: Cli, home: Home, card: str, arguments: tuple[str, ...], status: int, code: str
) -> None:
    del card
    (run.folder / "there").write_text("is no PIN\n")
    (run.folder / "empty").write_text("")
    (run.folder / "broken.card").write_bytes(b"?")
    before = tree(run.folder)
    filled = [each.replace("{home}", str(home.path)) for each in arguments]
    ran = run("enrol", *filled, status=status)
    assert ran.code == code
    assert ran.out == ""
    assert "\x1b" not in ran.err
    assert not changed(before, tree(run.folder))


def test_nobody_is_asked_before_the_checks(run: Cli, card: str) -> None:
    """A terminal is there, but an error comes first: with answers=() every question would fail the test."""
    assert run("enrol", "alice", "--card", card, answers=(), status=3).code == "credential.exists"
    ran = run("enrol", "u", "--card", card, "--key", "ed25519", answers=(), status=5)
    assert ran.code == "token.unsuitable"
    assert "ed25519" in ran.error
    assert run("enrol", "u", "--card", card, "--csr", "no/x", answers=(), status=2).code == "file.unusable"


def test_three_bad_entries_are_enough(run: Cli, card: str) -> None:
    ran = run("enrol", "carol", "--card", card, answers=("1", "x", "123456789012345"), status=2)
    assert "pin.malformed" in ran.err
    assert "123456789012345" not in ran.err
    ran = run("enrol", "carol", "--card", card, answers=(PIN, WRONG_PIN) * 3, status=2)
    assert ran.code == "pin.malformed"
    ran.tells_nothing()
    assert run("card", "info", card, "--json").json["state"] == "blank"


class _Cable:
    """Breaks the connection in the middle of enrolment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, *, after: bool) -> None:
        real = getattr(CardSession, method)

        def broken(session: CardSession, *arguments: Any, **more: Any) -> Any:
            monkeypatch.setattr(CardSession, method, real)
            if after:
                real(session, *arguments, **more)
            raise CardRemoved("the cable")

        monkeypatch.setattr(CardSession, method, broken)


@pytest.mark.parametrize("method", ["install", "authorise"])
def test_interrupted_enrolment_is_finished_by_the_same_command(
    run: Cli, card: str, note: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """After INSTALL nobody may lose the PUK; then the same command finishes, with the PIN the card has."""
    _Cable(monkeypatch, method, after=method == "install")
    ran = run("enrol", "carol", "--card", card, pin=PIN, status=4)
    assert ran.code == "card.removed"
    assert ran.out == ""
    assert PUK_LINE.search(ran.err)
    assert run("credential", "show", "carol", "--json").json["status"] == "pending"
    assert run("sign", note, "--card", card, pin=PIN, status=3).code == "credential.pending"
    ran = run("enrol", "carol", "--card", card, "--generate-pin", status=2)
    assert "already" in ran.error
    assert run("enrol", "carol", "--card", card, "--scheme", "pin", pin=PIN, status=2).code == "input.invalid"
    ran = run("enrol", "carol", "--card", card, "--csr", "c.csr", "--json", answers=(PIN,))
    assert run.asked == ["PIN of the card"]
    assert ran.json["resumed"] is True
    assert "puk" not in ran.json
    assert (run.folder / "c.csr").exists()
    run("sign", note, "--card", card, pin=PIN)


def test_wrong_pin_when_an_enrolment_is_finished(
    run: Cli, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Cable(monkeypatch, "authorise", after=False)
    run("enrol", "carol", "--card", card, "--pin-check", "card", pin=PIN, status=4)
    ran = run("enrol", "carol", "--card", card, "--pin-check", "card", pin=WRONG_PIN, status=4)
    assert ran.code == "card.pin-wrong"
    assert "came from: HSM_SIGNER_CARD_PIN" in ran.err
    ran.tells_nothing()
    run("enrol", "carol", "--card", card, pin=PIN)


def test_a_card_that_refuses_leaves_neither_record_nor_puk_file(
    run: Cli, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Cable(monkeypatch, "install", after=False)
    run("enrol", "carol", "--card", card, "--puk-file", "puk", pin=PIN, status=4)
    assert not (run.folder / "puk").exists()
    # The blank card and the pending record: the same command begins anew.
    ran = run("enrol", "carol", "--card", card, "--puk-file", "puk", pin=PIN)
    assert (run.folder / "puk").exists()
    assert ran.out == ""
    assert [r["owner"] for r in run("credential", "list", "--json").json].count("carol") == 1


def test_the_request_that_cannot_be_written_does_not_hide_the_puk(
    run: Cli, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = enrol

    def then_full(*arguments: Any, **more: Any) -> Any:
        enrolled = real(*arguments, **more)
        (run.folder / "c.csr").mkdir()
        return enrolled

    monkeypatch.setattr(enrolment, "enrol", then_full)
    ran = run("enrol", "carol", "--card", card, "--csr", "c.csr", pin=PIN, status=2)
    assert ran.code == "file.unusable"
    assert PUK_LINE.search(ran.out)


def test_more_algorithms_by_choice_and_with_a_warning(run: Cli, card: str, note: Path) -> None:
    enrol = ("enrol", "carol", "--card", card, "--no-puk")
    wrong = run(*enrol, "--allow-algorithm", "ed25519", pin=PIN, status=2)
    assert wrong.code == "algorithm.unsuitable"
    more = ("--allow-algorithm", "ecdsa-sha512", "--allow-algorithm", "ECDSA-SHA256")
    ran = run(*enrol, *more, pin=PIN)
    warnings = [line for line in ran.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "ecdsa-sha512 with key p256 signs the first 32 bytes of a digest and no more" in warnings[0]
    allowed = run("credential", "show", "carol", "--json").json["algorithms"]
    assert allowed == ["ecdsa-sha256", "ecdsa-sha512"]
    run("sign", note, "--card", card, "--algorithm", "ecdsa-sha512", pin=PIN)


def test_by_default_a_key_signs_whole_digests(run: Cli, card: str, note: Path) -> None:
    ran = run("enrol", "carol", "--card", card, "--no-puk", pin=PIN)
    assert "warning" not in ran.err
    assert run("credential", "show", "carol", "--json").json["algorithms"] == ["ecdsa-sha256"]
    refused = run("sign", note, "--card", card, "--algorithm", "ecdsa-sha384", pin=PIN, status=3)
    assert refused.code == "algorithm.not-allowed"
