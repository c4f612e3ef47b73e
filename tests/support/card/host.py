"""The other side of docs/understand/apdu.md, written from its formulas with `cryptography`'s own key wrap.

Nothing here uses code of card_applet_sim or hsm_signer, so an agreement of the two means something.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import contract

BASIC, PIN, ROLLING = 1, 2, 3
XOR, CBC = 1, 2
ALWAYS, SESSION = 1, 2
ON_CARD, ON_SERVER = 1, 2
ECDSA_SHA256 = 0x0201
OK = 0x9000


class Slot(Protocol):
    """Whatever answers APDUs."""

    def transmit(self, apdu: bytes, /) -> bytes:
        """Data || SW1 SW2."""
        ...


def stream(seed: str) -> Callable[[int], bytes]:
    """A generator that gives the same bytes in every run."""
    counter = 0

    def random(length: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{seed}/{counter}".encode()).digest(length)

    return random


@dataclass(frozen=True)
class Profile:
    """What one card is enrolled with."""

    scheme: int = ROLLING
    combine: int = CBC
    policy: int = ALWAYS
    check: int = ON_CARD
    pin_tries: int = 3
    puk_tries: int = 3
    credential_id: bytes = bytes(range(0xC0, 0xD0))
    kcar: bytes = hashlib.sha256(b"a KCAR").digest()
    kek: bytes = hashlib.sha256(b"a KEK").digest()
    pin: bytes = b"194738"
    puk: bytes | None = b"PUK-7f3Kq9Zt1XbV"

    @property
    def parameters(self) -> bytes:
        """What K_r binds, from the credential id to the tries: 22 bytes."""
        codes = (self.scheme, self.combine, self.policy, self.check, self.pin_tries, self.puk_tries)
        return self.credential_id + bytes(codes)


BASIC_PROFILE = Profile(
    scheme=BASIC, combine=0, policy=0, check=0, pin_tries=0, puk_tries=0, pin=b"", puk=None
)
PROFILES = {
    "basic": BASIC_PROFILE,
    "pin-xor-card": Profile(scheme=PIN, combine=XOR),
    "pin-cbc-server": Profile(scheme=PIN, check=ON_SERVER, policy=SESSION),
    "rolling-xor-server": Profile(combine=XOR, check=ON_SERVER),
    "rolling-cbc-card": Profile(),
    "rolling-session": Profile(policy=SESSION),
    "rolling-no-puk": Profile(puk=None),
}


def sha256(*parts: bytes) -> bytes:
    """SHA-256 of the parts joined."""
    return hashlib.sha256(b"".join(parts)).digest()


def cbc(key: bytes, data: bytes) -> bytes:
    """AES-256-CBC, iv zero, no padding."""
    encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def combine(method: int, key: bytes, value: bytes) -> bytes:
    """combine(K, m) of docs/understand/apdu.md, Formulas."""
    if method == XOR:
        return bytes(a ^ b for a, b in zip(key, value, strict=True))
    assert method == CBC
    return cbc(key, value)


def tlv(tag: int, value: bytes) -> bytes:
    """One TLV with a one-byte length."""
    return bytes([tag, len(value)]) + value


def parse(data: bytes) -> dict[int, bytes]:
    """TLVs in the order they come."""
    found = {}
    while data:
        found[data[0]] = data[2 : 2 + data[1]]
        assert len(found[data[0]]) == data[1]
        data = data[2 + data[1] :]
    return found


def h_of_digests(digests: Sequence[bytes]) -> bytes:
    """H of mode 2."""
    head = len(digests).to_bytes(2, "big") + bytes([len(digests[0])])
    return sha256(b"hsm-signer/1/digests", head, *digests)


def digest_list(digests: Sequence[bytes]) -> bytes:
    """Data of LOAD DIGESTS."""
    return len(digests).to_bytes(2, "big") + bytes([len(digests[0])]) + b"".join(digests)


def check_ecdsa(point: bytes, message: bytes, signature: bytes) -> None:
    """ECDSA on P-256 with SHA-256, r || s, under a point in any form. Raises InvalidSignature."""
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    assert len(signature) == 64
    der = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    key.verify(der, message, ec.ECDSA(hashes.SHA256()))


def check_origin(answer: dict[int, bytes]) -> None:
    """What BEGIN PERSONALISATION answers of an issued card: the proof is its key's, over point and serial."""
    certificate = answer[0x8B]
    assert len(certificate) == 97
    check_ecdsa(certificate[:33], b"hsm-signer/2/card-origin" + answer[0x90] + answer[0x87], answer[0x8C])


