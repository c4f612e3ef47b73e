"""`hsm-signer pin`: the card's PIN and PUK, on the card alone; the server takes no part in it."""

from __future__ import annotations

from pathlib import Path

import click

from hsm_signer.card.commands import CardSession, CardStatus
from hsm_signer.errors import CardBlank, CardError, CardMismatch, CardPinBlocked, CardPukBlocked, InputError

from . import output
from .context import App, OpenCard, card_option, pass_app
from .options import json_option
from .secret_input import (
    card_pin,
    card_puk,
    new_card_pin,
    new_pin_file_option,
    pin_file_option,
    puk_file_option,
)


@click.group("pin")
def command() -> None:
    """Change or unblock a card's PIN, show the tries left.

    PIN and PUK are between the card and its holder: the server has never seen them, and no installation is
    needed here.
    """


@command.command("change")
@card_option
@pin_file_option
@new_pin_file_option
@click.option(
    "--digits",
    type=click.IntRange(6, 12),
    default=6,
    show_default=True,
    help="At a reader's keypad: of the old PIN and of the new one.",
)
@pass_app
def change(app: App, card: str, pin_file: Path | None, new_pin_file: Path | None, digits: int) -> None:
    """Set a new PIN by the old one.

    A reader with a keypad that can do so asks for both itself, unless a file or a variable gives one of
    them; both have as many digits as --digits says then.
    """
    old = card_pin(pin_file, prompt="Present PIN of the card")
    new = new_card_pin(new_pin_file)
    open_card = app.card_opener(card)
    before = _with_pin(open_card)
    if not before.pin_tries:
        raise CardPinBlocked(
            "the card's PIN is blocked: no try is left",
            hint="hsm-signer pin unblock sets a new one by the PUK",
        )
    if not (old.given or new.given) and _change_at_keypad(open_card, before, digits):
        pass
    elif old() == new():
        raise InputError("the new PIN is the old one", hint="nothing was changed")
    else:
        with open_card() as session, old.blamed():
            _same_card(session, before)
            session.change_pin(old(), new())
    output.say("The PIN is changed.")
    if before.pin_check is not None and before.pin_check.name == "SERVER":
        output.say(
            "This card finds out 255 of 256 wrong PINs itself. If signing is refused with the new PIN, the "
            "old one was mistyped: hsm-signer pin unblock mends that by the PUK."
        )


@command.command("unblock")
@card_option
@puk_file_option
@new_pin_file_option
@pass_app
def unblock(app: App, card: str, puk_file: Path | None, new_pin_file: Path | None) -> None:
    """Set a new PIN by the PUK; all tries are given back.

    The old PIN may be blocked, or not.
    """
    puk = card_puk(puk_file)
    new = new_card_pin(new_pin_file)
    open_card = app.card_opener(card)
    before = _with_pin(open_card)
    if not before.puk_tries:
        there = "has no PUK" if before.puk_tries is None else "has blocked its PUK: no try is left"
        raise CardPukBlocked(
            f"the card {there}", hint="hsm-signer card reset makes it blank, to be enrolled anew"
        )
    puk(), new()
    with open_card() as session, puk.blamed():
        _same_card(session, before)
        session.unblock_pin(puk(), new())
    output.say("The new PIN is set, and all tries are given back.")


@command.command("tries")
@card_option
@json_option
@pass_app
def tries(app: App, card: str, as_json: bool) -> None:
    """Show how many tries PIN and PUK have left; uses none."""
    status = _with_pin(app.card_opener(card))
    if as_json:
        output.json_data({"pin": status.pin_tries, "puk": status.puk_tries})
        return
    output.fields(
        [
            ("PIN", _left(status.pin_tries)),
            ("PUK", "none" if status.puk_tries is None else _left(status.puk_tries)),
        ]
    )


def _left(number: int | None) -> str:
    return f"{output.count(number, 'try')} left" if number else "blocked"


def _with_pin(open_card: OpenCard) -> CardStatus:
    """The card's status, before anybody is asked for a PIN. Raises CardBlank, CardError for scheme basic."""
    with open_card() as session:
        status = session.status()
    if status.credential_id is None:
        raise CardBlank("the card is blank: it has no PIN yet", hint="enrol somebody with it first")
    if status.pin_tries is None:
        raise CardError("a card of scheme basic has no PIN")
    return status


def _change_at_keypad(open_card: OpenCard, before: CardStatus, digits: int) -> bool:
    """False where the reader cannot do it; nothing was asked then."""
    with open_card() as session:
        keypad = session.keypad
        if keypad is None or not keypad.can_change:
            return False
        _same_card(session, before)
        output.say(
            f"Type at the reader's keypad: the old PIN, the new PIN, the new PIN again, {digits} digits each."
        )
        session.change_pin_at_keypad(digits)
    return True


def _same_card(session: CardSession, before: CardStatus) -> None:
    """The card was not held while somebody typed."""
    status = session.status()
    if (status.serial, status.credential_id) != (before.serial, before.credential_id):
        raise CardMismatch("another card was put in meanwhile; nothing was changed")
