"""Blocks that cannot be read: put aside, declared as gaps with exact numbers, and never in the way of their neighbours."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.journal.interface import JournalEventKind, RouteRule
from gateway.model.cursor import START, Cursor, Settlement
from gateway.model.errors import IntegrityError
from gateway.model.traffic import TrafficClass
from tests.journal.working import Box, append, deliver, entry, leave, read_all, route_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.journal.journal import Journal

ADT, ALARM = TrafficClass.ADT, TrafficClass.ALARM
TWO = (RouteRule("all"), RouteRule("labs", frozenset({"lab"})))


def damage(box: Box, row: int) -> None:
    with box.database() as database:
        (sealed,) = database.execute("SELECT sealed FROM block WHERE id = ?", (row,)).fetchone()
        database.execute("UPDATE block SET sealed = ? WHERE id = ?", (sealed[:-1] + bytes([sealed[-1] ^ 1]), row))


def rows(box: Box) -> list[int]:
    with box.database() as database:
        return [row for (row,) in database.execute("SELECT id FROM block ORDER BY id")]


async def filled(box: Box) -> Journal:
    journal = await box.open()
    for at in range(3):
        await append(journal, *[entry(at * 10 + part, "lab" if part % 2 else "adt", ADT if part < 4 else ALARM) for part in range(6)])
    return journal


async def gap_events(journal: Journal, route: str) -> list[dict[str, object]]:
    found = await read_all(journal, route, START)
    return [orjson.loads(delivery.message.body) for delivery in found if delivery.message.kind == "gateway.gap"]


@pytest.mark.parametrize("gone", [False, True])
async def test_a_lost_block_becomes_a_declared_gap_and_its_neighbours_live(tmp_path: Path, gone: bool) -> None:
    box = Box(tmp_path, TWO)
    journal = await filled(box)
    row = rows(box)[2]
    if gone:
        with box.database() as database:
            database.execute("DELETE FROM block WHERE id = ?", (row,))
    else:
        damage(box, row)
    found = await read_all(journal)
    assert [d.message.seq for d in found if d.message.source != "gateway"] == [*range(1, 7), 11, 12, *range(13, 19)]
    lanes = [d.laneseq for d in found if d.message.traffic is ADT]
    assert lanes == [1, 2, 3, 4, 9, 10, 11, 12]
    books = route_of(journal).books
    assert (books.gaps, books.queued) == (4, 15)
    assert await gap_events(journal, "all") == [{"lane": "all/adt", "from": 5, "to": 8, "count": 4, "reason": "quarantined"}]
    labs = [d.message.seq for d in await read_all(journal, "labs")]
    assert labs == [2, 4, 6, 12, 14, 16, 18, 20]
    assert (await gap_events(journal, "labs"))[0]["count"] == 2
    with box.database() as database:
        assert database.execute("SELECT count(*) FROM quarantine").fetchone() == (1,)
    assert [(event.route, event.count) for event in box.events if event.kind is JournalEventKind.QUARANTINED] == [("all", 4), ("labs", 2)]
    await deliver(journal)
    await deliver(journal, "labs")
    assert all(route.books.queued == 0 for route in journal.snapshot().routes)
    await journal.close()


@pytest.mark.parametrize("lost", [[0], [1], [2], [3], [4], [5], [0, 1], [1, 2], [2, 3], [4, 5], [1, 4], [0, 1, 2, 3, 4, 5]])
async def test_blocks_that_are_gone_are_found_wherever_they_lay(tmp_path: Path, lost: list[int]) -> None:
    box = Box(tmp_path)
    journal = await filled(box)
    held = {0: range(1, 5), 1: range(5, 7), 2: range(7, 11), 3: range(11, 13), 4: range(13, 17), 5: range(17, 19)}
    with box.database() as database:
        ids = rows(box)
        database.executemany("DELETE FROM block WHERE id = ?", [(ids[at],) for at in lost])
    found = await read_all(journal)
    kept = [seq for at, seqs in held.items() if at not in lost for seq in seqs]
    assert [d.message.seq for d in found if d.message.source != "gateway"] == kept
    assert [d.laneseq for d in found if d.message.traffic is ADT] == [
        4 * commit + part + 1 for commit in range(3) for part in range(4) if 2 * commit not in lost
    ]
    assert route_of(journal).books.gaps == 18 - len(kept)
    await deliver(journal)
    assert route_of(journal).books.queued == 0
    await journal.close()


async def test_a_gap_is_declared_once_whatever_is_read_again(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await filled(box)
    damage(box, rows(box)[0])
    for _ in range(3):
        await read_all(journal)
    leave(journal)
    journal = await box.open()
    await read_all(journal)
    assert route_of(journal).books.gaps == 4
    assert len(await gap_events(journal, "all")) == 1
    await deliver(journal)
    await read_all(journal)
    assert (route_of(journal).books.gaps, route_of(journal).books.queued) == (4, 0)
    await journal.close()


async def test_only_what_was_not_settled_is_lost(tmp_path: Path) -> None:
    """Of a block that was partly delivered before it rotted, only the rest is declared."""
    box = Box(tmp_path)
    journal = await box.open()
    await append(journal, *[entry(at) for at in range(10)])
    found = await read_all(journal)
    commit = found[0].message.commit
    settled = [*found[:3], found[5], found[8]]
    await journal.settle(Settlement("all", Cursor(commit, 3, {ADT: 3}, {ADT: 3}, (6, 9)), tuple(settled)))
    damage(box, rows(box)[0])
    leave(journal)
    journal = await box.open()
    assert [d.message.kind for d in await read_all(journal)] == ["gateway.gap"] * 3
    declared = [(event["from"], event["to"]) for event in await gap_events(journal, "all")]
    assert declared == [(4, 5), (7, 8), (10, 10)]
    books = route_of(journal).books
    assert (books.delivered, books.gaps, books.queued) == (5, 5, 3)
    await deliver(journal)
    assert route_of(journal).books.queued == 0
    await journal.close()


async def test_columns_that_were_changed_by_hand_are_not_believed(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await filled(box)
    with box.database() as database:
        database.execute("UPDATE block SET class = 1, census = ? WHERE id = ?", (b'[["adt","",2],["lab","",2]]', rows(box)[2]))
    with pytest.raises(IntegrityError, match="journal-damaged"):
        await read_all(journal)
    assert route_of(journal).books.gaps == 0
    await asyncio.sleep(0)
    assert JournalEventKind.DAMAGED in [event.kind for event in box.events]
    await journal.close()
    journal = await box.open()
    assert len(await read_all(journal)) == 18
    await journal.close()


async def test_a_dead_letter_outlives_the_rot_of_its_block(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await filled(box)
    await deliver(journal, dead=[2])
    damage(box, rows(box)[0])
    (row,) = await journal.dead_letters()
    await journal.replay_dead_letter([row.event_id], "root")
    (delivery,) = await journal.requeued("all", 10, 1 << 20)
    assert delivery.message.body == entry(1).body
    await journal.close()
