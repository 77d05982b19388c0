"""Rejections: is it the message, or does the destination reject everything (a firewall, a wrong address)?

A lone rejected message becomes a suspect and is skipped. The next acceptance shows that the destination works: the
suspects are dead letters then. Three lone rejections without an acceptance: everything is kept (REJECTING), and once per
backoff step the oldest message is tried again, alone. Every fourth step tries the oldest three, in order, and then one
further on, another one each time. So an end of the trouble is noticed at the head, where it keeps the order, and a
poisoned head cannot block for ever: what was rejected in the same step in which another message was accepted is sent
once more, at once, and if it is rejected again it is a dead letter.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.route.window import Item, Window

__all__ = ["REJECTIONS_MAX", "Suspicion"]

#: Lone rejections without an acceptance between them.
REJECTIONS_MAX: Final = 3
#: Looking further costs order if the trouble ends between two probes of one step, so it is not done each time.
_FURTHER_EVERY: Final = 4


@dataclass(slots=True)
class Suspicion:
    """The run of rejections since the last acceptance. ``due_s``: when suspects with nothing behind them are tried again."""

    rejecting: bool = False
    rejections: int = 0
    due_s: float = 0.0
    suspects: list[tuple[Window, Item]] = field(default_factory=list)
    _steps: int = 0
    _tried: list[Item] = field(default_factory=list)
    _last_chance: list[Item] = field(default_factory=list)
    _burst: deque[tuple[Window, Item]] = field(default_factory=deque)

    def add(self, window: Window, item: Item) -> bool:
        """One more lone rejection; True where it makes the route REJECTING (the suspects are to be sent again then)."""
        self.rejections += 1
        self._last_chance.clear()
        self.suspects.append((window, item))
        self.rejecting = self.rejections >= REJECTIONS_MAX
        return self.rejecting

    def give_back(self) -> list[tuple[Window, Item]]:
        """The suspects, which are none any more."""
        suspects, self.suspects = self.suspects, []
        return suspects

    def accepted(self) -> list[tuple[Window, Item]]:
        """The destination took a message: the run is over, and these suspects are dead letters."""
        if self.rejecting:
            self._last_chance = self._tried
        self._end()
        return self.give_back()

    def answered(self) -> None:
        """The destination knew a message already: it is no acceptance, but it does not reject everything either."""
        if self.rejecting:
            self._end()

    def _end(self) -> None:
        self.rejecting, self.rejections, self._steps = False, 0, 0
        self._tried = []
        self._burst.clear()

    def probed(self, items: Iterable[Item]) -> None:
        """Probes of this step that were rejected."""
        self._tried += items

    def had_last_chance(self, item: Item) -> bool:
        """Whether it was rejected a moment ago, and another one accepted then."""
        return item in self._last_chance

    def interrupted(self) -> list[tuple[Window, Item]]:
        """Neither a rejection nor an acceptance: the destination may be another one afterwards, so begin at the head again."""
        self._last_chance.clear()
        self._tried = []
        self._burst.clear()
        return self.give_back()

    @property
    def steps(self) -> int:
        """Probing steps of this run so far, the exponent of their backoff."""
        return self._steps

    @property
    def burst_over(self) -> bool:
        """Whether the step's probes are used up."""
        return not self._burst

    def probe(self, candidates: Iterable[tuple[Window, Item]]) -> tuple[Window, Item] | None:
        """The next lone probe. ``candidates``: everything that could be sent now, in order."""
        if not self._burst:
            self._steps += 1
            self._tried = []
            self._burst.extend(self._probes(list(candidates)))
        return self._burst.popleft() if self._burst else None

    def _probes(self, waiting: list[tuple[Window, Item]]) -> list[tuple[Window, Item]]:
        round_, rest_of_round = divmod(self._steps, _FURTHER_EVERY)
        if rest_of_round:
            return waiting[:1]
        heads, rest = waiting[:REJECTIONS_MAX], waiting[REJECTIONS_MAX:]
        return [*heads, rest[(round_ - 1) % len(rest)]] if rest else heads
