"""The driver against the simulated card, enrolled by a small server from docs/understand/apdu.md alone."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

import card_applet_sim
from hsm_signer.card.address import create_card, open_card
from hsm_signer.card.commands import CardSession, CardState, PinState, authorise_content
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.card.simulated import SimulatedConnection, create_simulated
from hsm_signer.errors import (
    AlgorithmNotAllowed,
    AlgorithmUnsuitable,
    CardBlank,
    CardInUse,
    CardMemoryDamaged,
    CardMismatch,
    CardNotBlank,
    CardNotFound,
    CardPinBlocked,
    CardPinNotVerified,
    CardPinWrong,
    CardPukBlocked,
    CardPukWrong,
    CardRefused,
    CardRemoved,
    FileError,
    InputError,
    PinMissing,
    SignerError,
)
from hsm_signer.types import (
    Algorithm,
    Authorisation,
    CardPersonalisation,
    Challenge,
    Combine,
    Content,
    CredentialId,
    Digest,
    DigestList,
    Message,
    Mode,
    PinCheck,
    PinPolicy,
    Quantity,
    RollingValue,
    Scheme,
    SpkiDer,
    WrappedKey,
)

PIN = CardPin("827364", source="test")
WRONG = CardPin("111222", source="test")
NEW = CardPin("918273645", source="test")
PUK = CardPuk("ZYXW-VUTS-RQPN-MLKJ-H234-5678", source="test")
WRONG_PUK = CardPuk("AAAA-BBBB-CCCC-DDDD", source="test")
HELLO = b"hello"


class Bytes:
    """A message in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def chunks(self) -> Iterator[bytes]:
        yield self._data


# --- the server's half, in the formulas of docs/understand/apdu.md ---------------------------------------


def _cbc(key: bytes, data: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def _combine(combine: Combine, key: bytes, data: bytes) -> bytes:
    if combine is Combine.XOR:
        return bytes(a ^ b for a, b in zip(key, data, strict=True))
    return _cbc(key, data)


@dataclass
class Server:
    """Keys of one credential, and what the card's answers should be."""

    scheme: Scheme = Scheme.ROLLING
    combine: Combine = Combine.CBC
    policy: PinPolicy = PinPolicy.ALWAYS
    check: PinCheck = PinCheck.CARD
    puk: CardPuk | None = field(default_factory=lambda: PUK)
    credential_id: CredentialId = field(default_factory=lambda: CredentialId(os.urandom(16)))
    kcar: bytes = field(default_factory=lambda: os.urandom(32))
    kek: bytes = field(default_factory=lambda: os.urandom(32))
    rolling_values: tuple[RollingValue, ...] = ()

    def __post_init__(self) -> None:
        if self.scheme is Scheme.ROLLING and not self.rolling_values:
            count = 2 if self.combine is Combine.CBC else 1
            self.rolling_values = tuple(RollingValue(os.urandom(32)) for _ in range(count))
        if self.scheme is Scheme.BASIC:
            self.combine, self.policy, self.check = Combine.NONE, PinPolicy.NONE, PinCheck.NONE
            self.puk = None

    @property
    def pin(self) -> CardPin | None:
        return None if self.scheme is Scheme.BASIC else PIN

    @property
    def challenge(self) -> Challenge:
        x = 1 if self.scheme is Scheme.ROLLING else None
        return Challenge(
            self.credential_id, self.scheme, x, self.rolling_values, tuple(Algorithm), SpkiDer(b"")
        )

    def personalise(self, card_point: bytes) -> CardPersonalisation:
        tries = (0, 0) if self.scheme is Scheme.BASIC else (3, 4)
        private = ec.generate_private_key(ec.SECP256R1())
        point = private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        other = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), card_point)
        z = private.exchange(ec.ECDH(), other)

        def k(role: int) -> bytes:
            choices = (self.scheme, self.combine, self.policy, self.check)
            parameters = bytes((*(choice.number for choice in choices), *tries))
            head = b"hsm-signer/1/personalise" + bytes((role,)) + self.credential_id
            return _cbc(z, hashlib.sha256(head + parameters + card_point + point).digest())

        kcar = None if self.scheme is Scheme.BASIC else WrappedKey(aes_key_wrap(k(1), self.kcar))
        return CardPersonalisation(
            credential_id=self.credential_id,
            scheme=self.scheme,
            combine=self.combine,
            pin_policy=self.policy,
            pin_check=self.check,
            pin_tries=tries[0],
            puk_tries=tries[1],
            token_point=point,
            wrapped_kcar=kcar,
            wrapped_kek=WrappedKey(aes_key_wrap(k(2), self.kek)),
        )

    def install(self, session: CardSession) -> None:
        point = session.begin_personalisation().point
        session.install(self.personalise(point), self.pin, self.puk)

    def opens(
        self, mode: Mode, h: bytes, algorithm: Algorithm, nonce: bytes, quantities: tuple[Quantity, ...]
    ) -> bool:
        """Whether every Q_i is KW_T_i of the right key; InvalidUnwrap where it does not open."""
        rns = self.rolling_values
        d = hashlib.sha256(
            b"hsm-signer/1/authorise"
            + bytes((self.scheme.number, self.combine.number))
            + algorithm.number.to_bytes(2, "big")
            + bytes((mode.number, self.policy.number))
            + self.credential_id
            + nonce
            + bytes((len(rns),))
            + b"".join(rns)
            + h
        ).digest()
        keys = []
        for i, quantity in enumerate(quantities, 1):
            t = hashlib.sha256(b"hsm-signer/1/position" + bytes((i,)) + d).digest()
            if self.scheme is not Scheme.BASIC:
                t = _combine(self.combine, self.kcar, t)
            keys.append(aes_key_unwrap(t, quantity))
        expected = [_combine(self.combine, self.kek, rn) for rn in rns] or [self.kek]
        return keys == expected

    def accepts(self, answer: Authorisation, content: Content) -> bool:
        assert answer.credential_id == self.credential_id
        assert answer.rolling_values == self.rolling_values
        if isinstance(content, Message):
            mode, h = Mode.MESSAGE, hashlib.sha256(b"".join(content.source.chunks())).digest()
        else:
            mode, h = Mode.DIGESTS, _list_hash(content.digests)
        return self.opens(mode, h, answer.algorithm, answer.nonce, answer.quantities)


