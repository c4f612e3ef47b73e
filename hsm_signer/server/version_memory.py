"""What one process remembers of records: the newest version of each credential that it has seen.

A database that is put back as a whole, records and evidence together, is a state that once was true, and no
MAC tells. Whoever has seen what came after it knows better.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from hsm_signer.types import CredentialId, Digest

CAPACITY = 100_000
"""Credentials remembered, some 20 MB; the one that was not seen for the longest time is forgotten first."""


class VersionMemory:
    """The newest version of each credential seen, with the entry that wrote it. For several threads."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._seen: OrderedDict[CredentialId, tuple[int, Digest | None]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._seen)

    def __repr__(self) -> str:
        return f"VersionMemory({len(self)} of {self._capacity})"

    def admits(self, credential_id: CredentialId, version: int, head: Digest | None) -> bool:
        """Remember a version that was read or written; tell whether it is no older than what was seen.

        ``head``: SHA-256 of the evidence entry written with it. Another entry at the same version is another
        history, and not admitted either.
        """
        with self._lock:
            newest, known = self._seen.get(credential_id, (0, None))
            if version < newest or (version == newest and head != known):
                return False
            self._seen[credential_id] = (version, head)
            self._seen.move_to_end(credential_id)
            if len(self._seen) > self._capacity:
                self._seen.popitem(last=False)
            return True
