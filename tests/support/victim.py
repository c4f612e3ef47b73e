"""What runs in processes of its own: to be killed at a chosen point, or to compete for one credential."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import Engine, event

from hsm_signer.card.commands import CardSession
from hsm_signer.card.pins import CardPin, CardPuk
from hsm_signer.errors import SignerError
from hsm_signer.server.initialise import (
    NewInstallation,
    initialise,
)
from hsm_signer.server.installation import (
    Installation,
    no_prompt,
)
from hsm_signer.store.store import Store
from hsm_signer.testing import PIN, PUK, Person
from hsm_signer.token.environment import SecureEnvironment
from hsm_signer.types import KeySpec, PinCheck, Scheme, SigningRequest
from hsm_signer.workstation.enrolment import (
    Enrolment,
    enrol,
)

SIGN_POINTS = (
    *(f"step {step}" for step in range(1, 10)),
    "sealed",
    "record written",
    "evidence written",
    "returned",
    "released",
)
"""In the order they come: after steps 1 to 8, three inside the transaction of step 9, after it, after sign()
has returned, and after the signature has been given out."""
COMMITTED = ("step 9", "returned", "released")

FAILURE_POINTS = ("step 3", "about to count", "sealed", "record written", "evidence written", "counted")
"""Of a wrong key: found in step 4; before, inside and after the transaction that counts it."""

ENROL_POINTS = (
    "keys made",
    "record inserted",
    "record committed",
    "card about to write",
    "card has written",
    "card installed",
    *(f"step {step}" for step in range(1, 10)),
    "returned",
)


def die() -> NoReturn:
    """As the power does it: no finally, no atexit, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def _at(wanted: str, point: str) -> None:
    if wanted == point:
        die()


def _before(owner: Any, name: str, wanted: str, point: str) -> None:
    real = getattr(owner, name)

    def replaced(*arguments: Any, **named: Any) -> Any:
        _at(wanted, point)
        return real(*arguments, **named)

    setattr(owner, name, replaced)


