"""Where a card is, as users write it: ``sim:PATH``.

Each kind of card has a prefix. What carries its APDUs is imported when a card of that kind is opened, and
not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .connection import CardConnection
from .session import CardSession


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of card; ``form`` is how its address looks. ``create`` is None where cards are bought."""

    form: str
    open: Callable[[str, float], CardConnection]
    create: Callable[[str], None] | None


@contextmanager
def open_card(address: str, *, timeout: float = 10.0) -> Iterator[CardSession]:
    """Hold the card at ``address``, its application selected, until the block ends.

    Another program may hold it for ``timeout`` seconds before CardInUse. InputError for an address of no
    known form; CardNotFound where no card is; and what :meth:`CardSession.select` raises.
    """
    kind, rest = _kind_of(address)
    connection = kind.open(rest, timeout)
    try:
        session = CardSession(connection)
        session.select()
        yield session
    finally:
        connection.close()


def create_card(address: str) -> None:
    """Make a blank card at ``address``: simulated ones only. InputError for others, FileError."""
    kind, rest = _kind_of(address)
    if kind.create is None:
        raise InputError(f"{address}: such a card cannot be made here")
    kind.create(rest)


def _open_simulated(path: str, timeout: float) -> CardConnection:
    from .simulated import SimulatedConnection

    return SimulatedConnection(Path(path).expanduser(), timeout=timeout)


def _create_simulated(path: str) -> None:
    from .simulated import create_simulated

    create_simulated(Path(path).expanduser())


_KINDS: Mapping[str, _Kind] = {
    "sim": _Kind("sim:PATH", _open_simulated, _create_simulated),
}
"""By prefix, each of which is one kind's alone."""


def _kind_of(address: str) -> tuple[_Kind, str]:
    expected = " or ".join(kind.form for kind in _KINDS.values())
    prefix, colon, rest = address.partition(":")
    kind = _KINDS.get(prefix) if colon else None
    if kind is None:
        hint = None if colon else f"For a simulated card in this file write sim:{address}."
        raise InputError(f"card {address!r}: expected {expected}", hint=hint)
    if not rest:
        raise InputError(f"card {address!r}: expected {kind.form}, nothing follows the colon")
    if "\0" in rest:
        raise InputError(f"card {address!r}: expected {kind.form}, found a zero byte")
    return kind, rest
