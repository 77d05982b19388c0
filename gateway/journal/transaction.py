"""One commit in the making: acts change the draft state, add audit records and events; the writer writes the rest."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gateway.journal.records import commit_of
from gateway.model.errors import LocalProtocolError

if TYPE_CHECKING:
    import sqlite3
    from asyncio import Future
    from collections.abc import Callable

    from gateway.journal.audit import AuditRecord
    from gateway.journal.cipher import RecordCipher
    from gateway.journal.ledger import JournalState, RouteLedger
    from gateway.model.clock import ClockState
    from gateway.model.errors import GatewayError
    from gateway.model.message import Entry

__all__ = ["Act", "Transaction"]


@dataclass(slots=True)
class Transaction:
    """What acts work on, in the writer's thread. ``number`` is the commit; ``state`` may be changed freely.

    ``events``: messages that the gateway makes itself; they are appended behind those of the sources.
    """

    connection: sqlite3.Connection
    cipher: RecordCipher
    state: JournalState
    number: int
    at_us: int
    clock_state: ClockState
    incarnation_of: Callable[[int], bytes]
    audit: list[AuditRecord] = field(default_factory=list)
    events: list[Entry] = field(default_factory=list)

    def route(self, name: str) -> RouteLedger:
        """The ledger of a route.

        Raises:
            LocalProtocolError: ``route-unknown``.
        """
        ledger = self.state.routes.get(name)
        if ledger is None:
            raise LocalProtocolError("route-unknown", "the journal does not know this route")
        return ledger

    def change(self, name: str, **changes: Any) -> RouteLedger:
        """Replace fields of a route's ledger."""
        ledger = replace(self.state.routes[name], **changes)
        self.state.routes[name] = ledger
        return ledger

    def oldest_commit(self) -> int:
        """The commit of the oldest block that is kept; this commit where there is none."""
        row = self.connection.execute("SELECT min(id) FROM block").fetchone()
        return self.number if row[0] is None else commit_of(row[0])


@dataclass(slots=True, eq=False)
class Act:
    """Something that is done in the next commit. ``run`` validates before it changes anything, and then does not raise.

    ``patient``: a failed commit does not fail it, it is tried again with the next one (settlements).
    """

    run: Callable[[Transaction], Any]
    future: Future[Any] | None = None
    patient: bool = False
    result: Any = None
    error: GatewayError | None = None
