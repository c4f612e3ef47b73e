"""A running service and its clients as a workstation has them: with tokens, with a certificate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsm_signer.core.certificates import to_pem
from hsm_signer.service.roles import Role
from hsm_signer.testing import Home, Person, make_person
from hsm_signer.types import Fingerprint
from hsm_signer.workstation.remote import RemoteServer

from .authority import Authority
from .front import Identity, make_identity
from .service import Service, add_client, serving

MAX_MESSAGE = 8 << 20
"""Bytes of a message that the service takes."""


@dataclass(frozen=True)
class Far:
    """A service, and who may ask it."""

    service: Service
    tokens: dict[str, str]
    identity: Identity
    """Of the client desk: its TLS certificate."""
    folder: Path
    fingerprint: Fingerprint
    """Of the installation's identity."""

    @property
    def home(self) -> Home:
        """Of the service."""
        return self.service.home

    def as_client(self, name: str = "app") -> RemoteServer:
        """With a bearer token."""
        return RemoteServer(
            self.service.url, token=self.tokens[name], ca=self.service.ca, identity=self.fingerprint
        )

    def with_certificate(self) -> RemoteServer:
        """With a client certificate, which is a client's."""
        return RemoteServer(
            self.service.url,
            ca=self.service.ca,
            certificate=self.identity.certificate_file,
            key=self.identity.key_file,
            identity=self.fingerprint,
        )

    def enrolled(self, server: RemoteServer, name: str, **how: Any) -> Person:
        """A new user with a new card, through the service."""
        return make_person(server, self.home.path / "cards", name, **how)


@contextmanager
def far_service(template_home: Home, folder: Path) -> Iterator[Far]:
    """A service on a copy of the home in ``folder``: clients with every role, or one, or for one user."""
    home = template_home.copy_to(folder / "home")
    authority = Authority("clients")
    identity = make_identity(authority, folder, "desk")
    (folder / "clients.pem").write_text(to_pem([authority.certificate]))
    tokens = {}
    for name, roles, owner in (
        ("app", tuple(Role), None),
        ("signer", (Role.SIGNER,), None),
        ("auditor", (Role.AUDITOR,), None),
        ("bound", (Role.SIGNER,), "alice"),
    ):
        token = add_client(home, name, roles, owner=owner)
        assert token is not None
        tokens[name] = token
    add_client(home, "desk", tuple(Role), certificate=identity.certificate)
    settings = f'[tls]\nclient_ca = "{folder}/clients.pem"\n[limits]\nmessage = {MAX_MESSAGE}\n'
    with serving(home, settings=settings) as service:
        with service.worker(bearer=tokens["app"]) as worker:
            fingerprint = worker.identity
        yield Far(service, tokens, identity, folder, fingerprint)
