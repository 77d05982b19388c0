"""A route's machine, a journal and a destination that misbehaves, without sockets and with a clock that jumps."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.model.receipt import (
    Answered,
    BatchRejected,
    BatchTooLarge,
    Blocked,
    Failed,
    Later,
    RouteState,
    Verdict,
    VerdictKind,
)
from gateway.route.delivery import Batch, Dispatch, DispatchRules
from tests.route.fakes import ACCEPTED, ROUTE, FakeJournal, SeededRandomness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model.message import Delivery
    from gateway.model.receipt import Outcome

RULES = DispatchRules(ROUTE, max_messages=8, max_bytes=100_000)


@dataclass
class Destination:
    """Applies in order; ``fault`` names what is wrong at the moment, ``poison`` what it will never take.

    ``applied``: first applications, in order. A source whose event gets ``retry`` is not applied further in that batch:
    what a receiver that keeps the order does.
    """

    fault: str = "none"
    poison: frozenset[int] = frozenset()
    poison_as: str = "verdict"
    seed: int = 1
    max_size: int = 1000
    applied: list[Delivery] = field(default_factory=list)
    requests: list[tuple[int, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = SeededRandomness(self.seed)
        self._seen: set[tuple[str, int, int]] = set()

    def answer(self, batch: Sequence[Delivery]) -> Outcome:
        self.requests.append(tuple(d.message.seq for d in batch))
        assert len({d.message.incarnation for d in batch}) == 1, "a batch spans incarnations"
        match self.fault:
            case "refused":
                return Failed("connect-refused")
            case "timeout":
                return Failed("answer-timeout", in_doubt=True)
            case "lost":
                self._verdicts(batch)
                return Failed("connection-lost", in_doubt=True)
            case "half lost":
                self._verdicts(batch[: len(batch) // 2])
                return Failed("connection-lost", in_doubt=True)
            case "401":
                return Blocked(RouteState.AUTH_BLOCKED, "http-401")
            case "portal":
                return Blocked(RouteState.BAD_RECEIPT, "receipt-not-json")
            case "503":
                return Later(2.0, "http-503")
            case "firewall":
                return BatchRejected("http-400", "<html>")
            case "rejects all":
                return Answered((Verdict(VerdictKind.REJECTED, "no"),) * len(batch))
        return self._healthy(batch)

    def _healthy(self, batch: Sequence[Delivery]) -> Outcome:
        if len(batch) > self.max_size:
            return BatchTooLarge("http-413")
        if self.poison_as == "422" and any(d.message.seq in self.poison for d in batch):
            return BatchRejected("http-422")
        return Answered(self._verdicts(batch), "http-200")

    def _verdicts(self, batch: Sequence[Delivery]) -> tuple[Verdict, ...]:
        held: set[str] = set()
        return tuple(self._verdict(delivery, held) for delivery in batch)

    def _verdict(self, delivery: Delivery, held: set[str]) -> Verdict:
        message = delivery.message
        if message.seq in self.poison:
            return Verdict(VerdictKind.REJECTED, "poison")
        if message.source in held or (self.fault == "partial" and self._random.uniform() < 0.3):
            held.add(message.source)
            return Verdict(VerdictKind.RETRY if self._random.uniform() < 0.5 else VerdictKind.DOUBT)
        key = (message.incarnation, message.seq, delivery.revision)
        if key in self._seen:
            return Verdict(VerdictKind.DUPLICATE)
        self._seen.add(key)
        self.applied.append(delivery)
        return ACCEPTED

    @property
    def by_source(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        for delivery in self.applied:
            found[delivery.message.source].append(delivery.message.seq)
        return found


@dataclass
class Simulation:
    """Turns the machine. ``now_s`` moves only where the machine pauses."""

    journal: FakeJournal
    destination: Destination
    rules: DispatchRules = RULES
    seed: int = 1
    now_s: float = 0.0

    def __post_init__(self) -> None:
        self.start()

    def start(self, *, stopped: bool = False) -> None:
        """A (re)start of the daemon: only the journal knows anything."""
        self.dispatch = Dispatch(self.rules, self.journal.cursor(ROUTE), SeededRandomness(self.seed), stopped=stopped)

    def read(self) -> None:
        while self.dispatch.wants(self.now_s):
            before = self.dispatch.reading
            result = self.journal.read_now(before, self.journal.commits_per_read)
            self.dispatch.push(result, lambda d: not d.message.kind.startswith("gateway."), self.now_s)
            if result.after == before:
                break
        if self.dispatch.wants_requeued:
            self.dispatch.push_requeued(self.journal.replays, lambda _: True, self.now_s)

    def turn(self, *, settle: bool = True) -> Batch | float:
        """Read, send one batch or jump to the next time something may happen, settle."""
        self.read()
        found = self.dispatch.next(self.now_s)
        if isinstance(found, Batch):
            self.dispatch.learn(self.destination.answer(found.deliveries), self.now_s)
        if settle:
            self.settle()
        return found if isinstance(found, Batch) else found.until_s

    def settle(self) -> None:
        if settlement := self.dispatch.take():
            self.journal.apply(settlement)

    def run(self, until_s: float) -> None:
        """Up to that time."""
        while self.now_s < until_s:
            found = self.turn()
            if not isinstance(found, Batch):
                self.now_s = min(until_s, max(found, self.now_s + 0.001))

    def requests(self, count: int) -> list[tuple[int, ...]]:
        """The seqs of the next ``count`` requests."""
        before = len(self.destination.requests)
        while len(self.destination.requests) < before + count:
            found = self.turn()
            if not isinstance(found, Batch):
                assert found < self.now_s + 100_000, "nothing will ever be sent"
                self.now_s = max(found, self.now_s)
        return self.destination.requests[before:]
