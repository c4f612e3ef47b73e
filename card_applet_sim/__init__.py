"""A simulated card: the applet of docs/understand/apdu.md over a file. It shares no code with the host."""

from .card import SimulatedCard
from .memory import CardBusy, CardError, CardExists, CardMissing, CardTorn, MemoryDamaged, WriteStage

__all__ = [
    "CardBusy",
    "CardError",
    "CardExists",
    "CardMissing",
    "CardTorn",
    "MemoryDamaged",
    "SimulatedCard",
    "WriteStage",
]
