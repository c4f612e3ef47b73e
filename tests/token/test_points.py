"""CKA_EC_POINT comes as DER OCTET STRING or bare, and a bare point may look like DER."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm_signer.core import algorithms
from hsm_signer.types import KeySpec


def point_beginning_with(spec: KeySpec, first: int) -> bytes:
    """A point of the curve whose x begins with this byte: some 256 attempts."""
    for scalar in range(1, 20_000):
        public = ec.derive_private_key(scalar, algorithms.CURVES[spec]).public_key()
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        if point[1] == first:
            return point
    raise AssertionError("no such point")


@pytest.mark.parametrize(
    ("spec", "first"),
    # 04 is the tag of OCTET STRING, and 3F and 5F are what is left of 65 and 97 bytes after tag and length.
    [(KeySpec.P256, 0x3F), (KeySpec.P256, 0x40), (KeySpec.P384, 0x5F), (KeySpec.P384, 0x81)],
)
def test_a_bare_point_that_looks_like_der(spec: KeySpec, first: int) -> None:
    point = point_beginning_with(spec, first)
    der = bytes([0x04, len(point)]) + point
    for given in (point, der):
        spki = algorithms.ec_spki(spec, given)
        assert algorithms.ec_point_of(spki) == point
