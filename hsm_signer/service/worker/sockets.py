"""The workers' sockets: their folder, how one is bound, and who may connect."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hsm_signer.config.service import WorkerSettings
from hsm_signer.errors import ConfigError, os_words
from hsm_signer.service.wire.frames import socket_path

BACKLOG = 64


def user_id(name: str, what: str) -> int:
    """Return the uid of a system user, by name or number. Raises ConfigError."""
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"{what}: there is no system user {name!r}") from None


def group_id(name: str, what: str) -> int:
    """Return the gid of a system group, by name or number. Raises ConfigError."""
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"{what}: there is no system group {name!r}") from None


def socket_group(settings: WorkerSettings) -> int | None:
    """Return the gid of the group that may use the sockets, beside the workers' user; None without one."""
    if settings.socket_group is None:
        return None
    return group_id(settings.socket_group, "worker.socket_group")


def allowed_users(settings: WorkerSettings) -> frozenset[int]:
    """Return the uids that a worker talks to: its own, root's, and the front's."""
    allowed = {os.geteuid(), 0}
    if settings.front_user is not None:
        allowed.add(user_id(settings.front_user, "worker.front_user"))
    return frozenset(allowed)


def make_folder(folder: Path, group: int | None, owner: int | None = None) -> None:
    """Make the sockets' folder: mode 0700, or 0750 with ``group``; ``owner`` where root makes it for another.

    Raises ConfigError where it cannot be made so. One that was there must belong to the workers' user and be
    closed to others: who may write there could put a socket of his own in a worker's place, and what is
    open to others serves for something else.
    """
    mine = os.geteuid() if owner is None else owner
    try:
        made = _made(folder)
        # The folder itself from here on, not its name: root must not be led elsewhere in between.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if made and owner is not None:
                os.fchown(descriptor, owner, -1)
            status = os.fstat(descriptor)
            if status.st_uid != mine or status.st_mode & stat.S_IRWXO:
                raise ConfigError(
                    f"worker.sockets: {folder}: expected a folder that belongs to uid {mine}, "
                    "closed to others",
                    hint="name one that is for the sockets alone",
                )
            if group is not None and status.st_gid != group:
                os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, 0o700 if group is None else 0o750)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(
            f"worker.sockets: {folder}: {os_words(error).lower()}",
            hint="make it beforehand, owned by the workers' user",
        ) from error


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock the folder against another service, and remove the sockets that killed workers left.

    Raises ConfigError where another service has it: two would take each other's places.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"worker.sockets: {folder} is in use: the service runs already",
                hint="another service on this machine needs a folder of its own",
            ) from None
        for left in folder.glob("worker-*.sock"):
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _made(folder: Path) -> bool:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def listen(folder: Path, slot: int, group: int | None) -> socket.socket:
    """Make a listening socket at the slot's path; it appears there only once it listens.

    Mode 0600, or 0660 with ``group``. Raises ConfigError.
    """
    path = socket_path(folder, slot)
    temporary = folder / f".{slot}-{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        sock.bind(bytes(temporary))
        if group is not None:
            os.chown(temporary, -1, group)
        temporary.chmod(0o600 if group is None else 0o660)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        temporary.rename(path)
    except OSError as error:
        sock.close()
        temporary.unlink(missing_ok=True)
        words = os_words(error).lower()
        raise ConfigError(f"worker.sockets: {path} cannot be made: {words}") from error
    return sock
