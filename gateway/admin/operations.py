"""What the admin socket can be asked: one table, one function per row, each an async stream of rows.

Content leaves only through ``_reveal``: the audit record is committed first, and where it cannot be, nothing is shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.admin import rows
from gateway.model.errors import PermanentError
from gateway.model.event import EventId
from gateway.observe.events import LogEvent
from gateway.observe.status import as_json

if TYPE_CHECKING:
    from gateway.admin.ports import Actor, AdminPort
    from gateway.admin.rows import Row
    from gateway.admin.wire import Arguments
    from gateway.observe.log import EventLog

__all__ = ["LIMIT_MAX", "OPERATIONS", "Errand", "Operation", "parse_event"]

LIMIT_MAX: Final = 100_000


@dataclass(frozen=True, slots=True)
class Errand:
    """One request on its way through the gateway."""

    port: AdminPort
    log: EventLog
    gateway: str
    op: str
    arguments: Arguments
    actor: Actor

    async def reveal(self, what: str, event: EventId | None = None) -> None:
        """Have it audited that content is shown; returns once that is durable."""
        await self.port.note_reveal(self.actor, what, event)
        self.log.emit(LogEvent.CONTENT_REVEALED, operation=self.op, account=self.actor.account, uid=self.actor.uid)

    def acted(self, count: int) -> None:
        """Say in the log that an operator's command was carried out."""
        self.log.emit(LogEvent.OPERATOR_ACTED, operation=self.op, account=self.actor.account, uid=self.actor.uid, count=count)


Operation = Callable[[Errand], AsyncGenerator["Row", None]]


def parse_event(text: str, gateway: str) -> EventId:
    """The event id in ``text``. Raises ``PermanentError`` where it is none, or of another gateway."""
    event = EventId.parse(text)
    if event is None:
        raise PermanentError("not-an-event-id", f"write it as the lists show it: {gateway}/<32 hex digits>/<number>")
    if event.gateway != gateway:
        raise PermanentError("other-gateway", f"that message is of another gateway; this one is {gateway}")
    return event


async def _status(errand: Errand) -> AsyncGenerator[Row, None]:
    yield as_json(await errand.port.status())


async def _queue(errand: Errand) -> AsyncGenerator[Row, None]:
    route = errand.arguments.text("route")
    for row in await errand.port.queue(route, _limit(errand.arguments)):
        yield rows.queue_row(row, route)


async def _message(errand: Errand) -> AsyncGenerator[Row, None]:
    event = parse_event(errand.arguments.text("id"), errand.gateway)
    message = await errand.port.message(event)
    if message is None:
        return
    row = rows.message_row(message, errand.gateway)
    if errand.arguments.flag("reveal"):
        await errand.reveal("message", event)
        row = rows.revealed(row, message.body, message.charset)
    yield row


async def _dead_letters(errand: Errand) -> AsyncGenerator[Row, None]:
    for row in await errand.port.dead_letters(errand.arguments.text_or_none("route"), _limit(errand.arguments)):
        yield rows.exception_row(row)


async def _dead_letter(errand: Errand) -> AsyncGenerator[Row, None]:
    event = parse_event(errand.arguments.text("id"), errand.gateway)
    listed = await errand.port.dead_letters(errand.arguments.text_or_none("route"), LIMIT_MAX)
    found = [row for row in listed if row.event_id == str(event)]
    reveal = errand.arguments.flag("reveal")
    if found and reveal:
        await errand.reveal("dead-letter", event)
    for row in found:
        shown = rows.exception_row(row)
        if reveal and (content := await errand.port.dead_letter_content(event, row.route)) is not None:
            shown = rows.revealed(shown, content.body, content.charset, content.reason)
        yield shown


async def _trace(errand: Errand) -> AsyncGenerator[Row, None]:
    for record in await errand.port.trace(parse_event(errand.arguments.text("id"), errand.gateway)):
        yield rows.trace_row(record)


async def _refused(errand: Errand) -> AsyncGenerator[Row, None]:
    for row in await errand.port.refused(_limit(errand.arguments)):
        yield rows.refused_row(row)


async def _refused_frame(errand: Errand) -> AsyncGenerator[Row, None]:
    frame = await errand.port.refused_frame(errand.arguments.number("id"))
    if frame is None:
        return
    row = rows.refused_row(frame)
    if errand.arguments.flag("reveal"):
        await errand.reveal(f"refused-frame {frame.id}")
        row = rows.revealed(row, frame.kept, "")
    yield row


async def _audit(errand: Errand) -> AsyncGenerator[Row, None]:
    yield rows.audit_row(await errand.port.verify_audit())


async def _tap(errand: Errand) -> AsyncGenerator[Row, None]:
    reveal = errand.arguments.flag("reveal")
    if reveal:
        await errand.reveal("tap")
    async with contextlib.aclosing(errand.port.tap()) as lines:
        async for line in lines:
            if isinstance(line, int):
                yield {"missed": line}
            else:
                row = rows.tap_row(line)
                yield rows.revealed(row, line.body, line.charset) if reveal else row


_Settling = Callable[["Sequence[EventId]", "str | None", "Actor", str], Awaitable[int]]


async def _settle_dead_letters(errand: Errand, act: _Settling) -> AsyncGenerator[Row, None]:
    events = [parse_event(text, errand.gateway) for text in errand.arguments.texts("ids")]
    count = await act(events, errand.arguments.text_or_none("route"), errand.actor, errand.arguments.text("reason"))
    errand.acted(count)
    yield {"count": count}


def _replay_dead_letters(errand: Errand) -> AsyncGenerator[Row, None]:
    return _settle_dead_letters(errand, errand.port.replay_dead_letters)


def _discard_dead_letters(errand: Errand) -> AsyncGenerator[Row, None]:
    return _settle_dead_letters(errand, errand.port.discard_dead_letters)


async def _replay(errand: Errand) -> AsyncGenerator[Row, None]:
    arguments = errand.arguments
    dry_run = arguments.flag("dry_run")
    result = await errand.port.replay_range(
        arguments.text("route"),
        arguments.number("since_us"),
        arguments.number("until_us"),
        dry_run=dry_run,
        actor=errand.actor,
        reason=arguments.text("reason"),
    )
    if not dry_run:
        errand.acted(result.delivered + result.dead_letter)
    yield rows.replay_row(result, dry_run=dry_run)


def _limit(arguments: Arguments) -> int:
    return max(1, min(arguments.number("limit"), LIMIT_MAX))


OPERATIONS: Final[dict[str, Operation]] = {
    "status": _status,
    "queue": _queue,
    "message": _message,
    "dead-letters": _dead_letters,
    "dead-letter": _dead_letter,
    "dead-letter-replay": _replay_dead_letters,
    "dead-letter-discard": _discard_dead_letters,
    "replay": _replay,
    "trace": _trace,
    "refused": _refused,
    "refused-frame": _refused_frame,
    "audit": _audit,
    "tap": _tap,
}