def _after(owner: Any, name: str, wanted: str, point: str) -> None:
    real = getattr(owner, name)

    def replaced(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        _at(wanted, point)
        return result

    setattr(owner, name, replaced)


def _after_block(owner: Any, name: str, wanted: str, point: str) -> None:
    real = getattr(owner, name)

    @contextmanager
    def replaced(*arguments: Any, **named: Any) -> Iterator[Any]:
        with real(*arguments, **named) as value:
            yield value
        _at(wanted, point)

    setattr(owner, name, replaced)


def _after_statement(beginning: str, wanted: str, point: str) -> None:
    def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(beginning):
            _at(wanted, point)

    event.listen(Engine, "after_cursor_execute", executed)


def sign(home: Path, request: SigningRequest, point: str, released: Path) -> None:
    """Sign ``request``, die at ``point``; what sign() returned goes into the file ``released``."""
    _before(Store, "changing", point, "about to count")
    _after_block(Store, "changing", point, "counted")
    _after(SecureEnvironment, "seal", point, "sealed")
    _after_statement("UPDATE credential", point, "record written")
    _after_statement("INSERT INTO evidence", point, "evidence written")
    with Installation.open(home).server(observe=lambda step: _at(point, f"step {step}")) as server:
        outcome = server.sign(request)
        _at(point, "returned")
        released.write_bytes(outcome.signatures[0])
        _at(point, "released")


def wanted_enrolment(name: str, scheme: Scheme) -> Enrolment:
    """What :func:`enrolment` asks for, and whoever finishes it."""
    basic = scheme is Scheme.BASIC
    return Enrolment(
        owner=name,
        scheme=scheme,
        key=KeySpec.P256,
        pin=None if basic else CardPin(PIN, source="test"),
        puk=None if basic else CardPuk(PUK, source="test"),
        pin_check=PinCheck.CARD,
    )


def enrolment(home: Path, person: Person, point: str) -> None:
    """Enrol ``person``, whose blank card exists, and die at ``point``."""
    _before(Store, "insert", point, "keys made")
    _after_statement("INSERT INTO credential", point, "record inserted")
    _after(Store, "insert", point, "record committed")
    real = CardSession.install

    def install(self: CardSession, *arguments: Any) -> None:
        # The simulated card's own last act of a write is to put the new file in place of the old.
        _before(Path, "replace", point, "card about to write")
        _after(Path, "replace", point, "card has written")
        real(self, *arguments)
        _at(point, "card installed")

    CardSession.install = install  # type: ignore[method-assign,assignment]
    with Installation.open(home).server(observe=lambda step: _at(point, f"step {step}")) as server:
        enrol(server, person.card, wanted_enrolment(person.name, person.scheme))
        _at(point, "returned")


def meet(place: Path, what: str, name: str, count: int = 2) -> None:
    """Wait in the folder ``place`` until all ``count`` processes have come to ``what``."""
    (place / f"{what}, {name}").touch()
    deadline = time.monotonic() + 60
    while len(list(place.glob(f"{what}, *"))) < count:
        assert time.monotonic() < deadline, f"{name} was left alone at {what}"
        time.sleep(0.001)


def compete(home: Path, person: Person, rounds: int, name: str, place: Path, report: Path) -> None:
    """Sign ``rounds`` messages while another process does, too; report signatures and retries.

    In every second round both have signed in the token before either writes: one of them has to do it again.
    """
    retries: dict[str, int] = {}
    signed: list[tuple[str, str]] = []
    met: set[int] = set()

    def observe(step: int) -> None:
        number = len(signed)
        if step == 8 and number % 2 == 0 and number not in met:
            met.add(number)
            meet(place, f"round {number}", name)

    with Installation.open(home).server(observe=observe) as server:

        def counted(method: Callable[[SigningRequest], Any]) -> Callable[[SigningRequest], Any]:
            def call(request: SigningRequest) -> Any:
                try:
                    return method(request)
                except SignerError as error:
                    retries[error.code] = retries.get(error.code, 0) + 1
                    raise

            return call

        watched = _Watched(server, counted(server.sign))
        for number in range(rounds):
            text = f"{name} {number}"
            outcome = replace(person).sign(watched, text.encode())
            signed.append((text, outcome.signatures[0].hex()))
    report.write_text(json.dumps({"signed": signed, "retries": retries}))


def sign_on(home: Path, person: Person, report: Path, stop: Path) -> None:
    """Sign message after message until the file ``stop`` is there, whatever becomes of the database.

    A line of ``report`` for each: what came of it, the text and the signature, written as it was released.
    """
    number = 0
    with report.open("a") as file, Installation.open(home).server() as server:
        while not stop.exists():
            said = f"message {number}"
            try:
                line = ("signed", said, person.sign(server, said.encode()).signatures[0].hex())
                number += 1
            except SignerError as error:
                line = (error.code, said, "")
                # A server that is not there answers at once.
                time.sleep(0.02)
            file.write(json.dumps(line) + "\n")
            file.flush()


class _Watched:
    """A server whose sign() is counted."""

    def __init__(self, server: Any, sign: Callable[[SigningRequest], Any]) -> None:
        self.challenge = server.challenge
        self.sign = sign


def sign_as_nobody(home: Path, request: SigningRequest, report: Path) -> None:
    """Sign as a user who may not write the store; report what came of it."""
    # Python's own folders may be closed to that user: what is imported late is imported before.
    importlib.import_module("cryptography.hazmat.backends.openssl.backend")
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    with Installation.open(home).server() as server:
        try:
            released = server.sign(request).signatures
            code = "signed"
        except SignerError as error:
            code, released = error.code, ()
        server.challenge(request.authorisation.credential_id)
    report.write_text(f"{code} challenge-answered {'released' if released else 'nothing-released'}")


def initialise_home(home: Path, softhsm_conf: Path, place: Path, count: int, report: Path) -> None:
    """Make an installation at ``home`` while ``count`` processes in all do; report what came of it."""
    meet(place, "begin", report.name, count)
    try:
        initialise(NewInstallation(home, softhsm_conf=softhsm_conf), no_prompt)
        code = "made"
    except SignerError as error:
        code = error.code
    report.write_text(code)
