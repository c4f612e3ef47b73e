"""A home folder: configuration, token and store, made together and opened together."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from . import config as configuration
from .config import CARD_PIN_VARIABLE, CONFIG_FILE, TOKEN_PIN_VARIABLE, Config, StoreConfig, TokenConfig
from .errors import (
    AlreadyInitialised,
    ConfigError,
    FileError,
    InputError,
    PinMissing,
    SignerError,
    TokenUnsuitable,
)
from .home import current_actor, read_secret_file, refuse_open_to_others
from .server import Server
from .store.store import Store
from .token import softhsm
from .token.environment import Observe, SecureEnvironment
from .token.profile import TokenProfile
from .token.session import TokenSession, find_token, load_library
from .token.uri import TokenUri

PROFILE_FILE = "profile.json"
SOFTHSM_FILE = "softhsm.conf"
TOKEN_FOLDER = "tokens"  # noqa: S105  a folder
PIN_FILE = "token.pin"
SO_PIN_FILE = "token.so-pin"
CLAIM_FILE = ".init"
"""There while `init` is at work."""
DEFAULT_LABEL = "hsm-signer"
SQLITE = "sqlite:///"

AskSecret = Callable[[str], str]
"""Prompts a person, without echo; raises PinMissing where nobody is there."""
Tell = Callable[[str], None]





@dataclass(frozen=True, slots=True)
class NewInstallation:
    """What `init` is asked for."""

    home: Path
    module: str | None = None
    """PKCS#11 module of an existing token; None makes a SoftHSM2 token in the home folder."""
    token_label: str | None = None
    token_pin_file: Path | None = None
    softhsm_conf: Path | None = None
    """SoftHSM2 settings to start from."""
    store_url: str | None = None


def initialise(wanted: NewInstallation, ask: AskSecret, tell: Tell = lambda _: None) -> Config:
    """Make token (or use an existing one), store, MK, record MAC key and config.toml, in this order.

    config.toml comes last: without it there is no installation, and what was made before a failure is
    removed again, but for keys on a token that was there before. The folder is claimed first, so that two at
    once never remove each other's work. Raises AlreadyInitialised and everything that token, store and files
    refuse.
    """
    home = wanted.home
    try:
        existed = home.exists()
        if (home / CONFIG_FILE).exists():
            raise AlreadyInitialised(f"{home} holds an installation already")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_open_to_others(home)
        _claim(home)
    except OSError as error:
        raise FileError(f"{home}: {error.strerror or error}") from error
    try:
        config = _initialise(wanted, ask, tell)
        (home / CLAIM_FILE).unlink()
    except OSError as error:
        _remove(home, existed)
        raise FileError(f"{home}: {error.strerror or error}") from error
    except BaseException:
        _remove(home, existed)
        raise
    return config


