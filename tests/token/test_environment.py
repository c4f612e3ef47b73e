"""The whole cycle on a real token: every scheme, key type, algorithm and mode."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pytest

from hsm_signer.core import algorithms
from hsm_signer.errors import AuthorisationMismatch, TokenError, TokenUnavailable, WrongKey
from hsm_signer.server.server import Server
from hsm_signer.testing import Home, make_person
from hsm_signer.token.workspace import TokenWorkspace
from hsm_signer.types import Algorithm, Digest, DigestList, KeySpec, Scheme
from tests.support.scenes import objects

MESSAGE = b"the quick brown fox"


@pytest.mark.parametrize("name", ["alice", "bob", "paula", "peter", "basil"])
def test_every_algorithm_and_mode_of_an_enrolled_key(home: Home, server: Server, name: str) -> None:
    person = home[name]
    for algorithm in person.key.algorithms:
        assert algorithm.hash is not None
        verify = algorithms.verifier(person.record(server).spki, algorithm)
        digest = hashlib.new(algorithm.hash.value, MESSAGE).digest()

        message = person.sign(server, MESSAGE, algorithm)
        zeros = Digest(bytes(algorithm.hash.length))
        listed = person.sign(server, DigestList((Digest(digest), zeros)), algorithm)

        verify(digest, message.signatures[0])
        verify(digest, listed.signatures[0])
        verify(zeros, listed.signatures[1])


@pytest.mark.parametrize("scheme", [Scheme.PIN, Scheme.ROLLING])
@pytest.mark.parametrize("key", [KeySpec.P384, KeySpec.P521, KeySpec.RSA3072])
def test_the_other_key_types(server: Server, tmp_path: Path, scheme: Scheme, key: KeySpec) -> None:
    person = make_person(server, tmp_path, "carol", scheme=scheme, key=key)
    verify = algorithms.verifier(person.record(server).spki, key.default_algorithm)
    assert key.default_algorithm.hash is not None

    outcome = person.sign(server, MESSAGE)

    verify(hashlib.new(key.default_algorithm.hash.value, MESSAGE).digest(), outcome.signatures[0])


def test_x_and_wrapping_change_with_every_signature(home: Home, server: Server) -> None:
    alice = home["alice"]
    records = [alice.record(server)]
    for _ in range(3):
        alice.sign(server)
        records.append(alice.record(server))

    assert [each.x for each in records] == [2, 3, 4, 5]
    assert len({each.wrapped_sk for each in records}) == 4
    for before, after in itertools.pairwise(records):
        assert after.rn == before.rn_next
        assert after.rn_next not in (before.rn, before.rn_next)


def test_algorithm_names_are_unique() -> None:
    assert len({each.value for each in Algorithm}) == len(Algorithm)


# --- self-test and tags -------------------------------------------------------------------------------------


def test_self_test_leaves_nothing(home: Home, server: Server) -> None:
    before = (objects(server), list(server.entries()), list(server.credentials()))
    for _ in range(3):
        server.environment.self_test()
    assert (objects(server), list(server.entries()), list(server.credentials())) == before


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("open_quantity", AuthorisationMismatch("testing")),
        ("unwrap_sk", WrongKey("testing")),
        ("sign", TokenError("testing")),
        ("wrap_sk", TokenUnavailable("testing")),
    ],
)
def test_self_test_fails_as_the_token_does(
    server: Server, method: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a signature could be refused for is the token's fault here: nobody else had a part in it."""

    def fails(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(TokenWorkspace, method, fails)
        with pytest.raises(TokenError):
            server.environment.self_test()


def test_tags_are_apart_from_each_other_and_from_records(home: Home, server: Server) -> None:
    environment = server.environment
    tags = {environment.tag(domain, data) for domain, data in (("a", b"x"), ("b", b"x"), ("a", b"y"))}
    assert {len(each) for each in tags} == {32}
    assert len(tags) == 3
    assert environment.tag("a", b"x") in tags, "the same again"
    for domain in ("", "record", "rec", "records", "evidence", "installation", "inst"):
        with pytest.raises(ValueError, match="could be taken for something else"):
            environment.tag(domain, b"")
