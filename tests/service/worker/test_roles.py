"""Who may ask for what: every operation for every role, bound clients, enrolment only, certificates."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsm_signer.core.interface import CredentialPage, EnrolmentRequest
from hsm_signer.errors import (
    ChannelUnsuitable,
    CredentialUnknown,
    NotAuthenticated,
    NotPermitted,
    SignerError,
)
from hsm_signer.evidence.anchor import Anchor
from hsm_signer.service.roles import PERMITTED, Role
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import Kind
from hsm_signer.testing import make_person
from hsm_signer.types import (
    Algorithm,
    CredentialId,
    Digest,
    Event,
    Message,
    Scheme,
    SigningRequest,
    SignOutcome,
    Status,
)
from tests.support.enrolments import wanted
from tests.support.people import digests
from tests.support.scenes import AUTHORISATION, NOBODY, authorise, verifies
from tests.support.service import WAIT, in_process, sign_call
from tests.support.tenants import Running

ANCHOR = Anchor(format=2, time=0, last_entry=0, credentials=0, entries=0, root=Digest(bytes(32)), signed=None)

OPERATIONS: dict[str, Any] = {
    "capabilities": wire.GetCapabilities(),
    "who-am-i": wire.WhoAmI(),
    "logout": wire.Logout(token="hsa_x"),
    "list-credentials": wire.ListCredentials(),
    "credential": wire.GetCredential(credential_id=NOBODY),
    "certificates": wire.GetCertificates(credential_id=NOBODY),
    "certification-request": wire.GetCertificationRequest(credential_id=NOBODY),
    "challenge": wire.GetChallenge(credential_id=NOBODY),
    "sign": wire.Sign(authorisation=AUTHORISATION, digests=(Digest(bytes(32)),)),
    "examine": wire.Examine(authorisation=AUTHORISATION, digests=(Digest(bytes(32)),)),
    "open-activation": wire.OpenActivation(sealed=bytes(64)),
    "begin-enrolment": wire.BeginEnrolment(wanted=EnrolmentRequest.of(wanted(scheme=Scheme.BASIC), None)),
    "request-info": wire.GetRequestInfo(credential_id=NOBODY),
    "give-up-enrolment": wire.GiveUpEnrolment(credential_id=NOBODY),
    "set-certificates": wire.SetCertificates(credential_id=NOBODY, certificates=()),
    "suspend": wire.ChangeStatus(credential_id=NOBODY, event=Event.SUSPEND),
    "resume": wire.ChangeStatus(credential_id=NOBODY, event=Event.RESUME),
    "unlock": wire.ChangeStatus(credential_id=NOBODY, event=Event.UNLOCK),
    "revoke": wire.ChangeStatus(credential_id=NOBODY, event=Event.REVOKE),
    "evidence": wire.GetEvidence(),
    "anchor": wire.GetAnchor(),
    "check-anchor": wire.CheckAnchor(anchor=ANCHOR),
}
"""Each so that it changes nothing."""


def test_every_operation_is_here() -> None:
    assert set(OPERATIONS) | {"login"} == set(PERMITTED)
    tags = {kind.__struct_config__.tag for kind in wire.Operation.__subclasses__()}
    changes = {"suspend", "resume", "unlock", "revoke"}
    assert tags - {"self-test", "change-status"} == set(PERMITTED) - changes


@pytest.mark.parametrize("role", Role)
def test_a_role_permits_exactly_its_operations(running: Running, role: Role) -> None:
    permitted = set()
    with running.as_client(role.value) as client:
        for name, operation in OPERATIONS.items():
            try:
                client.call(operation)
            except NotPermitted:
                continue
            except SignerError:
                pass
            permitted.add(name)
    assert permitted == {name for name, roles in PERMITTED.items() if role in roles} - {"login"}


@pytest.mark.parametrize("role", Role)
def test_any_client_can_log_in(running: Running, role: Role) -> None:
    name = role.value
    with running.service.worker(name=name, secret=running.tenants.tokens[name]) as client:
        access = client.call(wire.Login(lifetime=600))
    with running.service.worker(bearer=access.token) as client:
        assert client.call(wire.WhoAmI()).roles == (role,)


def test_a_refused_operation_changes_nothing(running: Running) -> None:
    with running.as_client("app") as client:
        number = client.credential("alice").credential_id
        before = client.credential_by_id(number), client.call(wire.GetEvidence(credential_id=number)).entries
    with running.as_client("signer") as signer:
        for event in (Event.SUSPEND, Event.REVOKE):
            with pytest.raises(NotPermitted):
                signer.call(wire.ChangeStatus(credential_id=number, event=event))
        with pytest.raises(NotPermitted):
            signer.begin_enrolment(wanted(), None)
    with running.as_client("app") as client:
        assert before == (
            client.credential_by_id(number),
            client.call(wire.GetEvidence(credential_id=number)).entries,
        )


def test_a_registrar_does_not_undo_what_an_admin_has_done(running: Running, tmp_path: Path) -> None:
    with (
        running.as_client("admin") as admin,
        running.as_client("registrar") as registrar,
        running.as_client("app") as client,
    ):
        number = client.credential(make_person(client, tmp_path, "twice-suspended").name).credential_id
        suspend = wire.ChangeStatus(credential_id=number, event=Event.SUSPEND)
        resume = wire.ChangeStatus(credential_id=number, event=Event.RESUME)
        admin.call(suspend)
        with pytest.raises(NotPermitted, match="suspended by an administrator"):
            registrar.call(resume)
        assert client.credential_by_id(number).status is Status.SUSPENDED
        assert admin.call(resume).credential.status is Status.ACTIVE
        registrar.call(suspend)
        assert registrar.call(resume).credential.status is Status.ACTIVE, "their own they end themselves"
        registrar.call(suspend)
        assert admin.call(resume).credential.status is Status.ACTIVE


# --- a registrar is no signer ------------------------------------------------------------------------------


def test_a_registrar_uses_credentials_in_enrolment_only(running: Running, tmp_path: Path) -> None:
    with running.as_client("registrar") as registrar, running.as_client("app") as client:
        person = make_person(registrar, tmp_path, "by-registrar", scheme=Scheme.ROLLING)
        number = registrar.credential(person.name).credential_id
        assert registrar.credential_by_id(number).status is Status.ACTIVE
        request = authorise(client, person, b"text")
        with pytest.raises(NotPermitted, match="in enrolment only"):
            registrar.challenge(number)
        with pytest.raises(NotPermitted, match="in enrolment only"):
            registrar.sign(request)
        # Nothing was used up, and nothing was noted about somebody who may not.
        entries = client.call(wire.GetEvidence(credential_id=number)).entries
        assert [entry.event for entry in entries] == [Event.ENROL, Event.ACTIVATE]
        verifies(client.sign(request), request.content)


def test_registrar_gets_the_lost_answer_of_an_enrolment(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very request that finished it, and no other: the credential is not the registrar's to use."""
    with running.as_client("registrar") as registrar, running.as_client("app") as client:
        sent: list[SigningRequest] = []
        sign = registrar.sign

        def kept(request: SigningRequest) -> SignOutcome:
            sent.append(request)
            return sign(request)

        monkeypatch.setattr(registrar, "sign", kept)
        person = make_person(registrar, tmp_path, "lost-answer", scheme=Scheme.PIN)
        again = sign(sent[-1])
        assert again.repeated
        verifies(again, sent[-1].content)
        number = again.credential_id
        assert isinstance(sent[-1].content, Message)
        info = b"".join(sent[-1].content.source.chunks())
        others = [authorise(client, person, info), authorise(client, person, b"text")]
        verifies(client.sign(others[1]), others[1].content)
        for each in others:
            with pytest.raises(NotPermitted, match="in enrolment only"):
                sign(each)
        entries = client.call(wire.GetEvidence(credential_id=number)).entries
        assert [entry.event for entry in entries] == [Event.ENROL, Event.ACTIVATE, Event.SIGN]


