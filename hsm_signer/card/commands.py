"""The commands of a card, one method each, and their order for authorising a signature.

The session keeps no secret and no state of its own but the connection: PIN and PUK go from the caller into
one APDU and are forgotten. What the card said last is asked for again, not remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from hsm_signer.errors import (
    AlgorithmNotAllowed,
    AlgorithmUnsuitable,
    CardBlank,
    CardError,
    CardMismatch,
    CardNotBlank,
    CardPinBlocked,
    CardPinWrong,
    CardRefused,
    InputError,
    PinMissing,
    SignerError,
)
from hsm_signer.types import (
    COMPRESSED_POINT_LENGTH,
    CREDENTIAL_ID_LENGTH,
    DIGEST_LENGTHS,
    KW_LENGTH,
    MAX_DIGESTS,
    MAX_ROLLING_VALUES,
    MAX_TRIES,
    NONCE_LENGTH,
    ORIGIN_CERTIFICATE_LENGTH,
    POINT_LENGTH,
    RAW_SIGNATURE_LENGTH,
    ROLLING_VALUE_LENGTH,
    SERIAL_LENGTH,
    Algorithm,
    Authorisation,
    ByteSource,
    CardPersonalisation,
    Challenge,
    Combine,
    Content,
    CredentialId,
    Digest,
    DigestList,
    Message,
    PinCheck,
    PinPolicy,
    Quantity,
    RollingValue,
    Scheme,
)

from . import apdu
from .apdu import CardState, Command, Feature, Fields, InstallTag, StatusTag, StatusWord, TemplateTag, tlv
from .connection import CardConnection, ExtendedConnection
from .keypad import Keypad, KeypadConnection
from .pins import CardPin, CardPuk

__all__ = [
    "CardSession",
    "CardState",
    "CardStatus",
    "Feature",
    "PinState",
    "authorise_content",
]

_CREDENTIAL_TAGS = (StatusTag.SCHEME, StatusTag.COMBINE, StatusTag.CREDENTIAL_ID)
_PIN_TAGS = (StatusTag.PIN_TRIES_LEFT, StatusTag.PUK_TRIES_LEFT, StatusTag.PIN_POLICY, StatusTag.PIN_CHECK)


@dataclass(frozen=True, slots=True)
class CardStatus:
    """The status of a card (docs/understand/apdu.md, status TLVs); ``None`` means absent."""

    version: int
    """1."""
    state: CardState
    scheme: Scheme | None
    """None on a blank card, as all below but serial and features."""
    combine: Combine | None
    credential_id: CredentialId | None
    pin_tries: int | None
    """Tries left, 0 to 15; None in scheme basic."""
    puk_tries: int | None
    """Tries left, 0 to 15; None where there is no PUK, and in scheme basic."""
    serial: bytes
    """8 bytes, the card's for its life."""
    features: Feature
    pin_policy: PinPolicy | None
    """None in scheme basic."""
    pin_check: PinCheck | None
    """None in scheme basic."""

    @classmethod
    def parse(cls, data: bytes, where: str = "status") -> CardStatus:
        """Read status TLVs; raises CardAnswerMalformed where they break docs/understand/apdu.md's table.

        Unknown tags are ignored, as the contract says; known ones stand where the table has them and nowhere
        else, so that no later layer meets an active card without a credential.
        """
        fields = Fields(data, where)
        if list(fields.tags) != sorted(fields.tags):
            raise apdu.malformed(where, "expected its tags in ascending order")
        version = fields.number(StatusTag.VERSION, 2)
        if version != apdu.PROTOCOL_VERSION:
            raise apdu.malformed(where, f"version (tag 80): expected {apdu.PROTOCOL_VERSION}, got {version}")
        state = fields.code(StatusTag.STATE, CardState)
        serial = fields.value(StatusTag.SERIAL, SERIAL_LENGTH)
        features = Feature(fields.number(StatusTag.FEATURES, 2))
        blank = cls(version, state, None, None, None, None, None, serial, features, None, None)
        if state is CardState.BLANK:
            fields.none_of((*_CREDENTIAL_TAGS, *_PIN_TAGS), "on a blank card")
            return blank
        credential = replace(
            blank,
            scheme=fields.code(StatusTag.SCHEME, Scheme),
            credential_id=CredentialId(fields.value(StatusTag.CREDENTIAL_ID, CREDENTIAL_ID_LENGTH)),
        )
        if credential.scheme is Scheme.BASIC:
            fields.none_of(_PIN_TAGS, "in scheme basic")
            if state is not CardState.ACTIVE:
                got = f"{state.number:02X}"
                raise apdu.malformed(where, f"state (tag 81): expected 03 in scheme basic, got {got}")
            return replace(credential, combine=fields.code(StatusTag.COMBINE, Combine, Combine.NONE))
        pin_tries = fields.number(StatusTag.PIN_TRIES_LEFT, 1, high=MAX_TRIES)
        if (state is CardState.PIN_BLOCKED) != (pin_tries == 0):
            raise apdu.malformed(
                where,
                f"state (tag 81): expected 04 with no PIN try left and only then, got {state.number:02X}",
            )
        puk_tries = None
        if fields.has(StatusTag.PUK_TRIES_LEFT):
            puk_tries = fields.number(StatusTag.PUK_TRIES_LEFT, 1, high=MAX_TRIES)
        return replace(
            credential,
            combine=fields.code(StatusTag.COMBINE, Combine, Combine.XOR, Combine.CBC),
            pin_tries=pin_tries,
            puk_tries=puk_tries,
            pin_policy=fields.code(StatusTag.PIN_POLICY, PinPolicy, PinPolicy.ALWAYS, PinPolicy.SESSION),
            pin_check=fields.code(StatusTag.PIN_CHECK, PinCheck, PinCheck.CARD, PinCheck.SERVER),
        )


