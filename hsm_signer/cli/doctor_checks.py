"""What `hsm-signer doctor` checks, one result at a time.

The last part runs the whole cycle of enrolment and signing on the real token, for each scheme and key type,
but with a store and simulated cards in a temporary folder: the installation's own store is never written.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from hsm_signer.card.address import create_card, open_card
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import generate_pin, generate_puk
from hsm_signer.core import algorithms
from hsm_signer.core.card_origin import assurance_in_words
from hsm_signer.core.content import BytesSource
from hsm_signer.core.identity import fingerprint
from hsm_signer.errors import (
    ConfigError,
    CredentialUnknown,
    SignatureInvalid,
    SignerError,
    StoreError,
    TokenUnsuitable,
)
from hsm_signer.server.installation import PROFILE_FILE, SQLITE, Installation
from hsm_signer.server.server import Server
from hsm_signer.store.schema import HEAD
from hsm_signer.store.store import Store
from hsm_signer.token.environment import SecureEnvironment
from hsm_signer.token.probe import probe
from hsm_signer.token.profile import CONFINEMENTS, INDISPENSABLE, Confinement, TokenProfile
from hsm_signer.token.session import TokenSession
from hsm_signer.types import Algorithm, Digest, DigestList, KeySpec, Message, PinCheck, Scheme, Status
from hsm_signer.workstation.enrolment import Enrolment, enrol
from hsm_signer.workstation.signing import sign_content

from . import output

OpenCard = Callable[[], AbstractContextManager[CardSession]]
AskSecret = Callable[[str], str]

SLOW_KEYS = {KeySpec.RSA4096: tuple(Scheme), KeySpec.RSA3072: (Scheme.PIN, Scheme.BASIC)}
"""Left out unless all is asked for: generating one such key takes seconds."""
MESSAGE = b"hsm-signer doctor"


class Result(Enum):
    """How a check came out."""

    OK = "ok"
    IMPOSSIBLE = "not possible"
    """The token lacks something; nothing is broken."""
    WARNING = "warning"
    """Weaker than it should be, and known to be."""
    FAILED = "FAILED"
    SKIPPED = "skipped"
    """It needs something that failed before."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's."""

    name: str
    """Stable, dotted: ``token.login``, ``cycle.rolling.p256``."""
    result: Result
    words: str
    hint: str | None = None
    confinement: Confinement | None = None
    """Of checks of what confines keys: what the token makes of it."""

    def described(self) -> dict[str, Any]:
        """As --json prints it."""
        confinement = {} if self.confinement is None else msgspec.to_builtins(self.confinement)
        return {
            "name": self.name,
            "result": self.result.value.lower().replace(" ", "-"),
            "words": self.words,
            "hint": self.hint,
            **confinement,
        }


def examine(
    home: Path,
    ask: AskSecret,
    card: tuple[str, Callable[[Installation | None], OpenCard]] | None,
    *,
    slow: bool,
) -> Iterator[Check]:
    """Every check in turn; raises nothing that a check can tell.

    ``card``: its address and what opens it. ``slow``: the key types of :data:`SLOW_KEYS`, too.
    """
    installation: Installation | None = None
    try:
        installation = Installation.open(home)
        installation.token_uri  # noqa: B018  raises where it is no PKCS#11 URI
    except ConfigError as error:
        yield _failed("config", error)
    else:
        yield Check("config", Result.OK, f"{home}: read")
    with ExitStack() as stack:
        store: Store | None = None
        environment: SecureEnvironment | None = None
        if installation is None:
            for name in ("token", "store"):
                yield Check(name, Result.SKIPPED, "without a configuration nobody knows which")
        else:
            token = _Token(installation, ask, stack)
            yield from token.checks()
            opened = _Store(installation, stack)
            yield from opened.checks()
            store = opened.store
            keys = _Keys(installation)
            yield from keys.checks(token, store)
            environment = keys.environment
        if card is not None:
            yield _card(card[0], card[1](installation), environment, store)
        if environment is None:
            yield Check("cycle", Result.SKIPPED, "it needs the token and its keys")
        else:
            yield from _cycles(environment, slow=slow)


