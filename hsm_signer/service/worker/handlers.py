"""The operations of the workers' socket: one function carries out each and returns its result.

One function per operation, called in the token's thread; those about evidence look into the store alone and
are finished in the reader's. Everything from outside is checked here or further in, nothing in the
front counts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from hsm_signer.config.service import ApprovalSettings, LimitSettings
from hsm_signer.core.content import digest_list_hash
from hsm_signer.core.interface import (
    Capabilities,
    CredentialPage,
    EvidencePage,
    Limits,
    NumberedEntry,
    PendingApproval,
    RequestInfo,
)
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
from hsm_signer.service.roles import PERMITTED, Role
from hsm_signer.service.wire import operations as wire
from hsm_signer.service.wire.frames import MAX_FRAME
from hsm_signer.types import (
    MAX_TRIES,
    ByteSource,
    Challenge,
    Combine,
    Content,
    CredentialRecord,
    CredentialView,
    DigestList,
    EnrolmentStarted,
    Event,
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

from . import activation
from .access import ClientCall, Identities, require_role

MAX_ENTRY = MAX_FRAME - 1024
"""Bytes of an entry, encoded: one made at the server itself may be longer."""
CLIENT = "client "
"""What comes before its name where evidence names a client."""
PAGE_BYTES = MAX_FRAME // 2
"""A page ends before its entries take more, encoded."""


@dataclass(frozen=True, slots=True)
class ReaderWork:
    """The rest of a call that needs no token; the reader's thread carries it out."""

    finish: Callable[[], Any]
    sign: Callable[[Server, Any], Any] | None = None
    """What the token's thread makes of the result at last; None: nothing."""


def carry_out(
    server: Server,
    identities: Identities,
    limits: LimitSettings,
    approval: ApprovalSettings,
    call: wire.Call,
    message: ByteSource | None,
    is_client: Callable[[str], None],
) -> Any:
    """Identify the client, check its roles, carry the operation out; return its result, or a ReaderWork.

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
    server = replace(server, actor=CLIENT + identity.name)
    client_call = ClientCall(server, identity, limits, approval, message)
    result = _HANDLERS[type(operation)](client_call, operation)
    if isinstance(operation, wire.Logout):
        identities.clear()
    if isinstance(operation, wire.GetAnchor):
        return ReaderWork(result, Server.sign_anchor)
    return ReaderWork(result) if isinstance(operation, _READER_OPERATIONS) else result


# --- the service itself ------------------------------------------------------------------------------------


def self_test(server: Server) -> None:
    """Test that the token signs and the store can be written; needs no client."""
    server.environment.self_test()
    server.store.probe_write()


def login(server: Server, caller: wire.Caller, operation: wire.Login) -> wire.Access:
    """Give a client an access token for its name and secret. Raises NotAuthenticated."""
    if caller.name is None or caller.secret is None:
        raise NotAuthenticated("expected a client's name and its token, by HTTP Basic")
    token = clients.login(
        server.environment, server.store, caller.name, caller.secret, operation.lifetime, server.clock
    )
    return wire.Access(token, operation.lifetime)


def logout(call: ClientCall, operation: wire.Logout) -> None:
    """End an access token; an unknown one is no error (RFC 7009, 2.2)."""
    with suppress(NotAuthenticated):
        clients.logout(call.server.environment, call.server.store, operation.token, call.server.clock)


def capabilities(call: ClientCall, _: wire.GetCapabilities) -> Capabilities:
    """Return what the token can hold and how much one request may carry."""
    server, limits = call.server, call.limits
    return Capabilities(
        combines=server.combines,
        obstacles={
            f"{scheme.value}/{key.value}": server.obstacle(scheme, key)
            for scheme in Scheme
            for key in KeySpec
        },
        limits=Limits(limits.body, limits.message, limits.digests),
        identity=server.identity,
    )


def who_am_i(call: ClientCall, _: wire.WhoAmI) -> wire.ClientView:
    """Return the client that makes the call: name, roles, user."""
    client = call.client
    roles = tuple(role for role in Role if role in client.roles)
    return wire.ClientView(client.name, roles, client.owner, client.certificate)


# --- credentials -------------------------------------------------------------------------------------------


def list_credentials(call: ClientCall, operation: wire.ListCredentials) -> CredentialPage:
    """Return one page of the credentials that the client may see, their MACs checked."""
    if operation.owner is not None and call.is_foreign(operation.owner):
        return CredentialPage((), more=False)
    owner = operation.owner or call.client.owner
    records = call.server.store.record_page(operation.after, operation.limit + 1, owner)
    for sealed in records[: operation.limit]:
        call.server.environment.check(sealed)
    views = tuple(CredentialView.of(sealed.record) for sealed in records[: operation.limit])
    return CredentialPage(views, more=len(records) > operation.limit)


def get_credential(call: ClientCall, operation: wire.GetCredential) -> CredentialView:
    """Return one credential, by its id or by its user."""
    if (operation.credential_id is None) == (operation.owner is None):
        raise InputError("credential: expected exactly one of credential_id and owner")
    if operation.credential_id is not None:
        return CredentialView.of(call.record(operation.credential_id))
    record = call.server.credential(_own(call, operation.owner or ""))
    return CredentialView.of(record)


def _own(call: ClientCall, owner: str) -> str:
    """Return ``owner``, unless the client is bound to another user. Raises CredentialUnknown."""
    if call.is_foreign(owner):
        raise CredentialUnknown(
            f"no credential of user {owner!r} here", hint="hsm-signer credential list shows the users"
        )
    return owner


def get_certificates(call: ClientCall, operation: wire.GetCertificates) -> tuple[bytes, ...]:
    """Return a credential's certificate chain, once it is checked to be of the credential's key."""
    return call.server.certificates(call.record(operation.credential_id).credential_id)


def set_certificates(call: ClientCall, operation: wire.SetCertificates) -> None:
    """Store a credential's certificate chain; an empty one removes it."""
    record = call.record(operation.credential_id)
    call.server.set_certificates(record.credential_id, operation.certificates)


