"""PIN and PUK: what is accepted, and that the value leaves by reveal() alone."""

from __future__ import annotations

import copy
import os
import pickle
import traceback
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsm_signer.card.pins import PUK_ALPHABET, CardPin, CardPuk, generate_pin, generate_puk
from hsm_signer.errors import PinMalformed, SignerError

SOURCE = "file pin.txt"


@pytest.mark.parametrize("text", ["123456", "000000", "123456789012"])
def test_pin_of_6_to_12_digits(text: str) -> None:
    pin = CardPin(text, source=SOURCE)
    assert pin.reveal() == text.encode()
    assert pin.source == SOURCE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "found nothing"),
        ("12345", "found fewer"),
        ("1234567890123", "found more"),
        ("12345a", "found a letter"),
        ("123456\n", "found a tab, a line end or a space of another kind"),
        (" 123456", "found a space"),
        ("-123456", "found a sign"),
        ("١٢٣٤٥٦", "found a digit of another script"),  # digits, but not ASCII
        ("１２３４５６", "found a digit of another script"),  # noqa: RUF001
        ("\ufeff123456", "found a byte order mark (BOM): save the file as UTF-8 without one"),
        ("12345é", "found a letter outside ASCII"),
        ("123456\udc80", "found a control character or a byte that is no text"),
    ],
)
def test_malformed_pin_is_named_by_its_source_and_not_shown(text: str, why: str) -> None:
    with pytest.raises(PinMalformed) as caught:
        CardPin(text, source=SOURCE)
    assert str(caught.value) == f"PIN (file pin.txt): expected 6 to 12 digits 0-9, {why}"
    _assert_hidden(caught.value, text.strip())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("abcd-efgh-jklm-npqr-stuv-wxyz", b"ABCDEFGHJKLMNPQRSTUVWXYZ"),
        ("ABCD EFGH JKLM NPQR STUV WXYZ", b"ABCDEFGHJKLMNPQRSTUVWXYZ"),
        ("ABCDefghJKLMNPQRSTUVWXYZ", b"ABCDEFGHJKLMNPQRSTUVWXYZ"),
        ("0123456789abcdef", b"0123456789abcdef"),  # another issuer's: taken as it stands
        ("abcdefghjklmnpqrstuvwxy1", b"abcdefghjklmnpqrstuvwxy1"),  # 1 is no letter of ours
        ("!" * 32, b"!" * 32),
        ("~" * 16, b"~" * 16),
    ],
)
def test_puk_without_separators(text: str, value: bytes) -> None:
    assert CardPuk(text, source="prompt").reveal() == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "found nothing"),
        ("- - -", "found nothing"),
        ("A" * 15, "found fewer"),
        ("A-" * 15, "found fewer"),
        ("A" * 33, "found more"),
        ("A" * 16 + "\n", "found a tab, a line end or a space of another kind"),
        ("Ä" * 20, "found a letter outside ASCII"),
        ("ſ" * 24, "found a letter outside ASCII"),  # noqa: RUF001 - its upper case is an ASCII S
        ("A" * 20 + "\x7f", "found a control character or a byte that is no text"),
    ],
)
def test_malformed_puk(text: str, why: str) -> None:
    with pytest.raises(PinMalformed) as caught:
        CardPuk(text, source="HSM_SIGNER_CARD_PUK")
    assert str(caught.value).startswith("PUK (HSM_SIGNER_CARD_PUK): expected 16 to 32 ")
    assert str(caught.value).endswith(why)
    if text.strip("- "):
        _assert_hidden(caught.value, text.strip())


@pytest.mark.parametrize(
    "secret", [CardPin("827364", source=SOURCE), CardPuk("ZYXW-VUTS-RQPN-MLKJ", source=SOURCE)]
)
def test_a_secret_shows_nowhere(secret: CardPin | CardPuk) -> None:
    value = secret.reveal().decode()
    assert repr(secret) == f"<{type(secret).__name__} from {SOURCE}>"
    for shown in (str(secret), f"{secret}", f"{secret!r}", repr([secret]), repr({"pin": secret})):
        assert value not in shown
    assert not hasattr(secret, "__dict__")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError) as caught:
            pickle.dumps(secret, protocol)
        _assert_hidden(caught.value, value)
    for duplicate in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            duplicate(secret)
    with pytest.raises(TypeError):
        hash(secret)


