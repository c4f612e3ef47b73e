"""The shortest sequence of the same token calls, straight to the C interface through ctypes.

No Python objects around keys, no checks, no store: what nobody can beat on this token. It does what steps 3
to 8 of scheme rolling do (docs/understand/protocol.md, section 5), each time with the same quantities.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, byref, c_byte, c_ubyte, c_ulong, c_void_p
from dataclasses import dataclass
from typing import Any

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from hsm_signer.core import algorithms
from hsm_signer.token.workspace import SEAL_PREFIX
from hsm_signer.types import CREDENTIAL_ID_LENGTH, Algorithm, KeySpec

CKF_RW_SESSION, CKF_SERIAL_SESSION = 2, 4
KW = Mechanism.AES_KEY_WRAP
SK_WRAP = Mechanism.AES_KEY_WRAP_PAD
SEALED = SEAL_PREFIX + bytes(CREDENTIAL_ID_LENGTH)
"""What S signs."""


class CkAttribute(Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", c_ulong), ("pValue", c_void_p), ("ulValueLen", c_ulong))


class CkMechanism(Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", c_ulong), ("pParameter", c_void_p), ("ulParameterLen", c_ulong))


class CkCbcParams(Structure):
    """CK_AES_CBC_ENCRYPT_DATA_PARAMS."""

    _fields_ = (("iv", c_byte * 16), ("pData", c_void_p), ("length", c_ulong))


@dataclass(frozen=True)
class Template:
    """A CK_ATTRIBUTE array, built once."""

    array: Any
    count: int
    kept: list[Any]


def template(attributes: dict[int, bool | int | bytes | tuple[int, ...]]) -> Template:
    """From Python values: bool as CK_BBOOL, int as CK_ULONG, tuple as an array of CK_ULONG."""
    array = (CkAttribute * len(attributes))()
    kept: list[Any] = []
    for slot, (kind, value) in zip(array, attributes.items(), strict=True):
        if isinstance(value, bool):
            data = bytes([value])
        elif isinstance(value, int):
            data = bytes(c_ulong(value))
        elif isinstance(value, tuple):
            data = b"".join(bytes(c_ulong(each)) for each in value)
        else:
            data = value
        buffer = ctypes.create_string_buffer(data, len(data))
        kept.append(buffer)
        slot.type, slot.pValue, slot.ulValueLen = int(kind), ctypes.addressof(buffer), len(data)
    return Template(array, len(attributes), kept)


def _usages(wanted: Sequence[int], every: Sequence[int]) -> dict[int, bool]:
    return {each: each in wanted for each in every}


def secret(
    usage: int,
    mechanism: int,
    *,
    extractable: bool = False,
    length: bool = False,
    key_type: KeyType = KeyType.AES,
) -> Template:
    """As hsm_signer.token.templates.secret_key writes it."""
    attributes: dict[int, bool | int | bytes | tuple[int, ...]] = {
        Attribute.CLASS: int(ObjectClass.SECRET_KEY),
        Attribute.KEY_TYPE: int(key_type),
        Attribute.TOKEN: False,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: extractable,
        Attribute.COPYABLE: False,
        **_usages(
            (usage,),
            (
                Attribute.ENCRYPT,
                Attribute.DECRYPT,
                Attribute.SIGN,
                Attribute.VERIFY,
                Attribute.WRAP,
                Attribute.UNWRAP,
                Attribute.DERIVE,
            ),
        ),
        Attribute.ALLOWED_MECHANISMS: (int(mechanism),),
    }
    if length:
        attributes[Attribute.VALUE_LEN] = 32
    attributes[Attribute.MODIFIABLE] = False
    return template(attributes)


class BareToken:
    """A second session on the token that is logged in already, through ctypes."""

    def __init__(self, module_path: str, slot_id: int, spec: KeySpec, algorithm: Algorithm) -> None:
        self._c = ctypes.CDLL(module_path)
        self._session = c_ulong()
        self._check(
            self._c.C_OpenSession(
                c_ulong(slot_id),
                c_ulong(CKF_SERIAL_SESSION | CKF_RW_SESSION),
                None,
                None,
                byref(self._session),
            )
        )
        self._output = (c_ubyte * 8192)()
        self._algorithm, self._spec = algorithm, spec
        self._prepare()

    def close(self) -> None:
        """C_CloseSession; its objects die."""
        self._c.C_CloseSession(self._session)

    def _check(self, result: int) -> None:
        if result != 0:
            raise RuntimeError(f"CKR 0x{result:08X}")

    # --- the two things measured -----------------------------------------------------------------------

    def sign_resident(self, digest: bytes) -> bytes:
        """(a) C_SignInit and C_Sign with a key that stays on the token."""
        return self._sign(self._resident, digest)

    def cycle(self, digest: bytes) -> bytes:
        """(b) Unwrap S, Y by HMAC; unwrap KCAR, derive T_1 and T_2; unwrap V_x and V_x+1, derive W of each;
        unwrap SK, sign, wrap, draw RN, destroy nine."""
        s = self._unwrap(self._mk, KW, self._wrapped_s, self._s_template)
        y = ctypes.create_string_buffer(self._sign_by(Mechanism.SHA256_HMAC, s, SEALED), 32)
        kcar = self._unwrap(self._mk, KW, self._wrapped_kcar, self._derives_template)
        t_1 = self._derive(kcar, self._d_1, self._t_template)
        t_2 = self._derive(kcar, self._d_2, self._t_template)
        v = self._unwrap(t_1, KW, self._q_1, self._derives_template)
        w = self._derive(v, y, self._w_template)
        v_next = self._unwrap(t_2, KW, self._q_2, self._derives_template)
        w_next = self._derive(v_next, y, self._w_next_template)
        sk = self._unwrap(w, SK_WRAP, self._wrapped_sk, self._sk_template)
        signature = self._sign(sk, digest)
        self._wrap(w_next, SK_WRAP, sk)
        self._check(self._c.C_GenerateRandom(self._session, self._output, c_ulong(32)))
        for each in (sk, w_next, v_next, w, v, t_2, t_1, kcar, s):
            self._check(self._c.C_DestroyObject(self._session, each))
        return signature

    # --- calls -----------------------------------------------------------------------------------------

    def _sign(self, key: c_ulong, digest: bytes) -> bytes:
        if self._algorithm.is_ecdsa:
            return self._sign_by(Mechanism.ECDSA, key, digest)
        assert self._algorithm.hash is not None
        return self._sign_by(Mechanism.RSA_PKCS, key, algorithms.digest_info(self._algorithm.hash, digest))

    def _sign_by(self, mechanism: int, key: c_ulong, data: bytes) -> bytes:
        self._check(self._c.C_SignInit(self._session, byref(CkMechanism(mechanism, None, 0)), key))
        length = c_ulong(len(self._output))
        self._check(self._c.C_Sign(self._session, data, c_ulong(len(data)), self._output, byref(length)))
        return bytes(self._output[: length.value])

    def _unwrap(self, under: c_ulong, mechanism: int, wrapped: bytes, into: Template) -> c_ulong:
        handle = c_ulong()
        self._check(
            self._c.C_UnwrapKey(
                self._session,
                byref(CkMechanism(mechanism, None, 0)),
                under,
                wrapped,
                c_ulong(len(wrapped)),
                into.array,
                c_ulong(into.count),
                byref(handle),
            )
        )
        return handle

    def _wrap(self, under: c_ulong, mechanism: int, key: c_ulong) -> bytes:
        length = c_ulong(len(self._output))
        self._check(
            self._c.C_WrapKey(
                self._session,
                byref(CkMechanism(mechanism, None, 0)),
                under,
                key,
                self._output,
                byref(length),
            )
        )
        return bytes(self._output[: length.value])

    def _derive(self, base: c_ulong, data: Any, into: Template) -> c_ulong:
        parameters = CkCbcParams((c_byte * 16)(), ctypes.addressof(data), 32)
        mechanism = CkMechanism(
            Mechanism.AES_CBC_ENCRYPT_DATA, ctypes.addressof(parameters), ctypes.sizeof(parameters)
        )
        handle = c_ulong()
        self._check(
            self._c.C_DeriveKey(
                self._session, byref(mechanism), base, into.array, c_ulong(into.count), byref(handle)
            )
        )
        return handle

    def _generate(self, into: Template, mechanism: int = Mechanism.AES_KEY_GEN) -> c_ulong:
        handle = c_ulong()
        self._check(
            self._c.C_GenerateKey(
                self._session,
                byref(CkMechanism(mechanism, None, 0)),
                into.array,
                c_ulong(into.count),
                byref(handle),
            )
        )
        return handle

    # --- setting the stage -----------------------------------------------------------------------------

    def _prepare(self) -> None:
        cbc, mac = int(Mechanism.AES_CBC_ENCRYPT_DATA), int(Mechanism.SHA256_HMAC)
        self._s_template = secret(Attribute.SIGN, mac, key_type=KeyType.GENERIC_SECRET)
        self._derives_template = secret(Attribute.DERIVE, cbc)
        self._t_template = secret(Attribute.UNWRAP, KW, length=True)
        self._w_template = secret(Attribute.UNWRAP, SK_WRAP, length=True)
        self._w_next_template = secret(Attribute.WRAP, SK_WRAP, length=True)
        self._d_1 = ctypes.create_string_buffer(bytes(range(32)), 32)
        self._d_2 = ctypes.create_string_buffer(bytes(range(32, 64)), 32)
        both = template(
            {
                Attribute.CLASS: int(ObjectClass.SECRET_KEY),
                Attribute.KEY_TYPE: int(KeyType.AES),
                Attribute.TOKEN: False,
                Attribute.WRAP: True,
                Attribute.UNWRAP: True,
                Attribute.VALUE_LEN: 32,
            }
        )
        self._mk = self._generate(both)
        new_s = secret(Attribute.SIGN, mac, extractable=True, length=True, key_type=KeyType.GENERIC_SECRET)
        s = self._generate(new_s, Mechanism.GENERIC_SECRET_KEY_GEN)
        self._wrapped_s = self._wrap(self._mk, KW, s)
        y = ctypes.create_string_buffer(self._sign_by(Mechanism.SHA256_HMAC, s, SEALED), 32)
        new = secret(Attribute.DERIVE, cbc, extractable=True, length=True)
        kcar, v, v_next = (self._generate(new) for _ in range(3))
        self._wrapped_kcar = self._wrap(self._mk, KW, kcar)
        wraps = secret(Attribute.WRAP, KW, length=True)
        self._q_1 = self._wrap(self._derive(kcar, self._d_1, wraps), KW, v)
        self._q_2 = self._wrap(self._derive(kcar, self._d_2, wraps), KW, v_next)
        self._resident = self._generate_pair()
        self._wrapped_sk = self._wrap(self._derive(v, y, self._w_next_template), SK_WRAP, self._resident)

    def _generate_pair(self) -> c_ulong:
        rsa = self._spec.rsa_bits
        key_type = int(KeyType.RSA if rsa else KeyType.EC)
        signs = int(Mechanism.RSA_PKCS if rsa else Mechanism.ECDSA)
        private: dict[int, bool | int | bytes | tuple[int, ...]] = {
            Attribute.CLASS: int(ObjectClass.PRIVATE_KEY),
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: True,
            Attribute.COPYABLE: False,
            **_usages(
                (Attribute.SIGN,),
                (Attribute.DECRYPT, Attribute.SIGN, Attribute.UNWRAP, Attribute.DERIVE),
            ),
            Attribute.ALLOWED_MECHANISMS: (signs,),
            Attribute.MODIFIABLE: False,
        }
        self._sk_template = template(private)
        public: dict[int, bool | int | bytes | tuple[int, ...]] = {
            Attribute.CLASS: int(ObjectClass.PUBLIC_KEY),
            Attribute.KEY_TYPE: key_type,
            Attribute.TOKEN: False,
        }
        if rsa:
            public |= {Attribute.MODULUS_BITS: rsa, Attribute.PUBLIC_EXPONENT: b"\x01\x00\x01"}
        else:
            public[Attribute.EC_PARAMS] = algorithms.EC_PARAMS[self._spec]
        generation = Mechanism.RSA_PKCS_KEY_PAIR_GEN if rsa else Mechanism.EC_KEY_PAIR_GEN
        into_public, into_private = template(public), template(private)
        public_handle, private_handle = c_ulong(), c_ulong()
        self._check(
            self._c.C_GenerateKeyPair(
                self._session,
                byref(CkMechanism(generation, None, 0)),
                into_public.array,
                c_ulong(into_public.count),
                into_private.array,
                c_ulong(into_private.count),
                byref(public_handle),
                byref(private_handle),
            )
        )
        return private_handle
