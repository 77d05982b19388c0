"""The real clock and the real randomness; everything below ``service`` takes them as arguments."""

from __future__ import annotations

import ctypes
import os
import random
import time
from dataclasses import dataclass, field
from typing import Final

from gateway.model.clock import ClockState, clock_state

__all__ = ["SystemClock", "SystemRandomness"]

#: The day this version was made: a wall clock before it is certainly wrong (a box without a battery starts in 1970).
BUILD_FLOOR_US: Final = 1_795_564_800_000_000  # 2026-11-25T00:00:00Z
#: Source: adjtimex(2): the return value TIME_ERROR means that the kernel clock is not synchronised.
_TIME_ERROR: Final = 5
_TIMEX_BYTES: Final = 208  # sizeof(struct timex) on 64-bit Linux; all zero = modes 0 = read only
_ASK_EVERY_S: Final = 1.0


@dataclass(slots=True)
class SystemClock:
    """Wall time, monotonic time, and how far the wall time can be trusted. ``floor_us``: last persisted wall time."""

    floor_us: int = BUILD_FLOOR_US
    _synchronised: bool = False
    _was_synchronised: bool = False
    _asked_s: float = field(default=-1e9)

    def wall_us(self) -> int:
        """Microseconds since 1970 UTC; may step."""
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        """Seconds; never steps."""
        return time.monotonic()

    def state(self) -> ClockState:
        """Asks the kernel at most once a second: this runs once per received chunk."""
        now_s = time.monotonic()
        if now_s - self._asked_s >= _ASK_EVERY_S:
            self._asked_s = now_s
            self._synchronised = _kernel_synchronised()
            self._was_synchronised = self._was_synchronised or self._synchronised
        return clock_state(self.wall_us(), self.floor_us, synchronised=self._synchronised, was_synchronised=self._was_synchronised)


def _kernel_synchronised() -> bool:
    """True where an NTP or PTP client keeps the kernel clock; False where nobody does or nobody can tell."""
    try:
        answer: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return False
    return 0 <= answer != _TIME_ERROR


@dataclass(frozen=True, slots=True)
class SystemRandomness:
    """Unpredictable bytes and jitter from the operating system."""

    _jitter: random.SystemRandom = field(default_factory=random.SystemRandom)

    def bytes(self, n: int) -> bytes:
        """``n`` bytes fit for nonces and keys."""
        return os.urandom(n)

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return self._jitter.random()
