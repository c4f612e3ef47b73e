"""PIN check "server": wrong PINs that the card's one byte lets pass are counted by the server, and lock."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.core import algorithms
from hsm_signer.errors import (
    AuthorisationMismatch,
    CardPinWrong,
    CredentialLocked,
    CredentialRevoked,
    RecordConflict,
    RecordDamaged,
    StoreBusy,
    TokenError,
    WrongKey,
    WrongKeyBefore,
)
from hsm_signer.schemes.key_operations import KekUse
from hsm_signer.server.server import Server
from hsm_signer.store.change import Change
from hsm_signer.store.store import Store
from hsm_signer.testing import PIN, PUK, Home, Person, make_person
from hsm_signer.token.workspace import TokenWorkspace
from hsm_signer.types import (
    FAILURES_BEFORE_LOCK,
    Combine,
    CredentialId,
    CredentialRecord,
    Digest,
    Event,
    KeySpec,
    PinCheck,
    Quantity,
    Scheme,
    SealedEntry,
    Status,
    WrappedKey,
)
from tests.support.enrolments import pending
from tests.support.scenes import (
    altered,
    authorise,
    caught_wrong_pin,
    chain,
    flipped_quantity,
    message,
    passing_wrong_pins,
    refused,
    rewrite,
    still_signs,
    verifies,
)


@dataclass(frozen=True)
class Scene:
    """Somebody whose card tells PINs apart by one byte only, and PINs that pass it."""

    home: Home
    server: Server
    person: Person
    id: CredentialId
    wrong: list[str]

    @property
    def record(self) -> CredentialRecord:
        """As it is now."""
        return self.person.record(self.server)

    def wrong_pin(self, steps: list[int] | None = None) -> WrongKey:
        """One wrong PIN that the card lets pass: refused, counted, noted."""
        request = authorise(self.server, self.person, pin=self.wrong[0])
        with refused(self.home, self.server, self.id, WrongKey, counted=True) as seen:
            dataclasses.replace(self.server, observe=(steps if steps is not None else []).append).sign(
                request
            )
        assert isinstance(seen.error, WrongKey)
        return seen.error


@pytest.fixture(params=[Scheme.ROLLING, Scheme.PIN], ids=["rolling", "pin"])
def scene(request: pytest.FixtureRequest, home: Home, server: Server, tmp_path: Path) -> Scene:
    """With a P-256 key."""
    person = make_person(server, tmp_path, "carol", scheme=request.param, pin_check=PinCheck.SERVER)
    wrong = passing_wrong_pins(person, 2, PIN)
    return Scene(home, server, person, person.record(server).credential_id, wrong)


def test_card_catches_what_its_byte_tells_and_the_server_counts_nothing(scene: Scene) -> None:
    caught = caught_wrong_pin(scene.person, PIN)
    entries = chain(scene.server, scene.id)
    with pytest.raises(CardPinWrong) as refusal:
        authorise(scene.server, scene.person, pin=caught)
    assert refusal.value.tries_left == 2
    assert chain(scene.server, scene.id) == entries
    assert scene.record.failures == 0
    still_signs(scene.server, scene.person)


def test_five_in_a_row_lock_and_unlock_helps(scene: Scene) -> None:
    for number in range(1, FAILURES_BEFORE_LOCK + 1):
        steps: list[int] = []
        error = scene.wrong_pin(steps)
        assert steps == [1, 2, 3], "refused at step 4"
        record = scene.record
        assert record.failures == number
        assert record.status is (Status.LOCKED if number == FAILURES_BEFORE_LOCK else Status.ACTIVE)
        left = FAILURES_BEFORE_LOCK - number
        assert error.hint is not None
        assert ("locked now" if left == 0 else f"{left} more") in error.hint

    # The right PIN does not help, nor does an authorisation made before.
    with pytest.raises(CredentialLocked):
        scene.person.sign(scene.server)
    with pytest.raises(CredentialLocked):
        scene.server.challenge(scene.id)

    scene.server.change_status(scene.id, Event.UNLOCK)
    assert (scene.record.status, scene.record.failures) == (Status.ACTIVE, 0)
    still_signs(scene.server, scene.person)


def test_a_correct_one_clears_the_count(scene: Scene) -> None:
    for _ in range(3):
        for number in range(1, FAILURES_BEFORE_LOCK):
            scene.wrong_pin()
            assert scene.record.failures == number
        still_signs(scene.server, scene.person)
        assert scene.record.failures == 0


def test_right_authorisation_made_before_the_lock_is_refused_after_it(scene: Scene) -> None:
    waiting = authorise(scene.server, scene.person, b"waiting")
    for _ in range(FAILURES_BEFORE_LOCK):
        scene.wrong_pin()
    with refused(scene.home, scene.server, scene.id, CredentialLocked):
        scene.server.sign(waiting)
    scene.server.change_status(scene.id, Event.UNLOCK)
    verifies(scene.server.sign(waiting), message(b"waiting"))


def test_the_same_wrong_request_counts_once(scene: Scene) -> None:
    """Whoever caught it on its way cannot lock anybody with it: the very same request is no new guess."""
    request = authorise(scene.server, scene.person, pin=scene.wrong[0])
    with refused(scene.home, scene.server, scene.id, WrongKey, counted=True):
        scene.server.sign(request)
    for _ in range(FAILURES_BEFORE_LOCK + 1):
        steps: list[int] = []
        with refused(scene.home, scene.server, scene.id, WrongKeyBefore):
            dataclasses.replace(scene.server, observe=steps.append).sign(request)
        assert steps == [1], "the token is not even asked"
        assert scene.record.failures == 1
    still_signs(scene.server, scene.person)
    # Not even after a signature has cleared the count; with scheme rolling its challenge is old by now, too.
    with refused(scene.home, scene.server, scene.id, WrongKeyBefore):
        scene.server.sign(request)
    assert scene.record.failures == 0


def test_different_wrong_requests_count_each(scene: Scene) -> None:
    """The same wrong PIN typed again is another guess, over the same message and the same challenge, too."""
    for number in range(1, FAILURES_BEFORE_LOCK + 1):
        request = authorise(scene.server, scene.person, pin=scene.wrong[0])
        with refused(scene.home, scene.server, scene.id, WrongKey, counted=True):
            scene.server.sign(request)
        assert scene.record.failures == number
        if number < FAILURES_BEFORE_LOCK:
            with refused(scene.home, scene.server, scene.id, WrongKeyBefore):
                scene.server.sign(request)
    assert scene.record.status is Status.LOCKED


def test_one_wrong_request_sent_twice_at_once_counts_once(scene: Scene) -> None:
    """Both are under way before either has its entry: several workers must not make one guess five."""
    request = authorise(scene.server, scene.person, pin=scene.wrong[0])

    def observe(done: int) -> None:
        if done == 3:
            with pytest.raises(WrongKey):
                scene.server.sign(request)

    with pytest.raises(WrongKey):
        dataclasses.replace(scene.server, observe=observe).sign(request)
    assert scene.record.failures == 1
    assert scene.server.audit().good


def test_one_wrong_request_counted_by_another_at_the_last_moment_counts_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one counts after this one has looked whether anybody did, and before it writes."""
    request = authorise(scene.server, scene.person, pin=scene.wrong[0])
    real, looks = Store.carried_out, 0

    def carried_out(self: Store, *arguments: Any) -> SealedEntry | None:
        nonlocal looks
        looks += 1
        found = real(self, *arguments)
        if looks == 2:  # the first was in step 2
            with pytest.raises(WrongKey) as caught:
                scene.server.sign(request)
            assert type(caught.value) is WrongKey
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Store, "carried_out", carried_out)
        with pytest.raises(WrongKeyBefore):
            scene.server.sign(request)
    assert looks == 5
    assert scene.record.failures == 1
    assert [entry.outcome for entry in chain(scene.server, scene.id)[-2:]] == [
        WrongKey.code,
        WrongKeyBefore.code,
    ]
    assert scene.server.audit().good


