"""Every operation of the workers' socket, over a real worker with a real token and simulated cards."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import insert

from hsm_signer.config.service import ApprovalSettings, LimitSettings
from hsm_signer.core.canonical import sequence
from hsm_signer.core.content import digest_list_hash
from hsm_signer.core.interface import CredentialPage, EvidencePage, NumberedEntry
from hsm_signer.errors import (
    CertificateUnsuitable,
    ChallengeStale,
    CredentialExists,
    CredentialPending,
    CredentialUnknown,
    FrameMalformed,
    InputError,
    NotAuthenticated,
    RequestTooLarge,
    ServiceError,
    StatusUnsuitable,
)
from hsm_signer.service import clients
from hsm_signer.service.roles import Role
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import MAX_CHUNK, Kind, frame_bytes
from hsm_signer.service.worker import access, handlers
from hsm_signer.store import schema
from hsm_signer.testing import make_person
from hsm_signer.types import (
    ACCEPTED,
    Algorithm,
    Combine,
    CredentialId,
    CredentialView,
    Event,
    KeySpec,
    Message,
    PinCheck,
    PinPolicy,
    Scheme,
    Status,
)
from tests.support.authority import Authority
from tests.support.enrolments import POINT, wanted
from tests.support.people import digests
from tests.support.scenes import authorise, message, verifies
from tests.support.service import error_in, in_process, sign_call
from tests.support.tenants import Running, Tenants


@pytest.mark.parametrize("scheme", Scheme)
def test_enrol_and_sign(running: Running, tmp_path: Path, scheme: Scheme) -> None:
    with running.as_tls() as client:
        person = make_person(client, tmp_path, f"new-{scheme.value}", scheme=scheme)
        credential = client.credential(person.name)
        assert credential.status is Status.ACTIVE
        request = client.call(wire.GetCertificationRequest(credential_id=credential.credential_id))
        assert request.startswith("-----BEGIN CERTIFICATE REQUEST-----")
        for content in (message(b""), message(b"short"), message(secrets.token_bytes(1_200_000))):
            outcome = person.sign(client, content)
            verifies(outcome, content)
            assert outcome.owner == person.name
        listed = digests(b"one", b"two", b"three")
        verifies(person.sign(client, listed), listed)
        # The same request again: the same answer, nothing signed twice.
        again = authorise(client, person, b"again")
        first = client.sign(again)
        second = client.sign(again)
        assert (second.signatures, second.repeated) == (first.signatures, True)


def test_a_reply_says_how_long_each_step_took(running: Running) -> None:
    with running.as_client("app") as client:
        request = authorise(client, running.home["alice"], b"timed")
        reply = client.reply(*sign_call(request.authorisation, request.content))
        assert [step for step, _ in reply.steps] == list(range(1, 10))
        assert reply.client == "app"
        assert sum(microseconds for _, microseconds in reply.steps) <= reply.took
        assert reply.queued >= 0


def test_calls_at_once_are_all_answered(running: Running) -> None:
    alice = running.home["alice"]
    with running.as_client("app") as client:
        request = authorise(client, alice, b"x" * 200_000)
        stale = authorise(client, alice, b"y")
        numbers = [client.begin(wire.WhoAmI()) for _ in range(50)]
        signing = client.begin(*sign_call(request.authorisation, request.content))
        refused = client.begin(*sign_call(stale.authorisation, stale.content))
        numbers += [client.begin(wire.ListCredentials()) for _ in range(50)]
        for number in reversed(numbers):
            assert client.finish(number).kind.name == "REPLY"
        assert client.finish(signing).kind.name == "REPLY"
        failure = wire.decode(client.finish(refused).payload, wire.Failure)
        assert (failure.code, failure.client) == (ChallengeStale.code, "app")


def test_a_message_in_many_pieces_with_other_calls_between(running: Running) -> None:
    with running.as_client("app") as client:
        asked = authorise(client, running.home["alice"], b"x" * 200_000)
        assert isinstance(asked.content, Message)
        operation, message = sign_call(asked.authorisation, asked.content)
        assert message is not None
        number = client.begin(operation)
        for start in range(0, len(message), 999):
            client.send(frame_bytes(number, Kind.CHUNK, message[start : start + 999]))
            if start % 9990 == 0:
                assert client.call(wire.WhoAmI()).name == "app"
        frame = client.finish(number)
        outcome = wire.decode_result(operation, wire.decode(frame.payload, wire.Reply).result)
        verifies(outcome, asked.content)


def test_capabilities(running: Running) -> None:
    with running.as_client("app") as client:
        found = client.call(wire.GetCapabilities())
        assert found.combines[0] is Combine.CBC
        assert set(found.obstacles) == {f"{s.value}/{k.value}" for s in Scheme for k in KeySpec}
        assert found.obstacles["rolling/p256"] == ""
        assert "ed25519" in found.obstacles["pin/ed25519"]


def test_who_am_i(running: Running) -> None:
    with running.as_client("bound") as client:
        assert client.call(wire.WhoAmI()) == wire.ClientView("bound", tuple(Role), "alice", False)
    with running.as_tls() as client:
        assert client.call(wire.WhoAmI()).certificate is True


@pytest.mark.parametrize("caller", [{}, {"bearer": "hsc_nobody"}, {"certificate": bytes(32)}])
def test_nobody_gets_nothing(running: Running, caller: dict[str, Any]) -> None:
    with running.service.worker(**caller) as client:
        for operation in (wire.WhoAmI(), wire.ListCredentials(), wire.Logout(token="hsa_x")):
            with pytest.raises(NotAuthenticated):
                client.call(operation)
        assert client.call(wire.SelfTest()) is None  # the front's own


def test_login_and_logout(running: Running) -> None:
    secret = running.tenants.tokens["signer"]
    with running.service.worker(name="signer", secret=secret) as client:
        reply = client.reply(wire.Login(lifetime=60))
        access = wire.decode_result(wire.Login(lifetime=60), reply.result)
        assert reply.client == "signer"
        assert access.expires_in == 60
        assert access.token not in repr(access)
    with running.service.worker(bearer=access.token) as client:
        assert client.call(wire.WhoAmI()).name == "signer"
        assert client.call(wire.Logout(token=access.token)) is None
        with pytest.raises(NotAuthenticated):
            client.call(wire.WhoAmI())
    with running.as_client("signer") as client:
        assert client.call(wire.Logout(token="hsa_never-was")) is None


@pytest.mark.parametrize(
    "caller",
    [{}, {"name": "signer"}, {"secret": "hsc_x"}, {"name": "signer", "secret": "hsc_x"}],
)
def test_login_with_less_is_refused(running: Running, caller: dict[str, Any]) -> None:
    with running.service.worker(**caller) as client, pytest.raises(NotAuthenticated):
        client.call(wire.Login(lifetime=60))


def test_credentials_page_by_page(running: Running) -> None:
    with running.as_client("app") as client:
        everybody = client.call(wire.ListCredentials(limit=1000))
        assert not everybody.more
        assert {"alice", "bob", "basil"} <= {each.owner for each in everybody.credentials}
        found: list[CredentialView] = []
        more, after = True, None
        while more:
            page = client.call(wire.ListCredentials(after=after, limit=2))
            assert len(page.credentials) == 2 or not page.more
            found += page.credentials
            more, after = page.more, found[-1].credential_id
        assert found == list(everybody.credentials)
        alone = client.call(wire.ListCredentials(owner="alice"))
        assert [each.owner for each in alone.credentials] == ["alice"]
        assert client.call(wire.ListCredentials(owner="nobody")) == CredentialPage((), more=False)
        assert client.credential("alice") == alone.credentials[0]
        assert client.credential_by_id(alone.credentials[0].credential_id) == alone.credentials[0]


@pytest.mark.parametrize("given", [{}, {"owner": "alice", "credential_id": bytes(16)}])
def test_a_credential_by_one_name(running: Running, given: dict[str, Any]) -> None:
    with running.as_client("app") as client, pytest.raises(InputError, match="exactly one of"):
        client.call(wire.GetCredential(**given))


IdCall = Callable[[CredentialId], Any]
WITH_ID: dict[str, IdCall] = {
    "credential": lambda i: wire.GetCredential(credential_id=i),
    "certificates": lambda i: wire.GetCertificates(credential_id=i),
    "set-certificates": lambda i: wire.SetCertificates(credential_id=i, certificates=()),
    "certification-request": lambda i: wire.GetCertificationRequest(credential_id=i),
    "challenge": lambda i: wire.GetChallenge(credential_id=i),
    "request-info": lambda i: wire.GetRequestInfo(credential_id=i),
    "give-up-enrolment": lambda i: wire.GiveUpEnrolment(credential_id=i),
    "suspend": lambda i: wire.ChangeStatus(credential_id=i, event=Event.SUSPEND),
}


@pytest.mark.parametrize("name", WITH_ID)
def test_a_credential_that_is_not_there(running: Running, name: str) -> None:
    with running.as_client("app") as client:
        with pytest.raises(CredentialUnknown):
            client.call(WITH_ID[name](CredentialId(bytes(16))))
        for length in (0, 15, 17):
            with pytest.raises(FrameMalformed, match=r"Call: ValidationError \.operation\.credential_id"):
                client.call(WITH_ID[name](CredentialId(bytes(length))))
        with pytest.raises(CredentialUnknown):
            client.call(WITH_ID[name](CredentialId(bytes(16))))


def test_other_ids_are_16_bytes(running: Running) -> None:
    with running.as_client("app") as client:
        with pytest.raises(FrameMalformed, match=r"\.operation\.after$"):
            client.call(wire.ListCredentials(after=CredentialId(b"abc")))
        with pytest.raises(FrameMalformed, match=r"\.operation\.credential_id$"):
            client.call(wire.GetEvidence(credential_id=CredentialId(b"abc")))
        request = authorise(client, running.home["alice"], b"x")
        bad = replace(request.authorisation, credential_id=CredentialId(b"abc"))
        with pytest.raises(FrameMalformed, match=r"\.operation\.authorisation\.credential_id$"):
            client.call(*sign_call(bad, request.content))


def test_a_name_is_found_however_it_is_typed(running: Running, tmp_path: Path) -> None:
    with running.as_client("app") as client:
        make_person(client, tmp_path, "jos\u00e9")
        for typed in ("jos\u00e9", "jose\u0301"):
            found = client.credential(typed)
            assert found.owner == "jos\u00e9"
            assert client.call(wire.ListCredentials(owner=typed)).credentials == (found,)


def test_certificates(running: Running, tmp_path: Path) -> None:
    with running.as_client("app") as client:
        person = make_person(client, tmp_path, "certified", scheme=Scheme.ROLLING)
        view = client.credential(person.name)
        number = view.credential_id
        request = client.call(wire.GetCertificationRequest(credential_id=number))
        authority = Authority()
        chain = tuple(authority.chain(request))
        assert client.call(wire.GetCertificates(credential_id=number)) == ()
        client.call(wire.SetCertificates(credential_id=number, certificates=chain))
        assert client.call(wire.GetCertificates(credential_id=number)) == chain
        for bad, words in (
            ((b"no certificate",), "certificate 1: expected a certificate in DER"),
            ((chain[0] + b"x",), "certificate 1: expected a certificate in DER"),
            ((bytes(65_535),), "certificate 1: expected a certificate in DER"),
            ((chain[1], chain[0]), "certificate 1: is not one of the credential's key"),
            ((chain[0], Authority("Another CA").certificate), "certificate 2: did not issue certificate 1"),
        ):
            with pytest.raises(CertificateUnsuitable, match=words):
                client.call(wire.SetCertificates(credential_id=number, certificates=bad))
            assert client.call(wire.GetCertificates(credential_id=number)) == chain
        client.call(wire.SetCertificates(credential_id=number, certificates=()))
        assert client.call(wire.GetCertificates(credential_id=number)) == ()


def test_a_chain_put_into_the_database_is_not_believed(running: Running) -> None:
    with running.as_client("app") as client:
        alice, bob = client.credential("alice").credential_id, client.credential("bob").credential_id
        request = client.call(wire.GetCertificationRequest(credential_id=bob))
        in_process(running.home, _put_chain, alice, (Authority().issue(request),))
        with pytest.raises(CertificateUnsuitable, match="is not one of the credential's key"):
            client.call(wire.GetCertificates(credential_id=alice))


def _put_chain(server: Any, credential_id: CredentialId, chain: tuple[bytes, ...]) -> None:
    with server.store._engine.begin() as connection:
        values = {"credential_id": credential_id, "chain": sequence(chain)}
        connection.execute(insert(schema.certificate), values)


def test_statuses(running: Running, tmp_path: Path) -> None:
    with running.as_client("app") as client:
        person = make_person(client, tmp_path, "changing", scheme=Scheme.ROLLING)
        number = client.credential(person.name).credential_id

        def change(event: Event) -> Status:
            view = client.call(wire.ChangeStatus(credential_id=number, event=event)).credential
            assert isinstance(view, CredentialView)
            return view.status

        assert change(Event.SUSPEND) is Status.SUSPENDED
        with pytest.raises(StatusUnsuitable):
            change(Event.UNLOCK)
        assert change(Event.RESUME) is Status.ACTIVE
        assert change(Event.REVOKE) is Status.REVOKED
        for event in (Event.SIGN, Event.ENROL, Event.ACTIVATE, Event.EXPIRE):
            with pytest.raises(InputError, match="event: expected suspend, resume, unlock, revoke"):
                change(event)


def test_an_enrolment_given_up(running: Running) -> None:
    with running.as_client("app") as client:
        asked = wanted()
        begun = client.begin_enrolment(asked, None)
        number = begun.credential.credential_id
        assert begun.credential.status is Status.PENDING
        assert begun.personalisation.credential_id == number
        assert begun.request_info == client.request_info(number).request_info
        with pytest.raises(CredentialPending):
            client.call(wire.GetCertificationRequest(credential_id=number))
        with pytest.raises(CredentialExists):
            client.begin_enrolment(asked, None)
        client.give_up_enrolment(number)
        with pytest.raises(CredentialUnknown):
            client.credential_by_id(number)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pin_tries": 0}, "pin_tries: expected 1 to 15, got 0"),
        ({"puk_tries": 0}, "puk_tries: expected 1 to 15, got 0"),
        ({"card_point": POINT[:-1] + b"\0"}, "card point: expected 65 bytes"),
        ({"combine": Combine.NONE}, "combine: expected"),
        ({"pin_policy": PinPolicy.NONE}, "pin_policy: expected always or session, got none"),
        ({"pin_check": PinCheck.NONE}, "pin_check: expected card or server, got none"),
        ({"scheme": Scheme.BASIC}, "combine: expected none, got cbc"),
        ({"scheme": Scheme.BASIC, "combine": Combine.NONE}, "pin_policy: expected none, got always"),
        ({"owner": "-x"}, "begins with a hyphen"),
        ({"more_algorithms": (Algorithm.RSA_PSS_SHA256,)}, "rsa-pss-sha256 does not fit a key of type p256"),
        ({"owner": " x"}, "user: expected 1 to 255"),
    ],
)
def test_what_cannot_be_enrolled(running: Running, changes: dict[str, Any], words: str) -> None:
    with running.as_tls() as client:
        before = client.call(wire.ListCredentials(limit=1000))
        with pytest.raises(InputError, match=words):
            client.begin_enrolment(replace(wanted(), **changes), None)
        assert client.call(wire.ListCredentials(limit=1000)) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pin_tries", 16),
        ("pin_tries", -1),
        ("puk_tries", 16),
        ("card_serial", bytes(7)),
        ("card_point", POINT[1:]),
        ("owner", ""),
        ("owner", "x" * 256),
        ("owner", "a\nb"),
    ],
)
def test_what_is_no_new_credential(running: Running, field: str, value: Any) -> None:
    """The definition refuses it, before any handler sees it."""
    with running.as_tls() as client:
        before = client.call(wire.ListCredentials(limit=1000))
        with pytest.raises(FrameMalformed, match=rf"\.operation\.wanted\.{field}$"):
            client.begin_enrolment(wanted(**{field: value}), None)
        assert client.call(wire.ListCredentials(limit=1000)) == before


def test_limits(running: Running) -> None:
    with running.as_client("app") as client:
        request = authorise(client, running.home["alice"], digests(b"x"))
        digest = request.content.digests[0]  # type: ignore[union-attr]
        for operation in (
            wire.Sign(authorisation=request.authorisation, digests=(digest,) * 1001),
            wire.Examine(authorisation=request.authorisation, digests=(digest,) * 1001),
        ):
            with pytest.raises(RequestTooLarge, match="digests: expected at most 1000, got 1001"):
                client.call(operation)
        with pytest.raises(RequestTooLarge, match="message: expected at most 67108864 bytes, got 67108865"):
            client.call(wire.Sign(authorisation=request.authorisation, message=(64 << 20) + 1))
        for operation in (
            wire.Sign(authorisation=request.authorisation),
            wire.Sign(authorisation=request.authorisation, digests=(digest,), message=0),
        ):
            with pytest.raises(InputError, match="exactly one of digests and message"):
                client.call(operation)
        # None of it has used the authorisation up, and what was refused early may still send its message.
        number = client.begin(wire.Sign(authorisation=request.authorisation, message=(64 << 20) + 1))
        assert type(error_in(client.finish(number))) is RequestTooLarge
        for _ in range(3):
            client.send(frame_bytes(number, Kind.CHUNK, bytes(MAX_CHUNK)))
        sealed = client.call(wire.Examine(authorisation=request.authorisation, digests=(digest,)))
        assert client.call(wire.OpenActivation(sealed=sealed)) == wire.Activation(
            request.authorisation, digest_list_hash((digest,))
        )
        verifies(client.sign(request), request.content)


def test_evidence(running: Running) -> None:
    alice = running.home["alice"]
    with running.as_client("app") as client:
        number = client.credential("alice").credential_id
        anchor = client.call(wire.GetAnchor())
        before = client.call(wire.GetEvidence(credential_id=number, limit=1000)).entries
        outcome = alice.sign(client, b"evident")
        page = client.call(wire.GetEvidence(credential_id=number, after=before[-1].number, limit=1000))
        (entry,) = page.entries
        assert not page.more
        assert (entry.actor, entry.outcome) == ("client app", ACCEPTED)
        assert (entry.d, entry.signatures) == (outcome.d, outcome.signatures)
        everything: list[NumberedEntry] = []
        more = True
        while more:
            page = client.call(wire.GetEvidence(after=everything[-1].number if everything else 0, limit=3))
            everything += page.entries
            more = page.more
        numbers = [each.number for each in everything]
        assert numbers == sorted(set(numbers))
        assert [each for each in everything if each.credential_id == number][-1] == entry
        assert client.call(wire.CheckAnchor(anchor=anchor)) == ()
        changed = msgspec.structs.replace(anchor, entries=1)
        findings = client.call(wire.CheckAnchor(anchor=changed))
        assert [each.code for each in findings] == ["anchor.signature", "anchor.entries"]


def test_a_page_ends_before_it_gets_too_long_for_a_frame(tenants: Tenants) -> None:
    pages, everything, refusal = in_process(tenants.home, _short_pages)
    assert [number for page in pages for number in page] == everything
    assert len(pages) > 1
    assert any(len(page) > 1 for page in pages)
    assert refusal == "evidence entry 1 is too long for the service"


def _short_pages(server: Any) -> tuple[list[list[int]], list[int], str]:
    """The numbers of the entries, page by page, where a page may have some 2000 bytes; then with less room
    in a frame than the first entry takes."""
    call = access.ClientCall(
        server,
        clients.Identity("test", frozenset(Role), None, False),
        LimitSettings(),
        ApprovalSettings(),
        None,
    )

    def read(after: int) -> EvidencePage:
        return handlers.get_evidence(call, wire.GetEvidence(after=after, limit=1000))()

    everything = [entry.number for entry in read(0).entries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, "PAGE_BYTES", 2000)
        page = read(0)
        pages = [page]
        while page.more:
            page = read(page.entries[-1].number)
            pages.append(page)
        patch.setattr(handlers, "MAX_ENTRY", 100)
        try:
            read(0)
        except ServiceError as error:
            refusal = error.message
    return [[entry.number for entry in page.entries] for page in pages], everything, refusal
