"""The log: one JSON object per line on stderr, from the closed list of events alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import orjson

from gateway.model.clock import rfc3339
from gateway.observe.events import WITHHELD, Level, LogEvent, admissible

if TYPE_CHECKING:
    from gateway.model.clock import Clock

__all__ = ["EventLog", "Lines", "render"]

#: Of one event, in one window: a flood from a peer must not fill the disk of the log.
LINES_PER_WINDOW: Final = 200
WINDOW_S: Final = 60.0
_ORDER: Final = tuple(Level)


class Lines(Protocol):
    """Where lines go: ``sys.stderr``, or a list with this method in tests."""

    def write(self, text: str, /) -> object:
        """Take one line, its end included."""
        ...

    def flush(self) -> object:
        """Let go of it."""
        ...


def render(event: LogEvent, time: str, fields: dict[str, object]) -> str:
    """One line without its end. Fields that the event does not declare, or of another shape, are withheld."""
    spec = event.spec
    line: dict[str, object] = {"time": time, "level": spec.level.value, "code": spec.code, "event": event.label}
    for name, value in fields.items():
        if value is not None and name in spec.fields:
            # "code" is taken by the event itself, and is what people search for
            line["error_code" if name == "code" else name] = value if admissible(name, value) else WITHHELD
    return orjson.dumps(line).decode()


@dataclass(slots=True)
class _Window:
    began_s: float
    count: int = 0


@dataclass(slots=True)
class EventLog:
    """Writes lines of at least ``level``; never raises, a broken stderr must not stop a gateway."""

    clock: Clock
    lines: Lines
    level: Level = Level.INFO
    _windows: dict[LogEvent, _Window] = field(default_factory=dict)

    def emit(self, event: LogEvent, **fields: object) -> None:
        """Write one line, unless its level is below ours or its event floods (the number left out follows later)."""
        if _ORDER.index(event.spec.level) >= _ORDER.index(self.level) and self._admit(event):
            self._write(event, fields)

    def _admit(self, event: LogEvent) -> bool:
        now_s = self.clock.monotonic_s()
        window = self._windows.get(event)
        if window is None or now_s - window.began_s >= WINDOW_S:
            if window is not None and window.count > LINES_PER_WINDOW:
                self._write(LogEvent.LINES_WITHHELD, {"code": event.label, "count": window.count - LINES_PER_WINDOW})
            window = self._windows[event] = _Window(now_s)
        window.count += 1
        return window.count <= LINES_PER_WINDOW

    def _write(self, event: LogEvent, fields: dict[str, object]) -> None:
        line = render(event, rfc3339(self.clock.wall_us()), fields)
        try:
            self.lines.write(line + "\n")
            self.lines.flush()
        except (OSError, ValueError):  # the pipe to the log is gone, or closed
            return