def test_quantity_that_does_not_open_counts_nothing_however_often(scene: Scene) -> None:
    """Whoever has no card cannot lock anybody, not even with a wrong PIN's request that was caught."""
    right = authorise(scene.server, scene.person)
    wrong = authorise(scene.server, scene.person, pin=scene.wrong[0])
    for request in (right, wrong):
        for position in range(FAILURES_BEFORE_LOCK + 2):
            quantities = flipped_quantity(request.authorisation, 0, position)
            with refused(scene.home, scene.server, scene.id, AuthorisationMismatch):
                scene.server.sign(altered(request, quantities=quantities))
    assert scene.record.failures == 0
    still_signs(scene.server, scene.person)


def test_wrong_second_quantity_of_a_right_first_counts_nothing(
    home: Home, server: Server, tmp_path: Path
) -> None:
    """Scheme rolling: SK stays wrapped until every Q has opened."""
    person = make_person(server, tmp_path, "carol", pin_check=PinCheck.SERVER)
    record = person.record(server)
    request = authorise(server, person)
    with refused(home, server, record.credential_id, AuthorisationMismatch):
        server.sign(altered(request, quantities=flipped_quantity(request.authorisation, 1, 20)))
    still_signs(server, person)


def test_wrong_keys_at_the_same_time_are_all_counted(scene: Scene) -> None:
    """Four attempts that all read the record before any of them counts: none is lost to another's write."""
    requests = [authorise(scene.server, scene.person, bytes([i]), pin=scene.wrong[0]) for i in range(4)]
    refusals: list[WrongKey] = []

    def attempt(remaining: list[object]) -> None:
        def observe(done: int) -> None:
            if done == 3 and len(remaining) > 1:
                attempt(remaining[1:])

        with pytest.raises(WrongKey) as caught:
            dataclasses.replace(scene.server, observe=observe).sign(remaining[0])  # type: ignore[arg-type]
        refusals.append(caught.value)

    attempt(list(requests))

    assert len(refusals) == 4
    assert scene.record.failures == 4
    outcomes = [each.outcome for each in chain(scene.server, scene.id)[-4:]]
    assert outcomes == [WrongKey.code] * 4
    assert scene.server.audit().good


