"""Any sequence of APDUs, sensible or not: a card answers what the page says, and never a secret.

The machine knows a card only by what it answers, so it runs against any; tests/card adds what can be seen
inside the simulated one.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from . import contract, host
from .host import BASIC, BASIC_PROFILE, OK, PIN, SESSION, XOR, Host, Profile, sha256
from .model import COMMANDS, DIGEST_LENGTHS, Model, parse
from .targets import Target, make_blank

PROFILES = [
    BASIC_PROFILE,
    Profile(),
    Profile(policy=SESSION, pin_tries=2, puk_tries=1),
    Profile(scheme=PIN, combine=XOR, pin_tries=1, puk=None),
    Profile(scheme=PIN, policy=SESSION),
]
PINS = [b"194738", b"736251", b"000000", b"999999999999"]
PUKS = [Profile().puk or b"", b"!" * 32]
RNS = [bytes([i]) * 32 for i in range(8)]


def is_issued(status: dict[int, bytes]) -> bool:
    """What a card says of its origin."""
    return bool(status[0x88][1] & contract.features()["origin"])


headers = st.sampled_from([row.header for row in COMMANDS.values()])
pins = st.sampled_from(PINS)
puks = st.sampled_from(PUKS)
somewhere = st.integers(0, 1000)
small = st.binary(max_size=40)
malformed = st.one_of(small, st.text("0123456789", max_size=14).map(str.encode))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Lc, data, Le in any of the forms, and some that are none."""
    data = draw(st.one_of(small, pins, st.just(contract.aid()), st.just(b"\0\1\x20" + bytes(32))))
    le = draw(st.sampled_from([b"", b"\0", b"\1", b"\x14"]))
    form = draw(st.sampled_from(["short", "extended", "noise"]))
    if form == "noise":
        return draw(small)
    if not data:
        return le if form == "short" or not le else b"\0\0" + le
    if form == "short":
        return bytes([len(data)]) + data + le
    return b"\0" + len(data).to_bytes(2, "big") + data + (b"\0" + le if le else b"")


@st.composite
def strange(draw: st.DrawFn) -> bytes:
    """An APDU near the known ones: one header byte bent, any body."""
    header = bytearray(draw(headers))
    if draw(st.booleans()):
        position = draw(st.integers(0, 3))
        header[position] ^= draw(st.sampled_from([0x10, 0x01, 0x80, 0x90, 0x04, 0xFF]))
    return bytes(header) + draw(bodies())


