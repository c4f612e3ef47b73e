"""Fixtures every room shares: a fresh installation with enrolled users, and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hsm_signer import config as configuration
from hsm_signer.server import Server
from hsm_signer.types import KeySpec, Scheme

from .support import needs
from .support.pcscd import Pcscd
from .support.people import Home, make_home

# Whoever started this run in the background left SIGINT ignored, and every child would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PEOPLE = (
    ("alice", Scheme.ROLLING, KeySpec.P256),
    ("bob", Scheme.ROLLING, KeySpec.RSA2048),
    ("paula", Scheme.PIN, KeySpec.P256),
    ("peter", Scheme.PIN, KeySpec.RSA2048),
    ("basil", Scheme.BASIC, KeySpec.P256),
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own installation reaches a test."""
    for name in (
        configuration.HOME_VARIABLE,
        configuration.TOKEN_PIN_VARIABLE,
        configuration.CARD_PIN_VARIABLE,
        "SOFTHSM2_CONF",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def _own_pcscd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pcscd]:
    """A PC/SC service of this run's own."""
    needs.pyscard()
    service = Pcscd(tmp_path_factory.mktemp("pcscd"))
    # pcsc-lite reads it once, at its first use in this process.
    os.environ.update(service.environment)
    service.start()
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def pcscd(_own_pcscd: Pcscd) -> Pcscd:
    """The service, running, whatever an earlier module did to it."""
    _own_pcscd.ensure()
    return _own_pcscd


@pytest.fixture(scope="session")
def template_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Made once: the token probed, RSA keys generated. Never used itself, only copied."""
    needs.softhsm_module()
    return make_home(tmp_path_factory.mktemp("template") / "home", PEOPLE)


@pytest.fixture
def home(template_home: Home, tmp_path: Path) -> Home:
    """An installation of the test's own, with the users of :data:`PEOPLE`."""
    return template_home.copy_to(tmp_path / "home")


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    """The server of ``home``, in this process."""
    with home.server() as opened:
        yield opened


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.stdout)


@dataclass
class CommandLine:
    """Runs `hsm-signer` as a user does: a process of its own, its own environment."""

    home: Path
    folder: Path

    def __call__(
        self,
        *arguments: str | Path,
        pin: str | None = None,
        input: str = "",
        status: int | None = 0,
        env: dict[str, str] | None = None,
    ) -> Ran:
        """``status`` is asserted unless None; ``pin`` goes into HSM_SIGNER_CARD_PIN."""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HSM_SIGNER")},
            configuration.HOME_VARIABLE: str(self.home),
            **(env or {}),
        }
        if pin is not None:
            environment[configuration.CARD_PIN_VARIABLE] = pin
        ran = subprocess.run(
            [sys.executable, "-m", "hsm_signer", *map(str, arguments)],
            input=input,
            capture_output=True,
            text=True,
            env=environment,
            cwd=self.folder,
            timeout=120,
            check=False,
            # No terminal of its own: a PIN that is missing is an error there, not a prompt.
            start_new_session=True,
        )
        result = Ran(ran.returncode, ran.stdout, ran.stderr)
        assert "Traceback" not in result.stderr, result.stderr
        if status is not None:
            assert result.status == status, (result.status, result.stdout, result.stderr)
        return result


@pytest.fixture
def cli(home: Home, tmp_path: Path) -> CommandLine:
    """`hsm-signer` on ``home``, run in tmp_path."""
    return CommandLine(home.path, tmp_path)
