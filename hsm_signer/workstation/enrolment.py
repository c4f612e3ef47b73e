"""Enrolment at the workstation: a blank card gets control of a new key (docs/understand/protocol.md, 7)."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from hsm_signer.card.apdu import CardState
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.core import certificate_requests, owners
from hsm_signer.core.backoff import Backoff
from hsm_signer.core.content import BytesSource
from hsm_signer.errors import (
    CardAnswerMalformed,
    CardError,
    CardMemoryDamaged,
    CardNotBlank,
    CardRemoved,
    CredentialExists,
    CredentialUnknown,
    InputError,
    SignerError,
    TokenUnsuitable,
)
from hsm_signer.types import (
    Combine,
    CredentialId,
    KeySpec,
    Message,
    NewCredential,
    PinCheck,
    PinPolicy,
    Scheme,
    Status,
)

from .retry import BACKOFF
from .servers import AnyCredential, EnrolmentServer
from .signing import OpenCard, sign_content

DEFAULT_PIN_TRIES = 3
DEFAULT_PUK_TRIES = 10


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
class EnrolmentResult:
    """The result of an enrolment: the active credential and its certificate request."""

    credential: AnyCredential
    certification_request: str
    """PEM."""
    resumed: bool
    """True where an enrolment begun earlier was finished: the card kept its PIN and PUK."""


def enrol(
    server: EnrolmentServer,
    open_card: OpenCard,
    wanted: Enrolment,
    backoff: Backoff = BACKOFF,
) -> EnrolmentResult:
    """Enrol a user with a blank card (docs/understand/protocol.md, 7), or finish what was interrupted.

    Raises CredentialExists, CardNotBlank, TokenUnsuitable, InputError, and what card, token and store refuse.
    A card that refuses INSTALL leaves nothing behind; a connection that broke leaves a pending record, which
    the same command finishes or replaces.
    """
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
        backoff=backoff,
        credential_id=credential_id,
    )
    return EnrolmentResult(
        credential=server.credential_by_id(credential_id),
        certification_request=certificate_requests.certification_request(
            request_info, outcome.algorithm, outcome.signatures[0]
        ),
        resumed=resumed,
    )


def examine(server: EnrolmentServer, open_card: OpenCard, wanted: Enrolment) -> AnyCredential | None:
    """Find out what :func:`enrol` would do; changes nothing and needs no PIN.

    The pending record that it would finish, with the PIN the card has already; None for a new enrolment.
    Raises what enrol raises for user, token and card; the PIN is not looked at.
    """
    check_enrolment(wanted, server)
    before = _earlier(server, wanted.owner)
    with open_card() as card:
        return None if _resumable(before, card) is None else before


def check_enrolment(wanted: Enrolment, server: EnrolmentServer) -> None:
    """Check what needs neither card nor PIN; raises InputError, TokenUnsuitable."""
    owners.check_owner(wanted.owner)
    certificate_requests.subject_name(wanted.owner, wanted.subject)
    if obstacle := server.obstacle(wanted.scheme, wanted.key):
        raise TokenUnsuitable(
            f"{obstacle}: no credential with key {wanted.key.value}, scheme {wanted.scheme.value}",
            hint="hsm-signer doctor, at the server, shows what its token can do",
        )


def _resumable(before: AnyCredential | None, card: CardSession) -> CredentialId | None:
    """Return the pending credential on the card, None for a blank card. Raises CardNotBlank for another."""
    on_card = card.status().credential_id
    if on_card is None or (before is not None and before.credential_id == on_card):
        return on_card
    raise CardNotBlank(
        "the card holds a credential already",
        hint="take another card, or make this one blank: hsm-signer card reset CARD",
    )


def _earlier(server: EnrolmentServer, owner: str) -> AnyCredential | None:
    """Return the user's pending record, None if there is none. Raises CredentialExists for a finished one."""
    try:
        record = server.credential(owner)
    except CredentialUnknown:
        return None
    if record.status is Status.PENDING:
        return record
    if record.status is Status.REVOKED:
        return None
    raise CredentialExists(
        f"user {owner!r} has a credential already ({record.status.value})",
        hint=f"hsm-signer credential revoke {shlex.quote(owner)} ends it for ever; then enrol again",
    )


def _personalise(server: EnrolmentServer, card: CardSession, wanted: Enrolment) -> CredentialId:
    """Bring keys from the token onto the card: BEGIN PERSONALISATION, begin_enrolment, INSTALL."""
    basic = wanted.scheme is Scheme.BASIC
    combine = Combine.NONE if basic else wanted.combine or server.combines[0]
    card_point, card_serial = card.begin_personalisation()
    started = server.begin_enrolment(
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
        card.install(started.personalisation, wanted.pin, wanted.puk)
        if card.status().state is CardState.BLANK:
            raise CardError("the card did not take its keys")
    except (CardRemoved, CardMemoryDamaged, CardAnswerMalformed):
        raise  # nobody knows whether the card took them; the same command finds out
    except SignerError:
        server.give_up_enrolment(started.credential.credential_id)
        raise
    return started.credential.credential_id