def _failed(name: str, error: SignerError) -> Check:
    return Check(name, Result.FAILED, f"{error.message.rstrip('.')} [{error.code}]", error.hint)


class _Token:
    """Login and profile."""

    def __init__(self, installation: Installation, ask: AskSecret, stack: ExitStack) -> None:
        self._installation, self._ask, self._stack = installation, ask, stack
        self.session: TokenSession | None = None
        self.profile: TokenProfile | None = None

    def checks(self) -> Iterator[Check]:
        try:
            session = self._stack.enter_context(self._installation.open_token(self._ask))
        except SignerError as error:
            yield _failed("token.login", error)
            yield Check("token.profile", Result.SKIPPED, "it needs the token")
            return
        self.session = session
        words = f"{session.label!r}, serial {session.serial}; {session.identity}"
        yield Check("token.login", Result.OK, words)
        try:
            profile = probe(session)
        except SignerError as error:
            yield _failed("token.profile", error)
            return
        self.profile = profile
        yield self._same_profile(session, profile)
        yield from _abilities(profile)
        yield from _confinements(profile, accepted=self._installation.config.token.accept_weak)

    def _same_profile(self, session: TokenSession, profile: TokenProfile) -> Check:
        path = self._installation.home / PROFILE_FILE
        try:
            stored = TokenProfile.from_json(path.read_bytes())
        except OSError:
            stored = None
        if stored is None or stored.identity != session.identity:
            # The next command makes one; nothing is wrong with that.
            return Check("token.profile", Result.OK, f"probed; {path.name} is not of this token's version")
        if stored != profile:
            hint = f"remove {path}: the next command probes the token anew"
            return Check("token.profile", Result.FAILED, "the token can do something else than stored", hint)
        return Check("token.profile", Result.OK, "probed, and the same as stored")


def _abilities(profile: TokenProfile) -> Iterator[Check]:
    """What everything needs, and what some schemes need."""

    def ability(name: str, found: int | str | None, words: str, *, needed: bool) -> Check:
        if found is None:
            return Check(name, Result.FAILED if needed else Result.IMPOSSIBLE, f"the token has no {words}")
        shown = f"0x{found:X}" if isinstance(found, int) else found
        return Check(name, Result.OK, f"{words} ({shown})")

    yield ability("token.key-wrap", profile.key_wrap, "AES Key Wrap, RFC 3394", needed=True)
    yield ability("token.sealing", profile.sealing, "HMAC-SHA-256 under a wrapped secret", needed=True)
    yield ability("token.private-wrap", profile.private_wrap, "wrapping of private keys", needed=True)
    yield ability("token.ecdh", profile.ecdh, "ECDH1_DERIVE", needed=True)
    yield ability("token.combine-cbc", profile.cbc_encrypt_data, "AES_CBC_ENCRYPT_DATA", needed=True)
    yield ability("token.combine-xor", profile.xor_base_and_data, "XOR_BASE_AND_DATA", needed=False)
    yield ability("token.cmac", profile.cmac, "AES-CMAC, for scheme pin", needed=False)
    yield ability("token.oaep", profile.oaep_hash, "RSA-OAEP, for scheme pin with RSA", needed=False)


def _confinements(profile: TokenProfile, *, accepted: bool) -> Iterator[Check]:
    """What is wanted of the token so that keys stay in it, whether it takes it, and whether it enforces it.

    ``accepted``: `init` was told to take the token although it is weak.
    """
    hint = "for trials only: its keys are not kept inside" if accepted else "take another token"
    for name, wanted in CONFINEMENTS.items():
        found = profile.confinement.get(name, Confinement(taken=False, enforced=False))
        result = Result.OK if found.enforced else Result.IMPOSSIBLE
        if name in INDISPENSABLE and not found.enforced:
            result = Result.WARNING if accepted else Result.FAILED
        taken = "taken" if found.taken else "not taken"
        words = f"{wanted}: {taken}, {'enforced' if found.enforced else 'NOT enforced'}"
        telling = result in (Result.WARNING, Result.FAILED)
        yield Check(f"token.{name}", result, words, hint if telling else None, found)


