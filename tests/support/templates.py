"""Section 6 of protocol.md, attribute by attribute: every key's template, as pkcs11-spy shows it."""

from __future__ import annotations

from hsm_signer.types import KeySpec, Scheme

from .spy import Unseen, Value

KW, CBC_DATA, CMAC, HMAC, OAEP, ECDH, ECDSA = 0x2109, 0x1105, 0x108A, 0x251, 0x9, 0x1050, 0x1041
RSA_PKCS, RSA_PSS, WRAP_PAD = 0x1, 0xD, 0x210A
SK_WRAP = "0x0000210A"
SECRET_USAGES = ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")
PRIVATE_USAGES = ("DECRYPT", "SIGN", "UNWRAP", "DERIVE")
PUBLIC_USAGES = ("ENCRYPT", "VERIFY", "WRAP")
Template = dict[str, Value]


def pack(*numbers: int) -> bytes:
    """CK_ULONGs of this machine."""
    return b"".join(each.to_bytes(8, "little") for each in numbers)


def session_object(kind: str, key_type: str) -> Template:
    """What every object has. CKA_COPYABLE false is not shown by the spy."""
    return {
        "CKA_CLASS": kind,
        "CKA_KEY_TYPE": key_type,
        "CKA_TOKEN": False,
        "CKA_LABEL": b"",
        "CKA_ID": b"",
        "CKA_COPYABLE": Unseen(1),
        "CKA_MODIFIABLE": False,
    }


def secret(
    *usages: str,
    allowed: tuple[int, ...],
    extractable: bool = False,
    length: bool = False,
    key_type: str = "CKK_AES",
) -> Template:
    """A secret key. ``length``: CKA_VALUE_LEN is given, where the key is not unwrapped."""
    return {
        **session_object("CKO_SECRET_KEY", key_type),
        "CKA_PRIVATE": True,
        "CKA_SENSITIVE": True,
        "CKA_EXTRACTABLE": extractable,
        **{f"CKA_{each}": each in usages for each in SECRET_USAGES},
        "CKA_ALLOWED_MECHANISMS": pack(*allowed),
        **({"CKA_VALUE_LEN": pack(32)} if length else {}),
    }


def private(key_type: str, *usages: str, allowed: tuple[int, ...], extractable: bool) -> Template:
    """A private key."""
    return {
        **session_object("CKO_PRIVATE_KEY", key_type),
        "CKA_PRIVATE": True,
        "CKA_SENSITIVE": True,
        "CKA_EXTRACTABLE": extractable,
        **{f"CKA_{each}": each in usages for each in PRIVATE_USAGES},
        "CKA_ALLOWED_MECHANISMS": pack(*allowed),
    }


def public(key_type: str, *usages: str, **more: Value) -> Template:
    """A public key; ``more`` are its parameters."""
    return {
        **session_object("CKO_PUBLIC_KEY", key_type),
        "CKA_PRIVATE": False,
        **{f"CKA_{each}": each in usages for each in PUBLIC_USAGES},
        **{f"CKA_{name}": value for name, value in more.items()},
    }


