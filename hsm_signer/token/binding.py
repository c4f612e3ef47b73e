"""What we need of python-pkcs11 beyond its documented face, in one place.

Four things. Handlers for the two attributes of type list that it lacks (CKA_ALLOWED_MECHANISMS,
CKA_UNWRAP_TEMPLATE). Mechanism numbers that its enum does not know (vendor mechanisms). Key objects:
python-pkcs11 reads ten attributes of every new object (two C_GetAttributeValue, which we cannot avoid) and
builds a class of its own from them. We know what each key is, because our template said so, so
:class:`AttributeMapper` makes it give up after the reading, and the classes below take the handle over; that
saves some 40 microseconds an object, six objects a signature. And templates: the library adds attributes of
its own to each; here a template is what we wrote, nothing else, packed once.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Any, NoReturn, Protocol

from pkcs11 import Attribute, KeyType, Mechanism, types
from pkcs11._pkcs11 import (  # type: ignore[attr-defined]
    DeriveMixin,
    Object,
    SignMixin,
    UnwrapMixin,
    WrapMixin,
)
from pkcs11.attributes import AttributeMapper as LibraryAttributeMapper


class Handle(Protocol):
    """Any token object of this module."""

    @property
    def handle(self) -> int:
        """CK_OBJECT_HANDLE."""
        ...

    def destroy(self) -> None:
        """C_DestroyObject."""
        ...


class SecretKeyObject(WrapMixin, UnwrapMixin, DeriveMixin, SignMixin, Object, types.SecretKey):
    """An AES or generic secret key; what it may do is the token's business, by its template."""

    key_type = KeyType.AES  # read from the token otherwise, at each call


class PrivateKeyObject(UnwrapMixin, DeriveMixin, SignMixin, Object, types.PrivateKey):
    """SK, or an ephemeral private key."""

    key_type = KeyType.EC  # never used: every call names its mechanism


class PublicKeyObject(WrapMixin, Object, types.PublicKey):
    """PK as a token object."""

    key_type = KeyType.EC


class CkAttribute(ctypes.Structure):
    """CK_ATTRIBUTE (PKCS#11 v2.40, 2.2)."""

    _fields_ = (
        ("type", ctypes.c_ulong),
        ("pValue", ctypes.c_void_p),
        ("ulValueLen", ctypes.c_ulong),
    )


class CkKeyDerivationStringData(ctypes.Structure):
    """CK_KEY_DERIVATION_STRING_DATA (PKCS#11 v2.40 mechanisms, 2.34)."""

    _fields_ = (("pData", ctypes.c_void_p), ("ulLen", ctypes.c_ulong))


class Packed:
    """An attribute's bytes, ready for the token."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class AttributeMapper(LibraryAttributeMapper):
    """Packs the two list attributes, adds nothing to our templates, and leaves new objects uninspected."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[object] = []
        self.register_handler(Attribute.ALLOWED_MECHANISMS, _pack_mechanisms, _unpack_mechanisms)
        self.register_handler(Attribute.UNWRAP_TEMPLATE, self._pack_template, _unreadable)

    def pack_attribute(self, key: Attribute, value: Any) -> bytes:
        """As the library's; what is packed already passes."""
        if type(value) is Packed:
            return value.data
        return super().pack_attribute(key, value)

    def packed(self, template: dict[Attribute, Any]) -> dict[Attribute, Packed]:
        """A template to use many times."""
        return {
            attribute: Packed(self.pack_attribute(attribute, value)) for attribute, value in template.items()
        }

    def secret_key_template(self, **_: Any) -> dict[Attribute, Any]:
        """Nothing: our templates are complete."""
        return {}

    def public_key_template(self, **_: Any) -> dict[Attribute, Any]:
        """Nothing: our templates are complete."""
        return {}

    def private_key_template(self, **_: Any) -> dict[Attribute, Any]:
        """Nothing: our templates are complete."""
        return {}

    def generic_key_template(self, base_template: dict[Attribute, Any], **_: Any) -> dict[Attribute, Any]:
        """CKA_CLASS and CKA_KEY_TYPE as the call has them."""
        return base_template

    def unpack_attributes(self, key: Attribute, value: bytes) -> Any:
        """As the library's, but KeyError for CKA_CLASS: so an object comes back plain, as a handle."""
        if key == Attribute.CLASS:
            raise KeyError(key)
        return super().unpack_attributes(key, value)

    def _pack_template(self, template: dict[Attribute, Any]) -> bytes:
        array = (CkAttribute * len(template))()
        for slot, (attribute, value) in zip(array, template.items(), strict=True):
            packed = self.pack_attribute(attribute, value)
            buffer = ctypes.create_string_buffer(packed, len(packed))
            slot.type, slot.pValue, slot.ulValueLen = attribute, ctypes.addressof(buffer), len(packed)
            # The packed array points into this buffer until the call has returned.
            self._kept.append(buffer)
        return bytes(array)


def _pack_mechanisms(mechanisms: Iterable[int]) -> bytes:
    numbers = [int(each) for each in mechanisms]
    return struct.pack(f"{len(numbers)}L", *numbers)


def _unpack_mechanisms(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"{len(data) // struct.calcsize('L')}L", data)


def _unreadable(_: bytes) -> NoReturn:
    raise NotImplementedError("CKA_UNWRAP_TEMPLATE is written, never read")


def mechanism(number: int) -> Mechanism:
    """A CK_MECHANISM_TYPE as python-pkcs11 wants it, vendor numbers included."""
    try:
        return Mechanism(number)
    except ValueError:
        member = int.__new__(Mechanism, number)
        member._name_ = f"VENDOR_{number:08X}"
        member._value_ = number
        return member


def xor_parameter(data: bytes) -> tuple[bytes, object]:
    """Parameter of CKM_XOR_BASE_AND_DATA, and the buffer to keep alive until the call has returned."""
    buffer = ctypes.create_string_buffer(data, len(data))
    return bytes(CkKeyDerivationStringData(ctypes.addressof(buffer), len(data))), buffer
