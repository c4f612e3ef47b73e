"""What each operation of the workers' socket does, and what comes back.

One function per operation, called in the token's thread; those about evidence look into the store alone and
are finished in the reader's. Everything from outside is checked here or further in, nothing in the
front counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from hsm_signer.config.service import LimitSettings
from hsm_signer.core.interface import Capabilities, CredentialPage, EvidencePage, Limits, NumberedEntry
from hsm_signer.errors import (
    CredentialUnknown,
    InputError,
    NotAuthenticated,
    NotPermitted,
    RequestTooLarge,
    ServiceError,
    TokenUnsuitable,
)
from hsm_signer.evidence.findings import Finding
from hsm_signer.server.server import Server
from hsm_signer.service import clients
from hsm_signer.service.roles import Role
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import MAX_FRAME
from hsm_signer.types import (
    MAX_TRIES,
    ByteSource,
    Challenge,
    Combine,
    Content,
    CredentialView,
    DigestList,
    EnrolmentStarted,
    KeySpec,
    Message,
    NewCredential,
    PinCheck,
    PinPolicy,
    Scheme,
    SigningRequest,
    SignOutcome,
    SuspendedBy,
)

from .access import Asked, Identities, require_role

MAX_ENTRY = MAX_FRAME - 1024
"""Bytes of an entry, encoded: one made at the server itself may be longer."""
PAGE_BYTES = MAX_FRAME // 2
"""A page ends before its entries take more, encoded."""


@dataclass(frozen=True, slots=True)
class InReader:
    """The rest of a call needs no token: the reader's thread carries it out."""

    finish: Callable[[], Any]


def carry_out(
    server: Server,
    identities: Identities,
    limits: LimitSettings,
    call: wire.Call,
    message: ByteSource | None,
    is_client: Callable[[str], None],
) -> Any:
    """Find out who asks, whether that client may, and do it: the operation's result, or an InReader.

    ``is_client`` is told the client's name as soon as it is known. Raises SignerError.
    """
    operation, caller = call.operation, call.caller
    if isinstance(operation, wire.SelfTest):
        return self_test(server)
    if isinstance(operation, wire.Login):
        access = login(server, caller, operation)
        is_client(caller.name or "")
        return access
    identity = identities.find(server, caller)
    is_client(identity.name)
    require_role(identity, operation)
    asked = Asked(replace(server, actor=f"client {identity.name}"), identity, limits, message)
    found = _HANDLERS[type(operation)](asked, operation)
    if isinstance(operation, wire.Logout):
        identities.clear()
    return InReader(found) if isinstance(operation, _IN_READER) else found


# --- the service itself ------------------------------------------------------------------------------------


def self_test(server: Server) -> None:
    """Token and store, without a client."""
    server.environment.self_test()
    server.store.probe_write()


def login(server: Server, caller: wire.Caller, operation: wire.Login) -> wire.Access:
    """Name and secret -> an access token."""
    if caller.name is None or caller.secret is None:
        raise NotAuthenticated("expected a client's name and its token, by HTTP Basic")
    token = clients.login(
        server.environment, server.store, caller.name, caller.secret, operation.lifetime, server.clock
    )
    return wire.Access(token, operation.lifetime)


def logout(asked: Asked, operation: wire.Logout) -> None:
    """End an access token; one that is none is no error (RFC 7009, 2.2)."""
    with suppress(NotAuthenticated):
        clients.logout(asked.server.environment, asked.server.store, operation.token, asked.server.clock)


def capabilities(asked: Asked, _: wire.GetCapabilities) -> Capabilities:
    """What the token can hold, and how much one request may carry."""
    server, limits = asked.server, asked.limits
    return Capabilities(
        combines=server.combines,
        obstacles={
            f"{scheme.value}/{key.value}": server.obstacle(scheme, key)
            for scheme in Scheme
            for key in KeySpec
        },
        limits=Limits(limits.body, limits.message, limits.digests),
    )


def who_am_i(asked: Asked, _: wire.WhoAmI) -> wire.ClientView:
    """The client as the worker knows it."""
    client = asked.client
    roles = tuple(role for role in Role if role in client.roles)
    return wire.ClientView(client.name, roles, client.owner, client.certificate)


# --- credentials -------------------------------------------------------------------------------------------


