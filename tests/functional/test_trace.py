"""What crosses the C interface of PKCS#11: a trace of the real calls over init, enrolment and signing.

The trace is made once, in a process of its own, by OpenSC's pkcs11-spy between us and SoftHSM2. What the spy
does not print (the values of CKA_COPYABLE and of CKA_UNWRAP_TEMPLATE) is read from living objects in
tests/token/test_workspace.py.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import keywrap

from card_applet_sim.constants import Combine
from card_applet_sim.keys import combine
from hsm_signer.token import probe
from hsm_signer.types import KeySpec, Scheme
from tests.support import needs, spy
from tests.support.people import ROOT
from tests.support.spy import Call, Unseen, Value
from tests.support.templates import (
    EPHEMERAL,
    FOR_BASIC_T,
    IDENTITY,
    K_R,
    KCAR,
    KEK_OF_SEALING_1,
    KOWF_AGREED,
    KOWF_COMPARED,
    MASTER_KEY,
    NEW_DERIVING,
    NEW_KEY,
    NEW_KOWF_BY_RSA,
    NEW_S,
    OAEP_SECRET,
    POINT,
    RECORD_KEY,
    SELF_TEST_V,
    SK_WRAP,
    V_1,
    W_OPENS,
    W_WRAPS,
    K,
    S,
    T,
    Template,
    Z,
    new_pk,
    new_sk,
    pack,
    sk,
)

PEOPLE = tuple(
    (f"{scheme.value}-{key.value}", scheme, key)
    for scheme in (Scheme.ROLLING, Scheme.PIN, Scheme.BASIC)
    for key in (KeySpec.P256, KeySpec.RSA2048)
)
KEYS = ("p256", "rsa2048")
EVERYBODY = pytest.mark.parametrize("name", [name for name, _, _ in PEOPLE])
SIGNATURES = 2


@dataclass(frozen=True)
class Phase:
    """One thing done, and its calls."""

    what: str
    calls: list[Call]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """Everything, in order."""

    phases: list[Phase]

    def of(self, what: str) -> list[Phase]:
        """Phases of this name."""
        found = [each for each in self.phases if each.what == what]
        assert found, what
        return found

    @property
    def after_init(self) -> list[Call]:
        """From the login of daily use to its end."""
        (life,) = self.of("life")
        return life.calls

    @property
    def init(self) -> list[Call]:
        """Probe and token keys."""
        (init,) = self.of("init")
        return init.calls


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Made once for this module."""
    needs.softhsm_module()
    needs.spy_module()
    folder = tmp_path_factory.mktemp("spied")
    people = [f"{name}:{scheme.name}:{key.name}" for name, scheme, key in PEOPLE]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.spied", str(folder), str(SIGNATURES), *people],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return Trace(
        [
            Phase(what, spy.read(folder / "spy.log", start, end), facts)
            for what, start, end, facts in json.loads(ran.stdout)
        ]
    )


# --- the whole trace ---------------------------------------------------------------------------------------


def test_the_trace_is_a_trace(trace: Trace) -> None:
    """Or every assertion below would hold of nothing."""
    counted = spy.counts(trace.after_init)
    assert counted["C_Login"] == counted["C_OpenSession"] == counted["C_CloseSession"] == 1
    assert counted["C_UnwrapKey"] > 50
    assert counted["C_DeriveKey"] > 40
    numbers = [call.number for call in trace.init + trace.after_init]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "no call is missing"


READABLE = frozenset(
    {
        # of public keys
        "CKA_MODULUS",
        "CKA_PUBLIC_EXPONENT",
        "CKA_EC_POINT",
        "CKA_EC_PARAMS",
        # what python-pkcs11 looks at in every new object: its class and what it may do
        "CKA_CLASS",
        "CKA_KEY_TYPE",
        "CKA_ENCRYPT",
        "CKA_DECRYPT",
        "CKA_SIGN",
        "CKA_VERIFY",
        "CKA_WRAP",
        "CKA_UNWRAP",
        "CKA_DERIVE",
        "CKA_ENCAPSULATE",
        "CKA_DECAPSULATE",
    }
)


def asked_for(calls: Iterable[Call]) -> set[str]:
    """Names of all attributes that C_GetAttributeValue is asked for."""
    return {name for call in calls if call.name == "C_GetAttributeValue" for name in call.template}


def test_no_secret_attribute_is_read(trace: Trace) -> None:
    """Not CKA_VALUE, not a component of a private key, nor anything else that is not known to be harmless.
    At init the probe asks for one CKA_VALUE, and is refused."""
    assert asked_for(trace.after_init)
    assert asked_for(trace.after_init) <= READABLE, asked_for(trace.after_init) - READABLE
    assert asked_for(trace.init) - READABLE == {"CKA_VALUE"}


def on(handle: int, calls: Iterable[Call]) -> list[Call]:
    """Calls that name this object, in order, the one that makes it first."""
    return [
        call
        for call in calls
        if handle in call.made
        or handle in {int(value, 16) for name, value in call.given.items() if name in HANDLES}
    ]


