"""The three schemes over a model of the secure environment, every key in sight; combine 1 among them.

SoftHSM has no CKM_XOR_BASE_AND_DATA, so the patent's own way (steps 891 to 894) is shown here: against a
model card written from the formulas, and against the real simulated card.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import keywrap
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hsm_signer.card.address import create_card, open_card
from hsm_signer.card.commands import authorise_content
from hsm_signer.card.pins import CardPin
from hsm_signer.errors import AuthorisationMismatch, WrongKey
from hsm_signer.schemes import steps_of
from hsm_signer.schemes.authorise import authorisation_digest, personalisation_digest, position_digests
from hsm_signer.types import (
    Algorithm,
    Combine,
    CredentialId,
    Digest,
    Mode,
    PinCheck,
    PinPolicy,
    Quantity,
    RollingValue,
    Scheme,
    Sealing,
    WrappedKey,
)
from tests.support.model import GIVES_W, Forbidden, ModelPair, ModelServer, ModelWorkspace, combined
from tests.support.scenes import flip, message

BOTH = pytest.mark.parametrize("combine", [Combine.XOR, Combine.CBC], ids=["combine 1", "combine 2"])
SCHEMES = pytest.mark.parametrize(
    ("scheme", "combine"),
    [
        (Scheme.BASIC, Combine.NONE),
        (Scheme.PIN, Combine.XOR),
        (Scheme.PIN, Combine.CBC),
        (Scheme.ROLLING, Combine.XOR),
        (Scheme.ROLLING, Combine.CBC),
    ],
    ids=["basic", "pin 1", "pin 2", "rolling 1", "rolling 2"],
)


def h_of(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()


def w_of(server: ModelServer, key: bytes) -> bytes:
    """W(K) of docs/understand/protocol.md, section 3, for the credential's S, which is all that MK gives."""
    record = server.record
    assert record.wrapped_seal is not None
    assert len(record.wrapped_seal) == 40
    s = keywrap.aes_key_unwrap(server.master_key, record.wrapped_seal)
    y = hmac.digest(s, b"hsm-signer/2/seal" + record.credential_id, "sha256")
    return combined(Combine.CBC, key, y)


def opens(key: bytes, server: ModelServer) -> bool:
    """Whether this key opens wrap(SK) as the record has it now; if so, it gives the right SK."""
    assert server.record.wrapped_sk is not None
    try:
        found = keywrap.aes_key_unwrap_with_padding(key, server.record.wrapped_sk)
    except keywrap.InvalidUnwrap:
        return False
    assert found == server.pair.private.value
    return True


# --- scheme rolling ----------------------------------------------------------------------------------------


@BOTH
def test_every_wrapping_is_under_v_of_its_own_rolling_value(combine: Combine) -> None:
    """Fifty signatures: V_x+1 = combine(KEK1, RN_x+1) each time, though the server never has KEK1."""
    server = ModelServer(Scheme.ROLLING, combine)
    card = server.card()
    seen: set[bytes] = set()
    for number in range(50):
        record = server.record
        assert record.x == number + 1
        assert record.rn is not None
        assert record.rn_next is not None
        v = combined(combine, server.kek, record.rn)
        assert opens(w_of(server, v), server)
        assert not opens(v, server), "V alone, which the card gives, opens nothing"
        for others in seen:
            assert not opens(others, server)
        seen.add(w_of(server, v))

        challenge = server.challenge()
        assert challenge == ((record.rn,) if combine is Combine.XOR else (record.rn, record.rn_next))
        h = h_of(bytes([number]))
        workspace = server.sign(h, *card.authorise(h, challenge))

        after = server.record
        assert (after.x, after.rn) == (number + 2, record.rn_next)
        assert after.rn_next not in (record.rn, record.rn_next)
        assert server.kek not in [key.value for key in workspace.made], "KEK1 is never recomputed"
    assert len(seen) == 50