def _claim(home: Path) -> None:
    """Make this folder ours; raises AlreadyInitialised where it is not empty, or somebody else was first."""
    hint = "name a folder that does not exist yet, or an empty one"
    try:
        os.close(os.open(home / CLAIM_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as error:
        raise AlreadyInitialised(
            f"{home}: another init is at work there, or was killed there", hint=hint
        ) from error
    if [each.name for each in home.iterdir()] != [CLAIM_FILE]:
        (home / CLAIM_FILE).unlink()
        raise AlreadyInitialised(f"{home} is not empty", hint=hint)



def _initialise(wanted: NewInstallation, ask: AskSecret, tell: Tell) -> Config:
    home = wanted.home
    if wanted.module is None:
        uri, pin, conf = _make_softhsm(wanted, tell)
    else:
        uri, conf = _existing_token(wanted), None
        pin = token_pin(uri, home, ask)
    from .token.probe import probe

    with TokenSession.open(uri, pin, read_write=True) as session:
        tell("probing the token")
        profile = probe(session)
        _refuse_unfit(profile)
        # The serial pins the token: another one of the same name will not be taken for it.
        uri = replace(uri, token=session.label, serial=session.serial)
        store_url = wanted.store_url or f"{SQLITE}store.db"
        tell("making the store")
        Store.create(absolute_url(store_url, home)).close()
        try:
            tell("making the master key and the record MAC key")
            config = Config(
                format=1,
                token=TokenConfig(
                    uri=str(uri),
                    master_key=session.create_master_key(profile).hex(),
                    record_key=session.create_record_key(profile).hex(),
                    softhsm_conf=conf,
                ),
                store=StoreConfig(url=store_url),
            )
            _write(home / PROFILE_FILE, profile.to_json())
            _write(home / CONFIG_FILE, configuration.dump(config).encode("utf-8"))
        except BaseException:
            with suppress(SignerError, OSError):
                Store.discard(absolute_url(store_url, home))
            raise
    return config


def _make_softhsm(wanted: NewInstallation, tell: Tell) -> tuple[TokenUri, str, str]:
    """A SoftHSM2 token inside the home folder, its PINs in files only the owner can read."""
    home, module = wanted.home, softhsm.find_module()
    text = softhsm.DEFAULT_CONFIGURATION
    if wanted.softhsm_conf is not None:
        try:
            text = wanted.softhsm_conf.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FileError(f"{wanted.softhsm_conf}: cannot be read") from error
    (home / TOKEN_FOLDER).mkdir(mode=0o700)
    _write(home / SOFTHSM_FILE, softhsm.configuration(text, home / TOKEN_FOLDER).encode("utf-8"))
    softhsm.use_configuration(home / SOFTHSM_FILE)
    label = wanted.token_label or DEFAULT_LABEL
    if len(label.encode("utf-8")) > 32:
        raise InputError("token label: expected at most 32 bytes")
    so_pin, source = secrets.token_hex(16), f"file:{PIN_FILE}"
    if wanted.token_pin_file is not None:
        pin = read_secret_file(wanted.token_pin_file, "token PIN")
        source = f"file:{wanted.token_pin_file.absolute()}"
    else:
        pin = os.environ.get(TOKEN_PIN_VARIABLE) or secrets.token_hex(16)
        _write(home / PIN_FILE, pin.encode("utf-8", "surrogateescape") + b"\n")
    _write(home / SO_PIN_FILE, so_pin.encode("ascii") + b"\n")
    tell("making a SoftHSM2 token (for trials: its keys are files)")
    serial = softhsm.create_token(module, label, so_pin, pin)
    uri = TokenUri(token=label, serial=serial, module_path=module, pin_source=source)
    return uri, pin, SOFTHSM_FILE


def _existing_token(wanted: NewInstallation) -> TokenUri:
    """Its URI, once it has been seen to be there: nobody is asked for the PIN of a token that is not."""
    if wanted.token_label is None:
        raise InputError("--token-label is missing: the label of the token behind --module")
    source = None
    if wanted.token_pin_file is not None:
        source = f"file:{wanted.token_pin_file.absolute()}"
    uri = TokenUri(token=wanted.token_label, module_path=wanted.module, pin_source=source)
    library = load_library(uri)
    try:
        find_token(library, uri)
    finally:
        library.finalize()
    return uri


def _refuse_unfit(profile: TokenProfile) -> None:
    for lacking, what in (
        (profile.key_wrap, "AES Key Wrap (RFC 3394)"),
        (profile.private_wrap, "integrity-protected wrapping of private keys"),
        (profile.cbc_encrypt_data, "AES_CBC_ENCRYPT_DATA"),
        (profile.ecdh, "ECDH1_DERIVE"),
    ):
        if lacking is None:
            raise TokenUnsuitable(f"this token cannot be used: it has no {what}")


def _remove(home: Path, existed: bool) -> None:
    with suppress(OSError):
        for made in home.iterdir():
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        if not existed:
            home.rmdir()


def _write(path: Path, data: bytes) -> None:
    """A file that only its owner can read, complete or not there, and on the disk when this returns."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def absolute_url(url: str, home: Path) -> str:
    """A SQLite URL with a relative path made absolute by the home folder; any other URL as it is."""
    if url.startswith(SQLITE) and not url.startswith(SQLITE + "/"):
        return f"{SQLITE}{home / url.removeprefix(SQLITE)}"
    return url


def token_pin(uri: TokenUri, home: Path, ask: AskSecret) -> str:
    """The token's user PIN: HSM_SIGNER_TOKEN_PIN, else pin-source, else a prompt. Raises PinMissing."""
    if pin := os.environ.get(TOKEN_PIN_VARIABLE):
        return pin
    if uri.pin_source is None:
        return ask(f"PIN of token {uri.token or ''}".rstrip())
    path = uri.pin_source.removeprefix("file:")
    if path.startswith("|"):
        raise ConfigError("token.uri: pin-source: expected file:PATH; commands are not run")
    return read_secret_file(home / path, "token.uri: pin-source")


def no_prompt(what: str) -> str:
    """For when nobody can be asked."""
    raise PinMissing(
        f"{what}: not given, and nobody can be asked",
        hint=f"set {TOKEN_PIN_VARIABLE} or pin-source in {CONFIG_FILE}",
    )


@dataclass(frozen=True, slots=True)
class Installation:
    """An existing home folder with its configuration read."""

    home: Path
    config: Config

    @classmethod
    def open(cls, home: Path) -> Installation:
        """Raises NotInitialised, ConfigError."""
        config = configuration.load(home)
        for path in (home, home / CONFIG_FILE):
            refuse_open_to_others(path)
        return cls(home, config)

    @property
    def token_uri(self) -> TokenUri:
        """Raises ConfigError."""
        return TokenUri.parse(self.config.token.uri)

    def open_store(self) -> Store:
        """Raises StoreError."""
        config = self.config.store
        return Store.open(
            absolute_url(config.url, self.home),
            busy_timeout=config.busy_timeout,
            connections=config.connections,
        )

    def upgrade_store(self) -> None:
        """Bring the store to this program's schema version; raises StoreError."""
        Store.upgrade(
            absolute_url(self.config.store.url, self.home), busy_timeout=self.config.store.busy_timeout
        )

    def open_token(self, ask: AskSecret = no_prompt) -> TokenSession:
        """Log in; raises TokenError, PinMissing, FileError."""
        if self.config.token.softhsm_conf is not None:
            path = self.home / self.config.token.softhsm_conf
            if not path.is_file():
                raise ConfigError(f"token.softhsm_conf: there is no file {path}")
            softhsm.use_configuration(path)
        uri = self.token_uri
        return TokenSession.open(uri, token_pin(uri, self.home, ask))

    def profile(self, session: TokenSession) -> TokenProfile:
        """The stored profile, or a new one where the token, its firmware or its library is another."""
        path = self.home / PROFILE_FILE
        with suppress(OSError):
            stored = TokenProfile.from_json(path.read_bytes())
            if stored is not None and stored.identity == session.identity:
                return stored
        # Here and not above: hardly any command needs it.
        from .token.probe import probe

        profile = probe(session)
        with suppress(OSError):  # a read-only home costs a probe each time, nothing else
            _write(path, profile.to_json())
        return profile

    @contextmanager
    def server(self, ask: AskSecret = no_prompt, observe: Observe = lambda _: None) -> Iterator[Server]:
        """Token and store opened; closed at the end."""
        with self.open_store() as store, self.open_token(ask) as session:
            environment = SecureEnvironment(
                session,
                self.profile(session),
                mk_id=bytes.fromhex(self.config.token.master_key),
                record_key_id=bytes.fromhex(self.config.token.record_key),
            )
            yield Server(environment, store, actor=current_actor(), observe=observe)


__all__ = [
    "CARD_PIN_VARIABLE",
    "Installation",
    "NewInstallation",
    "initialise",
]
