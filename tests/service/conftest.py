"""An installation with clients, made once and copied; workers that run on such a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_signer.testing import Home
from tests.support import needs
from tests.support.authority import Authority
from tests.support.other_users import Python, runnable_by_others
from tests.support.service import in_process, serving
from tests.support.tenants import Running, Tenants, add_clients


@pytest.fixture(scope="session")
def template_tenants(template_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Tenants:
    """Made once; never used itself, only copied."""

    home = template_home.copy_to(tmp_path_factory.mktemp("tenants") / "home")
    tokens, certificate = in_process(home, add_clients, Authority("tls").certificate)
    return Tenants(home, tokens, certificate)


@pytest.fixture
def tenants(template_tenants: Tenants, tmp_path: Path) -> Tenants:
    """The test's own."""
    return template_tenants.copy_to(tmp_path / "home")


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


@pytest.fixture(scope="session")
def python_for_others(as_root: None) -> Iterator[Python]:
    """An interpreter with the program that every user can run."""
    with runnable_by_others() as python:
        yield python