# --- bound clients -----------------------------------------------------------------------------------------


def test_a_bound_client_knows_nobody_else(running: Running) -> None:
    alice, bob = running.home["alice"], running.home["bob"]
    with running.as_client("app") as client:
        own, other = client.credential("alice"), client.credential("bob")
        foreign = authorise(client, bob, digests(b"x", algorithm=Algorithm.RSA_PKCS1_SHA256))
    with running.as_client("bound") as bound:
        assert [each.owner for each in bound.call(wire.ListCredentials()).credentials] == ["alice"]
        assert bound.call(wire.ListCredentials(owner="bob")) == CredentialPage((), more=False)
        assert bound.credential("alice") == bound.credential_by_id(own.credential_id) == own
        calls: dict[str, Callable[[CredentialId], Any]] = {
            "credential": lambda i: wire.GetCredential(credential_id=i),
            "certificates": lambda i: wire.GetCertificates(credential_id=i),
            "set-certificates": lambda i: wire.SetCertificates(credential_id=i, certificates=()),
            "certification-request": lambda i: wire.GetCertificationRequest(credential_id=i),
            "challenge": lambda i: wire.GetChallenge(credential_id=i),
            "request-info": lambda i: wire.GetRequestInfo(credential_id=i),
            "give-up": lambda i: wire.GiveUpEnrolment(credential_id=i),
            "suspend": lambda i: wire.ChangeStatus(credential_id=i, event=Event.SUSPEND),
            "revoke": lambda i: wire.ChangeStatus(credential_id=i, event=Event.REVOKE),
            "evidence": lambda i: wire.GetEvidence(credential_id=i),
        }
        unknown = CredentialId(secrets.token_bytes(16))
        for make in calls.values():
            told = []
            for number in (other.credential_id, unknown):
                with pytest.raises(CredentialUnknown) as caught:
                    bound.call(make(number))
                told.append((caught.value.message.replace(number.hex(), "ID"), caught.value.hint))
            assert told[0] == told[1], "as if it were not there"
        told = []
        for owner in ("bob", "nobody-at-all"):
            with pytest.raises(CredentialUnknown) as caught:
                bound.credential(owner)
            told.append((caught.value.message.replace(owner, "OWNER"), caught.value.hint))
        assert told[0] == told[1]
        with running.as_client("app") as client, pytest.raises(CredentialUnknown) as caught:
            client.credential("nobody-at-all")
        assert (caught.value.message.replace("nobody-at-all", "OWNER"), caught.value.hint) == told[0]

        for refused in (wire.Sign, wire.Examine):
            with pytest.raises(CredentialUnknown):
                bound.call(
                    refused(authorisation=foreign.authorisation, digests=foreign.content.digests)  # type: ignore[union-attr]
                )
        for for_all in (wire.GetEvidence(), wire.GetAnchor(), wire.CheckAnchor(anchor=ANCHOR)):
            with pytest.raises(NotPermitted, match="one user only"):
                bound.call(for_all)
        with pytest.raises(NotPermitted, match="one user only"):
            bound.begin_enrolment(wanted(owner="bob2"), None)
        verifies(alice.sign(bound, digests(b"mine")), digests(b"mine"))
        entries = bound.call(wire.GetEvidence(credential_id=own.credential_id)).entries
        assert entries[-1].actor == "client bound"
    with running.as_client("app") as client:
        assert client.credential_by_id(other.credential_id) == other
        verifies(client.sign(foreign), foreign.content)


