"""A journal that keeps everything in memory and commits, fails or stalls as it is told; and what else a source needs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.model.clock import ClockState
from gateway.model.limits import IN_FLIGHT_MAX_BYTES
from gateway.source.ports import SourceServices
from gateway.transport.byte_budget import ByteBudget

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model.errors import GatewayError
    from gateway.model.message import AppendGroup, Entry
    from gateway.model.refusal import Refusal
    from gateway.observe.events import LogEvent


@dataclass(eq=False)
class MemoryJournal:
    """Commits what has collected in the next turn of the loop. ``error`` set: every commit fails. ``stalled``: none ends."""

    error: GatewayError | None = None
    stalled: bool = False
    stored: list[Entry] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)  # entries of each group, as appended
    commits: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    _waiting: list[AppendGroup] = field(default_factory=list)
    _known: dict[tuple[bytes, ...], bytes] = field(default_factory=dict)
    _scheduled: bool = False

    def append(self, group: AppendGroup) -> None:
        self.groups.append(len(group.entries))
        self._waiting.append(group)
        if not self._scheduled and not self.stalled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._commit)

    def refuse_note(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def go_on(self) -> None:
        """End the stall: commit what has collected."""
        self.stalled = False
        self._commit()

    def _commit(self) -> None:
        self._scheduled = False
        groups, self._waiting = self._waiting, []
        self.commits += 1
        for group in groups:
            for entry in group.entries:
                if self.error is not None:
                    entry.error = self.error
                else:
                    self._store(entry)
        for group in groups:
            group.done(group)

    def _store(self, entry: Entry) -> None:
        start, end = entry.restamp
        content = entry.body[:start] + entry.body[end:]
        if entry.identity is not None:
            known = self._known.get(entry.identity)
            if known == content:
                entry.duplicate = True
                return
            entry.reused_control_id = known is not None
            self._known[entry.identity] = content
        entry.seq = len(self.stored) + 1
        self.stored.append(entry)

    @property
    def bodies(self) -> list[bytes]:
        return [entry.body for entry in self.stored]


@dataclass
class FixedClock:
    """A wall clock that stands still, in the reserved year of the examples."""

    now_us: int = 1_795_564_800_000_000

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_s(self) -> float:
        return 0.0

    def state(self) -> ClockState:
        return ClockState.SYNCED


@dataclass
class ListLog:
    """Keeps the events."""

    events: list[tuple[LogEvent, dict[str, object]]] = field(default_factory=list)

    def emit(self, event: LogEvent, **fields: object) -> None:
        self.events.append((event, fields))

    def of(self, event: LogEvent) -> list[dict[str, object]]:
        return [fields for kind, fields in self.events if kind is event]


def services(budget: ByteBudget | None = None, log: ListLog | None = None, credentials: Path | None = None) -> SourceServices:
    return SourceServices(FixedClock(), log or ListLog(), budget or ByteBudget(IN_FLIGHT_MAX_BYTES), "T", credentials)
