"""Rejections: is it the message, or does the destination reject everything (a firewall, a wrong address)?

A lone rejected message becomes a suspect and is skipped. The next acceptance shows that the destination works: the
suspects are dead letters then. Three lone rejections without an acceptance: everything is kept (REJECTING), and once per
backoff step the oldest three are tried again, each alone and in order, and then one further on, another one each time.
So an end of the trouble is noticed at the head, where it keeps the order, and a poisoned head cannot block for ever.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.route.window import Item, Window

__all__ = ["REJECTIONS_MAX", "Suspicion"]

#: Lone rejections without an acceptance between them.
REJECTIONS_MAX: Final = 3


@dataclass(slots=True)
class Suspicion:
    """The run of rejections since the last acceptance. ``due_s``: when suspects with nothing behind them are tried again."""

    rejecting: bool = False
    rejections: int = 0
    due_s: float = 0.0
    suspects: list[tuple[Window, Item]] = field(default_factory=list)
    _steps: int = 0
    _burst: deque[tuple[Window, Item]] = field(default_factory=deque)

    def add(self, window: Window, item: Item) -> bool:
        """One more lone rejection; True where it makes the route REJECTING (the suspects are to be sent again then)."""
        self.rejections += 1
        self.suspects.append((window, item))
        self.rejecting = self.rejections >= REJECTIONS_MAX
        return self.rejecting

    def give_back(self) -> list[tuple[Window, Item]]:
        """The suspects, which are none any more."""
        suspects, self.suspects = self.suspects, []
        return suspects

    def accepted(self) -> list[tuple[Window, Item]]:
        """The destination took a message: the run is over, and these suspects are dead letters."""
        self.rejecting, self.rejections, self._steps = False, 0, 0
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
            waiting = list(candidates)
            heads, rest = waiting[:REJECTIONS_MAX], waiting[REJECTIONS_MAX:]
            further = islice(rest, self._steps % len(rest), None) if rest else iter(())
            self._burst.extend((*heads, *islice(further, 1)))
            self._steps += 1
        return self._burst.popleft() if self._burst else None
