"""PIN and PUK from a file, a variable or a prompt, never from an argument, which every process can read.

A :class:`Secret` is asked for once and kept for the life of one command, so that what is tried again does not
ask again. What was typed leaves it as CardPin or CardPuk, which cannot be shown by accident.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import click

from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.config.home import read_secret_file
from hsm_signer.config.installation import CARD_PIN_VARIABLE, TOKEN_PIN_VARIABLE
from hsm_signer.errors import CardPinWrong, InputError, PinMalformed, PinMissing, WrongKey, os_words

from . import output
from .options import PATH

NEW_PIN_VARIABLE = "HSM_SIGNER_CARD_NEW_PIN"
PUK_VARIABLE = "HSM_SIGNER_CARD_PUK"
PROMPTS = 3
"""How often a person may mistype what is no PIN at all, or fail to repeat a new one."""

STDIN = Path("-")
MAX_LINE = 4096

S = TypeVar("S", bound="CardPin | CardPuk")

pin_file_option = click.option(
    "--pin-file",
    type=PATH,
    metavar="FILE",
    help="The card's PIN is the first line of FILE (-: of standard input). "
    f"Else {CARD_PIN_VARIABLE}, else a prompt.",
)
new_pin_file_option = click.option(
    "--new-pin-file",
    type=PATH,
    metavar="FILE",
    help="The new PIN is the first line of FILE (-: of standard input). "
    f"Else {NEW_PIN_VARIABLE}, else a prompt.",
)
puk_file_option = click.option(
    "--puk-file",
    type=PATH,
    metavar="FILE",
    help=f"The PUK is the first line of FILE (-: of standard input). Else {PUK_VARIABLE}, else a prompt.",
)


class Secret(Generic[S]):
    """One PIN or PUK of a command.

    What a file or a variable holds is read at once, so that a missing file is told before anything is done;
    a person is asked as late as :meth:`__call__`. Raises FileError, InputError, PinMalformed.
    """

    def __init__(
        self,
        kind: type[S],
        name: str,
        *,
        file: Path | None,
        option: str,
        variable: str,
        prompt: str,
        confirm: bool = False,
        before_prompt: Callable[[], None] = lambda: None,
    ) -> None:
        self._kind, self._name, self._option, self._variable = kind, name, option, variable
        self._prompt, self._confirm, self._before = prompt, confirm, before_prompt
        self._value: S | None = None
        if file is not None:
            self._value = kind(_read(file, option), source=f"{option} {file}")
        elif given := os.environ.get(variable):
            self._value = kind(given, source=variable)

    @property
    def given(self) -> bool:
        """Whether it came from a file or a variable, so that nobody needs to be asked."""
        return self._value is not None

    def wanted_at_keypad(self, session: CardSession) -> bool:
        """Whether the reader's keypad is to ask for it: there is one, and the PIN was not given otherwise."""
        return not self.given and session.keypad is not None

    @property
    def available(self) -> bool:
        """Whether calling gives a value or at least asks somebody."""
        return self._value is not None or has_terminal()

    def __call__(self) -> S:
        """Return the value, asking the first time only. Raises PinMissing where nobody can be asked."""
        if self._value is None:
            if not has_terminal():
                raise PinMissing(
                    f"{self._name}: not given, and there is no terminal to ask at",
                    hint=f"give it with {self._option} or {self._variable}",
                )
            self._before()
            self._value = self._ask()
        return self._value

    def _ask(self) -> S:
        for attempt in range(1, PROMPTS + 1):
            try:
                value = self._kind(_hidden(self._prompt), source="prompt")
            except PinMalformed as error:
                if attempt == PROMPTS:
                    raise
                output.show_error(error)
                continue
            if not self._confirm or _hidden(f"{self._prompt}, once more") == value.reveal().decode("ascii"):
                return value
            if attempt == PROMPTS:
                break
            output.say(f"The two entries of the {self._name} are not the same; try again.")
        raise PinMalformed(f"{self._name}: the two entries are not the same", hint="nothing was changed")

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Lets the error about a wrong PIN say which of the possible sources that PIN came from."""
        try:
            yield
        except (CardPinWrong, WrongKey) as error:
            if self._value is not None:
                output.add_hint(error, f"the {self._name} that was used came from: {self._value.source}")
            raise


def _read(file: Path, option: str) -> str:
    """Read the first line of a file, or the next one of standard input."""
    if file != STDIN:
        return read_secret_file(file, option)
    if sys.stdin.isatty():
        raise InputError(
            f"{option} -: standard input is a terminal, which would show what is typed",
            hint=f"leave {option} away to be asked, or pipe it: ... | hsm-signer ...",
        )
    try:
        line = sys.stdin.buffer.readline(MAX_LINE).decode("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = os_words(error) if isinstance(error, OSError) else "expected text"
        # The decoder's error would hold what was read.
        raise InputError(f"{option} -: standard input cannot be read: {reason}") from None
    if not line:
        raise InputError(f"{option} -: standard input has no line")
    return line


def card_pin(
    file: Path | None,
    *,
    prompt: str = "PIN of the card",
    confirm: bool = False,
    before_prompt: Callable[[], None] = lambda: None,
) -> Secret[CardPin]:
    """Make the source of the card's present PIN, or with ``confirm`` of the one for enrolment."""
    return Secret(
        CardPin,
        "PIN",
        file=file,
        option="--pin-file",
        variable=CARD_PIN_VARIABLE,
        prompt=prompt,
        confirm=confirm,
        before_prompt=before_prompt,
    )


def new_card_pin(file: Path | None) -> Secret[CardPin]:
    """Make the source of the PIN that `pin change` and `pin unblock` set."""
    return Secret(
        CardPin,
        "new PIN",
        file=file,
        option="--new-pin-file",
        variable=NEW_PIN_VARIABLE,
        prompt="New PIN",
        confirm=True,
    )


def card_puk(file: Path | None) -> Secret[CardPuk]:
    """Make the source of the card's PUK."""
    return Secret(
        CardPuk, "PUK", file=file, option="--puk-file", variable=PUK_VARIABLE, prompt="PUK of the card"
    )


def ask_token_pin(what: str) -> str:
    """Ask for the token's PIN (:data:`hsm_signer.server.installation.AskSecret`). Raises PinMissing."""
    if not has_terminal():
        raise PinMissing(
            f"{what}: not given, and there is no terminal to ask at",
            hint=f"set {TOKEN_PIN_VARIABLE}, or pin-source in the token's URI in config.toml",
        )
    return _hidden(what)


def has_terminal() -> bool:
    """Tell whether there is a terminal to prompt at, wherever the standard streams lead."""
    try:
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    os.close(descriptor)
    return True


def _hidden(prompt: str) -> str:
    # What click.prompt(hide_input=True) calls, too; called straight, the prompt's text goes to the terminal
    # even where standard error is a file.
    sys.stderr.flush()
    try:
        return getpass.getpass(f"{prompt}: ")
    except UnicodeDecodeError:
        # The error would hold what was typed.
        raise PinMalformed(f"{prompt}: expected text") from None
