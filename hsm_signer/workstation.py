"""The workstation of figure 1 (110): brings the card and the server together.

The card is held from SELECT to AUTHORISE and released before the server signs. Whatever may be asked again
without harm is asked again here: the same request where the server says so, a new authorisation where
another signature came first.
"""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from . import algorithms, owners
from .card.apdu import CardState
from .card.session import CardSession, authorise_content
from .content import BytesSource
from .errors import (
    CardAnswerMalformed,
    CardBlank,
    CardError,
    CardMemoryDamaged,
    CardMismatch,
    CardNotBlank,
    CardRemoved,
    ChallengeStale,
    CredentialExists,
    CredentialUnknown,
    InputError,
    SignerError,
    TokenUnsuitable,
)
from .pins import CardPin, CardPuk
from .types import (
    Algorithm,
    Begun,
    Challenge,
    Combine,
    Content,
    CredentialId,
    CredentialRecord,
    CredentialView,
    Event,
    KeySpec,
    Message,
    NewCredential,
    PinCheck,
    PinPolicy,
    Scheme,
    SigningRequest,
    SignOutcome,
    Status,
)

OpenCard = Callable[[], AbstractContextManager[CardSession]]
"""Connects to the card and selects the applet; the ``with`` releases it."""
AnyCredential = CredentialRecord | CredentialView
"""What a server near gives, and what one far away does: the attributes they share are the same."""
AskPin = Callable[[], CardPin]
Progress = Callable[[int], None]
"""Told the bytes of each block that has gone to the card."""

RESUBMISSIONS = 12
"""How often the same request is sent, at most: against one other process that signs without a pause with the
same credential, seven in vain were seen in 400 signatures."""
AUTHORISATIONS = 60
"""How often the card is asked because another signature came first, at most: as above, 21 were seen."""
PAUSE = 0.02
"""Seconds of the first pause; each is twice as long as the one before, plus a random share."""
LONGEST_PAUSE = 0.5
"""All pauses together outlast a worker of the service that is started anew."""
LONGEST_WAIT_ASKED = 10.0
"""Seconds: a service that asks for a longer pause than this is not obeyed."""
PATIENCE = 90.0
"""Seconds after which the same request is not sent again: an attempt may last as long as its own timeout."""

DEFAULT_PIN_TRIES = 3
DEFAULT_PUK_TRIES = 10


class SigningServer(Protocol):
    """What signing needs of a server, near or far."""

    def challenge(self, credential_id: CredentialId) -> Challenge:
        """Step 880."""
        ...

    def sign(self, request: SigningRequest) -> SignOutcome:
        """Steps 1 to 10."""
        ...


class EnrolmentServer(SigningServer, Protocol):
    """What enrolment needs beyond that."""

    @property
    def combines(self) -> tuple[Combine, ...]:
        """Combine methods that the server's token has, the default first."""
        ...

    def obstacle(self, scheme: Scheme, key: KeySpec) -> str:
        """Why the server cannot hold such a credential, in words; "" if it can."""
        ...

    def live(self, owner: str) -> AnyCredential:
        """The user's credential, or the newest revoked one; raises CredentialUnknown."""
        ...

    def record(self, credential_id: CredentialId) -> AnyCredential:
        """A credential by id; raises CredentialUnknown."""
        ...

    def begin_enrolment(self, wanted: NewCredential, subject: str | None) -> Begun:
        """Keys and a pending record."""
        ...

    def request_info(self, credential_id: CredentialId) -> bytes:
        """DER CertificationRequestInfo of a pending credential."""
        ...

    def give_up_enrolment(self, credential_id: CredentialId) -> None:
        """Delete a pending record."""
        ...


