"""Reading and settling: order, lane numbers, positions inside a commit, routing of the past."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gateway.journal.interface import RouteRule
from gateway.model.cursor import START, Cursor, DeadLetter, Settlement
from gateway.model.errors import LocalProtocolError
from gateway.model.traffic import TrafficClass
from tests.journal.working import Box, append, deliver, entry, leave, read_all, route_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.journal.journal import Journal
    from gateway.model.message import Delivery

ADT, ALARM, RESULT = TrafficClass.ADT, TrafficClass.ALARM, TrafficClass.RESULT
TWO = (RouteRule("all"), RouteRule("labs", frozenset({"lab"})))


def numbers(deliveries: list[Delivery] | tuple[Delivery, ...]) -> list[int]:
    return [delivery.message.seq for delivery in deliveries]


async def mixed(journal: Journal) -> None:
    """One commit, three classes in turn, two sources."""
    classes = (ADT, RESULT, ALARM)
    await append(journal, *[entry(at, "lab" if at % 2 else "adt", classes[at % 3]) for at in range(12)])


async def test_messages_of_one_commit_come_in_the_order_of_their_arrival_over_all_classes(tmp_path: Path) -> None:
    journal = await Box(tmp_path, TWO).open()
    await mixed(journal)
    found = await read_all(journal)
    assert numbers(found) == list(range(1, 13))
    assert [delivery.laneseq for delivery in found] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    labs = await read_all(journal, "labs")
    assert numbers(labs) == [2, 4, 6, 8, 10, 12]
    assert [(d.message.traffic, d.laneseq) for d in labs] == [(RESULT, 1), (ADT, 1), (ALARM, 1), (RESULT, 2), (ADT, 2), (ALARM, 2)]
    await journal.close()


async def test_a_read_takes_whole_commits_about_as_many_bytes_as_asked_and_at_least_one_message(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    for at in range(6):
        await append(journal, entry(at, size=10_000), entry(100 + at))
    one = await journal.read("all", START, 1)
    assert numbers(one.deliveries) == [1, 2]
    more = await journal.read("all", one.after, 25_000)
    assert numbers(more.deliveries) == [3, 4, 5, 6]
    nothing = await journal.read("all", (await journal.read("all", more.after, 1 << 20)).after, 1 << 20)
    assert nothing.deliveries == ()
    await journal.close()


async def test_a_message_comes_back_byte_for_byte(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    bodies = [b"", b"\xef\xbb\xbfMSH|", bytes(range(256)), b"MSH|^~\\&|a\nPID|b", b"x" * 300_000]
    await append(journal, *[entry(at, body=body) for at, body in enumerate(bodies)])
    assert [delivery.message.body for delivery in await read_all(journal)] == bodies
    await journal.close()


async def test_a_cursor_in_the_middle_of_a_commit_goes_on_with_the_same_lane_numbers(tmp_path: Path) -> None:
    box = Box(tmp_path, TWO)
    journal = await box.open()
    await append(journal, entry(50), entry(51, traffic=ALARM))
    await mixed(journal)
    found = await read_all(journal)
    commit = found[-1].message.commit
    settled, rest = found[:7], found[7:]
    lanes = {ADT: 3, ALARM: 2, RESULT: 2}
    cursor = Cursor(commit, 7, lanes, {ADT: 2, RESULT: 2, ALARM: 1})
    await journal.settle(Settlement("all", cursor, tuple(settled)))
    leave(journal)
    journal = await box.open()
    assert journal.cursor("all") == cursor
    assert await read_all(journal) == rest
    await journal.close()


async def test_what_is_settled_beyond_the_cursor_is_not_read_again_after_a_crash(tmp_path: Path) -> None:
    box = Box(tmp_path, TWO)
    journal = await box.open()
    await mixed(journal)
    found = await read_all(journal)
    beyond = tuple(delivery for delivery in found if delivery.message.source == "lab")
    await journal.settle(Settlement("all", replace(START, beyond=tuple(numbers(beyond))), beyond))
    leave(journal)
    journal = await box.open()
    again = await read_all(journal)
    assert again == [delivery for delivery in found if delivery.message.source == "adt"]
    assert journal.cursor("all").beyond == (2, 4, 6, 8, 10, 12)
    end = (await journal.read("all", journal.cursor("all"), 1 << 20)).after
    await journal.settle(Settlement("all", end, tuple(again)))
    assert route_of(journal).books.queued == 0
    assert journal.cursor("all").beyond == ()
    await journal.close()


async def test_settling_twice_changes_nothing(tmp_path: Path) -> None:
    journal = await Box(tmp_path, TWO).open()
    await mixed(journal)
    result = await journal.read("all", START, 1 << 20)
    dead = DeadLetter(result.deliveries[3], "rejected", "because")
    settlement = Settlement("all", result.after, result.deliveries[:3], result.deliveries[4:], (dead,), proof="200")
    await journal.settle(settlement)
    before, commit = route_of(journal), journal.snapshot().commit
    await journal.settle(settlement)
    assert route_of(journal) == before
    assert journal.snapshot().commit == commit
    assert (before.books.delivered, before.books.filtered, before.books.dead_letter, before.books.queued) == (3, 8, 1, 0)
    await journal.close()


async def test_a_cursor_that_passes_a_message_nobody_settled_is_refused(tmp_path: Path) -> None:
    journal = await Box(tmp_path, TWO).open()
    await mixed(journal)
    result = await journal.read("all", START, 1 << 20)
    with pytest.raises(LocalProtocolError, match="cursor-miscounts"):
        await journal.settle(Settlement("all", result.after, result.deliveries[:-1]))
    assert route_of(journal).books.delivered == 0
    assert journal.cursor("all") == START
    await journal.close()


async def test_an_unknown_route_is_told_so(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    with pytest.raises(LocalProtocolError, match="route-unknown"):
        await journal.settle(Settlement("nobody", START))
    with pytest.raises(LocalProtocolError, match="route-unknown"):
        await journal.read("nobody", START, 1)
    assert journal.cursor("nobody") == START
    await journal.close()


async def test_a_route_with_a_rare_source_moves_along_and_pins_nothing(tmp_path: Path) -> None:
    journal = await Box(tmp_path, TWO).open()
    for at in range(20):
        await append(journal, entry(at, "adt"))
    assert journal.cursor("labs").seq == 20
    await append(journal, entry(100, "lab"))
    found = await read_all(journal, "labs")
    assert (numbers(found), found[0].laneseq) == ([21], 1)
    stale = await journal.read("labs", START, 1 << 20)
    await journal.settle(Settlement("labs", stale.after, stale.deliveries))
    assert route_of(journal, "labs").books.queued == 0
    await journal.close()


async def test_the_age_of_a_queue_is_that_of_its_oldest_message(tmp_path: Path) -> None:
    journal = await Box(tmp_path, TWO).open()
    assert route_of(journal).oldest_us is None
    for at in range(3):
        await append(journal, entry(at, "adt"))
    made = entry(10, "lab")
    await append(journal, made)
    assert route_of(journal).oldest_us == entry(0).received_us
    assert route_of(journal, "labs").oldest_us == made.received_us
    await deliver(journal, "labs")
    assert route_of(journal, "labs").oldest_us is None
    await journal.close()


# ---------------------------------------------------------------- routing changes


async def test_a_route_added_later_accepts_from_its_start(tmp_path: Path) -> None:
    box = Box(tmp_path, (RouteRule("all"),))
    journal = await box.open()
    await append(journal, entry(1), entry(2))
    await journal.close()
    box.routes = (RouteRule("all"), RouteRule("new"))
    journal = await box.open()
    await append(journal, entry(3))
    found = await read_all(journal, "new")
    assert (numbers(found), found[0].laneseq) == ([3], 1)
    assert route_of(journal, "new").books.accepted == 1
    assert route_of(journal, "all").books.accepted == 3
    await journal.close()


async def test_a_queued_message_stays_the_business_of_the_routing_in_force_when_it_came(tmp_path: Path) -> None:
    box = Box(tmp_path, (RouteRule("r", frozenset({"adt"})),))
    journal = await box.open()
    await append(journal, entry(1, "adt"), entry(2, "lab"))
    await journal.close()
    box.routes = (RouteRule("r", frozenset({"lab"})),)
    journal = await box.open()
    await append(journal, entry(3, "adt"), entry(4, "lab"))
    assert numbers(await read_all(journal, "r")) == [1, 4]
    assert route_of(journal, "r").books.accepted == 2
    await deliver(journal, "r")
    assert route_of(journal, "r").books.queued == 0
    await journal.close()


async def test_a_removed_route_stays_listed_while_it_owes_something_and_comes_back_where_it_was(tmp_path: Path) -> None:
    box = Box(tmp_path, TWO)
    journal = await box.open()
    await mixed(journal)
    await journal.close()
    box.routes = (RouteRule("all"),)
    journal = await box.open()
    await append(journal, entry(99, "lab"))
    gone = route_of(journal, "labs")
    assert (gone.configured, gone.books.queued, gone.books.accepted) == (False, 6, 6)
    await deliver(journal)
    await journal.close()
    box.routes = TWO
    journal = await box.open()
    await append(journal, entry(100, "lab"))
    assert numbers(await read_all(journal, "labs")) == [2, 4, 6, 8, 10, 12, 14]
    assert route_of(journal, "labs").configured
    await deliver(journal, "labs")
    await journal.close()
    box.routes = (RouteRule("all"),)
    journal = await box.open()
    assert [route.name for route in journal.snapshot().routes] == ["all"]
    await journal.close()


async def test_the_same_configuration_again_changes_nothing_but_the_incarnation(tmp_path: Path) -> None:
    box = Box(tmp_path, TWO)
    journal = await box.open()
    await mixed(journal)
    incarnations = {journal.incarnation}
    before = [replace(route, oldest_us=None) for route in journal.snapshot().routes]
    for _ in range(20):
        await journal.close()
        journal = await box.open()
        incarnations.add(journal.incarnation)
        assert [replace(route, oldest_us=None) for route in journal.snapshot().routes] == before
        assert len(journal._committer.last.state.versions) == 1
    assert len(incarnations) == 21
    assert {delivery.message.incarnation for delivery in await read_all(journal)} < incarnations
    await journal.close()


# ---------------------------------------------------------------- looking


async def test_a_message_is_found_by_its_event_id_among_many_commits(tmp_path: Path) -> None:
    journal = await Box(tmp_path, TWO).open()
    for at in range(60):
        await append(journal, *[entry(at * 5 + part, traffic=(ADT, ALARM)[part % 2]) for part in range(1 + at % 5)])
    for delivery in await read_all(journal):
        event = f"ward-3/{delivery.message.incarnation}/{delivery.message.seq}"
        assert await journal.message(event) == delivery.message
    last = journal.snapshot().next_seq
    for wrong in (f"ward-3/{journal.incarnation}/{last}", f"ward-3/{'0' * 32}/1", f"ward-4/{journal.incarnation}/1", "nonsense"):
        assert await journal.message(wrong) is None
    await journal.close()


async def test_the_queue_lists_what_waits_without_content(tmp_path: Path) -> None:
    journal = await Box(tmp_path, TWO).open()
    await mixed(journal)
    rows = await journal.queue("labs", 4)
    assert [row.seq for row in rows] == [2, 4, 6, 8]
    assert rows[0].size_bytes == len(entry(1).body)
    assert "DOE" not in repr(rows)
    assert len(await journal.queue("labs")) == 6
    assert route_of(journal, "labs").books.queued == 6
    await journal.close()


async def test_a_trace_tells_every_recorded_fact_in_order(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    await append(journal, entry(1), entry(2))
    await deliver(journal, dead=[2])
    (row,) = await journal.dead_letters()
    await journal.replay_dead_letter([row.event_id], "root", "the ward exists now")
    replayed = await journal.requeued("all", 10, 1 << 20)
    await journal.settle(Settlement("all", journal.cursor("all"), tuple(replayed), proof="200"))
    told = [(fact.record.kind.value, fact.record.actor) for fact in await journal.trace(row.event_id)]
    assert told == [("accept", ""), ("dead-letter", ""), ("replay", "root"), ("deliver", "")]
    other = row.event_id.rsplit("/", 1)[0] + "/1"
    assert [fact.record.kind.value for fact in await journal.trace(other)] == ["accept", "deliver"]
    assert await journal.trace("nonsense") == []
    await journal.close()