def test_what_the_probe_must_not_get(trace: Trace) -> None:
    """It asks for a value, copies a key and changes attributes to see that all this is refused, each with a
    session key made for that one question; and wraps keys that must not leave, which is refused, too."""
    forbidden = ("C_CopyObject", "C_SetAttributeValue")
    attempts = [call for call in trace.init if call.name in forbidden or "CKA_VALUE" in call.template]
    attempts = [call for call in attempts if call.name != "C_CreateObject"]
    assert [call.name for call in attempts] == [
        "C_GetAttributeValue",
        "C_CopyObject",
        "C_SetAttributeValue",
        "C_SetAttributeValue",
        "C_SetAttributeValue",
    ]
    for call in attempts:
        assert not call.ok, call.number
        made, *others = on(int(call.given["hObject"], 16), trace.init)
        assert made.template["CKA_TOKEN"] is False
        reading = [each for each in others if each.name == "C_GetAttributeValue" and each is not call]
        assert set(asked_for(reading)) <= READABLE
        assert [each.name for each in others if each not in reading] == [call.name, "C_DestroyObject"]
    asking, copying, *changing = attempts
    (made, *_) = on(int(asking.given["hObject"], 16), trace.init)
    assert (made.template["CKA_SENSITIVE"], made.template["CKA_EXTRACTABLE"]) == (True, True)
    (made, *_) = on(int(copying.given["hObject"], 16), trace.init)
    assert made.template["CKA_COPYABLE"] == Unseen(1)
    makers = [on(int(call.given["hObject"], 16), trace.init)[0] for call in changing]
    assert [made.name for made in makers] == ["C_GenerateKey", "C_DeriveKey", "C_UnwrapKey"]
    assert all(made.template["CKA_MODIFIABLE"] is False for made in makers)
    # A key that must not leave, one that wraps what is not for it, one that wraps without being allowed to.
    wraps = [call for call in trace.init if call.name == "C_WrapKey" and not call.ok]
    assert len(wraps) >= 3


def test_nothing_is_decrypted_copied_or_changed(trace: Trace) -> None:
    """Every function that is called, named: a new one has to be thought about."""
    assert set(spy.counts(trace.after_init)) <= {
        "C_Initialize",
        "C_Finalize",
        "C_GetInfo",
        "C_GetInterface",
        "C_GetFunctionList",
        "C_GetSlotList",
        "C_GetSlotInfo",
        "C_GetTokenInfo",
        "C_GetMechanismList",
        "C_GetMechanismInfo",
        "C_OpenSession",
        "C_CloseSession",
        "C_Login",
        "C_Logout",
        "C_FindObjectsInit",
        "C_FindObjects",
        "C_FindObjectsFinal",
        "C_GetAttributeValue",
        "C_GenerateRandom",
        "C_GenerateKey",
        "C_GenerateKeyPair",
        "C_CreateObject",
        "C_DeriveKey",
        "C_UnwrapKey",
        "C_WrapKey",
        "C_SignInit",
        "C_Sign",
        "C_DestroyObject",
    }
    # Of these only what the probe must not get, see above.
    assert not [name for name in spy.counts(trace.init) if "crypt" in name]


def test_every_object_is_destroyed_before_its_session_closes(trace: Trace) -> None:
    """In daily use all; at init all but the token keys, which are not session objects."""
    lives = spy.lives(trace.after_init)
    assert lives.made == lives.destroyed > 100
    assert lives.left == ()
    kept = [handle for call in token_keys(trace) for handle in call.made]
    assert len(kept) == 4
    assert spy.lives(trace.init).left == tuple(sorted(kept))
    destroyed = {
        int(call.given["hObject"], 16) for call in trace.after_init if call.name == "C_DestroyObject"
    }
    assert len(found(trace.after_init)) == 4
    assert not destroyed & found(trace.after_init), "the token's own keys are left alone"


@EVERYBODY
def test_every_operation_destroys_what_it_made_itself(trace: Trace, name: str) -> None:
    for what in ("enrol", "sign", "batch", "move", "moved"):
        for phase in trace.of(f"{what} {name}"):
            lives = spy.lives(phase.calls)
            assert lives.made == lives.destroyed > 0
            assert lives.left == ()


def found(calls: Iterable[Call]) -> set[int]:
    """Handles that C_FindObjects gave: MK, the record MAC key, both halves of the identity key."""
    return {handle for call in calls for handle in call.found}


def token_keys(trace: Trace) -> list[Call]:
    """The calls that made token objects."""
    return [
        call
        for call in trace.init
        if call.name in spy.MAKERS
        and any(template.get("CKA_TOKEN") is True for template in call.templates.values())
    ]


def test_nothing_becomes_a_token_object_after_init(trace: Trace) -> None:
    for call in trace.after_init:
        if call.name in spy.MAKERS:
            for template in call.templates.values():
                assert template["CKA_TOKEN"] is False


def test_every_login_is_ended(trace: Trace) -> None:
    for calls in (trace.init, trace.after_init):
        assert [each.name for each in calls if each.name in ("C_Login", "C_Logout")] == [
            "C_Login",
            "C_Logout",
        ]
        assert calls[-1].name == "C_Finalize"


# --- imports -----------------------------------------------------------------------------------------------