def list_credentials(asked: Asked, operation: wire.ListCredentials) -> CredentialPage:
    """One page."""
    if operation.owner is not None and asked.is_foreign(operation.owner):
        return CredentialPage((), more=False)
    owner = operation.owner or asked.client.owner
    found = asked.server.store.record_page(operation.after, operation.limit + 1, owner)
    for sealed in found[: operation.limit]:
        asked.server.environment.check(sealed)
    views = tuple(CredentialView.of(sealed.record) for sealed in found[: operation.limit])
    return CredentialPage(views, more=len(found) > operation.limit)


def get_credential(asked: Asked, operation: wire.GetCredential) -> CredentialView:
    """By id, or a user's."""
    if (operation.credential_id is None) == (operation.owner is None):
        raise InputError("credential: expected exactly one of credential_id and owner")
    if operation.credential_id is not None:
        return CredentialView.of(asked.record(operation.credential_id))
    record = asked.server.credential(_own(asked, operation.owner or ""))
    return CredentialView.of(record)


def _own(asked: Asked, owner: str) -> str:
    """A bound client asks for its own user, or for one that nobody can be: it learns of no other."""
    if asked.is_foreign(owner):
        raise CredentialUnknown(
            f"no credential of user {owner!r} here", hint="hsm-signer credential list shows the users"
        )
    return owner


def get_certificates(asked: Asked, operation: wire.GetCertificates) -> tuple[bytes, ...]:
    """The chain; the database is not believed that it is this key's."""
    return asked.server.certificates(asked.record(operation.credential_id).credential_id)


def set_certificates(asked: Asked, operation: wire.SetCertificates) -> None:
    """Keep a chain."""
    record = asked.record(operation.credential_id)
    asked.server.set_certificates(record.credential_id, operation.certificates)


def get_certification_request(asked: Asked, operation: wire.GetCertificationRequest) -> str:
    """PEM."""
    return asked.server.certification_request(asked.record(operation.credential_id).credential_id)


def change_status(asked: Asked, operation: wire.ChangeStatus) -> CredentialView:
    """Suspend, resume, unlock, revoke."""
    record = asked.record(operation.credential_id)
    by = SuspendedBy.ADMIN if Role.ADMIN in asked.client.roles else SuspendedBy.REGISTRAR
    return CredentialView.of(asked.server.change_status(record.credential_id, operation.event, by))


# --- signing -----------------------------------------------------------------------------------------------


def get_challenge(asked: Asked, operation: wire.GetChallenge) -> Challenge:
    """Step 880."""
    return asked.server.challenge(operation.credential_id, admit=asked.admit())


def sign(asked: Asked, operation: wire.Sign) -> SignOutcome:
    """Steps 1 to 10."""
    digests, message = operation.digests, asked.message
    content: Content = DigestList(digests or ()) if message is None else Message(message)
    request = SigningRequest(operation.authorisation, content)
    return asked.server.sign(request, admit=asked.admit(request))


def examine(asked: Asked, operation: wire.Examine) -> None:
    """Steps 1 and 2."""
    _check_digests(operation.digests, asked.limits)
    request = SigningRequest(operation.authorisation, DigestList(operation.digests))
    asked.server.examine(request, admit=asked.admit())


def check_sign(operation: wire.Sign, limits: LimitSettings) -> None:
    """What can be said as soon as a Sign call is there. Raises InputError, RequestTooLarge."""
    if (operation.digests is None) == (operation.message is None):
        raise InputError("sign: expected exactly one of digests and message")
    if operation.digests is not None:
        _check_digests(operation.digests, limits)
    elif (operation.message or 0) > limits.message:
        raise RequestTooLarge(f"message: expected at most {limits.message} bytes, got {operation.message}")


def _check_digests(digests: tuple[Any, ...], limits: LimitSettings) -> None:
    most = limits.digests
    if len(digests) > most:
        raise RequestTooLarge(f"digests: expected at most {most}, got {len(digests)}")


# --- enrolment ---------------------------------------------------------------------------------------------


def begin_enrolment(asked: Asked, operation: wire.BeginEnrolment) -> EnrolmentStarted:
    """Keys and a pending record."""
    wanted = operation.wanted
    check_wanted(wanted, asked.server.combines)
    if asked.client.owner not in (None, wanted.owner):
        raise NotPermitted(f"client {asked.client.name!r} is for one user only, and that is another")
    if wanted.scheme is Scheme.BASIC:
        asked.require_certificate()
    if obstacle := asked.server.obstacle(wanted.scheme, wanted.key):
        raise TokenUnsuitable(
            f"{obstacle}: no credential with key {wanted.key.value}, scheme {wanted.scheme.value}"
        )
    return asked.server.begin_enrolment(wanted, wanted.subject)


