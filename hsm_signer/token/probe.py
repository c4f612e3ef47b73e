"""Finds out what a token can do by doing it: candidate profiles, each tried with the real operations.

Everything made here is a session object of a workspace and dies with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import pkcs11.exceptions as p11
from pkcs11 import Attribute, Mechanism

from hsm_signer.core import algorithms
from hsm_signer.errors import SignerError
from hsm_signer.schemes.key_operations import KekUse, Key
from hsm_signer.types import (
    CREDENTIAL_ID_LENGTH,
    KEY_LENGTH,
    Algorithm,
    Combine,
    CredentialId,
    Digest,
    KeySpec,
    Quantity,
    WrappedKey,
)

from . import templates
from .binding import SecretKeyObject, mechanism
from .faults import MAY_SAY_WRONG_KEY, reason
from .profile import CONFINEMENTS, Confinement, TokenProfile
from .session import TokenSession
from .templates import Origin
from .workspace import TokenWorkspace

KEY_WRAP_CANDIDATES = (
    Mechanism.AES_KEY_WRAP,
    Mechanism._AES_KEY_WRAP,
    0x80000170,  # Luna
)
PRIVATE_WRAP_CANDIDATES = (
    Mechanism.AES_KEY_WRAP_KWP,  # RFC 5649 where a token has it
    Mechanism.AES_KEY_WRAP_PAD,  # SoftHSM 2.6: a format of its own, with the integrity of KW
    0x80000171,  # Luna
    Mechanism._AES_KEY_WRAP_PAD,
)
TEST_DATA = Digest(bytes(range(32)))
TEST_ID = CredentialId(bytes(CREDENTIAL_ID_LENGTH))
OTHER_DATA = Digest(bytes(range(32, 64)))


def probe(session: TokenSession, progress: Callable[[str], None] = lambda _: None) -> TokenProfile:
    """The profile of the token behind ``session``; takes some 0.3 s on SoftHSM. Raises TokenUnavailable.

    ``progress`` is told what is being tried, in words.
    """
    profile = TokenProfile(identity=session.identity)
    progress("key wrap")
    wrong_key: set[str] = set()
    profile = _key_wrap(session, profile, wrong_key)
    if profile.key_wrap is None:
        return profile
    progress("what confines keys")
    profile = msgspec.structs.replace(profile, confinement=_confinement(session, profile))
    progress("combine methods")
    profile = _first(session, profile, "cbc_encrypt_data", (Mechanism.AES_CBC_ENCRYPT_DATA,), _derives_by_cbc)
    profile = _first(session, profile, "xor_base_and_data", (Mechanism.XOR_BASE_AND_DATA,), _derives_by_xor)
    profile = _first(session, profile, "cmac", (Mechanism.AES_CMAC,), _compares)
    progress("sealing")
    profile = _first(session, profile, "sealing", (Mechanism.SHA256_HMAC,), _seals)
    progress("private key wrap")
    wraps_private_key = partial(_wraps_private_key, wrong_key=wrong_key)
    profile = _first(session, profile, "private_wrap", PRIVATE_WRAP_CANDIDATES, wraps_private_key)
    profile = msgspec.structs.replace(
        profile,
        wrong_key=tuple(sorted(wrong_key)),
        create_object=_works(session, profile, _imports),
    )
    profile = _first(session, profile, "ecdh", (Mechanism.ECDH1_DERIVE,), _agrees)
    keys: dict[str, str] = {}
    for spec in (KeySpec.P256, KeySpec.P384, KeySpec.P521, KeySpec.ED25519, KeySpec.RSA2048):
        progress(f"key type {spec.value}")
        keys[spec.value] = key_obstacle(session, profile, spec)
    longest = session.max_rsa_bits()
    for spec in (KeySpec.RSA3072, KeySpec.RSA4096):
        # Generating these takes seconds; the mechanism's limits and the 2048-bit cycle decide.
        too_long = "" if (spec.rsa_bits or 0) <= longest else f"the token generates RSA up to {longest} bits"
        keys[spec.value] = keys[KeySpec.RSA2048.value] or too_long
    profile = msgspec.structs.replace(profile, keys=keys)
    if not keys[KeySpec.RSA2048.value]:
        progress("RSA-OAEP")
        profile = _first(session, profile, "oaep_hash", ("sha256", "sha1"), _gives_kowf_by_rsa)
    return profile


def key_obstacle(session: TokenSession, profile: TokenProfile, spec: KeySpec) -> str:
    """Generate, wrap, unwrap, sign and verify with one key type: "" if all went well, or where it stopped."""
    doing = "generate"
    if profile.private_wrap is None:
        return "the token cannot wrap private keys with integrity"
    try:
        with session.workspace(profile) as workspace:
            pair = workspace.new_pair(spec, gives_kowf=False)
            doing = "wrap"
            wrapping, unwrapping = _kek_pair(workspace)
            wrapped = workspace.wrap_sk(wrapping, pair.private)
            doing = "unwrap"
            for algorithm in spec.algorithms:
                doing = "unwrap"
                sk = workspace.unwrap_sk(
                    unwrapping, wrapped, spec, algorithm, extractable=False, gives_kowf=False
                )
                doing = f"sign by {algorithm.value} with"
                signed = bytes(algorithm.hash.length if algorithm.hash else KEY_LENGTH)
                signature = workspace.sign(sk, spec, algorithm, signed)
                algorithms.verifier(pair.spki, algorithm)(signed, signature)
    except (SignerError, p11.PKCS11Error) as error:
        cause = error.__cause__ if isinstance(error.__cause__, p11.PKCS11Error) else error
        return f"the token cannot {doing} {spec.value} keys ({type(cause).__name__})"
    return ""


def _works(session: TokenSession, profile: TokenProfile, test: Callable[[TokenWorkspace], None]) -> bool:
    try:
        with session.workspace(profile) as workspace:
            test(workspace)
    except (SignerError, p11.PKCS11Error, ValueError):
        session.pkcs11.generate_random(8)  # a token that has gone is no token that lacks something
        return False
    return True


def _first(
    session: TokenSession,
    profile: TokenProfile,
    field: str,
    candidates: tuple[Any, ...],
    test: Callable[[TokenWorkspace], None],
) -> TokenProfile:
    for candidate in candidates:
        value = int(candidate) if isinstance(candidate, int) else candidate
        tried = msgspec.structs.replace(profile, **{field: value})
        if _works(session, tried, test):
            return tried
    return profile


def _key_wrap(session: TokenSession, profile: TokenProfile, wrong_key: set[str]) -> TokenProfile:
    for value_len in (False, True):
        tried = msgspec.structs.replace(profile, value_len_on_unwrap=value_len)
        wraps_secret_key = partial(_wraps_secret_key, wrong_key=wrong_key)
        found = _first(session, tried, "key_wrap", KEY_WRAP_CANDIDATES, wraps_secret_key)
        if found.key_wrap is not None:
            return found
    return profile


Attempt = Callable[[TokenWorkspace, templates.Template], object]
"""Does with a key of this template what the template forbids; raises _Refused where the token refuses it."""


def _confinement(session: TokenSession, profile: TokenProfile) -> dict[str, Confinement]:
    """Each attribute that is meant to confine a key: is it taken, and is what it forbids then refused?"""
    forbidden: dict[str, tuple[templates.Template, Attempt]] = {
        "extractable": (_of(Attribute.DERIVE), _wraps_out),
        "sensitive": (_of(Attribute.DERIVE), _reads_value),
        "usage": (_of(Attribute.SIGN), _does_another_thing),
        "allowed-mechanisms": (
            _of(Attribute.WRAP, ALLOWED_MECHANISMS=(Mechanism.AES_CBC_ENCRYPT_DATA,)),
            _wraps_another,
        ),
        "unwrap-template": (
            _of(Attribute.WRAP, UNWRAP=True, UNWRAP_TEMPLATE=templates.unwrap_template()),
            _unwraps_to_the_open,
        ),
        "copyable": (_of(Attribute.DERIVE, COPYABLE=False), _copies),
        "modifiable": (_of(Attribute.DERIVE, MODIFIABLE=False), _modifies_generated),
        "modifiable-derived": (_of(Attribute.DERIVE, MODIFIABLE=False), _modifies_derived),
        "modifiable-unwrapped": (_of(Attribute.DERIVE, MODIFIABLE=False), _modifies_unwrapped),
    }
    return {name: _tried(session, profile, *forbidden[name]) for name in CONFINEMENTS}


def _tried(
    session: TokenSession, profile: TokenProfile, template: templates.Template, attempt: Attempt
) -> Confinement:
    enforced = False

    def refused(workspace: TokenWorkspace) -> None:
        nonlocal enforced
        try:
            attempt(workspace, template)
        except _Refused:
            enforced = True

    taken = _works(session, profile, refused)
    return Confinement(taken=taken, enforced=taken and enforced)


class _Refused(Exception):
    """The token took the attribute and refused what it forbids."""


@contextmanager
def _must_be_refused() -> Iterator[None]:
    try:
        yield
    except p11.PKCS11Error as error:
        raise _Refused from error


def _of(usage: Attribute, **others: Any) -> templates.Template:
    """A session key of 256 bits with one usage, sensitive, not extractable, changed by ``others``."""
    template = templates.secret_key(
        TokenProfile(identity=""), Origin.GENERATED, usage=usage, mechanisms=(), value_len=KEY_LENGTH
    )
    return template | {Attribute[name]: value for name, value in others.items()}


def _wraps_out(workspace: TokenWorkspace, template: templates.Template) -> None:
    wrapping, key = workspace.generate_from(_of(Attribute.WRAP)), workspace.generate_from(template)
    with _must_be_refused():
        wrapping.wrap_key(key, mechanism=mechanism(workspace.profile.key_wrap or 0))


def _reads_value(workspace: TokenWorkspace, template: templates.Template) -> None:
    """The one place that asks for CKA_VALUE, of a key made for this question: nobody ever uses it."""
    key = workspace.generate_from(template | {Attribute.EXTRACTABLE: True})
    with _must_be_refused():
        key[Attribute.VALUE]


def _does_another_thing(workspace: TokenWorkspace, template: templates.Template) -> None:
    """Derives, and wraps: both must be refused."""
    key = workspace.generate_from(template)
    other = workspace.generate_from(_of(Attribute.DERIVE, EXTRACTABLE=True))
    try:
        workspace.derive_with(key, TEST_DATA, _of(Attribute.WRAP))
    except p11.PKCS11Error:
        with _must_be_refused():
            key.wrap_key(other, mechanism=mechanism(workspace.profile.key_wrap or 0))


def _wraps_another(workspace: TokenWorkspace, template: templates.Template) -> None:
    wrapping = workspace.generate_from(template)
    key = workspace.generate_from(_of(Attribute.DERIVE, EXTRACTABLE=True))
    with _must_be_refused():
        wrapping.wrap_key(key, mechanism=mechanism(workspace.profile.key_wrap or 0))


def _unwraps_to_the_open(workspace: TokenWorkspace, template: templates.Template) -> None:
    wrapping = workspace.generate_from(template)
    wanted = _of(Attribute.DERIVE, EXTRACTABLE=True)
    wrapped = wrapping.wrap_key(
        workspace.generate_from(wanted), mechanism=mechanism(workspace.profile.key_wrap or 0)
    )
    wanted = _without_length(wanted, workspace.profile)
    workspace.unwrap_with(wrapping, wrapped, wanted)
    with _must_be_refused():
        workspace.unwrap_with(wrapping, wrapped, wanted | {Attribute.SENSITIVE: False})


def _copies(workspace: TokenWorkspace, template: templates.Template) -> None:
    key = workspace.generate_from(template)
    with _must_be_refused():
        workspace.copy_of(key)


def _modifies(key: SecretKeyObject) -> None:
    with _must_be_refused():
        key[Attribute.DECRYPT] = True


def _modifies_generated(workspace: TokenWorkspace, template: templates.Template) -> None:
    _modifies(workspace.generate_from(template))


def _modifies_derived(workspace: TokenWorkspace, template: templates.Template) -> None:
    _modifies(workspace.derive_with(workspace.generate_from(_of(Attribute.DERIVE)), TEST_DATA, template))


def _modifies_unwrapped(workspace: TokenWorkspace, template: templates.Template) -> None:
    wrapping = workspace.generate_from(_of(Attribute.WRAP, UNWRAP=True))
    key = workspace.generate_from(_of(Attribute.DERIVE, EXTRACTABLE=True))
    wrapped = wrapping.wrap_key(key, mechanism=mechanism(workspace.profile.key_wrap or 0))
    _modifies(workspace.unwrap_with(wrapping, wrapped, _without_length(template, workspace.profile)))


def _must_not_open(unwrap: Callable[[], object]) -> str:
    """The name of what the token answers; ValueError where it opens, or answers what we could not read."""
    try:
        unwrap()
    except (p11.PKCS11Error, SignerError) as error:
        answer = error if isinstance(error, p11.PKCS11Error) else error.__cause__
        if isinstance(answer, MAY_SAY_WRONG_KEY):
            return reason(answer)
        raise ValueError("a wrong key is answered by what may mean anything") from error
    raise ValueError("no integrity")


def _imports(workspace: TokenWorkspace) -> None:
    workspace.public_transient(TEST_DATA)


def _wraps_secret_key(workspace: TokenWorkspace, wrong_key: set[str]) -> None:
    """40 bytes, opens again to the same key, and a flipped bit does not open; ``wrong_key`` notes why."""
    profile = workspace.profile
    number = profile.key_wrap or 0
    wrapping: SecretKeyObject = workspace.generate_from(_of(Attribute.WRAP, UNWRAP=True))
    extractable = _of(Attribute.DERIVE, EXTRACTABLE=True)
    wrapped = wrapping.wrap_key(workspace.generate_from(extractable), mechanism=mechanism(number))
    again = workspace.unwrap_with(wrapping, wrapped, _without_length(extractable, profile))
    if len(wrapped) != 40 or wrapping.wrap_key(again, mechanism=mechanism(number)) != wrapped:
        raise ValueError("not RFC 3394")
    flipped = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    template = _without_length(extractable, profile)
    wrong_key.add(_must_not_open(lambda: workspace.unwrap_with(wrapping, flipped, template)))


def _without_length(template: templates.Template, profile: TokenProfile) -> templates.Template:
    if profile.value_len_on_unwrap:
        return template
    return {attribute: value for attribute, value in template.items() if attribute != Attribute.VALUE_LEN}


def _derives_by_cbc(workspace: TokenWorkspace) -> None:
    workspace.transient(workspace.new_kcar(Combine.CBC), Combine.CBC, TEST_DATA)


def _derives_by_xor(workspace: TokenWorkspace) -> None:
    workspace.transient(workspace.new_kcar(Combine.XOR), Combine.XOR, TEST_DATA)


def _compares(workspace: TokenWorkspace) -> None:
    """Two keys unwrapped from one wrapping are equal by CMAC, two from different ones are not."""
    wraps, opens = _transient_pair(workspace)
    quantities = [Quantity(workspace.wrap_for_card(wraps, workspace.new_kcar(Combine.CBC))) for _ in range(2)]
    one, same, other = (
        workspace.open_quantity(opens, each, KekUse.COMPARE)
        for each in (quantities[0], quantities[0], quantities[1])
    )
    if not workspace.same_key(one, same) or workspace.same_key(one, other):
        raise ValueError("CMAC does not tell keys apart")


def _transient_pair(workspace: TokenWorkspace) -> tuple[Key, Key]:
    """One key derived twice from a fresh KCAR: once to wrap, as a card does, once to unwrap."""
    kcar = workspace.new_kcar(Combine.CBC)
    wraps = workspace.personalisation_key(kcar, TEST_DATA)
    return wraps, workspace.transient(kcar, Combine.CBC, TEST_DATA)


def _kek_pair(workspace: TokenWorkspace) -> tuple[Key, Key]:
    """The same W(K) once to wrap SK and once to unwrap it, as enrolment and signing have it."""
    workspace.use_own_master_key()
    workspace.open_seal(workspace.new_seal(TEST_ID), TEST_ID)
    wraps, opens = _transient_pair(workspace)
    key = workspace.new_key()
    quantity = Quantity(workspace.wrap_for_card(wraps, key))
    return workspace.sealed(key), workspace.open_quantity(opens, quantity, KekUse.UNWRAP_SK)


def _seals(workspace: TokenWorkspace) -> None:
    """S goes out and comes back. (That W(K) is then the same is seen where a private key opens under it.)"""
    workspace.use_own_master_key()
    workspace.open_seal(workspace.new_seal(TEST_ID), TEST_ID)


def _wraps_private_key(workspace: TokenWorkspace, wrong_key: set[str]) -> None:
    """Opens again under the same key only, and not with any of its bytes changed; ``wrong_key`` notes why."""
    spec, algorithm = KeySpec.P256, Algorithm.ECDSA_SHA256
    pair = workspace.new_pair(spec, gives_kowf=False)
    wrapping, unwrapping = _kek_pair(workspace)
    wrapped = workspace.wrap_sk(wrapping, pair.private)
    sk = workspace.unwrap_sk(unwrapping, wrapped, spec, algorithm, extractable=True, gives_kowf=False)
    algorithms.verifier(pair.spki, algorithm)(TEST_DATA, workspace.sign(sk, spec, algorithm, TEST_DATA))
    _, other = _kek_pair(workspace)
    attempts = [(other, bytes(wrapped))]
    for position in (0, len(wrapped) // 2, len(wrapped) - 1):
        changed = bytearray(wrapped)
        changed[position] ^= 0x01
        attempts.append((unwrapping, bytes(changed)))
    answers = {
        _must_not_open(
            partial(
                workspace.unwrap_sk,
                kek,
                WrappedKey(attempt),
                spec,
                algorithm,
                extractable=False,
                gives_kowf=False,
            )
        )
        for kek, attempt in attempts
    }
    wrong_key |= answers


def _agrees(workspace: TokenWorkspace) -> None:
    """Both sides of ECDH give the same key: wrapped under each, a third key looks the same."""
    one, other = workspace.new_ephemeral(), workspace.new_ephemeral()
    probe_key = workspace.new_kcar(Combine.CBC)
    wrapped = {
        bytes(
            workspace.wrap_for_card(
                workspace.personalisation_key(
                    workspace.agree(mine.private, algorithms.ec_point_of(theirs.spki)), OTHER_DATA
                ),
                probe_key,
            )
        )
        for mine, theirs in ((one, other), (other, one))
    }
    if len(wrapped) != 1:
        raise ValueError("ECDH disagrees with itself")


def _gives_kowf_by_rsa(workspace: TokenWorkspace) -> None:
    pair = workspace.new_pair(KeySpec.RSA2048, gives_kowf=True)
    parameter = workspace.new_parameter(pair)
    one, other = (workspace.recompute_kowf(pair.private, parameter) for _ in range(2))
    if not workspace.same_key(one, other):
        raise ValueError("RSA-OAEP is not repeatable")
