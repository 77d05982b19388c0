"""What a source needs from the rest of the house, as small as it can be; tests implement these with a few lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model.clock import Clock
    from gateway.model.message import AppendGroup
    from gateway.model.refusal import Refusal
    from gateway.observe.events import LogEvent
    from gateway.transport.byte_budget import ByteBudget

__all__ = ["AppendPort", "LogPort", "SourceCounts", "SourceServices"]


class AppendPort(Protocol):
    """Where messages go: the journal, or what answers in its place while it is locked or unreadable."""

    def append(self, group: AppendGroup) -> None:
        """Take the group; ``group.done`` is called later, in the event loop, in the order of the appends."""
        ...

    def refuse_note(self, refusal: Refusal) -> None:
        """Keep a refused frame; never blocks, never raises."""
        ...


class LogPort(Protocol):
    """Where events are told."""

    def emit(self, event: LogEvent, **fields: object) -> None:
        """One line of the closed list; never raises."""
        ...


@dataclass(slots=True)
class SourceCounts:
    """What one source counts itself, since its start. Accepted messages are counted by the journal.

    ``flagged``: frames that were odd but taken (stray FS or VT, no CR at the end, batch counts that do not fit).
    ``ack_undelivered``: stored, but the sender was gone before its answer. ``turned_away``: connections.
    """

    duplicates: int = 0
    refused: int = 0
    connections: int = 0
    unable: int = 0
    reused_control_ids: int = 0
    flagged: int = 0
    ack_undelivered: int = 0
    turned_away: int = 0


@dataclass(frozen=True, slots=True)
class SourceServices:
    """What every source of the daemon shares.

    ``answer_prefix``: begins MSH-10 of our answers, at most 12 letters or digits, another one at every start of the daemon.
    ``credentials_directory``: where ``{ credential = … }`` references point (systemd), None without.
    """

    clock: Clock
    log: LogPort
    budget: ByteBudget
    answer_prefix: str
    credentials_directory: Path | None = None