def get_certification_request(call: ClientCall, operation: wire.GetCertificationRequest) -> str:
    """Return a credential's certificate request (PKCS#10), PEM."""
    return call.server.certification_request(call.record(operation.credential_id).credential_id)


def change_status(call: ClientCall, operation: wire.ChangeStatus) -> wire.StatusChange:
    """Suspend, resume, unlock or revoke a credential; where two clients have to ask, note the first."""
    record = call.record(operation.credential_id)
    by = SuspendedBy.ADMIN if Role.ADMIN in call.client.roles else SuspendedBy.REGISTRAR
    number, event = record.credential_id, operation.event
    if event.value not in call.approval.acts:
        return wire.StatusChange(CredentialView.of(call.server.change_status(number, event, by)), None)
    result = call.server.approve_status(
        number, event, by, call.approval.within, lambda actor: may_change_status(call, record, event, actor)
    )
    if isinstance(result, PendingApproval):
        return wire.StatusChange(None, result)
    return wire.StatusChange(CredentialView.of(result), None)


def may_change_status(call: ClientCall, record: CredentialRecord, event: Event, actor: str) -> bool:
    """Tell whether an actor of the evidence is a client that may change this record's status now."""
    client = clients.find(call.server.environment, call.server.store, actor.removeprefix(CLIENT))
    return (
        client is not None
        and bool(PERMITTED[event.value] & client.roles)
        and client.owner in (None, record.owner)
    )


# --- signing -----------------------------------------------------------------------------------------------


def get_challenge(call: ClientCall, operation: wire.GetChallenge) -> Challenge:
    """Return what the card needs for the next authorisation (step 880)."""
    return call.server.challenge(operation.credential_id, admit=call.admit())


def sign(call: ClientCall, operation: wire.Sign) -> SignOutcome:
    """Carry out what a card authorised (steps 1 to 10) and return the signatures."""
    digests, message = operation.digests, call.message
    content: Content = DigestList(digests or ()) if message is None else Message(message)
    request = SigningRequest(operation.authorisation, content)
    return call.server.sign(request, admit=call.admit(request))


def examine(call: ClientCall, operation: wire.Examine) -> bytes:
    """Check an authorisation without signing (steps 1 and 2) and seal it for the client."""
    _check_digests(operation.digests, call.limits)
    request = SigningRequest(operation.authorisation, DigestList(operation.digests))
    call.server.examine(request, admit=call.admit())
    examined = wire.Activation(operation.authorisation, digest_list_hash(operation.digests))
    return activation.seal(call.server.environment, call.client, examined)


def open_activation(call: ClientCall, operation: wire.OpenActivation) -> wire.Activation:
    """Open what was sealed for this client."""
    return activation.unseal(call.server.environment, call.client, operation.sealed)


def check_sign(operation: wire.Sign, limits: LimitSettings) -> None:
    """Check a Sign call before its message has arrived. Raises InputError, RequestTooLarge."""
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


