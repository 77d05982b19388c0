"""Dead letters and replays: every transition of the books, under the numbers that the receiver knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from gateway.journal.interface import ReplayResult, RouteRule
from gateway.model.cursor import START, DeadLetter, Settlement
from gateway.model.state import TRANSITIONS, Term
from gateway.model.traffic import TrafficClass
from tests.journal.working import Box, append, deliver, entry, leave, read_all, route_of

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.journal.journal import Journal

ADT, ALARM = TrafficClass.ADT, TrafficClass.ALARM
TWO = (RouteRule("all"), RouteRule("labs", frozenset({"lab"})))
EVER = 2**62


async def with_dead_letters(box: Box, *dead: int, count: int = 6) -> Journal:
    journal = await box.open()
    await append(journal, *[entry(at, traffic=ALARM if at % 2 else ADT) for at in range(count)])
    await deliver(journal, dead=dead)
    return journal


async def test_a_dead_letter_keeps_content_reason_and_numbers(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await with_dead_letters(box, 3, 4)
    leave(journal)
    journal = await box.open()
    rows = await journal.dead_letters("all")
    assert [(row.seq, row.traffic, row.laneseq, row.revision, row.code) for row in rows] == [
        (3, ADT, 2, 0, "rejected"),
        (4, ALARM, 2, 0, "rejected"),
    ]
    assert [row.term for row in rows] == [Term.DEAD_LETTER] * 2
    assert "DOE" not in repr(rows)
    assert "ward" not in repr(rows).replace("ward-3", "")
    content = await journal.exception_content(rows[0].event_id)
    assert content is not None
    assert (content.reason, content.message.body) == ("no such ward", entry(2).body)
    assert await journal.exception_content(rows[0].event_id.rsplit("/", 1)[0] + "/1") is None
    await journal.close()


async def test_a_replayed_dead_letter_is_queued_again_with_the_next_revision(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await with_dead_letters(box, 3)
    (row,) = await journal.dead_letters()
    woken: list[bool] = []
    journal.on_append(lambda: woken.append(True))
    assert await journal.replay_dead_letter([row.event_id], "root", "because") == [(row.event_id, "all")]
    assert await journal.replay_dead_letter([row.event_id], "root", "because") == []
    books = route_of(journal)
    assert (books.books.queued, books.books.dead_letter, books.books.accepted, books.requeued) == (1, 0, 6, 1)
    leave(journal)
    assert woken
    journal = await box.open()
    (delivery,) = await journal.requeued("all", 10, 1 << 20)
    assert (delivery.message.seq, delivery.laneseq, delivery.revision, delivery.requeued) == (3, 2, 1, True)
    assert await journal.requeued("all", 10, 1 << 20, after_seq=3) == []
    await journal.settle(Settlement("all", journal.cursor("all"), dead=(DeadLetter(delivery, "rejected", "still not"),)))
    (row,) = await journal.dead_letters()
    assert row.revision == 1
    await journal.replay_dead_letter([row.event_id], "root")
    (delivery,) = await journal.requeued("all", 10, 1 << 20)
    assert delivery.revision == 2
    await journal.settle(Settlement("all", journal.cursor("all"), (delivery,)))
    assert (route_of(journal).books.delivered, route_of(journal).books.queued) == (6, 0)
    await journal.close()


async def test_an_answer_to_an_older_revision_settles_nothing(tmp_path: Path) -> None:
    journal = await with_dead_letters(Box(tmp_path), 3)
    (row,) = await journal.dead_letters()
    await journal.replay_dead_letter([row.event_id], "root")
    (old,) = await journal.requeued("all", 10, 1 << 20)
    await journal.settle(Settlement("all", journal.cursor("all"), dead=(DeadLetter(old, "rejected"),)))
    await journal.replay_dead_letter([row.event_id], "root")
    await journal.settle(Settlement("all", journal.cursor("all"), (old,)))
    assert (route_of(journal).books.queued, route_of(journal).requeued) == (1, 1)
    await journal.close()


async def test_a_discarded_dead_letter_is_a_gap_that_its_receiver_is_told(tmp_path: Path) -> None:
    journal = await with_dead_letters(Box(tmp_path), 1, 3, 4)
    rows = await journal.dead_letters()
    assert len(await journal.discard_dead_letter([row.event_id for row in rows], "root", "obsolete")) == 3
    books = route_of(journal).books
    assert (books.gaps, books.dead_letter, books.queued, books.accepted) == (3, 0, 2, 8)
    events = [orjson.loads(delivery.message.body) for delivery in await read_all(journal)]
    assert sorted((event["lane"], event["from"], event["to"], event["reason"]) for event in events) == [
        ("all/adt", 1, 2, "discarded"),
        ("all/alarm", 2, 2, "discarded"),
    ]
    assert await journal.replay_dead_letter([rows[0].event_id], "root") == []
    assert journal.snapshot().accepted["gateway"] == 2
    await deliver(journal)
    assert route_of(journal).books.queued == 0
    await journal.close()


async def test_a_gap_event_is_for_its_own_route_only(tmp_path: Path) -> None:
    box = Box(tmp_path, TWO)
    journal = await box.open()
    await append(journal, entry(1, "lab"))
    await deliver(journal, "all")
    await deliver(journal, "labs", dead=[1])
    (row,) = await journal.dead_letters("labs")
    await journal.discard_dead_letter([row.event_id], "root")
    assert (route_of(journal, "all").books.accepted, route_of(journal, "labs").books.accepted) == (1, 2)
    assert await read_all(journal, "all") == []
    assert len(await read_all(journal, "labs")) == 1
    await journal.close()


async def test_ids_of_another_gateway_or_of_nothing_do_nothing(tmp_path: Path) -> None:
    journal = await with_dead_letters(Box(tmp_path), 3)
    (row,) = await journal.dead_letters()
    for wrong in ("nonsense", row.event_id.replace("ward-3", "ward-4"), row.event_id.rsplit("/", 1)[0] + "/1"):
        assert await journal.discard_dead_letter([wrong], "root") == []
    assert route_of(journal).books.dead_letter == 1
    await journal.close()


# ---------------------------------------------------------------- ranges


async def test_a_range_is_replayed_under_the_numbers_it_was_sent_under(tmp_path: Path) -> None:
    box = Box(tmp_path, TWO)
    journal = await box.open()
    for at in range(5):
        await append(journal, *[entry(at * 6 + part, "lab" if part % 3 else "adt", ALARM if part % 2 else ADT) for part in range(6)])
    sent = {delivery.message.seq: delivery for delivery in await deliver(journal, "labs", filtered=[9, 12])}
    since, until = entry(7).received_us, entry(16).received_us
    planned = await journal.replay_range("labs", since, until, dry_run=True, actor="root")
    assert route_of(journal, "labs").requeued == 0
    assert planned == await journal.replay_range("labs", since, until, dry_run=False, actor="root")
    assert planned == ReplayResult(5, 0, {"filtered": 2})
    replayed = await journal.requeued("labs", 100, 1 << 20)
    assert [delivery.message.seq for delivery in replayed] == [seq for seq in sent if 8 <= seq <= 17 and seq not in (9, 12)]
    for delivery in replayed:
        was = sent[delivery.message.seq]
        assert (delivery.message, delivery.laneseq, delivery.revision) == (was.message, was.laneseq, 1)
    again = await journal.replay_range("labs", since, until, dry_run=False, actor="root")
    assert again == ReplayResult(0, 0, {"filtered": 2, "queued": 5})
    await journal.close()


async def test_a_replayed_message_pins_its_block_until_it_is_settled(tmp_path: Path) -> None:
    box = Box(tmp_path, retain_days=1)
    journal = await box.open()
    for at in range(4):
        await append(journal, entry(at))
    await deliver(journal)
    await journal.replay_range("all", entry(1).received_us, entry(1).received_us, dry_run=False, actor="root")
    box.clock.now_us += 10 * 86_400_000_000
    await append(journal, entry(9))
    assert [delivery.message.body for delivery in await journal.requeued("all", 9, 1 << 20)] == [entry(1).body]
    assert journal.snapshot().blocks == 4
    await journal.settle(Settlement("all", journal.cursor("all"), tuple(await journal.requeued("all", 9, 1 << 20))))
    await append(journal, entry(10))
    assert journal.snapshot().blocks == 2
    with box.database() as database:
        assert database.execute("SELECT count(*) FROM exception").fetchone() == (0,)
    await journal.close()


async def test_what_is_queued_still_is_not_replayed(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    await append(journal, entry(1), entry(2))
    assert await journal.replay_range("all", 0, EVER, dry_run=False, actor="root") == ReplayResult(0, 0, {"queued": 2})
    result = await journal.read("all", START, 1 << 20)
    assert len(result.deliveries) == 2
    await journal.close()


async def test_a_range_of_many_blocks_takes_several_commits_and_misses_nothing(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    for at in range(30):
        await append(journal, *[entry(at * 10 + part) for part in range(10)])
    await deliver(journal, dead=[17])
    before = journal.snapshot().commit
    assert await journal.replay_range("all", 0, EVER, dry_run=False, actor="root") == ReplayResult(299, 1, {})
    assert journal.snapshot().commit > before + 1
    assert [d.message.seq for d in await journal.requeued("all", 1000, 1 << 30)] == list(range(1, 301))
    await journal.close()


def test_only_the_transitions_of_the_table_exist() -> None:
    assert TRANSITIONS["replay"] == ((Term.DELIVERED, Term.DEAD_LETTER), Term.QUEUED)
    assert TRANSITIONS["discard"] == ((Term.DEAD_LETTER,), Term.GAP)
    assert TRANSITIONS["dead-letter"] == ((Term.QUEUED,), Term.DEAD_LETTER)
