"""The read but unsettled deliveries of one lane, in order, and which of them may go next."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gateway.model.message import Delivery

__all__ = ["Item", "Mark", "Picked", "Window"]


class Mark(Enum):
    """Where an item of the window is."""

    WAITING = "waiting"  #: may be sent
    IN_FLIGHT = "in flight"  #: sent, unanswered
    SUSPECT = "suspect"  #: rejected alone; skipped until the next acceptance shows whether the destination works
    SETTLED = "settled"  #: its outcome is known; it leaves the window


@dataclass(slots=True, eq=False)
class Item:
    """One delivery in the window. ``since_s``: monotonic time at which it was read. ``strikes``: lone rejections.

    ``source``: the order in which its messages were accepted is the order in which they are delivered. ``code``,
    ``reason``: why it was rejected last, for the dead letter.
    """

    delivery: Delivery
    source: str
    size_bytes: int
    since_s: float
    mark: Mark = Mark.WAITING
    strikes: int = 0
    code: str = ""
    reason: str = ""

    @classmethod
    def of(cls, delivery: Delivery, now_s: float) -> Item:
        """A delivery that was read now."""
        message = delivery.message
        return cls(delivery, message.source, len(message.body), now_s)


@dataclass(slots=True)
class _SourceWait:
    """A source whose oldest message the destination wants to be sent again later. ``until_s``: monotonic."""

    attempts: int = 0
    until_s: float = 0.0


@dataclass(slots=True)
class _Load:
    """What waits of one source."""

    messages: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Picked:
    """The next items in order. ``full``: no later arrival could join them."""

    items: tuple[Item, ...]
    full: bool


@dataclass(slots=True)
class Window:
    """Items in order; sources in retry wait are skipped, everybody else's order is kept.

    ``suspicious``: last item of a batch that was rejected as a whole; up to there batches are halved until it is found
    out which message it is.
    """

    suspicious: Item | None = None
    size_bytes: int = 0
    _items: deque[Item] = field(default_factory=deque)
    _waits: dict[str, _SourceWait] = field(default_factory=dict)
    _loads: dict[str, _Load] = field(default_factory=dict)

    def __len__(self) -> int:
        """Items up to the last one that was read, settled ones behind an unsettled one included."""
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        """All items in order."""
        return iter(self._items)

    def add(self, items: Iterable[Item]) -> None:
        """Append what was read; items that are settled already (filtered) are not kept."""
        loads = self._loads
        for item in items:
            if item.mark is Mark.SETTLED:
                continue
            self._items.append(item)
            self.size_bytes += item.size_bytes
            load = loads.get(item.source) or loads.setdefault(item.source, _Load())
            load.messages += 1
            load.size_bytes += item.size_bytes

    def put(self, items: Iterable[Item], mark: Mark) -> None:
        """Give the items that mark; settled ones leave the window once nothing older is left."""
        waits, settled, loads = mark is Mark.WAITING, mark is Mark.SETTLED, self._loads
        for item in items:
            sign = waits - (item.mark is Mark.WAITING)
            if settled and item.mark is not Mark.SETTLED:
                self.size_bytes -= item.size_bytes
            item.mark = mark
            if sign:
                load = loads[item.source]
                load.messages += sign
                load.size_bytes += sign * item.size_bytes
        while self._items and self._items[0].mark is Mark.SETTLED:
            self._items.popleft()

    def pick(self, now_s: float, max_messages: int, max_bytes: int) -> Picked:
        """The next batch: in order, one incarnation, within the limits (a larger single message travels alone)."""
        blocked = self._blocked(now_s)
        chosen: list[Item] = []
        size_bytes, full = 0, False
        for item in self._items:
            if item.mark is not Mark.WAITING or (blocked and item.source in blocked):
                continue
            if chosen and (
                size_bytes + item.size_bytes > max_bytes or item.delivery.message.incarnation != chosen[0].delivery.message.incarnation
            ):
                full = True
                break
            chosen.append(item)
            size_bytes += item.size_bytes
            if len(chosen) >= max_messages:
                full = True
                break
        return self._halved(chosen, full=full)

    def _halved(self, chosen: list[Item], *, full: bool) -> Picked:
        """Bisection: the half of what is under suspicion; the last one alone."""
        last = self.suspicious
        if last is None:
            return Picked(tuple(chosen), full)
        if last.mark is not Mark.WAITING:
            self.suspicious = None
            return Picked(tuple(chosen), full)
        if last not in chosen:
            return Picked(tuple(chosen[: (len(chosen) + 1) // 2]), full=True)
        return Picked(tuple(chosen[: (chosen.index(last) + 2) // 2]), full=True)

    def ready(self, now_s: float) -> _Load:
        """How much could be sent now."""
        blocked = self._blocked(now_s)
        loads = [load for source, load in self._loads.items() if source not in blocked]
        return _Load(sum(load.messages for load in loads), sum(load.size_bytes for load in loads))

    def waiting(self, now_s: float) -> Iterator[Item]:
        """Everything that could be sent now, in order."""
        blocked = self._blocked(now_s)
        return (item for item in self._items if item.mark is Mark.WAITING and item.source not in blocked)

    def may_go(self, item: Item, now_s: float) -> bool:
        """Whether that one could be sent now."""
        return item.mark is Mark.WAITING and item.source not in self._blocked(now_s)

    def deferrals(self, source: str) -> int:
        """How many times in a row the source was deferred."""
        return self._waits[source].attempts if source in self._waits else 0

    def defer(self, source: str, until_s: float) -> None:
        """Skip the source up to that time, once more."""
        self._waits[source] = _SourceWait(self.deferrals(source) + 1, until_s)

    def resume(self, sources: Iterable[str]) -> None:
        """The destination took something of these: no more waiting."""
        if self._waits:
            for source in sources:
                self._waits.pop(source, None)

    def next_source_s(self, now_s: float) -> float | None:
        """When the first waiting source may be sent again, None where none of them has anything to send."""
        times = [self._waits[source].until_s for source in self._blocked(now_s) if self._loads[source].messages]
        return min(times, default=None)

    def _blocked(self, now_s: float) -> set[str]:
        return {source for source, wait in self._waits.items() if wait.until_s > now_s} if self._waits else set()
