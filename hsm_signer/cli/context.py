"""What every command shares: the options before its name, the way to installation, service and card.

What loads SQLAlchemy, PKCS#11 or an HTTP library is imported where it is used, here and in the commands:
nobody waits for it who asks for help, or signs through a service.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsm_signer.card.address import open_card
from hsm_signer.card.commands import CardSession
from hsm_signer.config.home import read_secret_file, refuse_open_to_others, resolve_home
from hsm_signer.config.installation import (
    SERVER_TOKEN_VARIABLE,
    SERVER_VARIABLE,
    CardConfig,
    ServerConfig,
    WorkstationConfig,
    keep_identity,
    load_workstation,
)
from hsm_signer.errors import ConfigError, InputError
from hsm_signer.types import Fingerprint
from hsm_signer.workstation.servers import CredentialServer

from .options import PATH, TEXT, F
from .secret_input import ask_token_pin

if TYPE_CHECKING:
    from hsm_signer.server.installation import Installation
    from hsm_signer.server.server import Server

_log = logging.getLogger(__name__)
OpenCard = Callable[[], AbstractContextManager[CardSession]]

CARD_WAIT = 10.0
"""Seconds to wait for a card that another program holds, where no configuration says otherwise."""


def _set_wait(context: click.Context, _: click.Parameter, seconds: float) -> None:
    context.ensure_object(App).wait = seconds


wait_option = click.option(
    "--wait",
    type=click.FloatRange(0, 3600),
    default=0.0,
    metavar="SECONDS",
    expose_value=False,
    callback=_set_wait,
    help="Wait so long for a card to be put into the reader.",
)
"""Kept in :class:`App`, whose cards are opened accordingly."""


def _set_service(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None:
        setattr(context.ensure_object(App).options, str(parameter.name), value)


def _set_identity(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        from hsm_signer.core.identity import parse_fingerprint

        context.ensure_object(App).options.identity = parse_fingerprint(value)


SERVICE_OPTIONS = (
    (
        "--server",
        TEXT,
        "URL",
        "The signing service, https://HOST[:PORT]. Default: $HSM_SIGNER_SERVER, "
        "[server] of config.toml, else the installation here.",
    ),
    ("--ca", PATH, "FILE", "Certificates to trust in place of the system's, for the service (PEM)."),
    ("--client-certificate", PATH, "FILE", "Our certificate, for the service (PEM)."),
    ("--client-key", PATH, "FILE", "Its private key (PEM). Default: in the same file."),
)


def service_options(command: F) -> F:
    """Add the options that name a service; none takes the bearer token, which every process could read."""
    for name, kind, metavar, words in reversed(SERVICE_OPTIONS):
        command = click.option(
            name, type=kind, metavar=metavar, expose_value=False, callback=_set_service, help=words
        )(command)
    return command


identity_option = click.option(
    "--identity",
    type=TEXT,
    metavar="FINGERPRINT",
    expose_value=False,
    callback=_set_identity,
    help="The identity of the installation behind the service, as `hsm-signer identity` shows it there; for "
    "this command only. Default: [server] of config.toml, else the first enrolment asks at a terminal.",
)


def card_argument(command: F) -> F:
    """Add the argument CARD and the option --wait."""
    return click.argument("card", metavar="CARD")(wait_option(command))


def card_option(command: F) -> F:
    """Add the options --card and --wait."""
    option = click.option("--card", required=True, metavar="CARD", help="The card: pcsc:READER or sim:PATH.")
    return option(wait_option(command))


@dataclass
class ServiceOptions:
    """The values of :func:`service_options`."""

    server: str | None = None
    ca: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    identity: Fingerprint | None = None
    """The value of :data:`identity_option`."""


@dataclass(frozen=True, slots=True)
class Service:
    """A remote service: its URL and what authenticates this client to it."""

    url: str
    ca: Path | None
    certificate: Path | None
    key: Path | None
    token_file: Path | None
    timeout: float
    """Seconds for each answer."""
    identity: Fingerprint | None
    """Of the installation behind it; None: nobody has said."""
    configured: bool
    """Whether it is the one that [server] of config.toml names."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are read to reach the service."""
        return tuple(
            path for path in (self.ca, self.certificate, self.key, self.token_file) if path is not None
        )


