"""A part that fails is reported by its class alone, and started again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from gateway.model.clock import ClockState
from gateway.service.supervisor import Supervisor


@dataclass
class StandingClock:
    now_s: float = 0.0

    def wall_us(self) -> int:
        return int(self.now_s * 1e6)

    def monotonic_s(self) -> float:
        return self.now_s

    def state(self) -> ClockState:
        return ClockState.SYNCED


async def test_a_failing_task_is_started_again_and_its_text_is_not_reported() -> None:
    told: list[tuple[str, str, str]] = []
    runs = 0

    async def flaky() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("DOE^JANE")

    await Supervisor(StandingClock(), lambda name, error, place: told.append((name, error, (place or "").partition(":")[0]))).keep(
        "route", flaky
    )
    assert runs == 3
    assert told == [("route", "ValueError", __name__)] * 2


async def test_cancelling_is_the_normal_way_out() -> None:
    told: list[tuple[str, str, str | None]] = []

    async def endless() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(Supervisor(StandingClock(), lambda *what: told.append(what)).keep("route", endless))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not told