@dataclass(frozen=True, slots=True)
class PinState:
    """The state of a card's PIN, as VERIFY without a PIN answers."""

    verified: bool
    tries_left: int | None
    """0 when blocked; None when verified, for the card does not tell then."""


class BlankCard(NamedTuple):
    """The answer of a blank card to BEGIN PERSONALISATION."""

    point: bytes
    """65 bytes from 04; its private key is the card's until INSTALL."""
    serial: bytes
    """8 bytes."""
    origin: bytes | None
    """Certificate of origin and proof of origin, 161 bytes; None of a card that was never issued."""


class CardSession:
    """An open card, with one method for each command of docs/understand/apdu.md.

    Every method raises what the connection raises, CardAnswerMalformed, and the errors of
    :func:`hsm_signer.card.apdu.status_error`; CardBlank, CardNotBlank and CardPinBlocked where the card's
    state forbids the command. Further errors are named at the method.
    """

    def __init__(self, connection: CardConnection) -> None:
        self._connection = connection

    def select(self) -> CardStatus:
        """SELECT: choose the application; its transient memory dies. CardNotFound if the card has it not."""
        where = "answer to SELECT"
        outer = Fields(self._call(apdu.SELECT, apdu.AID), where)
        if outer.tags != (TemplateTag.FILE_CONTROL_INFORMATION,):
            raise apdu.malformed(where, "expected file control information (tag 6F) and nothing else")
        inner = Fields(outer.value(TemplateTag.FILE_CONTROL_INFORMATION), where)
        if inner.value(TemplateTag.AID) != apdu.AID:
            raise apdu.malformed(where, "aid (tag 84): expected the application that was asked for")
        return CardStatus.parse(inner.value(TemplateTag.PROPRIETARY), where)

    def status(self) -> CardStatus:
        """GET STATUS. Like every command, it makes the card drop a hash that is not finished."""
        return CardStatus.parse(self._call(apdu.GET_STATUS))

    def verify_pin(self, pin: CardPin) -> None:
        """VERIFY. CardPinWrong with the tries left, CardPinBlocked, also by this very attempt.

        Under PIN check 2 one wrong PIN in 256 passes here; the server finds it out.
        """
        self._call(apdu.VERIFY, pin.reveal())

    @property
    def keypad(self) -> Keypad | None:
        """Find the keypad of the card's reader; None where it has none, and for cards without a reader."""
        connection = self._connection
        return connection.find_keypad() if isinstance(connection, KeypadConnection) else None

    def verify_pin_at_keypad(self) -> None:
        """VERIFY with the PIN typed at the reader; this program never has it.

        Otherwise as :meth:`verify_pin`. PinMissing without a keypad, and where nobody types; PinMalformed
        (PC/SC part 10).
        """
        self._at_keypad(apdu.VERIFY, lambda keypad: keypad.verify())

    def change_pin_at_keypad(self, digits: int) -> None:
        """CHANGE REFERENCE DATA with an old and a new PIN of ``digits`` digits each, typed at the reader.

        The number is fixed because part 10 has no words for a PIN that stands behind another of unknown
        length. Otherwise as :meth:`change_pin` and :meth:`verify_pin_at_keypad`.
        """
        self._at_keypad(apdu.CHANGE_REFERENCE_DATA, lambda keypad: keypad.change(digits))

    def pin_state(self) -> PinState:
        """VERIFY without a PIN: asks, uses no try and changes nothing. CardRefused in scheme basic."""
        try:
            self._call(apdu.VERIFY)
        except CardPinWrong as answer:
            return PinState(verified=False, tries_left=answer.tries_left)
        except CardPinBlocked:
            return PinState(verified=False, tries_left=0)
        return PinState(verified=True, tries_left=None)

    def change_pin(self, old: CardPin, new: CardPin) -> None:
        """CHANGE REFERENCE DATA, on the card alone. CardPinWrong, CardPinBlocked as :meth:`verify_pin`.

        Under PIN check 2 a mistyped old PIN passes once in 256 times and spoils the card's key until the PUK
        mends it; callers let people confirm the old PIN by a signature, or keep the PUK at hand.
        """
        self._call(apdu.CHANGE_REFERENCE_DATA, _prefixed(old.reveal()) + new.reveal())

    def unblock_pin(self, puk: CardPuk, new: CardPin) -> None:
        """RESET RETRY COUNTER: a new PIN by the PUK, blocked or not. CardPukWrong, CardPukBlocked."""
        self._call(apdu.RESET_RETRY_COUNTER, _prefixed(puk.reveal()) + new.reveal())

    def begin_personalisation(self) -> BlankCard:
        """BEGIN PERSONALISATION (step 751): the card's ephemeral point, its serial and its origin.

        That the point lies on P-256, and that the origin is one, is for the server to check. CardNotBlank.
        """
        where = "answer to BEGIN PERSONALISATION"
        fields = Fields(self._call(apdu.BEGIN_PERSONALISATION), where)
        point = fields.value(TemplateTag.CARD_POINT, POINT_LENGTH)
        if point[0] != 0x04:
            raise apdu.malformed(where, "card point (tag 90): expected an uncompressed point, from 04")
        origin = None
        if fields.has(TemplateTag.CERTIFICATE_OF_ORIGIN) or fields.has(TemplateTag.PROOF_OF_ORIGIN):
            origin = fields.value(TemplateTag.CERTIFICATE_OF_ORIGIN, ORIGIN_CERTIFICATE_LENGTH)
            origin += fields.value(TemplateTag.PROOF_OF_ORIGIN, RAW_SIGNATURE_LENGTH)
        return BlankCard(point, fields.value(TemplateTag.SERIAL, SERIAL_LENGTH), origin)

    def install(self, personalisation: CardPersonalisation, pin: CardPin | None, puk: CardPuk | None) -> None:
        """INSTALL (steps 757 to 760): keys, PIN and PUK onto the blank card, in one write.

        Scheme basic takes neither PIN nor PUK, the others a PIN and perhaps a PUK. Whatever the card answers,
        it forgets the key of BEGIN PERSONALISATION. InputError, PinMissing before anything is sent.
        """
        self._call(apdu.INSTALL, _install_data(personalisation, pin, puk))

    def hash_message(self, source: ByteSource, progress: Callable[[int], None] | None = None) -> None:
        """HASH MESSAGE (steps 480, 690, 880): every byte to the card, any size, constant memory.

        The empty message is valid. ``progress`` is told the bytes of each block. The first block makes the
        card forget an earlier hash and, under PIN policy 1, the PIN. Raises what ``source`` raises.
        """
        self._chained(apdu.HASH_MESSAGE, source.chunks(), progress)

    def load_digests(
        self, digests: tuple[Digest, ...], progress: Callable[[int], None] | None = None
    ) -> None:
        """LOAD DIGESTS: 1 to 65535 digests, all of 32, 48 or 64 bytes, to be signed in this order.

        ``progress`` is told the bytes of each block, the 3 of the header included. Otherwise as
        :meth:`hash_message`. InputError for another list, before anything is sent.
        """
        length = _digest_length(digests)
        header = len(digests).to_bytes(2, "big") + bytes((length,))

        def pieces() -> Iterator[bytes]:
            yield header
            yield from digests

        self._chained(apdu.LOAD_DIGESTS, pieces(), progress)

    def authorise(
        self, algorithm: Algorithm, rolling_values: tuple[RollingValue, ...]
    ) -> tuple[bytes, tuple[Quantity, ...]]:
        """AUTHORISE (steps 482, 694, 885): R, 16 bytes, and Q_1 ... Q_max(n, 1), 40 bytes each.

        Success consumes the hash and, under PIN policy 1, the PIN; an error neither. ``rolling_values`` are 0
        to 6 of 32 bytes, otherwise InputError. CardPinNotVerified; CardRefused without a hash.
        """
        _check_rolling_values(rolling_values)
        data = algorithm.number.to_bytes(2, "big") + bytes((len(rolling_values),)) + b"".join(rolling_values)
        answer = self._call(apdu.AUTHORISE, data)
        count = max(len(rolling_values), 1)
        expected = NONCE_LENGTH + count * KW_LENGTH
        if len(answer) != expected:
            raise apdu.malformed("answer to AUTHORISE", f"expected {expected} bytes, got {len(answer)}")
        starts = range(NONCE_LENGTH, expected, KW_LENGTH)
        return answer[:NONCE_LENGTH], tuple(Quantity(answer[i : i + KW_LENGTH]) for i in starts)

    def begin_issue(self) -> tuple[bytes, bytes]:
        """BEGIN ISSUE: the point of the card's origin key, compressed to 33 bytes, and its serial, 8.

        CardNotBlank; CardRefused for a card that was issued before.
        """
        fields = Fields(self._call(apdu.BEGIN_ISSUE), "answer to BEGIN ISSUE")
        point = fields.value(TemplateTag.ORIGIN_POINT, COMPRESSED_POINT_LENGTH)
        return point, fields.value(TemplateTag.SERIAL, SERIAL_LENGTH)

    def issue(self, signature: bytes) -> None:
        """ISSUE: the issuer's signature, r || s, 64 bytes, onto the card, for its life.

        CardNotBlank; CardRefused without BEGIN ISSUE. InputError for another length, before it is sent.
        """
        if len(signature) != RAW_SIGNATURE_LENGTH:
            raise InputError(
                f"issuer's signature: expected {RAW_SIGNATURE_LENGTH} bytes, got {len(signature)}"
            )
        self._call(apdu.ISSUE, signature)

    def factory_reset(self) -> None:
        """FACTORY RESET: back to blank, same serial. The credential's keys on the card are gone for good.

        CardPinNotVerified unless the card is blank or of scheme basic, its PIN is verified, or PIN and PUK
        are both blocked (a PUK that was never given counts as blocked).
        """
        self._call(apdu.FACTORY_RESET)

    def _call(self, command: Command, data: bytes = b"") -> bytes:
        try:
            return apdu.exchange(self._connection, command, data)
        except CardRefused as refusal:
            raise self._explained(refusal, command) from None

    def _at_keypad(self, command: Command, act: Callable[[Keypad], bytes]) -> None:
        keypad = self.keypad
        if keypad is None:
            raise PinMissing(
                "the card's reader has no keypad that this program can use",
                hint="give the PIN by a prompt, a file or HSM_SIGNER_CARD_PIN",
            )
        word = int.from_bytes(act(keypad), "big")
        if word == StatusWord.OK:
            return
        error = apdu.status_error(word, command)
        if isinstance(error, CardRefused):
            raise self._explained(error, command)
        raise error

    def _takes_extended(self) -> bool:
        connection = self._connection
        if not (isinstance(connection, ExtendedConnection) and connection.takes_extended_length()):
            return False
        return Feature.EXTENDED_LENGTH in self.status().features

    def _chained(
        self, command: Command, pieces: Iterator[bytes], progress: Callable[[int], None] | None
    ) -> None:
        extended = self._takes_extended()
        try:
            apdu.exchange_chained(self._connection, command, pieces, progress, extended=extended)
        except CardRefused as refusal:
            raise self._explained(refusal, command) from None

    def _explained(self, refusal: CardRefused, command: Command) -> CardError:
        """Explain status word 6985 ("not now") by the card's state, in words that a user can act on."""
        if refusal.status_word != StatusWord.CONDITIONS_NOT_SATISFIED or command is apdu.GET_STATUS:
            return refusal
        try:
            state = CardStatus.parse(apdu.exchange(self._connection, apdu.GET_STATUS)).state
        except SignerError:
            return refusal
        if command in (apdu.BEGIN_PERSONALISATION, apdu.INSTALL, apdu.BEGIN_ISSUE, apdu.ISSUE):
            return refusal if state is CardState.BLANK else _not_blank()
        if state is CardState.BLANK:
            return _blank()
        if state is CardState.PIN_BLOCKED:
            return apdu.status_error(StatusWord.BLOCKED, apdu.VERIFY)
        return refusal


