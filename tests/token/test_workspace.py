"""Keys live in a `with` and die in its `finally`, whatever happens in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
    TokenUnavailable,
    TokenUnsuitable,
)
from hsm_signer.schemes.workspace import KekUse
from hsm_signer.server import Server
from hsm_signer.token.binding import SecretKeyObject
from hsm_signer.token.faults import token_call
from hsm_signer.token.session import TokenSession
from hsm_signer.token.workspace import TokenWorkspace
from hsm_signer.types import (
    Algorithm,
    Combine,
    Digest,
    KeySpec,
    NewCredential,
    PinCheck,
    PinPolicy,
    Quantity,
    Scheme,
    WrappedKey,
)

from ..support.people import Home
from ..support.scenes import authorise, message, still_signs, verifies


def objects(server: Server) -> set[int]:
    """Handles of every object there is, session objects included."""
    return {each.handle for each in server.environment.session.pkcs11.get_objects()}


def wanted(
    scheme: Scheme = Scheme.ROLLING, combine: Combine = Combine.CBC, key: KeySpec = KeySpec.P256
) -> NewCredential:
    """An enrolment with a card's point of our own."""
    basic = scheme is Scheme.BASIC
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    return NewCredential(
        owner="carol",
        scheme=scheme,
        combine=Combine.NONE if basic else combine,
        key=key,
        pin_policy=PinPolicy.NONE if basic else PinPolicy.ALWAYS,
        pin_check=PinCheck.NONE if basic else PinCheck.SERVER,
        pin_tries=0 if basic else 3,
        puk_tries=0 if basic else 10,
        card_point=point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        card_serial=bytes(8),
    )


@pytest.mark.parametrize("name", ["alice", "bob", "paula", "peter", "basil"])
def test_signing_leaves_no_object_behind(home: Home, server: Server, name: str) -> None:
    person = home[name]
    before = objects(server)
    assert len(before) == 2, "MK and the record MAC key"
    during: dict[int, int] = {}

    def observe(step: int) -> None:
        during[step] = len(objects(server))

    watched = replace(server, observe=observe)
    request = authorise(server, person)
    watched.sign(request)
    assert objects(server) == before
    assert during[2] == 2
    expected = {Scheme.ROLLING: 6, Scheme.PIN: 6, Scheme.BASIC: 3}[person.scheme]
    assert during[7] == 2 + expected
    assert during[8] == 2, "step 8: destroyed before anything is committed"


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
        replace(server, observe=observe).sign(request)
    assert seen[0] > len(before)
    assert objects(server) == before
    verifies(server.sign(request), message())


