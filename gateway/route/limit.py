"""How many messages a batch may hold: shrinks when the destination cannot take them, grows with each receipt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["BatchLimit"]

#: After a 413 the batch that was too large is tried again only after so many receipts, not with every second request.
_CALM_RECEIPTS: Final = 64


@dataclass(slots=True)
class BatchLimit:
    """``messages``: what the next batch may hold. ``ceiling``: how far receipts may raise it."""

    max_messages: int
    messages: int
    ceiling: int
    _calm: int = 0
    _timed_out: int = 0

    @classmethod
    def of(cls, max_messages: int) -> BatchLimit:
        """Starts at the most that the configuration allows."""
        return cls(max_messages, max_messages, max_messages)

    def too_large(self, messages: int) -> None:
        """A batch of so many was too large (413)."""
        self.ceiling = max(1, messages // 2)
        self.messages = min(self.messages, self.ceiling)
        self._calm = 0

    def timed_out(self, messages: int) -> None:
        """No answer in time: perhaps the link is too slow for so many, perhaps the destination is away."""
        self.messages = max(1, messages // 2)
        self._timed_out = messages

    def alone(self) -> None:
        """A lone message was rejected: feel the way."""
        self.messages = 1

    def receipt(self, *, after_outage: bool) -> None:
        """Something was taken. A timeout before it was about the size, unless there was an outage."""
        if self._timed_out and not after_outage:
            self.too_large(self._timed_out)
        self._timed_out = 0
        self._calm += 1
        if self._calm >= _CALM_RECEIPTS:
            self.ceiling, self._calm = min(self.max_messages, self.ceiling * 2), 0
        self.messages = min(self.ceiling, self.messages * 2)
