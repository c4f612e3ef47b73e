"""Enrolments by hand: a card's wish, and one that stops before its first authorisation."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from hsm_signer.card.address import create_card
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.testing import PIN, PUK, Person
from hsm_signer.types import Combine, KeySpec, NewCredential, PinCheck, PinPolicy, Scheme
from hsm_signer.workstation.servers import EnrolmentServer

POINT = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)
"""The base point of P-256: a point of nobody's card."""


def wanted(scheme: Scheme = Scheme.ROLLING, key: KeySpec = KeySpec.P256, **changes: Any) -> NewCredential:
    """A card's wish, for a user nobody has; ``changes``: fields that are to be others."""
    basic = scheme is Scheme.BASIC
    return replace(
        NewCredential(
            owner=f"new-{secrets.token_hex(4)}",
            scheme=scheme,
            combine=Combine.NONE if basic else Combine.CBC,
            key=key,
            pin_policy=PinPolicy.NONE if basic else PinPolicy.ALWAYS,
            pin_check=PinCheck.NONE if basic else PinCheck.SERVER,
            pin_tries=0 if basic else 3,
            puk_tries=0 if basic else 10,
            card_point=POINT,
            card_serial=bytes(8),
        ),
        **changes,
    )


def pending(server: EnrolmentServer, folder: Path, scheme: Scheme = Scheme.ROLLING) -> tuple[Person, bytes]:
    """Carol's personalised card whose first authorisation has not been sent, and its certificate request."""
    person = Person("carol", scheme, KeySpec.P256, folder / "carol.card")
    create_card(person.address)
    basic = scheme is Scheme.BASIC
    with person.card() as card:
        point, serial, _ = card.begin_personalisation()
        changes: dict[str, Any] = {} if basic else {"pin_check": PinCheck.CARD}
        asked = wanted(scheme, owner=person.name, card_point=point, card_serial=serial, **changes)
        begun = server.begin_enrolment(asked, None)
        pin = None if basic else CardPin(PIN, source="test")
        card.install(begun.personalisation, pin, None if basic else CardPuk(PUK, source="test"))
    return person, begun.request_info
