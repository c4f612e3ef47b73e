"""The memory file: what is found damaged, who may open it, with what permissions."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import stat
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from card_applet_sim import CardBusy, CardError, CardExists, CardMissing, MemoryDamaged, SimulatedCard, memory
from tests.support.card.host import (
    OK,
    PROFILES,
    Host,
    Profile,
    check_origin,
    expected_keys,
    parse,
    stream,
)

from .conftest import MakeCard

SIZE = 337
ALL = pytest.mark.parametrize("name", [*PROFILES, "blank"])


@pytest.fixture
def content(make_card: MakeCard, card: SimulatedCard, card_path: Path) -> bytes:
    """File of an enrolled card, which is closed again."""
    make_card(Profile())
    card.close()
    return card_path.read_bytes()


def sealed(body: bytes) -> bytes:
    """``body`` with a checksum that matches, as a clever corrupter would write it."""
    return body + hashlib.sha256(body).digest()


@ALL
def test_round_trip(name: str, make_card: MakeCard, card_path: Path) -> None:
    make_card(PROFILES.get(name))
    content = card_path.read_bytes()
    assert len(content) == SIZE, "the length tells nothing about the card"
    image = memory.decode(content)
    assert memory.encode(image) == content
    assert (image.personality is None) == (name == "blank")


def test_survives_closing(make_card: MakeCard, card: SimulatedCard, card_path: Path) -> None:
    make_card(Profile())
    card.close()
    with SimulatedCard(card_path, random=stream("later")) as again:
        slot = Host(again)
        assert slot.select()[1] == OK
        assert slot.sign(Profile()) == expected_keys(Profile())


@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_anywhere(bit: int, content: bytes, card_path: Path) -> None:
    for offset in range(SIZE):
        spoilt = bytearray(content)
        spoilt[offset] ^= 1 << bit
        with pytest.raises(MemoryDamaged):
            memory.decode(bytes(spoilt))
    card_path.write_bytes(bytes(spoilt))
    with pytest.raises(MemoryDamaged, match=f"^card memory {card_path} is damaged: checksum does not match$"):
        SimulatedCard(card_path)


def test_any_truncation(content: bytes, card_path: Path) -> None:
    for length in range(SIZE):
        with pytest.raises(MemoryDamaged):
            memory.decode(content[:length])
    nothing = "not a card memory"
    for length, why in ((0, nothing), (11, nothing), (100, "100 bytes instead of 337")):
        card_path.write_bytes(content[:length])
        with pytest.raises(MemoryDamaged, match=why):
            SimulatedCard(card_path)


@pytest.mark.parametrize("tail", [b"\0", b"\n", bytes(SIZE)])
def test_anything_appended(tail: bytes, content: bytes, card_path: Path) -> None:
    card_path.write_bytes(content + tail)
    with pytest.raises(MemoryDamaged):
        SimulatedCard(card_path)


def test_every_byte_that_contradicts_itself(content: bytes) -> None:
    """With a matching checksum: a value outside the codes is still refused, never repaired in silence."""
    body = content[:-32]
    accepted = set()
    for offset in range(len(body)):
        for value in (0, 1, 2, 3, 4, 16, 33, 0x80, 0xFF):
            if value == body[offset]:
                continue
            spoilt = sealed(body[:offset] + bytes([value]) + body[offset + 1 :])
            try:
                image = memory.decode(spoilt)
            except MemoryDamaged:
                continue
            accepted.add(offset)
            assert memory.encode(image) == spoilt
    refused = set(range(len(body))) - accepted
    # Magic, format and size; the basic scheme's key, which this card has not; the guards' flags and lengths.
    assert set(range(12)) <= refused
    assert set(range(12 + 29 + 32, 12 + 29 + 64)) <= refused


# Offsets in the file: header 12, flags 1, serial 8, codes 4, credential id 16, KCAR 32, KEY 32, two guards.
FLAGS, SCHEME, COMBINE, POLICY, CHECK, PIN_GUARD, PUK_GUARD = 12, 21, 22, 23, 24, 105, 205
PRESENT, LEFT, MOST, KEPT = 0, 1, 2, 51


@pytest.mark.parametrize(
    ("offset", "values"),
    [
        (FLAGS, (0, 1, 4, 6)),
        (SCHEME, (0, 1, 4)),
        (COMBINE, (0, 3)),
        (POLICY, (0, 3)),
        (CHECK, (0, 2, 3)),
        (PIN_GUARD + PRESENT, (0, 2)),
        (PIN_GUARD + LEFT, (4, 255)),
        (PIN_GUARD + MOST, (0, 2, 16)),
        (PIN_GUARD + KEPT, (0, 1, 31, 33)),
        (PUK_GUARD + PRESENT, (0, 2)),
        (PUK_GUARD + LEFT, (4,)),
        (PUK_GUARD + MOST, (0, 16)),
        (PUK_GUARD + KEPT, (0, 1, 33)),
    ],
)
def test_values_that_no_card_writes(offset: int, values: tuple[int, ...], content: bytes) -> None:
    for value in values:
        spoilt = sealed(content[:offset] + bytes([value]) + content[offset + 1 : -32])
        with pytest.raises(MemoryDamaged, match=r"^contradicts itself$"):
            memory.decode(spoilt)


@pytest.mark.parametrize("kept", [1, 32])
@pytest.mark.parametrize("guard", [PIN_GUARD, PUK_GUARD])
def test_a_shortened_check_is_refused(guard: int, kept: int, content: bytes) -> None:
    """Fewer bytes of POWF, and everything else as if they had never been more: the check got weaker."""
    spoilt = bytearray(content[:-32])
    spoilt[guard + KEPT] = kept
    spoilt[guard + KEPT + 1 + kept : guard + KEPT + 33] = bytes(32 - kept)
    if kept == 32:
        assert memory.decode(sealed(bytes(spoilt)))
    else:
        with pytest.raises(MemoryDamaged, match=r"^contradicts itself$"):
            memory.decode(sealed(bytes(spoilt)))


def test_the_memory_of_an_issued_card(make_card: MakeCard, card: SimulatedCard, card_path: Path) -> None:
    """Only of an issued card is the format another one; every flipped bit and every length is damage."""
    blank = card_path.read_bytes()
    assert blank[8:12] == b"\x00\x01" + SIZE.to_bytes(2)
    slot = make_card(None)
    assert slot.issue() == OK
    content = card_path.read_bytes()
    assert content[8:12] == b"\x00\x02" + len(content).to_bytes(2)
    assert len(content) == SIZE + 32 + 97
    assert content[12:305] == blank[12:305]
    image = memory.decode(content)
    assert image.origin
    assert memory.encode(image) == content
    for offset in range(len(content)):
        with pytest.raises(MemoryDamaged):
            memory.decode(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
        with pytest.raises(MemoryDamaged):
            memory.decode(content[:offset])
    # With a checksum that matches: another key, no key at all, another point.
    for offset, other in ((305, bytes(32)), (305, b"\xff" * 32), (305, bytes(31) + b"\1"), (337, b"\4")):
        body = bytearray(content[:-32])
        body[offset : offset + len(other)] = other
        with pytest.raises(MemoryDamaged, match=r"^contradicts itself$"):
            memory.decode(sealed(bytes(body)))
    card.close()
    with SimulatedCard(card_path, random=stream("later")) as again:
        slot = Host(again)
        assert slot.select()[1] == OK
        answer = parse(slot.send("BEGIN PERSONALISATION")[0])
        check_origin(answer)
        assert answer[0x8B] == image.origin.certificate
        assert image.origin.scalar not in b"".join(answer.values())
        assert slot.install(Profile()) == OK
        assert slot.sign(Profile()) == expected_keys(Profile())
        assert slot.verify(Profile().pin) == OK
        assert slot.send("FACTORY RESET")[1] == OK
    assert card_path.read_bytes() == content


def test_newer_format_says_so(content: bytes, card_path: Path) -> None:
    newer = content[:8] + b"\x00\x03" + content[10:-32]
    card_path.write_bytes(sealed(newer))
    with pytest.raises(MemoryDamaged, match="format 3 is newer than this program knows"):
        SimulatedCard(card_path)
    # The same without a checksum is only a damaged file.
    card_path.write_bytes(newer + bytes(32))
    with pytest.raises(MemoryDamaged, match="checksum"):
        SimulatedCard(card_path)


def test_damaged_card_is_not_left_locked(content: bytes, card_path: Path) -> None:
    card_path.write_bytes(bytes(SIZE))
    with pytest.raises(MemoryDamaged):
        SimulatedCard(card_path, lock_timeout=0)
    card_path.write_bytes(content)
    SimulatedCard(card_path, lock_timeout=0).close()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CardMissing, match="there is no card memory at"):
        SimulatedCard(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_folder_is_no_card(tmp_path: Path) -> None:
    with pytest.raises(MemoryDamaged, match="is not a file"):
        SimulatedCard(tmp_path)


def test_create_never_overwrites(card_path: Path, tmp_path: Path) -> None:
    before = card_path.read_bytes()
    with pytest.raises(CardExists):
        SimulatedCard.create(card_path)
    assert card_path.read_bytes() == before
    with pytest.raises(CardExists):
        SimulatedCard.create(tmp_path)
    with pytest.raises(CardError, match="does not exist"):
        SimulatedCard.create(tmp_path / "no" / "card")


def test_create_follows_no_dangling_link_into_nowhere(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CardError):
        SimulatedCard.create(tmp_path / "loop")


def test_link_to_a_card_stays_a_link(make_card: MakeCard, card: SimulatedCard, card_path: Path) -> None:
    card.close()
    link = card_path.with_name("link")
    link.symlink_to(card_path)
    with SimulatedCard(link, random=stream("link")) as linked:
        slot = Host(linked)
        slot.select()
        assert slot.install(Profile()) == OK
        with pytest.raises(CardBusy):
            SimulatedCard(card_path, lock_timeout=0)
    assert link.is_symlink()
    assert memory.decode(card_path.read_bytes()).personality


def test_serials_differ(tmp_path: Path) -> None:
    for name in "ab":
        SimulatedCard.create(tmp_path / name)
    serials = {memory.decode((tmp_path / name).read_bytes()).serial for name in "ab"}
    assert len(serials) == 2


def test_permissions(card_path: Path, make_card: MakeCard) -> None:
    old = os.umask(0)
    try:
        make_card(Profile())
    finally:
        os.umask(old)
    for path in card_path.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_second_opener_waits_and_gives_up(card: SimulatedCard, card_path: Path) -> None:
    with pytest.raises(CardBusy, match="is in use by another program"):
        SimulatedCard(card_path, lock_timeout=0)
    with pytest.raises(CardBusy):
        SimulatedCard(card_path, lock_timeout=0.05)
    card.close()
    SimulatedCard(card_path, lock_timeout=0).close()


def test_lock_survives_a_write(make_card: MakeCard, card_path: Path) -> None:
    """The file is another one after a write; the lock is not on it."""
    inode = card_path.stat().st_ino
    make_card(Profile())
    assert card_path.stat().st_ino != inode
    with pytest.raises(CardBusy):
        SimulatedCard(card_path, lock_timeout=0)


def hold(path: Path, pipe: Connection) -> None:
    """In another process: hold the card until told."""
    with SimulatedCard(path):
        pipe.send("held")
        pipe.recv()


def test_lock_between_processes(card_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(card_path, there))
    process.start()
    try:
        assert here.poll(30)
        assert here.recv() == "held"
        with pytest.raises(CardBusy):
            SimulatedCard(card_path, lock_timeout=0)
        here.send("done")
        # The waiting opener gets it as soon as the other lets go.
        SimulatedCard(card_path, lock_timeout=30).close()
    finally:
        process.join(30)
        process.close()
        here.close()
        there.close()


def test_lock_dies_with_its_process(card_path: Path) -> None:
    code = (
        "import os, sys; from card_applet_sim import SimulatedCard; "
        "card = SimulatedCard(sys.argv[1]); os.kill(os.getpid(), 9)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, card_path], check=False, cwd=root)
    assert done.returncode == -9
    SimulatedCard(card_path, lock_timeout=0).close()


def test_closed_card(card: SimulatedCard) -> None:
    card.close()
    card.close()
    with pytest.raises(CardError, match="removed"):
        card.transmit(b"\x80\xca\x00\x00")


def test_write_that_cannot_be_made(make_card: MakeCard, card_path: Path) -> None:
    """The folder goes away under the card: 6581, not an exception."""
    slot = make_card(Profile())
    elsewhere = card_path.parent.with_name("elsewhere")
    card_path.parent.rename(elsewhere)
    assert slot.verify(Profile().pin) == 0x6581
    assert slot.verify(b"") == 0x63C3
    elsewhere.rename(card_path.parent)
    assert slot.verify(Profile().pin) == OK


def test_replacing_that_fails(make_card: MakeCard, card_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new image lies beside the old one and cannot take its place: the card goes on with the old."""
    slot = make_card(Profile())

    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert slot.verify(b"000000") == 0x6581
    assert slot.status()[0x85] == b"\3"
    assert slot.verify(b"000000") == 0x63C2


