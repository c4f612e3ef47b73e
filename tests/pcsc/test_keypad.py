"""Keypad readers (PC/SC part 10): the structures byte by byte, and a reader written here that obeys them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from card_applet_sim import SimulatedCard
from hsm_signer.card import address, keypad, pcsc
from hsm_signer.card.commands import CardSession, authorise_content
from hsm_signer.card.keypad import (
    FEATURE_GET_TLV_PROPERTIES,
    FEATURE_MODIFY_PIN_DIRECT,
    FEATURE_VERIFY_PIN_DIRECT,
    Keypad,
    ReaderKeypad,
    max_apdu_data_size,
    parse_features,
    pin_modify,
    pin_verify,
)
from hsm_signer.cli.context import App
from hsm_signer.cli.main import main
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import (
    CardAnswerMalformed,
    CardPinBlocked,
    CardPinWrong,
    InputError,
    PinMalformed,
    PinMissing,
    SignerError,
)
from hsm_signer.testing import PIN, Home
from hsm_signer.types import Algorithm, Challenge, CredentialId, Message, RollingValue, Scheme, SpkiDer
from tests.support.card.host import OK, Host, Profile, expected_keys, open_answer, sha256

PROFILE = Profile()
FEATURES = bytes.fromhex("0604420000DB 0704420000DC".replace(" ", ""))


class FakeReader:
    """A reader whose keypad somebody types at: builds the APDU as the structure says, sends it to the card.

    Written from PC/SC part 10's fields, not from hsm_signer's code. ``typed``: what is typed, PIN by PIN.
    """

    def __init__(self, card: SimulatedCard, features: bytes = FEATURES) -> None:
        self.card = card
        self.features = features
        self.typed: list[str] = []
        self.answer: bytes | None = None
        """Instead of what it would say."""

    def control(self, code: int, data: bytes) -> bytes:
        if self.answer is not None:
            return self.answer
        if code == 0x420000DB:
            return self._verify(data)
        assert code == 0x420000DC
        return self._modify(data)

    def _read(self, shortest: int, longest: int) -> str | None:
        pin = self.typed.pop(0)
        return pin if shortest <= len(pin) <= longest else None

    def _verify(self, data: bytes) -> bytes:
        head, apdu = data[:19], data[19:]
        timeout, timeout2, form, block, length_form, digits, condition, number, language, index = (
            struct.unpack("<BBBBBHBBHB", head[:12])
        )
        assert head[12:15] == bytes(3)
        assert struct.unpack("<I", head[15:]) == (len(apdu),)
        assert (timeout, timeout2) == (30, 30)
        assert form & 0x83 == 0x82, "ASCII, positions in bytes"
        assert (form >> 3) & 0x0F == 0, "at the very beginning of the data"
        assert form & 0x04 == 0, "left justified"
        assert (block, length_form) == (0, 0), "neither padded nor with its length"
        assert condition == 2, "ended by the confirmation key"
        assert (number, language, index) == (0xFF, 0x0409, 0)
        if not self.typed:
            return b"\x64\x00"
        pin = self._read(digits >> 8, digits & 0xFF)
        if pin is None:
            return b"\x64\x03"
        assert len(apdu) == 4, "the header alone: the reader sets Lc"
        return self.card.transmit(apdu + bytes([len(pin)]) + pin.encode())

    def _modify(self, data: bytes) -> bytes:
        head, apdu = data[:24], bytearray(data[24:])
        fields = struct.unpack("<BBBBBBBHBBBHBBB", head[:17])
        form, block, length_form, old, new, digits, confirm, condition, number, language = fields[2:12]
        assert fields[12:] == (0, 1, 2)
        assert head[17:20] == bytes(3)
        assert struct.unpack("<I", head[20:]) == (len(apdu),)
        assert (form, length_form, condition, number, language) == (0x82, 0, 2, 3, 0x0409)
        assert confirm == 0x03, "asks for the old PIN, and for the new one twice"
        if not self.typed:
            return b"\x64\x01"
        pins = [self._read(digits >> 8, digits & 0xFF) for _ in range(3)]
        if None in pins:
            return b"\x64\x03"
        if pins[1] != pins[2]:
            return b"\x64\x02"
        for offset, pin in ((old, pins[0]), (new, pins[1])):
            assert pin
            assert len(pin) == block & 0x0F
            place = slice(5 + offset, 5 + offset + len(pin))
            assert apdu[place] == b"\xff" * len(pin), "room for it"
            apdu[place] = pin.encode()
        assert apdu[4] == len(apdu) - 5
        return self.card.transmit(bytes(apdu))


class KeypadReader:
    """A connection to the card in a FakeReader."""

    def __init__(self, reader: FakeReader) -> None:
        self.reader = reader

    def transmit(self, apdu: bytes) -> bytes:
        return self.reader.card.transmit(apdu)

    def close(self) -> None:
        """Nothing to give back."""

    def find_keypad(self) -> Keypad | None:
        return ReaderKeypad(self.reader.control, parse_features(self.reader.features))


@pytest.fixture
def fake(card: SimulatedCard) -> FakeReader:
    """A reader with an enrolled card."""
    host = Host(card)
    host.select()
    assert host.install(PROFILE) == OK
    return FakeReader(card)


@pytest.fixture
def session(fake: FakeReader) -> CardSession:
    return CardSession(KeypadReader(fake))


def test_pin_verify_structure() -> None:
    expected = "1E 1E 82 00 00 0C06 02 FF 0904 00 000000 04000000 00200081"
    assert pin_verify() == bytes.fromhex(expected.replace(" ", ""))


def test_pin_modify_structure() -> None:
    data = "08" + "FF" * 16
    expected = f"1E 1E 82 08 00 01 09 0808 03 02 03 0904 00 01 02 000000 16000000 00240081 11 {data}"
    assert pin_modify(8) == bytes.fromhex(expected.replace(" ", ""))
    for digits in (5, 13):
        with pytest.raises(PinMalformed):
            pin_modify(digits)


def test_verify(fake: FakeReader, session: CardSession) -> None:
    fake.typed = ["271828"]
    with pytest.raises(CardPinWrong) as error:
        session.verify_pin_at_keypad()
    assert error.value.tries_left == 2
    fake.typed = [PROFILE.pin.decode()]
    session.verify_pin_at_keypad()
    assert session.pin_state().verified


def test_the_last_try_blocks(fake: FakeReader, session: CardSession) -> None:
    for expected in (CardPinWrong, CardPinWrong, CardPinBlocked, CardPinBlocked):
        fake.typed = ["2718281828"]
        with pytest.raises(expected):
            session.verify_pin_at_keypad()


@pytest.mark.parametrize("digits", [6, 8, 12])
def test_change(fake: FakeReader, session: CardSession, digits: int) -> None:
    old = PROFILE.pin.decode()
    if digits != 6:
        assert Host(fake.card).change(PROFILE.pin, b"4" * digits) == OK
        old = "4" * digits
    new = "5" * digits
    fake.typed = [old, new, new]
    session.change_pin_at_keypad(digits)
    assert Host(fake.card).verify(new.encode()) == OK
    fake.typed = [old, old, old]
    with pytest.raises(CardPinWrong):
        session.change_pin_at_keypad(digits)


READERS: dict[str, tuple[list[str], type[SignerError], str]] = {
    "nobody types": ([], PinMissing, "PIN entry was cancelled"),
    "not alike": (["194738", "555555", "555556"], PinMalformed, "typed differently"),
    "other lengths": (["1947380", "555555", "555555"], PinMalformed, "PIN of 6 digits"),
}


@pytest.mark.parametrize("name", READERS)
def test_what_the_reader_says(name: str, fake: FakeReader, session: CardSession) -> None:
    fake.typed, error, words = READERS[name]
    with pytest.raises(error, match=words):
        session.change_pin_at_keypad(6)
    assert session.status().pin_tries == 3, "no try was used"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"\x64\x00", PinMissing),
        (b"\x64\x01", PinMissing),
        (b"\x6b\x80", InputError),
        (b"\x90", CardAnswerMalformed),
        (b"", CardAnswerMalformed),
        (b"\x90\x00\x00", CardAnswerMalformed),
        (b"\x67\x00", SignerError),
    ],
)
def test_answers_of_readers(
    answer: bytes, error: type[SignerError], fake: FakeReader, session: CardSession
) -> None:
    fake.answer = answer
    with pytest.raises(error):
        session.verify_pin_at_keypad()


def test_a_blank_card_and_one_without_pin(card: SimulatedCard) -> None:
    from hsm_signer.errors import CardBlank

    fake = FakeReader(card)
    fake.typed = ["194738"]
    session = CardSession(KeypadReader(fake))
    session.select()
    with pytest.raises(CardBlank):
        session.verify_pin_at_keypad()


def test_a_reader_that_verifies_only(fake: FakeReader, session: CardSession) -> None:
    fake.features = FEATURES[:6]
    assert session.keypad is not None
    assert not session.keypad.can_change
    with pytest.raises(PinMissing, match="does not offer this"):
        session.change_pin_at_keypad(6)


def test_no_keypad(card: SimulatedCard, tmp_path: Path) -> None:
    from hsm_signer.card.simulated import SimulatedConnection, create_simulated

    create_simulated(tmp_path / "another")
    connection = SimulatedConnection(tmp_path / "another")
    session = CardSession(connection)
    assert session.keypad is None
    with pytest.raises(PinMissing, match="no keypad"):
        session.verify_pin_at_keypad()
    connection.close()


def test_a_signature_with_the_pin_at_the_keypad(fake: FakeReader, session: CardSession) -> None:
    """No PIN is given to this program, and none is missing: hash, then the keypad, then AUTHORISE."""
    values = tuple(RollingValue(sha256(bytes([i]))) for i in range(2))
    challenge = Challenge(
        CredentialId(PROFILE.credential_id), Scheme.ROLLING, 1, values, tuple(Algorithm), SpkiDer(b"")
    )
    fake.typed = [PROFILE.pin.decode()]
    message = Message(BytesSource(b"m"))
    done = authorise_content(session, challenge, message, Algorithm.ECDSA_SHA256, None)
    answer = done.nonce + b"".join(done.quantities)
    opened = open_answer(PROFILE, answer, Algorithm.ECDSA_SHA256.number, 1, sha256(b"m"), values)
    assert opened == expected_keys(PROFILE, values)


# --- at the command line -------------------------------------------------------------------------------


@pytest.fixture
def pad(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeReader]:
    """Addresses ``pad:``: alice's card in a reader with a keypad."""
    with SimulatedCard(home["alice"].card_path, lock_timeout=0) as card:
        reader = FakeReader(card)
        kind = address._Kind("pad:", lambda *_: KeypadReader(reader), None, may_be_bare=True)
        monkeypatch.setattr(address, "_KINDS", {"pad": kind})
        yield reader