def test_only_scheme_basic_imports_and_only_its_public_d(trace: Trace) -> None:
    """C_CreateObject: the value is D_1, computed here once more from what was public anyway."""
    for phase in trace.phases:
        created = [call for call in phase.calls if call.name == "C_CreateObject"]
        if not phase.what.startswith(("sign basic", "batch basic", "move basic", "moved basic")):
            allowed = (
                "init",
                "life",
                *(f"{what} basic-{key}" for what in ("enrol", "older") for key in KEYS),
            )
            assert created == [] or phase.what in allowed
            continue
        (call,) = created
        facts = phase.facts
        mode = 2 if phase.what.startswith("batch") else 1
        algorithm = 0x0201 if phase.what.endswith("p256") else 0x0101
        d = hashlib.sha256(
            b"hsm-signer/1/authorise"
            + bytes([1, 0])
            + algorithm.to_bytes(2, "big")
            + bytes([mode, 0])
            + bytes.fromhex(facts["credential_id"])
            + bytes.fromhex(facts["nonce"])
            + bytes([0])
            + bytes.fromhex(facts["h"])
        ).digest()
        d_1 = hashlib.sha256(b"hsm-signer/1/position" + bytes([1]) + d).digest()
        assert call.template["CKA_VALUE"] == d_1
    # The probe tries once whether the token takes keys so: another 32 bytes that are no secret.
    (tried,) = [call for call in trace.init if call.name == "C_CreateObject"]
    assert tried.template == FOR_BASIC_T | {"CKA_VALUE": bytes(probe.TEST_DATA)}


@pytest.mark.parametrize("name", ["basic-p256", "basic-rsa2048"])
def test_enrolment_in_scheme_basic_imports_once_for_the_certificate_request(trace: Trace, name: str) -> None:
    (phase,) = trace.of(f"enrol {name}")
    (call,) = [each for each in phase.calls if each.name == "C_CreateObject"]
    signed = [each.name for each in phase.calls].index("C_CreateObject")
    generated = [each.name for each in phase.calls].index("C_GenerateKeyPair")
    assert generated < signed
    assert call.template == FOR_BASIC_T | {"CKA_VALUE": call.template["CKA_VALUE"]}


def test_no_buffer_ever_holds_a_key_of_scheme_basic(trace: Trace) -> None:
    """KEY, which we can open here because D is public, is in no buffer and no template of any call."""
    for phase in trace.phases:
        if not phase.what.startswith("sign basic"):
            continue
        (call,) = [each for each in phase.calls if each.name == "C_CreateObject"]
        d_1 = call.template["CKA_VALUE"]
        assert isinstance(d_1, bytes)
        key = keywrap.aes_key_unwrap(d_1, bytes.fromhex(phase.facts["quantities"][0]))
        for each in trace.after_init:
            values: list[Value] = [*each.buffers.values()]
            values += [v for t in (*each.templates.values(), *each.answers.values()) for v in t.values()]
            assert not [v for v in values if isinstance(v, bytes) and key in v]


WINDOW = 8
"""Bytes of a secret that must not be found together anywhere."""


def secrets_of(phase: Phase) -> dict[str, bytes]:
    """KCAR, KEK1 (or KOWF, KEY), V_x, V_x+1 and the T_i of one authorisation, out of the card's memory."""
    return {name: bytes.fromhex(value) for name, value in phase.facts["secrets"].items()}


def found_in(secret: bytes, text: bytes) -> bool:
    """Any part of it, in bytes or hexadecimal digits."""
    return any(
        each in text or each.hex().encode() in text or each.hex().upper().encode() in text
        for each in (secret[i : i + WINDOW] for i in range(len(secret) - WINDOW + 1))
    )


def everything_seen(calls: Iterable[Call]) -> bytes:
    """All buffers and all attribute values of the calls."""
    seen: list[bytes] = []
    for call in calls:
        values: list[Value] = [*call.buffers.values()]
        values += [v for t in (*call.templates.values(), *call.answers.values()) for v in t.values()]
        seen += [each for each in values if isinstance(each, bytes)]
    return b"|".join(seen)


@pytest.mark.parametrize(("name", "scheme", "key"), PEOPLE)
def test_the_secrets_looked_for_are_those_used(trace: Trace, name: str, scheme: Scheme, key: KeySpec) -> None:
    """Or it would show nothing that they are found nowhere: they open what the card sent."""
    expected = {
        Scheme.BASIC: {"KEK"},
        Scheme.PIN: {"KCAR", "KEK", "T_1"},
        Scheme.ROLLING: {"KCAR", "KEK", "T_1", "T_2", "V_x", "V_x+1"},
    }[scheme]
    for phase in (*trace.of(f"sign {name}"), *trace.of(f"batch {name}")):
        secrets = secrets_of(phase)
        assert set(secrets) == expected, key
        quantities = [bytes.fromhex(each) for each in phase.facts["quantities"]]
        inside = [secrets["V_x"], secrets["V_x+1"]] if scheme is Scheme.ROLLING else [secrets["KEK"]]
        if scheme is Scheme.BASIC:
            transients = [bytes.fromhex(phase.facts["d_1"])]
        else:
            transients = [secrets[f"T_{i}"] for i in range(1, len(quantities) + 1)]
        opened = [keywrap.aes_key_unwrap(t, q) for t, q in zip(transients, quantities, strict=True)]
        assert opened == inside


@EVERYBODY
def test_no_secret_of_the_card_crosses_the_interface(trace: Trace, name: str) -> None:
    """Neither at enrolment nor in any signature, its own or another: no 8 bytes of one, in no buffer."""
    seen = everything_seen(trace.init + trace.after_init)
    assert len(seen) > 100_000
    for phase in (*trace.of(f"sign {name}"), *trace.of(f"batch {name}")):
        for what, secret in secrets_of(phase).items():
            assert len(secret) == 32
            assert not found_in(secret, seen), f"{what}, in a signature or at enrolment"
        if "KCAR" in phase.facts["secrets"]:
            assert found_in(bytes.fromhex(phase.facts["wrapped_kcar"]), seen), "what does cross is seen"