def test_steps_891_to_894() -> None:
    """Combine 1: V_x+1 = V_x XOR (RN_x XOR RN_x+1) = KEK1 XOR RN_x+1, computed without KEK1."""
    server = ModelServer(Scheme.ROLLING, Combine.XOR)
    record, h = server.record, h_of(b"m")
    assert record.rn is not None
    assert record.rn_next is not None
    workspace = server.sign(h, *server.card().authorise(h, server.challenge()))
    gives_w, rolls, w, w_next = (
        [key.value for key in workspace.made if key.use == use]
        for use in (GIVES_W, "become V_x+1 by XOR", "unwrap SK", "wrap SK")
    )
    v = combined(Combine.XOR, server.kek, record.rn)
    v_next = combined(Combine.XOR, server.kek, record.rn_next)
    assert rolls == [v]
    assert gives_w == [v, v_next]
    assert w == [w_of(server, v)]
    assert w_next == [w_of(server, v_next)]


def test_a_leaked_v_of_combine_1_gives_kek1_away_and_one_of_combine_2_does_not() -> None:
    """Why combine 2 is the default even on tokens that have XOR (docs/understand/protocol.md, section 1)."""
    for combine in (Combine.XOR, Combine.CBC):
        server = ModelServer(Scheme.ROLLING, combine)
        assert server.record.rn is not None
        leaked = combined(combine, server.kek, server.record.rn)
        guessed = combined(Combine.XOR, leaked, server.record.rn)
        assert (guessed == server.kek) == (combine is Combine.XOR)


@BOTH
def test_card_that_answers_an_older_challenge(combine: Combine) -> None:
    server = ModelServer(Scheme.ROLLING, combine)
    card, h = server.card(), h_of(b"m")
    old = server.challenge()
    server.sign(h, *card.authorise(h, old))
    record = server.record
    with pytest.raises(AuthorisationMismatch):
        server.sign(h, *card.authorise(h, old))
    assert server.record == record


@BOTH
def test_challenge_changes_nothing_and_is_the_same_for_every_reader(combine: Combine) -> None:
    server = ModelServer(Scheme.ROLLING, combine)
    record = server.record
    assert server.challenge() == server.challenge()
    assert server.record == record


# --- every scheme ------------------------------------------------------------------------------------------


@SCHEMES
def test_signs_again_and_again(scheme: Scheme, combine: Combine) -> None:
    server = ModelServer(scheme, combine)
    card = server.card()
    for number in range(5):
        h = h_of(bytes([number]))
        server.sign(h, *card.authorise(h, server.challenge()))
    if scheme is not Scheme.ROLLING:
        assert server.record.x is None


@SCHEMES
def test_sk_is_sealed_from_the_beginning(scheme: Scheme, combine: Combine) -> None:
    """What the card gives opens nothing without S, and S nothing without the card's key."""
    server = ModelServer(scheme, combine)
    card, seals = server.card(), {server.record.wrapped_seal}
    for number in range(3):
        key = card.key(server.challenge(), 1)
        assert opens(w_of(server, key), server)
        assert not opens(key, server)
        for other in (bytes(32), os.urandom(32), w_of(server, bytes(32)), combined(Combine.CBC, key, key)):
            assert not opens(other, server)
        server.sign(h_of(bytes([number])), *card.authorise(h_of(bytes([number])), server.challenge()))
        seals.add(server.record.wrapped_seal)
    assert len(seals) == 1, "S is the credential's for good"


@SCHEMES
def test_a_record_of_sealing_1_moves_at_its_next_signature(scheme: Scheme, combine: Combine) -> None:
    """S is drawn once; SK, which elsewhere than in scheme rolling stays, is extractable that once; from then
    on the card's key opens nothing by itself."""
    server = ModelServer(scheme, combine)
    server.as_older_versions_made_it()
    card, h = server.card(), h_of(b"m")
    old = server.record
    assert (old.sealing, old.wrapped_seal) == (Sealing.CARD, None)
    assert opens(card.key(server.challenge(), 1), server), "sealing 1: the card's key alone"

    workspace = server.sign(h, *card.authorise(h, server.challenge()))

    def extractable(made_by: ModelWorkspace, use: str) -> list[bool]:
        return [key.extractable for key in made_by.made if key.use == use]

    assert extractable(workspace, "seal") == [True]
    assert extractable(workspace, "sk") == [True]
    moved = server.record
    assert (moved.sealing, moved.format) == (Sealing.TOKEN, 2)
    assert moved.wrapped_sk != old.wrapped_sk
    key = card.key(server.challenge(), 1)
    assert opens(w_of(server, key), server)
    assert not opens(key, server)

    again = server.sign(h, *card.authorise(h, server.challenge()))
    assert extractable(again, "seal") == [False], "opened, not drawn"
    assert extractable(again, "sk") == [scheme is Scheme.ROLLING]
    assert server.record.wrapped_seal == moved.wrapped_seal
    assert (server.record.wrapped_sk == moved.wrapped_sk) == (scheme is not Scheme.ROLLING)