def run(home: Home, *arguments: str, pin: str | None = None) -> Result:
    runner = CliRunner(env={"HSM_SIGNER_HOME": str(home.path), "HSM_SIGNER_CARD_PIN": pin})
    return runner.invoke(main, arguments, obj=App(), standalone_mode=False)


def test_commands_leave_the_pin_to_the_keypad(home: Home, pad: FakeReader, tmp_path: Path) -> None:
    document = tmp_path / "document"
    document.write_bytes(b"a contract")
    pad.typed = [PIN]
    done = run(home, "sign", str(document), "--card", "pad:")
    assert done.exception is None, done.exception
    assert "type it there" in done.stderr
    assert (tmp_path / "document.sig").exists()
    new = "864209"
    pad.typed = [PIN, new, new]
    assert run(home, "pin", "change", "--card", "pad:").exception is None
    # A PIN that was given is used; the keypad is for those who give none.
    assert run(home, "sign", "-f", str(document), "--card", "pad:", pin=new).exception is None
    assert isinstance(run(home, "sign", "-f", str(document), "--card", "pad:").exception, PinMissing)
    pad.typed = [new]
    assert run(home, "card", "reset", "pad:", "--yes").exception is None
    assert pad.typed == []


def test_pin_change_with_another_number_of_digits(home: Home, pad: FakeReader) -> None:
    pad.typed = [PIN, "86420975", "86420975"]
    failed = run(home, "pin", "change", "--card", "pad:", "--digits", "8")
    assert isinstance(failed.exception, PinMalformed)
    assert pad.card.transmit(bytes.fromhex("00200081"))[-2:] == b"\x63\xc3"


