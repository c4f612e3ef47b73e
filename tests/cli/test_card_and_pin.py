"""`card` and `pin`: with an installation and without."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.card.commands import CardSession
from hsm_signer.testing import PIN, PUK, WRONG_PIN, Home
from tests.support.commandline import Cli, changed, tree

NEW_PIN = "606162"


def test_new_and_info_of_a_blank_card_without_an_installation(nowhere: Cli) -> None:
    ran = nowhere("card", "new", "sim:my card")
    assert ran.out == ""
    assert "blank card" in ran.err
    path = nowhere.folder / "my card"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = nowhere("card", "info", "sim:my card", "--json").json
    assert (found["card"], found["state"], found["credential_id"]) == ("sim:my card", "blank", None)
    assert len(bytes.fromhex(found["serial"])) == 8
    assert "combine-cbc" in found["features"]
    words = nowhere("card", "info", "sim:my card")
    assert words.out.splitlines()[1].split() == ["state", "blank"]
    assert words.err == ""
    before = path.read_bytes()
    assert nowhere("card", "new", "sim:my card", status=2).code == "file.unusable"
    assert nowhere("card", "new", "sim:no/where", status=2).code == "file.unusable"
    assert nowhere("card", "new", "my card", status=2).code == "input.invalid"
    assert path.read_bytes() == before
    assert nowhere("card", "reset", "sim:my card", "--yes").err == "The card is blank already.\n"
    for command in ("tries", "change", "unblock"):
        assert nowhere("pin", command, "--card", "sim:my card", status=4, answers=()).code == "card.blank"


def test_info_of_an_enrolled_card(run: Cli, nowhere: Cli, home: Home, template_home: Home) -> None:
    found = run("card", "info", home["alice"].address, "--json").json
    assert (found["owner"], found["credential_status"], found["scheme"]) == ("alice", "active", "rolling")
    assert (found["pin_tries"], found["puk_tries"], found["pin_check"]) == (3, 10, "card")
    words = run("card", "info", home["basil"].address).out
    assert "basil (active)" in words
    assert "PIN" not in words
    # Elsewhere the card says the same, but nobody knows whose it is.
    ran = nowhere("card", "info", home["alice"].address)
    assert "not known here" in ran.out
    assert "3 tries left" in ran.out
    assert ran.err.startswith("note: ")
    other = template_home.copy_to(run.folder / "other")
    with_carol = ("--home", other.path)
    run("card", "new", "sim:carol.card")
    run(*with_carol, "enrol", "carol", "--card", "sim:carol.card", pin=PIN)
    assert "does not know" in run("card", "info", "sim:carol.card").err
    (home.path / "token.pin").write_text("wrong\n")
    ran = run("card", "info", home["alice"].address)
    assert "[token.pin-wrong]" in ran.err
    assert "3 tries left" in ran.out


def test_reset(run: Cli, home: Home, note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = home["alice"].address
    ran = run("card", "reset", card, status=2)
    assert "warning: this is the card of alice, whose credential is active" in ran.err
    assert "--yes" in ran.err
    ran = run("card", "reset", card, "--yes", pin=WRONG_PIN, status=4)
    assert ran.code == "card.pin-wrong"
    ran.tells_nothing()
    answers = iter(("n", "y"))
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdin, "isatty", lambda: True)
        patch.setattr("click.termui.visible_prompt_func", lambda _: next(answers))
        run("card", "reset", card, answers=(), status=2)
        run("card", "reset", card, answers=(PIN,))
    assert run("card", "info", card, "--json").json["state"] == "blank"
    assert run("sign", note, "--card", card, pin=PIN, status=4).code == "card.blank"
    # Scheme basic wants no PIN.
    run("card", "reset", home["basil"].address, "--yes", answers=())
    run("credential", "revoke", "bob", "--yes")
    assert "warning" not in run("card", "reset", home["bob"].address, "--yes", pin=PIN).err


def test_change_pin(run: Cli, nowhere: Cli, home: Home, note: Path) -> None:
    card = home["alice"].address
    ran = nowhere("pin", "change", "--card", card, answers=(PIN, NEW_PIN, NEW_PIN))
    assert nowhere.asked == ["Present PIN of the card", "New PIN", "New PIN, once more"]
    assert NEW_PIN not in ran.out + ran.err
    ran.tells_nothing()
    assert ran.out == ""
    run("sign", note, "--card", card, pin=NEW_PIN)
    (run.folder / "old").write_text(NEW_PIN)
    (run.folder / "new").write_text(PIN)
    run("pin", "change", "--card", card, "--pin-file", "old", "--new-pin-file", "new")
    run("sign", note, "--card", card, "-f", pin=PIN)
    before = tree(run.folder)
    for answers, status, code in (
        ((WRONG_PIN, NEW_PIN, NEW_PIN), 4, "card.pin-wrong"),
        ((PIN, PIN, PIN), 2, "input.invalid"),
        ((PIN, NEW_PIN, PIN, NEW_PIN, PIN, NEW_PIN, PIN), 2, "pin.malformed"),
    ):
        ran = run("pin", "change", "--card", card, answers=answers, status=status)
        assert ran.code == code
        ran.tells_nothing()
        assert NEW_PIN not in ran.out + ran.err
    assert run("pin", "change", "--card", card, pin=PIN, status=2).code == "pin.missing"
    assert changed(before, tree(run.folder)) == {"home/cards/alice.card"}  # the wrong one used a try
    assert run("pin", "tries", "--card", card, "--json").json == {"pin": 2, "puk": 10}


def test_change_under_pin_check_server_says_what_to_look_for(run: Cli) -> None:
    run("card", "new", "sim:c.card")
    run("enrol", "carol", "--card", "sim:c.card", pin=PIN)
    new = {"HSM_SIGNER_CARD_NEW_PIN": NEW_PIN}
    assert "pin unblock" in run("pin", "change", "--card", "sim:c.card", pin=PIN, env=new).err


def test_unblock_pin(run: Cli, home: Home, note: Path) -> None:
    card = home["alice"].address
    for left in (2, 1, 0):
        run("sign", note, "--card", card, pin=WRONG_PIN, status=4)
        assert run("pin", "tries", "--card", card, "--json").json["pin"] == left
    assert run("card", "info", card, "--json").json["state"] == "pin-blocked"
    wrong = "ZZZZZZZZZZZZZZZZZZZZZZZZ"
    ran = run("pin", "unblock", "--card", card, answers=(wrong, NEW_PIN, NEW_PIN), status=4)
    assert ran.code == "card.puk-wrong"
    assert "9 tries left" in ran.error
    assert "the PUK that was used came from: prompt" in ran.err
    assert wrong not in ran.err
    ran = run("pin", "unblock", "--card", card, answers=(PUK, NEW_PIN, NEW_PIN))
    assert run.asked == ["PUK of the card", "New PIN", "New PIN, once more"]
    ran.tells_nothing()
    assert run("pin", "tries", "--card", card, "--json").json == {"pin": 3, "puk": 10}
    run("sign", note, "--card", card, pin=NEW_PIN)
    # It works on a card that is not blocked, too, with the PUK as people type it.
    grouped = "-".join(PUK[i : i + 4] for i in range(0, 24, 4))
    (run.folder / "puk").write_text(grouped + "\n")
    env = {"HSM_SIGNER_CARD_NEW_PIN": PIN}
    run("pin", "unblock", "--card", card, "--puk-file", "puk", env=env)
    run("sign", note, "--card", card, "-f", pin=PIN)
    env = {"HSM_SIGNER_CARD_PUK": "too short"}
    assert run("pin", "unblock", "--card", card, env=env, status=2).code == "pin.malformed"


@pytest.mark.parametrize("command", [("reset", "--yes"), ("change",), ("unblock",)])
def test_another_card_put_in_while_somebody_typed(
    run: Cli, home: Home, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    alice, bob = home["alice"].card_path, home["bob"].card_path
    real = CardSession.status
    asked: list[int] = []

    def exchanged(session: CardSession) -> Any:
        status = real(session)
        if not asked:
            alice.write_bytes(bob.read_bytes())
        asked.append(1)
        return status

    monkeypatch.setattr(CardSession, "status", exchanged)
    before = bob.read_bytes()
    group = ("card", "reset", f"sim:{alice}", "--yes") if command[0] == "reset" else (
        "pin", *command, "--card", f"sim:{alice}"
    )  # fmt: skip
    env = {"HSM_SIGNER_CARD_NEW_PIN": NEW_PIN, "HSM_SIGNER_CARD_PUK": PUK}
    assert run(*group, pin=PIN, env=env, status=4).code == "card.mismatch"
    assert alice.read_bytes() == before
