"""Authentication and authorisation of clients: who makes a call, and what that client may see and use."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from hsm_signer.config.service import ApprovalSettings, LimitSettings
from hsm_signer.core.owners import canonical_owner
from hsm_signer.errors import ChannelUnsuitable, CredentialUnknown, InputError, NotPermitted
from hsm_signer.server.server import Server
from hsm_signer.server.signing import Admit
from hsm_signer.service import clients
from hsm_signer.service.roles import PERMITTED, Role
from hsm_signer.service.wire import operations as wire
from hsm_signer.store.rows import who
from hsm_signer.types import (
    ACCEPTED,
    ByteSource,
    CredentialId,
    CredentialRecord,
    Event,
    Scheme,
    SigningRequest,
    Status,
)

STATUS_EVENTS = ("suspend", "resume", "unlock", "revoke")
IDENTITY_SECONDS = 1.0
"""How long who presented something is remembered: a removed client is refused after it, at the latest."""
MAX_IDENTITIES = 1000


class Identities:
    """A cache of identified clients, so that the token is not asked for every call of a busy one."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, clients.Identity]] = {}

    def find(self, server: Server, caller: wire.Caller) -> clients.Identity:
        """Identify the client that makes a call. Raises NotAuthenticated."""
        key, now = _presented(caller), time.monotonic()
        known = self._known.get(key)
        if known is not None and now < known[0]:
            return known[1]
        identity = clients.identify(
            server.environment, server.store, caller.bearer, caller.certificate, server.clock
        )
        if len(self._known) >= MAX_IDENTITIES:
            self._known.clear()
        self._known[key] = (now + IDENTITY_SECONDS, identity)
        return identity

    def clear(self) -> None:
        """Forget all clients, as when an access token has ended."""
        self._known.clear()


def _presented(caller: wire.Caller) -> bytes:
    """Hash the presented credentials: 32 bytes that identify them and do not reveal them."""
    digest = hashlib.sha256(caller.certificate or bytes(32))
    digest.update(b"\0" if caller.bearer is None else b"\1" + caller.bearer.encode("utf-8", "surrogatepass"))
    return digest.digest()


@dataclass(frozen=True, slots=True)
class ClientCall:
    """One call of an identified client, with what it needs to be carried out."""

    server: Server
    """Its actor is the client."""
    client: clients.Identity
    limits: LimitSettings
    approval: ApprovalSettings
    message: ByteSource | None
    """What came in CHUNK frames."""

    def record(self, credential_id: CredentialId) -> CredentialRecord:
        """Return a record that this client may see. Raises CredentialUnknown for any other."""
        record = self.server.credential_by_id(credential_id)
        self.refuse_foreign(record)
        return record

    def is_foreign(self, owner: str) -> bool:
        """Tell whether this client is bound to a user other than ``owner``, however that was typed."""
        return self.client.owner not in (None, canonical_owner(owner))

    def refuse_foreign(self, record: CredentialRecord) -> None:
        """Raise CredentialUnknown for another user's record where this client is bound to one user."""
        if self.is_foreign(record.owner):
            raise CredentialUnknown(f"there is no {who(record.credential_id)} here")

    def admit(self, request: SigningRequest | None = None) -> Admit:
        """Make the check of step 1: whether this client may use a credential, for ``request`` if given."""

        def check(record: CredentialRecord) -> None:
            self.refuse_foreign(record)
            if (
                Role.SIGNER not in self.client.roles
                and record.status is not Status.PENDING
                and not (request is not None and self._has_activated(record, request))
            ):
                raise NotPermitted(
                    f"client {self.client.name!r} may use credentials in enrolment only",
                    hint="role signer may use the others",
                )
            if record.scheme is Scheme.BASIC:
                self.require_certificate()

        return check

    def _has_activated(self, record: CredentialRecord, request: SigningRequest) -> bool:
        """Tell whether this very request finished the enrolment: its answer was lost, and it is repeated."""
        entry = self.server.carried_out(record, request)
        return entry is not None and entry.event is Event.ACTIVATE and entry.outcome == ACCEPTED

    def require_certificate(self) -> None:
        """Raise ChannelUnsuitable without a client certificate: in scheme basic Q alone opens the key."""
        if not self.client.certificate:
            raise ChannelUnsuitable(
                "scheme basic is accepted from clients with a TLS client certificate only",
                hint="hsm-signer client add NAME --certificate FILE, and tls.client_ca in service.toml",
            )


def require_role(identity: clients.Identity, operation: wire.Operation) -> None:
    """Raise NotPermitted for a client without a role for the operation, InputError for an unknown event."""
    name = str(type(operation).__struct_config__.tag)
    if isinstance(operation, wire.ChangeStatus):
        name = operation.event.value
        if name not in STATUS_EVENTS:
            raise InputError(f"event: expected {', '.join(STATUS_EVENTS)}, got {name}")
    if not PERMITTED[name] & identity.roles:
        needed = " or ".join(role.value for role in Role if role in PERMITTED[name])
        raise NotPermitted(f"client {identity.name!r} may not ask for {name}", hint=f"it needs role {needed}")
