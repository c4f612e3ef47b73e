"""The workstation: what it stands on, and how often it sends a request again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest

from hsm_signer.errors import (
    ChallengeStale,
    ServiceBusy,
    ServiceUnreachable,
    SignerError,
    StoreBusy,
    WorkerLost,
)
from hsm_signer.types import (
    Algorithm,
    Authorisation,
    Challenge,
    CredentialId,
    Digest,
    DigestList,
    Quantity,
    SigningRequest,
    SignOutcome,
    SpkiDer,
)
from hsm_signer.workstation.retry import ATTEMPTS, BACKOFF, PATIENCE
from hsm_signer.workstation.signing import submit

ID = CredentialId(bytes(16))
REQUEST = SigningRequest(
    Authorisation(Algorithm.ECDSA_SHA256, None, (), bytes(16), (Quantity(bytes(40)),), ID),
    DigestList((Digest(bytes(32)),)),
)
OUTCOME = SignOutcome(
    ID, "alice", Algorithm.ECDSA_SHA256, SpkiDer(b"x"), (b"y",), Digest(b"d"), Digest(b"e"), False, 0
)


@dataclass
class Refusing:
    """A server that refuses with each of these, one after the other, and then signs."""

    errors: list[SignerError]
    asked: int = 0
    slept: list[float] = field(default_factory=list)

    def challenge(self, credential_id: CredentialId) -> Challenge:
        raise AssertionError(credential_id)

    def sign(self, request: SigningRequest) -> SignOutcome:
        assert request is REQUEST
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return OUTCOME

    def submit(self) -> SignOutcome:
        return submit(self, REQUEST, replace(BACKOFF, sleep=self.slept.append, random=lambda: 0.5))


def busy(seconds: float | None) -> ServiceBusy:
    error = ServiceBusy("busy")
    error.retry_after = seconds
    return error


def test_far_from_token_and_store() -> None:
    """What a workstation needs brings neither in, in no roundabout way."""
    script = (
        "import sys\n"
        "import hsm_signer.workstation.signing, hsm_signer.workstation.enrolment\n"
        "import hsm_signer.workstation.remote, hsm_signer.workstation.offline\n"
        "rooms = ('pkcs11', 'sqlalchemy', 'hsm_signer.token', 'hsm_signer.store', 'hsm_signer.server',\n"
        "         'starlette')\n"
        "print([name for name in sys.modules if name.startswith(rooms)])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_what_may_pass_is_asked_again() -> None:
    server = Refusing([WorkerLost("lost") for _ in range(ATTEMPTS - 1)])
    assert server.submit() is OUTCOME
    assert server.asked == ATTEMPTS
    assert server.slept == sorted(server.slept)
    assert sum(server.slept) > 3, "long enough for a worker that starts anew"


def test_not_for_ever() -> None:
    server = Refusing([WorkerLost("lost") for _ in range(ATTEMPTS)])
    with pytest.raises(WorkerLost):
        server.submit()
    assert (server.asked, len(server.slept)) == (ATTEMPTS, ATTEMPTS - 1)


@pytest.mark.parametrize("error", [ServiceUnreachable("x"), StoreBusy("x"), ChallengeStale("x")], ids=repr)
def test_what_waiting_does_not_help(error: SignerError) -> None:
    server = Refusing([error])
    with pytest.raises(type(error)):
        server.submit()
    assert (server.asked, server.slept) == (1, [])


def test_a_service_says_how_long_to_wait() -> None:
    server = Refusing([busy(2.5), busy(1e9), busy(0.0), busy(None)])
    assert server.submit() is OUTCOME
    assert server.slept == [2.5, BACKOFF.longest_asked, 0.08, 0.16]


def test_attempts_that_last_long_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("hsm_signer.core.backoff.time.monotonic", lambda: now[0])
    server = Refusing([WorkerLost("lost") for _ in range(ATTEMPTS)])

    def sleep(_: float) -> None:
        now[0] += PATIENCE / 2 + 1

    with pytest.raises(WorkerLost):
        submit(server, REQUEST, replace(BACKOFF, sleep=sleep))
    assert server.asked == 3
