"""Compiles slowdisk.c, the LD_PRELOAD shim that makes fsync slow, hang, fail, and count itself."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

__all__ = ["slow_disk_library"]


def slow_disk_library() -> Path:
    """The shared object, compiled once per version of its source."""
    source = Path(__file__).with_name("slowdisk.c")
    version = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    built = Path(tempfile.gettempdir(), f"edge-gateway-slowdisk-{version}-{os.geteuid()}.so")
    if not built.exists():
        fresh = built.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(fresh), str(source), "-ldl"], check=True)
        fresh.rename(built)
    return built
