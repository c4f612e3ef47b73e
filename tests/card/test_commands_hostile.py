"""Every method of CardSession against a card that answers whatever it likes: only our errors come out."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsm_signer.card import apdu
from hsm_signer.card.apdu import Feature, tlv
from hsm_signer.card.commands import CardSession, CardState, CardStatus, PinState, authorise_content
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.errors import (
    CardAnswerMalformed,
    CardBlank,
    CardError,
    CardNotBlank,
    CardPinBlocked,
    CardRefused,
    CardRemoved,
    InputError,
    PinMissing,
    SignerError,
)
from hsm_signer.types import (
    Algorithm,
    CardPersonalisation,
    Challenge,
    Combine,
    CredentialId,
    Digest,
    DigestList,
    Message,
    PinCheck,
    PinPolicy,
    RollingValue,
    Scheme,
    SpkiDer,
    WrappedKey,
)

OK = b"\x90\x00"
PIN = CardPin("827364", source="test")
PUK = CardPuk("ZYXW-VUTS-RQPN-MLKJ", source="test")
ID = CredentialId(bytes(range(16)))
SERIAL = b"\x01\x02\x03\x04\x05\x06\x07\x08"
RNS = (RollingValue(b"\x01" * 32), RollingValue(b"\x02" * 32))
POINT = b"\x04" + bytes(64)


class Script:
    """A card that answers what it was told to, and keeps what it was sent."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = iter(answers)
        self.sent: list[bytes] = []

    def transmit(self, apdu: bytes) -> bytes:
        self.sent.append(apdu)
        try:
            return next(self._answers)
        except StopIteration:
            raise CardRemoved("the script is over") from None

    def close(self) -> None:
        pass


