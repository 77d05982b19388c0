"""Figures of this process from ``/proc``: memory, processor time, open files."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessFigures", "read_figures"]


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """What the daemon costs; 0 where the system does not tell."""

    resident_bytes: int
    cpu_s: float
    open_files: int
    uptime_s: float


def read_figures(uptime_s: float, proc: Path = Path("/proc/self")) -> ProcessFigures:
    """Read the figures now. ``uptime_s`` comes from the caller's monotonic clock."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessFigures(_resident(proc / "statm"), usage.ru_utime + usage.ru_stime, _entries(proc / "fd"), uptime_s)


def _resident(statm: Path) -> int:
    try:
        # Source: proc(5): the second field of statm is the resident set in pages.
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _entries(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