class CardMachine(RuleBasedStateMachine):
    """One card and its model, side by side."""

    target: Target

    def __init__(self) -> None:
        super().__init__()
        if self.target.renews:
            self.target.renew()
        self.serial = make_blank(self.target)
        self.model = Model(issued=is_issued(Host(self.target).status()))
        self.target.reset()
        self.origin_point = b""
        self.host = Host(self)
        self.secrets: set[bytes] = {*PINS, *PUKS}
        for profile in PROFILES:
            self.secrets |= {profile.kek, profile.kcar}
            self.secrets |= {host.combine(m, profile.kek, rn) for rn in RNS for m in (1, 2)}

    def answered(self, apdu: bytes, answer: bytes) -> None:
        """For those who want to see every exchange."""

    def transmit(self, apdu: bytes) -> bytes:
        """Through card and model; they agree on the word, and the answer is what the command gives."""
        issuing = self.model.issuing
        expected, profile, loaded = self.model.answer(apdu)
        answer = self.target.transmit(apdu)
        self.answered(apdu, answer)
        data, word = answer[:-2], int.from_bytes(answer[-2:], "big")
        parsed = parse(apdu)
        if parsed and parsed.ne is not None and len(data) == parsed.ne and word & 0xFF00 == 0x6100:
            # The host allowed less than the answer: the model is told how much waits.
            assert expected in (OK, word)
            self.model.waiting = word & 0xFF
            if parsed.header == COMMANDS["BEGIN ISSUE"].header and not issuing:
                self.origin_point = b""
            if parsed.header == COMMANDS["BEGIN PERSONALISATION"].header:
                # The card has its key, which nobody has seen whole: nothing can be made for it.
                self.model.point = b""
                self.model.offered.clear()
        else:
            assert word == expected, f"{word:04X}, expected {expected:04X}, to {apdu.hex()}"
            assert not data or word == OK
        for secret in self.secrets:
            assert secret not in answer
        if word == OK and parsed and self.model.waiting == 0:
            self._whole_answer(parsed.header, parsed.data, data, profile, loaded, issuing=issuing)
        return answer

    def _whole_answer(
        self,
        header: bytes,
        sent: bytes,
        data: bytes,
        profile: Profile | None,
        loaded: tuple[int, bytes, int] | None,
        *,
        issuing: bool,
    ) -> None:
        if header == COMMANDS["AUTHORISE"].header:
            assert profile
            assert loaded
            values = [sent[i : i + 32] for i in range(3, len(sent), 32)]
            algorithm = int.from_bytes(sent[:2], "big")
            h = sha256(loaded[1])
            keys = host.open_answer(profile, data, algorithm, loaded[0], h, values)
            assert keys == host.expected_keys(profile, values)
        elif header == COMMANDS["BEGIN PERSONALISATION"].header:
            answer = host.parse(data)
            self.model.point = answer[0x90]
            self.model.offered.clear()
            assert (0x8B in answer) == (0x8C in answer) == self.model.issued
            if self.model.issued:
                host.check_origin(answer)
                assert answer[0x8B].startswith(self.origin_point)
        elif header == COMMANDS["BEGIN ISSUE"].header:
            answer = host.parse(data)
            assert len(answer[0x8D]) == 33
            assert not issuing or self.origin_point in (b"", answer[0x8D])
            self.origin_point = answer[0x8D]
        elif header == COMMANDS["GET STATUS"].header:
            self._status(host.parse(data))

    def _status(self, status: dict[int, bytes]) -> None:
        model = self.model
        assert status[0x81] == bytes([model.state])
        assert status[0x87] == self.serial
        assert is_issued(status) == model.issued
        if model.profile is None:
            assert 0x84 not in status
            return
        assert status[0x82] == bytes([model.profile.scheme])
        assert status.get(0x85) == (None if model.profile.scheme == BASIC else bytes([model.pin_left]))
        assert status.get(0x86) == (bytes([model.puk_left]) if model.profile.puk else None)

    @initialize(profile=st.sampled_from([None, *PROFILES]))
    def begin(self, profile: Profile | None) -> None:
        self.host.select()
        if profile:
            self.enrol(profile)

    # Sensible commands

    @rule()
    def select(self) -> None:
        self.host.select()

    @rule()
    def reset(self) -> None:
        self.target.reset()
        self.model.power_off()
        if not self.target.platform_as_documented:
            self.host.select()

    @rule()
    def status(self) -> None:
        self.host.send("GET STATUS")

    @rule(more=st.booleans(), data=small)
    def hash_message(self, more: bool, data: bytes) -> None:
        self.host.send("HASH MESSAGE", data, more=more)

    @rule(length=st.sampled_from([32, 48, 64]), count=st.integers(0, 3), cut=st.integers(0, 200))
    def load_digests(self, length: int, count: int, cut: int) -> None:
        data = count.to_bytes(2, "big") + bytes([length]) + bytes(count * length)
        if cut < len(data):
            self.host.send("LOAD DIGESTS", data[:cut], more=True)
        self.host.send("LOAD DIGESTS", data[cut:])

    @precondition(lambda self: self.model.state != 1)
    @rule(pin=st.one_of(pins, st.just(b""), malformed), right=st.booleans())
    def verify(self, pin: bytes, right: bool) -> None:
        self.host.verify(self.model.profile.pin if right and self.model.profile else pin)

    @precondition(lambda self: self.model.state != 1)
    @rule(old=pins, new=st.one_of(pins, malformed), right=st.booleans())
    def change(self, old: bytes, new: bytes, right: bool) -> None:
        self.host.change(self.model.profile.pin if right and self.model.profile else old, new)

    @precondition(lambda self: self.model.state != 1)
    @rule(puk=st.one_of(puks, malformed), new=st.one_of(pins, malformed))
    def unblock(self, puk: bytes, new: bytes) -> None:
        self.host.unblock(puk, new)

    @rule(algorithm=st.sampled_from([*DIGEST_LENGTHS, 0x0104, 0x0201, 0x0201]), n=st.integers(0, 7))
    def authorise(self, algorithm: int, n: int) -> None:
        self.host.authorise(algorithm, RNS[:n])

    @rule(algorithm=st.sampled_from([*DIGEST_LENGTHS]), le=st.sampled_from([b"", b"\x00", b"\x0a", b"\xff"]))
    def sign(self, algorithm: int, le: bytes) -> None:
        """All that an authorisation needs; the model says whether it comes to one."""
        self.host.send("HASH MESSAGE", b"m")
        profile = self.model.profile or Profile()
        self.host.verify(profile.pin)
        values = b"".join(host.default_values(profile))
        data = algorithm.to_bytes(2, "big") + bytes([len(values) // 32]) + values
        self.host.raw(COMMANDS["AUTHORISE"].header + bytes([len(data)]) + data + le)

    @precondition(lambda self: self.target.renews)
    @rule(begin=st.booleans(), length=st.sampled_from([0, 63, 64, 64, 64, 65]))
    def issue(self, begin: bool, length: int) -> None:
        """Once for a card's life, so only where another card takes its place."""
        if begin:
            self.host.send("BEGIN ISSUE")
        self.host.send("ISSUE", bytes(length))

    def install(self, profile: Profile, bend: Callable[[bytes], bytes]) -> None:
        """BEGIN PERSONALISATION, and INSTALL with its data bent."""
        self.host.send("BEGIN PERSONALISATION")
        if self.model.point:
            self.model.offer(profile, self.model.point)
            self.host.send("INSTALL", bend(host.install_data(profile, self.model.point)))

    @rule(profile=st.sampled_from(PROFILES))
    def enrol(self, profile: Profile) -> None:
        self.install(profile, lambda data: data)

    @precondition(lambda self: self.model.state == 1 and self.model.selected)
    @rule(profile=st.sampled_from(PROFILES), position=somewhere, bit=st.integers(0, 7), cut=st.booleans())
    def enrol_bent(self, profile: Profile, position: int, bit: int, cut: bool) -> None:
        def bend(good: bytes) -> bytes:
            data = bytearray(good)
            data[position % len(data)] ^= 1 << bit
            return bytes(data[: position % len(data)] if cut else data)

        self.install(profile, bend)
        if self.model.profile:
            self.secrets |= {secret for secret in (self.model.profile.pin, self.model.profile.puk) if secret}

    @rule()
    def factory_reset(self) -> None:
        self.host.send("FACTORY RESET")

    # Senseless ones

    @rule(apdu=strange())
    def strange_apdu(self, apdu: bytes) -> None:
        if self.target.carries(apdu):
            self.transmit(apdu)

    @rule(apdu=st.binary(max_size=12))
    def noise(self, apdu: bytes) -> None:
        if self.target.carries(apdu):
            self.transmit(apdu)

    @rule(le=st.sampled_from([b"", b"\0", b"\5"]))
    def get_response(self, le: bytes) -> None:
        self.transmit(b"\x00\xc0\0\0" + le)


def run(machine: type[CardMachine], *, examples: int, steps: int, shrinks: bool = True) -> None:
    """Some sequences, the same in every run; ``shrinks``: a failing one is replayed to be shortened."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink) if shrinks else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )


def bound(target: Target) -> type[CardMachine]:
    """The machine on this one card."""

    class Bound(CardMachine):
        pass

    Bound.target = target
    return Bound
