"""Whoever stands between card and server changes what was authorised: refused, and nothing has changed."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from msgspec.structs import replace

from hsm_signer.core import algorithms
from hsm_signer.errors import (
    AlgorithmNotAllowed,
    AlgorithmUnsuitable,
    AuthorisationMismatch,
    CardMismatch,
    ChallengeStale,
    CredentialRevoked,
    CredentialUnknown,
    InputError,
    RecordDamaged,
    SignerError,
    WrongKey,
    WrongKeyBefore,
)
from hsm_signer.schemes.authorise import d_of, position_digests
from hsm_signer.server.server import Server
from hsm_signer.testing import PIN, Home, Person, make_person
from hsm_signer.types import (
    ACCEPTED,
    FAILURES_BEFORE_LOCK,
    Algorithm,
    CredentialId,
    Digest,
    DigestList,
    Event,
    Mode,
    PinCheck,
    Quantity,
    RollingValue,
    Scheme,
    SigningRequest,
)
from tests.support.people import digests
from tests.support.scenes import (
    altered,
    authorise,
    chain,
    credential_row,
    flip,
    flipped_quantity,
    message,
    passing_wrong_pins,
    refused,
    row_and_count,
    sql,
    still_signs,
    verifies,
    windows_found,
)

EVERY_SCHEME = pytest.mark.parametrize("name", ["alice", "paula", "basil"])
EVERY_PERSON = pytest.mark.parametrize("name", ["alice", "bob", "paula", "peter", "basil"])

MESSAGE = b"pay 100 to Bob"
DOCUMENTS = (b"one", b"two", b"three")


@dataclass(frozen=True)
class Scene:
    """One person's installation, with a record to watch."""

    home: Home
    server: Server
    person: Person
    id: CredentialId

    def refuses(
        self, request: SigningRequest, error: type[SignerError], *, noted: bool = True
    ) -> SignerError:
        """Sent once, refused, nothing changed."""
        with refused(self.home, self.server, self.id, error, noted=noted) as seen:
            self.server.sign(request)
        assert seen.error is not None
        return seen.error


@pytest.fixture
def scene(home: Home, server: Server, name: str) -> Scene:
    """By the test's parameter ``name``."""
    person = home[name]
    return Scene(home, server, person, person.record(server).credential_id)


# --- the message -------------------------------------------------------------------------------------------


