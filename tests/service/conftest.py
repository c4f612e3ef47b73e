"""An installation with clients, made once and copied; workers that run on such a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.server.signing import system_clock
from hsm_signer.service import clients
from hsm_signer.service.roles import Role
from tests.support import needs
from tests.support.authority import Authority
from tests.support.people import Home
from tests.support.service import Service, WorkerClient, in_process, serving


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


def _add_clients(server: Any, certificate: bytes) -> tuple[dict[str, str], bytes]:
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


@pytest.fixture(scope="session")
def template_tenants(template_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Tenants:
    """Made once; never used itself, only copied."""

    home = template_home.copy_to(tmp_path_factory.mktemp("tenants") / "home")
    tokens, certificate = in_process(home, _add_clients, Authority("tls").certificate)
    return Tenants(home, tokens, certificate)


@pytest.fixture
def tenants(template_tenants: Tenants, tmp_path: Path) -> Tenants:
    """The test's own."""
    return template_tenants.copy_to(tmp_path / "home")


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


@pytest.fixture(scope="module")
def running(template_tenants: Tenants, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker, for all tests of a module."""
    folder = tmp_path_factory.mktemp("running")
    tenants = template_tenants.copy_to(folder / "home")
    with serving(tenants.home, part="workers") as service:
        yield Running(service, tenants)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def as_root() -> None:
    """For tests that are somebody else: in continuous integration they have to be possible."""
    needs.root()