def authorise_content(
    session: CardSession,
    challenge: Challenge,
    content: Content,
    algorithm: Algorithm,
    pin: Callable[[], CardPin] | None,
    progress: Callable[[int], None] | None = None,
) -> Authorisation:
    """Have the card authorise one signature, or one list: hash, then PIN, then AUTHORISE (figs 4a, 6a, 8).

    This order is the protocol's (section 9): a PIN given before the hash could be spent on another message.
    Everything that can be known beforehand is checked before the first block, so that nobody waits for a
    long file, or gives a PIN, for nothing.

    ``pin`` is called once, after hashing, and only if the card needs a PIN: never in scheme basic, and not
    under PIN policy 2 while a verification lasts. Where it is None the PIN is typed at the reader's keypad.
    ``progress`` is told the bytes of each block.

    Raises AlgorithmNotAllowed, AlgorithmUnsuitable, InputError, CardBlank, CardPinBlocked, PinMissing,
    CardMismatch for the card of another credential or scheme, and what the methods and ``pin`` raise.
    """
    _check_request(challenge, content, algorithm)
    status = session.status()
    _check_card(status, challenge)
    needs_pin = status.scheme is not Scheme.BASIC and (
        status.pin_policy is PinPolicy.ALWAYS or not session.pin_state().verified
    )
    if needs_pin and pin is None and session.keypad is None:
        raise PinMissing(
            "the card wants its PIN, and none was given",
            hint="it comes from a prompt, a file or HSM_SIGNER_CARD_PIN",
        )

    if isinstance(content, Message):
        session.hash_message(content.source, progress)
    else:
        session.load_digests(content.digests, progress)
    if needs_pin:
        if pin is None:
            session.verify_pin_at_keypad()
        else:
            session.verify_pin(pin())
    nonce, quantities = session.authorise(algorithm, challenge.rolling_values)
    return Authorisation(
        credential_id=challenge.credential_id,
        algorithm=algorithm,
        x=challenge.x,
        rolling_values=challenge.rolling_values,
        nonce=nonce,
        quantities=quantities,
    )


