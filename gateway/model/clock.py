"""Time as an argument: the clock protocol and the honest state of the wall clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

__all__ = ["Clock", "ClockState", "Randomness", "clock_state", "rfc3339"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ClockState(StrEnum):
    """How far the wall clock can be trusted (``clockstate`` of every event)."""

    UNTRUSTED = "untrusted"  #: earlier than the floor (build time, last persisted time): certainly wrong
    FLOOR = "floor"  #: not earlier than the floor, never synchronised since boot
    HOLDOVER = "holdover"  #: synchronised since start, not now
    SYNCED = "synced"  #: the kernel says synchronised


class Clock(Protocol):
    """What needs time takes one of these; only ``service`` makes the real one."""

    def wall_us(self) -> int:
        """Microseconds since 1970 UTC; may step."""
        ...

    def monotonic_s(self) -> float:
        """Seconds, never steps; for timers and ages."""
        ...

    def state(self) -> ClockState:
        """How far ``wall_us`` can be trusted now."""
        ...


class Randomness(Protocol):
    """What needs randomness takes one of these."""

    def bytes(self, n: int) -> bytes:
        """``n`` unpredictable bytes (nonces, incarnations)."""
        ...

    def uniform(self) -> float:
        """A number in [0, 1) (jitter)."""
        ...


def clock_state(wall_us: int, floor_us: int, *, synchronised: bool, was_synchronised: bool) -> ClockState:
    """The state as a pure function of its four facts."""
    if synchronised:
        return ClockState.SYNCED
    if wall_us < floor_us:
        return ClockState.UNTRUSTED
    return ClockState.HOLDOVER if was_synchronised else ClockState.FLOOR


def rfc3339(wall_us: int) -> str:
    """``2026-11-22T12:00:00.000000Z``: always UTC, always six digits, so that texts sort as times do."""
    moment = _EPOCH + timedelta(microseconds=wall_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z"