class _Keys:
    """The installation's own row, and the keys it names on the token."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self.environment: SecureEnvironment | None = None

    def checks(self, token: _Token, store: Store | None) -> Iterator[Check]:
        if token.session is None or token.profile is None or store is None:
            yield Check("token.keys", Result.SKIPPED, "it needs token and store")
            return
        try:
            environment = self._installation.environment(store, token.session, token.profile)
        except SignerError as error:
            yield _failed("token.keys", error)
            return
        self.environment = environment
        words = f"master key {environment.mk_id.hex()}, record key {environment.record_key_id.hex()}"
        yield Check("token.keys", Result.OK, words)
        yield Check("token.identity", Result.OK, fingerprint(environment.identity_spki))
        yield _changeable(environment)


def _changeable(environment: SecureEnvironment) -> Check:
    """Whether the installation's keys on the token are as a token that enforces it would keep them now."""
    name = "token.key-attributes"
    if not environment.profile.confines("modifiable"):
        return Check(name, Result.IMPOSSIBLE, "the token lets the attributes of its keys be changed")
    try:
        changeable = environment.changeable_keys()
    except SignerError as error:
        return _failed(name, error)
    if not changeable:
        return Check(name, Result.OK, "master key and record key cannot be changed")
    return Check(
        name,
        Result.WARNING,
        f"{' and '.join(changeable)}: whoever has the token's PIN can give them other uses",
        "an older version made them; a new installation has keys that cannot be changed, and key rotation of "
        "a later version will make such keys",
    )


class _Store:
    """Opens, is writable, holds so much. Nothing written stays."""

    def __init__(self, installation: Installation, stack: ExitStack) -> None:
        self._installation, self._stack = installation, stack
        self.store: Store | None = None

    def checks(self) -> Iterator[Check]:
        try:
            self.store = self._stack.enter_context(self._installation.open_store())
        except (StoreError, ConfigError) as error:
            yield _failed("store.open", error)
            for name in ("store.writable", "store.contents"):
                yield Check(name, Result.SKIPPED, "it needs the store")
            return
        yield Check("store.open", Result.OK, f"version {HEAD}")
        yield self._writable(self.store)
        yield self._contents(self.store)

    @staticmethod
    def _writable(store: Store) -> Check:
        """Writes, and takes it back."""
        try:
            store.probe_write()
        except StoreError as error:
            return _failed("store.writable", error)
        return Check("store.writable", Result.OK, "written to, and taken back")

    @staticmethod
    def _contents(store: Store) -> Check:
        counts: dict[Status, int] = {}
        at_sealing_1 = 0
        unreadable: list[object] = []
        try:
            for sealed in store.list_records(unreadable.append):
                counts[sealed.record.status] = counts.get(sealed.record.status, 0) + 1
                at_sealing_1 += sealed.record.opens_with_card_alone
            entries = store.last_entry()
        except StoreError as error:
            return _failed("store.contents", error)
        if unreadable:
            words = f"{output.count(len(unreadable), 'record')} cannot be read"
            return Check("store.contents", Result.FAILED, words, "hsm-signer audit verify says which and why")
        by_status = ", ".join(f"{n} {status.value}" for status in Status if (n := counts.get(status)))
        total = output.count(sum(counts.values()), "credential")
        words = f"{total}{f' ({by_status})' if by_status else ''}, {output.count(entries, 'evidence entry')}"
        if at_sealing_1:
            words += f"; {output.count(at_sealing_1, 'record')} at sealing 1 until the next signature of each"
        return Check("store.contents", Result.OK, words)