@EVERYBODY
def test_no_secret_of_the_card_is_kept(trace: Trace, name: str) -> None:
    """In no file of the home, while it was open and afterwards, and in no record and no evidence entry."""
    (life,) = trace.of("life")
    kept = [bytes.fromhex(each) for each in life.facts["written"]]
    files = {
        path: path.read_bytes()
        for folder in life.facts["homes"]
        for path in Path(folder).rglob("*")
        if path.is_file()
    }
    assert {"store.db", "store.db-wal"} <= {path.name for path in files}
    for phase in (*trace.of(f"sign {name}"), *trace.of(f"batch {name}")):
        for what, secret in secrets_of(phase).items():
            for path, content in files.items():
                assert not found_in(secret, content), (what, path.name)
            for each in kept:
                assert not found_in(secret, each), f"{what}, in a record or an entry"
    credential_id = bytes.fromhex(trace.of(f"sign {name}")[0].facts["credential_id"])
    assert sum(credential_id in each for each in kept) >= SIGNATURES + 3, "the right ones were searched"
    assert any(credential_id in each for each in files.values())


def test_wrapped_keys_are_the_only_secrets_that_cross(trace: Trace) -> None:
    """C_WrapKey gives bytes out: in signing SK under W(V_x+1) alone, and in scheme rolling alone."""
    for name, scheme, _ in PEOPLE:
        for phase in trace.of(f"sign {name}"):
            wraps = [each for each in phase.calls if each.name == "C_WrapKey"]
            out = {each.buffers["pWrappedKey"] for each in wraps if "pWrappedKey" in each.buffers}
            if scheme is Scheme.ROLLING:
                assert out == {bytes.fromhex(phase.facts["wrapped_sk_after"])}
                assert {each.mechanism for each in wraps} == {SK_WRAP}
            else:
                assert wraps == []


# --- section 6 of docs/understand/protocol.md, attribute by attribute ------------------------------------


@dataclass(frozen=True)
class Made:
    """One key: by which call, under or from which key (its place in the list, or MK), with which template."""

    by: str
    mechanism: str | None
    templates: tuple[Template, ...]
    under: int | str | None = None
    role: tuple[str, ...] = ()
    """What docs/understand/protocol.md calls what is made, PK before SK."""


UNWRAP, DERIVE, KW_NAME, OAEP_NAME = "C_UnwrapKey", "C_DeriveKey", "CKM_AES_KEY_WRAP", "CKM_RSA_PKCS_OAEP"
CBC_NAME, ECDH_NAME = "CKM_AES_CBC_ENCRYPT_DATA", "CKM_ECDH1_DERIVE"
GENERATED_S = Made("C_GenerateKey", "CKM_GENERIC_SECRET_KEY_GEN", (NEW_S,), None, ("S",))


def derived(template: Template, base: int, role: str) -> Made:
    """By CBC."""
    return Made(DERIVE, CBC_NAME, (template,), base, (role,))


def unwrapped(template: Template, under: int | str, role: str, mechanism: str = KW_NAME) -> Made:
    """By KW, if not by another mechanism."""
    return Made(UNWRAP, mechanism, (template,), under, (role,))


def expected_signature(scheme: Scheme, key: KeySpec) -> list[Made]:
    """Steps 3 to 5 at sealing 2: every key there is, in order."""
    s = unwrapped(S, "MK", "S")
    private = sk(scheme, key)
    if scheme is Scheme.BASIC:
        return [
            s,
            Made("C_CreateObject", None, (FOR_BASIC_T,), None, ("T_1",)),
            unwrapped(K, 1, "KEY"),
            derived(W_OPENS, 2, "W(KEY)"),
            unwrapped(private, 3, "SK", SK_WRAP),
        ]
    kcar, t = unwrapped(KCAR, "MK", "KCAR"), derived(T, 1, "T")
    if scheme is Scheme.ROLLING:
        return [
            s,
            kcar,
            t,
            t,
            unwrapped(K, 2, "V_x"),
            derived(W_OPENS, 4, "W(V_x)"),
            unwrapped(K, 3, "V_x+1"),
            derived(W_WRAPS, 6, "W(V_x+1)"),
            unwrapped(private, 5, "SK", SK_WRAP),
        ]
    return [
        s,
        kcar,
        t,
        unwrapped(K, 2, "KOWF"),
        derived(W_OPENS, 3, "W(KOWF)"),
        unwrapped(KOWF_COMPARED, 2, "KOWF compared"),
        unwrapped(private, 4, "SK", SK_WRAP),
        kowf_computed(key, 6),
    ]


def expected_move(scheme: Scheme, key: KeySpec) -> list[Made]:
    """The same for the one signature that seals a record of sealing 1: SK opens under K itself, and leaves
    under W(K)."""
    private = sk(scheme, key, moves=True)
    if scheme is Scheme.BASIC:
        return [
            GENERATED_S,
            Made("C_CreateObject", None, (FOR_BASIC_T,), None, ("T_1",)),
            unwrapped(KEK_OF_SEALING_1, 1, "KEY that opens"),
            unwrapped(K, 1, "KEY"),
            derived(W_WRAPS, 3, "W(KEY)"),
            unwrapped(private, 2, "SK", SK_WRAP),
        ]
    kcar, t = unwrapped(KCAR, "MK", "KCAR"), derived(T, 1, "T")
    if scheme is Scheme.ROLLING:
        return [
            GENERATED_S,
            kcar,
            t,
            t,
            unwrapped(KEK_OF_SEALING_1, 2, "V_x that opens"),
            unwrapped(K, 3, "V_x+1"),
            derived(W_WRAPS, 5, "W(V_x+1)"),
            unwrapped(private, 4, "SK", SK_WRAP),
        ]
    return [
        GENERATED_S,
        kcar,
        t,
        unwrapped(KEK_OF_SEALING_1, 2, "KOWF that opens"),
        unwrapped(KOWF_COMPARED, 2, "KOWF compared"),
        unwrapped(K, 2, "KOWF"),
        derived(W_WRAPS, 5, "W(KOWF)"),
        unwrapped(private, 3, "SK", SK_WRAP),
        kowf_computed(key, 7),
    ]