ISSUER_KEY = ec.derive_private_key(0x0FEDCBA987654321, ec.SECP256R1())


def certify(origin_point: bytes, serial: bytes, key: ec.EllipticCurvePrivateKey = ISSUER_KEY) -> bytes:
    """An issuer's signature over an origin point and a serial: r || s."""
    der = key.sign(b"hsm-signer/2/card-issue" + origin_point + serial, ec.ECDSA(hashes.SHA256()))
    r, s = decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Host:
    """Sends commands by their names in the contract; every method returns (data, status word)."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.commands = contract.commands()

    def raw(self, apdu: bytes) -> tuple[bytes, int]:
        """Any bytes."""
        answer = self.slot.transmit(apdu)
        return answer[:-2], int.from_bytes(answer[-2:], "big")

    def send(self, command: str, data: bytes = b"", *, more: bool = False) -> tuple[bytes, int]:
        """One APDU, short where the data fit, without Le."""
        row = self.commands[command]
        header = bytes([row.cla | 0x10 * more]) + row.header[1:]
        if not data:
            return self.raw(header)
        if len(data) > 255:
            return self.raw(header + b"\0" + len(data).to_bytes(2, "big") + data)
        return self.raw(header + bytes([len(data)]) + data)

    def select(self) -> tuple[bytes, int]:
        """SELECT of the applet."""
        return self.send("SELECT", contract.aid())

    def status(self) -> dict[int, bytes]:
        """Status TLVs; GET STATUS must answer."""
        data, word = self.send("GET STATUS")
        assert word == OK
        return parse(data)

    def begin(self) -> bytes:
        """Card point of BEGIN PERSONALISATION, which must answer."""
        data, word = self.send("BEGIN PERSONALISATION")
        assert word == OK
        return parse(data)[0x90]

    def install(self, profile: Profile) -> int:
        """BEGIN PERSONALISATION and INSTALL."""
        return self.send("INSTALL", install_data(profile, self.begin()))[1]

    def issue(self, key: ec.EllipticCurvePrivateKey = ISSUER_KEY) -> int:
        """BEGIN ISSUE, which must answer, and ISSUE."""
        data, word = self.send("BEGIN ISSUE")
        assert word == OK
        answer = parse(data)
        return self.send("ISSUE", certify(answer[0x8D], answer[0x87], key))[1]

    def verify(self, pin: bytes) -> int:
        """VERIFY."""
        return self.send("VERIFY", pin)[1]

    def change(self, old: bytes, new: bytes) -> int:
        """CHANGE REFERENCE DATA."""
        return self.send("CHANGE REFERENCE DATA", bytes([len(old)]) + old + new)[1]

    def unblock(self, puk: bytes, new: bytes) -> int:
        """RESET RETRY COUNTER."""
        return self.send("RESET RETRY COUNTER", bytes([len(puk)]) + puk + new)[1]

    def chained(self, command: str, data: bytes, block: int = 255) -> int:
        """HASH MESSAGE or LOAD DIGESTS in blocks; every block but the last must be accepted."""
        blocks = [data[i : i + block] for i in range(0, len(data), block)] or [b""]
        for part in blocks[:-1]:
            assert self.send(command, part, more=True) == (b"", OK)
        return self.send(command, blocks[-1])[1]

    def authorise(self, algorithm: int, values: Sequence[bytes] = ()) -> tuple[bytes, int]:
        """AUTHORISE."""
        data = algorithm.to_bytes(2, "big") + bytes([len(values)]) + b"".join(values)
        return self.send("AUTHORISE", data)

    def sign(self, profile: Profile, message: bytes = b"m", values: Sequence[bytes] = ()) -> list[bytes]:
        """Hash, PIN, authorise, all of which must answer; the keys that the Qs carry."""
        values = values or default_values(profile)
        assert self.chained("HASH MESSAGE", message) == OK
        if profile.scheme != BASIC:
            assert self.verify(profile.pin) == OK
        answer, word = self.authorise(ECDSA_SHA256, values)
        assert word == OK
        return open_answer(profile, answer, ECDSA_SHA256, 1, sha256(message), values)


def default_values(profile: Profile) -> tuple[bytes, ...]:
    """Two RNs in scheme rolling, none otherwise."""
    return (sha256(b"RN 1"), sha256(b"RN 2")) if profile.scheme == ROLLING else ()


TOKEN_KEY = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())


def token_point(key: ec.EllipticCurvePrivateKey = TOKEN_KEY) -> bytes:
    """The token's point, 65 bytes."""
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def install_tlvs(profile: Profile, card_point: bytes) -> dict[int, bytes]:
    """INSTALL's TLVs, before they are joined."""
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), card_point)
    z = TOKEN_KEY.exchange(ec.ECDH(), public)

    def k(r: int) -> bytes:
        label = b"hsm-signer/1/personalise"
        return cbc(z, sha256(label, bytes([r]), profile.parameters, card_point, token_point()))

    tlvs = {0x84: profile.credential_id, 0x82: bytes([profile.scheme]), 0x83: bytes([profile.combine])}
    if profile.scheme != BASIC:
        tlvs |= {0x89: bytes([profile.policy]), 0x8A: bytes([profile.check])}
    tlvs[0x90] = token_point()
    if profile.scheme != BASIC:
        tlvs[0x91] = keywrap.aes_key_wrap(k(1), profile.kcar)
    tlvs[0x92] = keywrap.aes_key_wrap(k(2), profile.kek)
    if profile.scheme != BASIC:
        tlvs[0x93] = profile.pin
        if profile.puk is not None:
            tlvs[0x94] = profile.puk
        tlvs[0x95] = bytes([profile.pin_tries, profile.puk_tries])
    return tlvs