@SCHEMES
def test_a_wrong_key_moves_no_record(scheme: Scheme, combine: Combine) -> None:
    server = ModelServer(scheme, combine)
    server.as_older_versions_made_it()
    record, h = server.record, h_of(b"m")
    card = dataclasses.replace(server.card(), kek=os.urandom(32))
    with pytest.raises(WrongKey):
        server.sign(h, *card.authorise(h, server.challenge()))
    assert server.record == record


@SCHEMES
def test_all_quantities_must_open_before_sk_is_touched(scheme: Scheme, combine: Combine) -> None:
    """Each bit of each byte of each Q, on the model: nothing opens, and SK stays wrapped."""
    server = ModelServer(scheme, combine)
    h = h_of(b"m")
    nonce, quantities = server.card().authorise(h, server.challenge())
    record = server.record
    for index in range(len(quantities)):
        for position in range(40):
            for bit in range(8):
                changed = list(quantities)
                changed[index] = Quantity(flip(quantities[index], position, bit))
                workspace = server.workspace()
                assert record.wrapped_seal is not None
                workspace.open_seal(record.wrapped_seal, record.credential_id)
                with pytest.raises(AuthorisationMismatch):
                    server.steps.recover(workspace, record, server.positions(h, nonce), changed)
    assert server.record == record
    server.sign(h, nonce, quantities)


@SCHEMES
def test_another_card_s_key_is_a_wrong_key(scheme: Scheme, combine: Combine) -> None:
    """KCAR is right, so the Qs open (step 3); the KEK is not, so SK does not (step 4): a wrong PIN."""
    server = ModelServer(scheme, combine)
    card = dataclasses.replace(server.card(), kek=os.urandom(32))
    h = h_of(b"m")
    with pytest.raises(WrongKey):
        server.sign(h, *card.authorise(h, server.challenge()))


@pytest.mark.parametrize("combine", [Combine.XOR, Combine.CBC])
def test_another_kcar_does_not_even_open(combine: Combine) -> None:
    server = ModelServer(Scheme.PIN, combine)
    card = dataclasses.replace(server.card(), kcar=os.urandom(32))
    h = h_of(b"m")
    with pytest.raises(AuthorisationMismatch):
        server.sign(h, *card.authorise(h, server.challenge()))


def test_kowf_is_compared_after_sk_has_opened() -> None:
    """Step 5 discriminates: the same keys, but P of another credential."""
    server = ModelServer(Scheme.PIN, Combine.CBC)
    card, h = server.card(), h_of(b"m")
    right = server.record
    server.record = replace(right, parameter=os.urandom(64))
    with pytest.raises(WrongKey, match="not the one this private key gives"):
        server.sign(h, *card.authorise(h, ()))
    server.record = right
    server.sign(h, *card.authorise(h, ()))


@SCHEMES
def test_what_enrolment_puts_into_the_record(scheme: Scheme, combine: Combine) -> None:
    server = ModelServer(scheme, combine)
    record = server.record
    rolling, basic = scheme is Scheme.ROLLING, scheme is Scheme.BASIC
    assert (record.x, record.rn is None, record.rn_next is None) == (
        (1, False, False) if rolling else (None, True, True)
    )
    assert record.rn is None or record.rn != record.rn_next
    assert (record.wrapped_kcar is None) == basic
    assert (record.parameter is not None) == (scheme is Scheme.PIN)
    if record.wrapped_kcar is not None:
        assert keywrap.aes_key_unwrap(server.master_key, record.wrapped_kcar) == server.kcar
    assert steps_of(scheme).scheme is scheme
    assert steps_of(scheme).sk_extractable == rolling
    assert steps_of(scheme).sk_gives_kowf == (scheme is Scheme.PIN)


