"""`hsm-signer identity`, and the question which installation is behind a service."""

from __future__ import annotations

import base64
import sys

import click

from hsm_signer.workstation.servers import EnrolmentServer

from . import output
from .context import App, confirm, pass_app
from .options import json_option


@click.command("identity")
@json_option
@pass_app
def command(app: App, as_json: bool) -> None:
    """Show the fingerprint of this installation's identity.

    Its token signs every enrolment with a key of its own. A workstation that enrols through the service
    compares this fingerprint, once: read it out, or send it by another way than the service's.
    """
    with app.local_server() as server:
        environment = server.environment
        if as_json:
            output.json_data(
                {
                    "identity": server.identity,
                    "installation_id": environment.installation_id.hex(),
                    "public_key": base64.b64encode(environment.identity_spki).decode("ascii"),
                }
            )
        else:
            output.data(server.identity)


def ask_identity(app: App, server: EnrolmentServer) -> None:
    """Ask at a terminal whether a service is of the right installation, where that is not known yet.

    Keeps the answer in config.toml where its [server] is this service. Without a terminal nothing is done:
    enrolment is refused then. Raises InputError for a no, FileError.
    """
    from hsm_signer.workstation.remote import RemoteServer

    if not isinstance(server, RemoteServer) or server.is_pinned or not sys.stdin.isatty():
        return
    claimed = server.capabilities().identity
    output.say(f"The service says that it is the installation with the identity\n  {claimed}")
    confirm("Does `hsm-signer identity` at the server show the same?", yes=False)
    server.pin(claimed)
    if app.keep_identity(claimed):
        output.say("It is in config.toml now; another one will be refused.")
    else:
        output.say("It counts for this command; config.toml keeps it where [server] has the service's url.")
