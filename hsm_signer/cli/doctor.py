"""`hsm-signer doctor`."""

from __future__ import annotations

import click

from hsm_signer.config.home import resolve_home
from hsm_signer.errors import VerificationFailed

from . import output
from .context import App, pass_app, wait_option
from .options import json_option
from .secret_input import ask_token_pin


@click.command("doctor")
@click.option("--card", metavar="CARD", help="Look at this card, too. It is not changed.")
@wait_option
@click.option("--all", "slow", is_flag=True, help="The slow key types, too: RSA-3072 and RSA-4096.")
@json_option
@pass_app
def command(app: App, card: str | None, slow: bool, as_json: bool) -> None:
    """Check configuration, token, store and card; then enrol and sign with every scheme and key type.

    That last part uses the real token, but a temporary store and temporary simulated cards. "not possible"
    says what this token lacks, and is no failure; "warning" says what is weaker than it should be. Exit
    status 0 if nothing FAILED, else 7.
    """
    from .doctor_checks import Check, Result, examine

    telling = (Result.WARNING, Result.FAILED)

    opener = None if card is None else (card, lambda installation: app.card_opener(card, installation))
    done: list[Check] = []
    for check in examine(resolve_home(app.home), ask_token_pin, opener, slow=slow):
        done.append(check)
        if not as_json:
            output.data(output.printable(f"{check.result.value:<12}  {check.name:<22}  {check.words}"))
            for line in (check.hint or "").splitlines() if check.result in telling else ():
                output.data(output.printable(f"{'':<12}  {'':<22}  hint: {line}"))
    failed = [check.name for check in done if check.result is Result.FAILED]
    if as_json:
        output.json_data({"good": not failed, "checks": [check.described() for check in done]})
    if failed:
        raise VerificationFailed(f"{output.count(len(failed), 'check')} failed: {', '.join(failed)}")
