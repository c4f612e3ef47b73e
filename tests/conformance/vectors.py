"""Reads tests/vectors/apdu and plays it to a card; tests/vectors/apdu/README.md says what the files mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.card.host import cbc, check_ecdsa
from tests.support.card.targets import Target

FOLDER = Path(__file__).parents[1] / "vectors" / "apdu"
FILES = sorted(FOLDER.glob("*.json"))
ONCE = sorted(FOLDER.glob("once/*.json"))
"""Each changes its card for good."""

Value = str | list[Any]


def ecdh(private: bytes, point: bytes) -> bytes:
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
    return key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))


FUNCTIONS: dict[str, Callable[..., bytes]] = {
    "cat": lambda *parts: b"".join(parts),
    "sha256": lambda *parts: hashlib.sha256(b"".join(parts)).digest(),
    "cbc": cbc,
    "xor": lambda a, b: bytes(x ^ y for x, y in zip(a, b, strict=True)),
    "kw": keywrap.aes_key_wrap,
    "unkw": keywrap.aes_key_unwrap,
    "ecdh": ecdh,
    "tlv": lambda tag, value: tag + bytes([len(value)]) + value,
}


class Runner:
    """One card and the names of one file."""

    def __init__(self, card: Target) -> None:
        self.card = card
        self.names: dict[str, bytes] = {}
        self.sent = 0

    def value(self, expression: Value) -> bytes:
        if isinstance(expression, str):
            if expression.startswith("$"):
                return self.names[expression[1:]]
            return bytes.fromhex(expression)
        function, *arguments = expression
        if function == "ascii":
            (text,) = arguments
            return str(text).encode("ascii")
        if function == "repeat":
            piece, count = arguments
            return self.value(piece) * int(count)
        return FUNCTIONS[function](*(self.value(argument) for argument in arguments))

    def apdu(self, send: Value | dict[str, Value]) -> bytes:
        if not isinstance(send, dict):
            return self.value(send)
        assert set(send) <= {"header", "data", "le"}
        data = self.value(send.get("data", ""))
        length = bytes([len(data)]) if data else b""
        return self.value(send["header"]) + length + data + self.value(send.get("le", ""))

    def run(self, name: str) -> None:
        for number, step in enumerate(load(name)["steps"], 1):
            self.step(step, f"{name}, step {number}: {step.get('why', '')}")

    def step(self, step: dict[str, Any], where: str) -> None:
        kind = (set(step) - {"why", "source", "sw", "data"}).pop()
        what = step[kind]
        if kind == "include":
            self.run(what)
        elif kind == "reset":
            self.card.reset()
        elif kind == "let":
            for name, expression in what.items():
                self.names[name] = self.value(expression)
        elif kind == "equal":
            assert self.value(what[0]) == self.value(what[1]), where
        elif kind == "differ":
            assert self.value(what[0]) != self.value(what[1]), where
        elif kind == "verified":
            check_ecdsa(*(self.value(expression) for expression in what))
        else:
            assert kind == "send", where
            self.sent += 1
            answer = self.card.transmit(self.apdu(what))
            assert answer[-2:].hex().upper() == step["sw"], where
            self.compare(answer[:-2], step.get("data", []), where)

    def compare(self, data: bytes, parts: list[Value | dict[str, Any]], where: str) -> None:
        for part in parts:
            if isinstance(part, dict):
                length = part["length"]
                assert len(data) >= length, where
                self.names[part["capture"]] = data[:length]
            else:
                expected = self.value(part)
                length = len(expected)
                assert data[:length] == expected, where
            data = data[length:]
        assert data == b"", where


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="ascii"))
    return content