def _list_hash(digests: tuple[Digest, ...]) -> bytes:
    head = len(digests).to_bytes(2, "big") + bytes((len(digests[0]),))
    return hashlib.sha256(b"hsm-signer/1/digests" + head + b"".join(digests)).digest()


# --- cards ---------------------------------------------------------------------------------------------


@pytest.fixture
def address(tmp_path: Path) -> str:
    create_card(f"sim:{tmp_path / 'card'}")
    return f"sim:{tmp_path / 'card'}"


@contextmanager
def enrolled(address: str, server: Server) -> Iterator[CardSession]:
    with open_card(address) as session:
        server.install(session)
    with open_card(address) as session:
        yield session


SERVERS: dict[str, Callable[[], Server]] = {
    "basic": lambda: Server(Scheme.BASIC),
    "pin cbc": lambda: Server(Scheme.PIN),
    "pin xor": lambda: Server(Scheme.PIN, Combine.XOR, check=PinCheck.SERVER),
    "rolling cbc": lambda: Server(),
    "rolling cbc server": lambda: Server(check=PinCheck.SERVER),
    "rolling xor": lambda: Server(combine=Combine.XOR),
    "rolling session": lambda: Server(policy=PinPolicy.SESSION),
    "rolling without PUK": lambda: Server(puk=None),
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    return SERVERS[request.param]()


# --- enrolment and status ------------------------------------------------------------------------------


def test_status_before_and_after_install(address: str, server: Server) -> None:
    with open_card(address) as session:
        blank = session.status()
        assert blank.state is CardState.BLANK
        assert session.select() == blank
        point, serial, _ = session.begin_personalisation()
        assert serial == blank.serial
        session.install(server.personalise(point), server.pin, server.puk)
    basic = server.scheme is Scheme.BASIC
    with open_card(address) as session:
        assert session.status() == dataclasses.replace(
            blank,
            state=CardState.ACTIVE,
            scheme=server.scheme,
            combine=server.combine,
            credential_id=server.credential_id,
            pin_tries=None if basic else 3,
            puk_tries=4 if server.puk else None,
            pin_policy=None if basic else server.policy,
            pin_check=None if basic else server.check,
        )


def test_install_wants_its_own_begin(address: str) -> None:
    server = Server()
    with open_card(address) as session:
        point = session.begin_personalisation().point
        first = server.personalise(point)
        session.begin_personalisation()
        with pytest.raises(CardRefused) as caught:
            session.install(first, PIN, PUK)
        assert caught.value.status_word == 0x6A80
        with pytest.raises(CardRefused) as caught:
            session.install(first, PIN, PUK)
        assert caught.value.status_word == 0x6985
        assert session.status().state is CardState.BLANK
        server.install(session)
        with pytest.raises(CardNotBlank):
            session.begin_personalisation()
        with pytest.raises(CardNotBlank):
            session.install(first, PIN, PUK)


def test_a_blank_card_says_so(address: str) -> None:
    with open_card(address) as session:
        calls: list[Callable[[], object]] = [
            lambda: session.verify_pin(PIN),
            session.pin_state,
            lambda: session.change_pin(PIN, NEW),
            lambda: session.unblock_pin(PUK, NEW),
            lambda: session.hash_message(Bytes(b"")),
            lambda: session.load_digests((Digest(bytes(32)),)),
            lambda: session.authorise(Algorithm.ECDSA_SHA256, ()),
            lambda: authorise_content(
                session, Server().challenge, Message(Bytes(b"")), Algorithm.ECDSA_SHA256, None
            ),
        ]
        for call in calls:
            with pytest.raises(CardBlank):
                call()
        session.factory_reset()


# --- authorising ---------------------------------------------------------------------------------------


def test_a_message_is_authorised(address: str, server: Server) -> None:
    with enrolled(address, server) as session:
        for algorithm in Algorithm:
            session.hash_message(Bytes(HELLO))
            if server.pin:
                session.verify_pin(server.pin)
            nonce, quantities = session.authorise(algorithm, server.rolling_values)
            h = hashlib.sha256(HELLO).digest()
            assert server.opens(Mode.MESSAGE, h, algorithm, nonce, quantities)


def test_digests_are_authorised(address: str, server: Server) -> None:
    with enrolled(address, server) as session:
        for algorithm in (Algorithm.ECDSA_SHA256, Algorithm.RSA_PSS_SHA384, Algorithm.RSA_PKCS1_SHA512):
            assert algorithm.hash
            for count in (1, 7, 100):
                digests = tuple(Digest(os.urandom(algorithm.hash.length)) for _ in range(count))
                session.load_digests(digests)
                if server.pin:
                    session.verify_pin(server.pin)
                nonce, quantities = session.authorise(algorithm, server.rolling_values)
                assert server.opens(Mode.DIGESTS, _list_hash(digests), algorithm, nonce, quantities)


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 510, 511, 4096, 65535, 65536, 65535 * 8 + 1])
def test_the_card_hashes_what_was_sent(address: str, size: int) -> None:
    server = Server(Scheme.BASIC)
    message = os.urandom(size)
    told: list[int] = []
    with enrolled(address, server) as session:
        content = Message(Bytes(message))
        answer = authorise_content(session, server.challenge, content, Algorithm.ED25519, None, told.append)
    assert server.accepts(answer, content)
    assert sum(told) == size


