"""The command ``card-applet-sim``: make a simulated card, look at it, talk to it by hand."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from pathlib import Path
from typing import NoReturn, TextIO

import click

from . import CardError, SimulatedCard, vpcd
from . import constants as c
from .command_data import parse_tlvs

_SELECT = bytes([c.SELECT.cla, c.SELECT.ins, c.SELECT.p1, c.SELECT.p2, len(c.AID)]) + c.AID + b"\x00"
_PATH = click.Path(dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(*, debug: bool) -> None:
    """A simulated signature card. Its memory is one file; for trials and tests, not for keeping keys."""
    # entry() reads --debug from the context; click wants the parameter here.
    del debug


@main.command()
@click.argument("path", type=_PATH)
def new(path: Path) -> None:
    """Make a blank card with its memory at PATH."""
    SimulatedCard.create(path)


@main.command()
@click.argument("path", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(path: Path, *, as_json: bool) -> None:
    """Show what the card at PATH says about itself: nothing secret."""
    with SimulatedCard(path) as card:
        answer = card.transmit(_SELECT)
    if answer[-2:] != b"\x90\x00":
        raise CardError(f"the card refuses to be selected: {answer.hex()}")
    fields = _describe(answer[:-2])
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {value}")


def _describe(fci: bytes) -> dict[str, str | int]:
    """Names and values of a SELECT answer, in the order of the tags."""
    tlvs = parse_tlvs(parse_tlvs(parse_tlvs(fci)[c.Tag.FCI])[c.Tag.PROPRIETARY])
    fields: dict[str, str | int] = {}
    for tag, value in tlvs.items():
        name = c.Tag(tag).name.lower()
        number = int.from_bytes(value)
        codes = _CODES.get(tag)
        if codes:
            fields[name] = codes(number).name.lower()
        elif tag in (c.Tag.CREDENTIAL_ID, c.Tag.SERIAL, c.Tag.FEATURES):
            fields[name] = value.hex()
        else:
            fields[name] = number
    return fields


_CODES: dict[int, type[IntEnum]] = {
    c.Tag.STATE: c.State,
    c.Tag.SCHEME: c.Scheme,
    c.Tag.COMBINE: c.Combine,
    c.Tag.PIN_POLICY: c.PinPolicy,
    c.Tag.PIN_CHECK: c.PinCheck,
}


@main.command()
@click.argument("path", type=_PATH)
def apdu(path: Path) -> None:
    """Send APDUs to the card at PATH.

    One APDU in hexadecimal a line on standard input, blanks allowed; one answer a line on standard output. An
    empty line or one that begins with # is skipped; the word reset takes the card's power away and gives it
    back.
    """
    with SimulatedCard(path) as card:
        for number, line in enumerate(sys.stdin.buffer, 1):
            text = line.decode("ascii", "replace").strip()
            if not text or text.startswith("#"):
                continue
            if text == "reset":
                card.reset()
                continue
            try:
                command = bytes.fromhex(text)
            except ValueError:
                # The line may hold a PIN: it is not repeated.
                raise CardError(f"line {number} is not hexadecimal") from None
            click.echo(card.transmit(command).hex().upper())
            sys.stdout.flush()


@main.command()
@click.argument("path", type=_PATH)
@click.option("--host", default=vpcd.HOST, show_default=True, help="Where pcscd with vpcd runs.")
@click.option("--port", default=vpcd.PORT, show_default=True, help="vpcd's port of the slot.")
@click.option("--apdu-log", type=click.File("a"), help="Write each APDU without secrets; - for the screen.")
@click.option("--patience", type=float, help="Give up after so many seconds without a reader.")
def serve(path: Path, host: str, port: int, apdu_log: TextIO | None, patience: float | None) -> None:
    """Put the card at PATH into a virtual reader, so that any PC/SC program sees it.

    Wants pcscd with vsmartcard's vpcd, and waits for it. Ctrl-C takes the card out.
    """

    def write(line: str) -> None:
        assert apdu_log is not None
        apdu_log.write(line + "\n")
        apdu_log.flush()

    def tell(line: str) -> None:
        click.echo(line, err=True)

    with SimulatedCard(path) as card:
        try:
            log = None if apdu_log is None else write
            vpcd.serve(card, host, port, tell=tell, log=log, patience=patience)
        except KeyboardInterrupt:
            tell("the card has been taken out")


def entry() -> NoReturn:
    """Entry point: errors are one line on standard error and exit status 1 (2 for a wrong command line)."""
    debug = "--debug" in sys.argv[1:2]
    try:
        main(prog_name="card-applet-sim")
    except CardError as error:
        if debug:
            raise
        click.echo(f"card-applet-sim: {error}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    entry()
