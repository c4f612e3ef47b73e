"""A test whether a card can be enrolled, before any key is made for it; changes nothing on the card.

What a card lacks shows where it can be asked. Without our application it says so at SELECT. The application
does not go onto a card that lacks SHA-256, AES-256 or ECDH, for it asks for them when it is installed
there. A key pair on P-256 is made here, and the point has to lie on the curve; the SELECT that ends the
test makes the card forget it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from hsm_signer.errors import CardError, CardRemoved

from .apdu import CardState, Feature
from .commands import CardSession, CardStatus
from .connection import CardConnection

T = TypeVar("T")

SLOW = 5.0
"""Seconds above which a command is called slow; the slowest cards known take 2.2 for a key pair."""

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
"""P-256: y^2 = x^3 - 3x + b modulo p (SEC 2, 2.4.2)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the self-test and its result."""

    name: str
    passed: bool | None
    """None: it was not looked at, or nothing depends on it."""
    found: str
    """In a user's words."""
    seconds: float | None = None
    """How long the card took."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The results of all checks of a card."""

    checks: tuple[Check, ...]
    status: CardStatus | None
    """What the card says of itself; None without our application."""

    @property
    def missing(self) -> tuple[Check, ...]:
        """The checks whose failure keeps the card from being enrolled."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def passed(self) -> bool:
        """Whether the card can be enrolled."""
        return not self.missing


def probe(connection: CardConnection) -> SelfTest:
    """Test a card; its application need not be selected, and is selected again at the end.

    A card that holds a credential keeps it; only its key pair is not tried then. Whatever the card answers
    becomes a check. Raises CardRemoved where the way to the card broke off.
    """
    session = CardSession(connection)
    application, status = _try("application", session.select, "")
    if status is None:
        return SelfTest((application,), None)
    application = replace(application, found=f"version {status.version}{application.found}")
    again, now = _try("status", session.status, "as at selection")
    if now is not None and now != status:
        again = Check("status", False, "differs from what the card said at selection")
    checks = [application, again, *_features(status), _state(status)]
    if status.state is CardState.BLANK:
        checks += _key_pairs(session)
        forgotten, _ = _try("selection again", session.select, "the key pair is forgotten")
        checks.append(forgotten)
    else:
        checks.append(Check("key pair on P-256", None, "not tried: the card holds a credential"))
    return SelfTest(tuple(checks), status)


def on_curve(point: bytes) -> bool:
    """Tell whether 65 bytes, 04 || x || y, are a point of P-256."""
    if len(point) != 65 or point[0] != 0x04:
        return False
    x, y = int.from_bytes(point[1:33], "big"), int.from_bytes(point[33:], "big")
    return x < _P and y < _P and (y * y - (x**3 - 3 * x + _B)) % _P == 0


def _try(name: str, ask: Callable[[], T], answered: str) -> tuple[Check, T | None]:
    started = time.monotonic()
    try:
        answer = ask()
    except CardRemoved:
        raise
    except CardError as error:
        return Check(name, False, error.message), None
    seconds = time.monotonic() - started
    slow = f", slow: more than {SLOW:g} s" if seconds > SLOW else ""
    return Check(name, True, answered + slow, seconds), answer


def _features(status: CardStatus) -> list[Check]:
    features = status.features
    combines = [
        name
        for name, feature in (("xor", Feature.COMBINE_XOR), ("cbc", Feature.COMBINE_CBC))
        if feature in features
    ]
    lists = Feature.DIGEST_LISTS in features
    extended = Feature.EXTENDED_LENGTH in features
    return [
        # Every card has CBC (docs/understand/apdu.md, features); one that says otherwise has another
        # application.
        Check("combinations", "cbc" in combines, " and ".join(combines) or "none"),
        Check("digest lists", lists, "signed" if lists else "not signed: messages only"),
        Check("extended length", None, "yes" if extended else "no: short APDUs, which is enough"),
    ]


def _state(status: CardStatus) -> Check:
    if status.state is CardState.BLANK:
        return Check("state", True, "blank: ready for enrolment")
    blocked = ", its PIN blocked" if status.state is CardState.PIN_BLOCKED else ""
    return Check("state", None, f"holds a credential{blocked}: blank only after hsm-signer card reset")


def _key_pairs(session: CardSession) -> list[Check]:
    """Have the card make two key pairs, which must differ: this detects random numbers that repeat."""
    points: list[bytes] = []
    checks = []
    for name in ("key pair on P-256", "another key pair"):
        check, answer = _try(name, session.begin_personalisation, "made")
        if answer is not None:
            point = answer.point
            if not on_curve(point):
                check = Check(name, False, "the card's point is not on P-256", check.seconds)
            elif point in points:
                check = Check(name, False, "the same again: the card has no random numbers", check.seconds)
            points.append(point)
        checks.append(check)
    return checks
