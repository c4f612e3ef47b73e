"""A bar on a terminal, for what takes long enough to be looked at; elsewhere nothing at all."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from . import output

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

WORTH_SHOWING = 1 << 20
"""Bytes hashed by the host in a moment need no bar."""
WORTH_SHOWING_ON_CARD = 8192
"""A card takes some hundred bytes at a time."""


class Progress:
    """One bar at a time on standard error; :meth:`done` before anything else is written there."""

    def __init__(self) -> None:
        self._bar: ProgressBar[int] | None = None
        self._left = 0
        self._shown = output.on_terminal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done()

    def start(self, label: str, length: int, *, worth: int = WORTH_SHOWING) -> None:
        """A new bar of ``length`` bytes; none where that is less than ``worth``."""
        self.done()
        if self._shown and length >= worth:
            self._left = length
            self._bar = click.progressbar(length=length, label=label, file=sys.stderr)
            self._bar.render_progress()

    def step(self, size: int) -> None:
        """``size`` bytes more. A file that grew meanwhile does not push the bar over its end."""
        if self._bar is not None:
            self._bar.update(min(size, self._left))
            self._left -= min(size, self._left)

    def done(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None
