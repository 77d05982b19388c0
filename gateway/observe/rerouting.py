"""What others would print, in our form: library log records, warnings and uncaught exceptions, without their texts.

Library texts quote what they were given (``aiohttp`` logs request lines, ``asyncio`` logs the repr of objects), so only
the logger's name and the level get through, and of an exception only its class and the line of code that raised it.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.observe.events import LogEvent

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType
    from typing import Any

    from gateway.observe.log import EventLog

__all__ = ["LoopExceptions", "install", "place_of"]


def place_of(trace: TracebackType | None) -> str | None:
    """``module:line`` of the innermost frame, never its values."""
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", "unknown"))
    return f"{module[-60:]}:{trace.tb_lineno}"


class _Rerouted(logging.Handler):
    """The only way to receive library records is to be a ``logging.Handler``."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.emit(LogEvent.LIBRARY_LINE, library=record.name, library_level=record.levelname.lower())


@dataclass(frozen=True, slots=True)
class _Uncaught:
    log: EventLog

    def in_program(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            self._say(kind, error.__traceback__ or trace)

    def in_thread(self, facts: threading.ExceptHookArgs) -> None:
        self._say(facts.exc_type, facts.exc_traceback)

    def in_finaliser(self, facts: sys.UnraisableHookArgs) -> None:
        self._say(facts.exc_type, facts.exc_traceback)

    def _say(self, kind: type[BaseException], trace: TracebackType | None) -> None:
        self.log.emit(LogEvent.CRASHED, error=kind.__name__, place=place_of(trace))


def install(log: EventLog) -> None:
    """Take over ``logging``, ``warnings`` and the three exception hooks of this process."""
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
    root.addHandler(_Rerouted(log))
    root.setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    # Without this, logging prints the traceback of a failing handler, texts included.
    logging.raiseExceptions = False
    uncaught = _Uncaught(log)
    sys.excepthook = uncaught.in_program
    threading.excepthook = uncaught.in_thread
    sys.unraisablehook = uncaught.in_finaliser


@dataclass(frozen=True, slots=True)
class LoopExceptions:
    """The loop's last resort, for ``loop.set_exception_handler``: the class of the error, never asyncio's context."""

    log: EventLog

    def __call__(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Write one line."""
        error = context.get("exception")
        kind = type(error).__name__ if isinstance(error, BaseException) else "LoopTrouble"
        trace = error.__traceback__ if isinstance(error, BaseException) else None
        self.log.emit(LogEvent.CRASHED, error=kind, place=place_of(trace))
