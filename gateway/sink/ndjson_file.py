"""A file of lines that survives a power cut: append, fsync, rotate; a torn last line is cut off when it is opened.

Everything here blocks; the sink runs it in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NdjsonFile", "Rotation"]

_MODE: Final = 0o600
_PIECE_BYTES: Final = 64 * 1024
#: ``time`` is among the first attributes of an event.
_TIME: Final = re.compile(rb'"time":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)')
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is full, and how many full ones stay (0 = all)."""

    max_bytes: int
    max_age: timedelta
    keep_files: int


class NdjsonFile:
    """Opened with the first ``append``. Several writers take turns: the file is locked while one of them appends."""

    def __init__(self, path: Path, rotation: Rotation) -> None:
        self._path = path
        self._rotation = rotation
        self._fd = -1
        self._began = _EPOCH

    def append(self, lines: bytes, wall_us: int) -> None:
        """``lines`` (each with its end) are on the disk when it returns; when it raises, none of them is in the file.

        Raises: OSError.
        """
        now = _EPOCH + timedelta(microseconds=wall_us)
        self._ready(now, len(lines))
        before = os.fstat(self._fd).st_size
        try:
            _write(self._fd, lines)
            os.fsync(self._fd)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError:
            # After a failed fsync the kernel may have dropped the pages: cut, close, begin anew, never just fsync again.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, before)
            self.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # --- opening and rotating -------------------------------------------------------------------------------------

    def _ready(self, now: datetime, more_bytes: int) -> None:
        """The file is open, ours, locked, and has room."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._moved_away():
                self.close()
        if self._fd < 0:
            self._open(now)
        rotation = self._rotation
        size_bytes = os.fstat(self._fd).st_size
        full = size_bytes + more_bytes > rotation.max_bytes or now - self._began >= rotation.max_age
        if full and size_bytes:
            self._rotate(now)

    def _moved_away(self) -> bool:
        """Somebody else (logrotate, another writer) renamed or removed it."""
        try:
            there = self._path.stat()
        except OSError:
            return True
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _open(self, now: datetime) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, _MODE)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise FileExistsError(errno.EEXIST, "not a regular file")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(fd, _MODE)
            size_bytes = _whole_lines(fd, found.st_size)
            if size_bytes != found.st_size:
                os.ftruncate(fd, size_bytes)
                os.fsync(fd)
            _sync_folder(self._path.parent)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        self._began = _first_time(fd) or now

    def _rotate(self, now: datetime) -> None:
        self._path.rename(self._full_name(now))
        self.close()
        self._open(now)
        self._prune()

    def _full_name(self, now: datetime) -> Path:
        path = self._path
        count = 0
        while True:
            full = path.with_name(f"{path.stem}-{now:%Y%m%dT%H%M%SZ}-{count:03d}{path.suffix}")
            if not full.exists():
                return full
            count += 1

    def _prune(self) -> None:
        keep, path = self._rotation.keep_files, self._path
        if not keep:
            return
        name = re.compile(re.escape(path.stem) + r"-\d{8}T\d{6}Z-\d{3,}" + re.escape(path.suffix))
        full = sorted(found for found in path.parent.iterdir() if name.fullmatch(found.name))
        for old in full[:-keep]:
            with contextlib.suppress(OSError):  # somebody else removed it, or holds it; the next rotation tries again
                old.unlink()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _whole_lines(fd: int, size_bytes: int) -> int:
    """The size up to the end of the last whole line. What follows was never settled: it will be sent again."""
    end = size_bytes
    while end > 0:
        start = max(0, end - _PIECE_BYTES)
        found = os.pread(fd, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _first_time(fd: int) -> datetime | None:
    match = _TIME.search(os.pread(fd, 1024, 0))
    return None if match is None else datetime.fromisoformat(match[1].decode("ascii")).replace(tzinfo=UTC)


def _sync_folder(folder: Path) -> None:
    """A new or renamed file survives a power cut only with its folder."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
