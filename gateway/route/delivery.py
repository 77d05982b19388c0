"""What a route does next: a pure state machine over window, link and suspicion. No I/O, no clock, no randomness of its own.

Theory of operation. ``push`` takes what was read; ``next`` says which batch goes now, or until when to wait; ``learn``
takes the outcome of that batch; ``take`` hands out what is to be settled, in one transaction. Every delivery that was
pushed is in exactly one place: waiting, in flight, suspect, or settled (delivered, filtered or dead), and only ``learn``
and ``push`` move it. What each outcome does is the table ``ANSWERS`` (``answers.py``); the three effects that need more
than a line are here: verdicts one by one, lone rejections, and the stop of ``on_reject = "stop"``.

Order: within a source, a message is sent only when every older one of it is settled, goes with it in the same batch, or
is a suspect. A batch that got no answer is sent again with the same messages, so that its body is the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, assert_never

from gateway.model.cursor import DeadLetter, Settlement
from gateway.model.limits import WINDOW_MAX_BYTES, WINDOW_MAX_MESSAGES
from gateway.model.receipt import Answered, BatchRejected, Failed, RouteState, VerdictKind
from gateway.route.answers import ANSWERS, Effect
from gateway.route.backoff import Backoff
from gateway.route.limit import BatchLimit
from gateway.route.link import Link
from gateway.route.position import Position
from gateway.route.suspicion import REJECTIONS_MAX, Suspicion
from gateway.route.window import Item, Mark, Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gateway.model.clock import Randomness
    from gateway.model.cursor import Cursor, ReadResult
    from gateway.model.message import Delivery
    from gateway.model.receipt import Outcome, Verdict

__all__ = ["ANSWER_TIMEOUT", "Batch", "Dispatch", "DispatchRules", "Lane", "Outlook", "Pause"]

#: The code of ``Failed`` that may mean that the batch is too large for the link.
ANSWER_TIMEOUT: Final = "answer-timeout"
#: A cursor that only passed other routes' commits is settled alone when it is so far behind; else with the next batch.
_IDLE_COMMITS: Final = 256
#: Read ahead at least so much, also for sinks that take one message at a time.
_AHEAD_MESSAGES: Final = 256
_AHEAD_BYTES: Final = 512 * 1024

# Every kind of verdict is in exactly one of these.
_TAKEN: Final = (VerdictKind.ACCEPTED, VerdictKind.DUPLICATE)
_LATER: Final = (VerdictKind.RETRY, VerdictKind.DOUBT)
_REJECTED: Final = (VerdictKind.REJECTED,)


class Lane(Enum):
    """Where a batch comes from; they take turns."""

    LIVE = "live"  #: from the cursor
    REPLAY = "replay"  #: requeued by an operator


@dataclass(frozen=True, slots=True)
class DispatchRules:
    """What the configuration says. ``first_s``, ``cap_s``: of the backoff."""

    route: str
    max_messages: int
    max_bytes: int
    linger_s: float = 0.0
    first_s: float = 0.2
    cap_s: float = 5.0
    stop_on_reject: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One request's worth."""

    lane: Lane
    items: tuple[Item, ...]
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing to send before that monotonic time (infinity: before something arrives)."""

    until_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Outlook:
    """State of the route as ``status`` shows it. ``code`` "" = no cause; ``next_attempt_s`` None = none is planned."""

    state: RouteState
    code: str = ""
    next_attempt_s: float | None = None


@dataclass(slots=True)
class _Harvest:
    """Outcomes that are not settled yet."""

    delivered: list[Delivery] = field(default_factory=list)
    filtered: list[Delivery] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    duplicates: int = 0
    proof: str = ""
    requeued: bool = False

    def take(self, items: Iterable[Item], verdicts: Iterable[Verdict], proof: str) -> None:
        """Items that the destination has."""
        self.delivered.extend([item.delivery for item in items])
        self.duplicates += sum(verdict.kind is VerdictKind.DUPLICATE for verdict in verdicts)
        self.proof = proof

    def __bool__(self) -> bool:
        return bool(self.delivered or self.filtered or self.dead)


@dataclass(frozen=True, slots=True)
class _Rejection:
    """Items that the destination rejected, with its reasons. ``lone``: the request held nothing else."""

    window: Window
    items: Sequence[Item]
    code: str
    reasons: Sequence[str]
    lone: bool

    def note(self) -> None:
        """Keep code and reason with the item, for its dead letter."""
        for item, reason in zip(self.items, self.reasons, strict=True):
            item.code, item.reason = self.code, reason


class Dispatch:
    """One route's machine. Times are monotonic seconds, given by the caller and never going back."""

    def __init__(self, rules: DispatchRules, cursor: Cursor, randomness: Randomness, *, stopped: bool = False) -> None:
        self._rules = rules
        self._backoff = Backoff(rules.first_s, rules.cap_s, randomness)
        self._position = Position.at(cursor)
        self._windows = {Lane.LIVE: Window(), Lane.REPLAY: Window()}
        self._link = Link(self._backoff)
        self._limit = BatchLimit.of(rules.max_messages)
        self._suspicion = Suspicion()
        self._harvest = _Harvest()
        self._in_flight: Batch | None = None
        self._again: Batch | None = None
        self._last_lane = Lane.REPLAY
        self._due_s = 0.0
        self._settled_commit = cursor.commit
        self.stopped = stopped

    # --- in -------------------------------------------------------------------------------------------------------

    @property
    def reading(self) -> Cursor:
        """Where the next read starts."""
        return self._position.reading

    def wants(self, now_s: float) -> int:
        """How many bytes to read ahead, 0 = enough is here. Bounded over all by ``WINDOW_MAX_*`` and one commit."""
        window = self._windows[Lane.LIVE]
        if len(window) >= WINDOW_MAX_MESSAGES or window.size_bytes >= WINDOW_MAX_BYTES:
            return 0
        ready = window.ready(now_s)
        ahead_bytes = max(2 * self._rules.max_bytes, _AHEAD_BYTES)
        enough = ready.messages >= max(2 * self._rules.max_messages, _AHEAD_MESSAGES) or ready.size_bytes >= ahead_bytes
        return 0 if enough else ahead_bytes

    def push(self, result: ReadResult, accepts: Callable[[Delivery], bool], now_s: float) -> None:
        """What was read from ``reading``; what the sink's kind can never take is filtered at once."""
        items = [Item.of(delivery, now_s) for delivery in result.deliveries]
        refused = [item for item in items if not accepts(item.delivery)]
        self._position.read(items, result.after)
        for item in refused:
            item.mark = Mark.SETTLED
            self._harvest.filtered.append(item.delivery)
        self._position.settled(refused)
        self._windows[Lane.LIVE].add(items)

    @property
    def wants_requeued(self) -> bool:
        """Whether the requeued ones may be asked for: the outcomes of those read before are all known and taken."""
        return not self._windows[Lane.REPLAY] and not self._harvest.requeued

    def push_requeued(self, deliveries: Iterable[Delivery], accepts: Callable[[Delivery], bool], now_s: float) -> None:
        """Replayed deliveries, oldest first."""
        for delivery in deliveries:
            if accepts(delivery):
                self._windows[Lane.REPLAY].add((Item.of(delivery, now_s),))
            else:
                self._harvest.filtered.append(delivery)
                self._harvest.requeued = True

    # --- next -----------------------------------------------------------------------------------------------------

    def next(self, now_s: float) -> Batch | Pause:
        """The batch to send now (it is in flight from here on), or when to ask again."""
        found = self._next(now_s)
        if isinstance(found, Pause):
            self._due_s = found.until_s
            return found
        self._windows[found.lane].put(found.items, Mark.IN_FLIGHT)
        self._in_flight, self._again, self._last_lane = found, None, found.lane
        return found

    def preview(self, now_s: float) -> tuple[Delivery, ...] | None:
        """The full batch that follows the one in flight if that is taken whole, None where that is not certain enough."""
        if self._in_flight is None or self._link.lone or self._suspicion.rejecting:
            return None
        for lane in self._lanes():
            picked = self._windows[lane].pick(now_s, self._limit.messages, self._rules.max_bytes)
            if picked.items:
                return tuple(item.delivery for item in picked.items) if picked.full else None
        return None

    def _next(self, now_s: float) -> Batch | Pause:
        if self.stopped or self._in_flight is not None:
            return Pause()
        if now_s < self._link.ready_s:
            return Pause(self._link.ready_s)
        if self._suspicion.rejecting:
            return self._probe(now_s)
        again = self._again
        if again is not None and not self._link.lone:
            return again
        return self._pick(now_s) or self._retry_suspects(now_s)

    def _pick(self, now_s: float) -> Batch | Pause | None:
        """The next batch by turns; a pause where it lingers for company; None where nothing waits."""
        messages = 1 if self._link.lone else self._limit.messages
        due_s = math.inf
        for lane in self._lanes():
            picked = self._windows[lane].pick(now_s, messages, self._rules.max_bytes)
            if not picked.items:
                continue
            linger_s = picked.items[0].since_s + self._rules.linger_s
            if lane is Lane.REPLAY or picked.full or now_s >= linger_s:
                return _batch(lane, picked.items)
            due_s = linger_s
        return None if due_s is math.inf else Pause(min(due_s, self._next_source_s(now_s)))

    def _lanes(self) -> tuple[Lane, Lane]:
        """Turns; under ``on_reject = "stop"`` a replayed message goes before those it held up."""
        live_first = self._last_lane is Lane.REPLAY and not self._rules.stop_on_reject
        return (Lane.LIVE, Lane.REPLAY) if live_first else (Lane.REPLAY, Lane.LIVE)

    def _retry_suspects(self, now_s: float) -> Batch | Pause:
        """Nothing but suspects is left: nobody else can show whether the destination works."""
        suspicion = self._suspicion
        if not suspicion.suspects:
            return Pause(self._next_source_s(now_s))
        if now_s < suspicion.due_s:
            return Pause(min(suspicion.due_s, self._next_source_s(now_s)))
        self._wait_again(suspicion.give_back())
        return self._pick(now_s) or Pause(self._next_source_s(now_s))

    def _probe(self, now_s: float) -> Batch | Pause:
        """REJECTING: one lone message."""
        while found := self._suspicion.probe(self._candidates(now_s)):
            window, item = found
            if window.may_go(item, now_s):
                return _batch(self._lane_of(window), (item,))
        return Pause(self._next_source_s(now_s))

    def _candidates(self, now_s: float) -> Iterator[tuple[Window, Item]]:
        for lane in (Lane.LIVE, Lane.REPLAY):
            window = self._windows[lane]
            yield from ((window, item) for item in window.waiting(now_s))

    def _lane_of(self, window: Window) -> Lane:
        return Lane.LIVE if window is self._windows[Lane.LIVE] else Lane.REPLAY

    def _next_source_s(self, now_s: float) -> float:
        times = (window.next_source_s(now_s) for window in self._windows.values())
        return min((time for time in times if time is not None), default=math.inf)

    # --- learn ----------------------------------------------------------------------------------------------------

    def learn(self, outcome: Outcome, now_s: float) -> None:
        """The outcome of the batch in flight."""
        batch = self._in_flight
        if batch is None:
            return
        self._in_flight = None
        after_outage = self._link.lone
        answer = self._link.learn(outcome, len(batch.items), now_s)
        window = self._windows[batch.lane]
        match ANSWERS[answer].effect:
            case Effect.SETTLE:
                if isinstance(outcome, Answered):
                    self._verdicts(batch, outcome, now_s, after_outage=after_outage)
            case Effect.BISECT:
                window.put(batch.items, Mark.WAITING)
                window.suspicious = batch.items[-1]
            case Effect.HALVE:
                window.put(batch.items, Mark.WAITING)
                self._limit.too_large(len(batch.items))
            case Effect.SUSPECT:
                reason = outcome.reason if isinstance(outcome, BatchRejected) else ""
                self._reject(_Rejection(window, batch.items, self._link.code, (reason,), lone=True), now_s)
            case Effect.KEEP:
                window.put(batch.items, Mark.WAITING)
                self._keep(batch, outcome)
            case effect:
                assert_never(effect)

    def abandon(self) -> None:
        """The batch in flight will get no answer: it is in doubt and stays queued."""
        if self._in_flight is not None:
            self._windows[self._in_flight.lane].put(self._in_flight.items, Mark.WAITING)
            self._in_flight = None

    def _keep(self, batch: Batch, outcome: Outcome) -> None:
        suspects = self._suspicion.interrupted()
        self._wait_again(suspects)
        if isinstance(outcome, Failed) and outcome.code == ANSWER_TIMEOUT and len(batch.items) > 1:
            self._limit.timed_out(len(batch.items))
        elif not suspects:  # they are older than the batch
            self._again = batch

    def _verdicts(self, batch: Batch, outcome: Answered, now_s: float, *, after_outage: bool) -> None:
        """Each event as its verdict says; an acceptance anywhere makes rejections final."""
        window, verdicts = self._windows[batch.lane], outcome.verdicts
        taken = _with(batch.items, verdicts, _TAKEN)
        accepted = any(verdict.kind is VerdictKind.ACCEPTED for verdict in verdicts)
        if taken:
            self._limit.receipt(after_outage=after_outage)
            self._settle(window, taken)
            self._harvest.take(taken, verdicts, outcome.proof)
        self._pace_sources(window, taken, _with(batch.items, verdicts, _LATER), now_s)
        if accepted:
            self._bury(self._suspicion.accepted())
        elif taken:
            self._suspicion.answered()
        if rejected := _with(batch.items, verdicts, _REJECTED):
            reasons = [verdict.reason for verdict in verdicts if verdict.kind is VerdictKind.REJECTED]
            rejection = _Rejection(window, rejected, "rejected", reasons, lone=len(batch.items) == 1)
            if accepted and not self._rules.stop_on_reject:
                self._condemn(rejection)
            else:
                self._reject(rejection, now_s)

    def _pace_sources(self, window: Window, taken: Sequence[Item], later: Sequence[Item], now_s: float) -> None:
        """A source with a message that is to be sent again waits as a whole; the others go on."""
        window.put(later, Mark.WAITING)
        waiting = {item.source for item in later}
        for source in waiting:
            window.defer(source, now_s + self._backoff.jitter_s(window.deferrals(source) + 1))
        window.resume({item.source for item in taken} - waiting)

    def _reject(self, rejection: _Rejection, now_s: float) -> None:
        """Rejected while it is open whether the destination takes anything."""
        self._limit.alone()
        rejection.note()
        if self._suspicion.rejecting:
            rejection.window.put(rejection.items, Mark.WAITING)
            self._suspicion.probed(rejection.items)
            if self._suspicion.burst_over:
                self._link.pause(rejection.code, now_s + self._backoff.jitter_s(self._suspicion.steps))
        elif self._rules.stop_on_reject:
            self._strike(rejection, now_s)
        elif rejection.lone and self._suspicion.had_last_chance(rejection.items[0]):
            self._condemn(rejection)
        else:
            self._suspect(rejection, now_s)

    def _suspect(self, rejection: _Rejection, now_s: float) -> None:
        rejection.window.put(rejection.items, Mark.SUSPECT)
        rejecting = [self._suspicion.add(rejection.window, item) for item in rejection.items][-1]
        wait_s = self._backoff.jitter_s(min(self._suspicion.rejections, REJECTIONS_MAX))
        self._suspicion.due_s = now_s + wait_s
        if rejecting:
            self._wait_again(self._suspicion.give_back())
            self._link.pause(rejection.code, now_s + wait_s)

    def _strike(self, rejection: _Rejection, now_s: float) -> None:
        """``on_reject = "stop"``: the head alone, three times, then nothing goes until the operator has decided."""
        rejection.window.put(rejection.items, Mark.WAITING)
        head = rejection.items[0]
        head.strikes += rejection.lone
        if head.strikes >= REJECTIONS_MAX:
            self._condemn(rejection)
            self.stopped = True
        self._link.pause(rejection.code, now_s + self._backoff.jitter_s(max(1, head.strikes)))
        self._link.state = RouteState.REJECTING

    def _condemn(self, rejection: _Rejection) -> None:
        rejection.note()
        self._bury([(rejection.window, item) for item in rejection.items])

    def _bury(self, suspects: Iterable[tuple[Window, Item]]) -> None:
        """They are dead letters."""
        for window, item in suspects:
            self._settle(window, (item,))
            self._harvest.dead.append(DeadLetter(item.delivery, item.code, item.reason))

    def _settle(self, window: Window, items: Sequence[Item]) -> None:
        window.put(items, Mark.SETTLED)
        if window is self._windows[Lane.LIVE]:
            self._position.settled(items)
        else:
            self._harvest.requeued = True

    def _wait_again(self, suspects: Iterable[tuple[Window, Item]]) -> None:
        for window, item in suspects:
            window.put((item,), Mark.WAITING)

    # --- out ------------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """Outcomes that ``take`` would hand out."""
        harvest = self._harvest
        return len(harvest.delivered) + len(harvest.filtered) + len(harvest.dead)

    @property
    def empty(self) -> bool:
        """Nothing that was read is waiting, in flight or unsettled."""
        return not self._harvest and not any(map(len, self._windows.values()))

    def take(self) -> Settlement | None:
        """Everything learnt since the last call, and the cursor behind it; None where that is not worth a transaction.

        One settlement at a time: if it fails, ``give_back`` it before the next one is taken. The cursor of a later one
        would cover messages of the failed one.
        """
        harvest = self._harvest
        idle = not harvest and not self._windows[Lane.LIVE] and self.reading.commit - self._settled_commit >= _IDLE_COMMITS
        if not harvest and not idle:
            return None
        self._harvest = _Harvest()
        cursor = self._position.cursor()
        self._settled_commit = cursor.commit
        return Settlement(
            route=self._rules.route,
            cursor=cursor,
            delivered=tuple(harvest.delivered),
            filtered=tuple(harvest.filtered),
            dead=tuple(harvest.dead),
            duplicates=harvest.duplicates,
            proof=harvest.proof,
        )

    def give_back(self, settlement: Settlement) -> None:
        """It was not made durable: ``take`` it again later."""
        later = self._harvest
        self._harvest = _Harvest(
            [*settlement.delivered, *later.delivered],
            [*settlement.filtered, *later.filtered],
            [*settlement.dead, *later.dead],
            settlement.duplicates + later.duplicates,
            later.proof or settlement.proof,
            later.requeued or any(delivery.requeued for delivery in (*settlement.delivered, *settlement.filtered)),
        )

    def outlook(self, now_s: float) -> Outlook:
        """What ``status`` shows."""
        state, code = self._link.state, self._link.code
        if self._suspicion.suspects and state is RouteState.ONLINE:
            state, code = RouteState.RETRYING, self._suspicion.suspects[0][1].code
        if self._suspicion.rejecting and state in {RouteState.ONLINE, RouteState.RETRYING}:
            state = RouteState.REJECTING
        if self.stopped:
            return Outlook(RouteState.STOPPED, code)
        if state is RouteState.ONLINE:
            return Outlook(state)
        if self._in_flight:
            return Outlook(state, code, 0.0)
        return Outlook(state, code, None if math.isinf(self._due_s) else max(0.0, self._due_s - now_s))


def _with(items: Sequence[Item], verdicts: Sequence[Verdict], kinds: tuple[VerdictKind, ...]) -> list[Item]:
    return [item for item, verdict in zip(items, verdicts, strict=True) if verdict.kind in kinds]


def _batch(lane: Lane, items: tuple[Item, ...]) -> Batch:
    return Batch(lane, items, tuple(item.delivery for item in items))
