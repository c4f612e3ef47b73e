"""Keys live in a `with` and die in its `finally`, whatever happens in between."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pkcs11.exceptions as p11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from hsm_signer.errors import (
    AuthorisationMismatch,
    InputError,
    SignerError,
    TokenError,
    TokenSessionLost,
    TokenUnavailable,
    TokenUnsuitable,
    WrongKey,
)
from hsm_signer.schemes.key_operations import KekUse
from hsm_signer.server.server import Server
from hsm_signer.testing import Home
from hsm_signer.token import primitives
from hsm_signer.token import workspace as workspaces
from hsm_signer.token.binding import AttributeMapper, CkKeyDerivationStringData, SecretKeyObject
from hsm_signer.token.environment import SecureEnvironment
from hsm_signer.token.faults import token_call
from hsm_signer.token.profile import CONFINEMENTS, Confinement, TokenProfile
from hsm_signer.token.session import TokenSession
from hsm_signer.token.templates import Templates
from hsm_signer.token.workspace import TokenWorkspace
from hsm_signer.types import (
    Algorithm,
    Combine,
    CredentialId,
    Digest,
    KeySpec,
    Quantity,
    RollingValue,
    Scheme,
    WrappedKey,
)
from tests.support.enrolments import wanted
from tests.support.scenes import authorise, message, objects, still_signs, verifies

TOKEN_KEYS = 4
"""MK, the record MAC key and both halves of the identity key."""


@pytest.mark.parametrize("name", ["alice", "bob", "paula", "peter", "basil"])
def test_signing_leaves_no_object_behind(home: Home, server: Server, name: str) -> None:
    person = home[name]
    before = objects(server)
    assert len(before) == TOKEN_KEYS
    during: dict[int, int] = {}

    def observe(step: int) -> None:
        during[step] = len(objects(server))

    watched = dataclasses.replace(server, observe=observe)
    request = authorise(server, person)
    watched.sign(request)
    assert objects(server) == before
    assert during[2] == TOKEN_KEYS
    expected = {Scheme.ROLLING: 9, Scheme.PIN: 8, Scheme.BASIC: 5}[person.scheme]
    assert during[7] == TOKEN_KEYS + expected
    assert during[8] == TOKEN_KEYS, "step 8: destroyed before anything is committed"


@pytest.mark.parametrize("name", ["alice", "paula", "basil"])
@pytest.mark.parametrize("step", range(3, 8))
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_in_the_middle_leaves_no_object_behind(
    home: Home, server: Server, name: str, step: int, error: type[BaseException]
) -> None:
    before = objects(server)
    seen: list[int] = []

    def observe(done: int) -> None:
        if done == step:
            seen.append(len(objects(server)))
            raise error

    request = authorise(server, home[name])
    with pytest.raises(error):
        dataclasses.replace(server, observe=observe).sign(request)
    assert seen[0] > len(before)
    assert objects(server) == before
    verifies(server.sign(request), message())


OPERATIONS = (
    "open_seal",
    "sealed",
    "unwrap_kcar",
    "transient",
    "public_transient",
    "open_quantity",
    "unwrap_sk",
    "sign",
    "wrap_sk",
    "recompute_kowf",
    "same_key",
    "random",
)


@pytest.mark.parametrize("name", ["alice", "paula", "peter", "basil"])
@pytest.mark.parametrize("error", [p11.DeviceError, p11.GeneralError, p11.KeyHandleInvalid])
def test_a_token_that_fails_at_any_call_ends_the_session(
    home: Home, name: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operation of a signature fails once, after the token has done it. The key it made has no handle
    here, so the session is given up, and the key with it. No failure is counted, and the same request is good
    in the next session."""
    person = home[name]
    failed: list[str] = []
    with home.server() as server:
        request = authorise(server, person)
    for method in OPERATIONS:
        real = getattr(TokenWorkspace, method)

        def fails(
            self: TokenWorkspace, *given: Any, _real: Any = real, _method: str = method, **named: Any
        ) -> Any:
            _real(self, *given, **named)
            failed.append(_method)
            with token_call("testing"):
                raise error

        with home.server() as server, monkeypatch.context() as patched:
            assert len(objects(server)) == TOKEN_KEYS
            patched.setattr(TokenWorkspace, method, fails)
            try:
                server.sign(request)
            except TokenUnavailable:
                assert failed[-1] == method
                with pytest.raises(TokenSessionLost) as lost:
                    server.sign(request)
                assert not lost.value.retryable, "only a new session helps"
            else:
                # This scheme has no such operation: the signature was made.
                assert method not in failed, "an error was swallowed"
                assert len(objects(server)) == TOKEN_KEYS
                request = authorise(server, person)
    assert len(failed) >= 4
    with home.server() as server:
        assert len(objects(server)) == TOKEN_KEYS
        assert person.record(server).failures == 0
        verifies(server.sign(request), message())
        still_signs(server, person)


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("error", [RuntimeError, TokenUnavailable])
def test_enrolment_that_fails_in_the_middle_leaves_no_object_behind(
    home: Home, scheme: Scheme, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of our own destroys the keys and goes on; one of the token ends the session, too."""
    reached: list[str] = []
    for method in (
        "new_pair",
        "new_seal",
        "sealed",
        "new_kcar",
        "new_key",
        "new_kek1",
        "variant",
        "new_parameter",
        "first_kowf",
        "wrap_sk",
        "wrap_kcar",
        "new_ephemeral",
        "agree",
        "personalisation_key",
        "wrap_for_card",
    ):
        real = getattr(TokenWorkspace, method)

        def fails(
            self: TokenWorkspace, *given: Any, _real: Any = real, _method: str = method, **named: Any
        ) -> Any:
            _real(self, *given, **named)
            reached.append(_method)
            raise error("testing")

        with home.server() as server, monkeypatch.context() as patched:
            before = objects(server)
            assert len(before) == TOKEN_KEYS
            patched.setattr(TokenWorkspace, method, fails)
            try:
                server.environment.create(wanted(scheme))
            except error:
                assert reached[-1] == method
                if error is TokenUnavailable:
                    with pytest.raises(TokenSessionLost):
                        server.environment.random(1)
                    continue
            assert objects(server) == before
    assert len(reached) >= 9


@pytest.mark.parametrize(
    "point", [bytes(65), b"\x04" + bytes(64), b"\x02" + bytes(32), b"", b"\x04" + b"\xff" * 64]
)
def test_card_point_that_is_none(server: Server, point: bytes) -> None:
    """An invalid point would give the ephemeral key away bit by bit: refused before the token sees it."""
    before = objects(server)
    with pytest.raises(InputError, match="card point: expected 65 bytes"):
        server.environment.create(wanted(card_point=point))
    assert objects(server) == before


def test_point_of_another_curve(server: Server) -> None:
    point = ec.generate_private_key(ec.SECP256K1()).public_key()
    encoded = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    with pytest.raises(InputError, match="card point"):
        server.environment.create(wanted(card_point=encoded))


def test_object_that_cannot_be_destroyed_withholds_the_signature(
    home: Home, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 8 comes before step 9: a token that does not destroy gets nothing committed, nothing released."""
    alice = home["alice"]
    request = authorise(server, alice)
    record = alice.record(server)
    stuck: list[SecretKeyObject] = []

    class Stuck(SecretKeyObject):
        def destroy(self) -> None:
            stuck.append(self)
            raise p11.DeviceError

    real = TokenWorkspace.transient

    def transient(self: TokenWorkspace, kcar: Any, combine: Combine, d_i: Digest) -> Any:
        made = real(self, kcar, combine, d_i)
        self._made[-1] = Stuck(made.wrapper)  # type: ignore[attr-defined]
        return made

    with monkeypatch.context() as patched:
        patched.setattr(TokenWorkspace, "transient", transient)
        with pytest.raises(TokenUnavailable, match="being destroyed"):
            server.sign(request)
    assert len(stuck) == 2, "the others were destroyed all the same"
    # The session is given up, and what could not be destroyed ends with it.
    for attempt in (lambda: server.sign(request), lambda: objects(server), lambda: alice.record(server)):
        with pytest.raises(TokenSessionLost) as lost:
            attempt()
        assert not lost.value.retryable
    with home.server() as again:
        assert len(objects(again)) == TOKEN_KEYS
        assert alice.record(again) == record
        verifies(again.sign(request), message())
        still_signs(again, alice)


# --- what each key may do, on the token itself --------------------------------------------------------------


def test_a_key_does_only_what_it_is_for(server: Server) -> None:
    """The token refuses every other use of a session key, and every other mechanism of the same use."""
    environment = server.environment
    with environment._workspace() as workspace:
        pair = workspace.new_pair(KeySpec.P256, gives_kowf=False)
        wrapped_s = workspace.new_seal(CredentialId(bytes(16)))
        new_s: Any = workspace._made[-1]
        workspace.open_seal(wrapped_s, CredentialId(bytes(16)))
        s: Any = workspace._made[-1]
        kcar: Any = workspace.new_kcar(Combine.CBC)
        key: Any = workspace.new_key()
        t: Any = workspace.transient(kcar, Combine.CBC, Digest(bytes(32)))
        k_r: Any = workspace.personalisation_key(kcar, Digest(bytes(32)))
        wrapped_key = workspace.wrap_for_card(k_r, key)
        compared: Any = workspace.open_quantity(t, Quantity(wrapped_key), KekUse.COMPARE)
        unwraps: Any = workspace.open_quantity(t, Quantity(wrapped_key), KekUse.UNWRAP_SK)
        v: Any = workspace._made[-2]
        wraps: Any = workspace.sealed(key)
        wrapped_sk = workspace.wrap_sk(wraps, pair.private)
        sk: Any = workspace.unwrap_sk(
            unwraps, wrapped_sk, KeySpec.P256, Algorithm.ECDSA_SHA256, extractable=False, gives_kowf=False
        )

        def unwrap(under: Any, wrapped: bytes, mechanism: Mechanism) -> Callable[[], object]:
            return lambda: under.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                wrapped,
                mechanism=mechanism,
                template={Attribute.SENSITIVE: True, Attribute.PRIVATE: True, Attribute.TOKEN: False},
            )

        def unwrap_sk(under: Any) -> Callable[[], object]:
            return lambda: workspace.unwrap_sk(
                under, wrapped_sk, KeySpec.P256, Algorithm.ECDSA_SHA256, extractable=False, gives_kowf=False
            )

        def derive(base: Any) -> Callable[[], object]:
            return lambda: workspace.derive_with(base, bytes(32), {Attribute.TOKEN: False})

        refused: dict[str, Callable[[], object]] = {
            "S derives": derive(s),
            "S wraps": lambda: s.wrap_key(pair.private, mechanism=Mechanism.AES_KEY_WRAP_PAD),
            "S signs by another HMAC": lambda: s.sign(bytes(16), mechanism=Mechanism.SHA512_HMAC),
            "S, once opened, is wrapped": lambda: k_r.wrap_key(s, mechanism=Mechanism.AES_KEY_WRAP),
            "S is read": lambda: s[Attribute.VALUE],
            "S is read when new": lambda: new_s[Attribute.VALUE],
            "V_x unwraps SK": unwrap_sk(v),
            "V_x wraps SK": lambda: v.wrap_key(pair.private, mechanism=Mechanism.AES_KEY_WRAP_PAD),
            "V_x derives by ECB": lambda: v.derive_key(
                KeyType.AES, 256, mechanism=Mechanism.AES_ECB_ENCRYPT_DATA, mechanism_param=bytes(32)
            ),
            "KEY wraps SK": lambda: key.wrap_key(pair.private, mechanism=Mechanism.AES_KEY_WRAP_PAD),
            "KEY unwraps SK": unwrap_sk(key),
            "W(V_x) derives": derive(unwraps),
            "W(V_x+1) derives": derive(wraps),
            "W(V_x+1) unwraps SK": unwrap_sk(wraps),
            "W(V_x+1) wraps by KW": lambda: wraps.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP),
            "W(V_x+1) is wrapped": lambda: k_r.wrap_key(wraps, mechanism=Mechanism.AES_KEY_WRAP),
            "W(V_x+1) is read": lambda: wraps[Attribute.VALUE],
            "SK, once opened, is wrapped": lambda: workspace.wrap_sk(wraps, sk),
            "T signs": lambda: t.sign(bytes(16), mechanism=Mechanism.AES_CMAC),
            "T wraps": lambda: t.wrap_key(kcar, mechanism=Mechanism.AES_KEY_WRAP),
            "T derives": lambda: t.derive_key(
                KeyType.AES,
                256,
                mechanism=Mechanism.AES_CBC_ENCRYPT_DATA,
                mechanism_param=(bytes(16), bytes(32)),
            ),
            "KCAR unwraps": unwrap(kcar, wrapped_key, Mechanism.AES_KEY_WRAP),
            "KCAR derives by ECB": lambda: kcar.derive_key(
                KeyType.AES, 256, mechanism=Mechanism.AES_ECB_ENCRYPT_DATA, mechanism_param=bytes(32)
            ),
            "W(V_x) wraps": lambda: unwraps.wrap_key(pair.private, mechanism=Mechanism.AES_KEY_WRAP_PAD),
            "W(V_x) unwraps by KW": unwrap(unwraps, wrapped_key, Mechanism.AES_KEY_WRAP),
            "W(V_x) signs": lambda: unwraps.sign(bytes(16), mechanism=Mechanism.AES_CMAC),
            "KOWF compared unwraps": unwrap(compared, bytes(wrapped_sk), Mechanism.AES_KEY_WRAP_PAD),
            "K_r unwraps": unwrap(k_r, wrapped_key, Mechanism.AES_KEY_WRAP),
            "T is wrapped": lambda: k_r.wrap_key(t, mechanism=Mechanism.AES_KEY_WRAP),
            "V_x is wrapped": lambda: k_r.wrap_key(v, mechanism=Mechanism.AES_KEY_WRAP),
            "W(V_x) is wrapped": lambda: k_r.wrap_key(unwraps, mechanism=Mechanism.AES_KEY_WRAP),
            "T is copied": lambda: t.copy({Attribute.EXTRACTABLE: False}),
            "V_x is read": lambda: v[Attribute.VALUE],
            "W(V_x) is read": lambda: unwraps[Attribute.VALUE],
            "KEY is read": lambda: key[Attribute.VALUE],
            "SK is read": lambda: pair.private[Attribute.VALUE],
        }
        before = {each.handle for each in environment.session.pkcs11.get_objects()}
        for what, attempt in refused.items():
            try:
                attempt()
            except (p11.PKCS11Error, NotImplementedError, TokenUnsuitable):
                continue
            pytest.fail(f"{what}: the token lets it")
        living = {"S": s, "new S": new_s, "T": t, "V_x": v, "W(V_x)": unwraps, "W(V_x+1)": wraps, "SK": sk}
        living |= {"KCAR": kcar, "KEY": key, "new SK": pair.private, "PK": pair.public}
        for what, any_key in living.items():
            for attribute in (Attribute.DECRYPT, Attribute.LABEL, Attribute.EXTRACTABLE):
                with pytest.raises(p11.PKCS11Error):
                    any_key[attribute] = what if attribute == Attribute.LABEL else True
        assert {each.handle for each in environment.session.pkcs11.get_objects()} == before


