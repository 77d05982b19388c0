"""What every measurement needs: facts about a process and the disk, medians, and the table and JSON at the end."""

from __future__ import annotations

import json
import os
import platform
import re
import sqlite3
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Figure", "Report", "Usage", "alternate", "fsync_ms", "machine", "quantile", "rss_mb", "usage"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far: CPU seconds, bytes handed to write calls, bytes that reached the block layer."""

    cpu_s: float
    written_bytes: int
    device_bytes: int

    def __sub__(self, before: Usage) -> Usage:
        return Usage(self.cpu_s - before.cpu_s, self.written_bytes - before.written_bytes, self.device_bytes - before.device_bytes)


def usage(pid: int | str = "self") -> Usage:
    """Of one process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), int(io["wchar"]), int(io["write_bytes"]))


def rss_mb(pid: int | str = "self") -> float:
    """Resident memory in MB (2**20)."""
    match = re.search(r"VmRSS:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def quantile(values: Sequence[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))] if ordered else float("nan")


def fsync_ms(folder: Path, *, writes: int = 300, size_bytes: int = 12 * 1024, append: bool = False) -> float:
    """Median of write + fdatasync on that disk: in place over a 4 MB file, as a write-ahead log is written, or appending."""
    path = folder / "fsync-probe"
    span = 4 << 20
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if not append:
            os.write(handle, b"\1" * span)
        os.fsync(handle)
        data, taken = os.urandom(size_bytes), []
        for number in range(writes):
            began = time.perf_counter()
            os.pwrite(handle, data, number * size_bytes if append else number * size_bytes % (span - size_bytes))
            os.fdatasync(handle)
            taken.append((time.perf_counter() - began) * 1000)
    finally:
        os.close(handle)
        path.unlink()
    return statistics.median(taken)


def machine() -> dict[str, str]:
    """Where the figures come from; they mean little elsewhere."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    root = Path(__file__).parents[2]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, check=False)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "commit": commit.stdout.strip(),
    }


def alternate(rounds: int, runs: dict[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Each of ``runs`` in turn, ``rounds`` times over, so that a slow minute of the machine hits all of them."""
    results: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    return results


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. ``wanted``: the bar in words, ``met``: whether it is reached (None = for information)."""

    name: str
    value: float
    unit: str
    wanted: str = ""
    met: bool | None = None


@dataclass(slots=True)
class Report:
    """Figures as they come, printed at once, written as JSON at the end."""

    title: str
    figures: list[Figure] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Add one; a bar makes it met or missed."""
        wanted, met = "", None
        if at_least is not None:
            wanted, met = f"≥ {at_least:g}", value >= at_least
        if at_most is not None:
            wanted, met = f"≤ {at_most:g}", value <= at_most
        self.figures.append(Figure(name, value, unit, wanted, met))
        print(self.line(self.figures[-1]), flush=True)

    @staticmethod
    def line(figure: Figure) -> str:
        verdict = {True: "met", False: "MISSED", None: ""}[figure.met]
        return f"{figure.name:58} {figure.value:>14,.3f} {figure.unit:12} {figure.wanted:10} {verdict}"

    def as_json(self) -> dict[str, Any]:
        rows = [{"name": f.name, "value": f.value, "unit": f.unit, "wanted": f.wanted, "met": f.met} for f in self.figures]
        return {"title": self.title, "machine": machine(), "figures": rows}

    def write(self, folder: Path) -> Path:
        """``<title>.json`` in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.title}.json"
        path.write_text(json.dumps(self.as_json(), indent=2) + "\n")
        return path
