"""The settled cursor of a route, computed from what was read and what is settled (see ``model/cursor.py``).

The numbers of a lane are given when a message is read again, from the cursor alone; a cursor that counted one message
too few would give a number twice. So the low water moves only to places whose counts are certain:

- the end of a read result (the journal counted it), once everything in it is settled;
- inside a read result, if that result is *dense*: it holds every message that the counts say lies in it. A result with
  quarantined messages, or with messages that were settled before a restart, is not; what is settled in it stays listed
  in ``beyond`` until all of it is settled.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.model.cursor import Cursor
from gateway.route.window import Mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.model.traffic import TrafficClass
    from gateway.route.window import Item

__all__ = ["Position"]


@dataclass(slots=True)
class _Stretch:
    """One read result: its items, and the reading position behind it. ``next``: index of the oldest unsettled item."""

    items: tuple[Item, ...]
    after: Cursor
    dense: bool
    next: int = 0


@dataclass(slots=True)
class Position:
    """``reading``: where the next read starts; ``cursor()``: what is settled."""

    reading: Cursor
    _low: Cursor
    _beyond: set[int] = field(default_factory=set)
    _stretches: deque[_Stretch] = field(default_factory=deque)

    @classmethod
    def at(cls, cursor: Cursor) -> Position:
        """Where the journal says that the route is."""
        return cls(cursor, cursor, set(cursor.beyond))

    @property
    def ahead(self) -> int:
        """Commits that were read but are not settled."""
        return self.reading.commit - self._low.commit

    def read(self, items: Sequence[Item], after: Cursor) -> None:
        """The items of the next read result, in order."""
        dense = _is_dense(items, self.reading.laneseq, after.laneseq)
        self.reading = after
        if items or not self._stretches:
            self._stretches.append(_Stretch(tuple(items), after, dense))
        else:
            last = self._stretches[-1]
            last.after, last.dense = after, last.dense and dense

    def settled(self, items: Iterable[Item]) -> None:
        """Items (marked so) whose outcome is known."""
        self._beyond.update(item.delivery.message.seq for item in items)

    def cursor(self) -> Cursor:
        """The low water, and what is settled beyond it. Costs what was settled since the last call."""
        moved = False
        while self._stretches and self._advance(self._stretches[0]):
            self._low = self._stretches.popleft().after
            moved = True
        if self._stretches and self._stretches[0].dense:
            moved |= self._inside(self._stretches[0])
        if moved and self._beyond:
            self._beyond = {seq for seq in self._beyond if seq > self._low.seq}
        low = self._low
        return Cursor(low.commit, low.seq, low.laneseq, low.partial, tuple(sorted(self._beyond)))

    @staticmethod
    def _advance(stretch: _Stretch) -> bool:
        """Whether all of it is settled. Only a stretch that is not dense keeps its counted part out of the low water."""
        if stretch.dense:
            return all(item.mark is Mark.SETTLED for item in stretch.items[stretch.next :])
        while stretch.next < len(stretch.items) and stretch.items[stretch.next].mark is Mark.SETTLED:
            stretch.next += 1
        return stretch.next == len(stretch.items)

    def _inside(self, stretch: _Stretch) -> bool:
        """Move the low water over the settled items at the start of a dense stretch."""
        low = self._low
        commit, seq, laneseq, partial = low.commit, low.seq, dict(low.laneseq), dict(low.partial)
        for item in stretch.items[stretch.next :]:
            if item.mark is not Mark.SETTLED:
                break
            message = item.delivery.message
            if message.commit != commit:
                commit, partial = message.commit, {}
            seq = message.seq
            laneseq[message.traffic] = item.delivery.laneseq
            partial[message.traffic] = partial.get(message.traffic, 0) + 1
            stretch.next += 1
        self._low = Cursor(commit, seq, laneseq, partial)
        return seq != low.seq


def _is_dense(items: Sequence[Item], before: Mapping[TrafficClass, int], after: Mapping[TrafficClass, int]) -> bool:
    counts = Counter(item.delivery.message.traffic for item in items)
    return all(after.get(traffic, 0) - before.get(traffic, 0) == counts.get(traffic, 0) for traffic in {*after, *counts})