@EVERY_PERSON
def test_message_changed_by_one_bit_after_authorisation(scene: Scene) -> None:
    request = authorise(scene.server, scene.person, MESSAGE)

    for position in (0, len(MESSAGE) // 2, len(MESSAGE) - 1):
        changed = message(flip(MESSAGE, position))
        scene.refuses(altered(request, content=changed), AuthorisationMismatch)
    for other in (b"", MESSAGE + b"\0", MESSAGE[:-1]):
        scene.refuses(altered(request, content=message(other)), AuthorisationMismatch)

    # The refusals have spent nothing: the authorisation is still good for what it was given for.
    verifies(scene.server.sign(request), message(MESSAGE))
    still_signs(scene.server, scene.person)


@EVERY_SCHEME
def test_algorithm_changed_after_authorisation(scene: Scene) -> None:
    request = authorise(scene.server, scene.person, MESSAGE, Algorithm.ECDSA_SHA256)

    for algorithm in (Algorithm.ECDSA_SHA384, Algorithm.ECDSA_SHA512):
        scene.refuses(altered(request, algorithm=algorithm), AuthorisationMismatch)
    for algorithm in (Algorithm.RSA_PSS_SHA256, Algorithm.ED25519):
        scene.refuses(altered(request, algorithm=algorithm), AlgorithmNotAllowed)

    still_signs(scene.server, scene.person)


def test_padding_changed_after_authorisation(home: Home, server: Server) -> None:
    bob = home["bob"]
    request = authorise(server, bob, MESSAGE, Algorithm.RSA_PKCS1_SHA256)
    with refused(home, server, bob.record(server).credential_id, AuthorisationMismatch):
        server.sign(altered(request, algorithm=Algorithm.RSA_PSS_SHA256))
    still_signs(server, bob)


# --- digest lists ------------------------------------------------------------------------------------------


@EVERY_SCHEME
def test_digests_reordered_dropped_added_or_changed(scene: Scene) -> None:
    listed = digests(*DOCUMENTS)
    one, two, three = listed.digests
    request = authorise(scene.server, scene.person, listed)

    for changed in (
        (two, one, three),
        (one, three, two),
        (one, two),
        (two, three),
        (one,),
        (one, two, three, three),
        (one, two, three, Digest(bytes(32))),
        (one, two, Digest(flip(three, 31, 7))),
        (one, one, three),
    ):
        scene.refuses(altered(request, content=DigestList(changed)), AuthorisationMismatch)

    verifies(scene.server.sign(request), listed)
    still_signs(scene.server, scene.person)


@EVERY_SCHEME
def test_digest_lists_that_cannot_be(scene: Scene) -> None:
    listed = digests(*DOCUMENTS)
    request = authorise(scene.server, scene.person, listed)

    for changed in ((), (*listed.digests, Digest(bytes(31))), (Digest(bytes(20)),) * 3):
        scene.refuses(altered(request, content=DigestList(changed)), InputError, noted=False)
    other_hash = DigestList((Digest(bytes(48)),) * 3)
    scene.refuses(altered(request, content=other_hash), AlgorithmUnsuitable, noted=False)

    still_signs(scene.server, scene.person)


@EVERY_SCHEME
def test_mode_swapped(scene: Scene) -> None:
    """The same digest would be signed either way, yet one was authorised as a message, one as a list."""
    listed = digests(MESSAGE)

    as_message = authorise(scene.server, scene.person, MESSAGE)
    scene.refuses(altered(as_message, content=listed), AuthorisationMismatch)
    as_list = authorise(scene.server, scene.person, listed)
    scene.refuses(altered(as_list, content=message(MESSAGE)), AuthorisationMismatch)

    # H of a list is the hash of bytes that are no secret: sent as a message they are no list.
    encoded = b"hsm-signer/1/digests" + (1).to_bytes(2, "big") + bytes([32]) + listed.digests[0]
    scene.refuses(altered(as_list, content=message(encoded)), AuthorisationMismatch)
    still_signs(scene.server, scene.person)


# --- once and only once ------------------------------------------------------------------------------------


@EVERY_PERSON
def test_lost_answer_asked_for_again(scene: Scene) -> None:
    request = authorise(scene.server, scene.person, MESSAGE)
    first = scene.server.sign(request)
    row, entries = credential_row(scene.home, scene.id), chain(scene.server, scene.id)

    for _ in range(2):
        again = scene.server.sign(request)
        assert again == replace(first, repeated=True)

    assert credential_row(scene.home, scene.id) == row
    assert chain(scene.server, scene.id) == entries
    still_signs(scene.server, scene.person)
    # Later signatures do not change what was answered.
    assert scene.server.sign(request) == replace(first, repeated=True)


@EVERY_SCHEME
def test_lost_answer_of_a_batch(scene: Scene) -> None:
    listed = digests(*DOCUMENTS)
    request = authorise(scene.server, scene.person, listed)
    first = scene.server.sign(request)
    assert scene.server.sign(request) == replace(first, repeated=True)
    verifies(first, listed)


@pytest.mark.parametrize(
    ("name", "error"),
    [("alice", ChallengeStale), ("paula", AuthorisationMismatch), ("basil", AuthorisationMismatch)],
)
def test_quantities_replayed_for_another_message_after_success(
    scene: Scene, error: type[SignerError]
) -> None:
    request = authorise(scene.server, scene.person, MESSAGE)
    scene.server.sign(request)

    scene.refuses(altered(request, content=message(b"pay 900 to Eve")), error)
    still_signs(scene.server, scene.person)


@pytest.mark.parametrize(
    ("name", "error"),
    [("alice", ChallengeStale), ("paula", AuthorisationMismatch), ("basil", AuthorisationMismatch)],
)
def test_stored_answer_is_not_given_for_other_quantities(scene: Scene, error: type[SignerError]) -> None:
    """D is public: whoever knows it, but not the Qs, gets nothing out of the evidence."""
    request = authorise(scene.server, scene.person, MESSAGE)
    scene.server.sign(request)

    for position in (0, 39):
        quantities = flipped_quantity(request.authorisation, 0, position)
        scene.refuses(altered(request, quantities=quantities), error)
    still_signs(scene.server, scene.person)


def test_two_authorisations_for_one_challenge(home: Home, server: Server) -> None:
    """A card that was copied, or asked twice: the first wins, the second is stale and can be made anew."""
    alice = home["alice"]
    record = alice.record(server)
    first, second = (authorise(server, alice, text) for text in (b"first", b"second"))

    verifies(server.sign(first), message(b"first"))
    with refused(home, server, record.credential_id, ChallengeStale) as seen:
        server.sign(second)

    assert seen.error is not None
    assert seen.error.retryable
    assert alice.record(server).x == 3
    still_signs(server, alice)


@pytest.mark.parametrize("name", ["paula", "basil"])
def test_authorisations_without_a_challenge_do_not_grow_stale(scene: Scene) -> None:
    """Schemes basic and pin: made offline, submitted later and in any order (step 694)."""
    contents = [message(bytes([i])) for i in range(3)]
    requests = [authorise(scene.server, scene.person, each) for each in contents]
    for request, content in reversed(list(zip(requests, contents, strict=True))):
        verifies(scene.server.sign(request), content)
    still_signs(scene.server, scene.person)


# --- the challenge -----------------------------------------------------------------------------------------


def _other_values(values: tuple[RollingValue, ...]) -> list[tuple[RollingValue, ...]]:
    one, two = values
    changed = [
        *((RollingValue(flip(one, i, i % 8)), two) for i in (0, 15, 31)),
        *((one, RollingValue(flip(two, i, i % 8))) for i in (0, 15, 31)),
    ]
    return [*changed, (two, one), (one, one), (two, two), (one,), (two,), (), (one, two, one), (one, two) * 3]


def test_rolling_values_altered(home: Home, server: Server) -> None:
    """Refused before any call of the token: with D as it would then be, and with x as it was."""
    alice = home["alice"]
    record = alice.record(server)
    request = authorise(server, alice, MESSAGE)
    steps: list[int] = []
    watched = dataclasses.replace(server, observe=steps.append)

    for values in _other_values(request.authorisation.rolling_values):
        with refused(home, server, record.credential_id, ChallengeStale):
            watched.sign(altered(request, rolling_values=values))

    assert set(steps) == {1}
    verifies(server.sign(request), message(MESSAGE))
    still_signs(server, alice)


def test_counter_altered(home: Home, server: Server) -> None:
    alice = home["alice"]
    record = alice.record(server)
    request = authorise(server, alice, MESSAGE)
    assert record.x is not None

    for x in (record.x + 1, record.x - 1, 0, None, 2**63 - 1):
        with refused(home, server, record.credential_id, ChallengeStale):
            server.sign(altered(request, x=x))

    verifies(server.sign(request), message(MESSAGE))
    still_signs(server, alice)


@EVERY_SCHEME
@pytest.mark.parametrize("x", [-1, 2**63, 2**64 - 1, 2**64, 2**200])
def test_counter_that_no_record_can_have(scene: Scene, x: int) -> None:
    request = authorise(scene.server, scene.person, MESSAGE)
    error = scene.refuses(altered(request, x=x), InputError, noted=False)
    assert "x" in error.message


@pytest.mark.parametrize("name", ["paula", "basil"])
def test_challenge_invented_in_schemes_that_have_none(scene: Scene) -> None:
    request = authorise(scene.server, scene.person, MESSAGE)
    scene.refuses(altered(request, x=1), ChallengeStale)
    scene.refuses(altered(request, rolling_values=(RollingValue(bytes(32)),)), ChallengeStale)
    still_signs(scene.server, scene.person)


@EVERY_SCHEME
def test_nonce_altered(scene: Scene) -> None:
    request = authorise(scene.server, scene.person, MESSAGE)
    for position in range(16):
        nonce = flip(request.authorisation.nonce, position, position % 8)
        scene.refuses(altered(request, nonce=nonce), AuthorisationMismatch)
    still_signs(scene.server, scene.person)


# --- the quantities ----------------------------------------------------------------------------------------


@EVERY_PERSON
def test_a_flipped_bit_in_every_byte_of_every_quantity_counts_no_failure(scene: Scene) -> None:
    """Step 3: nobody without the card can lock anybody (docs/understand/protocol.md, section 4)."""
    request = authorise(scene.server, scene.person, MESSAGE)
    steps: list[int] = []
    watched = dataclasses.replace(scene.server, observe=steps.append)
    row, _ = row_and_count(scene.home, scene.id)
    length = len(chain(scene.server, scene.id))
    tried = 0

    for index in range(len(request.authorisation.quantities)):
        for position in range(40):
            quantities = flipped_quantity(request.authorisation, index, position)
            with pytest.raises(AuthorisationMismatch):
                watched.sign(altered(request, quantities=quantities))
            tried += 1

    assert tried == (80 if scene.person.scheme is Scheme.ROLLING else 40)
    assert set(steps) == {1, 2}
    row_now, counted = row_and_count(scene.home, scene.id)
    assert row_now == row
    entries = chain(scene.server, scene.id)[length:]
    several = [entry for entry in entries if entry.event is Event.REFUSALS]  # a slow machine needs minutes
    assert {entry.outcome for entry in entries if entry not in several} == {"authorisation.mismatch"}
    assert all(entry.signatures == () for entry in entries)
    assert len(entries) - len(several) + sum(entry.x or 0 for entry in several) + counted == tried
    assert scene.person.record(scene.server).failures == 0
    verifies(scene.server.sign(request), message(MESSAGE))
    still_signs(scene.server, scene.person)


def test_made_up_requests_of_scheme_basic_lock_nobody(home: Home, server: Server) -> None:
    """T_1 of scheme basic is public, so anybody who may ask gets past step 3 with a key of their own."""
    basil = home["basil"]
    record = basil.record(server)
    template = authorise(server, basil, MESSAGE)
    steps: list[int] = []
    watched = dataclasses.replace(server, observe=steps.append)
    for number in range(FAILURES_BEFORE_LOCK + 1):
        # No card: only what everybody knows, and a key that nobody has.
        nonce = hashlib.sha256(f"R {number}".encode()).digest()[:16]
        made_up = altered(template, nonce=nonce)
        h = Digest(hashlib.sha256(MESSAGE).digest())
        (t_1,) = position_digests(d_of(record, made_up.authorisation, Mode.MESSAGE, h), ())
        made_up = altered(made_up, quantities=(Quantity(aes_key_wrap(t_1, bytes(32))),))
        steps.clear()
        with refused(home, server, record.credential_id, WrongKey):
            watched.sign(made_up)
        assert steps == [1, 2, 3], "what the attacker has: Q opens"
    with refused(home, server, record.credential_id, WrongKeyBefore):
        server.sign(made_up)
    assert basil.record(server) == record
    verifies(server.sign(template), message(MESSAGE))
    still_signs(server, basil)


def _replace_first(
    change: Callable[[Quantity, Quantity], tuple[Quantity, ...]],
) -> Callable[[SigningRequest], SigningRequest]:
    def changed(request: SigningRequest) -> SigningRequest:
        one, two = request.authorisation.quantities
        return altered(request, quantities=change(one, two))

    return changed


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_replace_first(lambda one, two: (one, one)), id="Q1 Q1"),
        pytest.param(_replace_first(lambda one, two: (two, two)), id="Q2 Q2"),
        pytest.param(_replace_first(lambda one, two: (two, one)), id="Q2 Q1"),
        pytest.param(_replace_first(lambda one, two: (one,)), id="Q1 alone"),
        pytest.param(_replace_first(lambda one, two: (two,)), id="Q2 alone"),
        pytest.param(_replace_first(lambda one, two: (one, two, one)), id="one more"),
        pytest.param(_replace_first(lambda one, two: (one, two) * 3), id="six"),
        pytest.param(_replace_first(lambda one, two: (one, Quantity(bytes(40)))), id="zeros"),
    ],
)
def test_quantities_moved_missing_or_added(
    home: Home, server: Server, change: Callable[[SigningRequest], SigningRequest]
) -> None:
    alice = home["alice"]
    request = authorise(server, alice, MESSAGE)
    with refused(home, server, alice.record(server).credential_id, AuthorisationMismatch):
        server.sign(change(request))
    verifies(server.sign(request), message(MESSAGE))
    still_signs(server, alice)


