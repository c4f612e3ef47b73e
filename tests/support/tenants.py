"""An installation with clients, and workers that run on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hsm_signer.server.base import system_clock
from hsm_signer.service import clients
from hsm_signer.service.roles import Role
from hsm_signer.testing import Home

from .service import Service, WorkerClient


@dataclass(frozen=True)
class Tenants:
    """A home and the clients it knows."""

    home: Home
    tokens: dict[str, str]
    """Bearer tokens by name: a client for each role, ``app`` with all, ``bound`` with all for alice alone."""
    certificate: bytes
    """SHA-256 of the certificate of ``tls``, which has every role."""

    def copy_to(self, path: Path) -> Tenants:
        """The same elsewhere."""
        return Tenants(self.home.copy_to(path), self.tokens, self.certificate)


def add_clients(server: Any, certificate: bytes) -> tuple[dict[str, str], bytes]:
    """Their tokens by name, and SHA-256 of the certificate of ``tls``."""
    wanted: list[tuple[str, tuple[Role, ...], str | None]] = [
        *((role.value, (role,), None) for role in Role),
        ("app", tuple(Role), None),
        ("bound", tuple(Role), "alice"),
    ]
    add = partial(clients.add, server.environment, server.store, actor="test", clock=system_clock)
    tokens = {}
    for name, roles, owner in wanted:
        _, token = add(name=name, roles=roles, owner=owner, certificate=None)
        assert token is not None
        tokens[name] = token
    client, _ = add(name="tls", roles=tuple(Role), certificate=certificate)
    assert client.certificate is not None
    return tokens, client.certificate


@dataclass(frozen=True)
class Running:
    """Workers that run, and who may ask them."""

    service: Service
    tenants: Tenants

    @property
    def home(self) -> Home:
        """Of the workers."""
        return self.tenants.home

    def as_client(self, name: str, slot: int = 0) -> WorkerClient:
        """A connection for this client."""
        return self.service.worker(slot, bearer=self.tenants.tokens[name])

    def as_tls(self, slot: int = 0) -> WorkerClient:
        """A connection for the client with a certificate."""
        return self.service.worker(slot, certificate=self.tenants.certificate)
