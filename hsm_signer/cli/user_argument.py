"""USER on the command line: a user's name, or a credential id in hexadecimal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from hsm_signer.errors import CredentialUnknown, InputError
from hsm_signer.types import CredentialId
from hsm_signer.workstation.servers import AnyCredential, CredentialServer

from .options import TEXT

if TYPE_CHECKING:
    from hsm_signer.store.store import Store

user_argument = click.argument("user", type=TEXT, metavar="USER")
_ID = re.compile(r"[0-9a-fA-F]{32}")


def credential_ids(store: Store, user: str) -> list[CredentialId]:
    """Find the ids of all credentials that ``user`` names, newest first, without checking the records.

    Raises CredentialUnknown; InputError for an id that is also another credential's user name.
    """
    named = [sealed.record.credential_id for sealed in store.find(user)]
    if not _ID.fullmatch(user):
        if not named:
            raise CredentialUnknown(
                f"no credential of user {user!r} here", hint="hsm-signer credential list shows the users"
            )
        return named
    own = CredentialId(bytes.fromhex(user))
    try:
        store.load(own)
    except CredentialUnknown:
        # Evidence outlives the record of an enrolment that was given up.
        if not named and not list(store.entries(own, limit=1)):
            raise
        return named or [own]
    if named and own not in named:
        raise InputError(f"{user}: both a user's name and the id of another credential")
    return [own]


def record_of(server: CredentialServer, user: str) -> AnyCredential:
    """Return the credential that ``user`` names, checked: a user's live one, else the newest revoked one."""
    return _by_id(server, user) if _ID.fullmatch(user) else server.credential(user)


def records_of(server: CredentialServer, user: str) -> list[AnyCredential]:
    """Return every credential that ``user`` names, checked, the live one first."""
    if _ID.fullmatch(user):
        return [_by_id(server, user)]
    return list(server.credentials_of(user)) or [server.credential(user)]  # which raises


def _by_id(server: CredentialServer, user: str) -> AnyCredential:
    """Find a credential by its id. Raises CredentialUnknown; InputError if the id is also a user's name."""
    named = server.credentials_of(user)
    try:
        by_id = server.credential_by_id(CredentialId(bytes.fromhex(user)))
    except CredentialUnknown:
        if not named:
            raise
        return named[0]
    if named and by_id.credential_id not in [record.credential_id for record in named]:
        raise InputError(f"{user}: both a user's name and the id of another credential")
    return by_id
