"""What sources append to: the journal once it is open; until then a refusal that says why.

Sources keep their ports and connections while the state is locked or the disk unreadable, so that senders get an answer
(AE/CE with error 207) instead of a refused connection, and nothing has to be restarted when the key comes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.admin.ports import TapLine
from gateway.model.event import EventId

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from gateway.admin.tap_feed import TapFeed
    from gateway.journal.journal import Journal
    from gateway.model.errors import GatewayError
    from gateway.model.message import AppendGroup
    from gateway.model.refusal import Refusal

__all__ = ["Intake"]


@dataclass(slots=True)
class Intake:
    """The append port of every source. ``reason``: why nothing can be stored while ``journal`` is None.

    ``taps``: whoever watches live traffic; while nobody does, that costs one comparison per received chunk.
    """

    loop: asyncio.AbstractEventLoop
    reason: GatewayError
    gateway: str
    taps: TapFeed
    journal: Journal | None = None

    def append(self, group: AppendGroup) -> None:
        """To the journal, or answered with ``reason`` in the next turn of the loop (never from within ``append``)."""
        if self.journal is not None:
            if self.taps.watched:
                group.done = self._tapped(group.done, self.journal.incarnation)
            self.journal.append(group)
            return
        for entry in group.entries:
            entry.error = self.reason
        self.loop.call_soon(group.done, group)

    def refuse_note(self, refusal: Refusal) -> None:
        """Keep a refused frame in the sealed ring; without a journal there is no key to seal it with."""
        if self.journal is not None:
            self.journal.refuse_note(refusal)

    def _tapped(self, done: Callable[[AppendGroup], None], incarnation: str) -> Callable[[AppendGroup], None]:
        """``done``, then a line for each message that is now durable."""

        def tell(group: AppendGroup) -> None:
            done(group)
            for entry in group.entries:
                if entry.error is None and not entry.duplicate:
                    event = str(EventId(self.gateway, incarnation, entry.seq))
                    self.taps.publish(
                        TapLine(event, entry.source, entry.kind, entry.traffic.label, entry.received_us, entry.body, entry.charset)
                    )

        return tell
