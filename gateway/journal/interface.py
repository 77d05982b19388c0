"""The values that cross the journal's border: where it lies, what it is told, what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor
    from pathlib import Path

    from gateway.journal.audit import AuditRecord
    from gateway.model.clock import Clock, Randomness
    from gateway.model.cursor import Cursor
    from gateway.model.state import Books, Term
    from gateway.model.traffic import TrafficClass

__all__ = [
    "Condition",
    "ExceptionRow",
    "JournalEvent",
    "JournalEventKind",
    "JournalPlace",
    "JournalServices",
    "JournalSnapshot",
    "QueueRow",
    "ReplayResult",
    "RouteRule",
    "RouteSnapshot",
    "TraceRecord",
]


class Condition(StrEnum):
    """What the journal can do now. The values are those of ``GatewayState``."""

    RUNNING = "running"
    FULL = "full"  #: appends are refused with ``CapacityError``; settling goes on
    READ_ONLY = "read_only"  #: the disk refuses: appends get ``StorageError``, settlements wait; tried again every second


class JournalEventKind(StrEnum):
    """What the owner is told as it happens (log, metrics, readiness)."""

    CONDITION = "condition"  #: ``condition`` changed; ``code`` says why
    COMMIT_FAILED = "commit-failed"  #: one more failed commit; ``code`` of the error
    QUARANTINED = "quarantined"  #: ``count`` messages of ``route`` became gaps; ``code`` = reason
    DEDUPE_LOST = "dedupe-lost"  #: a commit row of the duplicate window could not be opened at start
    DAMAGED = "damaged"  #: SQLite finds the file damaged: close this journal and open it again, which salvages
    SALVAGED = "salvaged"  #: the start found damage (``code``) and mended it
    BALLAST = "ballast"  #: the reserve was released (``code`` released) or made again (``code`` restored)


@dataclass(frozen=True, slots=True)
class JournalEvent:
    """One such fact; our own words and numbers only."""

    kind: JournalEventKind
    code: str = ""
    condition: Condition = Condition.RUNNING
    route: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """Where the journal lies and how much it may use. ``quota_bytes``, ``reserve_bytes`` 0 = scaled to the file system."""

    state_dir: Path
    quota_bytes: int = 0
    reserve_bytes: int = 0
    dedupe_keys: int = 100_000
    retain_days: float = 7.0


@dataclass(frozen=True, slots=True)
class RouteRule:
    """Which sources a route reads; None = all of them (``from = "*"``)."""

    name: str
    sources: frozenset[str] | None = None


def _ignore(_event: JournalEvent) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class JournalServices:
    """What the journal is given. ``executor``: exactly one thread, used by nothing else; ``reader_executor`` likewise.

    ``gateway``: the gateway id, first part of every event id. ``on_event`` is called in the event loop.
    """

    clock: Clock
    randomness: Randomness
    executor: Executor
    reader_executor: Executor
    on_event: Callable[[JournalEvent], None] = _ignore
    gateway: str = "gateway"


@dataclass(frozen=True, slots=True)
class RouteSnapshot:
    """One route as of the last commit.

    ``oldest_us``: reception time (wall clock) of the oldest queued message, None where nothing is queued. ``requeued``: how
    many of ``books.queued`` wait in the exceptions (replays). ``configured`` False: removed from the configuration, but it
    still has queued messages or dead letters.
    """

    name: str
    books: Books
    cursor: Cursor
    oldest_us: int | None
    requeued: int = 0
    configured: bool = True


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """One atomic picture as of the last commit. ``bytes`` = db + wal + shm less free pages; ``blocks`` = block rows."""

    incarnation: str
    condition: Condition
    accepted: Mapping[str, int]
    routes: tuple[RouteSnapshot, ...]
    bytes: int
    quota: int
    blocks: int
    commit: int
    next_seq: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class ExceptionRow:
    """One message that a route has something to remember about; no content. ``event_id`` is the message's event id."""

    event_id: str
    route: str
    seq: int
    term: Term
    traffic: TrafficClass
    laneseq: int
    revision: int
    at_us: int
    source: str = ""
    kind: str = ""
    received_us: int = 0
    code: str = ""
    size_bytes: int = 0


class QueueRow(NamedTuple):
    """One queued message, envelope only."""

    event_id: str
    source: str
    kind: str
    traffic: TrafficClass
    seq: int
    laneseq: int
    revision: int
    received_us: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a range replay did, or would do (``dry_run``). ``skipped``: messages of the route in the range, by reason.

    ``delivered`` and ``dead_letter`` count the terms the replayed messages were in before.
    """

    delivered: int = 0
    dead_letter: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One recorded fact about one message: when (commit, wall clock) and what."""

    commit: int
    at_us: int
    record: AuditRecord
