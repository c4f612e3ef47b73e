"""`hsm-signer card`: what a card says of itself, a simulated card, a reset."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from hsm_signer.card.address import connect_card, create_card
from hsm_signer.card.apdu import CardState
from hsm_signer.card.commands import CardStatus
from hsm_signer.card.pcsc import list_cards
from hsm_signer.card.selftest import probe
from hsm_signer.config.home import refuse_open_to_others
from hsm_signer.core.card_origin import MAX_PEM, certify, check_origin, issuer_key_from_pem
from hsm_signer.errors import CardMismatch, ConfigError, CredentialUnknown, SignerError, VerificationFailed
from hsm_signer.types import CredentialId, Status
from hsm_signer.workstation.servers import AnyCredential

from . import files, output
from .context import CARD_WAIT, App, card_argument, confirm, pass_app
from .options import PATH, json_option, yes_option
from .secret_input import card_pin, pin_file_option


@click.group("card")
def command() -> None:
    """List, look at, test, issue and reset cards; make a simulated one.

    Only issue and reset change what is on one.
    """


@command.command("list")
@json_option
@pass_app
def list_command(app: App, as_json: bool) -> None:
    """List the readers, the cards in them, and whose they are.

    A card that another program uses is left alone.
    """
    found = list_cards()
    owners = _owners(app, [info.status.credential_id for info in found if info.status is not None])
    rows = []
    for info in found:
        status = info.status
        owner = None if status is None or status.credential_id is None else owners.get(status.credential_id)
        row: dict[str, Any] = {
            "reader": info.reader,
            "card_present": info.present,
            "atr": info.atr.hex() or None,
            "application": status is not None,
            "owner": owner,
            "problem": None if info.problem is None else info.problem.code,
            "status": None if status is None else _described(status),
        }
        rows.append((row, info.problem))
    if as_json:
        output.json_data([row for row, _ in rows])
        return
    if not rows:
        output.say("There is no smart card reader.")
        return
    table = []
    for row, problem in rows:
        if row["status"] is not None:
            state = row["status"]["state"].replace("-", " ")
        elif problem is not None:
            state = "no signing application" if problem.code == "card.not-found" else problem.message
        else:
            state = "no card"
        serial = "" if row["status"] is None else row["status"]["serial"]
        table.append((row["reader"], state, row["owner"] or "", serial))
    output.table(("READER", "CARD", "USER", "SERIAL"), table)


def _owners(app: App, credential_ids: list[CredentialId | None]) -> dict[CredentialId, str]:
    """Users of this installation by credential id; nobody where there is none, which is said."""
    wanted = [number for number in credential_ids if number is not None]
    owners: dict[CredentialId, str] = {}
    if not wanted:
        return owners
    try:
        with app.server() as server:
            for credential_id in wanted:
                with suppress(CredentialUnknown):
                    owners[credential_id] = server.credential_by_id(credential_id).owner
    except SignerError as error:
        output.say(f"note: whose cards these are cannot be told: {output.printable(error.message)}")
    return owners


@command.command("selftest")
@card_argument
@json_option
@pass_app
def selftest(app: App, card: str, as_json: bool) -> None:
    """Find out whether a card can be enrolled, and what it lacks. Nothing on it is changed.

    Exit status 0 if nothing is missing, else 7.
    """
    with connect_card(card, timeout=CARD_WAIT, wait=app.wait) as connection:
        result = probe(connection)
    if as_json:
        checks = [
            {"name": check.name, "passed": check.passed, "found": check.found, "seconds": check.seconds}
            for check in result.checks
        ]
        output.json_data({"good": result.passed, "checks": checks})
    else:
        words = {True: "ok", False: "MISSING", None: "-"}
        output.table(
            ("", "CHECK", "FOUND", "TIME"),
            [
                (
                    words[check.passed],
                    check.name,
                    check.found,
                    "" if check.seconds is None else f"{check.seconds * 1000:.1f} ms",
                )
                for check in result.checks
            ],
        )
    if not result.passed:
        missing = ", ".join(check.name for check in result.missing)
        raise VerificationFailed(
            f"this card cannot be enrolled; it lacks: {missing}",
            hint="docs/run/readers.md says what a card needs, and how the application gets onto it",
        )


@command.command("new")
@click.argument("card", metavar="CARD")
def new(card: str) -> None:
    """Make a blank simulated card.

    CARD is sim:PATH, and PATH must not exist yet.
    """
    create_card(card)
    output.say(f"{output.printable(card)} is a blank card. Next: hsm-signer enrol USER --card CARD")


@command.command("issue")
@card_argument
@click.option(
    "--issuer",
    type=PATH,
    required=True,
    metavar="KEY",
    help="The issuer's private key (P-256, PEM, no passphrase).",
)
@json_option
@pass_app
def issue(app: App, card: str, issuer: Path, as_json: bool) -> None:
    """Give a blank card its origin, once for its life.

    The card makes a key of its own, which never leaves it, and the issuer certifies it. Who enrols can then
    ask for cards of this issuer: enrol --require-card-origin, or [enrolment] of service.toml. A reset keeps
    the origin.
    """
    refuse_open_to_others(files.look_at(issuer).path)
    key = issuer_key_from_pem(files.read_bounded(issuer, MAX_PEM, "issuer's key"), str(issuer))
    with app.card_opener(card)() as session:
        point, serial = session.begin_issue()
        session.issue(certify(key, point, serial))
        # The card takes any signature, and only once: what it proves from now on is looked at.
        blank = session.begin_personalisation()
        check_origin(blank.origin, blank.point, blank.serial, (key.public_key(),))
        session.select()
    if as_json:
        output.json_data({"card": card, "serial": serial.hex(), "origin_point": point.hex()})
    else:
        output.say(f"{output.printable(card)} is issued: serial {serial.hex()}, origin key {point.hex()}")


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
            owner, owner_status = record.owner, record.status.value
    described = _described(status)
    if as_json:
        output.json_data({"card": card, **described, "owner": owner, "credential_status": owner_status})
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
    """Make a card blank again.

    The credential's keys on it are gone for good. The card wants its PIN for that, unless it has none (scheme
    basic), or PIN and PUK are both blocked. The credential itself stays: revoke it, for no other card can
    ever authorise it.
    """
    pin = card_pin(pin_file)
    open_card = app.card_opener(card)
    with open_card() as session:
        before = session.status()
        at_keypad = pin.wanted_at_keypad(session)
    if before.state is CardState.BLANK:
        output.say("The card is blank already.")
        return
    if before.credential_id is not None:
        _warn_if_alive(app, before.credential_id)
    confirm(f"Reset {output.printable(card)}? Its credential can never be used again.", yes=yes)
    if _wants_pin(before) and not at_keypad:
        pin()
    with open_card() as session:
        status = session.status()
        if (status.serial, status.credential_id) != (before.serial, before.credential_id):
            raise CardMismatch("another card was put in meanwhile; nothing was reset")
        if _wants_pin(status):
            if at_keypad:
                output.say("Type the card's PIN at the reader's keypad.")
                session.verify_pin_at_keypad()
            else:
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
    try:
        record = _record(app, credential_id)
    except SignerError:
        return
    if record.status is not Status.REVOKED:
        owner = output.printable(record.owner)
        output.warn(
            f"this is the card of {owner}, whose credential is {record.status.value}. It can never "
            f"sign again without this card's keys: hsm-signer credential revoke {shlex.quote(owner)}"
        )


def _record(app: App, credential_id: CredentialId) -> AnyCredential:
    with app.server() as server:
        return server.credential_by_id(credential_id)


def _tries(left: int) -> str:
    return f"{output.count(left, 'try')} left" if left else "blocked"


def _described(status: CardStatus) -> dict[str, Any]:
    return {
        "state": status.state.value,
        "credential_id": None if status.credential_id is None else status.credential_id.hex(),
        "scheme": None if status.scheme is None else status.scheme.value,
        "pin_check": None if status.pin_check is None else status.pin_check.value,
        "pin_policy": None if status.pin_policy is None else status.pin_policy.value,
        "pin_tries": status.pin_tries,
        "puk_tries": status.puk_tries,
        "serial": status.serial.hex(),
        "features": [
            (feature.name or "").lower().replace("_", "-")
            for feature in type(status.features)
            if feature in status.features
        ],
    }
