"""What operators can ask of the running daemon (``AdminPort``), on top of the journal and the routes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.admin.ports import DeadLetterContent
from gateway.journal.audit import AuditKind
from gateway.model.errors import LockedError, UnavailableError
from gateway.model.state import GatewayState

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from gateway.admin.ports import Actor, TapLine
    from gateway.admin.tap_feed import TapFeed
    from gateway.journal.audit_check import AuditVerdict
    from gateway.journal.interface import ExceptionRow, QueueRow, ReplayResult, TraceRecord
    from gateway.journal.journal import Journal
    from gateway.journal.refused import RefusedRow
    from gateway.model.event import EventId
    from gateway.model.message import StoredMessage
    from gateway.observe.status import GatewayStatus
    from gateway.service.standing import Standing

__all__ = ["DaemonPort"]


@dataclass(frozen=True, slots=True)
class DaemonPort:
    """``picture()`` is the status; ``journal()`` is None while there is none; ``verify()`` walks the audit chain (blocking)."""

    picture: Callable[[], GatewayStatus]
    journal: Callable[[], Journal | None]
    standing: Standing
    taps: TapFeed
    verify: Callable[[], AuditVerdict]

    def _open(self) -> Journal:
        if (journal := self.journal()) is not None:
            return journal
        cause = self.standing.cause or "starting"
        if self.standing.state is GatewayState.LOCKED:
            raise LockedError(cause, "the key is missing or wrong for this journal: give the right one, the gateway tries again every 2 s")
        raise UnavailableError(cause, "the journal is not open yet: look at `edge-gateway status` and the log")

    async def status(self) -> GatewayStatus:
        """One atomic snapshot, in every state."""
        return self.picture()

    async def queue(self, route: str, limit: int) -> Sequence[QueueRow]:
        """The oldest queued messages."""
        return await self._open().queue(route, limit)

    async def dead_letters(self, route: str | None, limit: int) -> Sequence[ExceptionRow]:
        """Dead letters, oldest first."""
        return await self._open().dead_letters(route, limit)

    async def dead_letter_content(self, event: EventId, route: str) -> DeadLetterContent | None:
        """Content of one dead letter; the reveal has been noted."""
        found = await self._open().exception_content(str(event), route)
        return None if found is None else DeadLetterContent(found.reason, found.message.body, found.message.charset)

    async def message(self, event: EventId) -> StoredMessage | None:
        """A message that is still kept."""
        return await self._open().message(str(event))

    async def trace(self, event: EventId) -> Sequence[TraceRecord]:
        """Every recorded fact about it."""
        return await self._open().trace(str(event))

    async def refused(self, limit: int) -> Sequence[RefusedRow]:
        """The newest refused frames."""
        return await self._open().refused(limit)

    async def refused_frame(self, number: int) -> RefusedRow | None:
        """One of them with its content; the reveal has been noted."""
        return await self._open().refused_content(number)

    async def verify_audit(self) -> AuditVerdict:
        """Walk the chain on a connection of its own, in a thread of its own, so that deliveries do not wait for it."""
        self._open()
        return await asyncio.to_thread(self.verify)

    async def note_reveal(self, actor: Actor, what: str, event: EventId | None) -> None:
        """Durable before anything is shown."""
        await self._open().note(AuditKind.REVEAL, {"what": what}, str(actor), event="" if event is None else str(event))

    async def replay_dead_letters(self, events: Sequence[EventId], route: str | None, actor: Actor, reason: str) -> int:
        """dead_letter -> queued."""
        return len(await self._open().replay_dead_letter([str(event) for event in events], str(actor), reason, route))

    async def discard_dead_letters(self, events: Sequence[EventId], route: str | None, actor: Actor, reason: str) -> int:
        """dead_letter -> gap, declared to the receiver."""
        return len(await self._open().discard_dead_letter([str(event) for event in events], str(actor), reason, route))

    async def replay_range(self, route: str, since_us: int, until_us: int, *, dry_run: bool, actor: Actor, reason: str) -> ReplayResult:
        """Send again what the route received then."""
        journal = self._open()
        if not dry_run:
            await journal.note(AuditKind.REPLAY, {"since_us": since_us, "until_us": until_us, "reason": reason}, str(actor), route=route)
        return await journal.replay_range(route, since_us, until_us, dry_run=dry_run, actor=str(actor))

    def tap(self) -> AsyncGenerator[TapLine | int, None]:
        """Messages as they are committed."""
        return self.taps.subscribe()