def test_scheme_basic_combines_nothing() -> None:
    for combine in (Combine.XOR, Combine.CBC):
        with pytest.raises(ValueError, match="combine 0"):
            ModelServer(Scheme.BASIC, combine)


@pytest.mark.parametrize("missing", ["wrapped_kcar", "rn", "rn_next"])
def test_record_without_what_its_scheme_needs_is_our_own_mistake(missing: str) -> None:
    """Its MAC held, so nobody else made it so."""
    server = ModelServer(Scheme.ROLLING, Combine.CBC)
    h = h_of(b"m")
    nonce, quantities = server.card().authorise(h, server.challenge())
    positions = server.positions(h, nonce)
    record = replace(server.record, **{missing: None})
    ask = server.steps.recover if missing == "wrapped_kcar" else None
    with pytest.raises(AssertionError, match="record without"):
        ask(server.workspace(), record, positions, quantities) if ask else server.steps.challenge(record)


# --- the simulated card against the model -------------------------------------------------------------------


@SCHEMES
@pytest.mark.parametrize("pin_check", [PinCheck.CARD, PinCheck.SERVER])
def test_simulated_card_against_the_model(
    tmp_path: Path, scheme: Scheme, combine: Combine, pin_check: PinCheck
) -> None:
    """Personalised over ECDH, hash, PIN, AUTHORISE; ten signatures, and between them a changed PIN."""
    server = ModelServer(scheme, combine, pin_check)
    address = f"sim:{tmp_path / 'a.card'}"
    create_card(address)
    basic = scheme is Scheme.BASIC
    pin = CardPin("493817", source="test")
    with open_card(address) as card:
        point = card.begin_personalisation().point
        card.install(server.personalise(point), None if basic else pin, None)
    for number in range(10):
        if number == 5 and not basic:
            new = CardPin("75319024", source="test")
            with open_card(address) as card:
                card.change_pin(pin, new)
            pin = new
        text = f"message {number}".encode()
        with open_card(address) as card:
            made = authorise_content(
                card,
                server.for_card(),
                message(text),
                Algorithm.ECDSA_SHA256,
                lambda pin=pin: pin,  # type: ignore[misc]
            )
        assert len(made.quantities) == max(1, len(server.challenge()))
        with pytest.raises(AuthorisationMismatch):
            server.sign(h_of(b"another"), made.nonce, made.quantities)
        server.sign(h_of(text), made.nonce, made.quantities)


# --- D and its positions -----------------------------------------------------------------------------------


def base(**changes: object) -> Digest:
    values: dict[str, object] = {
        "scheme": Scheme.ROLLING,
        "combine": Combine.CBC,
        "algorithm": Algorithm.ECDSA_SHA256,
        "mode": Mode.MESSAGE,
        "pin_policy": PinPolicy.ALWAYS,
        "credential_id": CredentialId(bytes(16)),
        "nonce": bytes(16),
        "rolling_values": (RollingValue(bytes(32)), RollingValue(b"\1" * 32)),
        "h": Digest(bytes(32)),
    }
    return authorisation_digest(**(values | changes))  # type: ignore[arg-type]


def test_d_is_what_the_protocol_says() -> None:
    """Written out byte by byte once more."""
    expected = hashlib.sha256(
        b"hsm-signer/1/authorise"
        b"\x03\x02\x02\x01\x01\x01" + bytes(16) + bytes(16) + b"\x02" + bytes(32) + b"\1" * 32 + bytes(32)
    ).digest()
    assert base() == expected
    d_1, d_2 = position_digests(base(), (RollingValue(b""), RollingValue(b"")))
    assert d_1 == hashlib.sha256(b"hsm-signer/1/position\x01" + expected).digest()
    assert d_2 == hashlib.sha256(b"hsm-signer/1/position\x02" + expected).digest()


