"""One module, one token, one login, one thread.

python-pkcs11 calls C_Initialize(NULL) and releases the GIL in nearly every call; SoftHSM then works without
locks, and a second thread crashes the process. So a session belongs to the thread and process that opened it,
and refuses any other. Throughput comes from several processes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from types import TracebackType
from typing import Any, Self

import pkcs11
import pkcs11.exceptions as p11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from hsm_signer.core import algorithms
from hsm_signer.core.backoff import Backoff
from hsm_signer.errors import (
    TokenError,
    TokenKeyMissing,
    TokenNotFound,
    TokenPinWrong,
    TokenSessionLost,
    TokenUnavailable,
)
from hsm_signer.types import KeySpec, SpkiDer

from . import templates
from .binding import AttributeMapper, PrivateKeyObject, PublicKeyObject, SecretKeyObject
from .faults import reason, token_call
from .profile import TokenProfile
from .uri import TokenUri
from .workspace import TokenWorkspace

MASTER_KEY_LABEL = "hsm-signer MK"
RECORD_KEY_LABEL = "hsm-signer record MAC"
IDENTITY_KEY_LABEL = "hsm-signer identity"
KEY_ID_LENGTH = 8
MAX_TEMPLATES = 8
"""Profiles whose templates are kept built: the token's own, and those of mechanisms that old records name."""
OPENING_ATTEMPTS = 6
OPENING = Backoff(first=0.02, longest=1.0, jitter=0.0)
"""Pauses between them, 0.6 s in all."""
PASSING = (p11.GeneralError, p11.UserPinNotInitialized)

_log = logging.getLogger(__name__)
_in_use = False


