"""The simulated card as a CardConnection: the only import of card_applet_sim.

Everything it raises becomes an error of ours here, so that no layer above knows which kind of card it has.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import card_applet_sim
from hsm_signer.errors import CardInUse, CardMemoryDamaged, CardNotFound, CardRemoved, FileError, os_words

_log = logging.getLogger(__name__)


class SimulatedConnection:
    """A simulated card whose memory is the file ``path``, held until :meth:`close`.

    Raises CardNotFound, CardInUse when another program holds the file longer than ``timeout`` seconds,
    CardMemoryDamaged, FileError.
    """

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self._path = path
        self._closed = False
        with _our_errors(path):
            self._card = card_applet_sim.SimulatedCard(path, lock_timeout=timeout)
        _log.info("simulated card opened: %s", path)

    def transmit(self, apdu: bytes) -> bytes:
        """Carry one APDU; raises CardRemoved after :meth:`close`."""
        if self._closed:
            raise CardRemoved(f"the card at {self._path} has been taken out")
        with _our_errors(self._path):
            return self._card.transmit(apdu)

    def close(self) -> None:
        """Switch the card off: it loses its transient memory, and its file is free again."""
        self._closed = True
        with _our_errors(self._path):
            self._card.close()


def create_simulated(path: Path) -> None:
    """Make a blank card at ``path``; raises FileError where one is there already or none can be written."""
    with _our_errors(path):
        card_applet_sim.SimulatedCard.create(path)


@contextmanager
def _our_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except card_applet_sim.CardMissing as error:
        raise CardNotFound(
            f"there is no card at {path}",
            hint=f"make a simulated card: hsm-signer card new {shlex.quote(f'sim:{path}')}",
        ) from error
    except card_applet_sim.CardExists as error:
        raise FileError(
            f"{path}: something is there already", hint="give another path; nothing is overwritten"
        ) from error
    except card_applet_sim.CardBusy as error:
        raise CardInUse(
            f"another program holds the card at {path}", hint="try again when it has finished"
        ) from error
    except card_applet_sim.MemoryDamaged as error:
        raise CardMemoryDamaged(
            f"the card cannot be used: {error}",
            hint="put back a copy of the file, or make a new card and enrol its user anew",
        ) from error
    except card_applet_sim.CardTorn as error:
        raise CardRemoved(f"the card at {path} was taken out in the middle of a command") from error
    except card_applet_sim.CardError as error:
        # The rest is the file system's refusal, in the simulator's words, the path among them.
        raise FileError(str(error)) from error
    except OSError as error:
        raise FileError(f"{path}: {os_words(error)}") from error
