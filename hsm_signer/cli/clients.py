"""`hsm-signer client`: who may use the service; done where the installation is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsm_signer.config.home import current_actor
from hsm_signer.core.owners import check_owner
from hsm_signer.service.roles import Role

from . import files, output
from .choices import choice
from .context import App, pass_app
from .options import PATH, TEXT, json_option

if TYPE_CHECKING:
    from hsm_signer.service.clients import Client

ROLES = ("signer", "registrar", "auditor", "admin")
"""Written out, as those of choices.py; a test holds them to hsm_signer.service.roles."""
MAX_CERTIFICATE = 65536


@click.group("client")
def command() -> None:
    """Add, list and remove clients of the service, here where the installation is.

    A client is a program or a person that may ask for something. None of them can sign without a card.
    """


@command.command("add")
@click.argument("name", type=TEXT, metavar="NAME")
@click.option(
    "--role",
    "roles",
    type=choice(ROLES),
    multiple=True,
    required=True,
    help="What it may do; may be given again. signer: submit authorisations. registrar: enrol, suspend, "
    "resume, unlock. auditor: read evidence. admin: suspend, resume, unlock, revoke.",
)
@click.option(
    "--user", type=TEXT, metavar="USER", help="Only for this user's credentials. Default: everybody's."
)
@click.option(
    "--certificate",
    type=PATH,
    metavar="PEM",
    help="The client certificate it comes with, in place of a token. Scheme basic needs one.",
)
@json_option
@pass_app
def add(
    app: App, name: str, roles: tuple[str, ...], user: str | None, certificate: Path | None, as_json: bool
) -> None:
    """Add a client. Its bearer token goes to standard output, once; only its hash is kept."""
    from hsm_signer.server.base import system_clock
    from hsm_signer.service import clients

    if user is not None:
        check_owner(user)
    pem = None
    if certificate is not None:
        pem = files.read_bounded(certificate, MAX_CERTIFICATE, "certificate")
    output.check_stdout(read=True)  # before there is a token that could not be shown
    with app.local_server() as server:
        client, token = clients.add(
            server.environment,
            server.store,
            name=name,
            roles=[Role.named(role) for role in roles],
            owner=user,
            certificate=pem,
            actor=current_actor(),
            clock=system_clock,
        )
    if as_json:
        output.json_data({**_described(client), "token": token})
    elif token is not None:
        output.data(token)
        output.say(
            f"This is the bearer token of {client.name}. It is not shown again. At the workstation it goes "
            "into HSM_SIGNER_SERVER_TOKEN, or into a file that token_file in [server] of config.toml names."
        )
    else:
        output.say(f"{client.name} is known by its certificate.")


@command.command("list")
@json_option
@pass_app
def list_(app: App, as_json: bool) -> None:
    """List the clients: names, roles, and for whose credentials."""
    from hsm_signer.service import clients

    with app.local_server() as server:
        found = clients.list_clients(server.environment, server.store)
    if as_json:
        output.json_data([_described(client) for client in found])
        return
    output.table(
        ("NAME", "ROLES", "USER", "KNOWN BY", "ADDED"),
        (
            (
                client.name,
                ", ".join(_roles(client)),
                client.owner or "",
                "token" if client.certificate is None else "certificate",
                output.moment(client.created),
            )
            for client in found
        ),
    )


@command.command("remove")
@click.argument("name", type=TEXT, metavar="NAME")
@pass_app
def remove(app: App, name: str) -> None:
    """Remove a client. What it has been given to come in with is good for nothing from then on."""
    from hsm_signer.server.base import system_clock
    from hsm_signer.service import clients

    with app.local_server() as server:
        clients.remove(server.environment, server.store, name, actor=current_actor(), clock=system_clock)
    output.say(f"{output.printable(name)} is no client any more.")


def _described(client: Client) -> dict[str, Any]:
    from hsm_signer.core.json_codec import time_to_json

    return {
        "name": client.name,
        "roles": _roles(client),
        "owner": client.owner,
        "certificate_sha256": None if client.certificate is None else client.certificate.hex(),
        "created": time_to_json(client.created),
        "created_by": client.created_by,
    }


def _roles(client: Client) -> list[str]:
    """By name, in the order of the table of roles."""
    return [role.value for role in sorted(client.roles, key=lambda role: role.number)]