def begin_enrolment(call: ClientCall, operation: wire.BeginEnrolment) -> EnrolmentStarted:
    """Make keys in the token and a pending record; return both for the card."""
    credential = operation.wanted
    check_wanted(credential, call.server.combines)
    if call.client.owner not in (None, credential.owner):
        raise NotPermitted(f"client {call.client.name!r} is for one user only, and that is another")
    if credential.scheme is Scheme.BASIC:
        call.require_certificate()
    if obstacle := call.server.obstacle(credential.scheme, credential.key):
        raise TokenUnsuitable(
            f"{obstacle}: no credential with key {credential.key.value}, scheme {credential.scheme.value}"
        )
    return call.server.begin_enrolment(credential, credential.subject)


def check_wanted(credential: NewCredential, combines: tuple[Combine, ...]) -> None:
    """Check every field but owner and key against the scheme. Raises InputError naming the field."""
    basic = credential.scheme is Scheme.BASIC
    tries = (0,) if basic else range(1, MAX_TRIES + 1)
    for field, value, allowed in (
        ("combine", credential.combine, (Combine.NONE,) if basic else combines),
        ("pin_policy", credential.pin_policy, _none_or_others(PinPolicy, basic)),
        ("pin_check", credential.pin_check, _none_or_others(PinCheck, basic)),
    ):
        if value not in allowed:
            names = " or ".join(choice.value for choice in allowed)
            raise InputError(f"{field}: expected {names}, got {value.value}")
    for field, number in (("pin_tries", credential.pin_tries), ("puk_tries", credential.puk_tries)):
        if number not in tries:
            raise InputError(f"{field}: expected {tries[0]} to {tries[-1]}, got {number}")


def _none_or_others(kind: Any, basic: bool) -> tuple[Any, ...]:
    return tuple(member for member in kind if (member is kind.NONE) == basic)


def get_request_info(call: ClientCall, operation: wire.GetRequestInfo) -> RequestInfo:
    """Return what a credential's first authorisation signs, its key proven to be its user's."""
    return call.server.request_info(call.record(operation.credential_id).credential_id)


def give_up_enrolment(call: ClientCall, operation: wire.GiveUpEnrolment) -> None:
    """Delete a pending record whose card never got its keys."""
    call.server.give_up_enrolment(call.record(operation.credential_id).credential_id)


# --- evidence: what is returned is carried out by the reader's thread --------------------------------------


def get_evidence(call: ClientCall, operation: wire.GetEvidence) -> Callable[[], EvidencePage]:
    """Read one page of the evidence; it ends early where entries are long."""
    if call.client.owner is not None:
        if operation.credential_id is None:
            raise NotPermitted(f"client {call.client.name!r} is for one user only: name a credential")
        call.record(operation.credential_id)
    store = call.server.store

    def read() -> EvidencePage:
        entries = store.page(operation.after, operation.limit + 1, operation.credential_id)
        taken: list[NumberedEntry] = []
        size = 0
        for number, entry in entries[: operation.limit]:
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
        return EvidencePage(tuple(taken), more=len(taken) < len(entries))

    return read


def get_anchor(call: ClientCall, _: wire.GetAnchor) -> Callable[[], Any]:
    """Make an anchor over the chains of all credentials."""
    _refuse_bound(call)
    return call.server.unsigned_anchor


def check_anchor(call: ClientCall, operation: wire.CheckAnchor) -> Callable[[], tuple[Finding, ...]]:
    """Find the entries that differ from what the anchor says."""
    _refuse_bound(call)
    return lambda: call.server.check_anchor(operation.anchor)


def _refuse_bound(call: ClientCall) -> None:
    if call.client.owner is not None:
        raise NotPermitted(f"client {call.client.name!r} is for one user only, an anchor is about all")


_HANDLERS: dict[type[wire.Operation], Callable[[ClientCall, Any], Any]] = {
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
    wire.OpenActivation: open_activation,
    wire.BeginEnrolment: begin_enrolment,
    wire.GetRequestInfo: get_request_info,
    wire.GiveUpEnrolment: give_up_enrolment,
    wire.ChangeStatus: change_status,
    wire.GetEvidence: get_evidence,
    wire.GetAnchor: get_anchor,
    wire.CheckAnchor: check_anchor,
}
_READER_OPERATIONS = (wire.GetEvidence, wire.GetAnchor, wire.CheckAnchor)
