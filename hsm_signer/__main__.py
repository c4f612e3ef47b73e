"""The console script, and ``python -m hsm_signer``.

Control-C counts from the first line on: nothing is imported before it is handled, for imports take longer
than many commands do.
"""

from __future__ import annotations

import sys
from typing import NoReturn

INTERRUPTED = 130
"""128 + SIGINT, as shells have it; cli/main.py has the same."""


def entry() -> NoReturn:
    """Run the command line; ends the process."""
    try:
        _no_core_files()
        _all_streams()
        from .cli.main import entry as command_line

        command_line()
    except KeyboardInterrupt:
        _last_words()
        sys.exit(INTERRUPTED)
    finally:
        _interrupted_quietly()


def _no_core_files() -> None:
    """A PIN that is in memory for a moment must not stay in a file for ever."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _all_streams() -> None:
    """Descriptors 0 to 2 are open, so that no file of ours becomes one and gets what is printed."""
    import os

    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # Standard output stays as it is: that it was closed is an error, once there is something to print.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _last_words() -> None:
    import os
    from contextlib import suppress

    with suppress(OSError):
        os.write(2, b"interrupted\n")


def _interrupted_quietly() -> None:
    """What comes now is the interpreter's end; one more Control-C ends the process and prints nothing."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    entry()