def test_the_longest_list_of_digests(address: str) -> None:
    server = Server(Scheme.BASIC)
    digests = tuple(Digest(hashlib.sha256(i.to_bytes(2, "big")).digest()) for i in range(65535))
    told: list[int] = []
    with enrolled(address, server) as session:
        content = DigestList(digests)
        answer = authorise_content(
            session, server.challenge, content, Algorithm.ECDSA_SHA256, None, told.append
        )
    assert server.accepts(answer, content)
    assert sum(told) == 3 + 65535 * 32


def test_six_rolling_values_fill_the_longest_answer(address: str) -> None:
    server = Server(rolling_values=tuple(RollingValue(os.urandom(32)) for _ in range(6)))
    with enrolled(address, server) as session:
        answer = authorise_content(
            session, server.challenge, Message(Bytes(HELLO)), Algorithm.ECDSA_SHA256, lambda: PIN
        )
    assert len(answer.quantities) == 6
    assert server.accepts(answer, Message(Bytes(HELLO)))


def test_without_hash_without_pin_and_with_the_pin_too_early(address: str) -> None:
    server = Server()
    rns = server.rolling_values
    with enrolled(address, server) as session:
        with pytest.raises(CardRefused, match="no message to authorise"):
            session.authorise(Algorithm.ECDSA_SHA256, rns)
        session.verify_pin(PIN)
        session.hash_message(Bytes(HELLO))
        with pytest.raises(CardPinNotVerified):
            session.authorise(Algorithm.ECDSA_SHA256, rns)
        session.verify_pin(PIN)
        with pytest.raises(CardRefused) as caught:
            session.authorise(Algorithm.ECDSA_SHA256, (rns[0], rns[0]))
        assert caught.value.status_word == 0x6A80
        session.authorise(Algorithm.ECDSA_SHA256, rns)
        with pytest.raises(CardRefused, match="no message to authorise"):
            session.authorise(Algorithm.ECDSA_SHA256, rns)


