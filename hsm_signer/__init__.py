"""Sign with keys that a smart card controls and an HSM uses, one message at a time (EP 0725512).

A signature takes a server, which has the user's key, and the user's card, which controls it::

    import getpass
    import hsm_signer

    with hsm_signer.open_installation("home") as server:
        letter = b"I owe Bob ten euros."
        outcome = hsm_signer.sign(
            server, "sim:alice.card", letter, pin=lambda: getpass.getpass("PIN: ")
        )
        hsm_signer.verify(server.credential("alice"), letter, outcome.signature)

Where the server is a service on a network, ``hsm_signer.connect("https://signer.example.org", token=...)``
takes the place of :func:`open_installation`, and nothing else changes. Every error is one of
:mod:`hsm_signer.errors`. :mod:`hsm_signer.testing` lets your tests sign without HSM and card.

Importing this package loads nothing else; each name is loaded when it is used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import errors
    from .api import Server, connect, enrol, open_installation, sign, sign_digests, verify
    from .card.address import create_card, open_card
    from .card.commands import CardSession
    from .card.pins import CardPin, CardPuk, generate_pin, generate_puk
    from .types import Algorithm, KeySpec, Scheme, SignOutcome, Status
    from .workstation.enrolment import EnrolmentResult

__version__ = "0.1.0"

__all__ = [
    "Algorithm",
    "CardPin",
    "CardPuk",
    "CardSession",
    "EnrolmentResult",
    "KeySpec",
    "Scheme",
    "Server",
    "SignOutcome",
    "Status",
    "connect",
    "create_card",
    "enrol",
    "errors",
    "generate_pin",
    "generate_puk",
    "open_card",
    "open_installation",
    "sign",
    "sign_digests",
    "verify",
]

# Not for type checkers: to them a module with __getattr__ has every name.
if not TYPE_CHECKING:
    _MODULES = {
        "api": ("Server", "connect", "enrol", "open_installation", "sign", "sign_digests", "verify"),
        "card.address": ("create_card", "open_card"),
        "card.commands": ("CardSession",),
        "card.pins": ("CardPin", "CardPuk", "generate_pin", "generate_puk"),
        "types": ("Algorithm", "KeySpec", "Scheme", "SignOutcome", "Status"),
        "workstation.enrolment": ("EnrolmentResult",),
    }

    def __getattr__(name):
        """Load a name of ``__all__`` at its first use (PEP 562)."""
        from importlib import import_module

        if name == "errors":
            return import_module(".errors", __name__)
        for module, names in _MODULES.items():
            if name in names:
                return globals().setdefault(name, getattr(import_module(f".{module}", __name__), name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__})
