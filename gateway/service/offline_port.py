"""The journal of a daemon that does not run, as the command line reads it (``OfflinePort``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.journal.offline import OfflineJournal
from gateway.model.state import GatewayState
from gateway.observe.status import GatewayStatus, JournalStatus, RouteStatus, SourceStatus
from gateway.service.picture import route_status
from gateway.service.unlocking import key_provider, place_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.journal.audit_check import AuditVerdict
    from gateway.journal.interface import ExceptionRow, QueueRow, TraceRecord
    from gateway.journal.refused import RefusedRow
    from gateway.model.clock import Clock
    from gateway.model.event import EventId
    from gateway.model.message import StoredMessage
    from gateway.settings.configuration import Configuration

__all__ = ["StoppedPort", "open_stopped"]


@dataclass(frozen=True, slots=True)
class StoppedPort:
    """Reads only; no byte and no name in the state directory changes."""

    journal: OfflineJournal
    configuration: Configuration
    clock: Clock

    def status(self) -> GatewayStatus:
        """As of the last commit. A route that has never run is listed with zeros."""
        found = self.journal.snapshot()
        now_us = self.clock.wall_us()
        known = {route.name: route_status(route, None, now_us) for route in found.routes}
        listed = dict.fromkeys((*self.configuration.route_names, *known))
        return GatewayStatus(
            gateway=self.configuration.gateway.id,
            incarnation=found.incarnation,
            state=GatewayState.STOPPED,
            sources=tuple(SourceStatus(name, found.accepted.get(name, 0)) for name in self.configuration.source_names),
            routes=tuple(known.get(name, RouteStatus(name)) for name in listed),
            journal=JournalStatus(found.bytes, found.quota, found.blocks),
        )

    def queue(self, route: str, limit: int) -> Sequence[QueueRow]:
        """The oldest queued messages."""
        return self.journal.queue(route, limit)

    def dead_letters(self, route: str | None, limit: int) -> Sequence[ExceptionRow]:
        """Dead letters, oldest first."""
        return self.journal.dead_letters(route, limit)

    def message(self, event: EventId) -> StoredMessage | None:
        """A message that is still kept."""
        return self.journal.message(event)

    def trace(self, event: EventId) -> Sequence[TraceRecord]:
        """Every recorded fact about it."""
        return self.journal.trace(event)

    def refused(self, limit: int) -> Sequence[RefusedRow]:
        """The newest refused frames."""
        return self.journal.refused(limit)

    def verify_audit(self) -> AuditVerdict:
        """Walk the whole chain."""
        return self.journal.verify_audit()

    def close(self) -> None:
        """Let go of the lock and of the private copy."""
        self.journal.close()


def open_stopped(configuration: Configuration, credentials_directory: Path | None, clock: Clock) -> StoppedPort:
    """Open what lies there.

    Raises:
        LockedError: the key is missing or wrong.
        UnavailableError: a daemon runs (or is starting) on it.
    """
    environ = {} if credentials_directory is None else {"CREDENTIALS_DIRECTORY": str(credentials_directory)}
    journal = OfflineJournal.open(place_of(configuration), key_provider(configuration, environ), configuration.gateway.id)
    return StoppedPort(journal, configuration, clock)