# --- PIN and PUK ---------------------------------------------------------------------------------------


def test_wrong_pins_block_and_the_puk_unblocks(address: str) -> None:
    server = Server()
    with enrolled(address, server) as session:
        assert session.pin_state() == PinState(False, 3)
        for left in (2, 1):
            with pytest.raises(CardPinWrong) as wrong:
                session.verify_pin(WRONG)
            assert wrong.value.tries_left == left
            assert session.pin_state() == PinState(False, left)
        for pin in (WRONG, PIN):  # the last try, and the right one too late
            with pytest.raises(CardPinBlocked):
                session.verify_pin(pin)
        assert session.pin_state() == PinState(False, 0)
        assert session.status().state is CardState.PIN_BLOCKED
        blocked: list[Callable[[], object]] = [
            lambda: session.change_pin(PIN, NEW),
            lambda: session.hash_message(Bytes(HELLO)),
            lambda: session.authorise(Algorithm.ECDSA_SHA256, server.rolling_values),
            lambda: authorise_content(
                session, server.challenge, Message(Bytes(HELLO)), Algorithm.ECDSA_SHA256, _never
            ),
        ]
        for call in blocked:
            with pytest.raises(CardPinBlocked):
                call()
        with pytest.raises(CardPinNotVerified):
            session.factory_reset()
        with pytest.raises(CardPukWrong) as wrong:
            session.unblock_pin(WRONG_PUK, NEW)
        assert wrong.value.tries_left == 3
        assert session.status().puk_tries == 3
        session.unblock_pin(PUK, NEW)
        assert (session.status().state, session.status().puk_tries) == (CardState.ACTIVE, 4)
        assert session.pin_state() == PinState(False, 3)
        content = Message(Bytes(HELLO))
        answer = authorise_content(session, server.challenge, content, Algorithm.ECDSA_SHA256, lambda: NEW)
        assert server.accepts(answer, content)


def test_a_blocked_puk_leaves_only_the_reset(address: str) -> None:
    with enrolled(address, Server()) as session:
        for kind in (CardPukWrong, CardPukWrong, CardPukWrong, CardPukBlocked, CardPukBlocked):
            with pytest.raises(kind):
                session.unblock_pin(WRONG_PUK, NEW)
        for _ in range(2):
            with pytest.raises(CardPinWrong):
                session.change_pin(WRONG, NEW)
        with pytest.raises(CardPinBlocked):
            session.change_pin(WRONG, NEW)
        before = session.status()
        session.factory_reset()
        after = session.status()
        assert (after.state, after.serial) == (CardState.BLANK, before.serial)
        Server().install(session)


def test_without_a_puk(address: str) -> None:
    with enrolled(address, Server(puk=None)) as session, pytest.raises(CardPukBlocked, match="has no PUK"):
        session.unblock_pin(PUK, NEW)