def _check_request(challenge: Challenge, content: Content, algorithm: Algorithm) -> None:
    """Raise InputError for what the card would answer with 6A80 and the server refuse."""
    if algorithm not in challenge.algorithms:
        allowed = ", ".join(known.value for known in challenge.algorithms)
        raise AlgorithmNotAllowed(
            f"this credential does not sign with {algorithm.value}", hint=f"it signs with: {allowed}"
        )
    if algorithm.hash is None and challenge.scheme is Scheme.PIN:
        raise AlgorithmUnsuitable(f"{algorithm.value} is not for credentials of scheme pin")
    if isinstance(content, DigestList):
        length = _digest_length(content.digests)
        if algorithm.hash is None:
            raise AlgorithmUnsuitable(
                f"{algorithm.value} signs whole messages, not digests",
                hint="let the card hash the message, one at a time",
            )
        if length != algorithm.hash.length:
            raise AlgorithmUnsuitable(
                f"{algorithm.value} signs digests of {algorithm.hash.length} bytes, these have {length}"
            )
    rolling_values = challenge.rolling_values
    _check_rolling_values(rolling_values)
    if challenge.scheme is not Scheme.ROLLING and rolling_values:
        raise InputError("challenge: expected rolling values in scheme rolling only")
    if challenge.scheme is Scheme.ROLLING:
        if not rolling_values:
            raise InputError("challenge: expected rolling values in scheme rolling")
        if len(set(rolling_values)) != len(rolling_values):
            raise InputError("challenge: expected rolling values that all differ")