def kowf_computed(key: KeySpec, private: int) -> Made:
    """KOWF(SK, P), to be compared."""
    if key is KeySpec.P256:
        return Made(DERIVE, ECDH_NAME, (KOWF_AGREED,), private, ("KOWF computed",))
    return unwrapped(KOWF_COMPARED, private, "KOWF computed", OAEP_NAME)


def expected_enrolment(scheme: Scheme, key: KeySpec) -> list[Made]:
    """Step 2 of section 7, and then the signature of the certificate request."""
    generate, pair = "C_GenerateKey", "C_GenerateKeyPair"
    rsa = key is not KeySpec.P256
    mechanism = "CKM_RSA_PKCS_KEY_PAIR_GEN" if rsa else "CKM_EC_KEY_PAIR_GEN"
    kcar = Made(generate, "CKM_AES_KEY_GEN", (NEW_DERIVING,), None, ("KCAR",))
    made = [
        Made(pair, mechanism, (new_pk(scheme, key), new_sk(scheme, key)), None, ("PK", "SK")),
        GENERATED_S,
    ]
    if scheme is Scheme.BASIC:
        made += [
            Made(generate, "CKM_AES_KEY_GEN", (NEW_KEY,), None, ("KEY",)),
            derived(W_WRAPS, 2, "W(KEY)"),
        ]
    elif scheme is Scheme.ROLLING:
        made += [
            kcar,
            Made(generate, "CKM_AES_KEY_GEN", (NEW_DERIVING,), None, ("KEK1",)),
            derived(V_1, 3, "V_1"),
            derived(W_WRAPS, 4, "W(V_1)"),
        ]
    elif rsa:
        made += [
            kcar,
            Made(generate, "CKM_AES_KEY_GEN", (OAEP_SECRET,), None, ("random bytes of P",)),
            unwrapped(NEW_KOWF_BY_RSA, 0, "KOWF", OAEP_NAME),
            derived(W_WRAPS, 4, "W(KOWF)"),
        ]
    else:
        made += [
            kcar,
            Made(pair, "CKM_EC_KEY_PAIR_GEN", POINT, None, ("P", "private half of P")),
            Made(DERIVE, ECDH_NAME, (NEW_KEY,), 0, ("KOWF",)),
            derived(W_WRAPS, 4, "W(KOWF)"),
        ]
    ephemeral = ("token point", "ephemeral private key")
    made.append(Made(pair, "CKM_EC_KEY_PAIR_GEN", EPHEMERAL, None, ephemeral))
    made.append(Made(DERIVE, ECDH_NAME, (Z,), len(made) - 1, ("Z",)))
    z = len(made) - 1
    return [*made, *(derived(K_R, z, role) for role in ("K_1", "K_2")[scheme is Scheme.BASIC :])]


def expected_self_test() -> list[Made]:
    """A credential made, the card's part, and its signature."""
    scheme, key = Scheme.ROLLING, KeySpec.P256
    enrolment = expected_enrolment(scheme, key)[:6]
    roles = [role for made in enrolment for role in made.role]
    assert roles == ["PK", "SK", "S", "KCAR", "KEK1", "V_1", "W(V_1)"]
    card = [
        made
        for i in (1, 2)
        for made in (derived(K_R, 2, f"card's T_{i}"), derived(SELF_TEST_V, 3, f"card's V_{i}"))
    ]
    return [*enrolment, *card]


Wrap = tuple[str, str, str | None]
"""Under which key, which key, by which mechanism."""
SEAL = ("MK", "S", KW_NAME)
"""KW_MK(S)."""


def expected_wraps_of_a_signature(scheme: Scheme) -> list[Wrap]:
    """Step 7 alone."""
    return [("W(V_x+1)", "SK", SK_WRAP)] if scheme is Scheme.ROLLING else []


def expected_wraps_of_a_move(scheme: Scheme) -> list[Wrap]:
    """S once, and SK under W(K)."""
    w = {Scheme.BASIC: "W(KEY)", Scheme.PIN: "W(KOWF)", Scheme.ROLLING: "W(V_x+1)"}[scheme]
    return [SEAL, (w, "SK", SK_WRAP)]


def expected_wraps_of_an_enrolment(scheme: Scheme, key: KeySpec) -> list[Wrap]:
    """Step 2 of section 7, in order: every key that leaves the token, and under what."""
    if scheme is Scheme.BASIC:
        return [SEAL, ("W(KEY)", "SK", SK_WRAP), ("K_2", "KEY", KW_NAME)]
    kcar = [("MK", "KCAR", KW_NAME), ("K_1", "KCAR", KW_NAME)]
    if scheme is Scheme.ROLLING:
        return [SEAL, ("W(V_1)", "SK", SK_WRAP), *kcar, ("K_2", "KEK1", KW_NAME)]
    parameter = [] if key is KeySpec.P256 else [("PK", "random bytes of P", OAEP_NAME)]
    return [SEAL, *parameter, ("W(KOWF)", "SK", SK_WRAP), *kcar, ("K_2", "KOWF", KW_NAME)]


