"""`hsm-signer card`: what a card says of itself, a simulated card, a reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigError, CredentialUnknown, SignerError
from . import output
from .context import App, card_argument, confirm, json_option, pass_app, yes_option
from .secret_input import card_pin, pin_file_option

if TYPE_CHECKING:
    from pathlib import Path

    from ..card.session import CardStatus
    from ..types import CredentialId, CredentialRecord


@click.group("card")
def command() -> None:
    """Look at a card, make a simulated one, reset one. Only a reset changes what is on it."""


@command.command("new")
@card_argument
def new(card: str) -> None:
    """Make a blank simulated card: CARD is sim:PATH, and PATH must not exist yet."""
    from ..card.address import create_card

    create_card(card)
    output.say(f"{output.printable(card)} is a blank card. Next: hsm-signer enrol USER --card CARD")


@command.command("info")
@card_argument
@json_option
@pass_app
def info(app: App, card: str, as_json: bool) -> None:
    """Show a card's state, credential, tries left and serial.

    It needs no PIN and no installation; where there is one, it says whose card this is.
    """
    with app.card_opener(card)() as session:
        status = session.status()
    owner, owner_status = None, None
    if status.credential_id is not None:
        try:
            record = _record(app, status.credential_id)
        except CredentialUnknown:
            output.warn("this installation does not know the card's credential")
        except ConfigError as error:
            output.say(f"note: whose card this is cannot be told: {output.printable(error.message)}")
        except SignerError as error:
            words = output.printable(error.message)
            output.warn(f"whose card this is cannot be told: {words} [{error.code}]")
        else:
            owner, owner_status = record.owner, record.status.name.lower()
    described = _described(status)
    if as_json:
        output.json_data({"card": card, **described, "user": owner, "credential_status": owner_status})
        return
    rows: list[tuple[str, object]] = [("card", card), ("state", described["state"].replace("-", " "))]
    if status.credential_id is not None:
        rows += [("user", f"{owner} ({owner_status})" if owner is not None else "not known here")]
        rows += [
            (name.replace("_", " "), described[name])
            for name in ("credential_id", "scheme", "pin_check", "pin_policy")
            if described[name] is not None
        ]
        if status.pin_tries is not None:
            rows.append(("PIN", _tries(status.pin_tries)))
            rows.append(("PUK", "none" if status.puk_tries is None else _tries(status.puk_tries)))
    rows += [("serial", described["serial"]), ("features", ", ".join(described["features"]) or "none")]
    output.fields(rows)


@command.command("reset")
@card_argument
@pin_file_option
@yes_option
@pass_app
def reset(app: App, card: str, pin_file: Path | None, yes: bool) -> None:
    """Make a card blank again; the credential's keys on it are gone for good.

    The card wants its PIN for that, unless it has none (scheme basic), or PIN and PUK are both blocked. The
    credential itself stays: revoke it, for no other card can ever authorise it.
    """
    from ..card.apdu import CardState

    pin = card_pin(pin_file)
    open_card = app.card_opener(card)
    with open_card() as session:
        before = session.status()
    if before.state is CardState.BLANK:
        output.say("The card is blank already.")
        return
    if before.credential_id is not None:
        _warn_if_alive(app, before.credential_id)
    confirm(f"Reset {output.printable(card)}? Its credential can never be used again.", yes=yes)
    if _wants_pin(before):
        pin()
    with open_card() as session:
        status = session.status()
        if (status.serial, status.credential_id) != (before.serial, before.credential_id):
            from ..errors import CardMismatch

            raise CardMismatch("another card was put in meanwhile; nothing was reset")
        if _wants_pin(status):
            with pin.blamed():
                session.verify_pin(pin())
        session.factory_reset()
    output.say("The card is blank.")


def _wants_pin(status: CardStatus) -> bool:
    if status.pin_tries is None:
        return False  # scheme basic
    # An absent PUK counts as blocked.
    return status.pin_tries > 0 or bool(status.puk_tries)


def _warn_if_alive(app: App, credential_id: CredentialId) -> None:
    from ..types import Status

    try:
        record = _record(app, credential_id)
    except SignerError:
        return
    if record.status is not Status.REVOKED:
        owner = output.printable(record.owner)
        output.warn(
            f"this is the card of {owner}, whose credential is {record.status.name.lower()}. It can never "
            f"sign again without this card's keys: hsm-signer credential revoke {owner}"
        )


def _record(app: App, credential_id: CredentialId) -> CredentialRecord:
    with app.server() as server:
        return server.record(credential_id)


def _tries(left: int) -> str:
    return f"{output.count(left, 'try')} left" if left else "blocked"


def _described(status: CardStatus) -> dict[str, Any]:
    return {
        "state": status.state.name.lower().replace("_", "-"),
        "credential_id": None if status.credential_id is None else status.credential_id.hex(),
        "scheme": None if status.scheme is None else status.scheme.name.lower(),
        "pin_check": None if status.pin_check is None else status.pin_check.name.lower(),
        "pin_policy": None if status.pin_policy is None else status.pin_policy.name.lower(),
        "pin_tries": status.pin_tries,
        "puk_tries": status.puk_tries,
        "serial": status.serial.hex(),
        "features": [
            (each.name or "").lower().replace("_", "-")
            for each in type(status.features)
            if each in status.features
        ],
    }