def test_five_at_the_same_time_lock(scene: Scene) -> None:
    for _ in range(FAILURES_BEFORE_LOCK - 2):
        scene.wrong_pin()
    outer, inner = (authorise(scene.server, scene.person, pin=pin) for pin in scene.wrong)

    def observe(done: int) -> None:
        if done == 3:
            with pytest.raises(WrongKey):
                scene.server.sign(inner)

    with pytest.raises(WrongKey):
        dataclasses.replace(scene.server, observe=observe).sign(outer)
    assert (scene.record.status, scene.record.failures) == (Status.LOCKED, 5)


def test_right_key_in_flight_while_the_lock_falls_releases_nothing(scene: Scene) -> None:
    right = authorise(scene.server, scene.person, b"right")

    def observe(done: int) -> None:
        if done == 6:
            for _ in range(FAILURES_BEFORE_LOCK):
                scene.wrong_pin()

    with pytest.raises(RecordConflict):
        dataclasses.replace(scene.server, observe=observe).sign(right)
    assert scene.record.status is Status.LOCKED
    with pytest.raises(CredentialLocked):
        scene.server.sign(right)
    assert [each for each in chain(scene.server, scene.id) if each.d and each.signatures][1:] == []


def test_wrong_key_of_a_credential_revoked_meanwhile(scene: Scene) -> None:
    """Counted on the tombstone, which stays one."""
    wrong = authorise(scene.server, scene.person, pin=scene.wrong[0])

    def observe(done: int) -> None:
        if done == 3:
            scene.server.change_status(scene.id, Event.REVOKE)

    with pytest.raises(WrongKey):
        dataclasses.replace(scene.server, observe=observe).sign(wrong)
    record = scene.record
    assert (record.status, record.wrapped_sk, record.wrapped_kcar) == (Status.REVOKED, None, None)
    with pytest.raises(CredentialRevoked):
        scene.server.sign(wrong)
    assert scene.server.audit().good


