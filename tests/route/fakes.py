"""Small real classes in place of clock, randomness, journal and destination."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.model.clock import ClockState
from gateway.model.cursor import Cursor, ReadResult, Settlement
from gateway.model.message import Delivery, StoredMessage
from gateway.model.receipt import Answered, Verdict, VerdictKind
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gateway.model.errors import GatewayError
    from gateway.model.receipt import Outcome
    from gateway.observe.events import LogEvent

ACCEPTED = Verdict(VerdictKind.ACCEPTED)
INCARNATION = "0123456789abcdef0123456789abcdef"
ROUTE = "everything"


class FakeClock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def wall_us(self) -> int:
        return 1_790_000_000_000_000 + int(self.now_s * 1_000_000)

    def monotonic_s(self) -> float:
        return self.now_s

    def state(self) -> ClockState:
        return ClockState.SYNCED


class LoopClock(FakeClock):
    """The loop's own time, for tests with sockets."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


class SeededRandomness:
    """Repeatable."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def bytes(self, n: int) -> bytes:
        return self._random.randbytes(n)

    def uniform(self) -> float:
        return self._random.random()


class FixedRandomness(SeededRandomness):
    """Always the same number, 1.0 = the longest wait."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def uniform(self) -> float:
        return self._value


def stored(
    seq: int,
    source: str = "adt",
    *,
    commit: int | None = None,
    traffic: TrafficClass = TrafficClass.ADT,
    incarnation: str = INCARNATION,
    body: bytes = b"",
    kind: str = "hl7.v2.ADT.A01",
) -> StoredMessage:
    """One committed message; without a body a small one with its own MSH-10."""
    return StoredMessage(
        incarnation=incarnation,
        seq=seq,
        commit=seq if commit is None else commit,
        source=source,
        traffic=traffic,
        kind=kind,
        charset="utf-8",
        received_us=1_790_000_000_000_000 + seq,
        clock_state=ClockState.SYNCED,
        ordering_key=f"{seq:016x}",
        body=body or b"MSH|^~\\&|MON|ICU|GW|HOSP|20261122120000||ADT^A01^ADT_A01|C%d|P|2.5.1\rPID|1||100001^^^H^MR||DOE^JANE\r" % seq,
        envelope=b"",
        route="",
    )