def install_data(profile: Profile, card_point: bytes) -> bytes:
    """INSTALL's data."""
    return b"".join(tlv(tag, value) for tag, value in install_tlvs(profile, card_point).items())


def expected_d(
    profile: Profile, algorithm: int, mode: int, nonce: bytes, values: Sequence[bytes], h: bytes
) -> bytes:
    """D of docs/understand/protocol.md, section 2."""
    head = bytes([profile.scheme, profile.combine]) + algorithm.to_bytes(2, "big")
    head += bytes([mode, profile.policy])
    count = bytes([len(values)])
    return sha256(b"hsm-signer/1/authorise", head, profile.credential_id, nonce, count, *values, h)


def open_answer(
    profile: Profile, answer: bytes, algorithm: int, mode: int, h: bytes, values: Sequence[bytes]
) -> list[bytes]:
    """The keys that an AUTHORISE answer carries. Raises keywrap.InvalidUnwrap if a Q is not for this."""
    count = max(len(values), 1)
    assert len(answer) == 16 + 40 * count
    d = expected_d(profile, algorithm, mode, answer[:16], values, h)
    opened = []
    for i in range(1, count + 1):
        t = sha256(b"hsm-signer/1/position", bytes([i]), d)
        if profile.scheme != BASIC:
            t = combine(profile.combine, profile.kcar, t)
        opened.append(keywrap.aes_key_unwrap(t, answer[16 + 40 * (i - 1) : 16 + 40 * i]))
    return opened


def expected_keys(profile: Profile, values: Sequence[bytes] = ()) -> list[bytes]:
    """What the Qs carry if the KEK is the one installed."""
    if profile.scheme != ROLLING:
        return [profile.kek]
    return [combine(profile.combine, profile.kek, rn) for rn in values or default_values(profile)]


def wrong_pin(profile: Profile, number: int = 0) -> bytes:
    """A well-formed PIN that is not the profile's."""
    return f"{(int(profile.pin) + 1 + number) % 1_000_000:06}".encode()


def other(profile: Profile, pin: bytes) -> Profile:
    """The same card with another PIN."""
    return replace(profile, pin=pin)
