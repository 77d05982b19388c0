"""What goes and when: settled and old, or settled and in the way. Never what a route still needs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gateway.journal.interface import RouteRule
from gateway.model.clock import ClockState
from tests.journal.keeping import SetClock
from tests.journal.working import Box, append, deliver, entry, leave, read_all, route_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.journal.journal import Journal

DAY_US = 86_400_000_000
TWO = (RouteRule("all"), RouteRule("labs", frozenset({"lab"})))


class Untrusted(SetClock):
    def state(self) -> ClockState:
        return ClockState.UNTRUSTED


async def look(journal: Journal, times: int = 1) -> None:
    for _ in range(times):
        journal._committer.look()
        for _ in range(4):
            await asyncio.sleep(0)


async def some(journal: Journal, count: int, first: int = 0, **more: object) -> None:
    for at in range(first, first + count):
        await append(journal, entry(at, **more))  # type: ignore[arg-type]


async def test_settled_blocks_go_when_their_retain_time_is_over_and_not_before(tmp_path: Path) -> None:
    box = Box(tmp_path, retain_days=7)
    journal = await box.open()
    await some(journal, 10)
    await deliver(journal)
    box.clock.now_us += 6 * DAY_US
    await look(journal)
    assert journal.snapshot().blocks == 10
    box.clock.now_us += 2 * DAY_US
    await look(journal)
    assert journal.snapshot().blocks == 0
    assert (route_of(journal).books.accepted, route_of(journal).books.delivered) == (10, 10)
    await journal.close()
    journal = await box.open()
    assert (route_of(journal).books.accepted, route_of(journal).books.delivered) == (10, 10)
    assert journal.snapshot().accepted == {"adt": 10}
    await journal.close()


async def test_a_block_that_one_route_has_not_settled_stays_for_ever(tmp_path: Path) -> None:
    box = Box(tmp_path, TWO, retain_days=1)
    journal = await box.open()
    await some(journal, 4, source="lab")
    await deliver(journal, "all")
    for _ in range(3):
        box.clock.now_us += 400 * DAY_US
        await look(journal)
    assert len(await read_all(journal, "labs")) == 4
    assert journal.snapshot().blocks == 4
    await journal.close()


async def test_a_removed_route_that_owes_something_pins_its_blocks(tmp_path: Path) -> None:
    box = Box(tmp_path, TWO, retain_days=1)
    journal = await box.open()
    await some(journal, 3, source="lab")
    await journal.close()
    box.routes = (RouteRule("all"),)
    journal = await box.open()
    await deliver(journal)
    box.clock.now_us += 400 * DAY_US
    await look(journal, 3)
    assert (journal.snapshot().blocks, route_of(journal, "labs").books.queued) == (3, 3)
    await journal.close()


@pytest.mark.parametrize("step_days", [-14, 4000])
async def test_a_clock_that_nobody_trusts_expires_nothing(tmp_path: Path, step_days: int) -> None:
    box = Box(tmp_path, clock=Untrusted(), retain_days=1)
    journal = await box.open()
    await some(journal, 3)
    await deliver(journal)
    box.clock.now_us += step_days * DAY_US
    await look(journal, 2)
    assert journal.snapshot().blocks == 3
    await journal.close()


async def test_a_clock_that_steps_back_expires_nothing(tmp_path: Path) -> None:
    box = Box(tmp_path, retain_days=1)
    journal = await box.open()
    await some(journal, 3)
    await deliver(journal)
    box.clock.now_us -= 14 * DAY_US
    await look(journal, 2)
    assert journal.snapshot().blocks == 3
    await journal.close()


async def test_commit_rows_stay_while_their_blocks_or_their_duplicate_keys_are_needed(tmp_path: Path) -> None:
    box = Box(tmp_path, retain_days=1, dedupe_keys=5)
    journal = await box.open()
    await some(journal, 1500)
    await deliver(journal)
    box.clock.now_us += 2 * DAY_US
    await look(journal, 60)
    with box.database() as database:
        (first,) = database.execute("SELECT min(id) FROM commit_meta").fetchone()
        (last,) = database.execute("SELECT max(id) FROM commit_meta").fetchone()
    assert journal.snapshot().blocks == 0
    assert first > 400
    assert first <= last
    assert (await append(journal, entry(1499)))[0].duplicate
    leave(journal)
    journal = await box.open()
    assert (await append(journal, entry(1499)))[0].duplicate
    await journal.close()


async def test_deleting_rides_in_a_commit_that_happens_anyway(tmp_path: Path) -> None:
    box = Box(tmp_path, retain_days=1)
    journal = await box.open()
    await some(journal, 5)
    await deliver(journal)
    box.clock.now_us += 2 * DAY_US
    before = journal.snapshot().commit
    await append(journal, entry(100))
    assert (journal.snapshot().commit, journal.snapshot().blocks) == (before + 1, 1)
    await journal.close()


async def test_an_idle_box_with_nothing_to_delete_writes_nothing(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    await some(journal, 2)
    before = journal.snapshot().commit
    await look(journal, 5)
    assert journal.snapshot().commit == before
    await journal.close()


async def test_under_pressure_settled_blocks_go_before_their_time_and_their_pages_are_used_again(tmp_path: Path) -> None:
    box = Box(tmp_path, quota_bytes=2 * 1024 * 1024, retain_days=1000)
    journal = await box.open()
    for at in range(400):
        made = await append(journal, entry(at, size=20_000))
        assert made[0].error is None
        await deliver(journal)
        assert journal.snapshot().bytes < 2 * 1024 * 1024
    assert route_of(journal).books.delivered == 400
    assert (tmp_path / "journal.db").stat().st_size < 2 * 1024 * 1024
    await journal.close()


async def test_under_pressure_even_the_audit_of_what_is_gone_gives_way(tmp_path: Path) -> None:
    """Else a small disk would be full of commit rows one day, and refuse messages for ever."""
    box = Box(tmp_path, quota_bytes=768 * 1024, retain_days=1000)
    journal = await box.open()
    for at in range(1200):
        made = await append(journal, entry(at))
        assert made[0].error is None
        if at % 10 == 0:
            await deliver(journal)
    await journal.close()
    journal = await box.open()
    assert route_of(journal).books.accepted == 1200
    await journal.close()


async def test_the_blocks_of_one_commit_go_together(tmp_path: Path) -> None:
    box = Box(tmp_path, retain_days=1)
    journal = await box.open()
    await append(journal, *[entry(at, size=60_000) for at in range(350)])
    await append(journal, entry(1000))
    assert journal.snapshot().blocks > 70
    result = await journal.read("all", journal.cursor("all"), 1)
    from gateway.model.cursor import Settlement

    await journal.settle(Settlement("all", result.after, result.deliveries))
    box.clock.now_us += 2 * DAY_US
    await look(journal, 5)
    assert journal.snapshot().blocks == 1
    await journal.close()
