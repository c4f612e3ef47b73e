"""What a process remembers of records: the newest version, of so many credentials and no more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hsm_signer.server.version_memory import CAPACITY, VersionMemory
from hsm_signer.types import CredentialId, Digest

ALICE, BOB, CAROL = (CredentialId(bytes([number]) * 16) for number in range(3))
HERE, THERE = Digest(b"h" * 32), Digest(b"t" * 32)


def test_never_backwards_and_never_to_another_history() -> None:
    memory = VersionMemory()
    assert memory.admits(ALICE, 2, HERE)
    assert memory.admits(ALICE, 2, HERE)
    assert not memory.admits(ALICE, 1, HERE)
    assert not memory.admits(ALICE, 2, THERE)
    assert memory.admits(ALICE, 7, THERE)
    assert not memory.admits(ALICE, 6, THERE)
    assert memory.admits(ALICE, 7, THERE)
    assert memory.admits(BOB, 1, HERE)


def test_of_so_many_credentials_and_no_more() -> None:
    memory = VersionMemory(2)
    for credential_id in (ALICE, BOB, ALICE, CAROL):
        assert memory.admits(credential_id, 5, HERE)
        assert len(memory) <= 2
    assert not memory.admits(ALICE, 4, HERE)
    assert not memory.admits(CAROL, 4, HERE)
    assert memory.admits(BOB, 4, HERE), "the one that was not seen for the longest time is forgotten"
    assert len(memory) == 2
    whole = VersionMemory()
    for number in range(CAPACITY + 10):
        whole.admits(CredentialId(number.to_bytes(16, "big")), 1, HERE)
    assert len(whole) == CAPACITY


def test_many_threads() -> None:
    memory = VersionMemory(8)

    def look(number: int) -> bool:
        return memory.admits(CredentialId(bytes([number % 16]) * 16), 1, HERE)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(look, range(20_000)))
    assert len(memory) == 8