def wraps(calls: list[Call], expected: list[Made], mk: int) -> list[Wrap]:
    """Every C_WrapKey that gave bytes, by the names of its two keys; all of them succeeded."""
    names, waiting = {mk: "MK"}, list(expected)
    found: list[Wrap] = []
    asked: list[Wrap] = []
    for call in calls:
        if call.name in spy.MAKERS:
            roles = waiting.pop(0).role
            names |= dict(zip(call.made, roles, strict=True))
        elif call.name == "C_WrapKey":
            assert call.ok
            under, key = (int(call.given[name], 16) for name in ("hWrappingKey", "hKey"))
            wrap = (names[under], names[key], call.mechanism)
            # python-pkcs11 asks for the length first.
            (found if "pWrappedKey" in call.buffers else asked).append(wrap)
    assert waiting == []
    assert asked == found
    return found


def check(calls: list[Call], expected: list[Made], mk: int) -> list[Call]:
    """The first keys made in ``calls`` are the expected ones; the calls that remain after them."""
    makers = [call for call in calls if call.name in spy.MAKERS]
    assert all(call.ok for call in makers)
    handles: list[int] = []
    for call, wanted in zip(makers, expected, strict=False):
        where = f"call {call.number}, {call.name} {call.mechanism}"
        assert (call.name, call.mechanism) == (wanted.by, wanted.mechanism), where
        pair = len(wanted.templates) == 2
        names = ("pPublicKeyTemplate", "pPrivateKeyTemplate") if pair else ("pTemplate",)
        for name, template in zip(names, wanted.templates, strict=True):
            given = dict(call.templates[name])
            if call.name == "C_CreateObject":
                del given["CKA_VALUE"]
            assert given == template, (where, differences(given, template))
            assert [*given][-1] == "CKA_MODIFIABLE", f"{where}: SoftHSM takes nothing after it"
        under = call.given.get("hUnwrappingKey") or call.given.get("hBaseKey")
        if wanted.under is None:
            assert under is None, where
        else:
            assert under is not None, where
            parent = mk if wanted.under == "MK" else handles[int(wanted.under)]
            assert int(under, 16) == parent, where
        handles.append(call.made[-1])
    assert len(makers) >= len(expected)
    return makers[len(expected) :]


def differences(given: Template, wanted: Template) -> dict[str, tuple[Value | None, Value | None]]:
    """For the message of a failure."""
    return {
        name: (given.get(name), wanted.get(name))
        for name in given.keys() | wanted.keys()
        if given.get(name) != wanted.get(name)
    }


def master_key(trace: Trace) -> int:
    """MK's handle: the only key there is that opens KW_MK(KCAR)."""
    facts = trace.of("sign rolling-p256")[0].facts
    for call in trace.of("sign rolling-p256")[0].calls:
        if call.buffers.get("pWrappedKey", b"").hex() == facts["wrapped_kcar"]:
            handle = int(call.given["hUnwrappingKey"], 16)
            assert handle in found(trace.after_init)
            return handle
    raise AssertionError("KCAR was never unwrapped")


@pytest.mark.parametrize(("name", "scheme", "key"), PEOPLE)
def test_keys_of_a_signature(trace: Trace, name: str, scheme: Scheme, key: KeySpec) -> None:
    """Section 6: usage, EXTRACTABLE, SENSITIVE, PRIVATE, TOKEN and ALLOWED_MECHANISMS of each key, and what
    it came out of. A batch of ten takes the same keys as one signature."""
    for phase in (*trace.of(f"sign {name}"), *trace.of(f"batch {name}")):
        rest = check(phase.calls, expected_signature(scheme, key), master_key(trace))
        assert rest == []


@pytest.mark.parametrize(("name", "scheme", "key"), PEOPLE)
def test_keys_of_the_signature_that_moves_a_record(
    trace: Trace, name: str, scheme: Scheme, key: KeySpec
) -> None:
    """From sealing 1 to 2; the signature after it is one like any other."""
    mk = master_key(trace)
    (move,), (moved,) = trace.of(f"move {name}"), trace.of(f"moved {name}")
    assert check(move.calls, expected_move(scheme, key), mk) == []
    assert wraps(move.calls, expected_move(scheme, key), mk) == expected_wraps_of_a_move(scheme)
    assert check(moved.calls, expected_signature(scheme, key), mk) == []
    wrapped = wraps(moved.calls, expected_signature(scheme, key), mk)
    assert wrapped == expected_wraps_of_a_signature(scheme)


@dataclass(frozen=True)
class UseOfS:
    """What a phase does with its S."""

    functions: list[str]
    """Called on it, in order; but for the attributes that python-pkcs11 reads of every new object."""
    signed: set[tuple[str | None, bytes]]
    """By which mechanism, and what."""
    y: bytes
    """What came out."""


def use_of_s(calls: list[Call]) -> UseOfS:
    """S is the one generic secret that a signature makes, by C_GenerateKey or C_UnwrapKey."""
    (making,) = (call for call in calls if call.template.get("CKA_KEY_TYPE") == "CKK_GENERIC_SECRET")
    (s,) = making.made
    functions: list[str] = []
    signed: set[tuple[str | None, bytes]] = set()
    y, mechanism, signing = b"", None, False
    for call in calls:
        on_s = s in {int(value, 16) for name, value in call.given.items() if name in HANDLES}
        if call.name == "C_SignInit":
            signing, mechanism = on_s, call.mechanism
        if call.name == "C_Sign" and signing:
            signed.add((mechanism, call.buffers["pData"]))
            # python-pkcs11 asks for the length first.
            y = call.buffers.get("pSignature", y)
            on_s = True
        if on_s and call.name != "C_GetAttributeValue":
            functions.append(call.name)
    return UseOfS(functions, signed, y)


