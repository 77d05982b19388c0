"""The state of the gateway as a whole, and the log lines that go with its changes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, assert_never

from gateway.journal.interface import Condition, JournalEvent, JournalEventKind
from gateway.journal.witness import read_last_status
from gateway.model.state import GatewayState
from gateway.observe.events import LogEvent
from gateway.observe.status import from_json

if TYPE_CHECKING:
    from gateway.journal.journal import Journal
    from gateway.model.clock import Clock
    from gateway.observe.log import EventLog
    from gateway.observe.status import GatewayStatus
    from gateway.settings.configuration import Configuration

__all__ = ["Standing"]

_STATE_OF: Final = {
    Condition.RUNNING: GatewayState.RUNNING,
    Condition.FULL: GatewayState.FULL,
    Condition.READ_ONLY: GatewayState.READ_ONLY,
}
#: Once stopping, nothing the journal says changes the state any more.
_FINAL: Final = (GatewayState.STOPPING, GatewayState.STOPPED)


@dataclass(slots=True)
class Standing:
    """``cause``: code of a state other than running. ``last_known``: the counts that a locked gateway can still show.

    ``damaged`` is set when the journal finds its file damaged: it has to be opened anew, which salvages.
    """

    log: EventLog
    clock: Clock
    state: GatewayState = GatewayState.STARTING
    cause: str | None = None
    last_known: GatewayStatus | None = None
    damaged: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, state: GatewayState, cause: str | None = None) -> bool:
        """Change the state; True where it (or its cause) really changed."""
        if (state, cause) == (self.state, self.cause) or (self.state in _FINAL and state not in _FINAL):
            return False
        previous, self.state, self.cause = self.state, state, cause
        if previous is not state:
            self.log.emit(LogEvent.STATE_CHANGED, previous=previous.value, state=state.value, cause=cause)
        return True

    def opened(self, journal: Journal) -> None:
        """The journal is open; its condition is ours from now on."""
        found = journal.snapshot()
        self.last_known = None
        self.enter(_STATE_OF[found.condition], found.error or None)
        self.log.emit(LogEvent.JOURNAL_OPENED, incarnation=found.incarnation, bytes=found.bytes, quota=found.quota, blocks=found.blocks)

    def remember(self, configuration: Configuration) -> None:
        """Read what was last shown, for a gateway that cannot open its journal."""
        if self.last_known is None and (found := read_last_status(configuration.gateway.state_dir)) is not None:
            self.last_known = from_json(found.status, configuration)

    def on_journal(self, event: JournalEvent) -> None:
        """What the journal tells as it happens."""
        match event.kind:
            case JournalEventKind.CONDITION:
                self._condition(event)
            case JournalEventKind.COMMIT_FAILED:
                self.log.emit(LogEvent.COMMIT_FAILED, code=event.code, count=event.count)
            case JournalEventKind.QUARANTINED:
                self.log.emit(LogEvent.BLOCK_QUARANTINED, code=event.code, blocks=1, messages=event.count)
            case JournalEventKind.DEDUPE_LOST:
                self.log.emit(LogEvent.CHAIN_BROKEN, code=event.code, count=event.count)
            case JournalEventKind.SALVAGED:
                self.log.emit(LogEvent.JOURNAL_SALVAGED, code=event.code)
            case JournalEventKind.DAMAGED:
                self.log.emit(LogEvent.JOURNAL_DAMAGED, code=event.code)
                self.damaged.set()
            case JournalEventKind.BALLAST:
                return
            case _:
                assert_never(event.kind)

    def _condition(self, event: JournalEvent) -> None:
        match event.condition:
            case Condition.RUNNING:
                self.log.emit(LogEvent.JOURNAL_RECOVERED)
            case Condition.FULL:
                self.log.emit(LogEvent.JOURNAL_FULL, code=event.code)
            case Condition.READ_ONLY:
                self.log.emit(LogEvent.JOURNAL_READ_ONLY, code=event.code)
            case _:
                assert_never(event.condition)
        self.enter(_STATE_OF[event.condition], event.code or None)
