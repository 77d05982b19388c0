"""The journal against a plain-dict model: whatever happens, the equation holds and every seq is in exactly one term."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.journal.interface import RouteRule
from gateway.model.cursor import Cursor, DeadLetter, Settlement
from gateway.model.message import GATEWAY_SOURCE, AppendGroup, Entry
from gateway.model.state import Term
from gateway.model.traffic import TrafficClass
from tests.journal.working import Box, append, entry, faulty, leave, soon

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gateway.journal.journal import Journal
    from gateway.model.message import Delivery

ROUTES = (RouteRule("all"), RouteRule("labs", frozenset({"lab"})))
CLASSES = (TrafficClass.ADT, TrafficClass.RESULT, TrafficClass.ALARM)
DAY_US = 86_400_000_000
_T = TypeVar("_T")


@dataclass
class Message:
    """What the model knows of an accepted message."""

    seq: int
    source: str
    traffic: TrafficClass
    body: bytes
    only: str = ""
    readable: bool = True

    def is_for(self, route: str) -> bool:
        return self.only == route if self.only else route == "all" or self.source == "lab"


@dataclass
class Consumer:
    """A route as the gateway's routes are: reads ahead, settles out of order, forgets everything in a crash."""

    name: str
    low: Cursor
    reading: Cursor
    window: list[tuple[Delivery, bool]] = field(default_factory=list)
    ends: list[tuple[int, Cursor]] = field(default_factory=list)

    @classmethod
    def start(cls, journal: Journal, name: str) -> Consumer:
        cursor = journal.cursor(name)
        return cls(name, cursor, cursor)

    def waiting(self) -> list[Delivery]:
        return [delivery for delivery, settled in self.window if not settled]

    def settle(self, taken: set[int]) -> Cursor:
        """Mark these seqs; the new low water: the end of each read result all of which is settled."""
        self.window = [(delivery, settled or delivery.message.seq in taken) for delivery, settled in self.window]
        while self.ends and all(settled for delivery, settled in self.window if delivery.message.seq <= self.ends[0][0]):
            seq, self.low = self.ends.pop(0)
            self.window = [(delivery, settled) for delivery, settled in self.window if delivery.message.seq > seq]
        return self.low


class JournalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="journal-model"))
        self.runner = asyncio.Runner()
        self.numbers = itertools.count(1)
        self.messages: dict[int, Message] = {}
        self.terms: dict[str, dict[int, Term]] = {"all": {}, "labs": {}}
        self.revisions: dict[str, Counter[int]] = defaultdict(Counter)
        self.requeued: dict[str, set[int]] = {"all": set(), "labs": set()}
        self.remembered: dict[tuple[str, int], bytes] = {}
        self.retired: set[int] = set()
        self.journal: Journal | None = None

    @initialize()
    def begin(self) -> None:
        self.box = Box(self.folder / "0", ROUTES, reserve_bytes=4096)
        self.journal = self.go(self.box.open())
        self.consumers = {name: Consumer.start(self.open, name) for name in ("all", "labs")}

    def teardown(self) -> None:
        try:
            if self.journal is not None:
                self.drain()
        finally:
            if self.journal is not None:
                self.go(self.open.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    def go(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.runner.run(work)

    @property
    def open(self) -> Journal:
        assert self.journal is not None
        return self.journal

    # ------------------------------------------------------------ what happens

    @rule(data=st.data(), size=st.integers(1, 5))
    def append_group(self, data: st.DataObject, size: int) -> None:
        self.note(self.go(append(self.open, *[self.draw(data) for _ in range(size)])))

    @rule(data=st.data())
    def append_twice_at_once(self, data: st.DataObject) -> None:
        first = self.draw(data)
        again = Entry(
            first.source, first.body, first.traffic, first.kind, first.received_us, first.clock_state, first.identity, first.restamp
        )

        async def both() -> tuple[AppendGroup, AppendGroup]:
            one, two = soon(self.open, first), soon(self.open, again)
            return await one, await two

        groups = self.go(both())
        self.note([*groups[0].entries, *groups[1].entries])

    @rule(data=st.data(), late=st.booleans())
    def append_to_a_failing_disk(self, data: st.DataObject, late: bool) -> None:
        made = self.draw(data)
        planned = faulty(self.open, late=late).plan
        planned["COMMIT"] = [sqlite3.SQLITE_IOERR]
        before = self.open.snapshot().next_seq
        self.go(append(self.open, made))
        planned.clear()
        if made.duplicate:
            return  # answered from memory, the disk was not asked
        assert made.error is not None
        self.go(self.disk_is_back())
        if late and self.open.snapshot().next_seq > before:
            made.error = None
            self.note([made])

    async def disk_is_back(self) -> None:
        committer = self.open._committer
        if committer._retry is not None:
            committer._retry.cancel()
            committer._try_again()
        while committer.condition.value != "running":
            await asyncio.sleep(0)

    @rule(name=st.sampled_from(["all", "labs"]), max_bytes=st.sampled_from([1, 300, 100_000]))
    def read(self, name: str, max_bytes: int) -> None:
        consumer = self.consumers[name]
        before = self.open.snapshot().next_seq
        result = self.go(self.open.read(name, consumer.reading, max_bytes))
        got = {delivery.message.seq for delivery in result.deliveries}
        terms = self.terms[name]
        passed = {seq for seq in terms if consumer.reading.seq < seq <= result.after.seq and terms[seq] is Term.QUEUED}
        lost = {seq for seq in passed - self.requeued[name] if not self.messages[seq].readable}
        for seq in lost:
            terms[seq] = Term.GAP
        assert got == passed - lost - self.requeued[name]
        for delivery in result.deliveries:
            self.check(name, delivery)
            assert delivery.revision == 0
        self.note_gap_events(name, before)
        consumer.window += [(delivery, False) for delivery in result.deliveries]
        if result.after != consumer.reading:
            consumer.ends.append((result.after.seq, result.after))
        consumer.reading = result.after

    @rule(data=st.data(), name=st.sampled_from(["all", "labs"]))
    def settle(self, data: st.DataObject, name: str) -> None:
        consumer = self.consumers[name]
        waiting = consumer.waiting()
        chosen = data.draw(st.lists(st.sampled_from(waiting), unique=True)) if waiting else []
        fates = [data.draw(st.sampled_from([Term.DELIVERED, Term.DELIVERED, Term.FILTERED, Term.DEAD_LETTER])) for _ in chosen]
        cursor = consumer.settle({delivery.message.seq for delivery in chosen})
        self.apply(name, cursor, list(zip(chosen, fates, strict=True)), again=data.draw(st.booleans()))

    @rule(data=st.data(), name=st.sampled_from(["all", "labs"]))
    def settle_replayed(self, data: st.DataObject, name: str) -> None:
        replayed = self.go(self.open.requeued(name, 10, 1 << 20))
        readable = {seq for seq in self.requeued[name] if self.messages[seq].readable or seq not in self.retired}
        assert {delivery.message.seq for delivery in replayed} <= readable
        for delivery in replayed:
            self.check(name, delivery)
            assert delivery.revision == self.revisions[name][delivery.message.seq]
        fates = [data.draw(st.sampled_from([Term.DELIVERED, Term.FILTERED, Term.DEAD_LETTER])) for _ in replayed]
        self.requeued[name] -= {delivery.message.seq for delivery in replayed}
        self.apply(name, self.consumers[name].low, list(zip(replayed, fates, strict=True)), again=data.draw(st.booleans()))

    def apply(self, name: str, cursor: Cursor, fates: list[tuple[Delivery, Term]], *, again: bool) -> None:
        def of(term: Term) -> tuple[Delivery, ...]:
            return tuple(delivery for delivery, fate in fates if fate is term)

        dead = tuple(DeadLetter(delivery, "rejected", "text of the destination") for delivery in of(Term.DEAD_LETTER))
        settlement = Settlement(name, cursor, of(Term.DELIVERED), of(Term.FILTERED), dead)
        self.go(self.open.settle(settlement))
        if again:  # a route that did not hear the answer asks once more
            self.go(self.open.settle(settlement))
        for delivery, fate in fates:
            self.terms[name][delivery.message.seq] = fate

    def dead(self, name: str) -> list[int]:
        return [seq for seq, term in self.terms[name].items() if term is Term.DEAD_LETTER]

    @precondition(lambda self: any(self.dead(name) for name in self.terms))
    @rule(data=st.data(), discard=st.booleans())
    def decide_on_dead_letters(self, data: st.DataObject, discard: bool) -> None:
        name = data.draw(st.sampled_from([name for name in self.terms if self.dead(name)]))
        chosen = data.draw(st.lists(st.sampled_from(self.dead(name)), unique=True, min_size=1))
        rows = {row.seq: row for row in self.go(self.open.dead_letters(name))}
        assert set(rows) == set(self.dead(name))
        before = self.open.snapshot().next_seq
        act = self.open.discard_dead_letter if discard else self.open.replay_dead_letter
        done = self.go(act([rows[seq].event_id for seq in chosen], "root", "because", name))
        assert len(done) == len(chosen)
        for seq in chosen:
            if discard:
                self.terms[name][seq] = Term.GAP
            else:
                self.requeue(name, seq)
        self.note_gap_events(name, before)

    @rule(name=st.sampled_from(["all", "labs"]), dry_run=st.booleans())
    def replay_everything(self, name: str, dry_run: bool) -> None:
        self.note_retired()
        kept = {seq for seq in self.terms[name] if self.messages[seq].readable and seq not in self.retired}
        delivered = {seq for seq in kept if self.terms[name][seq] is Term.DELIVERED}
        dead = {seq for seq in kept if self.terms[name][seq] is Term.DEAD_LETTER}
        result = self.go(self.open.replay_range(name, 0, 2**62, dry_run=dry_run, actor="root"))
        assert (result.delivered, result.dead_letter) == (len(delivered), len(dead))
        if not dry_run:
            for seq in delivered | dead:
                self.requeue(name, seq)

    def requeue(self, name: str, seq: int) -> None:
        self.terms[name][seq] = Term.QUEUED
        self.requeued[name].add(seq)
        self.revisions[name][seq] += 1

    @rule(days=st.sampled_from([1, 8]))
    def time_passes(self, days: int) -> None:
        self.box.clock.now_us += days * DAY_US
        for _ in range(3):
            self.go(self.look())
        self.note_retired()

    def note_retired(self) -> None:
        """Deletes ride in any commit; what is gone must have been settled."""
        database = self.box.database()
        kept = {seq for first, last in database.execute("SELECT first_seq, last_seq FROM block") for seq in range(first, last + 1)}
        database.close()
        gone = set(self.messages) - kept - self.retired
        for name, terms in self.terms.items():
            for seq in gone & set(terms):
                assert terms[seq] is not Term.QUEUED or seq in self.requeued[name]
        self.retired |= gone

    async def look(self) -> None:
        self.open._committer.look()
        for _ in range(5):
            await asyncio.sleep(0)

    @rule(data=st.data())
    def a_block_rots(self, data: st.DataObject) -> None:
        database = self.box.database()
        rows = database.execute("SELECT id, first_seq, last_seq, sealed FROM block WHERE sealed IS NOT NULL").fetchall()
        fresh = [
            row
            for row in rows
            if self.is_untouched(row[1], row[2]) and all(self.messages[s].readable for s in self.seqs_of(database, row[0]))
        ]
        if fresh:
            row, _, _, sealed = data.draw(st.sampled_from(fresh))
            at = data.draw(st.integers(0, len(sealed) - 1))
            damaged = sealed[:at] + bytes([sealed[at] ^ 0x20]) + sealed[at + 1 :]
            database.execute("UPDATE block SET sealed = ? WHERE id = ?", (damaged, row))
            for seq in self.seqs_of(database, row):
                self.messages[seq].readable = False
        database.close()

    def is_untouched(self, first: int, last: int) -> bool:
        """Read by no route yet, so that the model knows at which read the loss is found."""
        return all(consumer.reading.seq < first and not consumer.reading.beyond for consumer in self.consumers.values()) and not any(
            self.terms[name].get(seq, Term.QUEUED) is not Term.QUEUED for name in self.terms for seq in range(first, last + 1)
        )

    def seqs_of(self, database: sqlite3.Connection, row: int) -> list[int]:
        traffic, first, last = database.execute("SELECT class, first_seq, last_seq FROM block WHERE id = ?", (row,)).fetchone()
        return [seq for seq in range(first, last + 1) if self.messages[seq].traffic.code == traffic]

    @rule(clean=st.booleans())
    def start_again(self, clean: bool) -> None:
        if clean:
            self.go(self.open.close())
        else:
            copied = self.box.copy(self.folder / str(next(self.numbers)))
            self.go(self.abandon())
            self.box = copied
        self.journal = self.go(self.box.open())
        self.consumers = {name: Consumer.start(self.open, name) for name in ("all", "labs")}

    async def abandon(self) -> None:
        leave(self.open)

    # ------------------------------------------------------------ what must be true

    @invariant()
    def the_books_are_those_of_the_model(self) -> None:
        if self.journal is None:
            return
        for route in self.open.snapshot().routes:
            counts = Counter(self.terms[route.name].values())
            books = route.books
            assert books.accepted == len(self.terms[route.name])
            assert books.queued == counts[Term.QUEUED]
            assert books.delivered == counts[Term.DELIVERED]
            assert books.dead_letter == counts[Term.DEAD_LETTER]
            assert books.filtered == counts[Term.FILTERED]
            assert books.gaps == counts[Term.GAP]
            assert route.requeued == len(self.requeued[route.name])
            assert (route.oldest_us is None) == (books.queued == 0)

    def drain(self) -> None:
        """In the end everything that is queued can be delivered, with the right content and number."""
        for name in self.terms:
            self.consumers[name] = Consumer.start(self.open, name)
            position = None
            while position != self.consumers[name].reading:
                position = self.consumers[name].reading
                self.read(name, 1 << 20)
            waiting = self.consumers[name].waiting()
            cursor = self.consumers[name].settle({delivery.message.seq for delivery in waiting})
            self.apply(name, cursor, [(delivery, Term.DELIVERED) for delivery in waiting], again=False)
            replayed = self.go(self.open.requeued(name, 10_000, 1 << 30))
            assert {delivery.message.seq for delivery in replayed} == self.requeued[name]
            self.requeued[name].clear()
            self.apply(name, cursor, [(delivery, Term.DELIVERED) for delivery in replayed], again=False)
            assert Term.QUEUED not in self.terms[name].values()
        self.the_books_are_those_of_the_model()

    def check(self, name: str, delivery: Delivery) -> None:
        """A delivery carries what was accepted, under the number that it has had from the beginning."""
        known = self.messages[delivery.message.seq]
        assert delivery.message.body == known.body
        assert (delivery.message.source, delivery.message.traffic) == (known.source, known.traffic)
        lane = sum(1 for seq, m in self.messages.items() if seq <= known.seq and m.traffic is known.traffic and m.is_for(name))
        assert delivery.laneseq == lane

    # ------------------------------------------------------------ the model's side of an append

    def draw(self, data: st.DataObject) -> Entry:
        number = data.draw(st.integers(1, 12))
        source = data.draw(st.sampled_from(["adt", "lab"]))
        traffic = data.draw(st.sampled_from(CLASSES))
        body = b"MSH|^~\\&|A|B|C|D|||ADT^A01|%d|P|2.5\r%d\r" % (number, data.draw(st.integers(0, 2)))
        return entry(number, source, traffic, body=body, anonymous=data.draw(st.booleans()))

    def note(self, entries: list[Entry]) -> None:
        for made in entries:
            key = (made.source, int(made.identity[2])) if made.identity else None
            if made.error is not None:
                continue
            if made.duplicate:
                assert key is not None
                assert self.remembered[key] == made.body
                continue
            assert made.seq not in self.messages
            assert made.seq == max(self.messages, default=0) + 1
            if key is not None:
                assert made.reused_control_id == (key in self.remembered)
                self.remembered[key] = made.body
            self.admit(Message(made.seq, made.source, made.traffic, made.body))

    def note_gap_events(self, name: str, before: int) -> None:
        """Events that the gateway made since: one message each, for this route only."""
        for seq in range(before, self.open.snapshot().next_seq):
            found = self.go(self.open.message(f"ward-3/{self.open.incarnation}/{seq}"))
            assert found is not None
            assert found.kind == "gateway.gap"
            self.admit(Message(seq, GATEWAY_SOURCE, TrafficClass.AUDIT, found.body, only=name))

    def admit(self, message: Message) -> None:
        self.messages[message.seq] = message
        for name, terms in self.terms.items():
            if message.is_for(name):
                terms[message.seq] = Term.QUEUED


TestJournalModel = JournalMachine.TestCase
TestJournalModel.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