@pytest.mark.parametrize("name", ["alice", "paula", "peter", "basil"])
@pytest.mark.parametrize("error", [p11.DeviceError, p11.GeneralError, p11.KeyHandleInvalid])
def test_a_token_that_fails_at_any_call_leaves_no_object_behind(
    home: Home, server: Server, name: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operation of a signature fails once, after the token has done it: no failure is counted, and the
    same request is good afterwards."""
    person = home[name]
    before = objects(server)
    request = authorise(server, person)
    credential_id = person.record(server).credential_id
    failed = 0
    for method in (
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
    ):
        real = getattr(TokenWorkspace, method)

        def fails(self: TokenWorkspace, *given: Any, _real: Callable[..., Any] = real, **named: Any) -> Any:
            _real(self, *given, **named)
            nonlocal failed
            failed += 1
            with token_call("testing"):
                raise error

        with monkeypatch.context() as patched:
            patched.setattr(TokenWorkspace, method, fails)
            count = failed
            try:
                server.sign(request)
            except TokenError:
                assert failed > count
            else:
                # This scheme has no such operation: the signature was made.
                assert failed == count, "an error was swallowed"
                request = authorise(server, person)
        assert objects(server) == before
    assert failed >= 4
    assert person.record(server).failures == 0
    assert server.store.load(credential_id).sealed.record.failures == 0
    verifies(server.sign(request), message())
    still_signs(server, person)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_enrolment_that_fails_in_the_middle_leaves_no_object_behind(
    server: Server, scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = objects(server)
    reached = 0
    for method in (
        "new_pair",
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

        def fails(self: TokenWorkspace, *given: Any, _real: Callable[..., Any] = real, **named: Any) -> Any:
            _real(self, *given, **named)
            nonlocal reached
            reached += 1
            raise TokenUnavailable("testing")

        with monkeypatch.context() as patched:
            patched.setattr(TokenWorkspace, method, fails)
            count = reached
            try:
                server.environment.create(wanted(scheme))
            except TokenUnavailable:
                assert reached > count
        assert objects(server) == before
    assert reached >= 7


@pytest.mark.parametrize(
    "point", [bytes(65), b"\x04" + bytes(64), b"\x02" + bytes(32), b"", b"\x04" + b"\xff" * 64]
)
def test_card_point_that_is_none(server: Server, point: bytes) -> None:
    """An invalid point would give the ephemeral key away bit by bit: refused before the token sees it."""
    before = objects(server)
    with pytest.raises(InputError, match="card point: expected 65 bytes"):
        server.environment.create(replace(wanted(), card_point=point))
    assert objects(server) == before


def test_point_of_another_curve(server: Server) -> None:
    point = ec.generate_private_key(ec.SECP256K1()).public_key()
    encoded = point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    with pytest.raises(InputError, match="card point"):
        server.environment.create(replace(wanted(), card_point=encoded))


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
        with pytest.raises(TokenUnavailable, match="being destroyed") as caught:
            server.sign(request)
    assert caught.value.retryable
    assert len(stuck) == 2, "the others were destroyed all the same"
    assert len(objects(server)) == 4
    for each in stuck:
        SecretKeyObject.destroy(each)
    assert alice.record(server) == record
    verifies(server.sign(request), message())


# --- what each key may do, on the token itself --------------------------------------------------------------


def test_a_key_does_only_what_it_is_for(server: Server) -> None:
    """The token refuses every other use of a session key, and every other mechanism of the same use."""
    environment = server.environment
    workspace: TokenWorkspace = environment.session.workspace(environment.profile)
    with workspace:
        pair = workspace.new_pair(KeySpec.P256, gives_kowf=False)
        kcar: Any = workspace.new_kcar(Combine.CBC)
        key: Any = workspace.new_key()
        t: Any = workspace.transient(kcar, Combine.CBC, Digest(bytes(32)))
        k_r: Any = workspace.personalisation_key(kcar, Digest(bytes(32)))
        wrapped_key = workspace.wrap_for_card(k_r, key)
        compared: Any = workspace.open_quantity(t, Quantity(wrapped_key), KekUse.COMPARE)
        unwraps: Any = workspace.open_quantity(t, Quantity(wrapped_key), KekUse.UNWRAP_SK)
        wrapped_sk = workspace.wrap_sk(key, pair.private)

        def unwrap(under: Any, wrapped: bytes, mechanism: Mechanism) -> Callable[[], object]:
            return lambda: under.unwrap_key(
                ObjectClass.SECRET_KEY, KeyType.AES, wrapped, mechanism=mechanism,
                template={Attribute.SENSITIVE: True, Attribute.PRIVATE: True, Attribute.TOKEN: False},
            )

        refused: dict[str, Callable[[], object]] = {
            "T signs": lambda: t.sign(bytes(16), mechanism=Mechanism.AES_CMAC),
            "T wraps": lambda: t.wrap_key(kcar, mechanism=Mechanism.AES_KEY_WRAP),
            "T derives": lambda: t.derive_key(
                KeyType.AES, 256, mechanism=Mechanism.AES_CBC_ENCRYPT_DATA,
                mechanism_param=(bytes(16), bytes(32)),
            ),
            "KCAR unwraps": unwrap(kcar, wrapped_key, Mechanism.AES_KEY_WRAP),
            "KCAR derives by ECB": lambda: kcar.derive_key(
                KeyType.AES, 256, mechanism=Mechanism.AES_ECB_ENCRYPT_DATA, mechanism_param=bytes(32)
            ),
            "V_x wraps": lambda: unwraps.wrap_key(pair.private, mechanism=Mechanism.AES_KEY_WRAP_PAD),
            "V_x unwraps by KW": unwrap(unwraps, wrapped_key, Mechanism.AES_KEY_WRAP),
            "V_x signs": lambda: unwraps.sign(bytes(16), mechanism=Mechanism.AES_CMAC),
            "KOWF compared unwraps": unwrap(compared, bytes(wrapped_sk), Mechanism.AES_KEY_WRAP_PAD),
            "K_r unwraps": unwrap(k_r, wrapped_key, Mechanism.AES_KEY_WRAP),
            "T is wrapped": lambda: k_r.wrap_key(t, mechanism=Mechanism.AES_KEY_WRAP),
            "V_x is wrapped": lambda: k_r.wrap_key(unwraps, mechanism=Mechanism.AES_KEY_WRAP),
            "T is copied": lambda: t.copy({Attribute.EXTRACTABLE: False}),
            "V_x is read": lambda: unwraps[Attribute.VALUE],
            "KEY is read": lambda: key[Attribute.VALUE],
            "SK is read": lambda: pair.private[Attribute.VALUE],
        }
        before = {each.handle for each in environment.session.pkcs11.get_objects()}
        for what, attempt in refused.items():
            try:
                attempt()
            except (p11.PKCS11Error, NotImplementedError):
                continue
            pytest.fail(f"{what}: the token lets it")
        assert {each.handle for each in environment.session.pkcs11.get_objects()} == before


def test_attributes_that_living_keys_have(home: Home, server: Server) -> None:
    """Read back from the token in the middle of a signature: what it has, not what it was asked for."""
    session = server.environment.session.pkcs11
    token_keys = objects(server)
    seen: dict[int, dict[str, object]] = {}

    def observe(step: int) -> None:
        if step != 7:
            return
        for each in session.get_objects():
            names = ("TOKEN", "PRIVATE", "SENSITIVE", "EXTRACTABLE", "COPYABLE")
            seen[each.handle] = {name: each[Attribute[name]] for name in names}

    for name in ("alice", "paula", "basil"):
        seen.clear()
        replace(server, observe=observe).sign(authorise(server, home[name]))
        session_keys = {handle: found for handle, found in seen.items() if handle not in token_keys}
        assert len(session_keys) == (3 if name == "basil" else 6)
        extractable = [found.pop("EXTRACTABLE") for found in session_keys.values()]
        assert extractable.count(True) == (1 if name == "alice" else 0), "SK in scheme rolling alone"
        for found in session_keys.values():
            assert found == {"TOKEN": False, "PRIVATE": True, "SENSITIVE": True, "COPYABLE": False}
        for handle in token_keys:
            assert seen[handle]["TOKEN"] is True
            assert (seen[handle]["EXTRACTABLE"], seen[handle]["SENSITIVE"]) == (False, True)
            assert seen[handle]["COPYABLE"] is False


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
        for length in (0, 24, 39, 41, 48):
            with pytest.raises(AuthorisationMismatch):
                workspace.open_quantity(t, Quantity(bytes(length)), KekUse.UNWRAP_SK)


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
