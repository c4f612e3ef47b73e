"""What a probe finds, and when it is made again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hsm_signer.errors import TokenUnsuitable
from hsm_signer.server.initialise import (
    _refuse_unfit,
)
from hsm_signer.server.installation import (
    PROFILE_FILE,
)
from hsm_signer.server.server import Server
from hsm_signer.testing import Home
from hsm_signer.token import probe as probing
from hsm_signer.token.profile import CONFINEMENTS, PROFILE_FORMAT, TokenProfile
from hsm_signer.types import Combine, KeySpec, Scheme
from tests.support.enrolments import wanted
from tests.support.scenes import objects, still_signs


def stored(home: Home) -> dict[str, Any]:
    """The file as it lies there."""
    document: dict[str, Any] = json.loads((home.path / PROFILE_FILE).read_bytes())
    return document


def store(home: Home, **changes: Any) -> None:
    """Changed by somebody, or by an upgrade."""
    (home.path / PROFILE_FILE).write_text(json.dumps(stored(home) | changes))


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The identity of the token, each time it is probed."""
    made: list[str] = []

    def counted(session: Any) -> TokenProfile:
        made.append(session.identity)
        return real(session)

    real = probing.probe
    monkeypatch.setattr(probing, "probe", counted)
    return made


def test_profile_of_softhsm(server: Server) -> None:
    """docs: what SoftHSM 2.6 has and has not."""
    profile = server.profile
    assert profile.combines == (Combine.CBC,)
    assert (profile.key_wrap, profile.private_wrap) == (0x2109, 0x210A)
    assert (profile.cbc_encrypt_data, profile.xor_base_and_data) == (0x1105, None)
    assert (profile.ecdh, profile.cmac, profile.oaep_hash) == (0x1050, 0x108A, "sha1")
    assert [name for name in CONFINEMENTS if not profile.confines(name)] == []
    assert profile.weaknesses == ()
    assert not profile.value_len_on_unwrap
    able = {name for name, obstacle in profile.keys.items() if not obstacle}
    assert able == {"p256", "p384", "p521", "rsa2048", "rsa3072", "rsa4096"}
    assert "cannot" in profile.keys["ed25519"]
    assert "ed25519" in profile.keys["ed25519"]


def test_probe_leaves_nothing_behind_and_repeats(server: Server) -> None:
    before = objects(server)
    told: list[str] = []
    again = probing.probe(server.environment.session, told.append)
    assert again == server.profile
    assert objects(server) == before
    assert len(told) > 5


def test_stored_profile_is_used_again(home: Home, probes: list[str]) -> None:
    for _ in range(2):
        with home.server() as server:
            still_signs(server, home["alice"])
    assert probes == []


def test_another_identity_is_probed_again_and_stored(home: Home, probes: list[str]) -> None:
    right = stored(home)
    store(home, identity="another library 1.0, another model", private_wrap=0x1234)
    with home.server() as server:
        assert server.profile.private_wrap == 0x210A
        still_signs(server, home["alice"])
    assert probes == [right["identity"]]
    assert stored(home) == right
    with home.server():
        pass
    assert len(probes) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not JSON",
        b"[]",
        b'{"identity": 7}',
        b'{"identity": "x", "unknown": 1}',
        b"\xff\xfe",
        json.dumps({"identity": "x", "format": PROFILE_FORMAT + 1}).encode(),
        json.dumps({"identity": "x", "format": PROFILE_FORMAT - 1}).encode(),
        json.dumps({"identity": "x", "keys": {"p256": 1}}).encode(),
    ],
)
def test_unusable_profile_is_none(data: bytes) -> None:
    assert TokenProfile.from_json(data) is None


def test_unusable_profile_is_made_again(home: Home, probes: list[str]) -> None:
    right = stored(home)
    (home.path / PROFILE_FILE).write_bytes(b"not JSON")
    with home.server() as server:
        still_signs(server, home["alice"])
    assert len(probes) == 1
    assert stored(home) == right


def test_missing_profile_is_made_again(home: Home, probes: list[str]) -> None:
    (home.path / PROFILE_FILE).unlink()
    with home.server():
        pass
    assert len(probes) == 1
    assert (home.path / PROFILE_FILE).stat().st_mode & 0o777 == 0o600


def test_profile_that_cannot_be_written_costs_a_probe_only(home: Home, probes: list[str]) -> None:
    (home.path / PROFILE_FILE).unlink()
    (home.path / PROFILE_FILE).mkdir()
    with home.server() as server:
        still_signs(server, home["alice"])
    assert len(probes) == 1


def test_roundtrip() -> None:
    profile = TokenProfile(identity="ü", keys={"p256": "", "ed25519": "why not"}, key_wrap=0x80000170)
    assert TokenProfile.from_json(profile.to_json()) == profile


FULL = TokenProfile(
    identity="a token that has everything",
    key_wrap=1,
    private_wrap=2,
    cbc_encrypt_data=3,
    xor_base_and_data=4,
    ecdh=5,
    cmac=6,
    sealing=7,
    oaep_hash="sha256",
    create_object=True,
    keys={each.value: "" for each in KeySpec},
)


def test_a_token_that_has_everything_has_no_obstacle() -> None:
    for scheme in Scheme:
        for key in KeySpec:
            obstacle = FULL.obstacle(scheme, key)
            assert (obstacle is None) == (scheme is not Scheme.PIN or key is not KeySpec.ED25519)
    assert FULL.combines == (Combine.CBC, Combine.XOR)


@pytest.mark.parametrize(
    ("lacking", "schemes", "keys"),
    [
        ("key_wrap", set(Scheme), set(KeySpec)),
        ("private_wrap", set(Scheme), set(KeySpec)),
        ("ecdh", set(Scheme), set(KeySpec)),
        ("cbc_encrypt_data", set(Scheme), set(KeySpec)),
        ("sealing", set(Scheme), set(KeySpec)),
        ("create_object", {Scheme.BASIC}, set(KeySpec)),
        ("cmac", {Scheme.PIN}, set(KeySpec)),
        ("oaep_hash", {Scheme.PIN}, {KeySpec.RSA2048, KeySpec.RSA3072, KeySpec.RSA4096}),
        ("xor_base_and_data", set(), set()),
    ],
)
def test_what_a_token_lacks_stands_in_the_way_of_what_needs_it(
    lacking: str, schemes: set[Scheme], keys: set[KeySpec]
) -> None:
    profile = msgspec.structs.replace(FULL, **{lacking: None})
    for scheme in Scheme:
        for key in KeySpec:
            expected = (scheme in schemes and key in keys) or FULL.obstacle(scheme, key) is not None
            assert (profile.obstacle(scheme, key) is not None) == expected


def test_obstacle_names_an_unknown_key_type() -> None:
    assert (
        TokenProfile(identity="x", key_wrap=1, private_wrap=1, sealing=1).obstacle(
            Scheme.ROLLING, KeySpec.P256
        )
        == "the token has no such key type"
    )


def test_create_asks_the_profile_first(server: Server) -> None:
    before = objects(server)
    with pytest.raises(TokenUnsuitable, match="ed25519"):
        server.environment.create(wanted(key=KeySpec.ED25519))
    assert objects(server) == before


def test_fit_for_use_or_not(tmp_path: Path) -> None:
    _refuse_unfit(FULL)
    for lacking in ("key_wrap", "private_wrap", "cbc_encrypt_data", "ecdh", "sealing"):
        with pytest.raises(TokenUnsuitable, match="cannot be used"):
            _refuse_unfit(msgspec.structs.replace(FULL, **{lacking: None}))
