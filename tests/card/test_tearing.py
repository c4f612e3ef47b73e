"""Power fails, or memory, at every stage of every persistent write of every command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from card_applet_sim import CardTorn, SimulatedCard, WriteStage, memory
from tests.support.card import contract, host
from tests.support.card.host import OK, Host, Profile, expected_keys, install_data, stream

PROFILE = Profile()
PUK = PROFILE.puk or b""
NEW = b"736251"
PIN_CHANGE = bytes([6]) + PROFILE.pin + NEW


class Fault:
    """Strikes once, at a stage of the n-th write after it was armed; records the file after each write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[bytes] = []
        self.target: tuple[int, WriteStage] | None = None
        self.error: Exception = CardTorn("torn")
        self.writes = 0

    def arm(self, target: tuple[int, WriteStage] | None, error: Exception) -> None:
        self.target, self.error = target, error
        self.writes = 0
        self.files = [self.path.read_bytes()]

    def __call__(self, stage: WriteStage) -> None:
        self.writes += stage is WriteStage.BEFORE
        if stage is WriteStage.REPLACED:
            self.files.append(self.path.read_bytes())
        if self.target == (self.writes, stage):
            self.target = None
            raise self.error


@dataclass(frozen=True)
class Scenario:
    """A card, and one command that writes."""

    name: str
    command: str
    data: Callable[[Host], bytes]
    profile: Profile | None = PROFILE
    prepare: Callable[[Host], object] = lambda _: None
    word: int = OK


def block_all(card: Host) -> None:
    for _ in range(3):
        card.verify(b"000000")
    for _ in range(3):
        card.unblock(b"!" * 16, NEW)


def begin_issue(card: Host) -> bytes:
    assert card.send("BEGIN ISSUE")[1] == OK
    return bytes(64)


def const(data: bytes) -> Callable[[Host], bytes]:
    return lambda _: data


SCENARIOS = [
    Scenario("install", "INSTALL", lambda card: install_data(PROFILE, card.begin()), None),
    Scenario("install-basic", "INSTALL", lambda card: install_data(host.BASIC_PROFILE, card.begin()), None),
    Scenario("issue", "ISSUE", begin_issue, None),
    Scenario("verify", "VERIFY", const(PROFILE.pin)),
    Scenario("verify-after-failures", "VERIFY", const(PROFILE.pin), prepare=lambda c: c.verify(b"000000")),
    Scenario("change", "CHANGE REFERENCE DATA", const(PIN_CHANGE), prepare=lambda c: c.verify(b"000000")),
    Scenario("unblock", "RESET RETRY COUNTER", const(bytes([16]) + PUK + NEW)),
    Scenario(
        "unblock-blocked",
        "RESET RETRY COUNTER",
        const(bytes([16]) + PUK + NEW),
        prepare=lambda c: [c.verify(b"000000") for _ in range(3)],
    ),
    Scenario("reset", "FACTORY RESET", const(b""), prepare=lambda c: c.verify(PROFILE.pin)),
    Scenario("reset-blocked", "FACTORY RESET", const(b""), prepare=block_all),
    Scenario("reset-basic", "FACTORY RESET", const(b""), profile=host.BASIC_PROFILE),
]
WRONG = [
    Scenario("wrong-pin", "VERIFY", const(b"000000"), word=0x63C2),
    Scenario(
        "wrong-last-pin",
        "VERIFY",
        const(b"000000"),
        prepare=lambda c: [c.verify(b"000000") for _ in range(2)],
        word=0x6983,
    ),
    Scenario("wrong-old-pin", "CHANGE REFERENCE DATA", const(b"\x06" + b"000000" + NEW), word=0x63C2),
    Scenario("wrong-puk", "RESET RETRY COUNTER", const(b"\x10" + b"!" * 16 + NEW), word=0x63C2),
]
POINTS = [
    pytest.param(scenario, write, stage, id=f"{scenario.name}-{write}-{stage.name}")
    for scenario in SCENARIOS + WRONG
    for write in range(1, (1 if scenario in WRONG else contract.writes()[scenario.command]) + 1)
    for stage in WriteStage
]


