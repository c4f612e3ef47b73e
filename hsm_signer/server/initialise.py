"""`hsm-signer init`: token, store, keys and configuration, made together or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hsm_signer.config import installation as configuration
from hsm_signer.config.files import write_whole
from hsm_signer.config.home import current_actor, read_secret_file, refuse_open_to_others
from hsm_signer.config.installation import (
    CONFIG_FILE,
    FORMAT,
    TOKEN_PIN_VARIABLE,
    Config,
    StoreConfig,
    TokenConfig,
)
from hsm_signer.core.identity import fingerprint
from hsm_signer.errors import (
    AlreadyInitialised,
    FileError,
    InputError,
    SignerError,
    TokenUnsuitable,
    TokenWeak,
    os_words,
)
from hsm_signer.store.store import Store
from hsm_signer.token import softhsm
from hsm_signer.token.profile import TokenProfile
from hsm_signer.token.session import TokenSession, find_token, load_library
from hsm_signer.token.uri import TokenUri
from hsm_signer.types import TokenKeyKind

from .base import system_clock
from .installation import PROFILE_FILE, SOFTHSM_FILE, SQLITE, AskSecret, absolute_url, token_pin
from .installation_record import begin

TOKEN_FOLDER = "tokens"  # noqa: S105  a folder
PIN_FILE = "token.pin"
SO_PIN_FILE = "token.so-pin"
CLAIM_FILE = ".init"
"""There while `init` is at work."""
DEFAULT_LABEL = "hsm-signer"
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
    accept_weak_token: bool = False
    """Take a token that does not enforce what keeps keys inside it."""


def initialise(wanted: NewInstallation, ask: AskSecret, tell: Tell = lambda _: None) -> Config:
    """Make token (or use an existing one), store, the token's keys and config.toml, in this order.

    config.toml comes last: without it there is no installation, and what was made before a failure is
    removed again, but for keys on a token that was there before. The folder is claimed first, so that two at
    once never remove each other's work. Raises AlreadyInitialised and everything that token, store and files
    refuse.
    """
    home = wanted.home
    try:
        existed = home.exists()
        if (home / CONFIG_FILE).exists():
            raise AlreadyInitialised(
                f"{home} holds an installation already",
                hint="hsm-signer doctor looks at it; --home names another folder",
            )
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_open_to_others(home)
        _claim(home)
    except OSError as error:
        raise FileError(f"{home}: {os_words(error)}") from error
    try:
        config = _initialise(wanted, ask, tell)
        (home / CLAIM_FILE).unlink()
    except OSError as error:
        _remove(home, existed)
        raise FileError(f"{home}: {os_words(error)}") from error
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
    if [path.name for path in home.iterdir()] != [CLAIM_FILE]:
        (home / CLAIM_FILE).unlink()
        raise AlreadyInitialised(f"{home} is not empty", hint=hint)


def _initialise(wanted: NewInstallation, ask: AskSecret, tell: Tell) -> Config:
    home = wanted.home
    if wanted.module is None:
        uri, pin, conf = _make_softhsm(wanted, tell)
    else:
        uri, conf = _existing_token(wanted), None
        pin = token_pin(uri, home, ask)
    from hsm_signer.token.probe import probe

    with TokenSession.open(uri, pin, read_write=True) as session:
        tell("probing the token ...")
        profile = probe(session)
        _refuse_unfit(profile)
        _refuse_weak(profile, accepted=wanted.accept_weak_token, tell=tell)
        # The serial pins the token: another one of the same name will not be taken for it.
        uri = replace(uri, token=session.label, serial=session.serial)
        store_url = wanted.store_url or f"{SQLITE}store.db"
        tell("making the store ...")
        Store.create(absolute_url(store_url, home)).close()
        try:
            tell("making master key, record MAC key and identity key ...")
            with Store.open(absolute_url(store_url, home)) as store:
                sealed = begin(
                    session,
                    profile,
                    store,
                    mk_id=session.create_master_key(profile),
                    record_key_id=session.create_record_key(profile),
                    actor=current_actor(),
                    time=system_clock(),
                )
            config = Config(
                format=FORMAT,
                installation=sealed.record.installation_id.hex(),
                token=TokenConfig(
                    uri=str(uri),
                    softhsm_conf=conf,
                    accept_weak=bool(profile.weaknesses),
                ),
                store=StoreConfig(url=store_url),
            )
            write_whole(home / PROFILE_FILE, profile.to_json())
            write_whole(home / CONFIG_FILE, configuration.dump(config).encode("utf-8"))
        except BaseException:
            with suppress(SignerError, OSError):
                Store.discard(absolute_url(store_url, home))
            raise
        keys = sealed.record.token_keys
        _, spki = session.find_identity(next(key.key_id for key in keys if key.kind is TokenKeyKind.IDENTITY))
        tell(f"The identity of this installation is {fingerprint(spki)}")
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
    write_whole(home / SOFTHSM_FILE, softhsm.configuration(text, home / TOKEN_FOLDER).encode("utf-8"))
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
        write_whole(home / PIN_FILE, pin.encode("utf-8", "surrogateescape") + b"\n")
    write_whole(home / SO_PIN_FILE, so_pin.encode("ascii") + b"\n")
    tell("making a SoftHSM2 token (for trials: its keys are files) ...")
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
        (profile.sealing, "HMAC-SHA-256 under a wrapped secret"),
        (profile.private_wrap, "integrity-protected wrapping of private keys"),
        (profile.cbc_encrypt_data, "AES_CBC_ENCRYPT_DATA"),
        (profile.ecdh, "ECDH1_DERIVE"),
    ):
        if lacking is None:
            raise TokenUnsuitable(f"this token cannot be used: it has no {what}")


def _refuse_weak(profile: TokenProfile, *, accepted: bool, tell: Tell) -> None:
    """Raise TokenWeak for a token that lets keys out, unless it was accepted so."""
    if not profile.weaknesses:
        return
    words = f"this token does not enforce {', '.join(profile.weaknesses)}"
    if not accepted:
        raise TokenWeak(words, hint="take another token; for trials only: --accept-weak-token")
    tell(f"accepted although {words}")


def _remove(home: Path, existed: bool) -> None:
    with suppress(OSError):
        for made in home.iterdir():
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        if not existed:
            home.rmdir()
