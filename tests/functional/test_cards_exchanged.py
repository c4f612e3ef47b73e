"""Another card in the reader than a moment ago: nothing is asked of it, nothing is signed with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.card.address import create_card
from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin
from hsm_signer.errors import CardMismatch, ChallengeStale, SignerError
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, Home, Person, make_person
from hsm_signer.types import KeySpec, Scheme, SigningRequest, Status
from hsm_signer.workstation.enrolment import (
    enrol,
)
from hsm_signer.workstation.signing import (
    sign_content,
)
from tests.support import victim
from tests.support.scenes import chain, message, still_signs


class Reader:
    """Gives out one card after the other; the last one stays."""

    def __init__(self, *people: Person) -> None:
        self.people = list(people)
        self.opened: list[str] = []

    def __call__(self) -> AbstractContextManager[CardSession]:
        person = self.people.pop(0) if len(self.people) > 1 else self.people[0]
        self.opened.append(person.name)
        return person.card()


class Stale:
    """A server whose first answer is that another signature came first."""

    def __init__(self, server: Server, error: type[SignerError]) -> None:
        self.challenge = server.challenge
        self._server = server
        self._errors = [error("testing")]

    def sign(self, request: SigningRequest) -> Any:
        if self._errors:
            raise self._errors.pop()
        return self._server.sign(request)


def asked(times: list[str]) -> Callable[[], CardPin]:
    """The PIN, noting each time it is given out."""

    def ask() -> CardPin:
        times.append("PIN")
        return CardPin(PIN, source="test")

    return ask


@pytest.mark.parametrize("other", ["bob", "paula", "basil"])
def test_between_two_attempts_of_a_signature(home: Home, server: Server, other: str) -> None:
    """One colleague takes the card out while the command tries again, another one puts theirs in."""
    alice, stranger = home["alice"], home[other]
    stale: Any = Stale(server, ChallengeStale)
    reader, pins = Reader(alice, stranger), list[str]()
    chains = {each: chain(server, home[each].record(server).credential_id) for each in ("alice", other)}

    with pytest.raises(CardMismatch, match="another card"):
        sign_content(stale, reader, message(b"hers"), algorithm=None, ask_pin=asked(pins))

    assert reader.opened == ["alice", other]
    assert pins == ["PIN"], "the other card was not given the first one's PIN"
    for each, before in chains.items():
        assert chain(server, home[each].record(server).credential_id) == before, "nothing was sent"
        still_signs(server, home[each])


def test_the_same_card_again_goes_on(home: Home, server: Server) -> None:
    """Or the test above would pass where nothing is ever tried again."""
    alice = home["alice"]
    stale: Any = Stale(server, ChallengeStale)
    reader = Reader(alice)
    outcome = sign_content(stale, reader, message(b"hers"), algorithm=None, ask_pin=alice.pin)
    assert (outcome.owner, reader.opened) == ("alice", ["alice", "alice"])


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
def test_another_card_than_the_caller_has_seen(home: Home, server: Server, name: str) -> None:
    theirs = home["bob"].record(server).credential_id
    pins: list[str] = []
    with pytest.raises(CardMismatch):
        sign_content(
            server, home[name].card, message(), algorithm=None, ask_pin=asked(pins), credential_id=theirs
        )
    assert pins == []


@pytest.mark.parametrize("scheme", list(Scheme))
def test_between_install_and_the_first_authorisation(
    home: Home, server: Server, tmp_path: Path, scheme: Scheme
) -> None:
    """Carol's enrolment is not finished with alice's card, and goes on with carol's."""
    carol = Person("carol", scheme, KeySpec.P256, tmp_path / "carol.card")
    create_card(carol.address)
    alice = home["alice"]
    before = chain(server, alice.record(server).credential_id)
    wanted = victim.wanted_enrolment("carol", scheme)
    reader = Reader(carol, alice)

    with pytest.raises(CardMismatch):
        enrol(server, reader, wanted)

    assert reader.opened == ["carol", "alice"]
    assert carol.record(server).status is Status.PENDING
    assert chain(server, alice.record(server).credential_id) == before
    enrolled = enrol(server, carol.card, wanted)
    assert enrolled.resumed
    still_signs(server, carol)


def test_a_card_of_another_enrolment_of_the_same_user(home: Home, server: Server, tmp_path: Path) -> None:
    """Same name, same PIN, an active card in place of the one just made: still another card."""
    dave = make_person(server, tmp_path, "dave")
    carol = replace(dave, name="carol", card_path=tmp_path / "carol.card")
    create_card(carol.address)
    with pytest.raises(CardMismatch):
        enrol(server, Reader(carol, dave), victim.wanted_enrolment("carol", Scheme.ROLLING))
    assert carol.record(server).status is Status.PENDING
    still_signs(server, dave)