def prepared(scenario: Scenario, path: Path) -> tuple[SimulatedCard, Host, Fault, bytes]:
    """A card just before the command; the same bytes in every run, as its generator is."""
    fault = Fault(path)
    SimulatedCard.create(path, random=stream("serial"))
    card = SimulatedCard(path, random=stream("card"), lock_timeout=0, fault=fault)
    slot = Host(card)
    assert slot.select()[1] == OK
    if scenario.profile:
        assert slot.install(scenario.profile) == OK
    scenario.prepare(slot)
    return card, slot, fault, scenario.data(slot)


def run_whole(scenario: Scenario, folder: Path) -> list[bytes]:
    """The file before the command and after each of its writes."""
    folder.mkdir()
    card, slot, fault, data = prepared(scenario, folder / "card")
    with card:
        fault.arm(None, CardTorn(""))
        assert slot.send(scenario.command, data)[1] == scenario.word
    return fault.files


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_writes_are_the_pages(scenario: Scenario, tmp_path: Path) -> None:
    assert len(run_whole(scenario, tmp_path / "whole")) == 1 + contract.writes()[scenario.command]


@pytest.mark.parametrize("scenario", WRONG, ids=lambda s: s.name)
def test_a_wrong_secret_writes_once(scenario: Scenario, tmp_path: Path) -> None:
    assert len(run_whole(scenario, tmp_path / "whole")) == 2


def usable(path: Path, profile: Profile | None) -> None:
    """Whatever happened, the card is a card: blank, blocked or signing with one of the two PINs."""
    with SimulatedCard(path, random=stream("again"), lock_timeout=0) as card:
        slot = Host(card)
        assert slot.select()[1] == OK
        state = slot.status()[0x81][0]
        if state == 1:
            assert slot.install(PROFILE) == OK
            assert slot.sign(PROFILE) == expected_keys(PROFILE)
            return
        profile = profile or (host.BASIC_PROFILE if slot.status()[0x82] == b"\1" else PROFILE)
        if profile.scheme == host.BASIC:
            assert slot.sign(profile) == expected_keys(profile)
            return
        left = slot.status()[0x85][0]
        if state == 4:
            assert left == 0
            if slot.status()[0x86][0]:
                assert slot.unblock(PUK, PROFILE.pin) == OK
                assert slot.sign(PROFILE) == expected_keys(PROFILE)
            return
        assert slot.verify(b"") == 0x63C0 | left
        pins = [pin for pin in (PROFILE.pin, NEW) if slot.verify(pin) == OK or slot.status()[0x85][0] == 0]
        assert len(pins) == 1, "exactly one of old and new PIN"
        if slot.status()[0x85][0]:
            signing = host.other(PROFILE, pins[0])
            assert slot.sign(signing) == expected_keys(PROFILE)
        # The PUK works in every case but where its own tries are gone.
        assert slot.unblock(PUK, PROFILE.pin) == OK
        assert slot.sign(PROFILE) == expected_keys(PROFILE)


@pytest.mark.parametrize(("scenario", "write", "stage"), POINTS)
def test_torn(scenario: Scenario, write: int, stage: WriteStage, tmp_path: Path) -> None:
    files = run_whole(scenario, tmp_path / "whole")
    path = tmp_path / "card"
    card, slot, fault, data = prepared(scenario, path)
    with card:
        fault.arm((write, stage), CardTorn("torn"))
        assert path.read_bytes() == files[0], "runs are not alike"
        with pytest.raises(CardTorn):
            slot.send(scenario.command, data)
        assert slot.send("GET STATUS") == (b"", 0x6D00), "power is gone, and the selection with it"
    # Before or after this write, to the byte.
    assert path.read_bytes() == files[write if stage is WriteStage.REPLACED else write - 1]
    usable(path, scenario.profile)
    assert not path.with_name("card.new").exists(), "what the torn write left is cleared away"


@pytest.mark.parametrize(("scenario", "write", "stage"), POINTS)
def test_memory_failure(scenario: Scenario, write: int, stage: WriteStage, tmp_path: Path) -> None:
    files = run_whole(scenario, tmp_path / "whole")
    path = tmp_path / "card"
    card, slot, fault, data = prepared(scenario, path)
    with card:
        fault.arm((write, stage), OSError(5, "Input/output error"))
        assert slot.send(scenario.command, data) == (b"", 0x6581)
        assert path.read_bytes() == files[write if stage is WriteStage.REPLACED else write - 1]
        image = memory.decode(path.read_bytes())
        if image.wiping:
            assert slot.send("GET STATUS") == slot.send("HASH MESSAGE") == (b"", 0x6985)
        elif image.personality and image.personality.pin:
            left = image.personality.pin.left
            assert slot.verify(b"") == (0x63C0 | left if left else 0x6983), "the verification is gone"
        elif image.personality is None:
            assert slot.send("INSTALL", data or b"\0")[1] == 0x6985, "the personalisation key is gone"
            assert slot.send("ISSUE", bytes(64))[1] == 0x6985, "and an origin key that waits"
    usable(path, scenario.profile)


