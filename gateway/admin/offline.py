"""The reading operations on the journal of a stopped daemon, as the same rows that the admin socket gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.admin import rows
from gateway.admin.operations import LIMIT_MAX, parse_event
from gateway.admin.wire import Arguments
from gateway.model.errors import UnavailableError
from gateway.observe.status import as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gateway.admin.ports import OfflinePort
    from gateway.admin.rows import Row

__all__ = ["OfflineRows"]


@dataclass(frozen=True, slots=True)
class OfflineRows:
    """``rows`` answers as ``Daemon.rows`` does; what would have to be audited is refused."""

    journal: OfflinePort
    gateway: str

    def rows(self, op: str, values: Mapping[str, Any]) -> Iterator[Row]:
        """Raises ``UnavailableError`` for what only the running daemon may do."""
        arguments = Arguments(values)
        if arguments.flag("reveal"):
            raise UnavailableError("not-running", "content is shown by the running gateway only, because that is audited: start it first")
        if op not in _READING:
            raise UnavailableError("not-running", "this needs the running gateway: start it first")
        return _READING[op](self.journal, self.gateway, arguments)


def _status(journal: OfflinePort, _gateway: str, _arguments: Arguments) -> Iterator[Row]:
    yield as_json(journal.status())


def _queue(journal: OfflinePort, _gateway: str, arguments: Arguments) -> Iterator[Row]:
    route = arguments.text("route")
    return (rows.queue_row(row, route) for row in journal.queue(route, arguments.number("limit")))


def _message(journal: OfflinePort, gateway: str, arguments: Arguments) -> Iterator[Row]:
    message = journal.message(parse_event(arguments.text("id"), gateway))
    if message is not None:
        yield rows.message_row(message, gateway)


def _dead_letters(journal: OfflinePort, _gateway: str, arguments: Arguments) -> Iterator[Row]:
    return map(rows.exception_row, journal.dead_letters(arguments.text_or_none("route"), arguments.number("limit")))


def _dead_letter(journal: OfflinePort, gateway: str, arguments: Arguments) -> Iterator[Row]:
    event = str(parse_event(arguments.text("id"), gateway))
    found = journal.dead_letters(arguments.text_or_none("route"), LIMIT_MAX)
    return (rows.exception_row(row) for row in found if row.event_id == event)


def _trace(journal: OfflinePort, gateway: str, arguments: Arguments) -> Iterator[Row]:
    return map(rows.trace_row, journal.trace(parse_event(arguments.text("id"), gateway)))


def _refused(journal: OfflinePort, _gateway: str, arguments: Arguments) -> Iterator[Row]:
    return map(rows.refused_row, journal.refused(arguments.number("limit")))


def _refused_frame(journal: OfflinePort, _gateway: str, arguments: Arguments) -> Iterator[Row]:
    number = arguments.number("id")
    return (rows.refused_row(row) for row in journal.refused(LIMIT_MAX) if row.id == number)


def _audit(journal: OfflinePort, _gateway: str, _arguments: Arguments) -> Iterator[Row]:
    yield rows.audit_row(journal.verify_audit())


_READING: Final[dict[str, Callable[[OfflinePort, str, Arguments], Iterator[Row]]]] = {
    "status": _status,
    "queue": _queue,
    "message": _message,
    "dead-letters": _dead_letters,
    "dead-letter": _dead_letter,
    "trace": _trace,
    "refused": _refused,
    "refused-frame": _refused_frame,
    "audit": _audit,
}
