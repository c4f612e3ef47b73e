"""Every attribute template the project uses, written in full (docs/understand/protocol.md, section 6).

Nothing is left to the token's defaults: SoftHSM's own on unwrap and derive are SENSITIVE=0 and WRAP=1. The
builders are typed because a wrongly typed value (a str where bytes are due) corrupts the heap inside
python-pkcs11.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def _common(profile: TokenProfile, *, token: bool, label: str, key_id: bytes) -> Template:
    template: Template = {Attribute.TOKEN: token, Attribute.LABEL: label, Attribute.ID: key_id}
    if profile.copyable_attribute:
        # C_CopyObject could give a copy other attributes than ours.
        template[Attribute.COPYABLE] = False
    return template


def secret_key(
    profile: TokenProfile,
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
    if profile.allowed_mechanisms:
        template[Attribute.ALLOWED_MECHANISMS] = tuple(mechanisms)
    if value_len is not None:
        template[Attribute.VALUE_LEN] = value_len
    return template


def private_key(
    profile: TokenProfile,
    *,
    key_type: KeyType,
    usages: Iterable[Attribute],
    mechanisms: Iterable[int],
    extractable: bool,
) -> Template:
    """SK, or an ephemeral private key; always a session object."""
    wanted = set(usages)
    template = _common(profile, token=False, label="", key_id=b"")
    template |= {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.KEY_TYPE: key_type,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: extractable,
    }
    template |= {each: each in wanted for each in _PRIVATE_USAGES}
    if profile.allowed_mechanisms:
        template[Attribute.ALLOWED_MECHANISMS] = tuple(mechanisms)
    return template


def public_key(
    profile: TokenProfile,
    *,
    key_type: KeyType,
    usages: Iterable[Attribute] = (),
    ec_params: bytes | None = None,
    modulus_bits: int | None = None,
) -> Template:
    """The public half of a generated pair; ``ec_params`` is a DER OID or printable curve name."""
    wanted = set(usages)
    template = _common(profile, token=False, label="", key_id=b"")
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
    return template


class Templates:
    """The templates of secret keys for one token, each built and packed once."""

    def __init__(self, profile: TokenProfile, mapper: AttributeMapper) -> None:
        self._profile = profile
        self._mapper = mapper
        self._built: dict[tuple[object, ...], Template] = {}

    def secret_key(
        self,
        usage: Attribute | None,
        mechanism: int,
        *,
        extractable: bool = False,
        value_len: int | None = None,
    ) -> Template:
        """See :func:`secret_key`; the result is shared: never change it."""
        what = (usage, mechanism, extractable, value_len)
        if (template := self._built.get(what)) is None:
            template = self._built[what] = self._mapper.packed(
                secret_key(
                    self._profile,
                    usage=usage,
                    mechanisms=(mechanism,),
                    extractable=extractable,
                    value_len=value_len,
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
        """See :func:`private_key`; the result is shared: never change it."""
        what = (key_type, usages, mechanisms, extractable)
        if (template := self._built.get(what)) is None:
            template = self._built[what] = self._mapper.packed(
                private_key(
                    self._profile,
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