@pytest.mark.parametrize("name", ["paula", "basil"])
def test_one_quantity_too_many(scene: Scene) -> None:
    request = authorise(scene.server, scene.person, MESSAGE)
    (one,) = request.authorisation.quantities
    scene.refuses(altered(request, quantities=(one, one)), AuthorisationMismatch)
    still_signs(scene.server, scene.person)


@pytest.mark.parametrize("name", ["alice"])
@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("Q_1", {"quantities": (Quantity(bytes(39)), Quantity(bytes(40)))}),
        ("Q_2", {"quantities": (Quantity(bytes(40)), Quantity(bytes(41)))}),
        ("Q_1", {"quantities": (Quantity(b""),)}),
        ("1 to 6 quantities", {"quantities": ()}),
        ("1 to 6 quantities", {"quantities": (Quantity(bytes(40)),) * 7}),
        ("RN_1", {"rolling_values": (RollingValue(bytes(31)), RollingValue(bytes(32)))}),
        ("RN_2", {"rolling_values": (RollingValue(bytes(32)), RollingValue(bytes(33)))}),
        ("at most 6 rolling", {"rolling_values": (RollingValue(bytes(32)),) * 7}),
        ("R:", {"nonce": bytes(15)}),
        ("R:", {"nonce": bytes(17)}),
        ("credential id", {"credential_id": CredentialId(bytes(15))}),
    ],
)
def test_wrong_lengths_are_named(scene: Scene, field: str, change: dict[str, object]) -> None:
    request = authorise(scene.server, scene.person, MESSAGE)
    error = scene.refuses(altered(request, **change), InputError, noted=False)
    assert field in error.message
    still_signs(scene.server, scene.person)


