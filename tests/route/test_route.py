"""The loop: what it overlaps, what it waits for, how it ends."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gateway.model.errors import GatewayError, StorageError
from gateway.model.message import Delivery
from gateway.model.receipt import Answered, BatchRejected, Blocked, Failed, RouteState
from gateway.route.delivery import DispatchRules
from gateway.route.route import Route, RouteServices
from tests.route.fakes import ACCEPTED, ROUTE, FakeJournal, FakeLog, LoopClock, ScriptedSink, SeededRandomness, stored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from gateway.model.cursor import Cursor, ReadResult, Settlement
    from gateway.model.receipt import Outcome

RULES = DispatchRules(ROUTE, max_messages=4, max_bytes=100_000, first_s=0.001, cap_s=0.002)


class Running:
    """A route with its fakes."""

    def __init__(self, journal: FakeJournal, sink: ScriptedSink, rules: DispatchRules = RULES) -> None:
        self.journal = journal
        self.sink = sink
        self.log = FakeLog()
        services = RouteServices(LoopClock(), SeededRandomness(), self.log, "ward-3", lambda: len(journal.dead))
        self.route = Route(replace(rules, linger_s=sink.linger_s), sink, journal, services)

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(journal: FakeJournal, sink: ScriptedSink | None = None, rules: DispatchRules = RULES) -> AsyncIterator[Running]:
    it = Running(journal, sink or ScriptedSink(), rules)
    task = asyncio.create_task(it.route.run())
    try:
        yield it
    finally:
        await it.route.stop(5)
        await task


def journal_of(count: int) -> FakeJournal:
    return FakeJournal([stored(seq) for seq in range(1, count + 1)])


async def test_everything_is_delivered_in_order_and_settled() -> None:
    async with running(journal_of(30)) as it:
        await it.until(lambda: it.journal.queued == 0)
    assert [seq for batch in it.sink.seqs for seq in batch] == list(range(1, 31))
    assert it.route.counts.delivered == 30


async def test_a_commit_wakes_the_route() -> None:
    async with running(FakeJournal()) as it:
        await asyncio.sleep(0.01)
        it.journal.append([stored(1)])
        await asyncio.wait_for(it.until(lambda: it.journal.queued == 0), 0.5)


async def test_one_message_and_then_silence_is_delivered() -> None:
    async with running(journal_of(1), ScriptedSink(linger_s=0.05)) as it:
        await it.until(lambda: it.journal.queued == 0)
    assert it.sink.seqs == [[1]]


async def test_the_next_batch_is_prepared_while_one_is_under_way() -> None:
    journal = journal_of(16)
    journal.commits_per_read = 16
    async with running(journal, ScriptedSink(delay_s=0.01)) as it:
        await it.until(lambda: it.journal.queued == 0)
    assert it.sink.prepared == it.sink.batches[1:]


async def test_sending_goes_on_while_a_settlement_waits_for_the_disk() -> None:
    journal = journal_of(12)
    journal.settle_delay_s = 0.2
    async with running(journal) as it:
        await it.until(lambda: len(it.sink.batches) >= 3)
        assert len(it.journal.settlements) <= 1
        await it.until(lambda: it.journal.queued == 0)
    assert len(it.journal.settlements) <= 3


async def test_a_settlement_that_fails_is_tried_again_and_nothing_is_counted_twice() -> None:
    journal = journal_of(12)
    journal.fail_next = [StorageError("disk-io")]
    async with running(journal) as it:
        await it.until(lambda: it.journal.queued == 0)
        delivered = [d.message.seq for d in journal.delivered]
        assert sorted(delivered) == list(range(1, 13))
    assert it.route.counts.settle_failures == 1


async def test_a_journal_that_cannot_be_read_is_asked_again() -> None:
    journal = journal_of(3)
    failures: list[GatewayError] = [StorageError("disk-io")]
    read = journal.read

    async def failing(route: str, after: Cursor, max_bytes: int) -> ReadResult:
        if failures:
            raise failures.pop()
        return await read(route, after, max_bytes)

    journal.read = failing  # type: ignore[method-assign]
    async with running(journal) as it:
        await it.until(lambda: it.journal.queued == 0)


async def test_stop_waits_for_the_answer_under_way_and_settles_it() -> None:
    async with running(journal_of(8), ScriptedSink(delay_s=0.1)) as it:
        await it.until(lambda: it.sink.batches)
    assert len(it.sink.batches) == 1
    assert [d.message.seq for d in it.journal.delivered] == it.sink.seqs[0]
    assert it.sink.closed
    assert it.route.outlook.state is RouteState.STOPPED


async def test_stop_abandons_an_answer_that_does_not_come_and_the_next_start_sends_it_again() -> None:
    journal = journal_of(2)
    it = Running(journal, ScriptedSink(delay_s=1000))
    task = asyncio.create_task(it.route.run())
    await it.until(lambda: it.sink.batches)
    await it.route.stop(0.05)
    await task
    assert it.journal.queued == 2
    async with running(journal) as again:
        await again.until(lambda: journal.queued == 0)
    assert again.sink.seqs == [[1, 2]]


async def test_stop_before_run_closes_the_sink() -> None:
    it = Running(FakeJournal(), ScriptedSink())
    await it.route.stop(1)
    assert it.sink.closed


async def test_a_route_that_failed_starts_again_from_the_settled_cursor() -> None:
    bugs = [RuntimeError()]

    def answer(_batch: Sequence[Delivery]) -> Outcome | None:
        if bugs and it.journal.delivered:
            raise bugs.pop()
        return None

    it = Running(journal_of(12), ScriptedSink(answer))
    with pytest.raises(RuntimeError):
        await it.route.run()
    task = asyncio.create_task(it.route.run())
    await it.until(lambda: it.journal.queued == 0)
    await it.route.stop(1)
    await task
    assert sorted(d.message.seq for d in it.journal.delivered) == list(range(1, 13))


async def test_changes_of_state_are_told_once_with_their_cause() -> None:
    failures = [Failed("connect-refused")] * 5

    def answer(_batch: Sequence[Delivery]) -> Outcome | None:
        return failures.pop() if failures else None

    async with running(journal_of(4), ScriptedSink(answer)) as it:
        await it.until(lambda: it.journal.queued == 0)
        await it.until(lambda: any(name == "route-caught-up" for name, _ in it.log.lines))
    assert next(line for name, line in it.log.lines if name == "route-caught-up")["messages"] == 4
    told = [(line["state"], line["code"]) for name, line in it.log.lines if name == "route-state-changed"]
    assert told == [("retrying", "connect-refused"), ("offline", "connect-refused"), ("online", "none")]


async def test_dead_letters_are_told_by_event_id_without_the_reason() -> None:
    def answer(batch: Sequence[Delivery]) -> Outcome | None:
        return BatchRejected("http-422", "PID is DOE") if any(d.message.seq == 2 for d in batch) else None

    async with running(journal_of(4), ScriptedSink(answer)) as it:
        await it.until(lambda: it.journal.queued == 0)
        await it.until(lambda: it.route.counts.dead_letters)
    line = next(line for name, line in it.log.lines if name == "dead-lettered")
    assert line == {"route": ROUTE, "code": "http-422", "event_id": f"ward-3/{stored(2).incarnation}/2"}


async def test_replayed_messages_are_found_and_delivered_once() -> None:
    journal = journal_of(3)
    async with running(journal) as it:
        await it.until(lambda: it.journal.queued == 0)
        journal.replays = [Delivery(stored(seq), seq, revision=1, requeued=True) for seq in (1, 2)]
        await it.until(lambda: not journal.replays)
        await asyncio.sleep(0.01)
    assert [(d.message.seq, d.revision) for batch in it.sink.batches for d in batch if d.requeued] == [(1, 1), (2, 1)]


async def test_a_stopped_route_goes_on_when_the_operator_has_decided_and_the_replay_goes_first() -> None:
    fixed = False

    def answer(batch: Sequence[Delivery]) -> Outcome | None:
        return None if fixed or batch[0].message.seq != 1 else BatchRejected("http-422")

    journal = journal_of(3)
    journal.commits_per_read = 1
    async with running(journal, ScriptedSink(answer, max_messages=1), replace(RULES, max_messages=1, stop_on_reject=True)) as it:
        await it.until(lambda: journal.dead)
        await it.until(lambda: it.route.outlook.state is RouteState.STOPPED)
        assert it.sink.seqs == [[1], [1], [1]]
        fixed = True
        journal.replays = [Delivery(stored(1), 1, revision=1, requeued=True)]
        journal.dead.clear()
        await it.until(lambda: it.journal.queued == 0 and not journal.replays)
    assert it.sink.seqs[3:] == [[1], [2], [3]]


async def test_a_route_with_dead_letters_under_stop_starts_stopped() -> None:
    journal = journal_of(3)
    journal.dead = {99: "http-422"}
    async with running(journal, rules=replace(RULES, stop_on_reject=True)) as it:
        await asyncio.sleep(0.05)
        assert it.route.outlook.state is RouteState.STOPPED
        assert not it.sink.batches
        journal.dead.clear()
        await it.until(lambda: journal.queued == 0)


async def test_a_blocked_route_shows_cause_and_time_and_a_slow_journal_does_not_hide_it() -> None:
    def answer(_batch: Sequence[Delivery]) -> Outcome:
        return Blocked(RouteState.AUTH_BLOCKED, "http-401", 3.0)

    async with running(journal_of(3), ScriptedSink(answer)) as it:
        await it.until(lambda: it.route.outlook.state is RouteState.AUTH_BLOCKED)
        outlook = it.route.outlook
        assert outlook.code == "http-401"
        assert outlook.next_attempt_s is not None
        assert 2 < outlook.next_attempt_s <= 3


async def test_an_idle_route_does_nothing_but_look_for_replays() -> None:
    async with running(journal_of(1)) as it:
        await it.until(lambda: it.journal.queued == 0)
        await asyncio.sleep(0.05)
        reads = it.journal.reads
        await asyncio.sleep(1.2)
        assert it.journal.reads == reads


async def test_what_is_answered_during_a_settlement_goes_into_the_next_one() -> None:
    settled: list[int] = []
    journal = journal_of(40)
    apply = journal.settle

    async def slow(settlement: Settlement) -> None:
        settled.append(len(settlement.delivered))
        await asyncio.sleep(0.05)
        await apply(settlement)

    journal.settle = slow  # type: ignore[method-assign]
    async with running(journal, ScriptedSink(lambda batch: Answered((ACCEPTED,) * len(batch)))) as it:
        await it.until(lambda: it.journal.queued == 0)
    assert len(settled) < len(it.sink.batches)
    assert sum(settled) == 40


async def test_a_long_replay_does_not_wait_for_the_next_look() -> None:
    journal = FakeJournal()
    journal.replays = [Delivery(stored(seq), seq, revision=1, requeued=True) for seq in range(1, 41)]
    requeued = journal.requeued

    async def few(route: str, limit: int, max_bytes: int) -> Sequence[Delivery]:
        return (await requeued(route, limit, max_bytes))[:4]

    journal.requeued = few  # type: ignore[method-assign]
    async with running(journal) as it:
        await asyncio.wait_for(it.until(lambda: not journal.replays), 2)
    assert [d.message.seq for batch in it.sink.batches for d in batch] == list(range(1, 41))