# --- scheme basic ------------------------------------------------------------------------------------------


def test_scheme_basic_needs_a_client_certificate(running: Running) -> None:
    basil = running.home["basil"]
    with running.as_tls() as tls, running.as_client("app") as app:
        number = tls.credential("basil").credential_id
        request = authorise(tls, basil, b"basic")
        assert tls.call(wire.WhoAmI()).roles == app.call(wire.WhoAmI()).roles
        with pytest.raises(ChannelUnsuitable):
            app.challenge(number)
        with pytest.raises(ChannelUnsuitable):
            app.sign(request)
        with pytest.raises(ChannelUnsuitable):
            app.begin_enrolment(wanted(Scheme.BASIC), None)
        listed = digests(b"x")
        with pytest.raises(ChannelUnsuitable):
            app.call(wire.Examine(authorisation=request.authorisation, digests=listed.digests))
        entries = app.call(wire.GetEvidence(credential_id=number)).entries
        assert [(e.event, e.outcome, e.actor) for e in entries][-1] == (
            Event.SIGN,
            ChannelUnsuitable.code,
            "client app",
        )
        # A bearer token beside somebody's certificate does not make the channel better.
        verifies(tls.sign(request), request.content)


# --- a moment of memory ------------------------------------------------------------------------------------


def test_a_removed_client_is_refused_soon(running: Running) -> None:
    token = running.service.add_client("passing", Role.SIGNER)
    with running.service.worker(bearer=token) as client:
        assert client.call(wire.WhoAmI()).name == "passing"
        in_process(running.home, _remove, "passing")
        removed = time.monotonic()
        while client.finish(client.begin(wire.WhoAmI())).kind is Kind.REPLY:
            assert time.monotonic() - removed < WAIT, "it is remembered for ever"
        with pytest.raises(NotAuthenticated):
            client.call(wire.WhoAmI())


def _remove(server: Any, name: str) -> None:
    from hsm_signer.service import clients

    clients.remove(server.environment, server.store, name, actor="test", clock=server.clock)


def test_the_call_of_an_ended_client_does_not_name_another(running: Running) -> None:
    with running.service.worker(bearer=running.tenants.tokens["signer"] + "x") as client:
        frame = client.finish(client.begin(wire.WhoAmI()))
        failure = wire.decode(frame.payload, wire.Failure)
        assert (failure.code, failure.client) == ("client.not-authenticated", None)


def test_sign_and_message_by_a_signer_alone(running: Running) -> None:
    with running.as_client("signer") as signer:
        request = authorise(signer, running.home["alice"], b"by a signer")
        reply = signer.reply(*sign_call(request.authorisation, request.content))
        assert reply.client == "signer"