def test_a_signature_is_of_one_document_by_default(home: Home, server: Server, tmp_path: Path) -> None:
    """A digest of 64 bytes whose first 32 are another document's SHA-256; P-256 signs no more than those."""
    document = b"a document that no card has seen"
    stolen = hashlib.sha256(document).digest()
    forged = DigestList((Digest(stolen + bytes(32)),))
    more = (Algorithm.ECDSA_SHA512,)
    lax = make_person(server, tmp_path, "lax", more_algorithms=more)
    assert lax.record(server).algorithms == (Algorithm.ECDSA_SHA256, *more)
    outcome = lax.sign(server, forged, Algorithm.ECDSA_SHA512)
    # What the attacker has, where it is allowed.
    algorithms.verifier(outcome.spki, Algorithm.ECDSA_SHA256)(stolen, outcome.signature)

    strict = make_person(server, tmp_path, "strict")
    assert strict.record(server).algorithms == (Algorithm.ECDSA_SHA256,)
    with pytest.raises(AlgorithmNotAllowed):
        strict.sign(server, forged, Algorithm.ECDSA_SHA512)
    # A workstation of the attacker's does not refuse; the card cannot.
    lie = replace(server.challenge(strict.record(server).credential_id), algorithms=tuple(Algorithm))
    request = authorise(server, strict, forged, Algorithm.ECDSA_SHA512, challenge=lie)
    with refused(home, server, lie.credential_id, AlgorithmNotAllowed):
        server.sign(request)
    still_signs(server, strict)


