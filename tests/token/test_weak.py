"""Tokens that take attributes and do not enforce them: found out by trying, on two real ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hsm_signer.errors import TokenUnsuitable, TokenWeak
from hsm_signer.server.initialise import _refuse_unfit, _refuse_weak
from hsm_signer.token.profile import CONFINEMENTS, INDISPENSABLE, Confinement, TokenProfile
from tests.support import weak
from tests.support.people import ROOT
from tests.support.weak import LABEL, PIN, WeakToken

PROBE = """
import sys
from hsm_signer.token.probe import probe
from hsm_signer.token.session import TokenSession
from hsm_signer.token.uri import TokenUri
module, label, pin = sys.argv[1:]
with TokenSession.open(TokenUri(token=label, module_path=module), pin) as session:
    sys.stdout.buffer.write(probe(session).to_json())
    left = [key for key in session.pkcs11.get_objects() if key.handle]
    assert not left, left
"""


def probed(token: WeakToken) -> TokenProfile:
    """What the probe finds, in a process of its own: no other test gets to see these modules."""
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, token.module, LABEL, PIN],
        env={**os.environ, **token.variables},
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    profile = TokenProfile.from_json(ran.stdout)
    assert profile is not None
    return profile


def not_enforced(profile: TokenProfile) -> set[str]:
    """What is taken, or not even that, and does not hold."""
    assert set(profile.confinement) == set(CONFINEMENTS)
    return {name for name in CONFINEMENTS if not profile.confines(name)}


def test_nss_softoken(tmp_path: Path) -> None:
    """It takes every attribute, and wraps out what is not extractable."""
    profile = probed(weak.nss_softoken(tmp_path))
    assert profile.identity.startswith("NSS Internal Crypto Services")
    assert all(confinement.taken for confinement in profile.confinement.values())
    assert not_enforced(profile) == {
        "extractable",
        "usage",
        "allowed-mechanisms",
        "unwrap-template",
        "copyable",
    }
    assert len(profile.weaknesses) == 2
    # What seals and combines is there, the patent's XOR as well; its way of wrapping private keys is no use.
    assert None not in (profile.key_wrap, profile.sealing, profile.cbc_encrypt_data)
    assert profile.xor_base_and_data is not None
    with pytest.raises(TokenUnsuitable, match="wrapping of private keys"):
        _refuse_unfit(profile)


def test_softhsm_that_lets_keys_out(tmp_path: Path) -> None:
    """One attribute that does not hold is one that is found; everything else of SoftHSM2 is as it was."""
    profile = probed(weak.softhsm_that_lets_keys_out(tmp_path))
    assert profile.confinement["extractable"] == Confinement(taken=True, enforced=False)
    assert not_enforced(profile) == {"extractable"}
    assert profile.weaknesses == (CONFINEMENTS["extractable"],)
    assert profile.private_wrap is not None
    _refuse_unfit(profile)


@pytest.mark.parametrize("name", CONFINEMENTS)
@pytest.mark.parametrize("taken", [True, False])
def test_what_init_makes_of_it(name: str, taken: bool) -> None:
    """Three attributes are indispensable; without any other the token is used, and does without."""
    confinement = {each: Confinement(taken=True, enforced=True) for each in CONFINEMENTS}
    confinement[name] = Confinement(taken=taken, enforced=False)
    profile = TokenProfile(identity="x", confinement=confinement)
    told: list[str] = []
    if name not in INDISPENSABLE:
        _refuse_weak(profile, accepted=False, tell=told.append)
        assert told == []
        return
    with pytest.raises(TokenWeak) as refusal:
        _refuse_weak(profile, accepted=False, tell=told.append)
    assert refusal.value.message == f"this token does not enforce {CONFINEMENTS[name]}"
    assert "--accept-weak-token" in (refusal.value.hint or "")
    _refuse_weak(profile, accepted=True, tell=told.append)
    assert told == [f"accepted although this token does not enforce {CONFINEMENTS[name]}"]


def test_a_token_that_was_never_asked_is_weak() -> None:
    profile = TokenProfile(identity="x")
    assert len(profile.weaknesses) == len(INDISPENSABLE)
    assert not any(profile.confines(name) for name in CONFINEMENTS)


def test_a_sound_token_is_not_remarked_on() -> None:
    confinement = {name: Confinement(taken=True, enforced=True) for name in CONFINEMENTS}
    told: list[str] = []
    tell: Callable[[str], None] = told.append
    for accepted in (True, False):
        _refuse_weak(TokenProfile(identity="x", confinement=confinement), accepted=accepted, tell=tell)
    assert told == []
