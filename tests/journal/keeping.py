"""What the tests of keys, audit, offline reading and salvage share: seeded randomness, a settable clock, directory snapshots."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.model.clock import ClockState

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KEK", "OTHER_KEK", "Seeded", "SetClock", "Snapshot", "snapshot"]

KEK = bytes(range(32))
OTHER_KEK = bytes(range(1, 33))

#: name -> (bytes, mode, mtime ns); the directory's own mtime under "."
Snapshot = dict[str, tuple[bytes, int, int]]


class Seeded:
    """Randomness that repeats."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def bytes(self, n: int) -> bytes:
        return self._random.randbytes(n)

    def uniform(self) -> float:
        return self._random.random()


@dataclass
class SetClock:
    """Stands still until it is set."""

    now_us: int = 1_795_000_000_000_000
    now_s: float = 100.0

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_s(self) -> float:
        return self.now_s

    def state(self) -> ClockState:
        return ClockState.SYNCED


def snapshot(directory: Path) -> Snapshot:
    """Everything that a reader could have changed: names, bytes, modes, times of change."""
    if not directory.exists():
        return {}
    found: Snapshot = {".": (b"", directory.stat().st_mode, directory.stat().st_mtime_ns)}
    for path in sorted(directory.iterdir()):
        state = path.lstat()
        found[path.name] = (path.read_bytes() if path.is_file() else b"", state.st_mode, state.st_mtime_ns)
    return found