# --- other people's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attacker", "victim"), [("paula", "peter"), ("paula", "basil"), ("basil", "paula"), ("bob", "peter")]
)
def test_quantities_of_one_user_under_the_credential_of_another(
    home: Home, server: Server, attacker: str, victim: str
) -> None:
    target = home[victim].record(server)
    algorithm = home[victim].key.default_algorithm
    request = authorise(server, home[attacker], MESSAGE)
    stolen = altered(
        request, credential_id=target.credential_id, algorithm=algorithm, x=None, rolling_values=()
    )
    with refused(home, server, target.credential_id, AuthorisationMismatch):
        server.sign(stolen)
    still_signs(server, home[victim])


def test_quantities_of_one_user_under_the_rolling_credential_of_another(home: Home, server: Server) -> None:
    """Alice's card answers bob's challenge, so that x and RNs are his."""
    alice, bob = home["alice"], home["bob"]
    theirs = server.challenge(bob.record(server).credential_id)
    hers = server.challenge(alice.record(server).credential_id)
    lie = replace(hers, x=theirs.x, rolling_values=theirs.rolling_values)
    request = authorise(server, alice, MESSAGE, challenge=lie)

    with refused(home, server, theirs.credential_id, AuthorisationMismatch):
        server.sign(
            altered(request, credential_id=theirs.credential_id, algorithm=Algorithm.RSA_PKCS1_SHA256)
        )

    # The workstation notices before the PIN is asked for.
    with pytest.raises(CardMismatch):
        authorise(server, alice, MESSAGE, Algorithm.RSA_PKCS1_SHA256, challenge=theirs)
    still_signs(server, alice)
    still_signs(server, bob)


