"""The applet: docs/understand/apdu.md, command by command. Sections named in docstrings are that page's."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace

from . import command_data, keys
from . import constants as c
from .command_data import Refused, refuse
from .constants import Feature, Mode, PinCheck, PinPolicy, Role, Scheme, State, Sw, Tag
from .memory import Guard, Image, MemoryFailure, Origin, PersistentMemory, Personality
from .reader import Apdu
from .transient import LoadedHash, PartialHash, TransientMemory

_COMMANDS = {(command.cla, command.ins): command for command in c.COMMANDS.values()}
_ISSUE_COMMANDS = (c.BEGIN_ISSUE, c.ISSUE)
_PIN_COMMANDS = (c.VERIFY, c.CHANGE_REFERENCE_DATA, c.RESET_RETRY_COUNTER)


class Applet:
    """One applet instance over its memories. ``process`` answers data or raises Refused."""

    def __init__(
        self, memory: PersistentMemory, random: Callable[[int], bytes], *, extended_length: bool
    ) -> None:
        self._memory = memory
        self._random = random
        self._transient = TransientMemory()
        self._features = Feature.COMBINE_XOR | Feature.COMBINE_CBC | Feature.DIGEST_LISTS
        if extended_length:
            self._features |= Feature.EXTENDED_LENGTH
        self._handlers: dict[c.Command, Callable[[Apdu], bytes]] = {
            c.SELECT: self._select,
            c.GET_STATUS: self._get_status,
            c.VERIFY: self._verify,
            c.CHANGE_REFERENCE_DATA: self._change_reference_data,
            c.RESET_RETRY_COUNTER: self._reset_retry_counter,
            c.BEGIN_PERSONALISATION: self._begin_personalisation,
            c.HASH_MESSAGE: self._hash_message,
            c.LOAD_DIGESTS: self._load_digests,
            c.AUTHORISE: self._authorise,
            c.FACTORY_RESET: self._factory_reset,
            c.BEGIN_ISSUE: self._begin_issue,
            c.ISSUE: self._issue,
        }

    def power_off(self) -> None:
        """Transient memory dies."""
        self._transient.power_off()

    def process(self, apdu: Apdu) -> bytes:
        """Answer one command; steps 1 to 7 of "Order of checks" are here, the others in the handlers.

        Raises Refused with the status word.
        """
        command = _COMMANDS.get((apdu.cla & ~c.CHAINING, apdu.ins))
        partial = self._transient.partial
        if partial and not (command is partial.command and (apdu.p1, apdu.p2) == (command.p1, command.p2)):
            self._transient.partial = None  # Chaining: every other APDU drops it
        if apdu.cla & ~c.CHAINING not in (0x00, 0x80):
            refuse(Sw.UNKNOWN_CLASS)
        if command is None or not (self._transient.selected or command is c.SELECT):
            refuse(Sw.UNKNOWN_INSTRUCTION)
        # Any INSTALL destroys the personalisation key, so it is taken before anything can refuse.
        key = self._transient.take_personalisation() if command is c.INSTALL else None
        if apdu.more and not command.chained:
            refuse(Sw.NO_CHAINING)
        if (apdu.p1, apdu.p2) != (command.p1, command.p2):
            refuse(Sw.WRONG_P1P2)
        if self._state not in command.states or (command is c.INSTALL and key is None):
            refuse(Sw.CONDITIONS)
        if self._memory.image.wiping and command is not c.SELECT:
            refuse(Sw.CONDITIONS)
        if command in _ISSUE_COMMANDS and not self._may_issue(command):
            refuse(Sw.CONDITIONS)
        if command in _PIN_COMMANDS and not self._has_reference_data(command):
            refuse(Sw.NO_REFERENCE_DATA)
        if not command.nc_min <= len(apdu.data) <= command.nc_max:
            refuse(Sw.WRONG_LENGTH)
        try:
            if key is not None:
                return self._install(apdu, key)
            return self._handlers[command](apdu)
        except MemoryFailure:
            self._transient.clear()
            raise Refused(Sw.MEMORY_FAILURE) from None

    # What the memories say

    @property
    def _state(self) -> State:
        personality = self._memory.image.personality
        if personality is None:
            return State.BLANK
        blocked = personality.pin is not None and personality.pin.left == 0
        return State.PIN_BLOCKED if blocked else State.ACTIVE

    @property
    def _personality(self) -> Personality:
        """Only behind a state check."""
        personality = self._memory.image.personality
        assert personality is not None
        return personality

    def _has_reference_data(self, command: c.Command) -> bool:
        personality = self._personality
        guard = personality.puk if command is c.RESET_RETRY_COUNTER else personality.pin
        return guard is not None

    def _may_issue(self, command: c.Command) -> bool:
        """A card is issued once, and ISSUE wants the key of BEGIN ISSUE."""
        waits = self._transient.origin is not None
        return self._memory.image.origin is None and (waits or command is c.BEGIN_ISSUE)

    def _write(self, personality: Personality) -> None:
        self._memory.write(replace(self._memory.image, personality=personality))

    def _draw(self, length: int) -> bytes:
        return keys.random_bytes(self._random, length)

    # SELECT, GET STATUS

    def _select(self, apdu: Apdu) -> bytes:
        """Section "Selection"; also ends a FACTORY RESET that was torn."""
        if apdu.data != c.AID:
            refuse(Sw.NOT_FOUND)
        self._transient.power_off()
        if self._memory.image.wiping:
            self._wipe()
        self._transient.selected = True
        inner = command_data.tlv(c.AID_TAG, c.AID) + command_data.tlv(Tag.PROPRIETARY, self._get_status(apdu))
        return command_data.tlv(Tag.FCI, inner)

    def _get_status(self, _: Apdu) -> bytes:
        """Section "Status TLVs"."""
        image = self._memory.image
        features = self._features if image.origin is None else self._features | Feature.ORIGIN
        values = {
            Tag.VERSION: c.VERSION.to_bytes(2),
            Tag.STATE: bytes([self._state]),
            Tag.SERIAL: image.serial,
            Tag.FEATURES: int(features).to_bytes(2),
        }
        p = image.personality
        if p is not None:
            values[Tag.SCHEME] = bytes([p.scheme])
            values[Tag.COMBINE] = bytes([p.combine])
            values[Tag.CREDENTIAL_ID] = p.credential_id
            if p.pin is not None:
                values[Tag.PIN_LEFT] = bytes([p.pin.left])
                values[Tag.PIN_POLICY] = bytes([p.pin_policy])
                values[Tag.PIN_CHECK] = bytes([p.pin_check])
            if p.puk is not None:
                values[Tag.PUK_LEFT] = bytes([p.puk.left])
        return b"".join(command_data.tlv(tag, values[tag]) for tag in sorted(values))

    # PIN and PUK

    def _spend_try(self, role: Role, guard: Guard, secret: bytes) -> bytes:
        """Compare a PIN or PUK, and give the KEK it unblinds (32 bytes).

        The try is gone from persistent memory before the comparison, so cutting the power saves none. The
        caller gives the tries back, in the same write as whatever else it changes. Raises Refused: 6983 or
        63Cx.
        """
        personality = self._personality
        if guard.left == 0:
            refuse(Sw.BLOCKED)
        left = guard.left - 1
        spent = replace(guard, left=left)
        if role is Role.PIN:
            self._write(replace(personality, pin=spent))
        else:
            self._write(replace(personality, puk=spent))
        kept = len(guard.check)
        if not hmac.compare_digest(keys.powf(role, guard.check_salt, secret)[:kept], guard.check):
            self._transient.forget_kek()
            refuse(Sw.WRONG_SECRET | left if left else Sw.BLOCKED)
        return keys.xor(guard.blinded, keys.blind(role, personality.credential_id, guard.salt, secret))

    def _guard(
        self, role: Role, tries: int, kept: int, credential_id: bytes, secret: bytes, kek: bytes
    ) -> Guard:
        """A new PIN or PUK with fresh salts and all its tries; ``kept`` bytes of POWF stay on the card."""
        salt, check_salt = self._draw(c.SALT_LENGTH), self._draw(c.SALT_LENGTH)
        blinded = keys.xor(kek, keys.blind(role, credential_id, salt, secret))
        check = keys.powf(role, check_salt, secret)[:kept]
        return Guard(tries, tries, blinded, salt, check, check_salt)

    def _new_pin(self, old: Guard, pin: bytes, kek: bytes) -> Guard:
        personality = self._personality
        kept = personality.pin_check.kept
        return self._guard(Role.PIN, old.maximum, kept, personality.credential_id, pin, kek)

    def _verify(self, apdu: Apdu) -> bytes:
        """VERIFY: no data asks, otherwise they are the PIN."""
        guard = self._personality.pin
        assert guard is not None
        if not apdu.data:
            if not self._transient.verified:
                refuse(Sw.WRONG_SECRET | guard.left if guard.left else Sw.BLOCKED)
            return b""
        kek = self._spend_try(Role.PIN, guard, command_data.pin(apdu.data))
        self._write(replace(self._personality, pin=replace(guard, left=guard.maximum)))
        self._transient.verify(kek)
        return b""

    def _change_reference_data(self, apdu: Apdu) -> bytes:
        """CHANGE REFERENCE DATA: unblind with the old PIN, blind with the new, in one write."""
        guard = self._personality.pin
        assert guard is not None
        old, new = command_data.split(apdu.data)
        command_data.pin(old)
        command_data.pin(new)
        kek = self._spend_try(Role.PIN, guard, old)
        self._write(replace(self._personality, pin=self._new_pin(guard, new, kek)))
        self._transient.forget_kek()
        return b""

    def _reset_retry_counter(self, apdu: Apdu) -> bytes:
        """RESET RETRY COUNTER: unblind with the PUK, blind with the new PIN; both counters whole again."""
        personality = self._personality
        assert personality.pin is not None
        assert personality.puk is not None
        puk, new = command_data.split(apdu.data)
        command_data.puk(puk)
        command_data.pin(new)
        kek = self._spend_try(Role.PUK, personality.puk, puk)
        whole = replace(personality.puk, left=personality.puk.maximum)
        self._write(replace(self._personality, pin=self._new_pin(personality.pin, new, kek), puk=whole))
        self._transient.forget_kek()
        return b""

    # Personalisation

    def _begin_personalisation(self, _: Apdu) -> bytes:
        """BEGIN PERSONALISATION: a new ephemeral pair; an older one is gone. An issued card proves it."""
        key = keys.CardKey.draw(self._random)
        self._transient.personalisation = key
        image = self._memory.image
        answer = command_data.tlv(Tag.POINT, key.point) + command_data.tlv(Tag.SERIAL, image.serial)
        if image.origin is not None:
            proof = keys.CardKey(image.origin.scalar).prove_origin(key.point, image.serial)
            answer += command_data.tlv(Tag.ORIGIN_CERTIFICATE, image.origin.certificate)
            answer += command_data.tlv(Tag.ORIGIN_PROOF, proof)
        return answer

    def _install(self, apdu: Apdu, key: keys.CardKey) -> bytes:
        """INSTALL: section "INSTALL TLVs"; ``key`` is already out of transient memory."""
        given = command_data.parse_install(apdu.data)
        basic = given.scheme is Scheme.BASIC
        points = key.point + given.token_point
        try:
            z = key.agree(given.token_point)
            k_2 = keys.personalisation_key(z, 2, given.parameters, points)
            kek = keys.unwrap(k_2, given.wrapped_kek)
            kcar = b""
            if not basic:
                k_1 = keys.personalisation_key(z, 1, given.parameters, points)
                kcar = keys.unwrap(k_1, given.wrapped_kcar)
        except (keys.PointError, keys.IntegrityError):
            raise Refused(Sw.WRONG_DATA) from None

        cid, check = given.credential_id, given.pin_check
        pin = puk = None
        if not basic:
            pin = self._guard(Role.PIN, given.pin_tries, check.kept, cid, given.pin, kek)
        if given.puk is not None:
            puk = self._guard(Role.PUK, given.puk_tries, PinCheck.CARD.kept, cid, given.puk, kek)
        key_of_basic = kek if basic else b""
        self._write(
            Personality(
                given.scheme, given.combine, given.pin_policy, check, cid, kcar, key_of_basic, pin, puk
            )
        )
        return b""

    # Hash first, then PIN

    def _hash_message(self, apdu: Apdu) -> bytes:
        """HASH MESSAGE: the card hashes every byte itself."""
        partial = self._transient.partial
        if partial is None:
            partial = PartialHash(c.HASH_MESSAGE, Mode.MESSAGE, hashlib.sha256())
            self._begin_hash(partial)
        partial.hash.update(apdu.data)
        self._end_hash(partial, apdu)
        return b""

    def _load_digests(self, apdu: Apdu) -> bytes:
        """LOAD DIGESTS: H is the hash of a label and the bytes as they come, so nothing is kept."""
        partial = self._transient.partial
        # An error drops the chain; so it is set again only where this block was good.
        self._transient.partial = None
        body = apdu.data
        first = partial is None
        if partial is None:
            if len(body) < c.DIGESTS_HEADER:
                refuse(Sw.WRONG_LENGTH)
            count, length = int.from_bytes(body[:2]), body[2]
            if count == 0 or length not in c.DIGEST_LENGTHS:
                refuse(Sw.WRONG_DATA)
            head = c.LABEL_DIGESTS + body[: c.DIGESTS_HEADER]
            body = body[c.DIGESTS_HEADER :]
            partial = PartialHash(
                c.LOAD_DIGESTS, Mode.DIGESTS, hashlib.sha256(head), length, missing=count * length
            )
        if len(body) > partial.missing or (not apdu.more and len(body) < partial.missing):
            refuse(Sw.WRONG_DATA)
        if first:
            self._begin_hash(partial)
        partial.missing -= len(body)
        partial.hash.update(body)
        self._transient.partial = partial
        self._end_hash(partial, apdu)
        return b""

    def _begin_hash(self, partial: PartialHash) -> None:
        """An accepted first block: one PIN entry cannot be spent on another message."""
        self._transient.partial = partial
        self._transient.loaded = None
        if self._personality.pin_policy is PinPolicy.ALWAYS:
            self._transient.forget_kek()

    def _end_hash(self, partial: PartialHash, apdu: Apdu) -> None:
        if not apdu.more:
            self._transient.loaded = LoadedHash(partial.mode, partial.hash.digest(), partial.digest_length)
            self._transient.partial = None

    def _authorise(self, apdu: Apdu) -> bytes:
        """AUTHORISE: R || Q_1 || ... (section "Formulas")."""
        personality = self._personality
        n = apdu.data[2]
        if len(apdu.data) != 3 + c.KEY_LENGTH * n:
            refuse(Sw.WRONG_LENGTH)
        algorithm = int.from_bytes(apdu.data[:2])
        values = [apdu.data[i : i + c.KEY_LENGTH] for i in range(3, len(apdu.data), c.KEY_LENGTH)]
        loaded = self._transient.loaded
        self._check_authorise(algorithm, values, loaded)
        if loaded is None:
            refuse(Sw.CONDITIONS)
        basic = personality.scheme is Scheme.BASIC
        if not (basic or self._transient.verified):
            refuse(Sw.NOT_VERIFIED)

        nonce = self._draw(c.NONCE_LENGTH)
        head = bytes(
            [personality.scheme, personality.combine, *apdu.data[:2], loaded.mode, personality.pin_policy]
        )
        d = keys.authorisation_digest(head, personality.credential_id, nonce, values, loaded.h)
        quantities = []
        for position in range(1, max(n, 1) + 1):
            t = keys.position_digest(position, d)
            if not basic:
                t = keys.combine(personality.combine, personality.kcar, t)
            key = personality.key if basic else self._transient.kek
            if personality.scheme is Scheme.ROLLING:
                key = keys.combine(personality.combine, key, values[position - 1])
            quantities.append(keys.wrap(t, key))
        self._transient.loaded = None
        if personality.pin_policy is PinPolicy.ALWAYS:
            self._transient.forget_kek()
        return nonce + b"".join(quantities)

    def _check_authorise(self, algorithm: int, values: list[bytes], loaded: LoadedHash | None) -> None:
        """Step 8 of the order of checks. Raises Refused(6A80)."""
        length = c.ALGORITHM_DIGEST_LENGTH.get(algorithm)
        if length is None:
            refuse(Sw.WRONG_DATA)
        if self._personality.scheme is not Scheme.ROLLING:
            if values:
                refuse(Sw.WRONG_DATA)
        elif not 1 <= len(values) <= c.ROLLING_VALUES_MAX or len(set(values)) < len(values):
            refuse(Sw.WRONG_DATA)
        if loaded is not None and loaded.mode is Mode.DIGESTS and length != loaded.digest_length:
            refuse(Sw.WRONG_DATA)

    # FACTORY RESET

    def _factory_reset(self, _: Apdu) -> bytes:
        """FACTORY RESET: the flag first, so that a torn wipe is finished by the next SELECT."""
        p = self._memory.image.personality
        if p is not None and p.pin is not None and not self._transient.verified:
            puk_dead = p.puk is None or p.puk.left == 0
            if p.pin.left or not puk_dead:
                refuse(Sw.NOT_VERIFIED)
        self._memory.write(replace(self._memory.image, wiping=True))
        self._wipe()
        self._transient.clear()
        return b""

    def _wipe(self) -> None:
        image = self._memory.image
        self._memory.write(Image(image.serial, origin=image.origin))

    # The card's origin

    def _begin_issue(self, _: Apdu) -> bytes:
        """BEGIN ISSUE: the point of an origin key, which is made once and waits for ISSUE."""
        key = self._transient.origin or keys.CardKey.draw(self._random)
        self._transient.origin = key
        serial = command_data.tlv(Tag.SERIAL, self._memory.image.serial)
        return command_data.tlv(Tag.ORIGIN_POINT, key.compressed) + serial

    def _issue(self, apdu: Apdu) -> bytes:
        """ISSUE: keep the origin key, with the issuer's signature, for the card's life."""
        key = self._transient.origin
        assert key is not None
        origin = Origin(key.scalar, key.compressed + apdu.data)
        self._memory.write(replace(self._memory.image, origin=origin))
        self._transient.origin = None
        return b""
