"""Memory as a shared budget in bytes: who is over it waits, who is small is never made to wait, who stalls the rest is closed.

Counted per connection: *partial* bytes (of a frame that has not ended) and bytes *in flight* (read, not yet committed).
In-flight bytes come back by themselves when the journal answers. Partial bytes depend on the peer, hence the rules:

1. Over the limit, a connection that holds more than ``FLOOR_BYTES`` stops reading; smaller ones go on, so that large
   documents (or an attacker with many half frames) never delay ordinary messages.
2. One large connection at a time may go on over the limit (the *pass*), so that waiting frames cannot block each other
   for ever. The bound is therefore limit + one largest frame + (floor + one chunk) for each connection.
3. While anybody waits, a connection that holds a large partial frame must deliver ``MIN_RATE_BYTES_S``; after
   ``PATIENCE_S`` seconds below it is evicted.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

__all__ = ["FLOOR_BYTES", "MIN_RATE_BYTES_S", "PATIENCE_S", "ByteBudget", "Holder", "Share"]

#: 256 connections times this is 16 MiB: what the small ones may hold beside the budget.
FLOOR_BYTES: Final = 64 * 1024
#: Far below any working line; a 16 MiB frame at this rate would miss the frame deadline of 60 s by far anyway.
MIN_RATE_BYTES_S: Final = 16 * 1024
PATIENCE_S: Final = 4
#: One read of a connection: letting it go on may bring in this much at once.
_CHUNK_BYTES: Final = 32 * 1024
_TICK_S: Final = 1.0


class Holder(Protocol):
    """The connection behind a share."""

    @property
    def reading(self) -> bool:
        """False while anything on our side keeps it from reading: its peer is not to blame then."""
        ...

    def wait_for_room(self) -> None:
        """Stop reading."""
        ...

    def room(self) -> None:
        """Read again."""
        ...

    def evict(self) -> None:
        """Give up the unfinished frame and close."""
        ...


class ByteBudget:
    """The bytes of all connections together. One per daemon, used from the event loop only."""

    __slots__ = ("_passing", "_shares", "_tick", "_waiting", "limit_bytes", "tick_s", "used_bytes")

    def __init__(self, limit_bytes: int, tick_s: float = _TICK_S) -> None:
        self.limit_bytes = limit_bytes
        self.tick_s = tick_s
        self.used_bytes = 0
        self._waiting: dict[Share, None] = {}  # a dict keeps the order of arrival and removes in O(1)
        self._shares: set[Share] = set()  # those with a large partial frame
        self._passing: Share | None = None
        self._tick: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Connections that do not read because of the budget."""
        return len(self._waiting)

    def crowded(self, share: Share) -> None:
        """``share`` grew while the budget is used up: give it the pass, or let it wait."""
        if share.held_bytes <= FLOOR_BYTES or share is self._passing:
            return
        if self._passing is None and share.partial_bytes > FLOOR_BYTES:
            self._passing = share
        elif share not in self._waiting:
            self._waiting[share] = None
            share.holder.wait_for_room()
            self._arm()

    def track(self, share: Share) -> None:
        """The partial frame of ``share`` became large, or ended."""
        if share.partial_bytes > FLOOR_BYTES:
            self._shares.add(share)
            return
        self._shares.discard(share)
        if share is self._passing:
            self._passing = None
            self.settle()

    def forget(self, share: Share) -> None:
        """The connection of ``share`` is gone; what it still has in flight stays counted until it is given back."""
        self._waiting.pop(share, None)
        self._shares.discard(share)
        if share is self._passing:
            self._passing = None
        if self._waiting:
            self.settle()

    def settle(self) -> None:
        """Bytes came back: let as many go on, eldest first, as there is room for one chunk each."""
        room_bytes = self.limit_bytes - self.used_bytes
        while self._waiting and room_bytes >= 0:
            self._resume(next(iter(self._waiting)))
            room_bytes -= _CHUNK_BYTES
        if self._passing is None:
            heir = next((share for share in self._waiting if share.partial_bytes > FLOOR_BYTES), None)
            if heir is not None:
                self._passing = heir
                self._resume(heir)

    def small_again(self, share: Share) -> None:
        """Rule 1: what is small does not wait."""
        if share in self._waiting:
            self._resume(share)

    def _resume(self, share: Share) -> None:
        del self._waiting[share]
        share.slow_ticks = 0
        share.holder.room()

    def _arm(self) -> None:
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(self.tick_s, self._on_tick)

    def _on_tick(self) -> None:
        self._tick = None
        if not self._waiting:
            return
        for share in [share for share in self._shares if share.holder.reading]:
            self._judge(share)
        self.settle()
        if self._waiting:
            self._arm()

    def _judge(self, share: Share) -> None:
        """Evict a connection that holds much, brings little, and keeps others waiting."""
        brought_bytes = share.seen_bytes - share.judged_bytes
        share.judged_bytes = share.seen_bytes
        share.slow_ticks = 0 if brought_bytes >= MIN_RATE_BYTES_S * self.tick_s else share.slow_ticks + 1
        if share.slow_ticks > PATIENCE_S:
            share.holder.evict()


class Share:
    """What one connection holds of the budget."""

    __slots__ = ("budget", "holder", "in_flight_bytes", "judged_bytes", "partial_bytes", "seen_bytes", "slow_ticks")

    def __init__(self, budget: ByteBudget, holder: Holder) -> None:
        self.budget = budget
        self.holder = holder
        self.in_flight_bytes = 0
        self.partial_bytes = 0
        self.seen_bytes = 0
        self.judged_bytes = 0
        self.slow_ticks = 0

    @property
    def held_bytes(self) -> int:
        """Partial and in flight together."""
        return self.partial_bytes + self.in_flight_bytes

    def read(self, chunk_bytes: int, in_flight_bytes: int, partial_bytes: int) -> None:
        """A chunk was read: it put so much more in flight, and so much of an unfinished frame is held now."""
        budget = self.budget
        self.seen_bytes += chunk_bytes
        self.in_flight_bytes += in_flight_bytes
        budget.used_bytes += in_flight_bytes
        if partial_bytes != self.partial_bytes:
            budget.used_bytes += partial_bytes - self.partial_bytes
            self.partial_bytes = partial_bytes
            budget.track(self)
        if budget.used_bytes > budget.limit_bytes:
            budget.crowded(self)

    def give_back(self, in_flight_bytes: int) -> None:
        """The journal has answered for so many bytes."""
        self.in_flight_bytes -= in_flight_bytes
        self.budget.used_bytes -= in_flight_bytes
        if self.budget.waiting:
            if self.held_bytes <= FLOOR_BYTES:
                self.budget.small_again(self)
            self.budget.settle()

    def drop(self) -> None:
        """The connection is gone: its unfinished frame is no longer held."""
        self.budget.used_bytes -= self.partial_bytes
        self.partial_bytes = 0
        self.budget.forget(self)
