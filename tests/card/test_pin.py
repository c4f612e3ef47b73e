"""Retry counters, PIN change, unblocking; what stays in memory."""

from __future__ import annotations

import hmac
from pathlib import Path

import pytest

from card_applet_sim import SimulatedCard, memory
from tests.support.card import host
from tests.support.card.host import (
    ECDSA_SHA256,
    OK,
    ON_CARD,
    ON_SERVER,
    PROFILES,
    SESSION,
    Host,
    Profile,
    expected_keys,
)

from .conftest import MakeCard

WITH_PIN = pytest.mark.parametrize("name", [name for name in PROFILES if name != "basic"])
NEW = b"736251"


def tries(card: Host) -> tuple[int, int | None]:
    """PIN and PUK tries left."""
    status = card.status()
    return status[0x85][0], status[0x86][0] if 0x86 in status else None


def surely_wrong(profile: Profile, card_file: Path) -> bytes:
    """A wrong PIN that PIN check 02 catches too: its POWF begins with another byte."""
    image = memory.decode(card_file.read_bytes())
    assert image.personality
    guard = image.personality.pin
    assert guard
    for number in range(20):
        pin = host.wrong_pin(profile, number)
        if host.sha256(b"hsm-signer/1/powf\x01", guard.check_salt, pin)[0] != guard.check[0]:
            return pin
    raise AssertionError("twenty PINs with one first byte")


@WITH_PIN
def test_verify_counts_down_and_back(name: str, make_card: MakeCard, card_path: Path) -> None:
    profile = PROFILES[name]
    card = make_card(profile)
    assert card.verify(b"") == 0x63C3
    assert card.verify(surely_wrong(profile, card_path)) == 0x63C2
    assert card.verify(surely_wrong(profile, card_path)) == 0x63C1
    assert card.verify(b"") == 0x63C1
    assert tries(card)[0] == 1
    assert card.verify(profile.pin) == OK
    assert card.verify(b"") == OK
    assert tries(card)[0] == 3


@WITH_PIN
def test_last_try_blocks(name: str, make_card: MakeCard, card_path: Path, card: SimulatedCard) -> None:
    profile = PROFILES[name]
    slot = make_card(profile)
    words = [slot.verify(surely_wrong(profile, card_path)) for _ in range(4)]
    assert words == [0x63C2, 0x63C1, 0x6983, 0x6983]
    assert slot.status()[0x81] == b"\x04"
    card.reset()
    slot.select()
    assert slot.verify(profile.pin) == slot.verify(b"") == 0x6983
    assert slot.send("HASH MESSAGE", b"m")[1] == 0x6985
    assert slot.send("LOAD DIGESTS", b"\0\1\x20" + bytes(32))[1] == 0x6985
    assert slot.authorise(ECDSA_SHA256, host.default_values(profile))[1] == 0x6985


@pytest.mark.parametrize("most", [1, 2, 15])
def test_tries_are_those_installed(most: int, make_card: MakeCard) -> None:
    card = make_card(Profile(pin_tries=most, puk_tries=16 - most))
    for left in reversed(range(1, most)):
        assert card.verify(b"000000") == 0x63C0 | left
    assert card.verify(b"000000") == 0x6983
    for left in reversed(range(1, 16 - most)):
        assert card.unblock(b"!" * 20, NEW) == 0x63C0 | left
    assert card.unblock(b"!" * 20, NEW) == 0x6983
    assert card.unblock(Profile().puk or b"", NEW) == 0x6983
    assert tries(card) == (0, 0)


@pytest.mark.parametrize("command", ["verify", "change", "unblock"])
def test_wrong_secret_clears_the_verification(command: str, make_card: MakeCard) -> None:
    card = make_card(Profile(policy=SESSION))
    assert card.verify(Profile().pin) == OK
    word = {
        "verify": lambda: card.verify(b"000000"),
        "change": lambda: card.change(b"000000", NEW),
        "unblock": lambda: card.unblock(b"!" * 16, NEW),
    }[command]()
    assert word == 0x63C2
    assert card.verify(b"") == (0x63C3 if command == "unblock" else 0x63C2)


