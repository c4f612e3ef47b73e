"""What one token can do and how: everything that differs between tokens, found by probing, never by name.

The probe (probe.py) runs the very operations that enrolment and signing run and keeps what worked. The result
is stored beside the configuration, so that a command does not probe again; it is used only for the token
model and library that it was made on.
"""

from __future__ import annotations

import msgspec

from hsm_signer.types import Combine, KeySpec, Scheme

PROFILE_FORMAT = 4

CONFINEMENTS = {
    "extractable": "CKA_EXTRACTABLE false (a key is not wrapped out)",
    "sensitive": "CKA_SENSITIVE true (a key's value is not read)",
    "usage": "CKA_WRAP and CKA_DERIVE false (a key does only what it is for)",
    "allowed-mechanisms": "CKA_ALLOWED_MECHANISMS (a key works with its own mechanism only)",
    "unwrap-template": "CKA_UNWRAP_TEMPLATE (what the master key opens stays sensitive)",
    "copyable": "CKA_COPYABLE false (no copy with other attributes)",
    "modifiable": "CKA_MODIFIABLE false of generated keys (no attribute is changed later)",
    "modifiable-derived": "CKA_MODIFIABLE false of derived keys",
    "modifiable-unwrapped": "CKA_MODIFIABLE false of unwrapped keys",
}
"""What we want a token to refuse, by the name that profile and `doctor` give it, in the order of both."""
INDISPENSABLE = ("extractable", "sensitive", "usage")
"""Without these the token keeps no key to itself."""


class Confinement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a token makes of one attribute that is meant to confine a key."""

    taken: bool
    """The token accepts the attribute in a template."""
    enforced: bool
    """And then refuses what the attribute forbids, as was tried."""


class TokenProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mechanism numbers are CK_MECHANISM_TYPE; None means the token has no such thing."""

    format: int = PROFILE_FORMAT
    identity: str
    """Library, model and firmware that this profile was probed on."""
    confinement: dict[str, Confinement] = msgspec.field(default_factory=dict)
    """Of each of CONFINEMENTS. What is taken and not enforced is not set: it would only look safe."""
    key_wrap: int | None = None
    """AES Key Wrap, RFC 3394 (KW), for secret keys."""
    value_len_on_unwrap: bool = False
    """Wants CKA_VALUE_LEN when it unwraps a secret key."""
    cbc_encrypt_data: int | None = None
    """Combine 2."""
    xor_base_and_data: int | None = None
    """Combine 1."""
    private_wrap: int | None = None
    """The integrity-protected mechanism that wraps private keys."""
    ecdh: int | None = None
    """ECDH1 with KDF NULL, 32 bytes."""
    cmac: int | None = None
    """AES-CMAC, by which two keys are compared (scheme pin)."""
    sealing: int | None = None
    """HMAC-SHA-256 under a generic secret that KW wraps and unwraps: S of protocol.md, section 3."""
    wrong_key: tuple[str, ...] = ()
    """What the token answers to an unwrap under a wrong key, as python-pkcs11 names it, seen in the probe."""
    create_object: bool = False
    """Takes a secret key by C_CreateObject, as scheme basic's public D_1."""
    oaep_hash: str | None = None
    """RSA-OAEP: "sha256", or "sha1" on tokens that have no other (sound here, protocol.md, section 3)."""
    keys: dict[str, str] = msgspec.field(default_factory=dict)
    """``KeySpec.value`` -> "" if such keys can be generated, wrapped, unwrapped and used, or why not."""

    def confines(self, name: str) -> bool:
        """Whether the token enforces one of CONFINEMENTS."""
        found = self.confinement.get(name)
        return found is not None and found.enforced

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """What no key is safe without and the token does not enforce, in words; () for a sound token."""
        return tuple(CONFINEMENTS[name] for name in INDISPENSABLE if not self.confines(name))

    @property
    def combines(self) -> tuple[Combine, ...]:
        """Combine methods this token offers, the default first."""
        found = []
        if self.cbc_encrypt_data is not None:
            found.append(Combine.CBC)
        if self.xor_base_and_data is not None:
            found.append(Combine.XOR)
        return tuple(found)

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str | None:
        """Why this token cannot hold such a credential, in words; None if it can."""
        if self.key_wrap is None:
            return "the token has no AES Key Wrap (RFC 3394)"
        if self.sealing is None:
            return "the token has no HMAC-SHA-256 under a wrapped secret, by which private keys are sealed"
        if self.private_wrap is None:
            return "the token cannot wrap private keys with integrity"
        if why := self.keys.get(key.value, "the token has no such key type"):
            return why
        if self.ecdh is None:
            return "the token has no ECDH, by which a card is personalised"
        if self.cbc_encrypt_data is None:
            return "the token has no AES_CBC_ENCRYPT_DATA, by which a card is personalised"
        if scheme is Scheme.BASIC and not self.create_object:
            return "the token takes no keys by C_CreateObject, as scheme basic needs it"
        if scheme is Scheme.PIN:
            if key is KeySpec.ED25519:
                return "scheme pin needs an RSA or NIST curve key"
            if self.cmac is None:
                return "the token has no AES-CMAC, by which scheme pin compares keys"
            if key.rsa_bits and self.oaep_hash is None:
                return "the token has no RSA-OAEP, by which scheme pin makes KOWF"
        return None

    def to_json(self) -> bytes:
        """As it is stored."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> TokenProfile | None:
        """None where the bytes are no profile of this version: the token is then probed again."""
        try:
            profile = msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError:
            return None
        return profile if profile.format == PROFILE_FORMAT else None
