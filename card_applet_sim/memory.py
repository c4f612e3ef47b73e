"""The card's persistent memory.

It is one file of fixed length, replaced whole by every write: what the applet calls one write has happened
or has not, whatever tears it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from .constants import (
    CREDENTIAL_ID_LENGTH,
    KEY_LENGTH,
    ORIGIN_CERTIFICATE_LENGTH,
    SALT_LENGTH,
    SERIAL_LENGTH,
    TRIES_MAX,
    TRIES_MIN,
    Combine,
    PinCheck,
    PinPolicy,
    Scheme,
)
from .keys import CardKey


class CardError(Exception):
    """The simulated card cannot be used; the message is one line for a person."""


class CardMissing(CardError):
    """There is no card memory at this path."""


class CardExists(CardError):
    """There is already something where a new card should go."""


class CardBusy(CardError):
    """Another process, or another object of this one, has the card open."""


class MemoryDamaged(CardError):
    """The file is not a card memory, not whole, or of another format version."""


class CardTorn(CardError):
    """For tests to raise from a ``fault`` hook: the card is torn from the reader during a write."""


class MemoryFailure(Exception):
    """A write failed (status 6581); it may or may not have happened."""


class WriteStage(Enum):
    """Where in one persistent write a fault can strike."""

    BEFORE = 1
    PARTIAL = 2
    """Half of the new image is in the temporary file."""
    WRITTEN = 3
    """All of it, and synced; the card's file is still the old one."""
    REPLACED = 4
    """The card's file is the new one."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A PIN or PUK as the card keeps it: never itself, only what it blinds and what checks it."""

    left: int
    """Tries left, 0 to ``maximum``."""
    maximum: int
    """1 to 15."""
    blinded: bytes = field(repr=False)
    """PKREV or PUKREV, 32 bytes."""
    salt: bytes = field(repr=False)
    """s, 16 bytes."""
    check: bytes = field(repr=False)
    """POWF, its first 1 or all 32 bytes."""
    check_salt: bytes = field(repr=False)
    """s', 16 bytes."""


@dataclass(frozen=True, slots=True)
class Personality:
    """What INSTALL leaves in persistent memory."""

    scheme: Scheme
    combine: Combine
    pin_policy: PinPolicy
    pin_check: PinCheck
    credential_id: bytes
    """16 bytes."""
    kcar: bytes = field(repr=False)
    """32 bytes; empty in scheme basic."""
    key: bytes = field(repr=False)
    """KEY of scheme basic, 32 bytes, in clear as there is no PIN; empty in the others."""
    pin: Guard | None
    """None in scheme basic."""
    puk: Guard | None
    """None in scheme basic and where no PUK was given."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What ISSUE leaves in persistent memory for the card's life."""

    scalar: bytes = field(repr=False)
    """The private key, 32 bytes."""
    certificate: bytes
    """The key's point, compressed, and the issuer's signature: 97 bytes."""


@dataclass(frozen=True, slots=True)
class Image:
    """All of persistent memory."""

    serial: bytes
    """8 bytes."""
    wiping: bool = False
    """FACTORY RESET has begun and not ended."""
    personality: Personality | None = None
    origin: Origin | None = None


_MAGIC = b"CARDSIM\x00"
_FORMAT, _FORMAT_WITH_ORIGIN = 1, 2
"""A card that was never issued is written as before there was ISSUE."""
_HEADER = struct.Struct(">8sHH")
_GUARD = struct.Struct(">BBB32s16sB32s16s")
_BODY = struct.Struct(f">B8s4B16s32s32s{_GUARD.size}s{_GUARD.size}s")
_ORIGIN = struct.Struct(f">32s{ORIGIN_CERTIFICATE_LENGTH}s")
_CHECKSUM = 32
_SIZE = _HEADER.size + _BODY.size + _CHECKSUM
_SIZES = {_FORMAT: _SIZE, _FORMAT_WITH_ORIGIN: _SIZE + _ORIGIN.size}
_WIPING, _INSTALLED = 1, 2


def _encode_guard(guard: Guard | None) -> bytes:
    if guard is None:
        return bytes(_GUARD.size)
    check = len(guard.check)
    return _GUARD.pack(
        1, guard.left, guard.maximum, guard.blinded, guard.salt, check, guard.check, guard.check_salt
    )


