"""Every attribute template the project uses, written in full (docs/understand/protocol.md, section 6).

Nothing is left to the token's defaults: SoftHSM's own on unwrap and derive are SENSITIVE=0 and WRAP=1. The
builders are typed because a wrongly typed value (a str where bytes are due) corrupts the heap inside
python-pkcs11.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from pkcs11 import Attribute, KeyType, ObjectClass

from .binding import AttributeMapper
from .profile import TokenProfile

Template = dict[Attribute, Any]

_USAGES = (
    Attribute.ENCRYPT,
    Attribute.DECRYPT,
    Attribute.SIGN,
    Attribute.VERIFY,
    Attribute.WRAP,
    Attribute.UNWRAP,
    Attribute.DERIVE,
)
_PRIVATE_USAGES = (Attribute.DECRYPT, Attribute.SIGN, Attribute.UNWRAP, Attribute.DERIVE)
_PUBLIC_USAGES = (Attribute.ENCRYPT, Attribute.VERIFY, Attribute.WRAP)


class Origin(Enum):
    """How a key comes into being; the value is the name of its confinement against later changes."""

    GENERATED = "modifiable"
    DERIVED = "modifiable-derived"
    UNWRAPPED = "modifiable-unwrapped"


def _common(profile: TokenProfile, *, token: bool = False, label: str = "", key_id: bytes = b"") -> Template:
    template: Template = {Attribute.TOKEN: token, Attribute.LABEL: label, Attribute.ID: key_id}
    if profile.confines("copyable"):
        # C_CopyObject could give a copy other attributes than ours.
        template[Attribute.COPYABLE] = False
    return template


def _closed(template: Template, profile: TokenProfile, origin: Origin) -> Template:
    """Confined to its attributes for good, where the token takes it: C_SetAttributeValue changes none.

    Last of all: tokens that fill an object attribute by attribute (SoftHSM, on derive and unwrap) take
    nothing after it.
    """
    if profile.confines(origin.value):
        template[Attribute.MODIFIABLE] = False
    return template


def secret_key(
    profile: TokenProfile,
    origin: Origin,
    *,
    usage: Attribute | None,
    mechanisms: Iterable[int],
    extractable: bool = False,
    also: Iterable[Attribute] = (),
    value_len: int | None = None,
    token: bool = False,
    label: str = "",
    key_id: bytes = b"",
    key_type: KeyType = KeyType.AES,
) -> Template:
    """A secret key with one usage (``also`` adds to it), confined to ``mechanisms`` if the token knows how.

    ``value_len`` in bytes, only for generating and deriving, or where the profile says that unwrapping wants
    it.
    """
    usages = {usage, *also}
    template = _common(profile, token=token, label=label, key_id=key_id)
    template |= {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: key_type,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: extractable,
    }
    template |= {each: each in usages for each in _USAGES}
    if profile.confines("allowed-mechanisms"):
        template[Attribute.ALLOWED_MECHANISMS] = tuple(mechanisms)
    if value_len is not None:
        template[Attribute.VALUE_LEN] = value_len
    return _closed(template, profile, origin)


def private_key(
    profile: TokenProfile,
    origin: Origin,
    *,
    key_type: KeyType,
    usages: Iterable[Attribute],
    mechanisms: Iterable[int],
    extractable: bool,
    token: bool = False,
    label: str = "",
    key_id: bytes = b"",
) -> Template:
    """SK or an ephemeral private key, session objects; or, with ``token``, the identity key."""
    wanted = set(usages)
    template = _common(profile, token=token, label=label, key_id=key_id)
    template |= {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.KEY_TYPE: key_type,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: extractable,
    }
    template |= {each: each in wanted for each in _PRIVATE_USAGES}
    if profile.confines("allowed-mechanisms"):
        template[Attribute.ALLOWED_MECHANISMS] = tuple(mechanisms)
    return _closed(template, profile, origin)


def public_key(
    profile: TokenProfile,
    *,
    key_type: KeyType,
    usages: Iterable[Attribute] = (),
    ec_params: bytes | None = None,
    modulus_bits: int | None = None,
    token: bool = False,
    label: str = "",
    key_id: bytes = b"",
) -> Template:
    """The public half of a generated pair; ``ec_params`` is a DER OID or printable curve name."""
    wanted = set(usages)
    template = _common(profile, token=token, label=label, key_id=key_id)
    template |= {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: key_type,
        Attribute.PRIVATE: False,
    }
    template |= {each: each in wanted for each in _PUBLIC_USAGES}
    if ec_params is not None:
        template[Attribute.EC_PARAMS] = ec_params
    if modulus_bits is not None:
        template[Attribute.MODULUS_BITS] = modulus_bits
        template[Attribute.PUBLIC_EXPONENT] = b"\x01\x00\x01"
    return _closed(template, profile, Origin.GENERATED)


class Templates:
    """The templates of secret keys for one token, each built and packed once."""

    def __init__(self, profile: TokenProfile, mapper: AttributeMapper) -> None:
        self._profile = profile
        self._mapper = mapper
        self._built: dict[tuple[object, ...], Template] = {}

    def secret_key(
        self,
        origin: Origin,
        usage: Attribute | None,
        mechanism: int,
        *,
        extractable: bool = False,
        value_len: int | None = None,
        key_type: KeyType = KeyType.AES,
    ) -> Template:
        """See :func:`secret_key`; the result is shared: never change it."""
        what = (origin, usage, mechanism, extractable, value_len, key_type)
        if (template := self._built.get(what)) is None:
            template = self._built[what] = self._mapper.packed(
                secret_key(
                    self._profile,
                    origin,
                    usage=usage,
                    mechanisms=(mechanism,),
                    extractable=extractable,
                    value_len=value_len,
                    key_type=key_type,
                )
            )
        return template

    def private_key(
        self,
        key_type: KeyType,
        usages: tuple[Attribute, ...],
        mechanisms: tuple[int, ...],
        *,
        extractable: bool,
    ) -> Template:
        """SK out of its wrapping, see :func:`private_key`; the result is shared: never change it."""
        what = (key_type, usages, mechanisms, extractable)
        if (template := self._built.get(what)) is None:
            template = self._built[what] = self._mapper.packed(
                private_key(
                    self._profile,
                    Origin.UNWRAPPED,
                    key_type=key_type,
                    usages=usages,
                    mechanisms=mechanisms,
                    extractable=extractable,
                )
            )
        return template


def unwrap_template() -> Template:
    """CKA_UNWRAP_TEMPLATE of MK: whatever it unwraps stays inside (docs/understand/protocol.md, 6)."""
    return {Attribute.SENSITIVE: True, Attribute.PRIVATE: True}
