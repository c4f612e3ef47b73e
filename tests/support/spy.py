"""Reads the log of OpenSC's pkcs11-spy: every call of the C interface, with templates and buffers.

The spy stands between us and the real module: ``module-path`` is the spy, the variable PKCS11SPY the real
module, PKCS11SPY_OUTPUT the log. It writes each call before it returns, so the log's length is a place in it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MODULE_VARIABLE = "PKCS11SPY"
OUTPUT_VARIABLE = "PKCS11SPY_OUTPUT"

_CALL = re.compile(r"^(\d+): (C_\w+)$")
_TEMPLATE = re.compile(r"^\[(in|out)\] (\w+)\[(\d+)\]:")
_ATTRIBUTE = re.compile(r"^    (CKA_[\w]+|CKA_\? \(0x[0-9A-Fa-f]+\))\s+(.*?)\s*$")
_POINTER = re.compile(r"^(?:\S+) / (-?\d+)$")
_DUMP = re.compile(r"^    ([0-9A-F]{8})  ((?:[0-9A-F]{2} )+)")
_FIELD = re.compile(r"^\[(in|out)\] ([\w>\-*]+)(\[[^\]]*\])? ?(?:= )?(.*?)\s*$")
_UNKNOWN = re.compile(r"CKA_\? \(0x0*([0-9A-Fa-f]+)\)")
_UNNAMED = {"171": "CKA_COPYABLE", "633": "CKA_ENCAPSULATE", "634": "CKA_DECAPSULATE"}
"""Attributes that the spy knows by number only."""

_FOUND = re.compile(r"^Object (0x[0-9a-f]+) matches$")

_LONG = struct.calcsize("L")


@dataclass(frozen=True)
class Unseen:
    """An attribute of which the log shows only the length; -1 in an answer: there is none."""

    length: int


Value = bool | str | bytes | Unseen
"""True and False; CKO_, CKK_ and CKM_ names; bytes where the log dumps them."""


@dataclass
class Call:
    """One call of the C interface."""

    number: int
    name: str
    """``C_SignInit`` ..."""
    given: dict[str, str] = field(default_factory=dict)
    """[in] values as the log spells them."""
    gave: dict[str, str] = field(default_factory=dict)
    """[out] values."""
    buffers: dict[str, bytes] = field(default_factory=dict)
    """What was dumped, by the name of the argument; of two dumps the later."""
    templates: dict[str, dict[str, Value]] = field(default_factory=dict)
    """[in] templates by the argument's name."""
    answers: dict[str, dict[str, Value]] = field(default_factory=dict)
    """[out] templates."""
    found: list[int] = field(default_factory=list)
    """Handles that C_FindObjects gave."""
    result: str = ""
    """``CKR_OK`` ..."""

    @property
    def ok(self) -> bool:
        """CKR_OK."""
        return self.result == "CKR_OK"

    @property
    def mechanism(self) -> str | None:
        """``CKM_...``, where the call has one."""
        return self.given.get("pMechanism->type")

    @property
    def template(self) -> dict[str, Value]:
        """Of a call that has one template."""
        return self.templates.get("pTemplate", {})

    @property
    def made(self) -> tuple[int, ...]:
        """Handles of the objects this call has made."""
        if not self.ok or self.name not in MAKERS:
            return ()
        return tuple(
            int(self.gave[name], 16)
            for name in ("*phObject", "*phNewObject", "hKey", "hPublicKey", "hPrivateKey")
            if name in self.gave
        )


MAKERS = frozenset(
    {"C_CreateObject", "C_CopyObject", "C_GenerateKey", "C_GenerateKeyPair", "C_UnwrapKey", "C_DeriveKey"}
)


def parse(log: str) -> list[Call]:
    """Every call of a log, or of a part of it that begins and ends between calls."""
    calls: list[Call] = []
    lines = iter(log.splitlines())
    for line in lines:
        if match := _CALL.match(line):
            calls.append(_parse_call(Call(int(match[1]), match[2]), lines))
    return calls


def read(path: Path, start: int = 0, end: int | None = None) -> list[Call]:
    """The calls in bytes ``start`` to ``end`` of a log file."""
    data = path.read_bytes()[start:end]
    return parse(data.decode("latin-1"))


def _parse_call(call: Call, lines: Iterator[str]) -> Call:
    template: dict[str, Value] | None = None
    attribute = argument = ""
    for line in lines:
        if line.startswith("Returned:"):
            call.result = line.split()[-1]
            return call
        if match := _TEMPLATE.match(line):
            template = {}
            (call.templates if match[1] == "in" else call.answers)[match[2]] = template
        elif (match := _ATTRIBUTE.match(line)) and template is not None:
            attribute = _name(match[1])
            template[attribute] = _value(match[2])
        elif match := _DUMP.match(line):
            data = bytes.fromhex(match[2])
            if template is None:
                call.buffers[argument] = call.buffers.get(argument, b"") + data
            else:
                before = template[attribute]
                template[attribute] = (before if isinstance(before, bytes) else b"") + data
        elif match := _FOUND.match(line):
            call.found.append(int(match[1], 16))
        elif match := _FIELD.match(line):
            template = None
            argument = match[2]
            call.buffers.pop(argument, None)
            (call.given if match[1] == "in" else call.gave)[argument] = match[4]
    raise ValueError(f"the log ends in the middle of call {call.number}")


def _name(text: str) -> str:
    if match := _UNKNOWN.match(text):
        return _UNNAMED.get(match[1].lstrip("0").lower(), f"CKA_0x{match[1]}")
    return text


def _value(text: str) -> Value:
    if text in ("True", "False"):
        return text == "True"
    if match := _POINTER.match(text):
        length = int(match[1])
        return b"" if length == 0 else Unseen(length)
    return text


def mechanisms(value: Value) -> tuple[int, ...]:
    """CKA_ALLOWED_MECHANISMS as numbers."""
    assert isinstance(value, bytes), value
    return struct.unpack(f"{len(value) // _LONG}L", value)


def ulong(value: Value) -> int:
    """A CK_ULONG attribute."""
    assert isinstance(value, bytes), value
    return int(struct.unpack("L", value)[0])


def counts(calls: Iterable[Call]) -> dict[str, int]:
    """How often each function was called, most often first."""
    found: dict[str, int] = {}
    for call in calls:
        found[call.name] = found.get(call.name, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class Lives:
    """What became of the objects that a run of calls made."""

    made: int
    destroyed: int
    left: tuple[int, ...]
    """Handles made and not destroyed before the session, or the log, ended."""


def lives(calls: Iterable[Call]) -> Lives:
    """Follow every handle made; one that is destroyed may be given again."""
    alive: set[int] = set()
    left: set[int] = set()
    made = destroyed = 0
    for call in calls:
        for handle in call.made:
            made += 1
            alive.add(handle)
        if call.name == "C_DestroyObject" and call.ok:
            handle = int(call.given["hObject"], 16)
            if handle in alive:
                alive.remove(handle)
                destroyed += 1
        elif call.name in ("C_CloseSession", "C_CloseAllSessions", "C_Logout", "C_Finalize"):
            left |= alive
            alive.clear()
    return Lives(made, destroyed, tuple(sorted(left | alive)))
