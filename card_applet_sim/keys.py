"""What the card computes with keys: KW, CBC, ECDH, SHA-256 and the formulas of docs/understand/apdu.md.

KW is written out here over single AES blocks, as a card without a key-wrap instruction has to do it; so it is
independent of the key wrap that tokens and tests use.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .constants import (
    LABEL_AUTHORISE,
    LABEL_BLIND,
    LABEL_CARD_ORIGIN,
    LABEL_PERSONALISE,
    LABEL_POSITION,
    LABEL_POWF,
    POINT_LENGTH,
    Combine,
    Role,
)

_IV = bytes.fromhex("A6A6A6A6A6A6A6A6")
"""Default initial value, RFC 3394, 2.2.3.1."""
_HALF = 8
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""n of P-256, FIPS 186-4, D.1.2.3."""


class IntegrityError(Exception):
    """A wrapped key does not open under this key. Says nothing about either."""


class PointError(Exception):
    """Not an uncompressed point on P-256."""


def sha256(*parts: bytes) -> bytes:
    """SHA-256 of the parts joined: 32 bytes."""
    return hashlib.sha256(b"".join(parts)).digest()


def xor(a: bytes, b: bytes) -> bytes:
    """``a XOR b``, both of the same length (ValueError otherwise)."""
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def wrap(kek: bytes, key: bytes) -> bytes:
    """KW of RFC 3394, 2.2.1, index based.

    ``kek``: 16, 24 or 32 bytes; ``key``: a multiple of 8 bytes, at least 16. Returns 8 bytes more.
    Raises ValueError for other lengths.
    """
    if len(key) < 2 * _HALF or len(key) % _HALF:
        raise ValueError("key data must be a multiple of 8 bytes, at least 16")
    encrypt = Cipher(algorithms.AES(kek), modes.ECB()).encryptor().update  # noqa: S305 - single blocks
    a = _IV
    r = [key[i : i + _HALF] for i in range(0, len(key), _HALF)]
    n = len(r)
    for j in range(6):
        for i in range(n):
            block = encrypt(a + r[i])
            a = xor(block[:_HALF], (n * j + i + 1).to_bytes(_HALF))
            r[i] = block[_HALF:]
    return a + b"".join(r)


def unwrap(kek: bytes, wrapped: bytes) -> bytes:
    """Inverse of :func:`wrap` (RFC 3394, 2.2.2).

    ``wrapped``: a multiple of 8 bytes, at least 24. The initial value is compared in constant time.
    Raises IntegrityError if it differs, ValueError for other lengths.
    """
    if len(wrapped) < 3 * _HALF or len(wrapped) % _HALF:
        raise ValueError("wrapped key must be a multiple of 8 bytes, at least 24")
    decrypt = Cipher(algorithms.AES(kek), modes.ECB()).decryptor().update  # noqa: S305 - single blocks
    a = wrapped[:_HALF]
    r = [wrapped[i : i + _HALF] for i in range(_HALF, len(wrapped), _HALF)]
    n = len(r)
    for j in reversed(range(6)):
        for i in reversed(range(n)):
            block = decrypt(xor(a, (n * j + i + 1).to_bytes(_HALF)) + r[i])
            a = block[:_HALF]
            r[i] = block[_HALF:]
    if not hmac.compare_digest(a, _IV):
        raise IntegrityError("wrapped key does not open")
    return b"".join(r)


def cbc(key: bytes, data: bytes, iv: bytes = bytes(16)) -> bytes:
    """AES-CBC without padding; ``data``: a multiple of 16 bytes (else ValueError). On the card iv is zero."""
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def combine(method: Combine, key: bytes, value: bytes) -> bytes:
    """combine(K, m), 32 bytes each (docs/understand/apdu.md, Formulas).

    Raises ValueError for ``Combine.NONE``.
    """
    if method is Combine.CBC:
        return cbc(key, value)
    if method is Combine.XOR:
        return xor(key, value)
    raise ValueError("scheme basic combines nothing")