def test_failure_that_cannot_be_counted_is_no_answer(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who keeps writing the record gets "busy", not "wrong key": no guess goes uncounted."""
    wrong = authorise(scene.server, scene.person, pin=scene.wrong[0])
    real = Store.changing

    def changing(self: Store, *arguments: Any) -> AbstractContextManager[Change]:
        with monkeypatch.context() as nested:
            nested.setattr(Store, "changing", real)
            rewrite(scene.server, scene.record, lambda record: record)
        return real(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "changing", changing)
        with pytest.raises(StoreBusy) as caught:
            scene.server.sign(wrong)
    assert caught.value.retryable
    scene.wrong_pin()


def test_pin_changed_on_the_card_with_a_wrong_old_pin_that_passed(scene: Scene) -> None:
    """Once in 256 times a mistyped old PIN spoils the blinded key: the server sees wrong keys, the PUK
    mends it (docs/understand/protocol.md, section 4)."""
    with scene.person.card() as card:
        card.change_pin(CardPin(scene.wrong[0], source="test"), CardPin("864209", source="test"))
    request = authorise(scene.server, scene.person, pin="864209")
    with refused(scene.home, scene.server, scene.id, WrongKey, counted=True):
        scene.server.sign(request)
    with scene.person.card() as card:
        card.unblock_pin(CardPuk(PUK, source="test"), CardPin(PIN, source="test"))
    still_signs(scene.server, scene.person)


def test_pending_credential_with_wrong_pins_locks_too(home: Home, server: Server, tmp_path: Path) -> None:
    """The first authorisation is guessed at no more cheaply than a later one."""
    carol, request_info = pending(server, tmp_path)
    record = carol.record(server)
    # A wrong key, as a card with a spoilt PIN would send it: the card's own Q made under another KEK.
    request = authorise(server, carol, request_info)
    spoilt = rewrite(server, record, lambda it: replace(it, wrapped_sk=_other_wrapping(home, server)))
    for number in range(1, FAILURES_BEFORE_LOCK + 1):
        with pytest.raises(WrongKey):
            server.sign(authorise(server, carol, request_info))
        assert carol.record(server).failures == number
        assert carol.record(server).status is Status.PENDING
    with pytest.raises(CredentialLocked):
        server.sign(request)
    server.change_status(spoilt.credential_id, Event.UNLOCK)
    assert carol.record(server).status is Status.PENDING


def _other_wrapping(home: Home, server: Server) -> WrappedKey:
    """SK of alice under alice's V: of the right form, under the wrong key."""
    wrapped = home["alice"].record(server).wrapped_sk
    assert wrapped is not None
    return wrapped


# --- step 5: the comparison of KOWF ------------------------------------------------------------------------


def _random_point(spec: KeySpec) -> bytes:
    private = ec.generate_private_key(algorithms.CURVES[spec])
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _other_ciphertext(record: CredentialRecord) -> bytes:
    public = algorithms.load_spki(record.spki)
    assert isinstance(public, rsa.RSAPublicKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
    return b"\x01" + public.encrypt(os.urandom(32), oaep)


@pytest.mark.parametrize(
    ("name", "other_parameter"),
    [("paula", lambda _: _random_point(KeySpec.P256)), ("peter", _other_ciphertext)],
    ids=["P-256", "RSA-2048"],
)
def test_step_5_refuses_a_key_that_opens_sk_but_is_not_what_sk_gives(
    home: Home, server: Server, name: str, other_parameter: Callable[[CredentialRecord], bytes]
) -> None:
    """Claim 6. The received KOWF opens wrap_KOWF(SK), so step 4 passes; from SK and another P the token
    computes another KOWF. Such a record exists only if the enrolment, or whoever holds the token, made it."""
    person = home[name]
    record = person.record(server)
    assert record.parameter is not None
    request = authorise(server, person)
    rewrite(server, record, lambda it: replace(it, parameter=other_parameter(it)))
    steps: list[int] = []

    with refused(home, server, record.credential_id, WrongKey, counted=True) as seen:
        dataclasses.replace(server, observe=steps.append).sign(request)

    assert steps == [1, 2, 3, 4]
    assert isinstance(seen.error, WrongKey)
    assert "not the one this private key gives" in seen.error.message
    # With its own P again the card is good; the request that was counted stays refused.
    rewrite(server, person.record(server), lambda it: replace(it, parameter=record.parameter))
    with refused(home, server, record.credential_id, WrongKeyBefore):
        server.sign(request)
    verifies(person.sign(server), message())
    assert person.record(server).failures == 0
    still_signs(server, person)


@pytest.mark.parametrize("mark", [b"\x01", b"\x02"], ids=["SHA-1", "SHA-256"])
def test_step_5_with_a_parameter_that_is_no_ciphertext(home: Home, server: Server, mark: bytes) -> None:
    """It does not give KOWF at all; nor does a hash that P was not encrypted with."""
    peter = home["peter"]
    record = peter.record(server)
    assert record.parameter is not None
    assert record.parameter[:1] == b"\x01", "SoftHSM does OAEP with SHA-1 only"
    request = authorise(server, peter)
    rewrite(server, record, lambda it: replace(it, parameter=mark + bytes(256)))
    error = WrongKey if mark == b"\x01" else TokenError
    with pytest.raises(error) as caught:
        server.sign(request)
    if mark == b"\x01":
        assert type(caught.value) is WrongKey
        assert peter.record(server).failures == 1


@pytest.mark.parametrize("name", ["paula", "peter"])
@pytest.mark.parametrize("other", [b"\x00" + bytes(256), b"\x03" + bytes(256), bytes(65)])
def test_parameter_of_no_known_form(home: Home, server: Server, name: str, other: bytes) -> None:
    """Its MAC holds, so this program or a later one wrote it: refused as damaged, nothing is counted."""
    person = home[name]
    record = person.record(server)
    request = authorise(server, person)
    rewrite(server, record, lambda it: replace(it, parameter=other))
    with refused(home, server, record.credential_id, RecordDamaged):
        server.sign(request)


@pytest.mark.parametrize("name", ["paula", "peter"])
def test_kowf_is_a_function_of_sk_and_p_alone(home: Home, server: Server, name: str) -> None:
    """On the token: computed twice from the same SK and P it is the same key, from another P another one."""
    environment = server.environment
    spec = home[name].key
    workspace: TokenWorkspace = environment.session.workspace(environment.profile)
    with workspace:
        pair = workspace.new_pair(spec, gives_kowf=True)
        parameters = [workspace.new_parameter(pair) for _ in range(2)]
        one, same, other = (workspace.recompute_kowf(pair.private, parameters[i]) for i in (0, 0, 1))
        assert workspace.same_key(one, same)
        assert workspace.same_key(same, one)
        assert workspace.same_key(one, one)
        assert not workspace.same_key(one, other)
        assert not workspace.same_key(other, one)

        # The KOWF that wraps SK at enrolment, through a card and back, is the one computed later.
        kcar = workspace.new_kcar(Combine.CBC)
        k_r = workspace.personalisation_key(kcar, Digest(bytes(32)))
        transient = workspace.transient(kcar, Combine.CBC, Digest(bytes(32)))
        first = Quantity(workspace.wrap_for_card(k_r, workspace.first_kowf(pair, parameters[0])))
        received = workspace.open_quantity(transient, first, KekUse.COMPARE)
        assert workspace.same_key(received, one)
        assert not workspace.same_key(received, other)
