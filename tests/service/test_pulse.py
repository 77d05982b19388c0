"""The watchdog is fed on proof of life, and in the declared states, and never otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.model.clock import ClockState
from gateway.model.errors import StorageError
from gateway.model.state import GatewayState
from gateway.observe.log import EventLog
from gateway.service.pulse import Pulse


@dataclass
class Hands:
    now_s: float = 0.0

    def wall_us(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return self.now_s

    def state(self) -> ClockState:
        return ClockState.SYNCED


@dataclass
class Notices:
    fed: int = 0
    lines: list[str] = field(default_factory=list)

    def watchdog(self) -> bool:
        self.fed += 1
        return True

    def status(self, status: str) -> bool:
        self.lines.append(status)
        return True


@dataclass
class Snapshot:
    commit: int


@dataclass
class Journal:
    commit: int = 1
    probes: int = 0
    broken: bool = False

    def snapshot(self) -> Snapshot:
        return Snapshot(self.commit)

    async def probe(self) -> float:
        if self.broken:
            raise StorageError("io")
        self.probes += 1
        self.commit += 1
        return 0.001


@dataclass
class Paper:
    text: str = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        """Nothing is kept back."""


class Box:
    """A pulse over fakes, beaten by hand."""

    def __init__(self, state: GatewayState = GatewayState.RUNNING) -> None:
        self.clock, self.notices, self.journal, self.paper, self.state = Hands(), Notices(), Journal(), Paper(), state
        self.pulse = Pulse(
            self.clock,
            EventLog(self.clock, self.paper),
            self.notices,  # type: ignore[arg-type] # small real classes in their places
            4.0,
            lambda: self.state,
            lambda: self.journal,  # type: ignore[arg-type, return-value]
            lambda: "running, 0 queued",
            lambda: None,
        )

    async def beats(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.now_s += 1
            await self.pulse.beat()


async def test_an_idle_box_probes_every_30_seconds_and_is_fed() -> None:
    box = Box()
    await box.beats(120)
    assert 3 <= box.journal.probes <= 4
    assert box.notices.fed >= 100


async def test_commits_of_real_traffic_save_the_probe() -> None:
    box = Box()
    for _ in range(100):
        box.journal.commit += 1
        await box.beats(1)
    assert box.journal.probes == 0
    assert box.notices.fed >= 90


async def test_a_writer_that_stands_still_is_not_fed() -> None:
    box = Box()
    await box.beats(1)
    box.journal.broken = True
    await box.beats(60)
    fed = box.notices.fed
    await box.beats(30)
    assert box.notices.fed == fed
    assert "watchdog-withheld" in box.paper.text


@pytest.mark.parametrize("state", [GatewayState.LOCKED, GatewayState.FULL, GatewayState.READ_ONLY])
async def test_a_declared_state_is_fed_although_nothing_can_be_stored(state: GatewayState) -> None:
    box = Box(state)
    box.journal.broken = True
    await box.beats(200)
    assert box.notices.fed >= 190
    assert box.journal.probes == 0


async def test_the_status_line_is_told_once_per_change() -> None:
    box = Box()
    await box.beats(10)
    assert box.notices.lines == ["running, 0 queued"]


async def test_it_beats_oftener_where_systemd_asks_for_it() -> None:
    box = Box()
    box.pulse.interval_s = 0.04
    task = asyncio.create_task(box.pulse.run())
    while box.notices.fed < 2:
        box.clock.now_s += 1
        await asyncio.sleep(0)
        await asyncio.wait((task,), timeout=0.02)
    task.cancel()
