"""The secure environment in a few lines of `cryptography`: what a scheme does, without a token.

For what the tokens at hand lack (combine 1 by CKM_XOR_BASE_AND_DATA), and to see every key's bytes. Each key
knows what it may do, as section 6 of docs/understand/protocol.md has it, and the model refuses everything
else.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from hsm_signer.errors import AuthorisationMismatch, WrongKey
from hsm_signer.schemes import Created, steps_of
from hsm_signer.schemes.authorise import authorisation_digest, personalisation_digest, position_digests
from hsm_signer.schemes.key_operations import KekUse, Key, KeyPair
from hsm_signer.types import (
    Algorithm,
    CardPersonalisation,
    Challenge,
    Combine,
    CredentialId,
    CredentialRecord,
    Digest,
    Mode,
    PinCheck,
    PinPolicy,
    Quantity,
    RollingValue,
    Scheme,
    Sealing,
    SpkiDer,
    Status,
    SuspendedBy,
    WrappedKey,
)

ALGORITHM = Algorithm.ECDSA_SHA256
GIVES_W = "become W(K)"
"""What V, KOWF and KEY are for."""


def combined(combine: Combine, key: bytes, data: bytes) -> bytes:
    """combine(K, m) of docs/understand/protocol.md, section 1; 32 bytes each."""
    if combine is Combine.XOR:
        return bytes(a ^ b for a, b in zip(key, data, strict=True))
    assert combine is Combine.CBC
    encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


class Forbidden(Exception):
    """A key was asked for what it is not for: a real token refuses that."""


@dataclass
class ModelKey:
    """A key whose bytes tests may look at."""

    value: bytes
    use: str
    extractable: bool = False
    handle: int = 0


@dataclass
class ModelPair:
    """SK is 64 random bytes; what it signs does not matter here."""

    private: ModelKey = field(default_factory=lambda: ModelKey(os.urandom(64), "sk", True))
    public: ModelKey = field(default_factory=lambda: ModelKey(b"", "pk"))


class ModelWorkspace:
    """Implements hsm_signer.schemes.key_operations.Workspace."""

    def __init__(self, master_key: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        self.master_key = master_key
        self._random = random
        self.made: list[ModelKey] = []
        self.opens: bytes | None = None
        self.wraps: bytes | None = None

    def _make(self, value: bytes, use: str, extractable: bool = False) -> ModelKey:
        key = ModelKey(value, use, extractable, len(self.made) + 1)
        self.made.append(key)
        return key

    def random(self, length: int) -> bytes:
        return self._random(length)

    # sealing

    def new_seal(self, credential_id: CredentialId) -> WrappedKey:
        """KW_MK(S) for a fresh S."""
        s = self._make(self.random(32), "seal", True).value
        self.wraps = hmac.digest(s, b"hsm-signer/2/seal" + credential_id, "sha256")
        return WrappedKey(keywrap.aes_key_wrap(self.master_key, s))

    def open_seal(self, wrapped: WrappedKey, credential_id: CredentialId) -> None:
        """Y from KW_MK(S)."""
        s = self._make(keywrap.aes_key_unwrap(self.master_key, wrapped), "seal").value
        self.opens = self.wraps = hmac.digest(s, b"hsm-signer/2/seal" + credential_id, "sha256")

    def sealed(self, kek: Key) -> Key:
        return self._sealed(kek, self.wraps, KekUse.WRAP_SK)

    def _sealed(self, kek: Key, y: bytes | None, use: KekUse) -> Key:
        assert y is not None, "no sealing secret"
        return self._make(combined(Combine.CBC, _value(kek, GIVES_W), y), use.value)

    # signing

    def unwrap_kcar(self, wrapped: WrappedKey, combine: Combine) -> Key:
        return self._make(keywrap.aes_key_unwrap(self.master_key, wrapped), f"derive {combine.name}")

    def transient(self, kcar: Key, combine: Combine, d_i: Digest) -> Key:
        value = _value(kcar, f"derive {combine.name}")
        return self._make(combined(combine, value, d_i), "unwrap")

    def public_transient(self, d_1: Digest) -> Key:
        return self._make(d_1, "unwrap")

    def open_quantity(self, t: Key, q: Quantity, use: KekUse) -> Key:
        try:
            value = keywrap.aes_key_unwrap(_value(t, "unwrap"), q)
        except (keywrap.InvalidUnwrap, ValueError) as error:
            raise AuthorisationMismatch("does not open") from error
        if use is KekUse.WRAP_SK:
            return self.sealed(self._make(value, GIVES_W))
        if use is KekUse.UNWRAP_SK:
            assert self.wraps is not None, "no sealing secret"
            if self.opens is not None:
                return self._sealed(self._make(value, GIVES_W), self.opens, use)
        return self._make(value, use.value)

    def unwrap_sk(self, kek: Key, wrapped: WrappedKey, *, extractable: bool) -> ModelKey:
        """Step 4."""
        try:
            value = keywrap.aes_key_unwrap_with_padding(_value(kek, KekUse.UNWRAP_SK.value), wrapped)
        except keywrap.InvalidUnwrap as error:
            raise WrongKey("does not open") from error
        return self._make(value, "sk", extractable)

    def recompute_kowf(self, sk: Key, parameter: bytes) -> Key:
        return self._make(_kowf(_value(sk, "sk"), parameter), KekUse.COMPARE.value)

    def same_key(self, one: Key, other: Key) -> bool:
        block = self.random(16)
        macs = [hmac.digest(_value(each, KekUse.COMPARE.value), block, "sha256") for each in (one, other)]
        return macs[0] == macs[1]

    def roll_by_xor(self, v: Key, difference: bytes) -> Key:
        value = combined(Combine.XOR, _value(v, KekUse.ROLL.value), difference)
        return self.sealed(self._make(value, GIVES_W))

    def wrap_sk(self, w: Key, sk: Key) -> WrappedKey:
        wrapped = keywrap.aes_key_wrap_with_padding(_value(w, KekUse.WRAP_SK.value), _extracted(sk, "sk"))
        return WrappedKey(wrapped)

    # enrolment

    def new_kcar(self, combine: Combine) -> Key:
        return self._make(self.random(32), f"derive {combine.name}", True)

    def new_key(self) -> Key:
        return self._make(self.random(32), GIVES_W, True)

    def new_kek1(self, combine: Combine) -> Key:
        return self._make(self.random(32), f"derive {combine.name}", True)

    def variant(self, kek1: Key, combine: Combine, rn: RollingValue) -> Key:
        value = combined(combine, _value(kek1, f"derive {combine.name}"), rn)
        return self._make(value, GIVES_W)

    def new_parameter(self, pair: KeyPair) -> bytes:
        del pair
        return self.random(64)

    def first_kowf(self, pair: KeyPair, parameter: bytes) -> Key:
        return self._make(_kowf(_value(pair.private, "sk"), parameter), GIVES_W, True)

    def wrap_kcar(self, kcar: Key) -> WrappedKey:
        assert isinstance(kcar, ModelKey)
        return WrappedKey(keywrap.aes_key_wrap(self.master_key, _extracted(kcar, kcar.use)))


def _value(key: Key, use: str) -> bytes:
    assert isinstance(key, ModelKey)
    if key.use != use:
        raise Forbidden(f"a key to {key.use!r} was asked to {use!r}")
    return key.value


def _extracted(key: Key, use: str) -> bytes:
    assert isinstance(key, ModelKey)
    if not key.extractable:
        raise Forbidden(f"a key to {key.use!r} is not extractable")
    return _value(key, use)


def _kowf(sk: bytes, parameter: bytes) -> bytes:
    return hmac.digest(sk, parameter, "sha256")


@dataclass
class ModelCard:
    """What a card does with its two keys, from the formulas of docs/understand/protocol.md alone."""

    record: CredentialRecord
    kcar: bytes
    kek: bytes
    random: Callable[[int], bytes] = os.urandom

    def authorise(
        self, h: bytes, rolling_values: tuple[RollingValue, ...]
    ) -> tuple[bytes, tuple[Quantity, ...]]:
        """R and the Qs for a message with this H."""
        record, nonce = self.record, self.random(16)
        d = hashlib.sha256(
            b"hsm-signer/1/authorise"
            + bytes([record.scheme.number, record.combine.number])
            + ALGORITHM.number.to_bytes(2, "big")
            + bytes([Mode.MESSAGE.number, record.pin_policy.number])
            + record.credential_id
            + nonce
            + bytes([len(rolling_values)])
            + b"".join(rolling_values)
            + h
        ).digest()
        quantities = []
        for i in range(1, max(len(rolling_values), 1) + 1):
            d_i = hashlib.sha256(b"hsm-signer/1/position" + bytes([i]) + d).digest()
            t_i = d_i if record.scheme is Scheme.BASIC else combined(record.combine, self.kcar, d_i)
            quantities.append(Quantity(keywrap.aes_key_wrap(t_i, self.key(rolling_values, i))))
        return nonce, tuple(quantities)

    def key(self, rolling_values: tuple[RollingValue, ...], position: int) -> bytes:
        """What Q_i carries: KEY, KOWF, or V for the RN of that position."""
        if self.record.scheme is not Scheme.ROLLING:
            return self.kek
        return combined(self.record.combine, self.kek, rolling_values[position - 1])


class ModelServer:
    """One credential from enrolment on: the steps of a scheme, in the order signing.py has them."""

    def __init__(
        self,
        scheme: Scheme,
        combine: Combine,
        pin_check: PinCheck = PinCheck.CARD,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.steps = steps_of(scheme)
        self.master_key = random(32)
        self.random = random
        workspace = self.workspace()
        self.pair = ModelPair()
        credential_id = CredentialId(random(16))
        wrapped_seal = workspace.new_seal(credential_id)
        created = self.steps.create(workspace, self.pair, combine)
        basic = scheme is Scheme.BASIC
        self.kek = _raw(created.kek)
        self.kcar = b"" if created.kcar is None else _raw(created.kcar)
        self.record = _record(scheme, combine, created, credential_id, wrapped_seal)
        if not basic:
            self.record = replace(self.record, pin_policy=PinPolicy.ALWAYS, pin_check=pin_check)

    def as_older_versions_made_it(self) -> None:
        """From now on the record is one of sealing 1: SK under the card's key itself."""
        key = self.card().key(self.challenge(), 1)
        self.record = replace(
            self.record,
            format=1,
            sealing=Sealing.CARD,
            wrapped_seal=None,
            wrapped_sk=WrappedKey(keywrap.aes_key_wrap_with_padding(key, self.pair.private.value)),
        )

    def workspace(self) -> ModelWorkspace:
        """Fresh, as for each operation."""
        return ModelWorkspace(self.master_key, self.random)

    def card(self) -> ModelCard:
        """A model card with this credential's keys."""
        return ModelCard(self.record, self.kcar, self.kek, self.random)

    def challenge(self) -> tuple[RollingValue, ...]:
        """Step 880."""
        return self.steps.challenge(self.record)

    def for_card(self) -> Challenge:
        """The challenge as a card's driver wants it."""
        record = self.record
        return Challenge(
            record.credential_id, record.scheme, record.x, self.challenge(), record.algorithms, record.spki
        )

    def positions(self, h: bytes, nonce: bytes) -> tuple[Digest, ...]:
        """D_1 ... as the server computes them."""
        values = self.challenge()
        record = self.record
        d = authorisation_digest(
            scheme=record.scheme,
            combine=record.combine,
            algorithm=ALGORITHM,
            mode=Mode.MESSAGE,
            pin_policy=record.pin_policy,
            credential_id=record.credential_id,
            nonce=nonce,
            rolling_values=values,
            h=Digest(h),
        )
        return position_digests(d, values)

    def sign(self, h: bytes, nonce: bytes, quantities: tuple[Quantity, ...]) -> ModelWorkspace:
        """Steps 3 to 9 without the signature: raises what they raise, or moves the record on."""
        workspace = self.workspace()
        moves = self.record.sealing is Sealing.CARD
        if moves:
            wrapped_seal = workspace.new_seal(self.record.credential_id)
        else:
            assert self.record.wrapped_seal is not None
            wrapped_seal = self.record.wrapped_seal
            workspace.open_seal(wrapped_seal, self.record.credential_id)
        keys = self.steps.recover(workspace, self.record, self.positions(h, nonce), quantities)
        assert self.record.wrapped_sk is not None
        sk = workspace.unwrap_sk(
            keys.unwraps_sk, self.record.wrapped_sk, extractable=self.steps.sk_extractable or moves
        )
        assert sk.value == self.pair.private.value
        self.steps.check(workspace, self.record, sk, keys)
        rewrapped = self.steps.rewrap(workspace, self.record, sk, keys)
        self.record = replace(self.record, format=2, sealing=Sealing.TOKEN, wrapped_seal=wrapped_seal)
        if rewrapped is not None:
            self.record = replace(
                self.record,
                wrapped_sk=rewrapped.wrapped_sk,
                x=rewrapped.x,
                rn=rewrapped.rn,
                rn_next=rewrapped.rn_next,
            )
        return workspace

    def personalise(self, card_point: bytes, pin_tries: int = 3, puk_tries: int = 10) -> CardPersonalisation:
        """What INSTALL gives to a real card (docs/understand/protocol.md, section 7)."""
        private = ec.generate_private_key(ec.SECP256R1())
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), card_point)
        token_point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        z = private.exchange(ec.ECDH(), public)
        record = self.record
        basic = record.scheme is Scheme.BASIC
        tries = (0, 0) if basic else (pin_tries, puk_tries)

        def wrap(role: int, key: bytes) -> WrappedKey:
            digest = personalisation_digest(
                role,
                credential_id=record.credential_id,
                scheme=record.scheme,
                combine=record.combine,
                pin_policy=record.pin_policy,
                pin_check=record.pin_check,
                pin_tries=tries[0],
                puk_tries=tries[1],
                card_point=card_point,
                token_point=token_point,
            )
            return WrappedKey(keywrap.aes_key_wrap(combined(Combine.CBC, z, digest), key))

        return CardPersonalisation(
            credential_id=record.credential_id,
            scheme=record.scheme,
            combine=record.combine,
            pin_policy=record.pin_policy,
            pin_check=record.pin_check,
            pin_tries=tries[0],
            puk_tries=tries[1],
            token_point=token_point,
            wrapped_kcar=None if basic else wrap(1, self.kcar),
            wrapped_kek=wrap(2, self.kek),
        )