class CardKey:
    """A P-256 pair of the card: between BEGIN PERSONALISATION and INSTALL, or that of its origin."""

    __slots__ = ("_private", "point", "scalar")

    def __init__(self, scalar: bytes) -> None:
        """``scalar``: 32 bytes. Raises ValueError unless it lies in 1 ... n-1."""
        if not 0 < int.from_bytes(scalar) < _P256_ORDER:
            raise ValueError("not a private scalar of P-256")
        self.scalar = scalar
        self._private = ec.derive_private_key(int.from_bytes(scalar), ec.SECP256R1())
        self.point = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        """65 bytes, 04 || x || y."""

    @classmethod
    def draw(cls, random: Callable[[int], bytes]) -> CardKey:
        """Draw the private scalar, 32 bytes at a time, until it lies in 1 ... n-1."""
        scalar = bytes(32)
        while not 0 < int.from_bytes(scalar) < _P256_ORDER:
            scalar = random(32)
        return cls(scalar)

    @property
    def compressed(self) -> bytes:
        """The point in 33 bytes: 02 or 03, by the last bit of y, and x."""
        return bytes([0x02 | (self.point[-1] & 1)]) + self.point[1:33]

    def prove_origin(self, card_point: bytes, serial: bytes) -> bytes:
        """Sign the card's point of BEGIN PERSONALISATION and its serial: r || s, 64 bytes."""
        signed = LABEL_CARD_ORIGIN + card_point + serial
        r, s = decode_dss_signature(self._private.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)

    def agree(self, point: bytes) -> bytes:
        """Z: the x coordinate of the common point, 32 bytes.

        Raises PointError unless ``point`` is 65 bytes, 04 || x || y, on the curve: an invalid point would
        give the private key away bit by bit.
        """
        if len(point) != POINT_LENGTH or point[0] != 0x04:
            raise PointError("not an uncompressed point")
        try:
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        except ValueError:
            raise PointError("not on the curve") from None
        return self._private.exchange(ec.ECDH(), public)


def blind(role: Role, credential_id: bytes, salt: bytes, secret: bytes) -> bytes:
    """F(role, s, X): 32 bytes that hide a KEK; credential id and salt are 16 bytes each."""
    return sha256(LABEL_BLIND, bytes([role]), credential_id, salt, secret)


def powf(role: Role, salt: bytes, secret: bytes) -> bytes:
    """POWF(role, s', X): 32 bytes; how many of them the card keeps is the PIN check's matter."""
    return sha256(LABEL_POWF, bytes([role]), salt, secret)


def personalisation_key(z: bytes, r: int, parameters: bytes, points: bytes) -> bytes:
    """K_r, 32 bytes.

    ``parameters``: credential id, scheme, combine, PIN policy, PIN check, PIN tries, PUK tries (22 bytes);
    ``points``: card point, token point (130 bytes).
    """
    return cbc(z, sha256(LABEL_PERSONALISE, bytes([r]), parameters, points))


def authorisation_digest(
    head: bytes, credential_id: bytes, nonce: bytes, values: list[bytes], h: bytes
) -> bytes:
    """D, 32 bytes. ``head``: scheme, combine, algorithm, mode, PIN policy (6 bytes); ``values``: the RNs."""
    count = bytes([len(values)])
    return sha256(LABEL_AUTHORISE, head, credential_id, nonce, count, *values, h)


def position_digest(position: int, d: bytes) -> bytes:
    """D_i, 32 bytes; ``position`` counts from 1."""
    return sha256(LABEL_POSITION, bytes([position]), d)


def random_bytes(random: Callable[[int], bytes], length: int) -> bytes:
    """``length`` bytes of the source; a source that gives another number is a programming error."""
    value = random(length)
    if len(value) != length:
        raise ValueError("random source gave a wrong number of bytes")
    return value