@WITH_PIN
def test_change(name: str, make_card: MakeCard, card_path: Path) -> None:
    profile = PROFILES[name]
    card = make_card(profile)
    assert card.sign(profile) == expected_keys(profile)
    assert card.change(surely_wrong(profile, card_path), NEW) == 0x63C2
    assert card.verify(profile.pin) == OK
    assert card.change(profile.pin, NEW) == OK
    assert card.verify(b"") == 0x63C3, "CHANGE clears the verification and restores the tries"
    changed = host.other(profile, NEW)
    assert card.sign(changed) == expected_keys(profile), "the KEK is the same"
    assert card.verify(surely_wrong(changed, card_path)) == 0x63C2


def test_old_pin_is_void_after_change(make_card: MakeCard) -> None:
    card = make_card(Profile())
    assert card.change(Profile().pin, NEW) == OK
    assert card.verify(Profile().pin) == 0x63C2
    # To the same PIN is allowed, and to the shortest and longest.
    for old, new in ((NEW, NEW), (NEW, b"0" * 12), (b"0" * 12, b"0" * 6)):
        assert card.change(old, new) == OK
    assert card.sign(host.other(Profile(), b"0" * 6)) == expected_keys(Profile())


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("name", [name for name in PROFILES if name not in ("basic", "rolling-no-puk")])
def test_unblock(name: str, blocked: bool, make_card: MakeCard, card_path: Path) -> None:
    profile = PROFILES[name]
    assert profile.puk
    card = make_card(profile)
    if blocked:
        for _ in range(3):
            card.verify(surely_wrong(profile, card_path))
    else:
        assert card.verify(profile.pin) == OK
    assert card.unblock(b"!" * 16, NEW) == 0x63C2
    assert tries(card) == (0 if blocked else 3, 2)
    assert card.unblock(profile.puk, NEW) == OK
    assert tries(card) == (3, 3)
    assert card.status()[0x81] == b"\x03"
    assert card.verify(b"") == 0x63C3
    assert card.sign(host.other(profile, NEW)) == expected_keys(profile), "the KEK is the same"
    assert card.unblock(profile.puk, profile.pin) == OK, "the PUK is not used up"
    assert card.sign(profile) == expected_keys(profile)


def test_server_check_lets_one_wrong_pin_in_256_pass(make_card: MakeCard, card_path: Path) -> None:
    """A PIN with the right first byte of POWF verifies, and gives a wrong KEK."""
    profile = Profile(check=ON_SERVER)
    card = make_card(profile)
    image = memory.decode(card_path.read_bytes())
    assert image.personality
    guard = image.personality.pin
    assert guard
    assert len(guard.check) == 1
    slipping = next(
        pin
        for number in range(1_000_000)
        if (pin := f"{number:06}".encode()) != profile.pin
        and host.sha256(b"hsm-signer/1/powf\x01", guard.check_salt, pin)[:1] == guard.check
    )
    slipped = host.other(profile, slipping)
    keys = card.sign(slipped)
    assert keys != expected_keys(profile)
    # A PIN change on top of it spoils PKREV; the PUK mends it.
    assert card.change(slipping, NEW) == OK
    assert card.sign(host.other(profile, NEW)) == keys
    assert profile.puk
    assert card.unblock(profile.puk, NEW) == OK
    assert card.sign(host.other(profile, NEW)) == expected_keys(profile)


@pytest.mark.parametrize("check", [ON_CARD, ON_SERVER])
def test_puk_is_checked_in_full_under_both_checks(check: int, make_card: MakeCard, card_path: Path) -> None:
    make_card(Profile(check=check))
    image = memory.decode(card_path.read_bytes())
    assert image.personality
    assert image.personality.puk
    assert image.personality.pin
    assert len(image.personality.puk.check) == 32
    assert len(image.personality.pin.check) == (32 if check == ON_CARD else 1)


def guards(card_path: Path) -> tuple[memory.Guard, memory.Guard]:
    image = memory.decode(card_path.read_bytes())
    assert image.personality
    assert image.personality.pin
    assert image.personality.puk
    return image.personality.pin, image.personality.puk