# --- what a reader says of itself ----------------------------------------------------------------------


def test_features() -> None:
    assert parse_features(b"") == {}
    assert parse_features(FEATURES) == {
        FEATURE_VERIFY_PIN_DIRECT: 0x420000DB,
        FEATURE_MODIFY_PIN_DIRECT: 0x420000DC,
    }
    for bad in (b"\x06", FEATURES[:-1], b"\x06\x03" + bytes(4), FEATURES + b"\x07\x04"):
        with pytest.raises(CardAnswerMalformed):
            parse_features(bad)


def test_max_apdu_data_size() -> None:
    assert max_apdu_data_size(bytes.fromhex("0A0400000100")) == 0x10000
    assert max_apdu_data_size(bytes.fromhex("0102FFFF0A0400000000")) == 0
    for nothing in ("", "0A", "0A04000001", "0A0200FF", "01FF0A04", "0B020000"):
        assert max_apdu_data_size(bytes.fromhex(nothing)) is None


class FakeService:
    """The part of the service's context that asks the reader."""

    def __init__(self, answers: dict[int, bytes | Exception]) -> None:
        self._answers = answers
        self.lost = False
        self.scard = pcsc._pyscard()

    def feature_request(self) -> int:
        return 1

    def control(self, code: int, data: bytes, seconds: float) -> bytes:
        answer = self._answers.get(code, pcsc._Refused(0x8010001F))
        if isinstance(answer, Exception):
            raise answer
        return answer