def test_the_pin_is_changed_on_the_card_alone(address: str) -> None:
    server = Server()
    with enrolled(address, server) as session:
        with pytest.raises(CardPinWrong) as wrong:
            session.change_pin(WRONG, NEW)
        assert wrong.value.tries_left == 2
        session.change_pin(PIN, NEW)
        with pytest.raises(CardPinWrong):
            session.verify_pin(PIN)
        session.verify_pin(NEW)
        assert session.pin_state() == PinState(True, None)
        content = Message(Bytes(HELLO))
        answer = authorise_content(session, server.challenge, content, Algorithm.ECDSA_SHA256, lambda: NEW)
        assert server.accepts(answer, content)
        with pytest.raises(CardPinNotVerified):
            session.factory_reset()
        session.verify_pin(NEW)
        session.factory_reset()
        assert session.status().state is CardState.BLANK


def test_a_card_without_a_pin(address: str) -> None:
    with enrolled(address, Server(Scheme.BASIC)) as session:
        calls: list[Callable[[], object]] = [
            session.pin_state,
            lambda: session.verify_pin(PIN),
            lambda: session.change_pin(PIN, NEW),
        ]
        for call in calls:
            with pytest.raises(CardRefused, match="no PIN") as refused:
                call()
            assert refused.value.status_word == 0x6A88
        with pytest.raises(CardPukBlocked):
            session.unblock_pin(PUK, NEW)
        session.factory_reset()


def test_no_error_shows_a_pin(address: str) -> None:
    shown: list[str] = []
    with enrolled(address, Server()) as session:
        calls: list[Callable[[], object]] = [
            lambda: session.verify_pin(WRONG),
            lambda: session.change_pin(WRONG, NEW),
            lambda: session.unblock_pin(WRONG_PUK, NEW),
            lambda: session.install(Server().personalise(_point()), NEW, WRONG_PUK),
        ]
        for call in calls:
            with pytest.raises(SignerError) as caught:
                call()
            shown += ["".join(traceback.format_exception(caught.value)), caught.value.hint or ""]
    for secret in (WRONG, NEW, WRONG_PUK):
        assert all(secret.reveal().decode() not in text for text in shown)


def _point() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


# --- authorise_content ---------------------------------------------------------------------------------


class Recording:
    """Between driver and card: keeps the instructions; with ``short_le`` the card answers in parts."""

    def __init__(self, path: Path) -> None:
        self._card = SimulatedConnection(path)
        self.instructions: list[int] = []
        self.short_le = 0

    def transmit(self, apdu: bytes) -> bytes:
        self.instructions.append(apdu[1])
        if self.short_le and apdu[1] in (0xA4, 0xCA, 0x64):
            apdu = apdu[:-1] + bytes((self.short_le,))
        return self._card.transmit(apdu)

    def close(self) -> None:
        self._card.close()


@contextmanager
def recorded(address: str, server: Server) -> Iterator[tuple[CardSession, Recording]]:
    with open_card(address) as session:
        server.install(session)
    connection = Recording(Path(address.removeprefix("sim:")))
    try:
        session = CardSession(connection)
        session.select()
        connection.instructions.clear()
        yield session, connection
    finally:
        connection.close()


def _never() -> CardPin:
    raise AssertionError("asked for a PIN that the card does not need")


def test_hash_then_pin_then_authorise(address: str) -> None:
    server = Server()
    asked: list[list[int]] = []
    with recorded(address, server) as (session, connection):

        def ask() -> CardPin:
            asked.append(list(connection.instructions))
            return PIN

        answer = authorise_content(
            session, server.challenge, Message(Bytes(bytes(300))), Algorithm.ECDSA_SHA256, ask
        )
        assert connection.instructions == [0xCA, 0x2A, 0x2A, 0x20, 0x64]
        assert asked == [[0xCA, 0x2A, 0x2A]]
    assert (answer.x, answer.algorithm, len(answer.quantities)) == (1, Algorithm.ECDSA_SHA256, 2)
    assert answer.quantities[0].hex() not in repr(answer)


def test_under_policy_session_the_pin_is_asked_for_once(address: str) -> None:
    server = Server(policy=PinPolicy.SESSION)
    content = Message(Bytes(HELLO))
    with enrolled(address, server) as session:
        for ask in (lambda: PIN, _never, None):
            answer = authorise_content(session, server.challenge, content, Algorithm.ECDSA_SHA256, ask)
            assert server.accepts(answer, content)
        session.select()
        with pytest.raises(PinMissing):
            authorise_content(session, server.challenge, content, Algorithm.ECDSA_SHA256, None)


