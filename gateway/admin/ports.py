"""What the admin side needs from the rest of the gateway. ``service`` implements ``AdminPort`` on top of journal and routes.

Every method may raise ``LockedError`` (no key: exit 4), ``UnavailableError`` or ``StorageError`` (exit 5) and any other
``GatewayError`` (exit 1). None writes to the audit trail by itself except those that say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.journal.audit_check import AuditVerdict as AuditReport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from gateway.journal.interface import ExceptionRow, QueueRow, ReplayResult, TraceRecord
    from gateway.journal.refused import RefusedRow
    from gateway.model.event import EventId
    from gateway.model.message import StoredMessage
    from gateway.observe.status import GatewayStatus

__all__ = ["Actor", "AdminPort", "AuditReport", "DeadLetterContent", "OfflinePort", "TapLine"]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the OS account as the kernel says, and the name the person gave with ``--by`` (which proves nothing)."""

    account: str
    uid: int
    by: str = ""

    def __str__(self) -> str:
        """For the audit trail: ``anna (uid 1000)``, ``anna (uid 1000) by Dr. Kim``."""
        who = f"{self.account} (uid {self.uid})"
        return f"{who} by {self.by}" if self.by else who


@dataclass(frozen=True, slots=True)
class TapLine:
    """One message as it was committed: the envelope, and the bytes for those who may see them."""

    event_id: str
    source: str
    kind: str
    traffic: str
    received_us: int
    body: bytes
    charset: str


@dataclass(frozen=True, slots=True)
class DeadLetterContent:
    """What a dead letter holds. ``reason``: the destination's own text, patient data like the message itself."""

    reason: str
    body: bytes
    charset: str


class AdminPort(Protocol):
    """The running daemon, as operators see it. All calls come from the event loop."""

    async def status(self) -> GatewayStatus:
        """One atomic snapshot, in every state."""
        ...

    async def queue(self, route: str, limit: int) -> Sequence[QueueRow]:
        """The oldest ``limit`` queued messages of a route."""
        ...

    async def dead_letters(self, route: str | None, limit: int) -> Sequence[ExceptionRow]:
        """The oldest ``limit`` dead letters of one route or all."""
        ...

    async def dead_letter_content(self, event: EventId, route: str) -> DeadLetterContent | None:
        """Content of one dead letter; the caller has called ``note_reveal`` before."""
        ...

    async def message(self, event: EventId) -> StoredMessage | None:
        """A message that is still stored; the caller shows ``body`` only after ``note_reveal``."""
        ...

    async def trace(self, event: EventId) -> Sequence[TraceRecord]:
        """Every recorded fact about one message, in order of commits."""
        ...

    async def refused(self, limit: int) -> Sequence[RefusedRow]:
        """The newest refused frames, without content."""
        ...

    async def refused_frame(self, number: int) -> RefusedRow | None:
        """One refused frame with its content; the caller shows ``kept`` only after ``note_reveal``."""
        ...

    async def verify_audit(self) -> AuditReport:
        """Walk the whole chain."""
        ...

    async def note_reveal(self, actor: Actor, what: str, event: EventId | None) -> None:
        """Commit an audit record of kind ``reveal``; returns once it is durable.

        ``what``: our own words (``message``, ``refused-frame 5``, ``tap``); ``event``: the message, None where it is not one.
        """
        ...

    async def replay_dead_letters(self, events: Sequence[EventId], route: str | None, actor: Actor, reason: str) -> int:
        """Move dead letters back to the queue (audited); how many of them were dead letters."""
        ...

    async def discard_dead_letters(self, events: Sequence[EventId], route: str | None, actor: Actor, reason: str) -> int:
        """Give up dead letters for good: they become gaps (audited); how many of them were dead letters."""
        ...

    async def replay_range(self, route: str, since_us: int, until_us: int, *, dry_run: bool, actor: Actor, reason: str) -> ReplayResult:
        """Send again what a route received in [since, until] (audited); with ``dry_run`` only count."""
        ...

    def tap(self) -> AsyncGenerator[TapLine | int, None]:
        """Messages as they are committed; a number says how many were left out because the reader was too slow."""
        ...


class OfflinePort(Protocol):
    """The journal of a daemon that does not run. Changes no byte and no name in the state directory."""

    def status(self) -> GatewayStatus:
        """As of the last commit; state ``stopped``."""
        ...

    def queue(self, route: str, limit: int) -> Sequence[QueueRow]:
        """As ``AdminPort.queue``."""
        ...

    def dead_letters(self, route: str | None, limit: int) -> Sequence[ExceptionRow]:
        """As ``AdminPort.dead_letters``."""
        ...

    def message(self, event: EventId) -> StoredMessage | None:
        """As ``AdminPort.message``; content is never shown offline, because that could not be audited."""
        ...

    def trace(self, event: EventId) -> Sequence[TraceRecord]:
        """As ``AdminPort.trace``."""
        ...

    def refused(self, limit: int) -> Sequence[RefusedRow]:
        """As ``AdminPort.refused``."""
        ...

    def verify_audit(self) -> AuditReport:
        """As ``AdminPort.verify_audit``."""
        ...

    def close(self) -> None:
        """Let go of the lock and remove the private copy."""
        ...
