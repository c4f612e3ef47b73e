"""Any sequence of APDUs, sensible or not: the card answers what the page says, and never a secret."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from card_applet_sim import SimulatedCard, memory

from . import contract, host
from .host import BASIC, BASIC_PROFILE, OK, PIN, SESSION, XOR, Host, Profile, sha256, stream
from .model import COMMANDS, DIGEST_LENGTHS, Model, parse

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

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "card"
        SimulatedCard.create(self.path, random=stream("serial"))
        self.serial = memory.decode(self.path.read_bytes()).serial
        self.generator = stream("stateful")
        self.card = SimulatedCard(self.path, random=self.generator, lock_timeout=0)
        self.model = Model()
        self.host = Host(self)
        self.secrets: set[bytes] = {*PINS, *PUKS}
        for profile in PROFILES:
            self.secrets |= {profile.kek, profile.kcar}
            self.secrets |= {host.combine(m, profile.kek, rn) for rn in RNS for m in (1, 2)}

    def teardown(self) -> None:
        self.card.close()
        self.folder.cleanup()

    def transmit(self, apdu: bytes) -> bytes:
        """Through card and model; they agree on the word, and the answer is what the command gives."""
        expected, profile, loaded = self.model.answer(apdu)
        answer = self.card.transmit(apdu)
        data, word = answer[:-2], int.from_bytes(answer[-2:], "big")
        parsed = parse(apdu)
        if parsed and parsed.ne is not None and len(data) == parsed.ne and word & 0xFF00 == 0x6100:
            # The host allowed less than the answer: the model is told how much waits.
            assert expected in (OK, word)
            self.model.waiting = word & 0xFF
        else:
            assert word == expected, f"{word:04X}, expected {expected:04X}, to {apdu.hex()}"
            assert not data or word == OK
        for secret in self.secrets:
            assert secret not in answer
        if word == OK and parsed and self.model.waiting == 0:
            self._whole_answer(parsed.header, parsed.data, data, profile, loaded)
        return answer

    def _whole_answer(
        self,
        header: bytes,
        sent: bytes,
        data: bytes,
        profile: Profile | None,
        loaded: tuple[int, bytes, int] | None,
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
            self.model.point = host.parse(data)[0x90]
            self.model.offered.clear()
        elif header == COMMANDS["GET STATUS"].header:
            self._status(host.parse(data))

    def _status(self, status: dict[int, bytes]) -> None:
        model = self.model
        assert status[0x81] == bytes([model.state])
        assert status[0x87] == self.serial
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
        self.card.reset()
        self.model.power_off()

    @rule()
    def reopen(self) -> None:
        self.card.close()
        self.model.power_off()
        self.card = SimulatedCard(self.path, random=self.generator, lock_timeout=0)

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

    @rule(profile=st.sampled_from(PROFILES))
    def enrol(self, profile: Profile) -> None:
        self.host.send("BEGIN PERSONALISATION")
        if self.model.point:
            self.model.offer(profile, self.model.point)
            self.host.send("INSTALL", host.install_data(profile, self.model.point))

    @precondition(lambda self: self.model.state == 1 and self.model.selected)
    @rule(profile=st.sampled_from(PROFILES), position=somewhere, bit=st.integers(0, 7), cut=st.booleans())
    def enrol_bent(self, profile: Profile, position: int, bit: int, cut: bool) -> None:
        self.host.send("BEGIN PERSONALISATION")
        assert self.model.point
        self.model.offer(profile, self.model.point)
        data = bytearray(host.install_data(profile, self.model.point))
        data[position % len(data)] ^= 1 << bit
        self.host.send("INSTALL", bytes(data[: position % len(data)] if cut else data))
        if self.model.profile:
            self.secrets |= {secret for secret in (self.model.profile.pin, self.model.profile.puk) if secret}

    @rule()
    def factory_reset(self) -> None:
        self.host.send("FACTORY RESET")

    # Senseless ones

    @rule(apdu=strange())
    def strange_apdu(self, apdu: bytes) -> None:
        self.transmit(apdu)

    @rule(apdu=st.binary(max_size=12))
    def noise(self, apdu: bytes) -> None:
        self.transmit(apdu)

    @rule(le=st.sampled_from([b"", b"\0", b"\5"]))
    def get_response(self, le: bytes) -> None:
        self.transmit(b"\x00\xc0\0\0" + le)

    # What always holds

    @invariant()
    def memory_is_as_the_model(self) -> None:
        content = self.path.read_bytes()
        image = memory.decode(content)
        model, personality = self.model, image.personality
        assert not image.wiping
        assert image.serial == self.serial
        assert (personality is None) == (model.profile is None)
        if personality and model.profile:
            assert personality.credential_id == model.profile.credential_id
            assert (personality.pin.left if personality.pin else 0) == model.pin_left
            if personality.puk:
                assert personality.puk.left == model.puk_left
        for secret in self.secrets - {profile.kcar for profile in PROFILES}:
            if not (model.profile and model.profile.scheme == BASIC and secret == model.profile.kek):
                assert secret not in content

    @invariant()
    def verified_is_as_the_model(self) -> None:
        # White box: asking by VERIFY would break a chain.
        assert self.card._applet._transient.verified == self.model.verified


def test_any_sequence_of_apdus() -> None:
    run_state_machine_as_test(
        CardMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=45,
            derandomize=True,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


def test_the_model_knows_a_working_card(card_path: Path) -> None:
    """The machine above would find nothing with a model that refuses everything: here both must succeed."""
    machine = CardMachine()
    try:
        machine.host.select()
        steps: list[Callable[[], object]] = [
            lambda: machine.enrol(Profile()),
            lambda: machine.hash_message(False, b"m"),
            lambda: machine.verify(b"", True),
            lambda: machine.authorise(0x0201, 2),
        ]
        for step in steps:
            step()
        assert machine.model.profile == Profile()
        assert machine.model.loaded is None
        assert not machine.model.verified
        assert machine.host.authorise(0x0201, RNS[:2])[1] == 0x6985
    finally:
        machine.teardown()