def _raw(key: Key) -> bytes:
    assert isinstance(key, ModelKey)
    assert key.extractable, "the card must get it"
    return key.value


def _record(
    scheme: Scheme,
    combine: Combine,
    created: Created,
    credential_id: CredentialId,
    wrapped_seal: WrappedKey,
) -> CredentialRecord:
    return CredentialRecord(
        format=2,
        mac_key_id=bytes(8),
        version=1,
        credential_id=credential_id,
        owner="alice",
        status=Status.ACTIVE,
        scheme=scheme,
        combine=combine,
        pin_policy=PinPolicy.NONE,
        pin_check=PinCheck.NONE,
        token_serial="model",
        mk_id=bytes(8),
        spki=SpkiDer(b""),
        algorithms=(ALGORITHM,),
        parameter=created.parameter,
        wrapped_kcar=created.wrapped_kcar,
        wrap_mechanism=0,
        wrapped_sk=created.wrapped_sk,
        x=created.x,
        rn=created.rn,
        rn_next=created.rn_next,
        failures=0,
        card_serial=bytes(8),
        assurance=0,
        request_hash=None,
        evidence_head=None,
        sealing=Sealing.TOKEN,
        wrapped_seal=wrapped_seal,
        card_point=None,
        enrolment_proof=None,
        suspended_by=SuspendedBy.NOBODY,
    )