CLOSED = {"TOKEN": False, "COPYABLE": False, "MODIFIABLE": False}
"""Of every session object, public ones included."""


def test_attributes_that_living_keys_have(home: Home, server: Server) -> None:
    """Read back from the token in the middle of a signature: what it has, not what it was asked for."""
    session = server.environment.session.pkcs11
    token_keys = objects(server)
    seen: dict[int, dict[str, object]] = {}

    def observe(step: int) -> None:
        if step != 7:
            return
        public = {each.handle for each in session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY})}
        for each in session.get_objects():
            if each.handle in public:
                continue
            names = ("TOKEN", "PRIVATE", "SENSITIVE", "EXTRACTABLE", "COPYABLE", "MODIFIABLE")
            seen[each.handle] = {name: each[Attribute[name]] for name in names}

    for name in ("alice", "paula", "basil"):
        seen.clear()
        dataclasses.replace(server, observe=observe).sign(authorise(server, home[name]))
        session_keys = {handle: found for handle, found in seen.items() if handle not in token_keys}
        assert len(session_keys) == {"alice": 9, "paula": 8, "basil": 5}[name]
        extractable = [found.pop("EXTRACTABLE") for found in session_keys.values()]
        assert extractable.count(True) == (1 if name == "alice" else 0), "SK in scheme rolling alone"
        for found in session_keys.values():
            assert found == CLOSED | {"PRIVATE": True, "SENSITIVE": True}
        for handle in token_keys & set(seen):
            assert seen[handle]["TOKEN"] is True
            assert (seen[handle]["EXTRACTABLE"], seen[handle]["SENSITIVE"]) == (False, True)
            assert (seen[handle]["COPYABLE"], seen[handle]["MODIFIABLE"]) == (False, False)


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("key", [KeySpec.P256, KeySpec.RSA2048])
def test_attributes_that_living_keys_have_at_enrolment(
    server: Server, scheme: Scheme, key: KeySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back when all keys of an enrolment are there."""
    session = server.environment.session.pkcs11
    token_keys = objects(server)
    real = SecureEnvironment._personalise
    seen: list[dict[str, object]] = []

    def personalise(self: SecureEnvironment, *given: Any) -> Any:
        personalisation = real(self, *given)
        public = {each.handle for each in session.get_objects({Attribute.CLASS: ObjectClass.PUBLIC_KEY})}
        for each in session.get_objects():
            if each.handle in token_keys:
                continue
            names = ["TOKEN", "PRIVATE", "COPYABLE", "MODIFIABLE"]
            if each.handle not in public:
                names += ["SENSITIVE", "EXTRACTABLE"]
            seen.append({name: each[Attribute[name]] for name in names})
        return personalisation

    monkeypatch.setattr(SecureEnvironment, "_personalise", personalise)
    server.environment.create(wanted(scheme, key=key))
    private = [each for each in seen if "SENSITIVE" in each]
    public = [each for each in seen if "SENSITIVE" not in each]
    # SK and S; KCAR, KEK1 or KOWF and the random bytes of P, or KEY.
    leaving = {Scheme.BASIC: 3, Scheme.ROLLING: 4, Scheme.PIN: 4 if key is KeySpec.P256 else 5}[scheme]
    assert [each.pop("EXTRACTABLE") for each in private].count(True) == leaving
    assert len(private) > leaving
    for each in private:
        assert each == CLOSED | {"PRIVATE": True, "SENSITIVE": True}
    # PK, the token's point and with an EC key P.
    assert len(public) == (3 if scheme is Scheme.PIN and key is KeySpec.P256 else 2)
    for each in public:
        assert each == CLOSED | {"PRIVATE": False}


def test_master_key_gives_out_nothing_readable(home: Home, server: Server) -> None:
    """MK's UNWRAP_TEMPLATE: whoever has the token's PIN cannot unwrap KCAR into the open with it."""
    environment = server.environment
    record = home["alice"].record(server)
    assert record.wrapped_kcar is not None
    before = objects(server)
    for template in (
        {Attribute.SENSITIVE: False, Attribute.PRIVATE: True},
        {Attribute.SENSITIVE: True, Attribute.PRIVATE: False},
    ):
        with pytest.raises(p11.PKCS11Error):
            environment._master_key.unwrap_key(
                ObjectClass.SECRET_KEY,
                KeyType.AES,
                bytes(record.wrapped_kcar),
                mechanism=Mechanism.AES_KEY_WRAP,
                template={
                    Attribute.CLASS: ObjectClass.SECRET_KEY,
                    Attribute.KEY_TYPE: KeyType.AES,
                    Attribute.TOKEN: False,
                    Attribute.EXTRACTABLE: True,
                    **template,
                },
            )
    assert objects(server) == before


def test_master_key_cannot_be_wrapped_or_read(server: Server) -> None:
    environment = server.environment
    workspace: TokenWorkspace = environment.session.workspace(environment.profile)
    with workspace:
        k_r: Any = workspace.personalisation_key(workspace.new_kcar(Combine.CBC), Digest(bytes(32)))
        for key in (environment._master_key, environment._record_key):
            with pytest.raises(p11.PKCS11Error):
                k_r.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
            with pytest.raises(p11.PKCS11Error):
                key[Attribute.VALUE]


def test_quantities_of_wrong_length_do_not_reach_the_token(server: Server) -> None:
    environment = server.environment
    with environment.session.workspace(environment.profile) as workspace:
        t = workspace.public_transient(Digest(bytes(32)))
        workspace._wraps = bytes(32)
        for y in (None, bytes(32)):
            workspace._opens = y
            for length in (0, 24, 39, 41, 48):
                for use in (KekUse.UNWRAP_SK, KekUse.WRAP_SK, KekUse.COMPARE):
                    with pytest.raises(AuthorisationMismatch):
                        workspace.open_quantity(t, Quantity(bytes(length)), use)


def test_keys_of_the_wrong_kind_are_our_own_mistake(server: Server) -> None:
    environment = server.environment
    with environment.session.workspace(environment.profile) as workspace:
        pair = workspace.new_pair(KeySpec.P256, gives_kowf=False)
        key = workspace.new_key()
        with pytest.raises(TypeError):
            workspace.wrap_sk(pair.private, key)
        with pytest.raises(TypeError):
            workspace.sign(key, KeySpec.P256, Algorithm.ECDSA_SHA256, bytes(32))
        with pytest.raises(AssertionError):
            workspace.unwrap_kcar(WrappedKey(bytes(40)), Combine.CBC)


def test_without_a_sealing_secret_sk_is_neither_opened_nor_wrapped(server: Server) -> None:
    """It would look like a wrong PIN, or hang on the card's key alone."""
    with server.environment._workspace() as workspace:
        key = workspace.new_key()
        kcar = workspace.new_kcar(Combine.CBC)
        t = workspace.transient(kcar, Combine.CBC, Digest(bytes(32)))
        q = Quantity(workspace.wrap_for_card(workspace.personalisation_key(kcar, Digest(bytes(32))), key))
        attempts: tuple[Callable[[], object], ...] = (
            lambda: workspace.sealed(key),
            lambda: workspace.open_quantity(t, q, KekUse.UNWRAP_SK),
            lambda: workspace.open_quantity(t, q, KekUse.WRAP_SK),
        )
        for attempt in attempts:
            with pytest.raises(AssertionError, match="no sealing secret"):
                attempt()
        workspace.new_seal(CredentialId(bytes(16)))
        workspace.open_quantity(t, q, KekUse.UNWRAP_SK)
        workspace.open_quantity(t, q, KekUse.WRAP_SK)


def test_what_w_hangs_on(server: Server) -> None:
    """S, the credential id and K: another one of any of them, and SK does not open."""
    spec, algorithm = KeySpec.P256, Algorithm.ECDSA_SHA256
    one, other = CredentialId(bytes(16)), CredentialId(bytes(15) + b"\1")
    with server.environment._workspace() as workspace:
        pair = workspace.new_pair(spec, gives_kowf=False)
        seal, another_seal = workspace.new_seal(one), workspace.new_seal(one)
        assert len(seal) == len(another_seal) == 40
        kcar = workspace.new_kcar(Combine.CBC)
        t = workspace.transient(kcar, Combine.CBC, Digest(bytes(32)))
        k_r = workspace.personalisation_key(kcar, Digest(bytes(32)))
        key, another_key = workspace.new_key(), workspace.new_key()
        q, another_q = (Quantity(workspace.wrap_for_card(k_r, each)) for each in (key, another_key))
        workspace.open_seal(seal, one)
        wrapped = workspace.wrap_sk(workspace.sealed(key), pair.private)

        def opens(seal: WrappedKey, credential_id: CredentialId, q: Quantity) -> bool:
            workspace.open_seal(seal, credential_id)
            w = workspace.open_quantity(t, q, KekUse.UNWRAP_SK)
            try:
                workspace.unwrap_sk(w, wrapped, spec, algorithm, extractable=False, gives_kowf=False)
            except WrongKey:
                return False
            return True

        assert opens(seal, one, q)
        assert not opens(another_seal, one, q)
        assert not opens(seal, other, q)
        assert not opens(seal, one, another_q)
        assert opens(seal, one, q)
        with pytest.raises(TokenError, match="KW_MK"):
            workspace.open_seal(WrappedKey(bytes(40)), one)


# --- what SoftHSM lacks, over a recording stand-in ----------------------------------------------------------

VENDOR_WRAP = 0x80001234
EVERYTHING = TokenProfile(
    identity="stand-in",
    confinement={name: Confinement(taken=True, enforced=True) for name in CONFINEMENTS},
    key_wrap=0x2109,
    cbc_encrypt_data=0x1105,
    xor_base_and_data=0x364,
    private_wrap=VENDOR_WRAP,
    keys={KeySpec.ED25519.value: ""},
)


@dataclass
class Asked:
    """One call of a key object, as python-pkcs11 would get it."""

    of: str
    method: str
    given: tuple[Any, ...]
    mechanism: int
    parameter: Any
    template: dict[str, bytes]


@dataclass
class StandInToken:
    """Notes every call and answers with new objects."""

    asked: list[Asked]
    destroyed: list[str]

    def key(self, kind: type[StandInKey], name: str) -> Any:
        """As ``SecretKeyObject(wrapper)`` makes one."""
        return kind((self, name))


class StandInKey:
    """In place of a python-pkcs11 key object; its wrapper is the token and a name."""

    def __init__(self, wrapper: tuple[StandInToken, str]) -> None:
        self.wrapper = wrapper
        self.token, self.name = wrapper
        self.handle = len(self.token.asked)

    def _note(self, method: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        parameter = named.get("mechanism_param")
        if isinstance(parameter, bytes) and named["mechanism"] == Mechanism.XOR_BASE_AND_DATA:
            # CK_KEY_DERIVATION_STRING_DATA points to its data: read now, as the token would.
            assert len(parameter) == ctypes.sizeof(CkKeyDerivationStringData)
            inside = CkKeyDerivationStringData.from_buffer_copy(parameter)
            parameter = ctypes.string_at(inside.pData, inside.ulLen)
        template = {each.name: packed.data for each, packed in (named.get("template") or {}).items()}
        mechanism = int(named["mechanism"])
        self.token.asked.append(Asked(self.name, method, given, mechanism, parameter, template))

    def derive_key(self, *given: Any, **named: Any) -> Any:
        self._note("derive", given, named)
        return self.token.key(StandInKey, f"derived {len(self.token.asked)}")

    def unwrap_key(self, *given: Any, **named: Any) -> Any:
        self._note("unwrap", given, named)
        return self.token.key(StandInKey, f"unwrapped {len(self.token.asked)}")

    def wrap_key(self, *given: Any, **named: Any) -> bytes:
        self._note("wrap", given, named)
        return b"wrapped"

    def sign(self, *given: Any, **named: Any) -> bytes:
        self._note("sign", given, named)
        return b"s" * 64

    def destroy(self) -> None:
        self.token.destroyed.append(self.name)


class StandInSecretKey(StandInKey):
    """SecretKeyObject."""


class StandInPrivateKey(StandInKey):
    """PrivateKeyObject."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandInToken:
    """The token's key objects are :class:`StandInKey`; everything above them is the product's own."""
    for module in (primitives, workspaces):
        monkeypatch.setattr(module, "SecretKeyObject", StandInSecretKey)
        monkeypatch.setattr(module, "PrivateKeyObject", StandInPrivateKey)
    return StandInToken([], [])


Y = b"s" * 64
"""What the stand-in signs: with it as Y the calls can be told."""


def opened(profile: TokenProfile = EVERYTHING, *, seal: bytes | None = None) -> TokenWorkspace:
    """``seal``: Y, as though S had been opened."""
    workspace = TokenWorkspace(None, profile, Templates(profile, AttributeMapper()), master_key=None)
    workspace._opens = workspace._wraps = seal
    return workspace


def packed(*numbers: int) -> bytes:
    """CK_ULONGs."""
    return struct.pack(f"{len(numbers)}L", *numbers)


def secret_template(usage: str, allowed: int, *, length: bool) -> dict[str, bytes]:
    """Section 6 of docs/understand/protocol.md, packed."""
    usages = ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")
    return {
        "CLASS": packed(4),
        "KEY_TYPE": packed(0x1F),
        "TOKEN": b"\0",
        "LABEL": b"",
        "ID": b"",
        "COPYABLE": b"\0",
        "PRIVATE": b"\1",
        "SENSITIVE": b"\1",
        "EXTRACTABLE": b"\0",
        **{each: bytes([each == usage]) for each in usages},
        "ALLOWED_MECHANISMS": packed(allowed),
        **({"VALUE_LEN": packed(32)} if length else {}),
        "MODIFIABLE": b"\0",
    }


def test_rolling_by_xor(stand_in: StandInToken) -> None:
    """Steps 891 to 893, combine 1: V_x comes out of Q once to DERIVE by XOR only, V_x+1 derives by CBC only,
    and W(V_x+1) wraps only."""
    difference = bytes(range(32))
    with opened(seal=Y) as workspace:
        t = stand_in.key(StandInSecretKey, "T")
        v = workspace.open_quantity(t, Quantity(bytes(40)), KekUse.ROLL)
        w_next = workspace.roll_by_xor(v, difference)
        workspace.wrap_sk(w_next, stand_in.key(StandInPrivateKey, "SK"))
    opening, rolling, sealing, wrapping = stand_in.asked
    assert (opening.of, opening.method, opening.mechanism) == ("T", "unwrap", 0x2109)
    assert opening.given == (ObjectClass.SECRET_KEY, KeyType.AES, bytes(40))
    assert opening.template == secret_template("DERIVE", 0x364, length=False)

    assert (rolling.of, rolling.method, rolling.mechanism) == ("unwrapped 1", "derive", 0x364)
    assert rolling.given == (KeyType.AES, 256)
    assert rolling.parameter == difference, "what CK_KEY_DERIVATION_STRING_DATA points to"
    assert rolling.template == secret_template("DERIVE", 0x1105, length=True)

    assert (sealing.of, sealing.method, sealing.mechanism) == ("derived 2", "derive", 0x1105)
    assert sealing.given == (KeyType.AES, 256)
    assert sealing.parameter == (bytes(16), Y)
    assert sealing.template == secret_template("WRAP", VENDOR_WRAP, length=True)

    assert (wrapping.of, wrapping.method, wrapping.mechanism) == ("derived 3", "wrap", VENDOR_WRAP)
    assert stand_in.destroyed == ["derived 3", "derived 2", "unwrapped 1"]


@pytest.mark.parametrize("use", [KekUse.UNWRAP_SK, KekUse.WRAP_SK])
def test_what_opens_and_wraps_sk_at_sealing_2(stand_in: StandInToken, use: KekUse) -> None:
    """K comes out of Q to DERIVE only, and W(K) = CBC_K(Y) does one of the two."""
    with opened(seal=Y) as workspace:
        workspace.open_quantity(stand_in.key(StandInSecretKey, "T"), Quantity(bytes(40)), use)
    opening, sealing = stand_in.asked
    assert (opening.of, opening.method, opening.mechanism) == ("T", "unwrap", 0x2109)
    assert opening.template == secret_template("DERIVE", 0x1105, length=False)
    assert (sealing.of, sealing.method, sealing.mechanism) == ("unwrapped 1", "derive", 0x1105)
    assert sealing.parameter == (bytes(16), Y)
    usage = "UNWRAP" if use is KekUse.UNWRAP_SK else "WRAP"
    assert sealing.template == secret_template(usage, VENDOR_WRAP, length=True)
    assert [*opening.template][-1] == [*sealing.template][-1] == "MODIFIABLE", "nothing is taken after it"


def test_what_opens_sk_at_sealing_1(stand_in: StandInToken) -> None:
    """K itself; what wraps it again is W(K) all the same."""
    with opened() as workspace:
        workspace._wraps = Y
        workspace.open_quantity(stand_in.key(StandInSecretKey, "T"), Quantity(bytes(40)), KekUse.UNWRAP_SK)
    (opening,) = stand_in.asked
    assert (opening.of, opening.method, opening.mechanism) == ("T", "unwrap", 0x2109)
    assert opening.template == secret_template("UNWRAP", VENDOR_WRAP, length=False)


def test_s(stand_in: StandInToken) -> None:
    """A generic secret that signs by HMAC-SHA-256 over the prefix and the credential id."""
    credential_id = CredentialId(bytes(range(16)))
    profile = msgspec.structs.replace(EVERYTHING, sealing=0x251)
    mk = stand_in.key(StandInSecretKey, "MK")
    workspace = TokenWorkspace(None, profile, Templates(profile, AttributeMapper()), master_key=mk)
    with workspace:
        workspace.open_seal(WrappedKey(bytes(40)), credential_id)
        assert workspace._opens == workspace._wraps == b"s" * 64
    opening, signing = stand_in.asked
    assert (opening.of, opening.method, opening.mechanism) == ("MK", "unwrap", 0x2109)
    assert opening.given == (ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET, bytes(40))
    wanted = secret_template("SIGN", 0x251, length=False) | {"KEY_TYPE": packed(0x10)}
    assert opening.template == wanted
    assert (signing.of, signing.method, signing.mechanism) == ("unwrapped 1", "sign", 0x251)
    assert signing.given == (b"hsm-signer/2/seal" + credential_id,)


def test_transient_and_variant_by_xor(stand_in: StandInToken) -> None:
    """Combine 1 has D_i and RN in the same parameter; KCAR and KEK1 are only for that."""
    d, rn = Digest(bytes(range(32))), RollingValue(bytes(range(32, 64)))
    with opened() as workspace:
        base = stand_in.key(StandInSecretKey, "KCAR")
        workspace.transient(base, Combine.XOR, d)
        workspace.variant(base, Combine.XOR, rn)
    transient, variant = stand_in.asked
    assert (transient.mechanism, transient.parameter) == (0x364, d)
    assert transient.template == secret_template("UNWRAP", 0x2109, length=True)
    assert (variant.mechanism, variant.parameter) == (0x364, rn)
    assert variant.template == secret_template("DERIVE", 0x1105, length=True)


@pytest.mark.parametrize("extractable", [True, False])
def test_ed25519(stand_in: StandInToken, extractable: bool) -> None:
    """The message itself is signed, by EDDSA without a parameter; 64 bytes come out as they are."""
    with opened() as workspace:
        kek, v_next = stand_in.key(StandInSecretKey, "V_x"), stand_in.key(StandInSecretKey, "V_x+1")
        sk = workspace.unwrap_sk(
            kek,
            WrappedKey(b"wrap(SK)"),
            KeySpec.ED25519,
            Algorithm.ED25519,
            extractable=extractable,
            gives_kowf=False,
        )
        signature = workspace.sign(sk, KeySpec.ED25519, Algorithm.ED25519, b"the message")
        assert workspace.wrap_sk(v_next, sk) == b"wrapped"
    unwrapping, signing, wrapping = stand_in.asked
    assert (unwrapping.of, unwrapping.method, unwrapping.mechanism) == ("V_x", "unwrap", VENDOR_WRAP)
    assert unwrapping.given == (ObjectClass.PRIVATE_KEY, KeyType.EC_EDWARDS, b"wrap(SK)")
    assert unwrapping.template == {
        "CLASS": packed(3),
        "KEY_TYPE": packed(0x40),
        "TOKEN": b"\0",
        "LABEL": b"",
        "ID": b"",
        "COPYABLE": b"\0",
        "PRIVATE": b"\1",
        "SENSITIVE": b"\1",
        "EXTRACTABLE": bytes([extractable]),
        "DECRYPT": b"\0",
        "SIGN": b"\1",
        "UNWRAP": b"\0",
        "DERIVE": b"\0",
        "ALLOWED_MECHANISMS": packed(0x1057),
        "MODIFIABLE": b"\0",
    }
    assert (signing.method, signing.given, signing.mechanism) == ("sign", (b"the message",), 0x1057)
    assert signing.parameter is None
    assert signature == b"s" * 64
    assert (wrapping.of, wrapping.method, wrapping.mechanism) == ("V_x+1", "wrap", VENDOR_WRAP)
    assert wrapping.given == (sk,)
    assert stand_in.destroyed == ["unwrapped 1"]


def test_a_record_keeps_its_own_wrapping_mechanism(home: Home, server: Server) -> None:
    """The token has learnt another one since: SK of alice is opened and wrapped as its record says, again
    and again, and a record enrolled now would name the new one."""
    alice = home["alice"]
    old = server.environment
    assert old.profile.private_wrap == Mechanism.AES_KEY_WRAP_PAD
    newer = msgspec.structs.replace(old.profile, private_wrap=VENDOR_WRAP)
    stored = server.store.installation()
    assert stored is not None
    environment = SecureEnvironment(old.session, newer, stored.sealed)
    changed = dataclasses.replace(server, environment=environment)
    for name in ("alice", "paula", "basil"):
        for _ in range(2):
            verifies(home[name].sign(changed), message())
        assert home[name].record(changed).wrap_mechanism == Mechanism.AES_KEY_WRAP_PAD
    with pytest.raises(TokenError):
        environment.create(wanted())  # SoftHSM does not know the new one
    still_signs(server, alice)


# --- one thread, one process, one session ------------------------------------------------------------------


def test_session_refuses_another_thread(home: Home, server: Server) -> None:
    """SoftHSM without locks would crash the process."""
    alice = home["alice"]
    request = authorise(server, alice)
    caught: list[BaseException] = []

    def elsewhere() -> None:
        for attempt in (
            lambda: server.sign(request),
            lambda: server.challenge(request.authorisation.credential_id),
            lambda: server.environment.random(8),
            lambda: server.environment.create(wanted()),
            lambda: server.environment.session.pkcs11,
        ):
            try:
                attempt()
            except BaseException as error:
                caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert [type(each) for each in caught] == [TokenError] * 5
    assert all("another thread or process" in str(each) for each in caught)
    verifies(server.sign(request), message())


def test_session_refuses_a_forked_process(home: Home, server: Server) -> None:
    alice = home["alice"]
    request = authorise(server, alice)
    child = os.fork()
    if child == 0:
        # Only os._exit from here: nothing of the parent may be cleaned up twice.
        code = 1
        try:
            server.environment.session.pkcs11  # noqa: B018
        except TokenError:
            try:
                server.environment.random(8)
            except TokenError:
                code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    verifies(server.sign(request), message())


def test_second_session_of_a_process_is_refused(home: Home, server: Server) -> None:
    """It would log out, and end, the first one's keys."""
    with pytest.raises(TokenError, match="already"), home.server():
        pass
    still_signs(server, home["alice"])


def test_closed_session(home: Home) -> None:
    with home.server() as server:
        request = authorise(server, home["alice"])
        session: TokenSession = server.environment.session
    session.close()
    for attempt in (lambda: session.pkcs11, lambda: server.environment.random(1)):
        with pytest.raises(TokenUnavailable, match="closed"):
            attempt()
    with pytest.raises(SignerError):
        server.sign(request)


def test_token_unsuitable_is_not_retryable() -> None:
    assert not TokenUnsuitable.retryable
    assert TokenUnavailable.retryable