HANDLES = {"hKey", "hObject", "hBaseKey", "hWrappingKey", "hUnwrappingKey"}


@EVERYBODY
def test_what_is_done_with_s(trace: Trace, name: str) -> None:
    """It signs one thing, once in each signature, and is wrapped where it is new. What it signs makes Y."""
    seen: dict[str, set[bytes]] = {}
    for what in ("sign", "batch", "move", "moved"):
        for phase in trace.of(f"{what} {name}"):
            use = use_of_s(phase.calls)
            wrapped = ["C_WrapKey", "C_WrapKey"] if what == "move" else []
            assert use.functions == ["C_SignInit", "C_Sign", "C_Sign", *wrapped, "C_DestroyObject"]
            credential_id = bytes.fromhex(phase.facts["credential_id"])
            assert use.signed == {("CKM_SHA256_HMAC", b"hsm-signer/2/seal" + credential_id)}
            assert len(use.y) == 32
            seen.setdefault(what, set()).add(use.y)
    assert len(seen["sign"]) == len(seen["move"]) == 1
    assert seen["sign"] == seen["batch"] != seen["move"], "S is the credential's, until another one is drawn"
    assert seen["move"] == seen["moved"]


@EVERYBODY
def test_no_w_crosses_the_interface(trace: Trace, name: str) -> None:
    """Y does. W(K), for which it takes the card's key, does not, in no buffer of any call."""
    seen = everything_seen(trace.init + trace.after_init)
    for phase in (*trace.of(f"sign {name}"), *trace.of(f"moved {name}")):
        y = use_of_s(phase.calls).y
        assert found_in(y, seen)
        secrets = secrets_of(phase)
        for what in secrets.keys() & {"KEK", "V_x", "V_x+1"}:
            assert not found_in(combine(Combine.CBC, secrets[what], y), seen), f"W({what})"


@pytest.mark.parametrize(("name", "scheme", "key"), PEOPLE)
def test_keys_of_an_enrolment(trace: Trace, name: str, scheme: Scheme, key: KeySpec) -> None:
    (phase,) = trace.of(f"enrol {name}")
    mk = master_key(trace)
    signing = check(phase.calls, expected_enrolment(scheme, key), mk)
    assert check(signing, expected_signature(scheme, key), mk) == []


@pytest.mark.parametrize(("name", "scheme", "key"), PEOPLE)
def test_what_is_wrapped_under_what(trace: Trace, name: str, scheme: Scheme, key: KeySpec) -> None:
    """The one way out of the token for a key: exactly these, in this order, and no other."""
    mk = master_key(trace)
    signature = expected_wraps_of_a_signature(scheme)
    for phase in (*trace.of(f"sign {name}"), *trace.of(f"batch {name}")):
        assert wraps(phase.calls, expected_signature(scheme, key), mk) == signature
    (enrolment,) = trace.of(f"enrol {name}")
    made = expected_enrolment(scheme, key) + expected_signature(scheme, key)
    assert wraps(enrolment.calls, made, mk) == [*expected_wraps_of_an_enrolment(scheme, key), *signature]


def test_self_test_makes_and_wraps_what_an_enrolment_and_a_signature_do(trace: Trace) -> None:
    """The token plays the card: T_i and V leave it as Q alone, and every key is destroyed."""
    (phase,) = trace.of("self-test")
    mk = master_key(trace)
    signing = check(phase.calls, expected_self_test(), mk)
    assert check(signing, expected_signature(Scheme.ROLLING, KeySpec.P256), mk) == []
    made = expected_self_test() + expected_signature(Scheme.ROLLING, KeySpec.P256)
    assert wraps(phase.calls, made, mk) == [
        SEAL,
        ("W(V_1)", "SK", SK_WRAP),
        ("MK", "KCAR", KW_NAME),
        ("card's T_1", "card's V_1", KW_NAME),
        ("card's T_2", "card's V_2", KW_NAME),
        *expected_wraps_of_a_signature(Scheme.ROLLING),
    ]
    lives = spy.lives(phase.calls)
    assert lives.made == lives.destroyed
    assert lives.left == ()


def test_nothing_else_is_ever_wrapped(trace: Trace) -> None:
    """Outside of the phases above one key leaves the token: the fresh one that is never used, wrapped under
    MK when the session begins, to tell later a wrong key from a token that has gone."""
    within = {call.number for phase in trace.phases[:-1] for call in phase.calls}
    assert trace.phases[-1].what == "life"
    outside = [call for call in trace.after_init if call.number not in within]
    control = Made("C_GenerateKey", "CKM_AES_KEY_GEN", (NEW_DERIVING,), None, ("control",))
    mk = master_key(trace)
    assert check(outside, [control], mk) == []
    assert wraps(outside, [control], mk) == [("MK", "control", KW_NAME)]
    (handle,) = [handle for call in outside for handle in call.made]
    assert [int(call.given["hObject"], 16) for call in outside if call.name == "C_DestroyObject"] == [handle]


