"""What differs between the three schemes, and nothing else: each module reads like its figure."""

from __future__ import annotations

from hsm_signer.types import Scheme

from .basic import BasicScheme
from .pin import PinScheme
from .rolling import RollingScheme
from .steps import Created, Recovered, Rewrapped, SchemeSteps

_SCHEMES: dict[Scheme, SchemeSteps] = {
    Scheme.BASIC: BasicScheme(),
    Scheme.PIN: PinScheme(),
    Scheme.ROLLING: RollingScheme(),
}


def steps_of(scheme: Scheme) -> SchemeSteps:
    """The steps of a scheme; they hold no state."""
    return _SCHEMES[scheme]


__all__ = ["Created", "Recovered", "Rewrapped", "SchemeSteps", "steps_of"]
