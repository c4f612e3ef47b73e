"""The command `hsm-signer`: its options, its table of commands, and what becomes of every exception."""

from __future__ import annotations

import gc
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from hsm_signer import __version__
from hsm_signer.errors import SignerError

from . import output
from .lazy import Entry, LazyGroup
from .options import PATH

PROGRAM = "hsm-signer"
GARBAGE_THRESHOLD = 50_000
"""New objects after which Python looks for garbage; its own default is some hundred."""
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

USAGE = 2
PLACED_FIRST = ("--home", "--verbose", "--debug")
"""Options that go before the command."""

COMMANDS = {
    "init": Entry("init", "Make an installation: token, keys, store, configuration."),
    "doctor": Entry("doctor", "Check the installation and what its token can do."),
    "identity": Entry("identity", "Show the fingerprint of the installation's identity."),
    "enrol": Entry("enrolment", "Make a key for a user and give its control to a card."),
    "sign": Entry("signing", "Sign files: the card authorises, the token signs."),
    "verify": Entry("verify", "Verify a file's signature."),
    "credential": Entry("credentials", "List, show, suspend, resume, unlock, revoke."),
    "card": Entry("card", "List, look at, test and reset cards; make a simulated one."),
    "pin": Entry("pin", "Change or unblock a card's PIN, show the tries left."),
    "audit": Entry("audit", "List and verify the evidence; print an anchor."),
    "store": Entry("store", "Upgrade the store after an upgrade of the program."),
    "serve": Entry("serve", "Run the signing service: figure 1's server on a network."),
    "client": Entry("clients", "Add, list and remove who may use the service."),
    "authorise": Entry("authorise", "Have the card authorise files now, to be submitted later."),
    "submit": Entry("submit", "Have an authorisation made earlier carried out."),
}
ALIASES = {"enroll": "enrol", "authorize": "authorise"}


@dataclass
class Switches:
    """The options that count where a command has failed."""

    debug: bool = False


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    aliases=ALIASES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="CARD is pcsc:READER, the card in the reader whose name contains READER (pcsc: alone where "
    "there is one card), or sim:PATH, a simulated card whose memory is that file. Data goes to standard "
    "output, words to standard error. Exit status: 2 input or configuration, 3 refused, 4 card, 5 token, "
    "6 store, 7 verification failed, 8 try again, 9 the service.",
)
@click.option(
    "--home",
    type=PATH,
    metavar="FOLDER",
    help="The installation. Default: $HSM_SIGNER_HOME, else ~/.hsm-signer.",
)
@click.option("--verbose", is_flag=True, help="Say what is done meanwhile: card, server, token, repetitions.")
@click.option("--debug", is_flag=True, help="Show a traceback with every error.")
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context, home: Path | None, verbose: bool, debug: bool) -> None:
    """Sign with keys that a card controls and never holds, and that the server keeps only encrypted."""
    # Here and not above: `--help` and `--version` do without what it imports.
    from . import logs
    from .context import App

    context.with_resource(logs.shown(verbose=verbose))
    context.ensure_object(Switches).debug = debug
    context.obj = App(home)


def entry() -> NoReturn:
    """The console script: one line for every error, and its exit status."""
    switches = Switches()
    # What is imported stays to the end: looking for garbage in it took an eighth of a signature's time.
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        # click's own handling ends the process; ours has one form for every error.
        status = main.main(prog_name=PROGRAM, standalone_mode=False, obj=switches)
        sys.exit(status if isinstance(status, int) else 0)
    except SignerError as error:
        _traceback(switches)
        output.show_error(error)
        sys.exit(error.exit_status)
    except click.Abort:
        output.say("interrupted")
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        output.say("\ninterrupted")
        sys.exit(INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(USAGE)
    except click.ClickException as error:
        _traceback(switches)
        output.say(f"error: {output.printable(error.format_message()).rstrip('.')} [usage]")
        if isinstance(error, click.NoSuchOption) and error.option_name in PLACED_FIRST:
            output.say(f"hint: it goes before the command: {PROGRAM} {error.option_name} ...")
        context = getattr(error, "ctx", None)
        output.say(f"hint: {PROGRAM if context is None else context.command_path} --help")
        sys.exit(USAGE)
    except Exception as error:  # noqa: BLE001  the one place that must not let a traceback out
        _traceback(switches)
        again = "" if switches.debug else f"; run {PROGRAM} --debug ... to see where"
        output.say(f"error: internal error ({type(error).__name__}){again} [internal]")
        sys.exit(SignerError.exit_status)


def _traceback(switches: Switches) -> None:
    if switches.debug:
        output.say(traceback.format_exc().rstrip())
