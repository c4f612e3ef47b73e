"""What --force must not overwrite: the card in use, what a command reads, the installation's own files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hsm_signer.config.home import resolve_home
from hsm_signer.errors import ConfigError

from .context import App
from .files import ProtectedPaths

SIMULATED = "sim:"
HOME_FILES = ("config.toml", "profile.json", "softhsm.conf", "token.pin", "token.so-pin", "store.db")
HOME_FOLDERS = ("tokens",)
"""Written out, as a test holds them to :mod:`hsm_signer.server.installation`."""
BESIDE_STORE = ("-wal", "-shm", "-journal")


def protected_paths(app: App, card: str | None = None, **read: Path | None) -> ProtectedPaths:
    """List the files that this command must not overwrite.

    ``read``: the files that the command reads; a keyword says what the file is, with underscores for spaces.
    """
    home = resolve_home(app.home)
    own = "a file of the installation"
    files = [(path, name.replace("_", " ")) for name, path in read.items() if path is not None]
    if card is not None and card.startswith(SIMULATED):
        memory = Path(card.removeprefix(SIMULATED))
        with suppress(RuntimeError):  # no such user's home: whoever opens the card says so
            memory = memory.expanduser()
        if memory.name:
            files += [(memory, "the card"), (memory.with_name(f"{memory.name}.lock"), "the card's lock")]
    files += [(home / name, own) for name in HOME_FILES]
    with suppress(ConfigError):
        if (service := app.service()) is not None:
            files += [(path, "a file that is read to reach the service") for path in service.files]
    stores = [home / "store.db"]
    with suppress(ConfigError):
        elsewhere = app.installation().files_elsewhere()
        files += [(path, own) for path in elsewhere]
        stores += elsewhere
    files += [(store.with_name(store.name + end), own) for store in stores for end in BESIDE_STORE]
    return ProtectedPaths(files, [(home / name, "in the token's own folder") for name in HOME_FOLDERS])
