"""Runs tests/vectors/apdu against the simulator; tests/vectors/apdu/README.md says what the files mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import ec

from card_applet_sim import SimulatedCard

from . import contract
from .host import cbc, token_point

FOLDER = Path(__file__).parents[1] / "vectors" / "apdu"
FILES = sorted(FOLDER.glob("*.json"))

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

    def __init__(self, card: SimulatedCard) -> None:
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


def test_there_are_vectors() -> None:
    assert len(FILES) >= 14


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_vector(path: Path, card: SimulatedCard) -> None:
    runner = Runner(card)
    runner.run(path.name)
    assert runner.sent
    # Every file leaves a blank card behind, ready for the next.
    runner.run("setup/select.json")


def test_all_on_one_card(card: SimulatedCard) -> None:
    """As they will run on a real card: one after the other."""
    for path in FILES:
        Runner(card).run(path.name)


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.json")), ids=lambda path: path.stem)
def test_sources_are_sections_of_the_page(path: Path) -> None:
    page = contract.PAGE.read_text(encoding="utf-8")
    headings = {line.lstrip("# ") for line in page.splitlines() if line.startswith("## ")}
    content = load(str(path.relative_to(FOLDER)))
    sources = [content["source"], *(step.get("source", "") for step in content["steps"])]
    for source in filter(None, sources):
        for clause in source.split("; "):
            section = clause.split(",")[0]
            known = section in headings or any(clause.startswith(h) for h in ("Combination",))
            assert known, f"{path.name}: {clause}"


def test_token_point_is_the_private_keys() -> None:
    runner = Runner.__new__(Runner)
    runner.names = {}
    runner.step(load("setup/names.json")["steps"][0], "")
    private = int.from_bytes(runner.names["token_private"], "big")
    assert runner.names["token_point"] == token_point(ec.derive_private_key(private, ec.SECP256R1()))


def test_a_wrong_expectation_fails(card: SimulatedCard) -> None:
    """The runner itself can fail: on the word, on data, on what follows them."""
    runner = Runner(card)
    select = "00A40400 09 F048534D5349474E01"
    wrong: list[dict[str, Any]] = [
        {"send": select, "sw": "6A82"},
        {"send": select, "sw": "9000"},
        {"send": select, "sw": "9000", "data": ["6F22"]},
        {"send": "00A40400", "sw": "6A82", "data": ["00"]},
        {"send": "00A40400", "sw": "6A82", "data": [{"capture": "x", "length": 1}]},
        {"equal": ["00", "01"]},
        {"differ": ["00", "00"]},
    ]
    for step in wrong:
        with pytest.raises(AssertionError):
            runner.step(step, "")
