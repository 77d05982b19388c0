"""The one boundary at which any exception is caught: a task that fails is reported and started again.

Everything else in this program catches what it expects, by name. A bug in one route must not end the others, and a
gateway that exits because of one message would be started again into the same message.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.observe.rerouting import place_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.model.clock import Clock

__all__ = ["Supervisor"]

_FIRST_S: Final = 0.2
_CAP_S: Final = 30.0
#: A task that ran this long before it failed starts again at once.
_STEADY_S: Final = 60.0


@dataclass(slots=True)
class Supervisor:
    """``on_failure(task name, exception type name, module:line)``: never the exception's text, which may quote a message."""

    clock: Clock
    on_failure: Callable[[str, str, str | None], None]
    failures: int = 0

    async def keep(self, name: str, start: Callable[[], Awaitable[None]]) -> None:
        """Run ``start()`` until it returns; start it again, with growing pauses, whenever it raises."""
        pause_s = _FIRST_S
        while True:
            began_s = self.clock.monotonic_s()
            try:
                await start()
            except Exception as error:  # noqa: BLE001 -- this is the boundary
                self.failures += 1
                self.on_failure(name, type(error).__name__, place_of(error.__traceback__))
            else:
                return
            if self.clock.monotonic_s() - began_s > _STEADY_S:
                pause_s = _FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(_CAP_S, pause_s * 2)