@dataclass
class App:
    """The options before the command's name and those that many commands share, and what they lead to."""

    home: Path | None = None
    wait: float = 0.0
    """Seconds to wait for a card that is not there yet."""
    options: ServiceOptions = field(default_factory=ServiceOptions)

    def installation(self) -> Installation:
        """Open the installation in the home folder. Raises NotInitialised, ConfigError."""
        from hsm_signer.server.installation import Installation

        return Installation.open(resolve_home(self.home))

    def service(self) -> Service | None:
        """Find the service of --server, HSM_SIGNER_SERVER or [server] of config.toml; None: it is all here.

        What [server] says besides its URL counts for that URL alone: no token goes elsewhere. Raises
        ConfigError, and click's UsageError for options that go with --server and are without.
        """
        options = self.options
        url = options.server or os.environ.get(SERVER_VARIABLE)
        config = self._workstation() if url is None else self._workstation_or_none()
        server = None if config is None else config.server
        if url is None and server is None:
            if any((options.ca, options.client_certificate, options.client_key, options.identity)):
                raise click.UsageError(
                    "--ca, --client-... and --identity go with --server, and no service is named."
                )
            return None
        home = resolve_home(self.home)
        configured = server is not None and url in (None, server.url)
        if configured:
            refuse_open_to_others(home)
        else:
            assert url is not None
            server = ServerConfig(url=url)
        assert server is not None

        def at_home(name: str | None) -> Path | None:
            return None if name is None else home / name

        own = options.client_certificate is not None
        return Service(
            server.url,
            options.ca or at_home(server.ca),
            options.client_certificate or at_home(server.certificate),
            options.client_key or (None if own else at_home(server.key)),
            at_home(server.token_file),
            server.timeout,
            options.identity or server.identity,
            configured,
        )

    def keep_identity(self, identity: Fingerprint) -> bool:
        """Write the identity into [server] of config.toml; False where that is not the service in use.

        Raises ConfigError, FileError.
        """
        service = self.service()
        if service is None or not service.configured:
            return False
        keep_identity(resolve_home(self.home), identity)
        return True

    def _workstation(self) -> WorkstationConfig:
        return load_workstation(resolve_home(self.home))

    def _workstation_or_none(self) -> WorkstationConfig | None:
        """Read the workstation's configuration; None where it is unusable and a service is named."""
        with suppress(ConfigError):
            return self._workstation()
        return None

    def here(self) -> Installation | None:
        """Return the installation; None where a service is named. Raises NotInitialised, ConfigError."""
        return None if self.service() is not None else self.installation()

    @contextmanager
    def server(self, installation: Installation | None = None) -> Iterator[CredentialServer]:
        """Open the server, in this process or remote; ``installation``: one that is open already."""
        service = None if installation is not None else self.service()
        if service is None:
            with self.local_server(installation) as local:
                yield local
            return
        from hsm_signer.workstation.remote import RemoteServer

        with RemoteServer(
            service.url,
            token=_bearer(service),
            ca=service.ca,
            certificate=service.certificate,
            key=service.key,
            timeout=service.timeout,
            identity=service.identity,
        ) as remote:
            _log.info("server: the service at %s", service.url)
            yield remote

    @contextmanager
    def local_server(
        self, installation: Installation | None = None, *, for_audit: bool = False
    ) -> Iterator[Server]:
        """Open token and store in this process; asks for the token's PIN if need be."""
        installation = installation or self.installation()
        _log.info("server: the installation in %s", installation.home)
        with installation.server(ask_token_pin, for_audit=for_audit) as server:
            yield server

    def card_settings(self, installation: Installation | None = None) -> CardConfig:
        """Return section [card] of installation or workstation. Raises NotInitialised, ConfigError."""
        found = installation or self.here()
        if found is not None:
            return found.config.card
        config = self._workstation_or_none()
        return CardConfig() if config is None else config.card

    def card_settings_or_default(self) -> CardConfig:
        """Return section [card], or the defaults where there is no configuration."""
        with suppress(ConfigError):
            return self.card_settings()
        return CardConfig()

    def card_opener(self, address: str, installation: Installation | None = None) -> OpenCard:
        """Make a function that opens the card at ``address``; works without an installation, too."""
        wait = CARD_WAIT
        with suppress(ConfigError):  # a card can be looked at, and its PIN changed, anywhere
            wait = self.card_settings(installation).wait
        return partial(open_card, address, timeout=wait, wait=self.wait)


pass_app = click.make_pass_decorator(App)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal unless ``yes``. Raises InputError for a no, and where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to ask at", hint="--yes confirms it")
    if not click.confirm(question, err=True):
        raise InputError("not confirmed; nothing was changed")


def _bearer(service: Service) -> str | None:
    """Read the bearer token from environment or file; None without one. Raises FileError, InputError."""
    if token := os.environ.get(SERVER_TOKEN_VARIABLE):
        return token
    if service.token_file is None:
        return None
    return read_secret_file(service.token_file, "server.token_file")
