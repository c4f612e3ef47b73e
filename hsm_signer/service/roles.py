"""What a client of the service may be: the roles, and what each may do. Decided behind the workers' socket.

No role contains another; a client may have several. Nothing here lets anybody sign without a card.
"""

from __future__ import annotations

from hsm_signer.types import ProtocolEnum


class Role(ProtocolEnum):
    """One duty of a client of the service."""

    SIGNER = "signer", 1
    """Brings authorisations of cards and takes signatures away."""
    REGISTRAR = "registrar", 2
    """Enrols people, suspends, resumes and unlocks credentials, keeps their certificates."""
    AUDITOR = "auditor", 3
    """Reads evidence."""
    ADMIN = "admin", 4
    """Suspends, resumes, unlocks and revokes credentials."""


ANYBODY = frozenset(Role)

PERMITTED: dict[str, frozenset[Role]] = {
    "capabilities": ANYBODY,
    "who-am-i": ANYBODY,
    "login": ANYBODY,
    "logout": ANYBODY,
    "list-credentials": frozenset({Role.SIGNER, Role.REGISTRAR, Role.ADMIN}),
    "credential": frozenset({Role.SIGNER, Role.REGISTRAR, Role.ADMIN}),
    "certificates": frozenset({Role.SIGNER, Role.REGISTRAR, Role.ADMIN}),
    "certification-request": frozenset({Role.SIGNER, Role.REGISTRAR, Role.ADMIN}),
    # A registrar's only for credentials that are pending: the first authorisation belongs to enrolment.
    "challenge": frozenset({Role.SIGNER, Role.REGISTRAR}),
    "sign": frozenset({Role.SIGNER, Role.REGISTRAR}),
    "examine": frozenset({Role.SIGNER}),
    "open-activation": frozenset({Role.SIGNER}),
    "begin-enrolment": frozenset({Role.REGISTRAR}),
    "request-info": frozenset({Role.REGISTRAR}),
    "give-up-enrolment": frozenset({Role.REGISTRAR}),
    "set-certificates": frozenset({Role.REGISTRAR}),
    "suspend": frozenset({Role.REGISTRAR, Role.ADMIN}),
    "resume": frozenset({Role.REGISTRAR, Role.ADMIN}),
    "unlock": frozenset({Role.REGISTRAR, Role.ADMIN}),
    "revoke": frozenset({Role.ADMIN}),
    "evidence": frozenset({Role.AUDITOR}),
    "anchor": frozenset({Role.AUDITOR}),
    "check-anchor": frozenset({Role.AUDITOR}),
}
"""Operation of the workers' socket (wire/operations.py; the changes of status by their events) -> the roles
of which a client needs one. ``self-test`` is the front's own and asks for no client."""
