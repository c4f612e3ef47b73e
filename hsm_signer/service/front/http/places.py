"""Places for connections: how many there may be at once, of one address, and of addresses nobody knows.

A place is taken when a connection is accepted, so that whoever never finishes the handshake holds one, too.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict

from hsm_signer.config.service import LimitSettings

MAX_KNOWN = 10_000
"""Addresses that are remembered; the one unused for longest is forgotten first."""


class Places:
    """The places of one front. Each method takes constant time."""

    def __init__(self, limits: LimitSettings) -> None:
        self._all = limits.connections
        self._of_address = limits.connections_per_address
        self._of_strangers = max(1, int(limits.connections * limits.strangers))
        self._taken: Counter[str] = Counter()
        self._total = 0
        self._strangers = 0
        """Places taken by addresses that are not known."""
        self._known: OrderedDict[str, None] = OrderedDict()

    def take(self, host: str) -> Place | str:
        """Take a place for a connection from ``host``, or tell of what there are too many."""
        address = network_of(host)
        if self._total >= self._all:
            return "all"
        if self._taken[address] >= self._of_address:
            return "address"
        stranger = address not in self._known
        if stranger and self._strangers >= self._of_strangers:
            return "strangers"
        self._strangers += stranger
        self._total += 1
        self._taken[address] += 1
        return Place(self, address)

    def recognise(self, address: str) -> None:
        """Remember that a client was known at ``address``: its connections are no stranger's any more."""
        if address not in self._known:
            self._strangers -= self._taken[address]
            self._known[address] = None
        self._known.move_to_end(address)
        if len(self._known) > MAX_KNOWN:
            forgotten, _ = self._known.popitem(last=False)
            self._strangers += self._taken[forgotten]

    def free(self, address: str) -> None:
        """Give a place back."""
        self._strangers -= address not in self._known
        self._total -= 1
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]


class Place:
    """One connection's place."""

    def __init__(self, places: Places, address: str) -> None:
        self._places = places
        self._address = address
        self._free = False

    def recognise(self) -> None:
        """A worker has known a client on this connection."""
        if not self._free:
            self._places.recognise(self._address)

    def free(self) -> None:
        """Give it back; doing so again is no mistake."""
        if not self._free:
            self._free = True
            self._places.free(self._address)


def network_of(host: str) -> str:
    """The address that counts; for IPv6 its network, since whoever has one address there has 2^64."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host