def check_wanted(wanted: NewCredential, combines: tuple[Combine, ...]) -> None:
    """Every field but owner and key against the scheme. Raises InputError naming the field."""
    basic = wanted.scheme is Scheme.BASIC
    tries = (0,) if basic else range(1, MAX_TRIES + 1)
    for field, value, allowed in (
        ("combine", wanted.combine, (Combine.NONE,) if basic else combines),
        ("pin_policy", wanted.pin_policy, _none_or_others(PinPolicy, basic)),
        ("pin_check", wanted.pin_check, _none_or_others(PinCheck, basic)),
    ):
        if value not in allowed:
            names = " or ".join(choice.value for choice in allowed)
            raise InputError(f"{field}: expected {names}, got {value.value}")
    for field, number in (("pin_tries", wanted.pin_tries), ("puk_tries", wanted.puk_tries)):
        if number not in tries:
            raise InputError(f"{field}: expected {tries[0]} to {tries[-1]}, got {number}")


def _none_or_others(kind: Any, basic: bool) -> tuple[Any, ...]:
    return tuple(each for each in kind if (each is kind.NONE) == basic)


def get_request_info(asked: Asked, operation: wire.GetRequestInfo) -> bytes:
    """The message of the first authorisation."""
    return asked.server.request_info(asked.record(operation.credential_id).credential_id)


def give_up_enrolment(asked: Asked, operation: wire.GiveUpEnrolment) -> None:
    """Delete a pending record."""
    asked.server.give_up_enrolment(asked.record(operation.credential_id).credential_id)


# --- evidence: what is returned is carried out by the reader's thread --------------------------------------


def get_evidence(asked: Asked, operation: wire.GetEvidence) -> Callable[[], EvidencePage]:
    """One page, or less of it where its entries are long."""
    if asked.client.owner is not None:
        if operation.credential_id is None:
            raise NotPermitted(f"client {asked.client.name!r} is for one user only: name a credential")
        asked.record(operation.credential_id)
    store = asked.server.store

    def read() -> EvidencePage:
        found = store.page(operation.after, operation.limit + 1, operation.credential_id)
        taken: list[NumberedEntry] = []
        size = 0
        for number, entry in found[: operation.limit]:
            item = NumberedEntry.of(number, entry)
            length = len(wire.encode(item))
            size += length
            if taken and size > PAGE_BYTES:
                break
            if length > MAX_ENTRY:
                raise ServiceError(
                    f"evidence entry {number} is too long for the service",
                    hint="hsm-signer audit list, at the server, shows it",
                )
            taken.append(item)
        return EvidencePage(tuple(taken), more=len(taken) < len(found))

    return read


def get_anchor(asked: Asked, _: wire.GetAnchor) -> Callable[[], Any]:
    """Over everybody's chains."""
    _refuse_bound(asked)
    return asked.server.anchor


def check_anchor(asked: Asked, operation: wire.CheckAnchor) -> Callable[[], tuple[Finding, ...]]:
    """What is no longer so."""
    _refuse_bound(asked)
    return lambda: asked.server.check_anchor(operation.anchor)


def _refuse_bound(asked: Asked) -> None:
    if asked.client.owner is not None:
        raise NotPermitted(f"client {asked.client.name!r} is for one user only, an anchor is about all")


_HANDLERS: dict[type[wire.Operation], Callable[[Asked, Any], Any]] = {
    wire.GetCapabilities: capabilities,
    wire.WhoAmI: who_am_i,
    wire.Logout: logout,
    wire.ListCredentials: list_credentials,
    wire.GetCredential: get_credential,
    wire.GetCertificates: get_certificates,
    wire.SetCertificates: set_certificates,
    wire.GetCertificationRequest: get_certification_request,
    wire.GetChallenge: get_challenge,
    wire.Sign: sign,
    wire.Examine: examine,
    wire.BeginEnrolment: begin_enrolment,
    wire.GetRequestInfo: get_request_info,
    wire.GiveUpEnrolment: give_up_enrolment,
    wire.ChangeStatus: change_status,
    wire.GetEvidence: get_evidence,
    wire.GetAnchor: get_anchor,
    wire.CheckAnchor: check_anchor,
}
_IN_READER = (wire.GetEvidence, wire.GetAnchor, wire.CheckAnchor)