def _card(
    address: str, opener: OpenCard, environment: SecureEnvironment | None, store: Store | None
) -> Check:
    try:
        with opener() as session:
            status = session.status()
    except SignerError as error:
        return _failed("card", error)
    words = f"{address}: {status.state.value.replace('-', ' ')}, serial {status.serial.hex()}"
    if status.credential_id is None:
        return Check("card", Result.OK, words)
    if environment is None or store is None:
        return Check("card", Result.OK, f"{words}; whose it is cannot be told")
    try:
        record = Server(environment, store, actor="doctor").credential_by_id(status.credential_id)
    except CredentialUnknown:
        return Check(
            "card",
            Result.FAILED,
            f"{words}; its credential is not known here",
            "the card belongs to another installation, or its record was lost",
        )
    except SignerError as error:
        return _failed("card", error)
    words = (
        f"{words}; {record.owner}, {record.status.value}, assurance {assurance_in_words(record.assurance)}"
    )
    if record.scheme is not status.scheme:
        return Check("card", Result.FAILED, f"{words}; card and record are of different schemes")
    return Check("card", Result.OK, words)


def _cycles(environment: SecureEnvironment, *, slow: bool) -> Iterator[Check]:
    with (
        tempfile.TemporaryDirectory(prefix="hsm-signer-doctor-") as folder,
        Store.create(f"{SQLITE}{folder}/store.db") as store,
    ):
        server = Server(environment, store, actor="doctor")
        for scheme in (Scheme.ROLLING, Scheme.PIN, Scheme.BASIC):
            for key in KeySpec:
                if slow or scheme not in SLOW_KEYS.get(key, ()):
                    yield _cycle(server, Path(folder), scheme, key)


def _cycle(server: Server, folder: Path, scheme: Scheme, key: KeySpec) -> Check:
    """Enrol, then sign by every algorithm of the key, and verify apart from the token."""
    name = f"cycle.{scheme.value}.{key.value}"
    if obstacle := server.profile.obstacle(scheme, key):
        return Check(name, Result.IMPOSSIBLE, obstacle)
    began = time.monotonic()
    try:
        signatures = _enrol_and_sign(server, folder, scheme, key)
    except TokenUnsuitable as error:
        return Check(name, Result.IMPOSSIBLE, error.message)
    except SignerError as error:
        return _failed(name, error)
    took = time.monotonic() - began
    return Check(name, Result.OK, f"enrolled, {signatures} signatures verified, {took:.1f} s")


def _enrol_and_sign(server: Server, folder: Path, scheme: Scheme, key: KeySpec) -> int:
    owner = f"doctor {scheme.value} {key.value}"
    address = f"sim:{folder}/{scheme.name}-{key.name}.card"
    create_card(address)
    opener = partial(open_card, address)
    basic = scheme is Scheme.BASIC
    pin = None if basic else generate_pin()
    enrolled = enrol(
        server,
        opener,
        Enrolment(
            owner=owner,
            scheme=scheme,
            key=key,
            pin=pin,
            puk=None if basic else generate_puk(),
            pin_check=PinCheck.CARD,
            more_algorithms=key.algorithms,
        ),
    )
    ask_pin = None if pin is None else lambda: pin
    made = 0
    for algorithm in key.algorithms:
        for content, signed in _contents_for(algorithm):
            outcome = sign_content(server, opener, content, algorithm=algorithm, ask_pin=ask_pin)
            verify = algorithms.verifier(enrolled.credential.spki, algorithm)
            for each, signature in zip(signed, outcome.signatures, strict=True):
                verify(each, signature)
                made += 1
    if not made:
        raise SignatureInvalid("nothing was signed")
    return made


def _contents_for(algorithm: Algorithm) -> Iterator[tuple[Message | DigestList, tuple[bytes, ...]]]:
    """A message, and a list of digests, each with what its signatures have to be of."""
    message = Message(BytesSource(MESSAGE))
    if algorithm.hash is None:
        yield message, (MESSAGE,)
        return
    digests = tuple(
        Digest(hashlib.new(algorithm.hash.value, text).digest()) for text in (MESSAGE, b"", b"another")
    )
    yield message, digests[:1]
    yield DigestList(digests), digests
