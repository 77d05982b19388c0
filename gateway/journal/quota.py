"""How much the journal may use, and a reserve that makes settling work on a full disk.

Three lines, from inside to outside:

1. ``quota_bytes`` over db + wal + shm less free pages, checked at each commit: appends past it are refused, one by one;
   settling, exceptions and audit go on into the space that ``max_page_count`` still allows.
2. ``max_page_count``: quota and reserve in pages, so that no defect of ours can fill the file system.
3. The ballast, a file of ``reserve_bytes``: on a really full file system INSERT, UPDATE, DELETE and checkpoint all fail, so
   nothing could ever be settled; unlinking the ballast makes all four work at once. Made again when twice its size is free.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.journal.pragmas import PAGE_BYTES
from gateway.model.errors import StorageError

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from gateway.journal.interface import JournalPlace

__all__ = ["BALLAST_NAME", "JOURNAL_NAME", "Ballast", "Gauge", "Limits", "measure", "scaled_limits"]

JOURNAL_NAME: Final = "journal.db"
BALLAST_NAME: Final = "ballast"

_QUOTA_MAX_BYTES: Final = 64 * 1024**3
_QUOTA_MIN_BYTES: Final = 1024**2
_RESERVE_MAX_BYTES: Final = 64 * 1024**2
#: One sealed block is in the log and, after the checkpoint, in the file: it needs its size twice, and pages around it.
_SLACK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers of this run, all in bytes but ``checkpoint_pages`` and ``max_pages``."""

    quota: int
    reserve: int
    checkpoint_pages: int
    max_pages: int

    @property
    def pressure(self) -> int:
        """Above it, settled blocks go before their retain time is over."""
        return self.quota // 4 * 3

    @property
    def margin(self) -> int:
        """Less room than this is FULL; twice as much ends it. While it is not FULL, 32 KiB of sealed messages fit."""
        return max(2 * _SLACK_BYTES, self.quota // 128)

    def fits(self, used: int, sealed: int) -> bool:
        """Whether records of ``sealed`` bytes may be appended at ``used`` bytes."""
        return used + 2 * sealed + _SLACK_BYTES <= self.quota

    def is_full(self, used: int, *, was_full: bool) -> bool:
        """Whether appends are refused at all; with hysteresis, so that the state does not flutter."""
        return self.quota - used < (2 * self.margin if was_full else self.margin)


def scaled_limits(place: JournalPlace) -> Limits:
    """The limits for this file system: 3/4 of what is free or ours (at most 64 GiB), of that 1/8 as reserve (at most 64 MiB).

    Raises:
        StorageError: ``state-unreadable``.
    """
    try:
        system = os.statvfs(place.state_dir)
    except OSError:
        raise StorageError("state-unreadable", "the state directory cannot be examined: check its owner and mode") from None
    available = system.f_bavail * system.f_frsize + _own_bytes(place.state_dir)
    quota = place.quota_bytes or max(_QUOTA_MIN_BYTES, min(_QUOTA_MAX_BYTES, available // 4 * 3))
    reserve = place.reserve_bytes or min(_RESERVE_MAX_BYTES, quota // 8)
    # 4 MiB of log on anything but a small file system, where it would eat the quota.
    checkpoint_pages = max(64, min(1000, quota // (32 * PAGE_BYTES)))
    return Limits(quota, reserve, checkpoint_pages, (quota + reserve) // PAGE_BYTES)


class Gauge:
    """Measures what the journal uses; called at each commit, so the names are made once."""

    def __init__(self, state_dir: Path) -> None:
        self._log = str(state_dir / f"{JOURNAL_NAME}-wal")
        self._index = str(state_dir / f"{JOURNAL_NAME}-shm")

    def measure(self, connection: sqlite3.Connection) -> int:
        """Bytes in use now: pages of the database less the free ones, the log and its index as the file system shows them."""
        pages = connection.execute("PRAGMA page_count").fetchone()[0] - connection.execute("PRAGMA freelist_count").fetchone()[0]
        return int(pages) * PAGE_BYTES + _size(self._log) + _size(self._index)


def measure(connection: sqlite3.Connection, state_dir: Path) -> int:
    """As ``Gauge.measure``, once."""
    return Gauge(state_dir).measure(connection)


class Ballast:
    """The file that is given up so that a full disk can be emptied."""

    def __init__(self, state_dir: Path, size_bytes: int) -> None:
        self._path = state_dir / BALLAST_NAME
        self._size_bytes = size_bytes
        self.in_place = False

    def place(self) -> bool:
        """Make it (or find it) where the file system has twice its size free; False where it has not."""
        if _size(self._path) == self._size_bytes:
            self.in_place = True
            return True
        with contextlib.suppress(OSError):
            system = os.statvfs(self._path.parent)
            if system.f_bavail * system.f_frsize >= 2 * self._size_bytes:
                self._allocate()
                self.in_place = True
                return True
        self.in_place = False
        return False

    def release(self) -> bool:
        """Give it up; True where that freed something."""
        held = self.in_place or _size(self._path) > 0
        self.in_place = False
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        return held

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if self._size_bytes:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


def _own_bytes(state_dir: Path) -> int:
    names = (JOURNAL_NAME, f"{JOURNAL_NAME}-wal", f"{JOURNAL_NAME}-shm", BALLAST_NAME)
    return sum(_size(state_dir / name) for name in names)


def _size(path: Path | str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  (the two names of the hot path are plain text)
    except OSError:
        return 0
