"""The keys of one operation: made here, used here, destroyed here, counted.

Implements :class:`hsm_signer.schemes.key_operations.Workspace` over PKCS#11. Every key is a session object
with exactly the attributes of docs/understand/protocol.md, section 6. No method reads CKA_VALUE, none
decrypts, and the only bytes imported are scheme basic's public D_1.
"""

from __future__ import annotations

import hmac
from typing import Final

from pkcs11 import MGF, Attribute, KeyType, Mechanism, ObjectClass

from hsm_signer.core import algorithms
from hsm_signer.errors import AuthorisationMismatch, TokenError, WrongKey
from hsm_signer.schemes.key_operations import KekUse, Key, KeyPair
from hsm_signer.types import (
    KW_LENGTH,
    Algorithm,
    Combine,
    CredentialId,
    Digest,
    HashName,
    KeySpec,
    Quantity,
    RollingValue,
    WrappedKey,
)

from . import templates
from .binding import PrivateKeyObject, SecretKeyObject, mechanism
from .faults import token_call
from .primitives import CMAC_BLOCK, OAEP, OAEP_MARKS, GeneratedPair, Primitives, private_of, secret_of
from .templates import Origin

_HASH_MECHANISMS: Final = {
    HashName.SHA256: (Mechanism.SHA256, MGF.SHA256),
    HashName.SHA384: (Mechanism.SHA384, MGF.SHA384),
    HashName.SHA512: (Mechanism.SHA512, MGF.SHA512),
}
_KEK_USES: Final = {
    KekUse.UNWRAP_SK: (Attribute.UNWRAP, "private_wrap"),
    KekUse.COMPARE: (Attribute.SIGN, "cmac"),
    KekUse.ROLL: (Attribute.DERIVE, "xor_base_and_data"),
}
"""One usage and one mechanism (a field of the profile) for each key that is used as it comes out of Q."""
SEAL_PREFIX: Final = b"hsm-signer/2/seal"


def key_type_of(spec: KeySpec) -> KeyType:
    """CKK_RSA, CKK_EC or CKK_EC_EDWARDS."""
    if spec is KeySpec.ED25519:
        return KeyType.EC_EDWARDS
    return KeyType.RSA if spec.rsa_bits else KeyType.EC


def signature_mechanism(algorithm: Algorithm) -> Mechanism:
    """The mechanism that signs a ready digest (for Ed25519 the message): the host hashes, not the token."""
    if algorithm is Algorithm.ED25519:
        return Mechanism.EDDSA
    if algorithm.is_ecdsa:
        return Mechanism.ECDSA
    return Mechanism.RSA_PKCS_PSS if algorithm.is_pss else Mechanism.RSA_PKCS


