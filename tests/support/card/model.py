"""What a card of docs/understand/apdu.md answers to any bytes, implemented again without cryptography.

It follows the page's sections, not the applet's code: the order of checks is one function from top to bottom,
PINs are compared as they are, hashes are kept as the bytes hashed. It does not know PIN check 02, whose
answers depend on salts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from . import contract, host
from .host import ALWAYS, BASIC, OK, ROLLING, Profile

COMMANDS = contract.commands()
BY_CODE = {(row.cla, row.ins): name for name, row in COMMANDS.items()}
DIGEST_LENGTHS = contract.algorithm_digest_lengths()
PIN_COMMANDS = ("VERIFY", "CHANGE REFERENCE DATA", "RESET RETRY COUNTER")
HASH_COMMANDS = ("HASH MESSAGE", "LOAD DIGESTS")
ISSUE_COMMANDS = ("BEGIN ISSUE", "ISSUE")


@dataclass
class Parsed:
    """A command APDU as far as the model cares."""

    header: bytes
    data: bytes
    ne: int | None


def parse(raw: bytes) -> Parsed | None:
    """None for what is no APDU, or an extended one beyond the limit."""
    head, body = raw[:4], raw[4:]
    if len(head) < 4:
        return None
    for width in (1, 3):
        extended = width == 3
        if extended and body[:1] != b"\0":
            continue
        le = 2 if extended else 1
        most = 65536 if extended else 256
        if len(body) == width or not body:
            ne = int.from_bytes(body[-le:], "big") or most
            return Parsed(head, b"", ne if body else None)
        nc = int.from_bytes(body[:width], "big")
        if not 0 < nc <= 32767 or len(body) < width:
            continue
        data, rest = body[width : width + nc], body[width + nc :]
        if len(data) == nc and len(rest) in (0, le):
            return Parsed(head, data, (int.from_bytes(rest, "big") or most) if rest else None)
    return None


def good_pin(data: bytes) -> bool:
    return 6 <= len(data) <= 12 and all(byte in b"0123456789" for byte in data)


def good_puk(data: bytes) -> bool:
    return 16 <= len(data) <= 32 and all(0x21 <= byte <= 0x7E for byte in data)


def split(data: bytes) -> tuple[bytes, bytes] | None:
    if len(data) < 1 + data[0]:
        return None
    return data[1 : 1 + data[0]], data[1 + data[0] :]


@dataclass
class Model:
    """The card's state in plain words."""

    selected: bool = False
    profile: Profile | None = None
    """PIN and PUK in it are the current ones."""
    pin_left: int = 0
    puk_left: int = 0
    point: bytes | None = None
    """Of BEGIN PERSONALISATION, while its key lives."""
    verified: bool = False
    loaded: tuple[int, bytes, int] | None = None
    """Mode, the bytes that H hashes, digest length."""
    chain: tuple[str, bytes] | None = None
    waiting: int = 0
    """Bytes that GET RESPONSE can fetch."""
    offered: dict[bytes, Profile] = field(default_factory=dict)
    """Token's INSTALL data without PIN and PUK, to the profile, for the point that lives."""
    issued: bool = False
    issuing: bool = False
    """An origin key waits for ISSUE."""

    def power_off(self) -> None:
        self.selected, self.waiting = False, 0
        self.forget()

    def forget(self) -> None:
        self.point = self.loaded = self.chain = None
        self.verified = self.issuing = False
        self.offered.clear()

    @property
    def state(self) -> int:
        if self.profile is None:
            return 1
        return 4 if self.profile.scheme != BASIC and self.pin_left == 0 else 3

    def offer(self, profile: Profile, point: bytes) -> None:
        """The host made INSTALL data for this profile."""
        tlvs = host.install_tlvs(profile, point)
        self.offered[_without_secrets(tlvs)] = profile

    def answer(self, raw: bytes) -> tuple[int, Profile | None, tuple[int, bytes, int] | None]:
        """Status word to expect; for AUTHORISE also what it is about. ``answered`` must follow."""
        apdu = parse(raw)
        if apdu is None:
            return 0x6700, None, None
        if self.waiting and apdu.header == b"\x00\xc0\0\0" and not apdu.data:
            ne = apdu.ne or 65536
            self.waiting = max(0, self.waiting - ne)
            return (0x6100 | self.waiting if self.waiting else OK), None, None
        self.waiting = 0
        profile, loaded = self.profile, self.loaded
        return self._command(apdu), profile, loaded

    def _command(self, apdu: Parsed) -> int:
        cla, ins = apdu.header[0], apdu.header[1]
        name = BY_CODE.get((cla & 0xEF, ins))
        row = COMMANDS.get(name or "")
        same = row is not None and apdu.header[2:] == row.header[2:]
        if self.chain and not (name == self.chain[0] and same):
            self.chain = None
        if cla not in (0x00, 0x10, 0x80, 0x90):
            return 0x6E00
        if name is None or row is None or not (self.selected or name == "SELECT"):
            return 0x6D00
        point, offered = self.point, dict(self.offered)
        if name == "INSTALL":
            self.point = None
            self.offered.clear()
        if cla & 0x10 and not row.chained:
            return 0x6884
        if not same:
            return 0x6A86
        if self.state not in row.states or (name == "INSTALL" and point is None):
            return 0x6985
        if name in ISSUE_COMMANDS and (self.issued or (name == "ISSUE" and not self.issuing)):
            return 0x6985
        if name in PIN_COMMANDS and self.profile and self.profile.scheme == BASIC:
            return 0x6A88
        if name == "RESET RETRY COUNTER" and self.profile and self.profile.puk is None:
            return 0x6A88
        if not row.nc_min <= len(apdu.data) <= row.nc_max:
            return 0x6700
        if name == "INSTALL":
            return self._install(apdu.data, offered)
        if name in HASH_COMMANDS:
            return self._hash(name, apdu.data, more=bool(cla & 0x10))
        return {
            "SELECT": self._select,
            "GET STATUS": lambda _: OK,
            "VERIFY": self._verify,
            "CHANGE REFERENCE DATA": self._change,
            "RESET RETRY COUNTER": self._unblock,
            "BEGIN PERSONALISATION": lambda _: OK,
            "AUTHORISE": self._authorise,
            "FACTORY RESET": self._reset,
            "BEGIN ISSUE": self._begin_issue,
            "ISSUE": self._issue,
        }[name](apdu.data)

    def _select(self, data: bytes) -> int:
        if data != contract.aid():
            return 0x6A82
        self.forget()
        self.selected = True
        return OK

    def _install(self, data: bytes, offered: dict[bytes, Profile]) -> int:
        tlvs: dict[int, bytes] = {}
        while data:
            if len(data) < 2 or data[0] in tlvs or data[1] > 127 or len(data) < 2 + data[1]:
                return 0x6A80
            tlvs[data[0]] = data[2 : 2 + data[1]]
            data = data[2 + data[1] :]
        profile = offered.get(_without_secrets(tlvs))
        if profile is None:
            return 0x6A80
        if profile.scheme == BASIC:
            if 0x93 in tlvs or 0x94 in tlvs:
                return 0x6A80
        elif not good_pin(tlvs.get(0x93, b"")) or (0x94 in tlvs and not good_puk(tlvs[0x94])):
            return 0x6A80
        self.profile = replace(profile, pin=tlvs.get(0x93, b""), puk=tlvs.get(0x94))
        self.pin_left, self.puk_left = profile.pin_tries, profile.puk_tries
        return OK

    def _wrong(self, left: int) -> int:
        self.verified = False
        return 0x63C0 | left if left else 0x6983

    def _verify(self, data: bytes) -> int:
        assert self.profile
        if not data:
            return OK if self.verified else (0x63C0 | self.pin_left if self.pin_left else 0x6983)
        if not good_pin(data):
            return 0x6A80
        if not self.pin_left:
            return 0x6983
        if data != self.profile.pin:
            self.pin_left -= 1
            return self._wrong(self.pin_left)
        self.pin_left, self.verified = self.profile.pin_tries, True
        return OK

    def _change(self, data: bytes) -> int:
        assert self.profile
        parts = split(data)
        if not parts or not all(map(good_pin, parts)):
            return 0x6A80
        if not self.pin_left:
            return 0x6983
        if parts[0] != self.profile.pin:
            self.pin_left -= 1
            return self._wrong(self.pin_left)
        self.profile = replace(self.profile, pin=parts[1])
        self.pin_left, self.verified = self.profile.pin_tries, False
        return OK

    def _unblock(self, data: bytes) -> int:
        assert self.profile
        parts = split(data)
        if not parts or not good_puk(parts[0]) or not good_pin(parts[1]):
            return 0x6A80
        if not self.puk_left:
            return 0x6983
        if parts[0] != self.profile.puk:
            self.puk_left -= 1
            return self._wrong(self.puk_left)
        self.profile = replace(self.profile, pin=parts[1])
        self.pin_left, self.puk_left = self.profile.pin_tries, self.profile.puk_tries
        self.verified = False
        return OK

    def _hash(self, name: str, data: bytes, *, more: bool) -> int:
        assert self.profile
        first = self.chain is None
        so_far = (self.chain[1] if self.chain else b"") + data
        self.chain = None
        if name == "LOAD DIGESTS":
            if len(so_far) < 3:
                return 0x6700
            count, length = int.from_bytes(so_far[:2], "big"), so_far[2]
            missing = 3 + count * length - len(so_far)
            if not count or length not in (32, 48, 64) or missing < 0 or (missing and not more):
                return 0x6A80
        if first:
            self.loaded = None
            if self.profile.policy == ALWAYS:
                self.verified = False
        if more:
            self.chain = (name, so_far)
        elif name == "LOAD DIGESTS":
            self.loaded = (2, b"hsm-signer/1/digests" + so_far, so_far[2])
        else:
            self.loaded = (1, so_far, 0)
        return OK

    def _authorise(self, data: bytes) -> int:
        assert self.profile
        algorithm, n = int.from_bytes(data[:2], "big"), data[2]
        values = [data[i : i + 32] for i in range(3, len(data), 32)]
        if len(data) != 3 + 32 * n:
            return 0x6700
        if algorithm not in DIGEST_LENGTHS:
            return 0x6A80
        if self.profile.scheme == ROLLING:
            if n not in range(1, 7) or len({*values}) != n:
                return 0x6A80
        elif n:
            return 0x6A80
        if self.loaded and self.loaded[0] == 2 and self.loaded[2] != DIGEST_LENGTHS[algorithm]:
            return 0x6A80
        if not self.loaded:
            return 0x6985
        if self.profile.scheme != BASIC and not self.verified:
            return 0x6982
        self.loaded = None
        if self.profile.policy == ALWAYS:
            self.verified = False
        return OK

    def _begin_issue(self, _: bytes) -> int:
        self.issuing = True
        return OK

    def _issue(self, _: bytes) -> int:
        self.issued, self.issuing = True, False
        return OK

    def _reset(self, _: bytes) -> int:
        if self.profile and self.profile.scheme != BASIC and not self.verified:
            puk_dead = self.profile.puk is None or not self.puk_left
            if self.pin_left or not puk_dead:
                return 0x6982
        self.forget()
        self.profile = None
        return OK


def _without_secrets(tlvs: dict[int, bytes]) -> bytes:
    """INSTALL's TLVs but PIN and PUK, which no key confirms, in one order."""
    return b"".join(host.tlv(tag, tlvs[tag]) for tag in sorted(tlvs) if tag not in (0x93, 0x94))
