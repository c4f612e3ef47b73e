"""An installation: the home folder with configuration, token and store, which are opened together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hsm_signer.config import installation as configuration
from hsm_signer.config.files import write_whole
from hsm_signer.config.home import current_actor, read_secret_file, refuse_open_to_others
from hsm_signer.config.installation import CONFIG_FILE, TOKEN_PIN_VARIABLE, Config
from hsm_signer.core.card_origin import MAX_PEM, OriginPolicy, issuer_from_pem
from hsm_signer.errors import ConfigError, InputError, PinMissing, RecordConflict, os_words
from hsm_signer.store.store import Store
from hsm_signer.token import softhsm
from hsm_signer.token.environment import Observe, SecureEnvironment
from hsm_signer.token.profile import TokenProfile
from hsm_signer.token.session import TokenSession
from hsm_signer.token.uri import TokenUri
from hsm_signer.types import Digest

from .installation_record import load, note_settings
from .server import Server

PROFILE_FILE = "profile.json"
SOFTHSM_FILE = "softhsm.conf"
SQLITE = "sqlite:///"

AskSecret = Callable[[str], str]
"""Asks a person for the secret that its argument names, without echo; raises PinMissing."""


def absolute_url(url: str, home: Path) -> str:
    """Make a SQLite URL's relative path absolute by the home folder; any other URL stays as it is."""
    if url.startswith(SQLITE) and not url.startswith(SQLITE + "/"):
        return f"{SQLITE}{home / url.removeprefix(SQLITE)}"
    return url


def token_pin(uri: TokenUri, home: Path, ask: AskSecret) -> str:
    """Find the token's user PIN: HSM_SIGNER_TOKEN_PIN, else pin-source, else a prompt. Raises PinMissing."""
    if pin := os.environ.get(TOKEN_PIN_VARIABLE):
        return pin
    if uri.pin_source is None:
        return ask(f"PIN of token {uri.token or ''}".rstrip())
    path = uri.pin_source.removeprefix("file:")
    if path.startswith("|"):
        raise ConfigError("token.uri: pin-source: expected file:PATH; commands are not run")
    return read_secret_file(home / path, "token.uri: pin-source")


def no_prompt(what: str) -> str:
    """Raise PinMissing: an AskSecret for programs that have nobody to ask."""
    raise PinMissing(
        f"{what}: not given, and nobody can be asked",
        hint=f"set {TOKEN_PIN_VARIABLE} or pin-source in {CONFIG_FILE}",
    )


def origin_policy(settings_file: Path) -> OriginPolicy:
    """Read whose cards are enrolled: section [enrolment] of service.toml, and the files that it names.

    Without the file, anybody's are. Raises ConfigError.
    """
    # Here and not above: signing does without.
    from hsm_signer.config import service as settings

    chosen = settings.load(settings_file).enrolment
    issuers = []
    for name in chosen.card_issuers:
        path, what = settings_file.parent / name, f"enrolment.card_issuers: {name}"
        try:
            with path.open("rb") as file:
                issuers.append(issuer_from_pem(file.read(MAX_PEM), what))
        except OSError as error:
            raise ConfigError(f"{what}: cannot be read: {os_words(error)}") from error
        except InputError as error:
            raise ConfigError(error.message) from error
    if chosen.require_card_origin and not issuers:
        raise ConfigError("enrolment.require_card_origin: expected card_issuers beside it, found none")
    return OriginPolicy(tuple(issuers), required=chosen.require_card_origin)