class TokenWorkspace(Primitives):
    """Key operations by the protocol's names; the keys live as long as the ``with``."""

    _opens: bytes | None = None
    """Y of the W(K) that unwraps SK; None for a record of sealing 1, where W(K) = K."""
    _wraps: bytes | None = None
    """Y of the W(K) that wraps SK; None until there is an S: before that SK is not even opened."""

    # --- sealing ---------------------------------------------------------------------------------------

    def open_seal(self, wrapped: WrappedKey, credential_id: CredentialId) -> None:
        """S from KW_MK(S): SIGN only. From now on this workspace opens and wraps SK with it.

        Raises TokenError where MK is not the one that wrapped it.
        """
        s = self._unwrap_secret(
            self._mk(),
            wrapped,
            self._unwrapped(Attribute.SIGN, self._number("sealing"), key_type=KeyType.GENERIC_SECRET),
            TokenError("KW_MK(S) does not open under this token's master key"),
            KeyType.GENERIC_SECRET,
        )
        self._opens = self._wraps = self._sealing_input(s, credential_id)

    def new_seal(self, credential_id: CredentialId) -> WrappedKey:
        """KW_MK(S), 40 bytes, for a fresh S: SIGN only, extractable. From now on this workspace wraps SK
        with it; what it opens is of sealing 1."""
        s = self._generate(Attribute.SIGN, self._number("sealing"), "S", KeyType.GENERIC_SECRET)
        self._wraps = self._sealing_input(s, credential_id)
        with token_call("wrapping S"):
            return WrappedKey(self._mk().wrap_key(secret_of(s), mechanism=mechanism(self._kw())))

    def sealed(self, kek: Key) -> Key:
        """W(K) = CBC_K(Y): WRAP only (docs/understand/protocol.md, section 3)."""
        return self._sealed(kek, self._sealing(), Attribute.WRAP)

    def _sealing(self) -> bytes:
        if self._wraps is None:
            raise AssertionError("no sealing secret: SK would hang on the card's key alone")
        return self._wraps

    def _sealed(self, kek: Key, y: bytes, usage: Attribute) -> Key:
        return self._combine(kek, Combine.CBC, y, self._derived(usage, self._sk_wrap()))

    def _sealing_input(self, s: Key, credential_id: CredentialId) -> bytes:
        """Y = HMAC-SHA-256_S("hsm-signer/2/seal" || credential id), 32 bytes: opens nothing without K."""
        with token_call("computing the sealing input"):
            y: bytes = secret_of(s).sign(
                SEAL_PREFIX + credential_id, mechanism=mechanism(self._number("sealing"))
            )
        return y

    # --- signing ---------------------------------------------------------------------------------------

    def unwrap_kcar(self, wrapped: WrappedKey, combine: Combine) -> Key:
        """KCAR from KW_MK(KCAR): DERIVE only. Raises TokenError where MK is not the one that wrapped it."""
        template = self._unwrapped(Attribute.DERIVE, self._combine_mechanism(combine))
        return self._unwrap_secret(
            self._mk(),
            wrapped,
            template,
            TokenError("KW_MK(KCAR) does not open under this token's master key"),
        )

    def transient(self, kcar: Key, combine: Combine, d_i: Digest) -> Key:
        """T_i = combine(KCAR, D_i): UNWRAP only."""
        return self._combine(kcar, combine, d_i, self._derived(Attribute.UNWRAP, self._kw()))

    def public_transient(self, d_1: Digest) -> Key:
        """T_1 = D_1, by C_CreateObject: public bytes, UNWRAP only (scheme basic)."""
        # The value says how long it is: CKA_VALUE_LEN does not belong here.
        template = {Attribute.VALUE: bytes(d_1)} | self._templates.secret_key(
            Origin.UNWRAPPED, Attribute.UNWRAP, self._kw()
        )
        with token_call("importing D"):
            return self._keep(SecretKeyObject(self._session.create_object(template).wrapper))

    def open_quantity(self, t: Key, q: Quantity, use: KekUse) -> Key:
        """The 32-byte key K inside Q_i (40 bytes), for one use. Raises AuthorisationMismatch (step 3).

        To unwrap and to wrap SK it is W(K), and K itself only derives; but SK of a record of sealing 1 is
        unwrapped by K.
        """
        if use is KekUse.WRAP_SK:
            return self.sealed(self._open(t, q, Attribute.DERIVE, "cbc_encrypt_data"))
        if use is KekUse.UNWRAP_SK:
            self._sealing()  # or a forgotten S would look like a wrong PIN, and count
            if self._opens is not None:
                kek = self._open(t, q, Attribute.DERIVE, "cbc_encrypt_data")
                return self._sealed(kek, self._opens, Attribute.UNWRAP)
        return self._open(t, q, *_KEK_USES[use])

    def _open(self, t: Key, q: Quantity, usage: Attribute, allowed: str) -> Key:
        """``allowed``: the field of the profile that names K's one mechanism."""
        mismatch = AuthorisationMismatch(
            "authorisation does not match this message and card",
            hint="the message, the algorithm or the card is not the one that was authorised",
        )
        if len(q) != KW_LENGTH:
            raise mismatch
        return self._unwrap_secret(secret_of(t), q, self._unwrapped(usage, self._number(allowed)), mismatch)

    def recompute_kowf(self, sk: Key, parameter: bytes) -> Key:
        """KOWF(SK, P) for comparison: SIGN by AES-CMAC only (step 5)."""
        return self._kowf(private_of(sk), parameter, Attribute.SIGN, self._number("cmac"))

    def same_key(self, one: Key, other: Key) -> bool:
        """AES-CMAC of one fresh random block under each; the 16-byte MACs are compared in constant time."""
        block = self.random(CMAC_BLOCK)
        cmac = mechanism(self._number("cmac"))
        with token_call("comparing keys"):
            macs = [secret_of(each).sign(block, mechanism=cmac) for each in (one, other)]
        return hmac.compare_digest(*macs)

    def roll_by_xor(self, v: Key, difference: bytes) -> Key:
        """W(V_x+1): WRAP only. V_x+1 = V_x XOR difference: DERIVE only (steps 891 to 893, combine 1)."""
        derives = self._derived(Attribute.DERIVE, self._number("cbc_encrypt_data"))
        return self.sealed(self._combine(v, Combine.XOR, difference, derives))

    def unwrap_sk(
        self,
        kek: Key,
        wrapped: WrappedKey,
        spec: KeySpec,
        algorithm: Algorithm,
        *,
        extractable: bool,
        gives_kowf: bool,
    ) -> Key:
        """SK, for one algorithm (step 4). Raises WrongKey where ``kek`` does not open it."""
        template = self._templates.private_key(
            key_type_of(spec),
            (Attribute.SIGN, *self._kowf_usages(spec, gives_kowf)),
            (signature_mechanism(algorithm), *self._kowf_mechanisms(spec, gives_kowf)),
            extractable=extractable,
        )
        return self._unwrap(
            lambda: PrivateKeyObject(
                secret_of(kek)
                .unwrap_key(
                    ObjectClass.PRIVATE_KEY,
                    key_type_of(spec),
                    wrapped,
                    mechanism=mechanism(self._sk_wrap()),
                    template=template,
                )
                .wrapper
            ),
            WrongKey("the key from the card does not open this credential's private key"),
        )

    def sign(self, sk: Key, spec: KeySpec, algorithm: Algorithm, signed: bytes) -> bytes:
        """One signature over a digest, or for Ed25519 over the message (step 6); ECDSA in DER."""
        data, parameter = signed, None
        if algorithm.is_ecdsa:
            data = algorithms.ecdsa_input(spec, signed)
        elif algorithm.is_pss and algorithm.hash is not None:
            hash_mechanism, mgf = _HASH_MECHANISMS[algorithm.hash]
            parameter = (hash_mechanism, mgf, algorithm.hash.length)
        elif algorithm.is_rsa and algorithm.hash is not None:
            data = algorithms.digest_info(algorithm.hash, signed)
        with token_call("signing"):
            signature: bytes = private_of(sk).sign(
                data, mechanism=signature_mechanism(algorithm), mechanism_param=parameter
            )
        return algorithms.ecdsa_der(signature) if algorithm.is_ecdsa else signature

    def wrap_sk(self, w: Key, sk: Key) -> WrappedKey:
        """wrap_W(SK), in the token's own format."""
        with token_call("wrapping the private key"):
            return WrappedKey(secret_of(w).wrap_key(sk, mechanism=mechanism(self._sk_wrap())))

    # --- enrolment -------------------------------------------------------------------------------------

    def new_pair(self, spec: KeySpec, *, gives_kowf: bool) -> GeneratedPair:
        """SK and PK as session objects, SK extractable so that it can be wrapped."""
        key_type = key_type_of(spec)
        signing = {signature_mechanism(each) for each in spec.algorithms}
        private = templates.private_key(
            self._profile,
            Origin.GENERATED,
            key_type=key_type,
            usages=(Attribute.SIGN, *self._kowf_usages(spec, gives_kowf)),
            mechanisms=(*sorted(signing), *self._kowf_mechanisms(spec, gives_kowf)),
            extractable=True,
        )
        public_usages = (Attribute.WRAP,) if gives_kowf and spec.rsa_bits else ()
        with token_call(f"generating a key pair ({spec.value})"):
            if spec.rsa_bits:
                public = templates.public_key(
                    self._profile, key_type=key_type, usages=public_usages, modulus_bits=spec.rsa_bits
                )
                pair = self._session.generate_keypair(
                    key_type,
                    spec.rsa_bits,
                    mechanism=Mechanism.RSA_PKCS_KEY_PAIR_GEN,
                    public_template=public,
                    private_template=private,
                )
                return self._kept_pair(pair, spec)
            return self._kept_pair(self._generate_ec(spec, key_type, private), spec)

    def new_ephemeral(self) -> GeneratedPair:
        """An ephemeral P-256 pair for personalisation: DERIVE by ECDH1 only, not extractable."""
        private = templates.private_key(
            self._profile,
            Origin.GENERATED,
            key_type=KeyType.EC,
            usages=(Attribute.DERIVE,),
            mechanisms=(self._number("ecdh"),),
            extractable=False,
        )
        with token_call("generating an ephemeral key pair"):
            return self._kept_pair(self._generate_ec(KeySpec.P256, KeyType.EC, private), KeySpec.P256)

    def agree(self, private: Key, point: bytes) -> Key:
        """Z, the ECDH x coordinate (32 bytes) with a 65-byte P-256 point: DERIVE by CBC only."""
        template = self._derived(Attribute.DERIVE, self._number("cbc_encrypt_data"))
        return self._agree(private_of(private), point, template)

    def personalisation_key(self, z: Key, digest: Digest) -> Key:
        """K_r = CBC_Z(digest), WRAP by KW only (docs/understand/protocol.md, section 7)."""
        return self._combine(z, Combine.CBC, digest, self._derived(Attribute.WRAP, self._kw()))

    def wrap_for_card(self, k_r: Key, key: Key) -> WrappedKey:
        """KW_K_r(key), 40 bytes."""
        with token_call("wrapping a key for the card"):
            return WrappedKey(secret_of(k_r).wrap_key(key, mechanism=mechanism(self._kw())))

    def new_kcar(self, combine: Combine) -> Key:
        """A fresh KCAR: DERIVE only, extractable."""
        return self._generate(Attribute.DERIVE, self._combine_mechanism(combine), "KCAR")

    def new_key(self) -> Key:
        """A fresh KEY of scheme basic: DERIVE only, extractable."""
        return self._generate(Attribute.DERIVE, self._number("cbc_encrypt_data"), "KEY")

    def new_kek1(self, combine: Combine) -> Key:
        """A fresh KEK1: DERIVE only, extractable."""
        return self._generate(Attribute.DERIVE, self._combine_mechanism(combine), "KEK1")

    def variant(self, kek1: Key, combine: Combine, rn: RollingValue) -> Key:
        """V = combine(KEK1, RN): DERIVE only."""
        derives = self._derived(Attribute.DERIVE, self._number("cbc_encrypt_data"))
        return self._combine(kek1, combine, rn, derives)

    def variant_for_card(self, kek1: Key, combine: Combine, rn: RollingValue) -> Key:
        """V once more, as a card's answer carries it: extractable and of no use here (the self-test)."""
        return self._combine(kek1, combine, rn, self._derived(None, self._kw(), extractable=True))

    def transient_for_card(self, kcar: Key, combine: Combine, d_i: Digest) -> Key:
        """T_i once more, as a card uses it: WRAP by KW only (the self-test)."""
        return self._combine(kcar, combine, d_i, self._derived(Attribute.WRAP, self._kw()))

    def new_parameter(self, pair: KeyPair) -> bytes:
        """P of scheme pin (docs/understand/protocol.md, section 3)."""
        generated = _pair_of(pair)
        if not generated.spec.rsa_bits:
            # The private half is destroyed with the workspace and was never able to do anything: it has no
            # usage. (SoftHSM takes no empty list of mechanisms.)
            private = templates.private_key(
                self._profile,
                Origin.GENERATED,
                key_type=KeyType.EC,
                usages=(),
                mechanisms=(Mechanism.ECDSA,),
                extractable=False,
            )
            with token_call("generating a random point"):
                point = self._generate_ec(generated.spec, KeyType.EC, private)
                return algorithms.ec_point_of(self._kept_pair(point, generated.spec).spki)
        with token_call("encrypting by RSA-OAEP"):
            # Generated to be encrypted once; no usage of its own.
            secret = secret_of(self._generate(None, self._kw(), "P"))
            hash_name = self._profile.oaep_hash or "sha1"
            mark = next(mark for mark, name in OAEP_MARKS.items() if name == hash_name)
            encrypted: bytes = generated.public.wrap_key(
                secret, mechanism=Mechanism.RSA_PKCS_OAEP, mechanism_param=OAEP[hash_name]
            )
            return mark + encrypted

    def first_kowf(self, pair: KeyPair, parameter: bytes) -> Key:
        """KOWF(SK, P): DERIVE only, extractable."""
        derives = self._number("cbc_encrypt_data")
        return self._kowf(_pair_of(pair).private, parameter, Attribute.DERIVE, derives, extractable=True)

    def wrap_kcar(self, kcar: Key) -> WrappedKey:
        """KW_MK(KCAR), 40 bytes."""
        with token_call("wrapping KCAR"):
            return WrappedKey(self._mk().wrap_key(kcar, mechanism=mechanism(self._kw())))


def _pair_of(pair: KeyPair) -> GeneratedPair:
    if not isinstance(pair, GeneratedPair):
        raise TypeError("expected a pair of this workspace")
    return pair