def encode(image: Image) -> bytes:
    """The file's content: header, body, the origin of an issued card, SHA-256 of all. Two lengths."""
    p = image.personality
    flags = _WIPING * image.wiping | _INSTALLED * (p is not None)
    if p is None:
        fields = (0, 0, 0, 0, b"", b"", b"", _encode_guard(None), _encode_guard(None))
    else:
        fields = (
            *(p.scheme, p.combine, p.pin_policy, p.pin_check, p.credential_id, p.kcar, p.key),
            *(_encode_guard(p.pin), _encode_guard(p.puk)),
        )
    version, origin = _FORMAT, b""
    if image.origin is not None:
        version = _FORMAT_WITH_ORIGIN
        origin = _ORIGIN.pack(image.origin.scalar, image.origin.certificate)
    header = _HEADER.pack(_MAGIC, version, _SIZES[version])
    content = header + _BODY.pack(flags, image.serial, *fields) + origin
    return content + hashlib.sha256(content).digest()


def _decode_guard(raw: bytes) -> Guard | None:
    present, left, maximum, blinded, salt, kept, check, check_salt = _GUARD.unpack(raw)
    if not present:
        return None
    if not (TRIES_MIN <= maximum <= TRIES_MAX and left <= maximum):
        raise ValueError("tries")
    return Guard(left, maximum, blinded, salt, check[:kept], check_salt)


def _decode_personality(fields: tuple[int, int, int, int, bytes, bytes, bytes, bytes, bytes]) -> Personality:
    scheme, combine = Scheme(fields[0]), Combine(fields[1])
    policy, check = PinPolicy(fields[2]), PinCheck(fields[3])
    pin, puk = _decode_guard(fields[7]), _decode_guard(fields[8])
    basic = scheme is Scheme.BASIC
    if basic != (combine is Combine.NONE) or basic != (policy is PinPolicy.NONE) or basic != (pin is None):
        raise ValueError("scheme")
    if basic != (check is PinCheck.NONE) or (basic and puk is not None):
        raise ValueError("scheme")
    if (pin and len(pin.check) != check.kept) or (puk and len(puk.check) != PinCheck.CARD.kept):
        raise ValueError("check")
    kcar, key = (b"", fields[6]) if basic else (fields[5], b"")
    return Personality(scheme, combine, policy, check, fields[4], kcar, key, pin, puk)


def _decode_origin(scalar: bytes, certificate: bytes) -> Origin:
    if not certificate.startswith(CardKey(scalar).compressed):
        raise ValueError("another key's certificate")
    return Origin(scalar, certificate)


def decode(raw: bytes) -> Image:
    """Inverse of :func:`encode`. Raises MemoryDamaged for everything that :func:`encode` does not give."""
    if len(raw) < _HEADER.size or not raw.startswith(_MAGIC):
        raise MemoryDamaged("not a card memory")
    _, version, size = _HEADER.unpack_from(raw)
    whole = hashlib.sha256(raw[:-_CHECKSUM]).digest() == raw[-_CHECKSUM:]
    if version not in _SIZES and len(raw) == size and whole:
        raise MemoryDamaged(f"format {version} is newer than this program knows ({max(_SIZES)})")
    expected = _SIZES.get(version, _SIZE)
    if len(raw) != expected:
        raise MemoryDamaged(f"{len(raw)} bytes instead of {expected}: cut off or overwritten")
    if not whole:
        raise MemoryDamaged("checksum does not match")
    flags, serial, *fields = _BODY.unpack_from(raw, _HEADER.size)
    try:
        personality = None
        if flags & _INSTALLED:
            personality = _decode_personality(tuple(fields))
        origin = None
        if version == _FORMAT_WITH_ORIGIN:
            origin = _decode_origin(*_ORIGIN.unpack_from(raw, _HEADER.size + _BODY.size))
        image = Image(serial, bool(flags & _WIPING), personality, origin)
    except ValueError:
        raise MemoryDamaged("contradicts itself") from None
    if encode(image) != raw:
        raise MemoryDamaged("contradicts itself")
    return image


assert _GUARD.size == 3 + KEY_LENGTH + SALT_LENGTH + 1 + KEY_LENGTH + SALT_LENGTH
assert _BODY.size == 1 + SERIAL_LENGTH + 4 + CREDENTIAL_ID_LENGTH + 2 * KEY_LENGTH + 2 * _GUARD.size