def test_secrets_compare_by_value_and_kind() -> None:
    assert CardPin("827364", source="a") == CardPin("827364", source="b")
    assert CardPin("827364", source="a") != CardPin("827365", source="a")
    digits = "8273648273648273"
    assert CardPin(digits[:12], source="a") != CardPuk(digits, source="a")
    assert CardPin("827364", source="a") != b"827364"


@given(st.text())
def test_any_text_is_a_secret_or_malformed(text: str) -> None:
    for kind in (CardPin, CardPuk):
        try:
            value = kind(text, source="x").reveal()
        except PinMalformed:
            continue
        assert value.isascii()
        assert len(value) in (range(6, 13) if kind is CardPin else range(16, 33))


@pytest.mark.parametrize("digits", range(6, 13))
def test_generated_pin(digits: int) -> None:
    pin = generate_pin(os.urandom, digits)
    assert len(pin.reveal()) == digits
    assert pin.reveal().isdigit()
    assert pin.source == "generated"


@pytest.mark.parametrize("digits", [0, 5, 13])
def test_generated_pin_of_another_length(digits: int) -> None:
    with pytest.raises(ValueError, match="6 to 12"):
        generate_pin(os.urandom, digits)


@pytest.mark.parametrize(
    "trivial", ["000000", "123456", "654321", "890123", "210987", "024680", "121212", "123123"]
)
def test_a_trivial_draw_is_drawn_again(trivial: str) -> None:
    draws = iter([trivial, "827364"])
    pin = generate_pin(lambda n: bytes(int(c) for c in next(draws)))
    assert pin.reveal() == b"827364"


def test_bytes_from_250_are_dropped_for_they_would_favour_small_digits() -> None:
    draws = iter([bytes(range(250, 256)), bytes([248, 2, 17, 255, 23, 6]), bytes([234, 9, 9, 9, 9, 9])])
    assert generate_pin(lambda n: next(draws)).reveal() == b"827364"


def test_generated_digits_are_even() -> None:
    counts = Counter(b"".join(generate_pin().reveal() for _ in range(3000)))
    # 18000 digits, 1800 each expected; ten sigma either side.
    assert all(1400 < counts[ord(c)] < 2200 for c in "0123456789")


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_a_stuck_generator_is_noticed(byte: int) -> None:
    with pytest.raises(RuntimeError):
        generate_pin(lambda n: bytes([byte]) * n)


def test_generated_puk() -> None:
    puk = generate_puk(lambda n: bytes(range(n)))
    assert puk.reveal() == PUK_ALPHABET[:24].encode()
    assert puk.grouped() == "ABCD-EFGH-JKLM-NPQR-STUV-WXYZ"
    assert CardPuk(puk.grouped().lower(), source="paper") == puk
    assert len(PUK_ALPHABET) == len(set(PUK_ALPHABET)) == 32
    assert not set("IO01") & set(PUK_ALPHABET)
    assert generate_puk() != generate_puk()


def test_all_256_bytes_give_every_letter_equally_often() -> None:
    letters: Counter[int] = Counter()
    for start in range(0, 256, 8):
        # 24 random bytes: eight of interest, sixteen of nought.
        puk = generate_puk(lambda n, start=start: bytes(range(start, start + 8)) + bytes(n - 8))  # type: ignore[misc]
        letters.update(puk.reveal()[:8])
    assert set(letters.values()) == {8}


def _assert_hidden(error: BaseException, value: str) -> None:
    told = "".join(traceback.format_exception(error)) if not isinstance(error, SignerError) else str(error)
    assert not value or value not in told
    assert not value or value not in repr(error)
    assert error.__cause__ is None