class Source:
    """A message in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def chunks(self) -> Iterator[bytes]:
        return iter(self.pieces)


def personalisation(**changes: object) -> CardPersonalisation:
    values: dict[str, object] = {
        "credential_id": ID,
        "scheme": Scheme.ROLLING,
        "combine": Combine.CBC,
        "pin_policy": PinPolicy.ALWAYS,
        "pin_check": PinCheck.SERVER,
        "pin_tries": 3,
        "puk_tries": 10,
        "token_point": POINT,
        "wrapped_kcar": WrappedKey(bytes(40)),
        "wrapped_kek": WrappedKey(bytes(40)),
    }
    return CardPersonalisation(**(values | changes))  # type: ignore[arg-type]


BASIC: dict[str, object] = {
    "scheme": Scheme.BASIC,
    "combine": Combine.NONE,
    "pin_policy": PinPolicy.NONE,
    "pin_check": PinCheck.NONE,
    "pin_tries": 0,
    "puk_tries": 0,
    "wrapped_kcar": None,
}

CHALLENGE = Challenge(ID, Scheme.ROLLING, 1, RNS, tuple(Algorithm), SpkiDer(b""))

BLANK = {0x80: "0001", 0x81: "01", 0x87: SERIAL.hex(), 0x88: "000F"}
ACTIVE = BLANK | {
    0x81: "03",
    0x82: "03",
    0x83: "02",
    0x84: ID.hex(),
    0x85: "03",
    0x86: "0A",
    0x89: "01",
    0x8A: "02",
}
ACTIVE_BASIC = BLANK | {0x81: "03", 0x82: "01", 0x83: "00", 0x84: ID.hex()}


def status(fields: dict[int, str]) -> bytes:
    return b"".join(tlv(tag, bytes.fromhex(value)) for tag, value in sorted(fields.items()))


def selected(fields: dict[int, str]) -> bytes:
    return tlv(0x6F, tlv(0x84, apdu.AID) + tlv(0xA5, status(fields)))


# --- what a good answer becomes ------------------------------------------------------------------------


def test_status_of_an_active_card() -> None:
    said = CardSession(Script(status(ACTIVE) + OK)).status()
    assert said == CardStatus(
        version=1,
        state=CardState.ACTIVE,
        scheme=Scheme.ROLLING,
        combine=Combine.CBC,
        credential_id=ID,
        pin_tries=3,
        puk_tries=10,
        serial=SERIAL,
        features=Feature.EXTENDED_LENGTH | Feature.COMBINE_XOR | Feature.COMBINE_CBC | Feature.DIGEST_LISTS,
        pin_policy=PinPolicy.ALWAYS,
        pin_check=PinCheck.SERVER,
    )
    assert CardSession(Script(selected(ACTIVE) + OK)).select() == said


def test_status_of_a_blank_and_of_a_basic_card() -> None:
    blank = CardSession(Script(selected(BLANK) + OK)).select()
    assert blank.state is CardState.BLANK
    assert (blank.scheme, blank.credential_id, blank.pin_tries) == (None, None, None)
    basic = CardSession(Script(selected(ACTIVE_BASIC) + OK)).select()
    assert (basic.scheme, basic.combine, basic.pin_policy) == (Scheme.BASIC, Combine.NONE, None)


def test_unknown_tags_and_feature_bits_are_ignored() -> None:
    said = CardStatus.parse(status(ACTIVE | {0x8C: "FF", 0x88: "FF04"}))
    assert Feature.COMBINE_CBC in said.features
    assert Feature.COMBINE_XOR not in said.features


def test_a_card_without_a_puk() -> None:
    assert CardStatus.parse(status({t: v for t, v in ACTIVE.items() if t != 0x86})).puk_tries is None


# --- what a bad answer becomes -------------------------------------------------------------------------

BAD_STATUS: list[tuple[str, dict[int, str], str]] = [
    ("version", ACTIVE | {0x80: "0002"}, "version (tag 80): expected 1, got 2"),
    ("version length", ACTIVE | {0x80: "01"}, "version (tag 80): expected 2 bytes, got 1"),
    ("state", ACTIVE | {0x81: "02"}, "state (tag 81): expected one of 01, 03, 04, got 02"),
    ("scheme", ACTIVE | {0x82: "04"}, "scheme (tag 82): expected one of 01, 02, 03, got 04"),
    ("combine", ACTIVE | {0x83: "00"}, "combine (tag 83): expected one of 01, 02, got 00"),
    ("combine of basic", ACTIVE_BASIC | {0x83: "02"}, "combine (tag 83): expected one of 00, got 02"),
    ("id", ACTIVE | {0x84: "00" * 15}, "credential id (tag 84): expected 16 bytes, got 15"),
    ("tries", ACTIVE | {0x85: "10"}, "pin tries left (tag 85): expected 0 to 15, got 16"),
    ("tries 0 but active", ACTIVE | {0x85: "00"}, "state (tag 81): expected 04 with no PIN try left"),
    ("blocked with tries", ACTIVE | {0x81: "04"}, "state (tag 81): expected 04 with no PIN try left"),
    ("puk", ACTIVE | {0x86: "FF"}, "puk tries left (tag 86): expected 0 to 15, got 255"),
    ("serial", ACTIVE | {0x87: ""}, "serial (tag 87): expected 8 bytes, got 0"),
    ("features", BLANK | {0x88: "0F"}, "features (tag 88): expected 2 bytes, got 1"),
    ("policy", ACTIVE | {0x89: "00"}, "pin policy (tag 89): expected one of 01, 02, got 00"),
    ("check", ACTIVE | {0x8A: "03"}, "pin check (tag 8A): expected one of 01, 02, got 03"),
    ("blank with id", BLANK | {0x84: ID.hex()}, "credential id (tag 84): expected it to be absent on"),
    ("basic with PIN", ACTIVE_BASIC | {0x85: "03"}, "pin tries left (tag 85): expected it to be absent in"),
    ("basic blocked", ACTIVE_BASIC | {0x81: "04"}, "state (tag 81): expected 03 in scheme basic, got 04"),
    *(
        (f"no {tag:02X}", {t: v for t, v in ACTIVE.items() if t != tag}, f"(tag {tag:02X}), it is missing")
        for tag in ACTIVE
        if tag != 0x86
    ),
]


@pytest.mark.parametrize(
    ("fields", "message"), [row[1:] for row in BAD_STATUS], ids=[row[0] for row in BAD_STATUS]
)
def test_malformed_status_names_the_field(fields: dict[int, str], message: str) -> None:
    with pytest.raises(CardAnswerMalformed) as caught:
        CardSession(Script(selected(fields) + OK)).select()
    assert message in str(caught.value)
    with pytest.raises(CardAnswerMalformed) as caught:
        CardSession(Script(status(fields) + OK)).status()
    assert message in str(caught.value)


def test_status_out_of_order() -> None:
    good = status(BLANK)
    with pytest.raises(CardAnswerMalformed, match="ascending"):
        CardStatus.parse(good[4:7] + good[:4] + good[7:])


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        status(BLANK),
        tlv(0x6F, tlv(0x84, apdu.AID)),
        tlv(0x6F, tlv(0xA5, status(BLANK))),
        tlv(0x6F, tlv(0x84, apdu.AID[:-1]) + tlv(0xA5, status(BLANK))),
        tlv(0x6F, tlv(0x84, apdu.AID) + tlv(0xA5, status(BLANK))) + b"\x80\x00",
        selected(BLANK)[:-1],
        selected(BLANK) + b"\x00",
    ],
)
def test_malformed_answer_to_select(answer: bytes) -> None:
    with pytest.raises(CardAnswerMalformed):
        CardSession(Script(answer + OK)).select()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "card point (tag 90), it is missing"),
        (tlv(0x90, POINT[:-1]) + tlv(0x87, SERIAL), "expected 65 bytes, got 64"),
        (tlv(0x90, b"\x02" + POINT[1:]) + tlv(0x87, SERIAL), "uncompressed"),
        (tlv(0x90, POINT), "serial (tag 87), it is missing"),
        (tlv(0x90, POINT) + tlv(0x87, SERIAL + b"\x00"), "expected 8 bytes, got 9"),
        (tlv(0x90, POINT) + tlv(0x87, SERIAL) + tlv(0x8B, bytes(97)), "(tag 8C), it is missing"),
        (tlv(0x90, POINT) + tlv(0x87, SERIAL) + tlv(0x8C, bytes(64)), "(tag 8B), it is missing"),
        (tlv(0x90, POINT) + tlv(0x87, SERIAL) + tlv(0x8B, bytes(98)) + tlv(0x8C, bytes(64)), "97 bytes"),
        (tlv(0x90, POINT) + tlv(0x87, SERIAL) + tlv(0x8B, bytes(97)) + tlv(0x8C, bytes(63)), "64 bytes"),
    ],
)
def test_malformed_answer_to_begin_personalisation(answer: bytes, message: str) -> None:
    with pytest.raises(CardAnswerMalformed) as caught:
        CardSession(Script(answer + OK)).begin_personalisation()
    assert message in str(caught.value)


def test_an_origin_is_certificate_and_proof() -> None:
    answer = tlv(0x90, POINT) + tlv(0x87, SERIAL)
    assert CardSession(Script(answer + OK)).begin_personalisation() == (POINT, SERIAL, None)
    answer += tlv(0x8B, b"c" * 97) + tlv(0x8C, b"p" * 64) + tlv(0x9A, b"new")
    expected = (POINT, SERIAL, b"c" * 97 + b"p" * 64)
    assert CardSession(Script(answer + OK)).begin_personalisation() == expected


@pytest.mark.parametrize("length", [0, 15, 16, 55, 57, 95, 97, 136, 256])
def test_authorise_wants_exactly_one_quantity_for_each_value(length: int) -> None:
    with pytest.raises(CardAnswerMalformed, match=f"expected 96 bytes, got {length}"):
        CardSession(Script(bytes(length) + OK)).authorise(Algorithm.ECDSA_SHA256, RNS)


def test_authorise_parts_the_answer() -> None:
    answer = bytes(range(96))
    card = Script(answer + OK)
    nonce, quantities = CardSession(card).authorise(Algorithm.RSA_PSS_SHA384, RNS)
    assert nonce == answer[:16]
    assert quantities == (answer[16:56], answer[56:])
    assert card.sent == [bytes.fromhex("8064000043011202") + b"".join(RNS) + b"\x00"]
    assert len(CardSession(Script(bytes(56) + OK)).authorise(Algorithm.ECDSA_SHA256, ())[1]) == 1


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (OK, PinState(True, None)),
        (b"\x63\xc2", PinState(False, 2)),
        (b"\x63\xc0", PinState(False, 0)),
        (b"\x69\x83", PinState(False, 0)),
    ],
)
def test_pin_state(answer: bytes, state: PinState) -> None:
    card = Script(answer)
    assert CardSession(card).pin_state() == state
    assert card.sent == [bytes.fromhex("00200081")]


# --- 6985 explained by the card's state ----------------------------------------------------------------

SessionCall = Callable[[CardSession], object]


@pytest.mark.parametrize(
    ("call", "state", "kind"),
    [
        (lambda s: s.verify_pin(PIN), BLANK, CardBlank),
        (lambda s: s.hash_message(Source()), BLANK, CardBlank),
        (lambda s: s.hash_message(Source()), ACTIVE | {0x81: "04", 0x85: "00"}, CardPinBlocked),
        (lambda s: s.authorise(Algorithm.ED25519, ()), ACTIVE, CardRefused),
        (lambda s: s.begin_personalisation(), ACTIVE, CardNotBlank),
        (lambda s: s.install(personalisation(), PIN, None), ACTIVE, CardNotBlank),
        (lambda s: s.install(personalisation(), PIN, None), BLANK, CardRefused),
    ],
)
def test_not_now_becomes_why(call: SessionCall, state: dict[int, str], kind: type[CardError]) -> None:
    with pytest.raises(CardError) as caught:
        call(CardSession(Script(b"\x69\x85", status(state) + OK)))
    assert type(caught.value) is kind


@pytest.mark.parametrize("answer", [b"", b"\x69\x85", b"\x01\x02\x90\x00"])
def test_not_now_stays_not_now_if_the_card_does_not_say_why(answer: bytes) -> None:
    with pytest.raises(CardRefused) as caught:
        CardSession(Script(b"\x69\x85", answer)).verify_pin(PIN)
    assert caught.value.status_word == 0x6985


# --- what is refused before anything is sent -----------------------------------------------------------

REFUSED_HERE: list[tuple[SessionCall, type[SignerError]]] = [
    (lambda s: s.install(personalisation(), None, None), PinMissing),
    (lambda s: s.install(personalisation(**BASIC), PIN, None), InputError),
    (lambda s: s.install(personalisation(**BASIC), None, PUK), InputError),
    (lambda s: s.install(personalisation(**BASIC | {"combine": Combine.CBC}), None, None), InputError),
    (lambda s: s.install(personalisation(**BASIC | {"wrapped_kcar": bytes(40)}), None, None), InputError),
    (lambda s: s.install(personalisation(wrapped_kcar=None), PIN, PUK), InputError),
    (lambda s: s.install(personalisation(pin_tries=0), PIN, PUK), InputError),
    (lambda s: s.install(personalisation(puk_tries=16), PIN, PUK), InputError),
    (lambda s: s.install(personalisation(credential_id=bytes(15)), PIN, PUK), InputError),
    (lambda s: s.install(personalisation(token_point=bytes(64)), PIN, PUK), InputError),
    (lambda s: s.install(personalisation(wrapped_kek=bytes(300)), PIN, PUK), InputError),
    (lambda s: s.install(personalisation(wrapped_kcar=bytes(39)), PIN, PUK), InputError),
    (lambda s: s.load_digests(()), InputError),
    (lambda s: s.load_digests((Digest(bytes(20)),)), InputError),
    (lambda s: s.load_digests((Digest(bytes(32)), Digest(bytes(48)))), InputError),
    (lambda s: s.load_digests((Digest(bytes(32)),) * 65536), InputError),
    (lambda s: s.authorise(Algorithm.ECDSA_SHA256, (RollingValue(bytes(31)),)), InputError),
    (lambda s: s.authorise(Algorithm.ECDSA_SHA256, RNS * 4), InputError),
]


@pytest.mark.parametrize(("call", "kind"), REFUSED_HERE)
def test_bad_arguments_never_reach_the_card(call: SessionCall, kind: type[SignerError]) -> None:
    card = Script()
    with pytest.raises(kind):
        call(CardSession(card))
    assert card.sent == []


def test_the_longest_install_fits_a_short_apdu() -> None:
    card = Script(OK)
    CardSession(card).install(
        personalisation(), CardPin("1" * 12, source="test"), CardPuk("A" * 32, source="test")
    )
    assert card.sent[0][4] == apdu.INSTALL_MAX
    assert len(card.sent[0]) == 5 + apdu.INSTALL_MAX


def test_a_source_that_fails_leaves_with_its_own_error() -> None:
    class Failing:
        def chunks(self) -> Iterator[bytes]:
            yield bytes(1000)
            raise InputError("gone")

    card = Script(*[OK] * 10)
    with pytest.raises(InputError, match="gone"):
        CardSession(card).hash_message(Failing())
    assert [sent[0] for sent in card.sent] == [0x10] * 3


# --- fuzz ----------------------------------------------------------------------------------------------

CALLS: dict[str, SessionCall] = {
    "select": lambda s: s.select(),
    "status": lambda s: s.status(),
    "verify_pin": lambda s: s.verify_pin(PIN),
    "pin_state": lambda s: s.pin_state(),
    "change_pin": lambda s: s.change_pin(PIN, PIN),
    "unblock_pin": lambda s: s.unblock_pin(PUK, PIN),
    "begin_personalisation": lambda s: s.begin_personalisation(),
    "install": lambda s: s.install(personalisation(), PIN, PUK),
    "hash_message": lambda s: s.hash_message(Source(bytes(600))),
    "load_digests": lambda s: s.load_digests((Digest(bytes(32)),) * 9),
    "authorise": lambda s: s.authorise(Algorithm.ECDSA_SHA256, RNS),
    "factory_reset": lambda s: s.factory_reset(),
    "begin_issue": lambda s: s.begin_issue(),
    "issue": lambda s: s.issue(bytes(64)),
    "authorise_content message": lambda s: authorise_content(
        s, CHALLENGE, Message(Source(bytes(300))), Algorithm.ECDSA_SHA256, lambda: PIN
    ),
    "authorise_content digests": lambda s: authorise_content(
        s, CHALLENGE, DigestList((Digest(bytes(48)),) * 3), Algorithm.RSA_PSS_SHA384, lambda: PIN
    ),
}

GOOD = st.sampled_from(
    [
        *(make(fields) for make in (status, selected) for fields in (ACTIVE, BLANK, ACTIVE_BASIC)),
        tlv(0x90, POINT) + tlv(0x87, SERIAL),
        bytes(96),
        b"",
    ]
)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A good answer with a byte changed, put in, or with its end cut off."""
    data = bytearray(draw(GOOD))
    if not data:
        return b""
    at = draw(st.integers(0, len(data) - 1))
    how = draw(st.sampled_from(["change", "insert", "cut"]))
    if how == "cut":
        return bytes(data[:at])
    data[at : at + (how == "change")] = draw(st.binary(min_size=1, max_size=1))
    return bytes(data)