def _check_card(status: CardStatus, challenge: Challenge) -> None:
    if status.state is CardState.BLANK:
        raise _blank()
    if status.credential_id != challenge.credential_id:
        raise CardMismatch(
            "this card belongs to another credential than the one that shall sign",
            hint="use the card of the user who signs; hsm-signer card info CARD shows which one this is",
        )
    if status.scheme is not challenge.scheme:
        said = "none" if status.scheme is None else status.scheme.value
        raise CardMismatch(
            f"this card works by another scheme than its credential: expected "
            f"{challenge.scheme.value}, the card says {said}",
            hint="the card was enrolled in another installation, or is not the card it claims to be",
        )
    if status.state is CardState.PIN_BLOCKED:
        raise apdu.status_error(StatusWord.BLOCKED, apdu.VERIFY)


def _blank() -> CardBlank:
    return CardBlank(
        "the card is blank: it holds no credential",
        hint="enrol a user with it: hsm-signer enrol USER --card CARD",
    )


def _not_blank() -> CardNotBlank:
    return CardNotBlank(
        "the card holds a credential already",
        hint="use a new card, or reset this one, which ends its credential: hsm-signer card reset CARD",
    )


def _digest_length(digests: tuple[Digest, ...]) -> int:
    if not 1 <= len(digests) <= MAX_DIGESTS:
        raise InputError(f"digests: expected 1 to {MAX_DIGESTS}, got {len(digests)}")
    length = len(digests[0])
    if length not in DIGEST_LENGTHS:
        raise InputError(f"digests: expected 32, 48 or 64 bytes each, got {length}")
    if any(len(digest) != length for digest in digests):
        raise InputError("digests: expected all of the same length")
    return length