_POLL = 0.02
"""Seconds between two attempts at the lock."""


def _no_fault(stage: WriteStage) -> None:
    """Nothing goes wrong."""


def _lock(path: Path, timeout: float) -> int:
    """Descriptor of ``PATH.lock``, locked. The lock is a file of its own because every write replaces PATH.

    Raises CardBusy after ``timeout`` seconds, CardError if it cannot be made.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path.with_name(path.name + ".lock"), flags, 0o600)
    except OSError as error:
        raise CardError(f"card memory {path} cannot be locked: {error.strerror}") from error
    attempts = round(timeout / _POLL)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempts <= 0:
                os.close(descriptor)
                raise CardBusy(f"card {path} is in use by another program") from None
            attempts -= 1
            time.sleep(_POLL)
        except OSError as error:
            os.close(descriptor)
            raise CardError(f"card memory {path} cannot be locked: {error.strerror}") from error
        else:
            return descriptor


def _replace(
    path: Path, content: bytes, fault: Callable[[WriteStage], None], done: Callable[[], None]
) -> None:
    """Put ``content`` in place of the file, all or nothing; ``done`` runs the moment it is there.

    Raises OSError, and whatever ``fault`` raises; a temporary file may stay; the next write takes it over.
    """
    fault(WriteStage.BEFORE)
    temporary = path.with_name(path.name + ".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        half = len(content) // 2
        file.write(content[:half])
        file.flush()
        fault(WriteStage.PARTIAL)
        file.write(content[half:])
        file.flush()
        os.fsync(file.fileno())
    fault(WriteStage.WRITTEN)
    temporary.replace(path)
    done()
    fault(WriteStage.REPLACED)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _resolve(path: Path) -> Path:
    """``path`` without symbolic links, which replacing a file would replace. Raises CardError."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise CardError(f"{path} leads nowhere: {error}") from error


def create(path: Path, image: Image) -> None:
    """Make a card memory where there is nothing. Raises CardExists, CardBusy, CardError."""
    path = _resolve(path)
    if not path.parent.is_dir():
        raise CardError(f"folder {path.parent} does not exist")
    if os.path.lexists(path):
        raise CardExists(f"{path} exists already")
    lock = _lock(path, 0.0)
    try:
        if os.path.lexists(path):
            raise CardExists(f"{path} exists already")
        _replace(path, encode(image), _no_fault, lambda: None)
    except OSError as error:
        raise CardError(f"card memory {path} cannot be written: {error.strerror}") from error
    finally:
        os.close(lock)


class PersistentMemory:
    """An open card memory, locked against every other opener until :meth:`close`."""

    def __init__(
        self, path: Path, *, lock_timeout: float, fault: Callable[[WriteStage], None] | None
    ) -> None:
        """Lock and read.

        Raises CardMissing, CardBusy, MemoryDamaged; CardError if the file cannot be read.
        """
        self._path = _resolve(path)
        self._fault = fault or _no_fault
        if not os.path.lexists(self._path):
            raise CardMissing(f"there is no card memory at {path}")
        if not self._path.is_file():
            raise MemoryDamaged(f"{path} is not a file")
        self._lock = _lock(self._path, lock_timeout)
        try:
            with self._path.open("rb") as file:
                self._image = decode(file.read(max(_SIZES.values()) + 1))
            # A torn write leaves a part of an image behind.
            self._path.with_name(self._path.name + ".new").unlink(missing_ok=True)
        except MemoryDamaged as error:
            self.close()
            raise MemoryDamaged(f"card memory {path} is damaged: {error}") from None
        except OSError as error:
            self.close()
            raise CardError(f"card memory {path} cannot be read: {error.strerror}") from error

    @property
    def image(self) -> Image:
        """What the file holds."""
        return self._image

    @property
    def closed(self) -> bool:
        """Whether the lock has been given back."""
        return self._lock < 0

    def write(self, image: Image) -> None:
        """One atomic write. Raises MemoryFailure; ``image`` is then what the file holds, old or new."""

        def done() -> None:
            self._image = image

        try:
            _replace(self._path, encode(image), self._fault, done)
        except OSError as error:
            raise MemoryFailure(error.strerror) from error

    def close(self) -> None:
        """Give the lock back. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
