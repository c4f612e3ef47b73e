"""Enrolment at the workstation: a blank card gets control of a new key (docs/understand/protocol.md, 7)."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass

from hsm_signer.card.apdu import CardState
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.core import algorithms, card_origin, certificate_requests, identity, owners
from hsm_signer.core.backoff import Backoff
from hsm_signer.core.content import BytesSource, digests_of
from hsm_signer.errors import (
    CardAnswerMalformed,
    CardError,
    CardMemoryDamaged,
    CardNotBlank,
    CardRemoved,
    CredentialExists,
    CredentialUnknown,
    EnrolmentRequestChanged,
    InputError,
    SignerError,
    TokenUnsuitable,
)
from hsm_signer.types import (
    Algorithm,
    Combine,
    CredentialId,
    EnrolmentStarted,
    Fingerprint,
    KeySpec,
    Message,
    NewCredential,
    PinCheck,
    PinPolicy,
    Scheme,
    SpkiDer,
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
    combine: Combine = Combine.CBC
    """In scheme basic there is none. Every token that can be used has this one; what others there are is the
    operator's choice and not the server's word: xor gives less."""
    pin_policy: PinPolicy = PinPolicy.ALWAYS
    pin_check: PinCheck = PinCheck.SERVER
    pin_tries: int = DEFAULT_PIN_TRIES
    puk_tries: int = DEFAULT_PUK_TRIES
    subject: str | None = None
    card_issuers: tuple[card_origin.Issuer, ...] = ()
    """Where there are any, a card of nobody else is enrolled."""
    more_algorithms: tuple[Algorithm, ...] = ()
    """What the key may sign besides what its type may by default."""


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

    What the server says is believed under its identity's signature only, before the card gets or authorises
    anything. Raises CredentialExists, CardNotBlank, CardOriginMissing, CardOriginWrong, TokenUnsuitable,
    InputError, IdentityUnknown, IdentityChanged, EnrolmentProofWrong, EnrolmentRequestChanged, and what card,
    token and store refuse. A card that refuses INSTALL leaves nothing behind; a connection that broke leaves
    a pending record, which the same command finishes or replaces.
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
            credential_id, request = _personalise(server, card, wanted)
        else:
            request = _request_begun_before(server, credential_id, wanted)
    pin, source = wanted.pin, BytesSource(request.info)
    algorithm = algorithms.key_spec_of(request.spki).default_algorithm
    outcome = sign_content(
        server,
        open_card,
        Message(source),
        algorithm=algorithm,
        ask_pin=None if pin is None else lambda: pin,
        backoff=backoff,
        credential_id=credential_id,
    )
    # Whatever the server said of its challenge: the request is signed by the key that it is about.
    signed = digests_of(source, {algorithm.hash})[algorithm.hash]
    algorithms.verifier(request.spki, algorithm)(signed, outcome.signature)
    return EnrolmentResult(
        credential=server.credential_by_id(credential_id),
        certification_request=certificate_requests.certification_request(
            request.info, algorithm, outcome.signature
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
    """Check what needs neither card nor PIN.

    Raises InputError, IdentityUnknown, IdentityChanged, AlgorithmUnsuitable, TokenUnsuitable.
    """
    server.identity  # noqa: B018  raises where it is not known, or another
    owners.check_owner(wanted.owner)
    algorithms.check_more_algorithms(wanted.key, wanted.more_algorithms)
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


@dataclass(frozen=True, slots=True)
class _Request:
    """The certificate request, made here of what is proven."""

    info: bytes
    """DER CertificationRequestInfo (RFC 2986, 4.1)."""
    spki: SpkiDer


def _request(wanted: Enrolment, spki: SpkiDer) -> _Request:
    name = certificate_requests.subject_name(wanted.owner, wanted.subject)
    return _Request(certificate_requests.certification_request_info(name, spki), spki)


def _request_begun_before(
    server: EnrolmentServer, credential_id: CredentialId, wanted: Enrolment
) -> _Request:
    """Make the request of an enrolment that is resumed. Raises as :func:`enrol` does."""
    found = server.request_info(credential_id)
    digest = identity.request_digest(found.proof.installation_id, credential_id, wanted.owner, found.spki)
    identity.check_signature(found.proof, digest, server.identity)
    request = _request(wanted, found.spki)
    if request.info != found.request_info:
        raise EnrolmentRequestChanged(
            "the enrolment begun before is for another certificate request than this command makes",
            hint="finish it with the --subject that it was begun with; if it is that one, somebody between "
            "here and the server has changed the request: the card authorised nothing",
        )
    return request


def check_proof(wanted: NewCredential, started: EnrolmentStarted, pinned: Fingerprint) -> None:
    """Check that the installation ``pinned`` made exactly this for exactly this card.

    ``wanted`` has the point that the card itself gave. Raises IdentityChanged, EnrolmentProofWrong.
    """
    card = started.personalisation
    for name in ("scheme", "combine", "pin_policy", "pin_check", "pin_tries", "puk_tries"):
        if getattr(card, name) != getattr(wanted, name):
            raise identity.proof_wrong(
                f"what came for the card has another {name.replace('_', ' ')} than was asked for"
            )
    spki = started.credential.spki
    digest = identity.enrolment_digest(
        started.proof.installation_id, wanted.owner, card, card_point=wanted.card_point, spki=spki
    )
    identity.check_signature(started.proof, digest, pinned)
    if (key := algorithms.key_spec_of(spki)) is not wanted.key:
        raise identity.proof_wrong(f"the key that was made is {key.value}; expected {wanted.key.value}")


def _personalise(
    server: EnrolmentServer, card: CardSession, wanted: Enrolment
) -> tuple[CredentialId, _Request]:
    """Bring keys from the token onto the card: BEGIN PERSONALISATION, begin_enrolment, INSTALL.

    What came is proven before INSTALL. Raises as :func:`enrol` does.
    """
    basic = wanted.scheme is Scheme.BASIC
    combine = Combine.NONE if basic else wanted.combine
    card_point, card_serial, origin = card.begin_personalisation()
    if wanted.card_issuers:
        # Here too: what carries the request to the server could take the wish out of it.
        card_origin.check_origin(origin, card_point, card_serial, wanted.card_issuers)
    credential = NewCredential(
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
        card_origin=origin,
        more_algorithms=wanted.more_algorithms,
    )
    started = server.begin_enrolment(credential, wanted.subject)
    credential_id = started.personalisation.credential_id
    try:
        check_proof(credential, started, server.identity)
        request = _request(wanted, started.credential.spki)
        if request.info != started.request_info:
            raise EnrolmentRequestChanged(
                "the server keeps another certificate request than is made here of user, subject and key",
                hint="it may be of another version, or somebody between here and it has changed the request; "
                "the card got nothing",
            )
        card.install(started.personalisation, wanted.pin, wanted.puk)
        if card.status().state is CardState.BLANK:
            raise CardError("the card did not take its keys")
    except (CardRemoved, CardMemoryDamaged, CardAnswerMalformed):
        raise  # nobody knows whether the card took them; the same command finds out
    except SignerError:
        with suppress(SignerError):  # a pending record does no harm, and the next enrolment deletes it
            server.give_up_enrolment(credential_id)
        raise
    return credential_id, request