def test_card_of_another_installation(home: Home, template_home: Home, tmp_path: Path) -> None:
    """Same user name, same PIN, another token: the credential id is not known here."""
    other = template_home.copy_to(tmp_path / "other")
    with other.server() as there:
        stranger = make_person(there, tmp_path, "carol")
        foreign = authorise(there, stranger)
    with home.server() as here:
        entries = list(here.entries())
        with pytest.raises(CredentialUnknown):
            stranger.sign(here)
        with pytest.raises(CredentialUnknown):
            here.sign(foreign)
        assert list(here.entries()) == entries, "strangers fill no evidence"
        still_signs(here, home["alice"])


def test_card_enrolled_anew_does_not_open_the_old_credential(
    home: Home, server: Server, tmp_path: Path
) -> None:
    """A revoked user's old card, kept in a drawer, against the new credential."""
    alice = home["alice"]
    old_id = alice.record(server).credential_id
    drawer = dataclasses.replace(alice, card_path=tmp_path / "drawer.card")
    shutil.copyfile(alice.card_path, drawer.card_path)
    request = authorise(server, alice)
    server.change_status(old_id, Event.REVOKE)
    again = make_person(server, tmp_path, "alice")

    with refused(home, server, old_id, CredentialRevoked):
        server.sign(request)
    with pytest.raises(CredentialRevoked):
        drawer.sign(server)
    still_signs(server, again)


def test_repr_of_a_request_shows_no_quantity(home: Home, server: Server) -> None:
    request = authorise(server, home["basil"], MESSAGE)
    (quantity,) = request.authorisation.quantities
    assert quantity.hex() not in repr(request)
    assert repr(quantity) not in repr(request)
    assert hashlib.sha256(quantity).hexdigest() not in repr(request)


# --- Q is kept nowhere -------------------------------------------------------------------------------------


def test_any_part_of_a_quantity_would_be_found(home: Home, server: Server) -> None:
    """Or the test below would show nothing: what is in the store's files is found by it."""
    alice = home["alice"]
    outcome = alice.sign(server, MESSAGE)
    (signature,) = outcome.signatures
    assert windows_found(home, [signature[8:56]])
    assert not windows_found(home, [hashlib.sha256(signature).digest()])


@EVERY_SCHEME
@pytest.mark.parametrize("fate", ["accepted", "refused", "damaged"])
def test_only_the_hash_of_the_quantities_is_kept(scene: Scene, fate: str) -> None:
    """A logged Q of scheme basic is KEY, and Q_2 of scheme rolling opens the current record."""
    request = authorise(scene.server, scene.person, MESSAGE)
    if fate == "accepted":
        scene.server.sign(request)
    elif fate == "refused":
        request = altered(request, content=message(b"pay 900 to Eve"))
        scene.refuses(request, AuthorisationMismatch)
    else:
        sql(scene.home, "UPDATE credential SET mac = zeroblob(32) WHERE credential_id = ?", scene.id)
        scene.refuses(request, RecordDamaged)

    quantities = request.authorisation.quantities
    assert len(quantities) == (2 if scene.person.scheme is Scheme.ROLLING else 1)
    entry = chain(scene.server, scene.id)[-1]
    assert (entry.outcome == ACCEPTED) == (fate == "accepted")
    assert entry.quantities_hash == hashlib.sha256(b"".join(quantities)).digest()
    assert not windows_found(scene.home, quantities)


@pytest.mark.parametrize("name", ["alice", "paula"])
def test_quantities_of_a_wrong_pin_are_not_kept(scene: Scene, tmp_path: Path) -> None:
    """Such a Q holds a key made with a mistyped PIN: that much nearer to the right one."""
    carol = make_person(
        scene.server, tmp_path, "carol", scheme=scene.person.scheme, pin_check=PinCheck.SERVER
    )
    (wrong,) = passing_wrong_pins(carol, 1, PIN)
    request = authorise(scene.server, carol, MESSAGE, pin=wrong)
    with pytest.raises(WrongKey):
        scene.server.sign(request)
    entry = chain(scene.server, carol.record(scene.server).credential_id)[-1]
    quantities = request.authorisation.quantities
    assert entry.outcome == WrongKey.code
    assert entry.quantities_hash == hashlib.sha256(b"".join(quantities)).digest()
    assert not windows_found(scene.home, quantities)