WORDS = st.one_of(
    st.just(OK),
    st.sampled_from([0x6100, 0x6110, 0x6C00, 0x6C11, 0x63C0, 0x63C2, 0x6983, 0x6985, 0x6A80, 0x6581]).map(
        lambda word: word.to_bytes(2, "big")
    ),
    st.binary(min_size=2, max_size=2),
)
ANSWERS = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda data, word: data + word, st.one_of(GOOD, spoiled(), st.binary(max_size=260)), WORDS),
)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=60, deadline=None)
@given(answers=st.lists(ANSWERS, min_size=1, max_size=8))
def test_whatever_a_card_answers_only_our_errors_come_out(name: str, answers: list[bytes]) -> None:
    card = Script(*itertools.islice(itertools.cycle(answers), 5000))
    try:
        CALLS[name](CardSession(card))
    except SignerError as error:
        for shown in (str(error), repr(error), error.hint or ""):
            assert PIN.reveal().decode() not in shown
            assert PUK.reveal().decode() not in shown
    assert len(card.sent) < 3000


# --- borders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["hsm_signer.card.commands", "hsm_signer.card.address"])
def test_the_driver_imports_neither_the_simulator_nor_the_command_line(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "print(*(m for m in ('card_applet_sim', 'click', 'cryptography', 'pkcs11') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