@pytest.mark.parametrize("name", ["pin cbc", "rolling cbc", "rolling xor"])
def test_under_policy_always_the_pin_is_asked_for_each_time(address: str, name: str) -> None:
    server = SERVERS[name]()
    asked = 0

    def ask() -> CardPin:
        nonlocal asked
        asked += 1
        return PIN

    content = DigestList((Digest(bytes(32)), Digest(b"\x01" * 32)))
    with enrolled(address, server) as session:
        for _ in range(2):
            answer = authorise_content(session, server.challenge, content, Algorithm.ECDSA_SHA256, ask)
            assert server.accepts(answer, content)
    assert asked == 2


def test_basic_never_asks(address: str) -> None:
    server = Server(Scheme.BASIC)
    content = Message(Bytes(HELLO))
    with enrolled(address, server) as session:
        answer = authorise_content(session, server.challenge, content, Algorithm.ECDSA_SHA256, _never)
    assert server.accepts(answer, content)


def test_a_wrong_pin_leaves_the_card_ready_for_another_attempt(address: str) -> None:
    server = Server()
    content = Message(Bytes(HELLO))
    with enrolled(address, server) as session:
        with pytest.raises(CardPinWrong) as wrong:
            authorise_content(session, server.challenge, content, Algorithm.ECDSA_SHA256, lambda: WRONG)
        assert wrong.value.tries_left == 2
        answer = authorise_content(session, server.challenge, content, Algorithm.ECDSA_SHA256, lambda: PIN)
        assert server.accepts(answer, content)


DIGESTS_32 = DigestList((Digest(bytes(32)),))
MESSAGE = Message(Bytes(HELLO))
RN = RollingValue(bytes(32))


@pytest.mark.parametrize(
    ("changes", "content", "algorithm", "kind"),
    [
        ({"credential_id": CredentialId(bytes(16))}, MESSAGE, Algorithm.ECDSA_SHA256, CardMismatch),
        ({"scheme": Scheme.PIN, "rolling_values": ()}, MESSAGE, Algorithm.ECDSA_SHA256, CardMismatch),
        ({"algorithms": ()}, MESSAGE, Algorithm.ECDSA_SHA256, AlgorithmNotAllowed),
        ({}, DIGESTS_32, Algorithm.ECDSA_SHA384, AlgorithmUnsuitable),
        ({}, DIGESTS_32, Algorithm.ED25519, AlgorithmUnsuitable),
        ({"scheme": Scheme.PIN, "rolling_values": ()}, MESSAGE, Algorithm.ED25519, AlgorithmUnsuitable),
        ({}, DigestList(()), Algorithm.ECDSA_SHA256, InputError),
        ({"rolling_values": ()}, MESSAGE, Algorithm.ECDSA_SHA256, InputError),
        ({"rolling_values": (RN, RN)}, MESSAGE, Algorithm.ECDSA_SHA256, InputError),
        ({"rolling_values": (RollingValue(b""),)}, MESSAGE, Algorithm.ECDSA_SHA256, InputError),
        ({"scheme": Scheme.PIN}, MESSAGE, Algorithm.ECDSA_SHA256, InputError),
    ],
)
def test_what_does_not_fit_costs_neither_hash_nor_pin(
    address: str, changes: dict[str, object], content: Content, algorithm: Algorithm, kind: type[SignerError]
) -> None:
    server = Server()
    with recorded(address, server) as (session, connection):
        challenge = replace(server.challenge, **changes)
        with pytest.raises(kind) as caught:
            authorise_content(session, challenge, content, algorithm, _never)
        assert type(caught.value) is kind
        assert set(connection.instructions) <= {0xCA}


def test_no_pin_to_give_is_noticed_before_a_long_file_is_hashed(address: str) -> None:
    server = Server()
    with recorded(address, server) as (session, connection):
        with pytest.raises(PinMissing):
            authorise_content(session, server.challenge, MESSAGE, Algorithm.ECDSA_SHA256, None)
        assert set(connection.instructions) <= {0xCA}


