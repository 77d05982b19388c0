"""A clock that moves when told, and a place for lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.model.clock import ClockState

__all__ = ["Clock", "Lines"]


@dataclass(slots=True)
class Clock:
    now_s: float = 0.0

    def wall_us(self) -> int:
        return 1_795_600_000_000_000 + int(self.now_s * 1e6)

    def monotonic_s(self) -> float:
        return self.now_s

    def state(self) -> ClockState:
        return ClockState.SYNCED


@dataclass(slots=True)
class Lines:
    """``broken``: as when the pipe behind stderr is gone."""

    text: str = ""
    broken: type[Exception] | None = None
    flushed: int = field(default=0)

    def write(self, text: str) -> None:
        if self.broken is not None:
            raise self.broken
        self.text += text

    def flush(self) -> None:
        self.flushed += 1

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.text.splitlines()]