@pytest.mark.parametrize("stage", list(WriteStage))
@pytest.mark.parametrize("first", [WriteStage.REPLACED, WriteStage.WRITTEN])
def test_factory_reset_is_finished_by_select_even_if_that_is_torn(
    first: WriteStage, stage: WriteStage, tmp_path: Path
) -> None:
    scenario = next(s for s in SCENARIOS if s.name == "reset")
    card, slot, fault, _ = prepared(scenario, tmp_path / "card")
    serial = slot.status()[0x87]
    with card:
        fault.arm((1 if first is WriteStage.REPLACED else 2, first), CardTorn("torn"))
        with pytest.raises(CardTorn):
            slot.send("FACTORY RESET")
        assert memory.decode(fault.path.read_bytes()).wiping
        for error in (CardTorn("torn"), OSError(5, "Input/output error")):
            fault.arm((1, stage), error)
            if isinstance(error, CardTorn):
                with pytest.raises(CardTorn):
                    slot.select()
            elif stage is not WriteStage.REPLACED:
                assert slot.select() == (b"", 0x6581)
            assert slot.send("GET STATUS") == (b"", 0x6D00), "not selected"
        fault.arm(None, CardTorn(""))
        assert slot.select()[1] == OK
        assert (slot.status()[0x81], slot.status()[0x87]) == (b"\1", serial)
        assert memory.decode(fault.path.read_bytes()) == memory.Image(serial)


@pytest.mark.parametrize("stage", list(WriteStage))
def test_tearing_never_gives_a_try_back(stage: WriteStage, tmp_path: Path) -> None:
    """A thief who pulls the card at this stage of every guess still runs out of tries, or learns nothing."""
    scenario = WRONG[0]
    card, slot, fault, data = prepared(scenario, tmp_path / "card")
    with card:
        left = 3
        for _ in range(4):
            fault.arm((1, stage), CardTorn("torn"))
            if left == 0:
                assert slot.send("VERIFY", data) == (b"", 0x6983)
                continue
            with pytest.raises(CardTorn):
                slot.send("VERIFY", data)
            # The comparison comes after the write, so a guess torn before it has told nothing.
            left -= stage is WriteStage.REPLACED
            assert slot.select()[1] == OK
            assert slot.status()[0x85] == bytes([left])


@pytest.mark.parametrize("stage", list(WriteStage))
def test_right_pin_torn_between_its_writes_costs_a_try(stage: WriteStage, tmp_path: Path) -> None:
    scenario = next(s for s in SCENARIOS if s.name == "verify")
    card, slot, fault, data = prepared(scenario, tmp_path / "card")
    with card:
        fault.arm((2, stage), CardTorn("torn"))
        with pytest.raises(CardTorn):
            slot.send("VERIFY", data)
        slot.select()
        assert slot.verify(b"") == (0x63C3 if stage is WriteStage.REPLACED else 0x63C2)


def test_commands_that_write_nothing(tmp_path: Path) -> None:
    scenario = next(s for s in SCENARIOS if s.name == "verify")
    card, slot, fault, _ = prepared(scenario, tmp_path / "card")
    with card:
        assert slot.chained("HASH MESSAGE", b"m") == OK
        assert slot.verify(PROFILE.pin) == OK
        fault.arm(None, CardTorn(""))
        assert slot.authorise(host.ECDSA_SHA256, host.default_values(PROFILE))[1] == OK
        assert slot.select()[1] == OK
        slot.status()
        assert slot.verify(b"") == 0x63C3
        assert slot.verify(b"bad") == 0x6A80
        assert slot.chained("LOAD DIGESTS", host.digest_list([bytes(32)])) == OK
        assert slot.send("FACTORY RESET")[1] == 0x6982
        assert fault.writes == 0
