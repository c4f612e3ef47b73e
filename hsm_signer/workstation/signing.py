"""Signing at the workstation of figure 1 (110): the card authorises, the server signs.

The card is held from SELECT to AUTHORISE and released before the server signs. Whatever may be asked again
without harm is asked again here: the same request where the server says so, a new authorisation where
another signature came first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from hsm_signer.card.commands import CardSession, authorise_content
from hsm_signer.card.pins import CardPin
from hsm_signer.core import algorithms
from hsm_signer.core.backoff import Backoff
from hsm_signer.errors import CardBlank, CardMismatch, ChallengeStale
from hsm_signer.types import Algorithm, Content, CredentialId, SigningRequest, SignOutcome

from .retry import BACKOFF, retry
from .servers import SigningServer

OpenCard = Callable[[], AbstractContextManager[CardSession]]
"""Connects to the card and selects the applet; the ``with`` releases it."""
AskPin = Callable[[], CardPin]
Progress = Callable[[int], None]
"""Told the bytes of each block that has gone to the card."""

AUTHORISATIONS = 60
"""How often the card is asked because another signature came first, at most: as above, 21 were seen."""


def sign_content(
    server: SigningServer,
    open_card: OpenCard,
    content: Content,
    *,
    algorithm: Algorithm | None,
    ask_pin: AskPin | None,
    progress: Progress | None = None,
    backoff: Backoff = BACKOFF,
    credential_id: CredentialId | None = None,
) -> SignOutcome:
    """Sign content: have the card authorise it and the server carry that out.

    ``algorithm`` None takes the key's default; ``credential_id`` None that of the card which is there first,
    and no other card may take its place later. Raises CardMismatch for another card, what card and server
    refuse, and the last retryable error where trying again did not help.
    """

    def authorise_and_submit() -> SignOutcome:
        nonlocal credential_id
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
        return submit(server, SigningRequest(authorisation, content), backoff)

    return backoff.retry(
        authorise_and_submit, lambda error: isinstance(error, ChallengeStale), attempts=AUTHORISATIONS
    )


def submit(server: SigningServer, request: SigningRequest, backoff: Backoff = BACKOFF) -> SignOutcome:
    """Send one request until it is carried out or refused; the server never carries it out twice.

    What was waited for already (errors.SignerError.waited) is not asked again.
    """
    return retry(lambda: server.sign(request), backoff)


def card_credential(card: CardSession) -> CredentialId:
    """Return the id of the credential on the card; raises CardBlank."""
    status = card.status()
    if status.credential_id is None:
        raise CardBlank(
            "the card is blank: it holds no credential", hint="hsm-signer enrol USER --card CARD makes one"
        )
    return status.credential_id
