"""RemoteServer against the real service: everything a workstation does, from far away."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from hsm_signer.card.pins import CardPin
from hsm_signer.core import algorithms
from hsm_signer.core.content import FileSource
from hsm_signer.errors import (
    CertificateUnsuitable,
    ChannelUnsuitable,
    CredentialExists,
    CredentialLocked,
    CredentialPending,
    CredentialRevoked,
    CredentialSuspended,
    CredentialUnknown,
    NotAuthenticated,
    NotPermitted,
    RequestTooLarge,
    StatusUnsuitable,
    TokenUnsuitable,
    WrongKey,
)
from hsm_signer.testing import Home, Person, make_person
from hsm_signer.types import (
    ACCEPTED,
    Algorithm,
    Challenge,
    Combine,
    CredentialId,
    Event,
    KeySpec,
    Message,
    PinCheck,
    Scheme,
    SigningRequest,
    SpkiDer,
    Status,
)
from hsm_signer.workstation import offline
from hsm_signer.workstation.remote import RemoteServer
from hsm_signer.workstation.signing import submit
from tests.support.authority import Authority
from tests.support.far import MAX_MESSAGE, Far, far_service
from tests.support.people import digests
from tests.support.scenes import authorise, message, passing_wrong_pins, verifies

NOBODY = CredentialId(bytes(16))


@pytest.fixture(scope="module")
def far(template_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """One service, for all tests of the module: each enrols people of its own."""
    folder = tmp_path_factory.mktemp("far")
    with far_service(template_home, folder) as found:
        yield found
    shutil.rmtree(folder)


@pytest.fixture
def app(far: Far) -> Iterator[RemoteServer]:
    """A client with every role."""
    with far.as_client() as server:
        yield server


def test_what_can_be_enrolled(app: RemoteServer) -> None:
    assert app.capabilities().combines == (Combine.CBC,)
    assert app.obstacle(Scheme.ROLLING, KeySpec.P256) == ""
    assert app.capabilities().limits.digests == 1000


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("key", [KeySpec.P256, KeySpec.RSA2048])
def test_enrol_and_sign(far: Far, scheme: Scheme, key: KeySpec) -> None:
    with far.with_certificate() as server:
        person = far.enrolled(server, f"{scheme.value}-{key.value}", scheme=scheme, key=key)
        record = server.credential(person.name)
        assert (record.status, record.scheme, record.owner) == (Status.ACTIVE, scheme, person.name)
        assert server.credential_by_id(record.credential_id) == record
        for content in (message(b"a contract"), message(b""), digests(b"one", b"two", b"three")):
            outcome = person.sign(server, content)
            assert (outcome.credential_id, outcome.owner) == (record.credential_id, person.name)
            assert outcome.spki == record.spki
            verifies(outcome, content)
        request = server.certification_request(record.credential_id)
        assert request.startswith("-----BEGIN CERTIFICATE REQUEST-----")


def test_scheme_basic_needs_a_certificate(far: Far, app: RemoteServer) -> None:
    content = message()
    with far.with_certificate() as server:
        basic = far.enrolled(server, "berta", scheme=Scheme.BASIC)
        with pytest.raises(ChannelUnsuitable):
            basic.sign(app, content)
        verifies(basic.sign(server, content), content)


def test_a_message_of_five_megabytes(far: Far, app: RemoteServer, tmp_path: Path) -> None:
    person = far.enrolled(app, "mia", more_algorithms=(Algorithm.ECDSA_SHA384,))
    large = tmp_path / "large"
    large.write_bytes(os.urandom(5 << 20))
    outcome = person.sign(app, Message(FileSource(large)), Algorithm.ECDSA_SHA384)
    digest = hashlib.sha384(large.read_bytes()).digest()
    algorithms.verifier(outcome.spki, Algorithm.ECDSA_SHA384)(digest, outcome.signatures[0])


def test_a_message_that_is_too_large(far: Far, app: RemoteServer) -> None:
    person = far.enrolled(app, "max")
    authorisation = authorise(app, person, b"x").authorisation
    with pytest.raises(RequestTooLarge):
        app.sign(SigningRequest(authorisation, message(bytes(2 * MAX_MESSAGE))))
    verifies(person.sign(app, message()), message())


def test_as_many_digests_as_allowed(far: Far, app: RemoteServer) -> None:
    person = far.enrolled(app, "dina")
    content = digests(*(str(number).encode() for number in range(1000)))
    verifies(person.sign(app, content), content)


def test_the_same_request_again_gives_the_same_signatures(far: Far, app: RemoteServer) -> None:
    person = far.enrolled(app, "rita")
    request = authorise(app, person, digests(b"one"))
    first = app.sign(request)
    again = submit(app, request)
    assert (first.repeated, again.repeated) == (False, True)
    assert again.signatures == first.signatures


def test_a_wrong_pin_that_only_the_server_can_tell(far: Far, app: RemoteServer) -> None:
    person = far.enrolled(app, "wanda", pin_check=PinCheck.SERVER)
    wrong = passing_wrong_pins(person, 5, person.pin().reveal().decode())
    with pytest.raises(WrongKey):
        person.sign(app, pin=lambda: CardPin(wrong[0], source="test"))
    assert app.credential("wanda").failures == 1
    outcome = person.sign(app)
    assert outcome.failures_before == 1
    for each in wrong:
        with pytest.raises(WrongKey):
            person.sign(app, pin=lambda each=each: CardPin(each, source="test"))  # type: ignore[misc]
    assert app.credential("wanda").status is Status.LOCKED
    with pytest.raises(CredentialLocked):
        person.sign(app)
    assert app.change_status(outcome.credential_id, Event.UNLOCK).status is Status.ACTIVE
    verifies(person.sign(app, message()), message())


def test_suspended_resumed_revoked(far: Far, app: RemoteServer) -> None:
    person = far.enrolled(app, "sue")
    credential_id = app.credential("sue").credential_id
    assert app.change_status(credential_id, Event.SUSPEND).status is Status.SUSPENDED
    with pytest.raises(CredentialSuspended):
        person.sign(app)
    with pytest.raises(StatusUnsuitable):
        app.change_status(credential_id, Event.SUSPEND)
    assert app.change_status(credential_id, Event.RESUME).status is Status.ACTIVE
    assert app.change_status(credential_id, Event.REVOKE).status is Status.REVOKED
    with pytest.raises(CredentialRevoked):
        person.sign(app)
    assert app.credential("sue").status is Status.REVOKED

    person.card_path.unlink()
    again = far.enrolled(app, "sue")
    verifies(again.sign(app, message()), message())
    found = app.credentials_of("sue")
    assert [each.status for each in found] == [Status.ACTIVE, Status.REVOKED]
    assert found[1].credential_id == credential_id


def test_enrolling_twice(far: Far, app: RemoteServer) -> None:
    far.enrolled(app, "tom")
    with pytest.raises(CredentialExists):
        make_person(app, far.folder, "tom")


def test_enrolling_what_the_token_cannot_hold(far: Far, app: RemoteServer) -> None:
    if not (obstacle := app.obstacle(Scheme.PIN, KeySpec.ED25519)):
        pytest.fail("every token refuses this pair")
    with pytest.raises(TokenUnsuitable) as caught:
        make_person(app, far.folder, "eddy", scheme=Scheme.PIN, key=KeySpec.ED25519)
    assert obstacle in caught.value.message


def test_an_enrolment_that_was_given_up(far: Far, app: RemoteServer) -> None:
    from hsm_signer.card.address import create_card
    from hsm_signer.types import NewCredential, PinPolicy

    pia = Person("pia", Scheme.ROLLING, KeySpec.P256, far.folder / "pia.card")
    create_card(pia.address)
    with pia.card() as card:
        point, serial, _ = card.begin_personalisation()
    wanted = NewCredential(
        "pia",
        Scheme.ROLLING,
        Combine.CBC,
        KeySpec.P256,
        PinPolicy.ALWAYS,
        PinCheck.CARD,
        3,
        10,
        point,
        serial,
    )
    begun = app.begin_enrolment(wanted, "CN=Pia,O=Example")
    credential_id = begun.credential.credential_id
    assert begun.credential.status is Status.PENDING
    assert app.request_info(credential_id).request_info == begun.request_info
    with pytest.raises(CredentialPending):
        app.certification_request(credential_id)
    app.give_up_enrolment(credential_id)
    with pytest.raises(CredentialUnknown):
        app.credential_by_id(credential_id)


@pytest.mark.parametrize("name", ["Zoë Müller", "a/b", "..", "%2e?#&=+", "50% + 1"])
def test_users_of_any_name(far: Far, app: RemoteServer, name: str) -> None:
    made = Person(name, Scheme.ROLLING, KeySpec.P256, far.folder / f"{name.encode().hex()}.card")
    from hsm_signer.card.address import create_card
    from hsm_signer.card.pins import CardPuk
    from hsm_signer.testing import PUK
    from hsm_signer.workstation.enrolment import (
        Enrolment,
        enrol,
    )

    create_card(made.address)
    wanted = Enrolment(name, made.scheme, made.key, made.pin(), CardPuk(PUK, source="test"))
    enrolled = enrol(app, made.card, wanted)
    assert app.credential(name).credential_id == enrolled.credential.credential_id
    assert [each.owner for each in app.credentials_of(name)] == [name]


def test_nobody_of_that_name(app: RemoteServer) -> None:
    for ask in (
        lambda: app.credential("nobody"),
        lambda: app.credential_by_id(NOBODY),
        lambda: app.challenge(NOBODY),
    ):
        with pytest.raises(CredentialUnknown):
            ask()
    assert app.credentials_of("nobody") == []


def test_credentials_page_by_page(app: RemoteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(app.credentials())
    assert [each.owner for each in app.credentials_of("alice")] == ["alice"]
    assert {"alice", "bob", "paula"} <= {each.owner for each in whole}
    monkeypatch.setattr("hsm_signer.workstation.remote.PAGE", 2)
    assert list(app.credentials()) == whole


def test_evidence_page_by_page(far: Far, app: RemoteServer, monkeypatch: pytest.MonkeyPatch) -> None:
    person = far.enrolled(app, "eva")
    person.sign(app)
    credential_id = app.credential("eva").credential_id
    monkeypatch.setattr("hsm_signer.workstation.remote.PAGE", 2)
    with far.as_client("auditor") as auditor:
        found = list(auditor.entries(credential_id))
        assert [(entry.event, entry.outcome) for _, entry in found] == [
            (Event.ENROL, ACCEPTED),
            (Event.ACTIVATE, ACCEPTED),
            (Event.SIGN, ACCEPTED),
        ]
        assert {entry.actor for _, entry in found} == {"client app"}
        last = found[-1]
        assert next(auditor.entries(after=last[0] - 1)) == last
        with pytest.raises(NotPermitted):
            auditor.credential("eva")


def test_certificates(far: Far, app: RemoteServer) -> None:
    far.enrolled(app, "cora")
    far.enrolled(app, "carl")
    cora, carl = (app.credential(name).credential_id for name in ("cora", "carl"))
    authority = Authority()
    chain = tuple(authority.chain(app.certification_request(cora)))
    assert app.certificates(cora) == ()
    app.set_certificates(cora, chain)
    assert app.certificates(cora) == chain
    with pytest.raises(CertificateUnsuitable, match="certificate 1"):
        app.set_certificates(carl, chain)
    assert app.certificates(carl) == ()
    app.set_certificates(cora, ())
    assert app.certificates(cora) == ()


def test_who_may_what(far: Far) -> None:
    with far.as_client("signer") as signer:
        alice = signer.credential("alice").credential_id
        for ask in (
            lambda: signer.change_status(alice, Event.REVOKE),
            lambda: list(signer.entries()),
            lambda: signer.give_up_enrolment(alice),
            lambda: far.enrolled(signer, "nina"),
        ):
            with pytest.raises(NotPermitted):
                ask()
    with far.as_client("bound") as bound:
        assert [each.owner for each in bound.credentials()] == ["alice"]
        with pytest.raises(CredentialUnknown):
            bound.credential("bob")


@pytest.mark.parametrize("token", [None, "hsc_" + "A" * 43, "another-thing"])
def test_who_is_nobodys_client(far: Far, token: str | None) -> None:
    with (
        RemoteServer(far.service.url, token=token, ca=far.service.ca) as server,
        pytest.raises(NotAuthenticated) as caught,
    ):
        server.credential("alice")
    if token is None:
        assert caught.value.hint is not None
    else:
        assert token not in caught.value.message + (caught.value.hint or "")


@pytest.mark.parametrize("scheme", [Scheme.PIN, Scheme.BASIC])
def test_authorised_without_a_connection_and_submitted_later(far: Far, scheme: Scheme) -> None:
    from hsm_signer.card.commands import authorise_content

    with far.with_certificate() as server:
        person = far.enrolled(server, f"later-{scheme.value}", scheme=scheme)
        credential_id = server.credential(person.name).credential_id
        content = digests(b"one", b"two")
        challenge = Challenge(credential_id, scheme, None, (), tuple(Algorithm), SpkiDer(b""))
        with person.card() as card:
            made = authorise_content(card, challenge, content, Algorithm.ECDSA_SHA256, person.pin)
        kept = offline.decode(offline.encode(made, content, ("a", "b")))
        outcome = submit(server, kept.request)
        verifies(outcome, content)
        assert submit(server, kept.request).repeated
        server.change_status(credential_id, Event.REVOKE)
        with pytest.raises(CredentialRevoked):
            submit(server, kept.request)


def test_a_worker_that_dies_is_not_noticed(far: Far, app: RemoteServer) -> None:
    person = far.enrolled(app, "kim")
    request = authorise(app, person, digests(b"one"))
    before = far.service.pid_of("worker-0")
    far.service.kill(before, signal.SIGKILL)
    outcome = submit(app, request)
    verifies(outcome, digests(b"one"))
    assert not outcome.repeated
    assert far.service.pid_of("worker-0") != before