EXTENDED_ATR = bytes.fromhex("3B89800180738021C05353474E93")


@pytest.fixture
def connection() -> Callable[[dict[int, bytes | Exception]], pcsc.PcscConnection]:
    """A connection over a FakeService."""

    def make(answers: dict[int, bytes | Exception]) -> pcsc.PcscConnection:
        made = pcsc.PcscConnection.__new__(pcsc.PcscConnection)
        made.reader, made._closed, made.atr = "Fake", False, EXTENDED_ATR
        made._service = FakeService(answers)  # type: ignore[assignment]
        made._protocol = made._service.scard.SCARD_PROTOCOL_T1
        return made

    return make


Make = Callable[[dict[int, bytes | Exception]], pcsc.PcscConnection]


def test_the_keypad_is_found_where_the_reader_has_one(connection: Make) -> None:
    found = connection({1: FEATURES, 0x420000DB: b"\x90\x00"}).find_keypad()
    assert found is not None
    assert found.can_change
    assert found.verify() == b"\x90\x00"
    assert connection({1: FEATURES[6:]}).find_keypad() is None, "MODIFY alone is not enough"
    assert connection({1: b"nonsense"}).find_keypad() is None
    assert connection({}).find_keypad() is None, "most readers know no such request"


def test_extended_length_as_the_reader_says(connection: Make) -> None:
    tlv = bytes([FEATURE_GET_TLV_PROPERTIES, 4, 0, 0, 0, 9])
    assert connection({}).takes_extended_length()
    assert connection({1: tlv, 9: bytes.fromhex("0A0400000100")}).takes_extended_length()
    assert not connection({1: tlv, 9: bytes.fromhex("0A0400000000")}).takes_extended_length()
    assert connection({1: tlv, 9: b""}).takes_extended_length(), "a reader that does not say"
    silent = connection({})
    silent.atr = bytes.fromhex("3B00")
    assert not silent.takes_extended_length()
    old = connection({})
    old._protocol = old._service.scard.SCARD_PROTOCOL_T0
    assert not old.takes_extended_length()


def test_numbers_of_the_standard() -> None:
    assert (keypad.FEATURE_VERIFY_PIN_DIRECT, keypad.FEATURE_MODIFY_PIN_DIRECT) == (6, 7)
    from smartcard.pcsc import PCSCPart10

    assert keypad.FEATURE_GET_TLV_PROPERTIES == PCSCPart10.FEATURE_GET_TLV_PROPERTIES
    request = pcsc._pyscard().SCARD_CTL_CODE(keypad.GET_FEATURE_REQUEST)
    assert request == PCSCPart10.CM_IOCTL_GET_FEATURE_REQUEST
