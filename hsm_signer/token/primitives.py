"""Single PKCS#11 calls on keys that are kept, so that they can be destroyed: what TokenWorkspace is made of.

The lifetime of every session object is here: whatever a call makes is noted at once and destroyed when the
``with`` ends, last made first, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import pkcs11.exceptions as p11
from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.mechanisms import KDF

from hsm_signer.core import algorithms
from hsm_signer.errors import RecordDamaged, SignerError, TokenUnavailable, TokenUnsuitable, WrongKey
from hsm_signer.schemes.key_operations import Key
from hsm_signer.types import KEY_LENGTH, Combine, KeySpec, SpkiDer

from . import templates
from .binding import Handle, PrivateKeyObject, PublicKeyObject, SecretKeyObject, mechanism, xor_parameter
from .faults import MAY_SAY_WRONG_KEY, SAYS_WRONG_KEY, reason, token_call
from .profile import TokenProfile
from .templates import Origin

_Made = TypeVar("_Made", bound=Handle)

ZERO_IV: Final = bytes(16)
_GENERATION: Final = {
    KeyType.AES: Mechanism.AES_KEY_GEN,
    KeyType.GENERIC_SECRET: Mechanism.GENERIC_SECRET_KEY_GEN,
}
CMAC_BLOCK: Final = 16

OAEP: Final = {
    "sha256": (Mechanism.SHA256, MGF.SHA256, None),
    "sha1": (Mechanism.SHA_1, MGF.SHA1, None),
}
OAEP_MARKS: Final = {b"\x01": "sha1", b"\x02": "sha256"}
"""First byte of P of an RSA credential: which hash its RSA-OAEP has (docs/understand/protocol.md, 3)."""


@dataclass(frozen=True, slots=True)
class GeneratedPair:
    """Implements schemes.workspace.KeyPair."""

    private: PrivateKeyObject
    public: PublicKeyObject
    spec: KeySpec
    spki: SpkiDer


class Primitives:
    """Context manager; :attr:`destroyed` counts what its end destroyed."""

    def __init__(
        self,
        session: Any,
        profile: TokenProfile,
        built: templates.Templates,
        *,
        master_key: SecretKeyObject | None,
        known_wrap: bytes | None = None,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        """``known_wrap``: KW under MK of a key nobody uses, which must open; ``give_up`` ends the session."""
        self._known_wrap = known_wrap
        self._give_up = give_up
        self._session = session
        self._profile = profile
        self._templates = built
        self._master_key = master_key
        self._made: list[Handle] = []
        self.destroyed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Destroy every key, last made first. Raises TokenUnavailable where one could not be destroyed.

        A key that may still be there is not left to a session that goes on: the session is given up, and
        its objects die with it. So it is after TokenUnavailable too, for then a key may have been made whose
        handle never arrived.
        """
        lost: p11.PKCS11Error | None = None
        while self._made:
            try:
                self._made.pop().destroy()
                self.destroyed += 1
            except p11.PKCS11Error as error:
                lost = error
        if lost is not None or isinstance(exc, TokenUnavailable):
            self._give_up()
        if lost is not None and exc is None:
            raise TokenUnavailable(
                "the token stopped answering while keys were being destroyed",
                hint="its session objects end with the session; nothing was released",
            ) from lost

    # --- for the probe: one template, one call ---------------------------------------------------------

    @property
    def profile(self) -> TokenProfile:
        """What this workspace takes the token to be able to do."""
        return self._profile

    def generate_from(self, template: templates.Template, key_type: KeyType = KeyType.AES) -> SecretKeyObject:
        """A key of 256 bits, AES or generic secret, with exactly ``template``."""
        made = self._session.generate_key(
            key_type, KEY_LENGTH * 8, mechanism=_GENERATION[key_type], template=template
        )
        return self._keep(SecretKeyObject(made.wrapper))

    def unwrap_with(
        self,
        under: SecretKeyObject,
        wrapped: bytes,
        template: templates.Template,
        key_type: KeyType = KeyType.AES,
    ) -> SecretKeyObject:
        """A secret key with exactly ``template``, by KW."""
        made = under.unwrap_key(
            ObjectClass.SECRET_KEY, key_type, wrapped, mechanism=mechanism(self._kw()), template=template
        )
        return self._keep(SecretKeyObject(made.wrapper))

    def derive_with(
        self, base: SecretKeyObject, data: bytes, template: templates.Template
    ) -> SecretKeyObject:
        """An AES-256 key with exactly ``template``, by CBC_ENCRYPT_DATA over 32 bytes."""
        made = base.derive_key(
            KeyType.AES,
            KEY_LENGTH * 8,
            mechanism=Mechanism.AES_CBC_ENCRYPT_DATA,
            mechanism_param=(ZERO_IV, data),
            template=template,
        )
        return self._keep(SecretKeyObject(made.wrapper))

    def copy_of(self, key: SecretKeyObject) -> SecretKeyObject:
        """A copy under another label, by C_CopyObject."""
        copied: Any = key.copy({Attribute.LABEL: "copy"})
        return self._keep(SecretKeyObject(copied.wrapper))

    def use_own_master_key(self) -> None:
        """From now on this workspace has a master key that dies with it."""
        template = templates.secret_key(
            self._profile,
            Origin.GENERATED,
            usage=Attribute.WRAP,
            also=(Attribute.UNWRAP,),
            mechanisms=(self._kw(),),
            value_len=KEY_LENGTH,
        )
        self._master_key = self.generate_from(template)

    def random(self, length: int) -> bytes:
        """C_GenerateRandom, ``length`` bytes."""
        with token_call("drawing random bytes"):
            drawn: bytes = self._session.generate_random(length * 8)
            return drawn

    # --- how -------------------------------------------------------------------------------------------

    def _unwrapped(
        self,
        usage: Attribute | None,
        allowed: int,
        *,
        extractable: bool = False,
        key_type: KeyType = KeyType.AES,
    ) -> templates.Template:
        """With CKA_VALUE_LEN only where the token wants it."""
        value_len = KEY_LENGTH if self._profile.value_len_on_unwrap else None
        return self._templates.secret_key(
            Origin.UNWRAPPED,
            usage,
            allowed,
            extractable=extractable,
            value_len=value_len,
            key_type=key_type,
        )

    def _derived(
        self, usage: Attribute | None, allowed: int, *, extractable: bool = False
    ) -> templates.Template:
        return self._templates.secret_key(
            Origin.DERIVED, usage, allowed, extractable=extractable, value_len=KEY_LENGTH
        )

    def _generate(
        self, usage: Attribute | None, allowed: int, name: str, key_type: KeyType = KeyType.AES
    ) -> Key:
        """A key that has to leave the token wrapped: extractable."""
        template = self._templates.secret_key(
            Origin.GENERATED,
            usage,
            allowed,
            extractable=True,
            value_len=KEY_LENGTH,
            key_type=key_type,
        )
        with token_call(f"generating {name}"):
            return self.generate_from(template, key_type)

    def _generate_ec(self, spec: KeySpec, key_type: KeyType, private: templates.Template) -> tuple[Any, Any]:
        generation = (
            Mechanism.EC_EDWARDS_KEY_PAIR_GEN if spec is KeySpec.ED25519 else Mechanism.EC_KEY_PAIR_GEN
        )
        ec_params = algorithms.EC_PARAMS[spec]
        domain = self._session.create_domain_parameters(
            key_type, {Attribute.EC_PARAMS: ec_params}, local=True
        )
        public = templates.public_key(self._profile, key_type=key_type, ec_params=ec_params)
        pair: tuple[Any, Any] = domain.generate_keypair(
            mechanism=generation, public_template=public, private_template=private
        )
        return pair

    def _kept_pair(self, pair: tuple[Any, Any], spec: KeySpec) -> GeneratedPair:
        public = self._keep(PublicKeyObject(pair[0].wrapper))
        private = self._keep(PrivateKeyObject(pair[1].wrapper))
        if spec.rsa_bits:
            spki = algorithms.rsa_spki(public[Attribute.MODULUS], public[Attribute.PUBLIC_EXPONENT])
        else:
            spki = algorithms.ec_spki(spec, public[Attribute.EC_POINT])
        return GeneratedPair(private, public, spec, spki)

    def _combine(self, base: Key, combine: Combine, data: bytes, template: templates.Template) -> Key:
        parameter: Any
        if combine is Combine.XOR:
            parameter, alive = xor_parameter(bytes(data))
        else:
            parameter, alive = (ZERO_IV, bytes(data)), None
        with token_call("deriving a key"):
            made = secret_of(base).derive_key(
                KeyType.AES,
                KEY_LENGTH * 8,
                mechanism=mechanism(self._combine_mechanism(combine)),
                mechanism_param=parameter,
                template=template,
            )
        del alive
        return self._keep(SecretKeyObject(made.wrapper))

    def _agree(self, private: PrivateKeyObject, point: bytes, template: templates.Template) -> Key:
        with token_call("agreeing on a key by ECDH"):
            made = private.derive_key(
                KeyType.AES,
                KEY_LENGTH * 8,
                mechanism=mechanism(self._number("ecdh")),
                mechanism_param=(KDF.NULL, None, point),
                template=template,
            )
        return self._keep(SecretKeyObject(made.wrapper))

    def _kowf(
        self,
        sk: PrivateKeyObject,
        parameter: bytes,
        usage: Attribute,
        allowed: int,
        *,
        extractable: bool = False,
    ) -> Key:
        """KOWF(SK, P): by ECDH for a point (04 || x || y), by RSA-OAEP for 01 or 02 || ciphertext."""
        kind, rest = parameter[:1], parameter[1:]
        if kind == b"\x04":
            return self._agree(sk, parameter, self._derived(usage, allowed, extractable=extractable))
        if kind not in OAEP_MARKS:
            raise RecordDamaged("P: expected a point of the key's curve, or 01 or 02 and a ciphertext")
        template = self._unwrapped(usage, allowed, extractable=extractable)
        return self._unwrap(
            lambda: SecretKeyObject(
                sk.unwrap_key(
                    ObjectClass.SECRET_KEY,
                    KeyType.AES,
                    rest,
                    mechanism=Mechanism.RSA_PKCS_OAEP,
                    mechanism_param=OAEP[OAEP_MARKS[kind]],
                    template=template,
                ).wrapper
            ),
            WrongKey("this private key does not give KOWF"),
        )

    def _unwrap_secret(
        self,
        under: SecretKeyObject,
        wrapped: bytes,
        template: templates.Template,
        refusal: SignerError,
        key_type: KeyType = KeyType.AES,
    ) -> Key:
        return self._unwrap(
            lambda: SecretKeyObject(
                under.unwrap_key(
                    ObjectClass.SECRET_KEY,
                    key_type,
                    wrapped,
                    mechanism=mechanism(self._kw()),
                    template=template,
                ).wrapper
            ),
            refusal,
        )

    def _unwrap(self, call: Callable[[], Handle], refusal: SignerError) -> Key:
        with token_call("unwrapping a key"):
            try:
                return self._keep(call())
            except MAY_SAY_WRONG_KEY as error:
                if not isinstance(error, SAYS_WRONG_KEY) and reason(error) not in self._profile.wrong_key:
                    raise
                # The same return values come from a token that has gone or been shut to us. Only where
                # something that must open does open, the caller's key is to blame.
                self._control()
                raise refusal from error

    def _control(self) -> None:
        """Unwrap what is known to open; raises TokenUnavailable."""
        if self._master_key is None or self._known_wrap is None:
            self.random(CMAC_BLOCK)
            return
        with token_call("opening a key that must open"):
            self.unwrap_with(self._master_key, self._known_wrap, self._unwrapped(None, self._kw()))

    def _keep(self, made: _Made) -> _Made:
        self._made.append(made)
        return made

    def _mk(self) -> SecretKeyObject:
        if self._master_key is None:
            raise AssertionError("this workspace has no master key")
        return self._master_key

    def _number(self, field: str) -> int:
        number: int | None = getattr(self._profile, field)
        if number is None:
            raise TokenUnsuitable(f"the token has no mechanism for {field}")
        return number

    def _kw(self) -> int:
        return self._number("key_wrap")

    def _sk_wrap(self) -> int:
        return self._number("private_wrap")

    def _combine_mechanism(self, combine: Combine) -> int:
        return self._number("xor_base_and_data" if combine is Combine.XOR else "cbc_encrypt_data")

    def _kowf_usages(self, spec: KeySpec, gives_kowf: bool) -> tuple[Attribute, ...]:
        if not gives_kowf:
            return ()
        return (Attribute.UNWRAP,) if spec.rsa_bits else (Attribute.DERIVE,)

    def _kowf_mechanisms(self, spec: KeySpec, gives_kowf: bool) -> tuple[int, ...]:
        if not gives_kowf:
            return ()
        return (Mechanism.RSA_PKCS_OAEP,) if spec.rsa_bits else (self._number("ecdh"),)


def secret_of(key: Key) -> SecretKeyObject:
    if not isinstance(key, SecretKeyObject):
        raise TypeError("expected a secret key of this workspace")
    return key


def private_of(key: Key) -> PrivateKeyObject:
    if not isinstance(key, PrivateKeyObject):
        raise TypeError("expected a private key of this workspace")
    return key