class CredentialServer(EnrolmentServer, Protocol):
    """What the commands about credentials need beyond that."""

    def all_of(self, owner: str) -> Sequence[AnyCredential]:
        """Every credential of the user, the live one first."""
        ...

    def records(self) -> Iterator[AnyCredential]:
        """All credentials, ascending by credential id."""
        ...

    def change_status(self, credential_id: CredentialId, event: Event) -> AnyCredential:
        """Suspend, resume, unlock or revoke; raises StatusUnsuitable."""
        ...

    def certification_request(self, credential_id: CredentialId) -> str:
        """PKCS#10, PEM; raises CredentialPending."""
        ...

    def certificates(self, credential_id: CredentialId) -> tuple[bytes, ...]:
        """The chain kept beside the credential, DER each, leaf first."""
        ...

    def set_certificates(self, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
        """Keep another; raises CertificateUnsuitable."""
        ...


@dataclass(frozen=True, slots=True)
class Pauses:
    """How to wait between attempts; tests put in their own."""

    sleep: Callable[[float], None] = time.sleep
    share: Callable[[], float] = random.random

    def wait(self, attempt: int, asked: float | None = None) -> None:
        """Before attempt ``attempt`` + 1; ``asked``: the seconds that the service wants to be left alone."""
        pause = min(PAUSE * 2**attempt, LONGEST_PAUSE) * (0.5 + self.share())
        self.sleep(max(pause, min(asked or 0.0, LONGEST_WAIT_ASKED)))


def sign_content(
    server: SigningServer,
    open_card: OpenCard,
    content: Content,
    *,
    algorithm: Algorithm | None,
    ask_pin: AskPin | None,
    progress: Progress | None = None,
    pauses: Pauses = Pauses(),
    credential_id: CredentialId | None = None,
) -> SignOutcome:
    """One authorisation by the card, carried out by the server.

    ``algorithm`` None takes the key's default; ``credential_id`` None that of the card which is there first,
    and no other card may take its place later. Raises CardMismatch for another card, what card and server
    refuse, and the last retryable error where trying again did not help.
    """
    for attempt in range(AUTHORISATIONS):
        with open_card() as card:
            on_card = card_credential(card)
            if credential_id not in (None, on_card):
                raise CardMismatch(
                    "this is another card than before", hint="begin again with the card that is to sign"
                )
            credential_id = on_card
            challenge = server.challenge(credential_id)
            chosen = algorithm or algorithms.key_spec_of(challenge.spki).default_algorithm
            authorisation = authorise_content(card, challenge, content, chosen, ask_pin, progress)
        try:
            return submit(server, SigningRequest(authorisation, content), pauses)
        except ChallengeStale:
            if attempt == AUTHORISATIONS - 1:
                raise
            pauses.wait(attempt)
    raise AssertionError("unreachable")


def submit(server: SigningServer, request: SigningRequest, pauses: Pauses = Pauses()) -> SignOutcome:
    """Send one request until it is carried out or refused; the server never carries it out twice.

    What was waited for already (errors.SignerError.waited) is not asked again.
    """
    begun = time.monotonic()
    for attempt in range(RESUBMISSIONS):
        try:
            return server.sign(request)
        except ChallengeStale:
            raise  # this request will never do
        except SignerError as error:
            last = attempt == RESUBMISSIONS - 1 or time.monotonic() - begun > PATIENCE
            if not error.retryable or error.waited or last:
                raise
            pauses.wait(attempt, error.retry_after)
    raise AssertionError("unreachable")


def card_credential(card: CardSession) -> CredentialId:
    """The credential id on the card; raises CardBlank."""
    status = card.status()
    if status.credential_id is None:
        raise CardBlank(
            "the card is blank: it holds no credential", hint="hsm-signer enrol USER --card CARD makes one"
        )
    return status.credential_id


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What an operator chooses for a new credential."""

    owner: str
    scheme: Scheme
    key: KeySpec
    pin: CardPin | None
    """None in scheme basic."""
    puk: CardPuk | None
    """May be None: a blocked PIN is then final."""
    combine: Combine | None = None
    """None: the token's default."""
    pin_policy: PinPolicy = PinPolicy.ALWAYS
    pin_check: PinCheck = PinCheck.SERVER
    pin_tries: int = DEFAULT_PIN_TRIES
    puk_tries: int = DEFAULT_PUK_TRIES
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An active credential."""

    record: AnyCredential
    certification_request: str
    """PEM."""
    resumed: bool
    """True where an enrolment begun earlier was finished: the card kept its PIN and PUK."""


def enrol(
    server: EnrolmentServer,
    open_card: OpenCard,
    wanted: Enrolment,
    pauses: Pauses = Pauses(),
) -> Enrolled:
    """Enrol a user with a blank card (docs/protocol.md, section 7), or finish what was interrupted.

    Raises CredentialExists, CardNotBlank, TokenUnsuitable, InputError, and what card, token and store refuse.
    A card that refuses INSTALL leaves nothing behind; a connection that broke leaves a pending record, which
    the same command finishes or replaces.
    """
    # Here and not above: signing does without.
    from . import pkcs10

    check_enrolment(wanted, server)
    if wanted.scheme is not Scheme.BASIC and wanted.pin is None:
        raise InputError("PIN: schemes pin and rolling need one")
    before = _earlier(server, wanted.owner)
    with open_card() as card:
        credential_id = _resumable(before, card)
        resumed = credential_id is not None
        if credential_id is None:
            if before is not None:
                server.give_up_enrolment(before.credential_id)
            credential_id = _personalise(server, card, wanted)
    request_info = server.request_info(credential_id)
    pin = wanted.pin
    outcome = sign_content(
        server,
        open_card,
        Message(BytesSource(request_info)),
        algorithm=None,
        ask_pin=None if pin is None else lambda: pin,
        pauses=pauses,
        credential_id=credential_id,
    )
    return Enrolled(
        record=server.record(credential_id),
        certification_request=pkcs10.certification_request(
            request_info, outcome.algorithm, outcome.signatures[0]
        ),
        resumed=resumed,
    )


def examine(server: EnrolmentServer, open_card: OpenCard, wanted: Enrolment) -> AnyCredential | None:
    """What :func:`enrol` would do, changing nothing and before anybody is asked for a PIN.

    The pending record that it would finish, with the PIN the card has already; None for a new enrolment.
    Raises what enrol raises for user, token and card; the PIN is not looked at.
    """
    check_enrolment(wanted, server)
    before = _earlier(server, wanted.owner)
    with open_card() as card:
        return None if _resumable(before, card) is None else before


def check_enrolment(wanted: Enrolment, server: EnrolmentServer) -> None:
    """What can be known without card and store, PIN aside; raises InputError, TokenUnsuitable."""
    from . import pkcs10

    owners.check_owner(wanted.owner)
    pkcs10.subject_name(wanted.owner, wanted.subject)
    if obstacle := server.obstacle(wanted.scheme, wanted.key):
        raise TokenUnsuitable(
            f"{obstacle}: no credential with key {wanted.key.cli_name}, scheme {wanted.scheme.name.lower()}",
            hint="hsm-signer doctor, at the server, shows what its token can do",
        )


def _resumable(before: AnyCredential | None, card: CardSession) -> CredentialId | None:
    """The pending credential that is on the card; None for a blank card. Raises CardNotBlank for another."""
    on_card = card.status().credential_id
    if on_card is None or (before is not None and before.credential_id == on_card):
        return on_card
    raise CardNotBlank(
        "the card holds a credential already",
        hint="take another card, or make this one blank: hsm-signer card reset CARD",
    )


def _earlier(server: EnrolmentServer, owner: str) -> AnyCredential | None:
    """The user's pending record; None if there is none. Raises CredentialExists for a finished one."""
    try:
        record = server.live(owner)
    except CredentialUnknown:
        return None
    if record.status is Status.PENDING:
        return record
    if record.status is Status.REVOKED:
        return None
    raise CredentialExists(
        f"user {owner!r} has a credential already ({record.status.name.lower()})",
        hint=f"hsm-signer credential revoke {shlex.quote(owner)} ends it for ever; then enrol again",
    )


def _personalise(server: EnrolmentServer, card: CardSession, wanted: Enrolment) -> CredentialId:
    """BEGIN PERSONALISATION, keys in the token, INSTALL."""
    basic = wanted.scheme is Scheme.BASIC
    combine = Combine.NONE if basic else wanted.combine or server.combines[0]
    card_point, card_serial = card.begin_personalisation()
    begun = server.begin_enrolment(
        NewCredential(
            owner=wanted.owner,
            scheme=wanted.scheme,
            combine=combine,
            key=wanted.key,
            pin_policy=PinPolicy.NONE if basic else wanted.pin_policy,
            pin_check=PinCheck.NONE if basic else wanted.pin_check,
            pin_tries=0 if basic else wanted.pin_tries,
            puk_tries=0 if basic else wanted.puk_tries,
            card_point=card_point,
            card_serial=card_serial,
        ),
        wanted.subject,
    )
    try:
        card.install(begun.personalisation, wanted.pin, wanted.puk)
        if card.status().state is CardState.BLANK:
            raise CardError("the card did not take its keys")
    except (CardRemoved, CardMemoryDamaged, CardAnswerMalformed):
        raise  # nobody knows whether the card took them; the same command finds out
    except SignerError:
        server.give_up_enrolment(begun.credential.credential_id)
        raise
    return begun.credential.credential_id