class TokenSession:
    """The anchor session: closing it logs the process out and ends every key it made."""

    def __init__(self, library: Any, token: Any, session: Any, mapper: AttributeMapper) -> None:
        self._library = library
        self._token = token
        self._session = session
        self._mapper = mapper
        self._templates: list[tuple[TokenProfile, templates.Templates]] = []
        self._thread = threading.get_ident()
        self._process = os.getpid()

    @classmethod
    def open(cls, uri: TokenUri, pin: str, *, read_write: bool = False) -> TokenSession:
        """Load the module, find the one token that ``uri`` names, log in as user.

        SoftHSM writes the token's file at every login, and whoever reads it at that moment sees no token, one
        without a PIN, or CKR_GENERAL_ERROR: so these are tried again, and nothing else: on another token it
        could cost its user PIN.
        Raises TokenNotFound, TokenPinWrong, TokenSessionLost, TokenUnavailable.
        """
        global _in_use  # C_Initialize and C_Finalize are the process's, not an object's
        if _in_use:
            raise TokenError("this process has a token session already")
        for attempt in range(OPENING_ATTEMPTS):
            library = load_library(uri)
            try:
                session = cls._log_in(library, uri, pin, read_write)
            except TokenError as error:
                passing = isinstance(error, TokenNotFound) or isinstance(error.__cause__, PASSING)
                if not passing or attempt == OPENING_ATTEMPTS - 1:
                    raise
                _log.info("the token could not be opened, trying again: %s [%s]", error.message, error.code)
                time.sleep(OPENING.pause(attempt))
            else:
                _in_use = True
                _log.info("token %r opened in slot %d", session.label, session.slot_id)
                return session
        raise AssertionError("unreachable")

    @classmethod
    def _log_in(cls, library: Any, uri: TokenUri, pin: str, read_write: bool) -> TokenSession:
        mapper = AttributeMapper()
        try:
            token = find_token(library, uri)
            try:
                session = token.open(rw=read_write, user_pin=pin, attribute_mapper=mapper)
            except (p11.PinIncorrect, p11.PinInvalid, p11.PinLenRange) as error:
                raise TokenPinWrong(
                    f"token {token.label!r} refuses its PIN",
                    hint="see pin-source in config.toml, or set HSM_SIGNER_TOKEN_PIN",
                ) from error
            except (p11.PinLocked, p11.PinExpired, p11.UserPinNotInitialized) as error:
                raise TokenPinWrong(
                    f"token {token.label!r}: its user PIN is not usable ({reason(error)})"
                ) from error
            except p11.PKCS11Error as error:
                raise TokenUnavailable(f"token {token.label!r} cannot be opened ({reason(error)})") from error
        except BaseException:
            library.finalize()
            raise
        return cls(library, token, session, mapper)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Log out and finalize the module: it keeps some memory for every session object until then."""
        global _in_use
        if self._session is None:
            return
        if os.getpid() != self._process:
            self._session = None  # a child's copy: the session is its parent's to close
            return
        session, self._session = self._session, None
        _in_use = False
        try:
            session.close()
        except p11.PKCS11Error:
            pass  # a token that has gone is closed already
        finally:
            self._library.finalize()

    @property
    def serial(self) -> str:
        """CK_TOKEN_INFO.serialNumber without padding."""
        return str(self._token.serial.decode("ascii", "replace"))

    @property
    def label(self) -> str:
        """CK_TOKEN_INFO.label without padding."""
        return str(self._token.label)

    @property
    def slot_id(self) -> int:
        """CK_SLOT_ID."""
        return int(self._token.slot.slot_id)

    @property
    def identity(self) -> str:
        """Library, model and firmware: what a probe's result holds for."""
        library, token = self._library, self._token
        return (
            f"{library.library_description} {_version(library.library_version)}, "
            f"{token.manufacturer_id} {token.model} firmware {_version(token.firmware_version)}"
        )

    def require_owner(self) -> None:
        """Raises TokenError in another thread or process, TokenSessionLost where it has ended."""
        if threading.get_ident() != self._thread or os.getpid() != self._process:
            raise TokenError("the token session belongs to another thread or process")
        if self._session is None:
            raise TokenSessionLost("the token session is closed", hint="run the command again")

    @property
    def pkcs11(self) -> Any:
        """The python-pkcs11 session, for this room only; raises as :meth:`require_owner`."""
        self.require_owner()
        return self._session

    def max_rsa_bits(self) -> int:
        """Longest modulus the token generates, by C_GetMechanismInfo; 0 if none."""
        try:
            info = self._token.slot.get_mechanism_info(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
        except p11.PKCS11Error:
            return 0
        return int(info.max_key_length)

    def mechanisms(self) -> list[str]:
        """Names of what the token lists; vendor mechanisms as hexadecimal numbers."""
        with token_call("listing mechanisms"):
            listed = self._token.slot.get_mechanisms()
        return sorted(each.name if isinstance(each, Mechanism) else f"0x{each:08X}" for each in listed)

    def workspace(
        self,
        profile: TokenProfile,
        master_key: SecretKeyObject | None = None,
        known_wrap: bytes | None = None,
    ) -> TokenWorkspace:
        """A place for the keys of one operation.

        With ``master_key`` it is a real one: the session is given up where a key may have been left behind.
        Without, it is the probe's, which finds out by failing. ``known_wrap``: KW under MK of a key nobody
        uses, which opens as long as the token does.
        """
        session = self.pkcs11
        built = next((built for known, built in self._templates if known is profile), None)
        if built is None:
            built = templates.Templates(profile, self._mapper)
            self._templates = [*self._templates[-MAX_TEMPLATES:], (profile, built)]
        if master_key is None:
            return TokenWorkspace(session, profile, built, master_key=None)
        return TokenWorkspace(
            session,
            profile,
            built,
            master_key=master_key,
            known_wrap=known_wrap,
            give_up=self.close,
        )

    def find_key(self, label: str, key_id: bytes) -> SecretKeyObject:
        """A secret key by CKA_LABEL and CKA_ID; raises TokenKeyMissing unless there is exactly one."""
        return SecretKeyObject(self._find(ObjectClass.SECRET_KEY, label, key_id).wrapper)

    def _find(self, kind: ObjectClass, label: str, key_id: bytes) -> Any:
        template = {
            Attribute.CLASS: kind,
            Attribute.LABEL: label,
            Attribute.ID: key_id,
            Attribute.TOKEN: True,
        }
        with token_call("looking for its keys"):
            found = list(self.pkcs11.get_objects(template))
        if len(found) != 1:
            raise TokenKeyMissing(
                f"token {self.label!r} has {len(found)} keys {label!r} with id {key_id.hex()}; expected 1",
                hint="this is another token, or it was initialised again: restore the token's backup. "
                "Without its master key no credential can be used",
            )
        return found[0]

    def create_master_key(self, profile: TokenProfile) -> bytes:
        """MK: AES-256, WRAP and UNWRAP by KW, never extractable; returns its CKA_ID, 8 random bytes."""
        key_id = self._new_key_id()
        template = templates.secret_key(
            profile,
            templates.Origin.GENERATED,
            usage=Attribute.WRAP,
            also=(Attribute.UNWRAP,),
            mechanisms=(profile.key_wrap or 0,),
            value_len=32,
            token=True,
            label=MASTER_KEY_LABEL,
            key_id=key_id,
        )
        if profile.confines("unwrap-template"):
            # Before CKA_MODIFIABLE, after which some tokens take nothing.
            template = {Attribute.UNWRAP_TEMPLATE: templates.unwrap_template()} | template
        with token_call("generating the master key"):
            self.pkcs11.generate_key(KeyType.AES, 256, mechanism=Mechanism.AES_KEY_GEN, template=template)
        return key_id

    def create_record_key(self, profile: TokenProfile) -> bytes:
        """The record MAC key: 32 bytes, SIGN and VERIFY by HMAC-SHA-256; returns its CKA_ID (8 bytes)."""
        key_id = self._new_key_id()
        template = templates.secret_key(
            profile,
            templates.Origin.GENERATED,
            usage=Attribute.SIGN,
            also=(Attribute.VERIFY,),
            mechanisms=(Mechanism.SHA256_HMAC,),
            value_len=32,
            token=True,
            label=RECORD_KEY_LABEL,
            key_id=key_id,
            key_type=KeyType.GENERIC_SECRET,
        )
        with token_call("generating the record MAC key"):
            self.pkcs11.generate_key(
                KeyType.GENERIC_SECRET, 256, mechanism=Mechanism.GENERIC_SECRET_KEY_GEN, template=template
            )
        return key_id

    def create_identity_key(self, profile: TokenProfile) -> bytes:
        """The identity key: P-256, SIGN by ECDSA, never extractable; returns its CKA_ID (8 bytes)."""
        key_id = self._new_key_id()
        ec_params = algorithms.EC_PARAMS[KeySpec.P256]
        place: dict[str, Any] = {"token": True, "label": IDENTITY_KEY_LABEL, "key_id": key_id}
        private = templates.private_key(
            profile,
            templates.Origin.GENERATED,
            key_type=KeyType.EC,
            usages=(Attribute.SIGN,),
            mechanisms=(Mechanism.ECDSA,),
            extractable=False,
            **place,
        )
        public = templates.public_key(
            profile, key_type=KeyType.EC, usages=(Attribute.VERIFY,), ec_params=ec_params, **place
        )
        with token_call("generating the identity key"):
            domain = self.pkcs11.create_domain_parameters(
                KeyType.EC, {Attribute.EC_PARAMS: ec_params}, local=True
            )
            domain.generate_keypair(
                mechanism=Mechanism.EC_KEY_PAIR_GEN, public_template=public, private_template=private
            )
        return key_id

    def find_identity(self, key_id: bytes) -> tuple[PrivateKeyObject, SpkiDer]:
        """The identity key and its public half; raises TokenKeyMissing unless there is exactly one pair."""
        private = self._find(ObjectClass.PRIVATE_KEY, IDENTITY_KEY_LABEL, key_id)
        public = PublicKeyObject(self._find(ObjectClass.PUBLIC_KEY, IDENTITY_KEY_LABEL, key_id).wrapper)
        with token_call("reading the identity key's public half"):
            return PrivateKeyObject(private.wrapper), algorithms.ec_spki(
                KeySpec.P256, public[Attribute.EC_POINT]
            )

    def find_identity_id(self) -> bytes | None:
        """The CKA_ID of the identity key; None unless there is exactly one."""
        template = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: IDENTITY_KEY_LABEL}
        with token_call("looking for its keys"):
            found = [key[Attribute.ID] for key in self.pkcs11.get_objects(template)]
        return bytes(found[0]) if len(found) == 1 else None

    def random(self, length: int) -> bytes:
        """``length`` bytes of the token's generator."""
        with token_call("drawing random bytes"):
            return bytes(self.pkcs11.generate_random(length * 8))

    def _new_key_id(self) -> bytes:
        return self.random(KEY_ID_LENGTH)


