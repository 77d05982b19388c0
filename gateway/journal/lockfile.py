"""One process at a time works on a state directory: ``flock`` on the file ``lock`` in it.

``flock`` goes with the process, so a crash never leaves a stale lock. The file itself stays for ever: unlinking it would
let two processes hold "the" lock, one on the old inode and one on the new. Who composes the daemon takes the lock, before
anything is created, and keeps it for life; the journal itself does not lock.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final, Self

from gateway.model.errors import StorageError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOCK_NAME", "StateLock", "take_lock"]

LOCK_NAME: Final = "lock"
_HINT: Final = "the lock file in the state directory cannot be used: check its owner and mode"


class StateLock:
    """A held lock; ``release`` (or the end of the process) gives it up. A context manager too."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def release(self) -> None:
        """Give it up; idempotent. The file stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def take_lock(state_dir: Path, *, create: bool) -> StateLock | None:
    """Take the lock without waiting.

    ``create=True`` (unlocked daemon): ``state_dir`` (0700) and the file are made where missing. ``create=False`` (locked
    daemon, offline reading): nothing is made; None where there is no lock file, which means that no daemon ever ran here
    with a key, or that the file was taken away.

    Raises:
        UnavailableError: ``already-running``: another process holds it.
        StorageError: ``lock-failed``: the file cannot be opened or made.
    """
    try:
        if create:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _open(state_dir / LOCK_NAME, create=create)
    except (FileNotFoundError, NotADirectoryError):
        if create:
            raise StorageError("lock-failed", _HINT) from None
        return None
    except OSError:
        raise StorageError("lock-failed", _HINT) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UnavailableError("already-running", "another process uses this state directory: stop it, or talk to it") from None
    except OSError:
        os.close(descriptor)
        raise StorageError("lock-failed", _HINT) from None
    return StateLock(descriptor)


def _open(path: Path, *, create: bool) -> int:
    """Read-only where it exists: an exclusive ``flock`` needs no write access, and a read-only file system keeps working."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        if not create:
            raise
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
