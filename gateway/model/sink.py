"""What every kind of destination is to a route."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model.message import Delivery
    from gateway.model.receipt import Outcome

__all__ = ["Sink"]


class Sink(Protocol):
    """Sends one batch and reports what the destination said; never retries, never settles, never logs content.

    ``max_messages``, ``max_bytes``: what one batch may hold (bytes of the message bodies; a single larger one travels
    alone). ``linger_s``: how long an incomplete batch may wait for company.
    """

    max_messages: int
    max_bytes: int
    linger_s: float

    def accepts(self, delivery: Delivery) -> bool:
        """False where this kind of destination can never take such an event: the route settles it as filtered."""
        ...

    def prepare(self, batch: Sequence[Delivery]) -> None:
        """A hint: this batch is likely to be sent next, so it may be rendered while the one before waits for its answer."""
        ...

    async def send(self, batch: Sequence[Delivery]) -> Outcome:
        """Send and wait for the answer, within the sink's own deadlines. Raises nothing but ``CancelledError``."""
        ...

    async def close(self) -> None:
        """Close connections; idempotent."""
        ...
