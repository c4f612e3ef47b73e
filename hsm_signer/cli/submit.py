"""`hsm-signer submit`: what the server does for a signature that a card authorised earlier."""

from __future__ import annotations

from pathlib import Path

import click

from hsm_signer.errors import FileError
from hsm_signer.workstation import offline
from hsm_signer.workstation.signing import submit

from . import files, output
from .context import App, pass_app, service_options
from .options import PATH, force_option, json_option
from .protected_files import protected_paths
from .signing import hand_over


@click.command("submit")
@click.argument("request", type=PATH, metavar="REQUEST")
@click.option(
    "-o",
    "--output",
    "out",
    type=PATH,
    metavar="FOLDER",
    help="Where the signatures go, as FILE.sig by the FILEs' names. Default: the folder of REQUEST.",
)
@force_option("signatures that are there")
@service_options
@json_option
@pass_app
def command(app: App, request: Path, out: Path | None, force: bool, as_json: bool) -> None:
    """Have what `authorise` put into REQUEST carried out, and write the signatures.

    Once more gives the same signatures again: nothing is signed twice.
    """
    offline_request = offline.decode(files.read_bounded(request, offline.MAX_FILE, "request"))
    folder = request.parent if out is None else out
    if not folder.is_dir():
        raise FileError(f"{folder}: there is no such folder")
    outputs = [folder / (name + offline.ENDING) for name in offline_request.names]
    files.check_outputs(
        outputs,
        force=force,
        inputs=[files.look_at(request)],
        protected=protected_paths(app, the_request=request),
        what="two signatures",
    )
    output.check_stdout(read=False)
    with app.server() as server:
        outcome = submit(server, offline_request.request)
    if outcome.repeated:
        output.say("This request had been carried out before; these are the same signatures.")
    hand_over(outcome, offline_request.names, outputs, force=force, as_json=as_json)
