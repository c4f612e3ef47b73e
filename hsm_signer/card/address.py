"""Where a card is, as users write it: ``sim:PATH``, or ``pcsc:READER`` for the card in a reader.

Each kind of card has a prefix. What carries its APDUs is imported when a card of that kind is opened, and
not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hsm_signer.errors import InputError

from .commands import CardSession
from .connection import CardConnection


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of card; ``form`` is how its address looks, ``create`` is None where cards are bought.

    ``open`` takes the rest of the address, the seconds that another program may hold the card, and those to
    wait for a card. ``may_be_bare``: the prefix alone means something.
    """

    form: str
    open: Callable[[str, float, float], CardConnection]
    create: Callable[[str], None] | None
    may_be_bare: bool = False


@contextmanager
def open_card(address: str, *, timeout: float = 10.0, wait: float = 0.0) -> Iterator[CardSession]:
    """Open the card at ``address`` and select its application; it is closed when the ``with`` ends.

    Another program may hold it for ``timeout`` seconds before CardInUse. A reader may stay empty for ``wait``
    seconds before CardNotFound; a simulated card is there or not. InputError for an address of no
    known form; CardNotFound where no card is; and what :meth:`CardSession.select` raises.
    """
    with connect_card(address, timeout=timeout, wait=wait) as connection:
        session = CardSession(connection)
        session.select()
        yield session


@contextmanager
def connect_card(address: str, *, timeout: float = 10.0, wait: float = 0.0) -> Iterator[CardConnection]:
    """Connect to any card at ``address``, without a command to it; it is closed when the ``with`` ends."""
    kind, rest = _kind_of(address)
    connection = kind.open(rest, timeout, wait)
    try:
        yield connection
    finally:
        connection.close()


def create_card(address: str) -> None:
    """Make a blank simulated card at ``address``; raises InputError for other kinds, FileError."""
    kind, rest = _kind_of(address)
    if kind.create is None:
        raise InputError(
            f"{address}: cards for readers are not made by a command",
            hint="docs/run/readers.md tells how the application gets onto a card. Simulated cards: sim:PATH",
        )
    kind.create(rest)


def _open_simulated(path: str, timeout: float, _wait: float) -> CardConnection:
    from .simulated import SimulatedConnection

    return SimulatedConnection(_file(path), timeout=timeout)


def _create_simulated(path: str) -> None:
    from .simulated import create_simulated

    create_simulated(_file(path))


def _open_in_reader(name: str, timeout: float, wait: float) -> CardConnection:
    from .pcsc import open_reader

    return open_reader(name, timeout=timeout, wait=wait)


_KINDS: Mapping[str, _Kind] = {
    "sim": _Kind("sim:PATH", _open_simulated, _create_simulated),
    "pcsc": _Kind("pcsc:READER", _open_in_reader, None, may_be_bare=True),
}
"""By prefix, each of which is one kind's alone."""


def _kind_of(address: str) -> tuple[_Kind, str]:
    expected = " or ".join(kind.form for kind in _KINDS.values())
    prefix, colon, rest = address.partition(":")
    kind = _KINDS.get(prefix) if colon else None
    if kind is None:
        hint = None if colon else f"For a simulated card in this file write sim:{address}."
        raise InputError(f"card {address!r}: expected {expected}", hint=hint)
    if not rest and not kind.may_be_bare:
        raise InputError(f"card {address!r}: expected {kind.form}, nothing follows the colon")
    if "\0" in rest:
        raise InputError(f"card {address!r}: expected {kind.form}, found a zero byte")
    return kind, rest


def _file(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"sim:{path}: there is no such user") from error