@dataclass
class FakeJournal:
    """The reading and settling rules of ``model/cursor.py`` over a list; counts every term.

    ``quarantined``: seqs that cannot be read; they keep their numbers.
    """

    messages: list[StoredMessage] = field(default_factory=list)
    settled: Cursor = field(default_factory=Cursor)
    settlements: list[Settlement] = field(default_factory=list)
    replays: list[Delivery] = field(default_factory=list)
    delivered: list[Delivery] = field(default_factory=list)
    filtered: list[Delivery] = field(default_factory=list)
    dead: dict[int, str] = field(default_factory=dict)
    quarantined: frozenset[int] = frozenset()
    fail_next: list[GatewayError] = field(default_factory=list)
    commits_per_read: int = 3
    reads: int = 0
    settle_delay_s: float = 0.0
    _listeners: list[Callable[[], None]] = field(default_factory=list)

    def append(self, messages: Iterable[StoredMessage]) -> None:
        self.messages.extend(messages)
        for listener in self._listeners:
            listener()

    def laneseq(self, message: StoredMessage) -> int:
        return sum(1 for other in self.messages if other.traffic is message.traffic and other.seq <= message.seq)

    def cursor(self, route: str) -> Cursor:
        del route
        return self.settled

    def read_now(self, after: Cursor, commits: int) -> ReadResult:
        """The next ``commits`` commits behind ``after``, without what is settled beyond it."""
        numbers = sorted({m.commit for m in self.messages if m.seq > after.seq})[:commits]
        if not numbers:
            return ReadResult((), after)
        held = [m for m in self.messages if m.seq > after.seq and m.commit <= numbers[-1]]
        laneseq = dict(after.laneseq)
        partial: dict[TrafficClass, int] = {}
        deliveries = []
        for message in held:
            laneseq[message.traffic] = laneseq.get(message.traffic, 0) + 1
            if message.seq not in after.beyond and message.seq not in self.quarantined:
                deliveries.append(Delivery(message, laneseq[message.traffic]))
        for message in self.messages:
            if message.commit == numbers[-1]:
                partial[message.traffic] = partial.get(message.traffic, 0) + 1
        last = held[-1]
        beyond = tuple(seq for seq in after.beyond if seq > last.seq)
        return ReadResult(tuple(deliveries), Cursor(numbers[-1], last.seq, laneseq, partial, beyond))

    async def read(self, route: str, after: Cursor, max_bytes: int) -> ReadResult:
        del route, max_bytes
        self.reads += 1
        await asyncio.sleep(0)
        return self.read_now(after, self.commits_per_read)

    async def settle(self, settlement: Settlement) -> None:
        await asyncio.sleep(self.settle_delay_s)
        if self.fail_next:
            raise self.fail_next.pop(0)
        self.apply(settlement)

    def apply(self, settlement: Settlement) -> None:
        """In one transaction, with the checks a journal would make."""
        cursor = settlement.cursor
        assert cursor.seq >= self.settled.seq, "the cursor went back"
        terms = [*settlement.delivered, *settlement.filtered, *(letter.delivery for letter in settlement.dead)]
        live = [d.message.seq for d in terms if not d.requeued]
        before = {m.seq for m in self.messages if m.seq <= self.settled.seq} | set(self.settled.beyond)
        after = {m.seq for m in self.messages if m.seq <= cursor.seq} | set(cursor.beyond)
        assert len(live) == len(set(live)), "settled twice in one settlement"
        assert before <= after, "settled messages were forgotten"
        assert after - before - self.quarantined == set(live), "the cursor does not say what the settlement says"
        for traffic in TrafficClass:
            expected = sum(1 for m in self.messages if m.traffic is traffic and m.seq <= cursor.seq)
            assert cursor.laneseq.get(traffic, 0) == expected, "laneseq is wrong"
            expected = sum(1 for m in self.messages if m.traffic is traffic and m.seq <= cursor.seq and m.commit == cursor.commit)
            assert cursor.partial.get(traffic, 0) == expected, "partial is wrong"
        self.settled = cursor
        self.settlements.append(settlement)
        self.delivered += settlement.delivered
        self.filtered += settlement.filtered
        for letter in settlement.dead:
            self.dead[letter.delivery.message.seq] = letter.code
        done = {d.message.seq for d in terms if d.requeued}
        self.replays = [d for d in self.replays if d.message.seq not in done]

    async def requeued(self, route: str, limit: int, max_bytes: int) -> Sequence[Delivery]:
        del route, max_bytes
        await asyncio.sleep(0)
        return self.replays[:limit]

    def on_append(self, callback: Callable[[], None]) -> None:
        self._listeners.append(callback)

    @property
    def queued(self) -> int:
        done = {m.seq for m in self.messages if m.seq <= self.settled.seq} | set(self.settled.beyond)
        return len({m.seq for m in self.messages} - done - self.quarantined)


@dataclass
class FakeLog:
    """Remembers what was told."""

    lines: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def emit(self, event: LogEvent, **fields: object) -> None:
        self.lines.append((event.label, fields))


@dataclass
class ScriptedSink:
    """Answers what ``answer`` says, else accepts; remembers what it was sent."""

    answer: Callable[[Sequence[Delivery]], Outcome | None] = lambda _batch: None
    max_messages: int = 4
    max_bytes: int = 100_000
    linger_s: float = 0.0
    delay_s: float = 0.0
    batches: list[tuple[Delivery, ...]] = field(default_factory=list)
    prepared: list[tuple[Delivery, ...]] = field(default_factory=list)
    closed: bool = False
    refused_kinds: frozenset[str] = frozenset()

    def accepts(self, delivery: Delivery) -> bool:
        return delivery.message.kind not in self.refused_kinds

    def prepare(self, batch: Sequence[Delivery]) -> None:
        self.prepared.append(tuple(batch))

    async def send(self, batch: Sequence[Delivery]) -> Outcome:
        self.batches.append(tuple(batch))
        await asyncio.sleep(self.delay_s)
        return self.answer(batch) or Answered((ACCEPTED,) * len(batch), "test")

    async def close(self) -> None:
        self.closed = True

    @property
    def seqs(self) -> list[list[int]]:
        return [[d.message.seq for d in batch] for batch in self.batches]
