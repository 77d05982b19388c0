"""What a test needs from the machine: missing fails where the run must be complete, and is skipped by name elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

__all__ = ["is_root", "need", "need_loop_devices", "need_programs"]


def need(what: str, present: bool) -> None:
    """Go on where ``present``; else fail under ``CI=true`` and skip, naming ``what``, elsewhere."""
    if present:
        return
    text = f"missing prerequisite: {what}"
    if os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def is_root() -> bool:
    return os.geteuid() == 0


def need_programs(*names: str) -> None:
    """Each of ``names`` must be on the path."""
    for name in names:
        need(name, shutil.which(name) is not None)


def need_loop_devices() -> None:
    """Root, loop devices and ext4 tools: what the disk layers stand on."""
    need("root", is_root())
    need("loop devices", Path("/dev/loop-control").exists())
    need_programs("mkfs.ext4", "mount", "umount", "losetup", "e2fsck")