def _check_rolling_values(rolling_values: tuple[RollingValue, ...]) -> None:
    count = len(rolling_values)
    if count > MAX_ROLLING_VALUES:
        raise InputError(f"challenge: expected at most {MAX_ROLLING_VALUES} rolling values, got {count}")
    if any(len(value) != ROLLING_VALUE_LENGTH for value in rolling_values):
        raise InputError(f"challenge: expected rolling values of {ROLLING_VALUE_LENGTH} bytes each")


def _prefixed(secret: bytes) -> bytes:
    return bytes((len(secret),)) + secret


def _install_data(personalisation: CardPersonalisation, pin: CardPin | None, puk: CardPuk | None) -> bytes:
    p = personalisation
    _check_length("credential id", p.credential_id, CREDENTIAL_ID_LENGTH)
    _check_length("token point", p.token_point, POINT_LENGTH)
    _check_length("wrapped KEK", p.wrapped_kek, KW_LENGTH)
    basic = p.scheme is Scheme.BASIC
    fields: list[tuple[InstallTag, bytes | None]] = [
        (InstallTag.CREDENTIAL_ID, p.credential_id),
        (InstallTag.SCHEME, bytes((p.scheme.number,))),
        (InstallTag.COMBINE, bytes((p.combine.number,))),
        (InstallTag.TOKEN_POINT, p.token_point),
        (InstallTag.WRAPPED_KEK, p.wrapped_kek),
    ]
    if basic:
        if pin is not None or puk is not None:
            raise InputError("a card of scheme basic takes neither PIN nor PUK")
        if p.wrapped_kcar is not None or p.combine is not Combine.NONE:
            raise InputError("personalisation: expected neither KCAR nor combination in scheme basic")
    else:
        if pin is None:
            raise PinMissing("a card of this scheme needs a PIN, and none was given")
        if p.wrapped_kcar is None:
            raise InputError(f"personalisation: expected KCAR in scheme {p.scheme.value}")
        _check_length("wrapped KCAR", p.wrapped_kcar, KW_LENGTH)
        for name, tries in (("PIN", p.pin_tries), ("PUK", p.puk_tries)):
            if not 1 <= tries <= MAX_TRIES:
                expected = f"1 to {MAX_TRIES} {name} tries"
                raise InputError(f"personalisation: expected {expected}, got {tries}")
        fields += [
            (InstallTag.PIN_POLICY, bytes((p.pin_policy.number,))),
            (InstallTag.PIN_CHECK, bytes((p.pin_check.number,))),
            (InstallTag.WRAPPED_KCAR, p.wrapped_kcar),
            (InstallTag.PIN, pin.reveal()),
            (InstallTag.PUK, None if puk is None else puk.reveal()),
            (InstallTag.TRIES, bytes((p.pin_tries, p.puk_tries))),
        ]
    return b"".join(tlv(tag, value) for tag, value in fields if value is not None)


def _check_length(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise InputError(f"personalisation: {name}: expected {length} bytes, got {len(value)}")