def test_token_keys(trace: Trace) -> None:
    """MK, the record MAC key and the identity key: the only token objects, made at init."""
    made = token_keys(trace)
    assert [call.mechanism for call in made] == [
        "CKM_AES_KEY_GEN",
        "CKM_GENERIC_SECRET_KEY_GEN",
        "CKM_EC_KEY_PAIR_GEN",
    ]
    mk, record_key = (dict(call.template) for call in made[:2])
    for template in (mk, record_key):
        assert isinstance(template["CKA_ID"], bytes)
        assert len(template["CKA_ID"]) == 8
    own = {"CKA_TOKEN": True, "CKA_LABEL": Unseen(13), "CKA_ID": mk["CKA_ID"]}
    unwrap_template = mk.pop("CKA_UNWRAP_TEMPLATE")
    assert mk == MASTER_KEY | own
    assert isinstance(unwrap_template, bytes)
    # CK_ATTRIBUTE[2]: CKA_SENSITIVE (0x103) and CKA_PRIVATE (0x2), one byte each.
    assert [unwrap_template[i : i + 8] for i in (0, 16, 24, 40)] == [
        pack(each) for each in (0x103, 1, 0x2, 1)
    ]
    own |= {"CKA_LABEL": Unseen(21), "CKA_ID": record_key["CKA_ID"], "CKA_KEY_TYPE": "CKK_GENERIC_SECRET"}
    assert record_key == RECORD_KEY | own


def test_identity_key(trace: Trace) -> None:
    """A pair of token objects, found again by label and id; of the private half nothing is read."""
    (phase,) = trace.of("identity")
    call = token_keys(trace)[-1]
    assert (call.name, call.mechanism, call.ok) == ("C_GenerateKeyPair", "CKM_EC_KEY_PAIR_GEN", True)
    key_id = call.templates["pPublicKeyTemplate"]["CKA_ID"]
    assert isinstance(key_id, bytes)
    assert len(key_id) == 8
    own = {"CKA_TOKEN": True, "CKA_LABEL": Unseen(19), "CKA_ID": key_id}
    public, private = (call.templates[name] for name in ("pPublicKeyTemplate", "pPrivateKeyTemplate"))
    assert (public, private) == tuple(template | own for template in IDENTITY)
    assert [*public][-1] == [*private][-1] == "CKA_MODIFIABLE"
    points = [
        call
        for call in trace.after_init
        if call.name == "C_GetAttributeValue"
        and "CKA_EC_POINT" in call.template
        and call.number < phase.calls[0].number
    ]
    assert points
    assert {int(each.given["hObject"], 16) for each in points} <= found(trace.after_init), "the public half's"
    point = next(each.answers["pTemplate"]["CKA_EC_POINT"] for each in reversed(points) if each.ok)
    assert isinstance(point, bytes)
    assert phase.facts["spki"].endswith(point[-65:].hex())
    # And it signs, in one phase of its own, what begins with our words, and nothing else.
    assert [call.name for call in phase.calls] == ["C_SignInit", "C_Sign", "C_Sign"]
    assert phase.calls[0].mechanism == "CKM_ECDSA"
    assert {call.buffers["pData"].hex() for call in phase.calls[1:]} == {phase.facts["digest"]}


@pytest.mark.parametrize("name", [name for name, _, _ in PEOPLE])
def test_the_identity_signs_once_in_an_enrolment_and_in_no_signature(trace: Trace, name: str) -> None:
    (own,) = trace.of("identity")
    identity = own.calls[0].given["hKey"]

    def signed(what: str) -> list[list[bytes]]:
        """Of each phase: what the identity key was given to sign."""
        data = []
        for phase in trace.of(f"{what} {name}"):
            inits = [call for call in phase.calls if call.name == "C_SignInit"]
            numbers = [call.number for call in inits if call.given["hKey"] == identity]
            data.append([call.buffers["pData"] for call in phase.calls if call.number - 1 in numbers])
        return data

    ((digest,),) = signed("enrol")
    assert len(digest) == 32
    assert not any(signed("sign") + signed("batch") + signed("move"))


def test_private_keys_are_never_named_in_public(trace: Trace) -> None:
    """No label and no id on session objects: nothing to find them by."""
    for call in trace.after_init:
        if call.name in spy.MAKERS:
            for template in call.templates.values():
                assert (template["CKA_LABEL"], template["CKA_ID"]) == (b"", b"")


# --- how many calls ----------------------------------------------------------------------------------------


@EVERYBODY
def test_calls_per_signature(
    trace: Trace, name: str, record_property: Callable[[str, object], None], tell: Callable[[str], None]
) -> None:
    """Printed, and held below what one signature may cost: on a network HSM each call is a round trip."""
    single = [len(phase.calls) for phase in trace.of(f"sign {name}")]
    (batch,) = (len(phase.calls) for phase in trace.of(f"batch {name}"))
    (moving,) = (len(phase.calls) for phase in trace.of(f"move {name}"))
    (challenge,) = {len(phase.calls) for phase in trace.of(f"challenge {name}")}
    record_property("C calls per signature", max(single))
    record_property("C calls per batch of 10", batch)
    record_property("C calls per challenge", challenge)
    counted = ", ".join(
        f"{times} {function}" for function, times in spy.counts(trace.of(f"sign {name}")[-1].calls).items()
    )
    tell(
        f"PKCS#11 calls, {name}: {max(single)} per signature ({counted}); {challenge} per challenge, "
        f"{batch} per batch of 10; {moving} to seal an old record"
    )
    assert len(set(single)) == 1, "every signature costs the same"
    # One C_SignInit and two C_Sign (python-pkcs11 asks for the length first) for each further digest.
    assert batch == single[0] + 9 * 3
    assert single[0] <= (38 if name.startswith("basic") else 57)
    assert challenge == 3
