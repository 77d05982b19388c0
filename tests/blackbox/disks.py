"""Disks that fail on demand: ext4 on a loop device that loses its power or turns read-only, and a small tmpfs.

Root only. Run under a private mount namespace (tests/run.sh makes one): a mount that somebody else's namespace still
pins comes back dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LoopDisk", "loop_disk", "tmpfs"]

#: FS_IOC_SHUTDOWN with flag 2 (no log flush): what was not fsynced is gone, later I/O fails. Source: linux/fs.h, ext4.
_FS_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


@dataclass(slots=True)
class LoopDisk:
    """An ext4 image; ``path`` is where it is mounted."""

    image: Path
    path: Path

    def mount(self) -> None:
        """Mount it; a dirty journal is replayed by the kernel."""
        _run("mount", "-o", "loop,errors=remount-ro", str(self.image), str(self.path))

    def umount(self) -> None:
        """Unmount and wait until the loop device is free: a mount before that may return the dead file system."""
        _run("umount", str(self.path))
        end = time.monotonic() + 20
        while _run("losetup", "-j", str(self.image)):
            assert time.monotonic() < end, "the loop device does not detach"
            time.sleep(0.01)

    def cut_power(self) -> float:
        """From now on nothing reaches the disk. The monotonic second before it began: only what was answered earlier counts,
        because an fsync that is under way meanwhile may return success without being durable.
        """
        handle = os.open(self.path, os.O_RDONLY)
        try:
            began = time.monotonic()
            fcntl.ioctl(handle, _FS_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(handle)
        return began

    def turn_read_only(self) -> None:
        """As ext4 does after an error of the device."""
        device = Path(_run("losetup", "-j", str(self.image)).split(":")[0]).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("test")

    def repair(self) -> None:
        """e2fsck of the unmounted image; 1 = repaired, which is what it is for."""
        done = subprocess.run(["e2fsck", "-fy", str(self.image)], capture_output=True, check=False, timeout=60)
        assert done.returncode in (0, 1), done.stdout.decode()


@contextlib.contextmanager
def loop_disk(folder: Path, size_mb: int = 128) -> Iterator[LoopDisk]:
    """A fresh mounted ext4 of that size."""
    disk = LoopDisk(folder / "disk.img", folder / "disk")
    disk.path.mkdir(parents=True)
    with disk.image.open("wb") as image:
        image.truncate(size_mb << 20)
    _run("mkfs.ext4", "-q", "-F", "-m", "0", str(disk.image))
    disk.mount()
    try:
        yield disk
    finally:
        if disk.path.is_mount():  # lazily: after a failed test its daemon may still run
            _run("umount", "-l", str(disk.path))
        disk.image.unlink()


@contextlib.contextmanager
def tmpfs(folder: Path, size_mb: int) -> Iterator[Path]:
    """A mounted tmpfs of that size."""
    path = folder / "small"
    path.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(path))
    try:
        yield path
    finally:
        _run("umount", "-l", str(path))