def test_blinding_is_the_pages_formula(make_card: MakeCard, card_path: Path) -> None:
    make_card(Profile())
    for role, secret, guard in zip((1, 2), (Profile().pin, Profile().puk), guards(card_path), strict=True):
        assert secret
        mask = host.sha256(b"hsm-signer/1/blind", bytes([role]), Profile().credential_id, guard.salt, secret)
        assert bytes(a ^ b for a, b in zip(guard.blinded, mask, strict=True)) == Profile().kek
        assert guard.check == host.sha256(b"hsm-signer/1/powf", bytes([role]), guard.check_salt, secret)


def test_salts_are_fresh_at_every_change(make_card: MakeCard, card_path: Path) -> None:
    card = make_card(Profile())
    seen = []
    for number in range(4):
        pin, puk = guards(card_path)
        seen += [pin.salt, pin.check_salt]
        if not number:
            seen += [puk.salt, puk.check_salt]
        if number % 2:
            assert card.change(Profile().pin, Profile().pin) == OK
        else:
            assert card.unblock(Profile().puk or b"", Profile().pin) == OK
    assert len(set(seen)) == len(seen) == 10


@WITH_PIN
def test_memory_holds_no_secret_in_clear(name: str, make_card: MakeCard, card_path: Path) -> None:
    profile = PROFILES[name]
    card = make_card(profile)
    secrets = [profile.kek, profile.pin, profile.puk or profile.kek, NEW]

    def clean() -> bool:
        content = b"".join(path.read_bytes() for path in card_path.parent.iterdir())
        return not any(secret in content for secret in secrets)

    assert clean()
    assert card.chained("HASH MESSAGE", b"m") == OK
    assert card.verify(profile.pin) == OK
    assert clean()
    assert card.change(profile.pin, NEW) == OK
    assert card.verify(NEW) == OK
    assert clean()
    assert card.send("FACTORY RESET")[1] == OK
    assert profile.kcar not in card_path.read_bytes(), "FACTORY RESET leaves nothing"


def test_try_is_on_disk_before_the_comparison(
    make_card: MakeCard, card_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = make_card(Profile())
    seen: list[tuple[int, int]] = []

    def compare(a: bytes, b: bytes) -> bool:
        pin, puk = guards(card_path)
        seen.append((pin.left, puk.left))
        return hmac_compare(a, b)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr("card_applet_sim.applet.hmac.compare_digest", compare)
    assert card.verify(Profile().pin) == OK
    assert card.change(Profile().pin, NEW) == OK
    assert card.unblock(Profile().puk or b"", NEW) == OK
    assert seen == [(2, 3), (2, 3), (3, 2)]


def test_second_hash_between_verify_and_authorise(make_card: MakeCard) -> None:
    """Hash first, then PIN: one PIN entry is not spent on another message."""
    values = host.default_values(Profile())
    for second in (b"\0\1\x20" + bytes(32), None):
        card = make_card(None)
        if card.status()[0x81] == b"\x01":
            assert card.install(Profile()) == OK
        assert card.chained("HASH MESSAGE", b"what the user saw") == OK
        assert card.verify(Profile().pin) == OK
        if second:
            assert card.send("LOAD DIGESTS", second)[1] == OK
        else:
            assert card.send("HASH MESSAGE", b"something else")[1] == OK
        assert card.authorise(ECDSA_SHA256, values) == (b"", 0x6982)
    # The first block alone is enough.
    assert card.verify(Profile().pin) == OK
    assert card.send("HASH MESSAGE", b"", more=True)[1] == OK
    assert card.verify(b"") == 0x63C3


def test_nothing_shows_secrets_in_a_repr(make_card: MakeCard, card: SimulatedCard, card_path: Path) -> None:
    slot = make_card(Profile())
    assert slot.verify(Profile().pin) == OK
    image = memory.decode(card_path.read_bytes())
    applet = card._applet
    shown = [repr(thing) for thing in (card, applet, applet._transient, applet._memory, image)]
    secrets = (Profile().kek, Profile().kcar, Profile().pin)
    assert "verified=True" in shown[2]
    for text in shown:
        for secret in secrets:
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
