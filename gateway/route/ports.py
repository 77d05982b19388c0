"""What a route needs from the rest of the house, as small as it can be; tests implement these with a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.model.cursor import Cursor, ReadResult, Settlement
    from gateway.model.message import Delivery
    from gateway.observe.events import LogEvent

__all__ = ["JournalPort", "LogPort"]


class JournalPort(Protocol):
    """The part of the journal that a route uses."""

    def cursor(self, route: str) -> Cursor:
        """How far the route has settled, as of the last commit."""
        ...

    async def read(self, route: str, after: Cursor, max_bytes: int) -> ReadResult:
        """The route's messages of the next whole commits behind ``after``, at least one message where there is one."""
        ...

    async def settle(self, settlement: Settlement) -> None:
        """Durable when it returns; nothing of it is in force when it raises ``GatewayError``."""
        ...

    async def requeued(self, route: str, limit: int, max_bytes: int) -> Sequence[Delivery]:
        """The replayed messages that are not settled yet, oldest first; the same ones again until they are."""
        ...

    def on_append(self, callback: Callable[[], None]) -> None:
        """``callback()`` after each commit, in the event loop."""
        ...


class LogPort(Protocol):
    """Where events are told."""

    def emit(self, event: LogEvent, **fields: object) -> None:
        """One line of the closed list; never raises."""
        ...