@pytest.mark.parametrize("le", [1, 10, 255])
def test_a_platform_that_gives_its_answers_in_parts(address: str, le: int) -> None:
    server = Server(rolling_values=tuple(RollingValue(os.urandom(32)) for _ in range(6)))
    with recorded(address, server) as (session, connection):
        whole = session.status()
        connection.short_le = le
        assert session.select() == whole
        answer = authorise_content(session, server.challenge, MESSAGE, Algorithm.ECDSA_SHA256, lambda: PIN)
        assert 0xC0 in connection.instructions
    assert server.accepts(answer, MESSAGE)


# --- addresses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["", "card", "/tmp/card", "sim", "sim:", "usb:Reader", "SIM:x", ":x", "sim:a\0b"]
)
def test_an_address_of_no_known_form(address: str) -> None:
    for use in (lambda: open_card(address).__enter__(), lambda: create_card(address)):
        with pytest.raises(InputError, match="expected sim:PATH"):
            use()


def test_a_bare_path_is_told_what_to_write() -> None:
    with pytest.raises(InputError) as caught:
        create_card("my.card")
    assert caught.value.hint == "For a simulated card in this file write sim:my.card."


def test_no_card_there(tmp_path: Path) -> None:
    with pytest.raises(CardNotFound, match="no card at") as caught, open_card(f"sim:{tmp_path / 'none'}"):
        pass
    assert caught.value.hint
    assert "card new" in caught.value.hint


def test_making_a_card_overwrites_nothing(tmp_path: Path, address: str) -> None:
    path = Path(address.removeprefix("sim:"))
    before = path.read_bytes()
    with pytest.raises(FileError, match="something is there already"):
        create_simulated(path)
    assert path.read_bytes() == before
    with pytest.raises(FileError, match="does not exist"):
        create_simulated(tmp_path / "no" / "folder")


def test_one_holder_at_a_time(address: str) -> None:
    with open_card(address):
        with pytest.raises(CardInUse) as caught, open_card(address, timeout=0.05):
            pass
        assert caught.value.retryable
    with open_card(address):
        pass


def test_the_card_is_let_go_after_an_error(address: str) -> None:
    with pytest.raises(CardBlank), open_card(address) as session:
        session.verify_pin(PIN)
    with open_card(address, timeout=0.0):
        pass


def test_opening_a_damaged_card(address: str) -> None:
    path = Path(address.removeprefix("sim:"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CardMemoryDamaged), open_card(address):
        pass


def test_a_card_is_closed_when_its_selection_fails(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CardSession, "select", _refuse)
    with pytest.raises(CardNotFound), open_card(address):
        pass
    monkeypatch.undo()
    with open_card(address, timeout=0.0):
        pass


def _refuse(_: CardSession) -> None:
    raise CardNotFound("not this one")


def test_a_closed_card_answers_no_more(address: str) -> None:
    with open_card(address) as session:
        pass
    with pytest.raises(CardRemoved):
        session.status()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (card_applet_sim.CardTorn("torn"), CardRemoved),
        (card_applet_sim.MemoryDamaged("bad"), CardMemoryDamaged),
        (card_applet_sim.CardError("other"), FileError),
        (OSError(28, "No space left on device"), FileError),
    ],
)
def test_what_the_simulator_raises_becomes_ours(
    address: str, monkeypatch: pytest.MonkeyPatch, theirs: Exception, ours: type[SignerError]
) -> None:
    def fail(card: object, apdu: bytes) -> bytes:
        raise theirs

    with open_card(address) as session:
        monkeypatch.setattr(card_applet_sim.SimulatedCard, "transmit", fail)
        with pytest.raises(SignerError) as caught:
            session.status()
    assert type(caught.value) is ours


def test_verification_ends_with_the_connection(address: str) -> None:
    server = Server(policy=PinPolicy.SESSION)
    with enrolled(address, server) as session:
        session.verify_pin(PIN)
        assert session.pin_state().verified
    with open_card(address) as session:
        assert not session.pin_state().verified


def test_a_home_folder_in_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    create_card("sim:~/mine")
    assert (tmp_path / "mine").exists()
