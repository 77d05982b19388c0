"""A bad, huge, slow or hostile peer hurts only its own connection, and memory stays within its budget."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.observe.events import LogEvent
from gateway.source.mllp_session import IN_FLIGHT_BYTES, ITEM_BYTES
from gateway.source.reception import NOTES_A_CHUNK
from gateway.transport.byte_budget import FLOOR_BYTES, ByteBudget
from tests.source.memory_journal import MemoryJournal
from tests.source.sending import CR, FS, VT, framed, hl7, mllp, until

if TYPE_CHECKING:
    from tests.source.sending import Running, Sender

MIB = 1024 * 1024


async def _served(running: Running, sender: Sender, count: int) -> float:
    """Send ``count`` messages in lock step; the longest wait in seconds."""
    loop = asyncio.get_running_loop()
    longest_s = 0.0
    for i in range(count):
        began_s = loop.time()
        sender.send(framed(hl7(f"S{len(running.journal.stored)}-{i}")))
        await sender.get(len(sender.answers) + 1)
        longest_s = max(longest_s, loop.time() - began_s)
    return longest_s


async def _send_for_ever(sender: Sender) -> None:
    sent = 0
    while True:
        sender.send(framed(*[hl7(f"D{sent + i}") for i in range(100)]))
        await sender.writer.drain()
        sent += 100
        await asyncio.sleep(0)


async def test_two_hundred_slow_senders_are_cut_off_while_one_is_served() -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(mllp(frame_timeout_s=0.5, max_connections_per_address=256))
        slow = [await stack.enter_async_context(running.sender()) for _ in range(200)]
        good = await stack.enter_async_context(running.sender())
        for i, sender in enumerate(slow):
            sender.send(VT + hl7(f"L{i}")[: 20 + i % 40])
        await until(lambda: running.source.counts.connections == 201)
        assert await _served(running, good, 20) < 1.0
        await until(lambda: running.source.counts.connections == 1)
        assert len(running.journal.refusals) == 200
        assert await _served(running, good, 1) < 1.0


async def test_a_thousand_connections_with_garbage_leave_nothing_behind() -> None:
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(mllp())
        good = await stack.enter_async_context(running.sender())
        for i in range(1000):
            async with running.sender() as scanner:
                scanner.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" if i % 2 else bytes([i % 11 + 40]) * 200)
                if i % 50 == 0:
                    assert await _served(running, good, 1) < 1.0
        await until(lambda: running.source.counts.connections == 1)
        assert not running.source._reception.services.budget.used_bytes


async def test_a_flood_of_empty_frames_is_answered_noted_in_part_and_slowed_down() -> None:
    async with mllp() as running, running.sender() as flood, running.sender() as good:
        await until(lambda: running.source.counts.connections == 2)
        flood.send((VT + FS + CR) * 10_000)
        await flood.get(10_000)
        assert set(flood.codes) == {("AR", "")}
        assert running.source.counts.refused == 10_000
        assert len(running.journal.refusals) <= NOTES_A_CHUNK * 20
        assert await _served(running, good, 5) < 1.0


async def test_a_sender_that_never_reads_its_answers_does_not_fill_the_memory() -> None:
    async with mllp(frame_timeout_s=0.3) as running, running.sender() as deaf, running.sender() as good:
        transport = deaf.writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        with pytest.raises(ConnectionError):
            await _send_for_ever(deaf)
        assert await _served(running, good, 5) < 1.0
        await until(lambda: running.source.counts.connections == 1)
        assert {fields["cause"] for fields in running.log.of(LogEvent.CONNECTION_CLOSED)} == {"answers-not-read"}


async def test_one_connection_has_only_so_much_in_flight_and_goes_on_after_the_commit() -> None:
    journal = MemoryJournal(stalled=True)
    async with mllp(journal) as running, running.sender() as sender:
        bodies = [hl7(f"M{i}", rest=b"OBX|1|TX|||" + b"A" * 10_000 + CR) for i in range(400)]
        sender.send(framed(*bodies))
        await sender.settle(0.2)
        held = sum(journal.groups) * (len(bodies[0]) + ITEM_BYTES)
        assert IN_FLIGHT_BYTES <= held < IN_FLIGHT_BYTES + 300_000
        journal.go_on()
        await sender.get(400)
        assert journal.bodies == bodies


async def test_tiny_frames_behind_a_stalled_commit_are_bounded_too() -> None:
    journal = MemoryJournal(stalled=True)
    async with mllp(journal) as running, running.sender() as sender:
        sender.send(framed(hl7("A")))
        await until(lambda: journal.waiting)
        sender.send((VT + FS + CR) * 100_000)
        await sender.settle(0.3)
        assert running.source.counts.refused < 15_000
        budget = running.source._reception.services.budget
        assert budget.used_bytes >= running.source.counts.refused * ITEM_BYTES
        journal.go_on()
        await sender.get(running.source.counts.refused + 1)


async def test_when_the_budget_is_used_up_large_frames_wait_their_turn_and_small_ones_do_not() -> None:
    budget = ByteBudget(2 * MIB, tick_s=0.05)
    big = [hl7(f"BIG{i}", rest=b"OBX|1|TX|||" + b"A" * (MIB + i) + CR) for i in range(6)]
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(mllp(budget=budget))
        senders = [await stack.enter_async_context(running.sender()) for _ in big]
        small = await stack.enter_async_context(running.sender())
        for sender, body in zip(senders, big, strict=True):
            sender.send(VT + body[: MIB - 100_000])
        await until(lambda: budget.waiting)
        assert budget.used_bytes < 2 * MIB + 6 * (FLOOR_BYTES + 65536) + MIB
        assert await _served(running, small, 10) < 1.0
        for sender, body in zip(senders, big, strict=True):
            sender.send(body[MIB - 100_000 :] + FS + CR)
        for sender in senders:
            await sender.get(1)
        assert {body for body in running.journal.bodies if len(body) > MIB} == set(big)
        assert not budget.used_bytes
        assert not budget.waiting
        assert running.log.of(LogEvent.READING_PAUSED)


async def test_a_large_frame_that_stalls_while_others_wait_for_its_memory_is_cut_off() -> None:
    budget = ByteBudget(MIB, tick_s=0.02)
    big = hl7("BIG", rest=b"OBX|1|TX|||" + b"A" * 900_000 + CR)
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(mllp(budget=budget))
        hoarders = [await stack.enter_async_context(running.sender()) for _ in range(6)]
        for hoarder in hoarders:
            hoarder.send(VT + hl7("H")[:-1] + b"A" * 300_000)
        await until(lambda: budget.used_bytes > MIB)
        honest = await stack.enter_async_context(running.sender())
        honest.send(framed(big))
        await honest.get(1, 10.0)
        assert honest.codes == [("AA", "BIG")]
        for hoarder in hoarders:
            hoarder.writer.close()
        await until(lambda: "frame-too-slow" in {fields["cause"] for fields in running.log.of(LogEvent.CONNECTION_CLOSED)})


PIECES = (VT, FS, CR, b"\n", b"MSH|^~\\&|", b"A|B|", b"\x00", hl7("Q"), b"FHS|", b"BHS|^~\\&|", b"BTS|1\r", b"MSA|AA|1\r")


@settings(max_examples=60)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
async def test_no_bytes_of_a_sender_raise_anything_and_the_books_are_balanced(pieces: list[bytes]) -> None:
    """Nothing reaches the loop's exception handler, and afterwards no memory is counted for anybody."""
    trouble: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: trouble.append(context))
    async with mllp() as running, running.sender() as sender:
        sender.send(b"".join(pieces))
        sender.writer.write_eof()
        await sender.end()
        await until(lambda: running.source.counts.connections == 0)
        assert not running.source._reception.services.budget.used_bytes
        positive = sum(code in ("AA", "CA") for code, _ in sender.codes)
        assert positive <= len(running.journal.stored) + running.source.counts.duplicates + len(pieces)
    assert not trouble