P256 = bytes.fromhex("06082a8648ce3d030107")
MASTER_KEY = secret("WRAP", "UNWRAP", allowed=(KW,), length=True)
RECORD_KEY = secret("SIGN", "VERIFY", allowed=(HMAC,), length=True, key_type="CKK_GENERIC_SECRET")
S = secret("SIGN", allowed=(HMAC,), key_type="CKK_GENERIC_SECRET")
NEW_S = secret("SIGN", allowed=(HMAC,), extractable=True, length=True, key_type="CKK_GENERIC_SECRET")
"""At enrolment, and in the one signature that moves a record of sealing 1."""
KCAR = secret("DERIVE", allowed=(CBC_DATA,))
T = secret("UNWRAP", allowed=(KW,), length=True)
FOR_BASIC_T = secret("UNWRAP", allowed=(KW,))
K = secret("DERIVE", allowed=(CBC_DATA,))
"""V_x, V_x+1, KEY, KOWF in signing: they give W(K) and do nothing else."""
W_OPENS = secret("UNWRAP", allowed=(WRAP_PAD,), length=True)
"""W(K) by which SK is opened."""
W_WRAPS = secret("WRAP", allowed=(WRAP_PAD,), length=True)
"""W(K) by which SK is wrapped."""
KEK_OF_SEALING_1 = secret("UNWRAP", allowed=(WRAP_PAD,))
"""V_x, KEY, KOWF where SK is still wrapped under them: for the one signature that moves the record."""
KOWF_COMPARED = secret("SIGN", allowed=(CMAC,))
KOWF_AGREED = secret("SIGN", allowed=(CMAC,), length=True)
NEW_DERIVING = secret("DERIVE", allowed=(CBC_DATA,), extractable=True, length=True)
"""KCAR and KEK1 at enrolment."""
NEW_KEY = NEW_DERIVING
"""KEY, and KOWF by ECDH, at enrolment."""
NEW_KOWF_BY_RSA = secret("DERIVE", allowed=(CBC_DATA,), extractable=True)
"""At enrolment in scheme pin, unwrapped from P."""
V_1 = secret("DERIVE", allowed=(CBC_DATA,), length=True)
Z = secret("DERIVE", allowed=(CBC_DATA,), length=True)
K_R = secret("WRAP", allowed=(KW,), length=True)
SELF_TEST_V = secret(allowed=(KW,), extractable=True, length=True)
"""V as a card's answer carries it."""
OAEP_SECRET = secret(allowed=(KW,), extractable=True, length=True)
"""32 random bytes, encrypted once under PK; used for nothing."""


def sk(scheme: Scheme, key: KeySpec, *, moves: bool = False) -> Template:
    """SK while it signs; ``moves``: a record of sealing 1 is sealed by this signature."""
    gives_kowf = scheme is Scheme.PIN
    if key is KeySpec.P256:
        usages, allowed = ("SIGN", *(["DERIVE"] if gives_kowf else [])), (ECDSA, *[ECDH][:gives_kowf])
    else:
        usages, allowed = ("SIGN", *(["UNWRAP"] if gives_kowf else [])), (RSA_PKCS, *[OAEP][:gives_kowf])
    return private(key_type(key), *usages, allowed=allowed, extractable=moves or scheme is Scheme.ROLLING)


def key_type(key: KeySpec) -> str:
    """CKK_..."""
    return "CKK_EC" if key is KeySpec.P256 else "CKK_RSA"


def new_sk(scheme: Scheme, key: KeySpec) -> Template:
    """SK when it is made: all its signature mechanisms, extractable so that it can be wrapped."""
    gives_kowf = scheme is Scheme.PIN
    if key is KeySpec.P256:
        usages, allowed = ("SIGN", *(["DERIVE"] if gives_kowf else [])), (ECDSA, *[ECDH][:gives_kowf])
    else:
        usages = ("SIGN", *(["UNWRAP"] if gives_kowf else []))
        allowed = (RSA_PKCS, RSA_PSS, *[OAEP][:gives_kowf])
    return private(key_type(key), *usages, allowed=allowed, extractable=True)


def new_pk(scheme: Scheme, key: KeySpec) -> Template:
    """PK: in scheme pin with RSA it encrypts P once, by C_WrapKey; otherwise it does nothing in the token."""
    if key is KeySpec.P256:
        return public("CKK_EC", EC_PARAMS=P256)
    usages = ("WRAP",) if scheme is Scheme.PIN else ()
    return public("CKK_RSA", *usages, MODULUS_BITS=pack(2048), PUBLIC_EXPONENT=b"\x01\x00\x01")


IDENTITY = (
    public("CKK_EC", "VERIFY", EC_PARAMS=P256),
    private("CKK_EC", "SIGN", allowed=(ECDSA,), extractable=False),
)
"""The identity key, a token object; label and id are its own."""
EPHEMERAL = (
    public("CKK_EC", EC_PARAMS=P256),
    private("CKK_EC", "DERIVE", allowed=(ECDH,), extractable=False),
)
POINT = (
    public("CKK_EC", EC_PARAMS=P256),
    # Its private half can do nothing; SoftHSM takes no empty list of mechanisms.
    private("CKK_EC", allowed=(ECDSA,), extractable=False),
)