def load_library(uri: TokenUri) -> Any:
    """The PKCS#11 module, initialised; raises TokenNotFound."""
    if uri.module_path is None:
        raise TokenNotFound("token.uri: module-path is missing: the path of the PKCS#11 module")
    try:
        library = pkcs11.lib(uri.module_path)
        library.initialize()
    except p11.PKCS11Error as error:
        if type(error) is p11.PKCS11Error:  # the library's own, from the system's loader
            raise TokenNotFound(
                f"PKCS#11 module {uri.module_path} cannot be loaded",
                hint="install it, or correct module-path in config.toml",
            ) from error
        raise TokenNotFound(
            f"PKCS#11 module {uri.module_path} does not start ({reason(error)})",
            hint="its own settings or devices are not as it needs them (SoftHSM2: the folder of its tokens)",
        ) from error
    return library


def find_token(library: Any, uri: TokenUri) -> Any:
    """The one initialised token that matches ``uri``; raises TokenNotFound, naming what is there."""
    found, present = [], []
    try:
        for token in library.get_tokens(token_flags=pkcs11.TokenFlag.TOKEN_INITIALIZED):
            present.append(f"{token.label!r}")
            if (
                uri.token in (None, token.label)
                and uri.serial in (None, token.serial.decode("ascii", "replace"))
                and uri.manufacturer in (None, token.manufacturer_id)
                and uri.model in (None, token.model)
            ):
                found.append(token)
    except p11.PKCS11Error as error:
        raise TokenNotFound(f"the PKCS#11 module lists no tokens ({reason(error)})") from error
    if len(found) == 1:
        return found[0]
    named = f"token {uri.token!r}" if uri.token else "the token of token.uri"
    if uri.serial:
        named += f" with serial {uri.serial}"
    there = ", ".join(present) or "none"
    problem = "is not there" if not found else f"is ambiguous: {len(found)} match"
    raise TokenNotFound(f"{named} {problem}", hint=f"tokens present: {there}")


def _version(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