@dataclass(frozen=True, slots=True)
class Installation:
    """An existing home folder with its configuration read."""

    home: Path
    config: Config

    @classmethod
    def open(cls, home: Path, *, older: bool = False) -> Installation:
        """Read the configuration of a home folder. Raises NotInitialised, ConfigError, StoreTooOld.

        ``older``: one that an older version made, too, for the upgrade.
        """
        config = configuration.load(home, older=older)
        for path in (home, home / CONFIG_FILE):
            refuse_open_to_others(path)
        return cls(home, config)

    @property
    def token_uri(self) -> TokenUri:
        """The PKCS#11 URI (RFC 7512) of the token. Raises ConfigError."""
        return TokenUri.parse(self.config.token.uri)

    def files_elsewhere(self) -> list[Path]:
        """The files that the configuration names, wherever they are: the store, the token's settings and PIN.

        A file that cannot be known, for the token's URI is none, is left out.
        """
        named = []
        url = absolute_url(self.config.store.url, self.home)
        if url.startswith(SQLITE):
            named.append(url.removeprefix(SQLITE).partition("?")[0])
        if self.config.token.softhsm_conf is not None:
            named.append(self.config.token.softhsm_conf)
        with suppress(ConfigError):
            if (source := self.token_uri.pin_source) is not None:
                named.append(source.removeprefix("file:"))
        paths = [self.home / name for name in named if name]
        return [path for path in paths if path.name]

    def origin_policy(self) -> OriginPolicy:
        """Read whose cards are enrolled, from the home folder's service.toml. Raises ConfigError."""
        from hsm_signer.config.service import SETTINGS_FILE

        return origin_policy(self.home / SETTINGS_FILE)

    def open_store(self) -> Store:
        """Open the store as the configuration says. Raises StoreError."""
        config = self.config.store
        return Store.open(
            absolute_url(config.url, self.home),
            busy_timeout=config.busy_timeout,
            connections=config.connections,
        )

    def open_token(self, ask: AskSecret = no_prompt, *, read_write: bool = False) -> TokenSession:
        """Find the token and log in. Raises TokenError, PinMissing, FileError."""
        if self.config.token.softhsm_conf is not None:
            path = self.home / self.config.token.softhsm_conf
            if not path.is_file():
                raise ConfigError(f"token.softhsm_conf: there is no file {path}")
            softhsm.use_configuration(path)
        uri = self.token_uri
        return TokenSession.open(uri, token_pin(uri, self.home, ask), read_write=read_write)

    def profile(self, session: TokenSession) -> TokenProfile:
        """Read the stored profile; make a new one where the token, its firmware or its library is another."""
        path = self.home / PROFILE_FILE
        with suppress(OSError):
            stored = TokenProfile.from_json(path.read_bytes())
            if stored is not None and stored.identity == session.identity:
                return stored
        # Here and not above: hardly any command needs it.
        from hsm_signer.token.probe import probe

        profile = probe(session)
        with suppress(OSError):  # a read-only home costs a probe each time, nothing else
            write_whole(path, profile.to_json())
        return profile

    def environment(
        self, store: Store, session: TokenSession, profile: TokenProfile, *, for_audit: bool = False
    ) -> SecureEnvironment:
        """Bring the token together with the record that names its keys; ``for_audit`` whatever its age.

        Raises InstallationDamaged, InstallationOutdated, EvidenceMissing, EvidenceDamaged, TokenKeyMissing.
        """
        assert self.config.installation is not None  # load() refuses it otherwise
        return SecureEnvironment(session, profile, load(store, self.config.installation, for_audit=for_audit))

    def note_settings(self, server: Server, settings: bytes) -> None:
        """Have evidence say with which settings a service runs, where they are others than before.

        ``settings``: all of them, in one form. Another process that starts with the same ones may be first.
        Raises StoreError.
        """
        assert self.config.installation is not None  # load() refuses it otherwise
        digest = Digest(hashlib.sha256(settings).digest())
        with suppress(RecordConflict):
            note_settings(
                server.environment,
                server.store,
                self.config.installation,
                digest,
                actor=server.actor,
                time=server.clock(),
            )

    @contextmanager
    def server(
        self, ask: AskSecret = no_prompt, observe: Observe = lambda _: None, *, for_audit: bool = False
    ) -> Iterator[Server]:
        """Open token and store as one server; both are closed when the ``with`` ends.

        ``for_audit``: to find out what is wrong with an installation whose own evidence was changed, too.
        """
        with self.open_store() as store, self.open_token(ask) as session:
            environment = self.environment(store, session, self.profile(session), for_audit=for_audit)
            yield Server(
                environment,
                store,
                actor=current_actor(),
                observe=observe,
                origin_policy=self.origin_policy,
            )
