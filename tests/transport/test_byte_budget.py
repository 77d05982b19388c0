"""The memory budget: small connections never wait, large ones take turns, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.transport.byte_budget import FLOOR_BYTES, PATIENCE_S, ByteBudget, Share

LIMIT = 1_000_000
SMALL, LARGE = FLOOR_BYTES // 2, 600_000


@dataclass(eq=False)
class Connection:
    """``reading`` as the budget says, unless ``busy`` with something of its own."""

    waits: bool = False
    busy: bool = False
    evicted: int = 0

    @property
    def reading(self) -> bool:
        return not self.waits and not self.busy

    def wait_for_room(self) -> None:
        self.waits = True

    def room(self) -> None:
        self.waits = False

    def evict(self) -> None:
        self.evicted += 1


def _share(budget: ByteBudget) -> tuple[Share, Connection]:
    connection = Connection()
    return Share(budget, connection), connection


async def test_a_small_connection_never_waits() -> None:
    budget = ByteBudget(LIMIT)
    big, _ = _share(budget)
    big.read(LARGE, 0, 2 * LIMIT)
    for _ in range(50):
        share, connection = _share(budget)
        share.read(SMALL, SMALL, 0)
        assert connection.reading


async def test_one_large_frame_goes_on_over_the_limit_and_the_next_waits_for_it() -> None:
    budget = ByteBudget(LIMIT)
    (first, a), (second, b), (third, c) = _share(budget), _share(budget), _share(budget)
    first.read(LARGE, 0, LARGE)
    second.read(LARGE, 0, LARGE)  # over: this one has the pass
    third.read(LARGE, 0, LARGE)
    first.read(LARGE, 0, LARGE + 1)
    assert (a.waits, b.waits, c.waits) == (True, False, True)
    second.read(10, LARGE, 0)  # complete, so now it waits for the journal; the eldest large frame inherits the pass
    assert (a.waits, b.waits, c.waits) == (True, True, False)
    second.give_back(LARGE)
    third.read(10, 0, 0)
    assert (a.waits, b.waits) == (False, False)
    assert budget.used_bytes == LARGE + 1


async def test_waiting_for_the_journal_ends_with_its_answer() -> None:
    budget = ByteBudget(LIMIT)
    share, connection = _share(budget)
    other, _ = _share(budget)
    other.read(LARGE, LARGE, 0)
    share.read(LARGE, LARGE, 0)
    assert connection.waits
    share.give_back(LARGE)
    assert not connection.waits


async def test_when_bytes_come_back_those_who_wait_go_on_in_the_order_in_which_they_came() -> None:
    budget = ByteBudget(LIMIT)
    holder, _ = _share(budget)
    holder.read(LIMIT, LIMIT, 0)
    waiting = [_share(budget) for _ in range(6)]
    for share, _ in waiting:
        share.read(FLOOR_BYTES + 2000, FLOOR_BYTES + 2000, 0)
    assert budget.waiting == 6
    for share, _ in waiting:
        share.give_back(1000)  # still over the limit, and still too large to go on
    assert budget.waiting == 6
    holder.give_back(waiting[0][0].in_flight_bytes * 6 + 40_000)
    woken = [not connection.waits for _, connection in waiting]
    assert woken == sorted(woken, reverse=True)
    assert 0 < sum(woken) < 6
    holder.give_back(holder.in_flight_bytes)
    assert budget.waiting == 0 or sum(not connection.waits for _, connection in waiting) > sum(woken)


async def test_a_connection_that_is_gone_gives_up_its_place_and_its_pass() -> None:
    budget = ByteBudget(LIMIT)
    (first, _), (second, b) = _share(budget), _share(budget)
    first.read(LIMIT, 0, LIMIT + 1)
    second.read(LARGE, 0, LARGE)
    assert [b.waits] == [True]
    first.drop()
    assert [b.waits] == [False]
    second.drop()
    assert budget.used_bytes == 0
    assert budget.waiting == 0


async def test_who_holds_much_and_brings_little_while_others_wait_is_evicted() -> None:
    budget = ByteBudget(LIMIT, tick_s=0.005)
    (slow, s), (fast, f), (paused, p), (waiter, w) = [_share(budget) for _ in range(4)]
    for share in (slow, fast, paused):
        share.read(300_000, 0, 300_000)
    p.busy = True
    pass_holder, _ = _share(budget)
    pass_holder.read(300_000, 0, 300_000)
    waiter.read(LARGE, 0, LARGE)
    assert w.waits
    async with asyncio.timeout(5.0):
        while s.evicted == 0:
            fast.read(50_000, 0, 300_000)
            await asyncio.sleep(0.001)
    assert (f.evicted, p.evicted) == (0, 0)
    for share in (slow, fast, paused, pass_holder, waiter):
        share.drop()


async def test_nobody_is_evicted_while_nobody_waits() -> None:
    budget = ByteBudget(LIMIT, tick_s=0.001)
    share, connection = _share(budget)
    share.read(300_000, 0, 300_000)
    await asyncio.sleep(0.002 * (PATIENCE_S + 3))
    assert not connection.evicted


@pytest.mark.parametrize("limit", [LIMIT, 3_000_000])
@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["read", "grow", "commit", "drop"]), st.integers(1, 400_000)), max_size=80)
)
def test_the_sum_is_always_right_and_somebody_large_can_always_go_on(limit: int, steps: list[tuple[int, str, int]]) -> None:
    """After any history: used = sum of the shares, and where all wait, something in flight will wake them."""
    asyncio.run(_history(limit, steps))


async def _history(limit: int, steps: list[tuple[int, str, int]]) -> None:
    budget = ByteBudget(limit, tick_s=1e6)
    pairs = [_share(budget) for _ in range(6)]
    for index, act, size in steps:
        share, connection = pairs[index]
        if act == "read" and not connection.waits:
            share.read(size, size, 0)
        elif act == "grow" and not connection.waits:
            share.read(size, 0, share.partial_bytes + size)
        elif act == "commit":
            share.give_back(min(size, share.in_flight_bytes))
        elif act == "drop":
            share.drop()
            share.give_back(share.in_flight_bytes)
            pairs[index] = _share(budget)
        assert budget.used_bytes == sum(one.held_bytes for one, _ in pairs)
        assert budget.waiting == sum(one.waits for _, one in pairs)
        held = [(one, other) for one, other in pairs if one.held_bytes > FLOOR_BYTES]
        if held and all(other.waits for _, other in held):
            assert any(one.in_flight_bytes for one, _ in held)
        assert not any(other.waits for one, other in pairs if one.held_bytes <= FLOOR_BYTES)
    for share, _ in pairs:
        share.give_back(share.in_flight_bytes)
        share.drop()
    assert budget.used_bytes == 0
    assert budget.waiting == 0
    if budget._tick is not None:
        budget._tick.cancel()
