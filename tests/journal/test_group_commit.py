"""Group commit: what is acknowledged, when, in which order, and what a failing disk does to it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest

from gateway.journal.audit import AuditKind
from gateway.journal.interface import Condition, JournalEventKind
from gateway.model.cursor import DeadLetter, Settlement
from gateway.model.errors import CapacityError, GatewayError, IntegrityError, LocalProtocolError, StorageError
from gateway.model.message import AppendGroup
from tests.journal.working import Box, Parked, append, condition_of, deliver, entry, faulty, leave, read_all, route_of, soon

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.journal.journal import Journal


async def tick(journal: Journal) -> None:
    """The second after a failure is over."""
    committer = journal._committer
    assert committer._retry is not None
    committer._retry.cancel()
    committer._try_again()
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_arrives_in_one_turn_of_the_loop_shares_one_commit(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    before = journal.snapshot().commit
    groups = await asyncio.gather(*[soon(journal, entry(at)) for at in range(10)])
    assert journal.snapshot().commit == before + 1
    assert [group.entries[0].seq for group in groups] == list(range(1, 11))
    await journal.close()


async def test_what_arrives_while_a_commit_runs_shares_the_next_one(tmp_path: Path) -> None:
    disk = Parked()
    journal = await Box(tmp_path, writing=disk).open()
    before = journal.snapshot().commit
    disk.parked = True
    first = soon(journal, entry(1))
    await asyncio.sleep(0.01)
    others = [soon(journal, entry(at)) for at in (2, 3, 4)]
    await asyncio.sleep(0.01)
    assert len(disk) == 1
    assert not any(group.done() for group in (first, *others))
    disk.parked = False
    disk.go()
    await asyncio.gather(first, *others)
    assert journal.snapshot().commit == before + 2
    await journal.close()


async def test_a_group_is_not_done_before_its_commit_returns(tmp_path: Path) -> None:
    disk = Parked()
    journal = await Box(tmp_path, writing=disk).open()
    disk.parked = True
    waiting = soon(journal, entry(1))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    disk.parked = False
    disk.go()
    assert (await waiting).entries[0].error is None
    await journal.close()


async def test_done_is_never_called_from_within_append(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    called: list[AppendGroup] = []
    await append(journal, entry(1))
    journal.append(AppendGroup([entry(1)], called.append))
    assert called == []
    await asyncio.sleep(0.01)
    assert len(called) == 1
    await journal.close()


async def test_groups_finish_in_the_order_of_their_appends_duplicates_and_refusals_included(tmp_path: Path) -> None:
    disk = Parked()
    journal = await Box(tmp_path, writing=disk).open()
    await append(journal, entry(1))
    disk.parked = True
    order: list[str] = []
    for name, made in {"new": entry(2), "copy of committed": entry(1), "copy of pending": entry(2), "newer": entry(3)}.items():
        journal.append(AppendGroup([made], lambda _group, name=name: order.append(name)))  # type: ignore[misc]
    await asyncio.sleep(0.01)
    assert order == []
    disk.parked = False
    disk.go()
    await asyncio.sleep(0.05)
    assert order == ["new", "copy of committed", "copy of pending", "newer"]
    await journal.close()


async def test_one_callback_that_raises_does_not_keep_the_others_from_theirs(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: told.append("told"))

    def broken(_group: AppendGroup) -> None:
        raise LocalProtocolError("broken")

    journal.append(AppendGroup([entry(1)], broken))
    done = soon(journal, entry(2))
    assert (await asyncio.wait_for(done, 5)).entries[0].error is None
    assert told
    await journal.close()


async def test_a_duplicate_of_a_pending_message_waits_for_it_and_shares_its_end(tmp_path: Path) -> None:
    disk = Parked()
    journal = await Box(tmp_path, writing=disk).open()
    disk.parked = True
    original, copy = soon(journal, entry(7)), soon(journal, entry(7))
    await asyncio.sleep(0.01)
    assert not copy.done()
    disk.parked = False
    disk.go()
    assert (await original).entries[0].seq == 1
    entries = (await copy).entries
    assert (entries[0].duplicate, entries[0].error) == (True, None)
    assert journal.snapshot().accepted == {"adt": 1}
    await journal.close()


async def test_a_failed_commit_fails_the_original_and_its_duplicates_and_forgets_the_key(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    faulty(journal).plan["COMMIT"] = [sqlite3.SQLITE_IOERR]
    groups = await asyncio.gather(soon(journal, entry(7)), soon(journal, entry(7)))
    assert all(isinstance(group.entries[0].error, StorageError) for group in groups)
    await tick(journal)
    again = await append(journal, entry(7))
    assert (again[0].error, again[0].duplicate) == (None, False)
    await journal.close()


async def test_the_same_control_id_with_other_content_is_accepted_and_flagged(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    await append(journal, entry(7))
    other = (await append(journal, entry(7, body=b"MSH|^~\\&|other")))[0]
    assert (other.duplicate, other.reused_control_id, other.seq) == (False, True, 2)
    await journal.close()


async def test_children_of_one_frame_commit_together_with_consecutive_numbers(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    children = [entry(at) for at in range(1500)]
    await append(journal, *children)
    assert [child.seq for child in children] == list(range(1, 1501))
    assert journal.snapshot().blocks == 3
    assert len({delivery.message.commit for delivery in await read_all(journal)}) == 1
    await journal.close()


# ---------------------------------------------------------------- trouble


async def test_an_error_of_the_disk_is_answered_at_once_and_tried_again_once_a_second(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    wrapped = faulty(journal)
    wrapped.plan["COMMIT"] = [sqlite3.SQLITE_IOERR]
    failed = (await append(journal, entry(1)))[0]
    assert isinstance(failed.error, StorageError)
    assert condition_of(journal) is Condition.READ_ONLY
    asked = len(wrapped.statements)
    for at in range(20):
        refused = (await append(journal, entry(at)))[0]
        assert refused.error is not None
        assert refused.error.code == "journal-io-error"
    assert len(wrapped.statements) == asked
    await tick(journal)
    assert condition_of(journal) is Condition.RUNNING
    assert (await append(journal, entry(1)))[0].error is None
    told = [event.kind for event in box.events]
    assert told.count(JournalEventKind.COMMIT_FAILED) == 1
    assert [event.condition for event in box.events if event.kind is JournalEventKind.CONDITION] == [Condition.READ_ONLY, Condition.RUNNING]
    await journal.close()


async def test_no_error_carries_a_word_of_sqlite(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    faulty(journal).plan["COMMIT"] = [sqlite3.SQLITE_IOERR]
    failed = (await append(journal, entry(1)))[0]
    assert failed.error is not None
    assert "patient" not in f"{failed.error}{failed.error!r}"
    assert failed.error.__cause__ is None
    await journal.close()


async def test_a_settlement_waits_for_the_disk_and_happens_exactly_once(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    await append(journal, entry(1), entry(2))
    result = await journal.read("all", journal.cursor("all"), 1 << 20)
    faulty(journal).plan["COMMIT"] = [sqlite3.SQLITE_IOERR]
    settled = journal.settle_soon(Settlement("all", result.after, result.deliveries))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not settled.done()
    assert route_of(journal).books.delivered == 0
    await tick(journal)
    await settled
    assert route_of(journal).books.delivered == 2
    await journal.close()


@pytest.mark.parametrize("settling", [True, False])
async def test_a_commit_that_reported_an_error_but_happened_is_found_and_not_done_twice(tmp_path: Path, settling: bool) -> None:
    journal = await Box(tmp_path).open()
    await append(journal, entry(1))
    result = await journal.read("all", journal.cursor("all"), 1 << 20)
    faulty(journal, late=True).plan["COMMIT"] = [sqlite3.SQLITE_IOERR]
    settled = journal.settle_soon(Settlement("all", result.after, result.deliveries)) if settling else None
    unlucky = (await append(journal, entry(2)))[0]
    assert unlucky.error is not None
    await tick(journal)
    if settled is not None:
        await settled
    assert route_of(journal).books.delivered == int(settling)
    again = (await append(journal, entry(2)))[0]
    assert (again.duplicate, again.error) == (True, None)
    assert route_of(journal).books.accepted == 2
    await deliver(journal)
    assert route_of(journal).books.delivered == 2
    await journal.close()


async def test_after_an_error_the_log_is_cut_before_anything_is_written_again(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    await append(journal, entry(1))
    faulty(journal).plan["COMMIT"] = [sqlite3.SQLITE_IOERR]
    await append(journal, entry(2))
    assert journal._opened.writer._connection is None
    await tick(journal)
    log = (tmp_path / "journal.db-wal").stat().st_size
    assert log < 5 * 4152 + 32
    await journal.close()


async def test_a_full_disk_refuses_appends_and_still_settles(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    await append(journal, entry(1))
    result = await journal.read("all", journal.cursor("all"), 1 << 20)
    faulty(journal).plan["INSERT INTO block"] = [sqlite3.SQLITE_FULL]
    settled = journal.settle_soon(Settlement("all", result.after, result.deliveries))
    refused = (await append(journal, entry(2)))[0]
    assert isinstance(refused.error, CapacityError)
    await settled
    assert route_of(journal).books.delivered == 1
    await journal.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_READONLY])
async def test_a_disk_that_fails_at_any_statement_loses_and_invents_nothing(tmp_path: Path, code: int) -> None:
    """One statement after the other of a stretch with appends, settlements, dead letters, replays and deletes fails once."""
    for at in range(60):
        box = Box(tmp_path / str(at), retain_days=0)
        journal = await box.open()
        await append(journal, entry(1), entry(2))
        wrapped = faulty(journal)
        wrapped.countdown, wrapped.code = at, code
        accepted = 2 + await busy(journal)
        while condition_of(journal) is not Condition.RUNNING:
            await tick(journal)
        await deliver(journal)
        replayed = await journal.requeued("all", 10, 1 << 20)
        await journal.settle(Settlement("all", journal.cursor("all"), tuple(replayed)))
        leave(journal)
        journal = await box.open()
        books = route_of(journal).books
        assert books.accepted >= accepted
        assert (books.delivered + books.dead_letter, books.queued) == (books.accepted, 0)
        assert JournalEventKind.SALVAGED not in [event.kind for event in box.events]
        await journal.close()
        if wrapped.countdown > -1:
            return  # the stretch is shorter than that
    raise AssertionError("the stretch has more statements: raise the range")


async def busy(journal: Journal) -> int:
    """The stretch; how many of its messages were accepted."""
    accepted = 0
    for at in range(10, 13):
        made = (await append(journal, entry(at)))[0]
        accepted += made.error is None
    result = await journal.read("all", journal.cursor("all"), 1 << 20)
    dead = (DeadLetter(result.deliveries[0], "rejected", "because"),)
    settled = journal.settle_soon(Settlement("all", result.after, result.deliveries[1:], dead=dead))
    while not settled.done():
        if journal._committer._retry is not None:
            await tick(journal)
        await asyncio.sleep(0)
    for row in await journal.dead_letters():
        with contextlib.suppress(GatewayError):
            await journal.replay_dead_letter([row.event_id], "root")
    return accepted


async def test_damage_found_while_writing_is_told_and_mended_at_the_next_open(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    await append(journal, entry(1))
    faulty(journal).plan["INSERT INTO block"] = [sqlite3.SQLITE_CORRUPT]
    refused = (await append(journal, entry(2)))[0]
    assert isinstance(refused.error, IntegrityError)
    await asyncio.sleep(0)
    assert JournalEventKind.DAMAGED in [event.kind for event in box.events]
    await journal.close()
    journal = await box.open()
    await asyncio.sleep(0)
    assert JournalEventKind.SALVAGED in [event.kind for event in box.events]
    assert [delivery.message.body for delivery in await read_all(journal)] == [entry(1).body]
    assert (await append(journal, entry(2)))[0].error is None
    await journal.close()


async def test_a_defect_of_the_writer_answers_instead_of_hanging(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["message"]))
    broken = entry(1)
    broken.received_us = "DOE^JOHN"  # type: ignore[assignment]
    failed = (await append(journal, broken))[0]
    assert failed.error is not None
    assert failed.error.code == "journal-defect"
    assert told
    assert "DOE" not in "".join(told)
    await tick(journal)
    assert (await append(journal, entry(2)))[0].error is None
    await journal.close()


async def test_a_note_is_durable_when_it_returns(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    await append(journal, entry(1))
    event = f"ward-3/{journal.incarnation}/1"
    await journal.note(AuditKind.REVEAL, {"what": "message"}, "root", event=event)
    leave(journal)
    journal = await box.open()
    told = [(fact.record.kind, fact.record.actor, fact.record.detail) for fact in await journal.trace(event)]
    assert told[1:] == [(AuditKind.REVEAL, "root", {"what": "message"})]
    await journal.close()


async def test_closing_answers_everybody(tmp_path: Path) -> None:
    disk = Parked()
    journal = await Box(tmp_path, writing=disk).open()
    disk.parked = True
    waiting = [soon(journal, entry(at)) for at in range(3)]
    closing = asyncio.ensure_future(journal.close())
    await asyncio.sleep(0.01)
    disk.parked = False
    disk.go()
    await closing
    assert all(group.done() and group.result().entries[0].error is None for group in waiting)
    late = (await append(journal, entry(9)))[0]
    assert late.error is not None
    assert late.error.code == "journal-closed"
    await journal.close()


async def test_closing_over_a_broken_disk_ends_and_fails_what_waits(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    await append(journal, entry(1))
    result = await journal.read("all", journal.cursor("all"), 1 << 20)
    faulty(journal).plan["COMMIT"] = [sqlite3.SQLITE_IOERR]
    settled = journal.settle_soon(Settlement("all", result.after, result.deliveries))
    for _ in range(3):
        await asyncio.sleep(0)
    await asyncio.wait_for(journal.close(), 5)
    assert isinstance(settled.exception(), StorageError)


async def test_the_probe_writes_reads_back_and_leaves_no_trace_in_the_audit(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    before = journal.snapshot().commit
    assert await journal.probe() >= 0
    assert await journal.probe() >= 0
    assert journal.snapshot().commit == before
    with Box(tmp_path).database() as database:
        assert database.execute("SELECT count(*) FROM probe").fetchone() == (1,)
    await journal.close()


async def test_the_probe_fails_while_the_disk_refuses(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    faulty(journal).plan["COMMIT"] = [sqlite3.SQLITE_READONLY]
    with pytest.raises(StorageError, match="journal-read-only"):
        await journal.probe()
    await journal.close()