def test_a_write_is_on_disk_before_and_after_it_takes_its_place(
    make_card: MakeCard, card_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = make_card(Profile())
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        events.append("folder" if folder else f"file of {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        events.append("replace")
        assert (self.parent, target) == (card_path.parent, card_path)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", spy_fsync)
        patch.setattr(Path, "replace", spy_replace)
        assert slot.verify(b"000000") == 0x63C2
    assert events == [f"file of {SIZE}", "replace", "folder"]


def test_atr(card: SimulatedCard, card_path: Path) -> None:
    atr = card.atr
    assert atr[0] == 0x3B
    history = atr[1] & 0x0F
    assert atr[1] >> 4 == 0x8
    assert atr[2:4] == b"\x80\x01"
    assert len(atr) == 4 + history + 1
    check = 0
    for byte in atr[1:]:
        check ^= byte
    assert check == 0, "TCK"
    assert atr[4] == 0x80
    # Compact TLVs fill the historical bytes.
    rest = atr[5:-1]
    tags = []
    while rest:
        tags.append(rest[0] >> 4)
        rest = rest[1 + (rest[0] & 0x0F) :]
    assert tags == [7, 5]
    card.close()
    with SimulatedCard(card_path, extended_length=False) as short:
        assert short.atr != atr


def test_importing_the_simulator_is_light() -> None:
    code = "import sys, card_applet_sim; print([n for n in ('click', 'hsm_signer') if n in sys.modules])"
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout == "[]\n"
