"""The loop of one route: read ahead, send one batch at a time, render the next one meanwhile, settle what was answered.

All decisions are in ``delivery.py``; this file only moves: it starts a read, a request or a settlement when the machine
says so, and feeds their ends back. Each of the three has at most one under way. Settling is not waited for, so that
draining is not bounded by fsync; what is answered meanwhile goes into the next settlement (group commit again), up to
``_UNSETTLED_MAX`` messages.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.model.errors import GatewayError
from gateway.model.event import EventId
from gateway.model.limits import WINDOW_MAX_MESSAGES
from gateway.model.receipt import RouteState
from gateway.observe.events import LogEvent
from gateway.route.delivery import Batch, Dispatch, DispatchRules, Outlook

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gateway.model.clock import Clock, Randomness
    from gateway.model.cursor import ReadResult, Settlement
    from gateway.model.message import Delivery
    from gateway.model.receipt import Outcome
    from gateway.model.sink import Sink
    from gateway.route.ports import JournalPort, LogPort

_T = TypeVar("_T")

__all__ = ["Route", "RouteCounts", "RouteServices"]

#: Answered but not yet durable: past it nothing more is sent. At 20,000 messages/s this is 0.4 s of a slow disk.
_UNSETTLED_MAX: Final = WINDOW_MAX_MESSAGES
#: Look for replayed messages, and whether the operator has decided, so often; a commit also wakes the route.
_SWEEP_S: Final = 1.0
#: After the journal failed, ask it again so much later.
_JOURNAL_RETRY_S: Final = 1.0
_REQUEUED_MAX: Final = 2048
_REQUEUED_MAX_BYTES: Final = 1024 * 1024
#: How long an ordered stop waits for the disk; what is not settled then is sent again after the next start.
_LAST_SETTLE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class RouteServices:
    """What a route is given. ``dead_letters()``: how many dead letters the route has (asked under ``on_reject = "stop"``)."""

    clock: Clock
    randomness: Randomness
    log: LogPort
    gateway: str
    dead_letters: Callable[[], int]


@dataclass(slots=True)
class RouteCounts:
    """Since the start of the daemon."""

    requests: int = 0
    delivered: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    settle_failures: int = 0


class Route:
    """One consumer of the journal. ``run`` once at a time; ``stop`` ends it in order.

    ``counts`` and ``outlook`` may be read at any time in the event loop.
    """

    def __init__(self, rules: DispatchRules, sink: Sink, journal: JournalPort, services: RouteServices) -> None:
        self.name = rules.route
        self.counts = RouteCounts()
        self._rules = rules
        self._sink = sink
        self._journal = journal
        self._services = services
        self._dispatch: Dispatch | None = None
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._listening = False
        self._stopping = False
        self._flight: asyncio.Task[Outcome] | None = None
        self._read: asyncio.Task[ReadResult] | None = None
        self._asked: asyncio.Task[Sequence[Delivery]] | None = None
        self._settle: asyncio.Task[None] | None = None
        self._settlement: Settlement | None = None
        self._appended = True
        self._prepared = False
        self._resuming = False
        self._more_requeued = False
        self._sweep_s = -math.inf
        self._journal_s = -math.inf
        self._shown = Outlook(RouteState.ONLINE)
        self._behind: tuple[float, int] | None = None

    @property
    def outlook(self) -> Outlook:
        """State, cause and time to the next attempt, as of now."""
        if self._dispatch is None or self._stopping:
            return Outlook(RouteState.STOPPED)
        return self._dispatch.outlook(self._services.clock.monotonic_s())

    async def run(self) -> None:
        """Deliver until ``stop``. After a failure (a bug) it may be run again: it starts from the settled cursor."""
        stopped = self._rules.stop_on_reject and self._services.dead_letters() > 0
        dispatch = Dispatch(self._rules, self._journal.cursor(self.name), self._services.randomness, stopped=stopped)
        self._dispatch = dispatch
        self._appended = True
        if not self._listening:
            self._journal.on_append(self._on_append)
            self._listening = True
        self._ended.clear()
        try:
            while not self._stopping:
                self._wake.clear()
                pause_s = self._advance(dispatch)
                self._tell(dispatch)
                await self._sleep(pause_s)
                self._collect(dispatch)
            await self._finish(dispatch)
        finally:
            await self._leave()

    async def stop(self, deadline_s: float) -> None:
        """Send nothing new; wait so long for the answer under way, settle it, close the sink.

        A batch whose answer does not come in time is in doubt: it stays queued and is sent again after the next start.
        """
        self._stopping = True
        self._wake.set()
        if self._dispatch is not None:
            try:
                async with asyncio.timeout(deadline_s):
                    await self._ended.wait()
            except TimeoutError:
                self._drop(self._flight)
                await self._ended.wait()
        await self._sink.close()

    # --- one turn -------------------------------------------------------------------------------------------------

    def _advance(self, dispatch: Dispatch) -> float:
        """Start what can be started; how long to sleep at most."""
        now_s = self._services.clock.monotonic_s()
        self._start_settle(dispatch, now_s)
        self._start_read(dispatch, now_s)
        self._start_sweep(dispatch, now_s)
        unsettled = dispatch.unsettled + (len(self._settlement.delivered) if self._settlement else 0)
        if self._flight is not None:
            if not self._prepared and (ahead := dispatch.preview(now_s)):
                self._prepared = True
                self._sink.prepare(ahead)
            return _SWEEP_S
        if unsettled >= _UNSETTLED_MAX or self._settlement_failed:
            return _SWEEP_S
        found = dispatch.next(now_s)
        if not isinstance(found, Batch):
            return min(_SWEEP_S, max(0.0, found.until_s - now_s))
        self.counts.requests += 1
        self._prepared = False
        self._flight = self._task(self._sink.send(found.deliveries))
        return 0.0

    @property
    def _settlement_failed(self) -> bool:
        return self._settlement is not None and self._settle is None

    def _start_settle(self, dispatch: Dispatch, now_s: float) -> None:
        if self._settle is not None or now_s < self._journal_s:
            return
        if self._settlement is not None:
            dispatch.give_back(self._settlement)
        self._settlement = dispatch.take()
        if self._settlement is not None:
            self._settle = self._task(self._journal.settle(self._settlement))

    def _start_read(self, dispatch: Dispatch, now_s: float) -> None:
        if self._read is not None or not self._appended or now_s < self._journal_s or dispatch.stopped:
            return
        if max_bytes := dispatch.wants(now_s):
            self._appended = False
            self._read = self._task(self._journal.read(self.name, dispatch.reading, max_bytes))

    def _start_sweep(self, dispatch: Dispatch, now_s: float) -> None:
        """Once a second, and as long as there are more: replayed messages. And whether a stopped route may go on."""
        if self._asked is not None or (now_s < self._sweep_s + _SWEEP_S and not self._more_requeued):
            return
        self._sweep_s = now_s
        settled = self._settlement is None and not dispatch.unsettled
        self._resuming = dispatch.stopped and settled and self._services.dead_letters() == 0
        if dispatch.wants_requeued and not self._settles_requeued:
            self._asked = self._task(self._journal.requeued(self.name, _REQUEUED_MAX, _REQUEUED_MAX_BYTES))

    @property
    def _settles_requeued(self) -> bool:
        """Whether the journal still lists messages that are about to be settled."""
        found = self._settlement
        if found is None:
            return False
        return any(delivery.requeued for delivery in (*found.delivered, *found.filtered, *(letter.delivery for letter in found.dead)))

    # --- ends -----------------------------------------------------------------------------------------------------

    def _collect(self, dispatch: Dispatch) -> None:
        """Feed back what has ended."""
        now_s = self._services.clock.monotonic_s()
        if self._flight is not None and self._flight.done():
            flight, self._flight = self._flight, None
            dispatch.learn(flight.result(), now_s)
        if self._settle is not None and self._settle.done():
            self._settled()
        if self._read is not None and self._read.done():
            read, self._read = self._read, None
            if (result := self._result_of(read)) is not None:
                self._appended |= result.after != dispatch.reading
                dispatch.push(result, self._sink.accepts, now_s)
            else:
                self._appended = True
        if self._asked is not None and self._asked.done():
            asked, self._asked = self._asked, None
            found = self._result_of(asked)
            self._more_requeued = bool(found)
            dispatch.push_requeued(found or (), self._sink.accepts, now_s)
            if self._resuming and found is not None:  # only now: a replayed message goes before those it held up
                dispatch.stopped = False

    def _settled(self) -> None:
        settle, self._settle = self._settle, None
        settlement = self._settlement
        if settle is None or settlement is None:
            return
        try:
            settle.result()
        except GatewayError:
            self.counts.settle_failures += 1
            self._journal_s = self._services.clock.monotonic_s() + _JOURNAL_RETRY_S
            return
        self._settlement = None
        self.counts.delivered += len(settlement.delivered)
        self.counts.duplicates += settlement.duplicates
        self.counts.dead_letters += len(settlement.dead)
        for letter in settlement.dead:
            message = letter.delivery.message
            event_id = str(EventId(self._services.gateway, message.incarnation, message.seq))
            self._services.log.emit(LogEvent.DEAD_LETTERED, route=self.name, code=letter.code, event_id=event_id)
            if self._rules.stop_on_reject:
                self._services.log.emit(LogEvent.ROUTE_STOPPED, route=self.name, code=letter.code, event_id=event_id)

    def _result_of(self, task: asyncio.Task[_T]) -> _T | None:
        """What the journal answered; after a failure it is asked again a second later."""
        try:
            return task.result()
        except GatewayError:
            self._journal_s = self._services.clock.monotonic_s() + _JOURNAL_RETRY_S
            return None

    def _tell(self, dispatch: Dispatch) -> None:
        """A line in the log for each change of state, and one when everything that waited meanwhile is delivered."""
        now_s = self._services.clock.monotonic_s()
        outlook = dispatch.outlook(now_s)
        before, self._shown = self._shown, outlook
        if outlook.state is not before.state:
            if before.state is RouteState.ONLINE and self._behind is None:
                self._behind = (now_s, self.counts.delivered)
            self._services.log.emit(
                LogEvent.ROUTE_STATE_CHANGED,
                route=self.name,
                previous=before.state.value,
                state=outlook.state.value,
                code=outlook.code or "none",
                next_attempt_s=round(outlook.next_attempt_s or 0.0, 3),
            )
        reading = self._read is not None or self._appended
        if self._behind and outlook.state is RouteState.ONLINE and dispatch.empty and not reading and self._settlement is None:
            since_s, delivered = self._behind
            self._behind = None
            messages = self.counts.delivered - delivered
            self._services.log.emit(LogEvent.ROUTE_CAUGHT_UP, route=self.name, messages=messages, age_s=round(now_s - since_s, 3))

    # --- waiting and ending ---------------------------------------------------------------------------------------

    def _on_append(self) -> None:
        self._appended = True
        self._wake.set()

    def _task(self, work: Coroutine[object, object, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended_one)
        return task

    def _ended_one(self, _task: asyncio.Task[_T]) -> None:
        self._wake.set()

    async def _sleep(self, pause_s: float) -> None:
        """Until something ended, was appended, or so much time has passed."""
        timer = asyncio.get_running_loop().call_later(pause_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _finish(self, dispatch: Dispatch) -> None:
        """The answer under way (``stop`` cuts it off at its deadline), then one last settlement."""
        if self._flight is not None:
            await asyncio.wait((self._flight,))
            if self._flight.cancelled():
                self._flight = None
                dispatch.abandon()
        self._collect(dispatch)
        for _ in range(2):  # the one under way, and what was learnt since
            if self._settle is None:
                self._start_settle(dispatch, math.inf)
            if self._settle is not None:
                await asyncio.wait((self._settle,), timeout=_LAST_SETTLE_S)
                self._collect(dispatch)

    async def _leave(self) -> None:
        """Nothing may be under way when the next ``run`` asks the journal how far it is."""
        if self._settle is not None:
            await asyncio.wait((self._settle,), timeout=_LAST_SETTLE_S)
        self._drop(self._flight, self._read, self._asked)
        self._flight = self._read = self._asked = self._settle = None
        self._settlement = None
        self._dispatch = None
        self._ended.set()

    @staticmethod
    def _drop(*tasks: asyncio.Task[_T] | None) -> None:
        for task in tasks:
            if task is not None:
                task.cancel()
