"""Merkle Tree Hash of RFC 6962, section 2.1, with SHA-256.

    MTH({})     = SHA-256()
    MTH({d})    = SHA-256(00 || d)
    MTH(D[n])   = SHA-256(01 || MTH(D[0:k]) || MTH(D[k:n]))     k: the largest power of two below n

The prefixes keep a leaf from being passed off as a node and the other way round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from hsm_signer.types import Digest

LEAF_PREFIX = b"\x00"
NODE_PREFIX = b"\x01"


def leaf_hash(data: bytes) -> Digest:
    """SHA-256(00 || data): 32 bytes."""
    return Digest(hashlib.sha256(LEAF_PREFIX + data).digest())


def node_hash(left: Digest, right: Digest) -> Digest:
    """SHA-256(01 || left || right): 32 bytes."""
    return Digest(hashlib.sha256(NODE_PREFIX + left + right).digest())


def merkle_root(leaves: Iterable[bytes]) -> Digest:
    """The Merkle Tree Hash of the leaves' data, in their order: 32 bytes; of nothing, SHA-256 of nothing.

    The leaves are read once and not kept: there are as many hashes in memory as the tree is high.
    """
    # Complete subtrees from left to right, each with its height: two of equal height become one at once.
    # What is left in the end has falling heights, and joining from the right gives the RFC's split at the
    # largest power of two.
    subtrees: list[tuple[int, Digest]] = []
    for data in leaves:
        height, node = 0, leaf_hash(data)
        while subtrees and subtrees[-1][0] == height:
            node = node_hash(subtrees.pop()[1], node)
            height += 1
        subtrees.append((height, node))
    if not subtrees:
        return Digest(hashlib.sha256().digest())
    root = subtrees.pop()[1]
    while subtrees:
        root = node_hash(subtrees.pop()[1], root)
    return root
