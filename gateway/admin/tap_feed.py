"""Live messages for ``tap``: a slow or stopped reader loses lines (and learns how many), never slows a commit."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from gateway.admin.ports import TapLine

__all__ = ["TapFeed"]

_LINES_MAX: Final = 1000
_BYTES_MAX: Final = 8 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Reader:
    lines: deque[TapLine] = field(default_factory=deque)
    size_bytes: int = 0
    missed: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, line: TapLine) -> None:
        if len(self.lines) >= _LINES_MAX or self.size_bytes + len(line.body) > _BYTES_MAX:
            self.missed += 1
        else:
            self.lines.append(line)
            self.size_bytes += len(line.body)
        self.wake.set()


@dataclass(slots=True)
class TapFeed:
    """``publish`` what was committed; each ``subscribe`` iterates over what comes after it."""

    _readers: set[_Reader] = field(default_factory=set)

    @property
    def watched(self) -> bool:
        """Whether anybody looks: callers skip making lines otherwise."""
        return bool(self._readers)

    def publish(self, line: TapLine) -> None:
        """Hand one committed message to every reader; never blocks."""
        for reader in self._readers:
            reader.offer(line)

    async def subscribe(self) -> AsyncGenerator[TapLine | int, None]:
        """Lines in order of commit; a number = that many were left out at this point."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            while True:
                await reader.wake.wait()
                reader.wake.clear()
                while reader.lines:
                    line = reader.lines.popleft()
                    reader.size_bytes -= len(line.body)
                    yield line
                if reader.missed:
                    missed, reader.missed = reader.missed, 0
                    yield missed
        finally:
            self._readers.discard(reader)