def test_d_depends_on_every_part() -> None:
    changed = [
        base(),
        base(scheme=Scheme.PIN),
        base(combine=Combine.XOR),
        base(algorithm=Algorithm.ECDSA_SHA384),
        base(mode=Mode.DIGESTS),
        base(pin_policy=PinPolicy.SESSION),
        base(credential_id=CredentialId(bytes(15) + b"\1")),
        base(nonce=bytes(15) + b"\1"),
        base(rolling_values=()),
        base(rolling_values=(RollingValue(bytes(32)),)),
        base(rolling_values=(RollingValue(b"\1" * 32), RollingValue(bytes(32)))),
        base(h=Digest(bytes(31) + b"\1")),
    ]
    assert len(set(changed)) == len(changed)


@given(st.integers(0, 6))
def test_as_many_positions_as_rolling_values_and_at_least_one(count: int) -> None:
    values = tuple(RollingValue(bytes([i]) * 32) for i in range(count))
    found = position_digests(Digest(bytes(32)), values)
    assert len(found) == len(set(found)) == max(count, 1)


def test_personalisation_depends_on_every_parameter() -> None:
    """What a relay changes on the way to the card makes K_r another key: INSTALL fails."""
    values: dict[str, object] = {
        "credential_id": CredentialId(bytes(16)),
        "scheme": Scheme.ROLLING,
        "combine": Combine.CBC,
        "pin_policy": PinPolicy.ALWAYS,
        "pin_check": PinCheck.SERVER,
        "pin_tries": 3,
        "puk_tries": 10,
        "card_point": b"\4" + bytes(64),
        "token_point": b"\4" + b"\1" * 64,
    }
    changes: list[dict[str, object]] = [
        {},
        {"credential_id": CredentialId(b"\1" * 16)},
        {"scheme": Scheme.PIN},
        {"combine": Combine.XOR},
        {"pin_policy": PinPolicy.SESSION},
        {"pin_check": PinCheck.CARD},
        {"pin_tries": 15},
        {"puk_tries": 15},
        {"card_point": b"\4" + b"\2" * 64},
        {"token_point": b"\4" + b"\2" * 64},
    ]
    found = {
        personalisation_digest(role, **(values | change))  # type: ignore[arg-type]
        for role in (1, 2)
        for change in changes
    }
    assert len(found) == 2 * len(changes)
    expected = hashlib.sha256(
        b"hsm-signer/1/personalise\x01"
        + bytes(16)
        + b"\x03\x02\x01\x02\x03\x0a\4"
        + bytes(64)
        + b"\4"
        + b"\1" * 64
    ).digest()
    assert personalisation_digest(1, **values) == expected  # type: ignore[arg-type]


# --- the model itself --------------------------------------------------------------------------------------


def test_model_refuses_what_a_token_would() -> None:
    """Or a scheme that misuses a key would pass here."""
    workspace = ModelWorkspace(bytes(32))
    kcar = workspace.new_kcar(Combine.CBC)
    t = workspace.transient(kcar, Combine.CBC, Digest(bytes(32)))
    pair = ModelPair()
    with pytest.raises(Forbidden):
        workspace.wrap_sk(t, pair.private)
    with pytest.raises(AssertionError, match="no sealing secret"):
        workspace.sealed(workspace.new_key())
    workspace.new_seal(CredentialId(bytes(16)))
    with pytest.raises(Forbidden):
        workspace.sealed(kcar)
    with pytest.raises(Forbidden):
        workspace.wrap_sk(workspace.new_key(), pair.private)
    with pytest.raises(Forbidden):
        workspace.transient(kcar, Combine.XOR, Digest(bytes(32)))
    with pytest.raises(Forbidden):
        workspace.same_key(kcar, t)
    with pytest.raises(Forbidden):
        workspace.wrap_kcar(workspace.unwrap_kcar(WrappedKey(workspace.wrap_kcar(kcar)), Combine.CBC))
