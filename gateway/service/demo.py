"""``edge-gateway demo``: the real daemon, real senders, a real receiver, and a link that fails on purpose.

The daemon runs as its own process on a temporary state directory, exactly as ``init`` and ``run`` would have it. The demo
ends with a reconciliation: what the senders were told is accepted, what the gateway says it accepted and delivered, and
what the receiver applied must be the same number.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.service.demo_view import DemoFrame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.model.clock import Clock
    from gateway.receiver.server import ReferenceReceiver
    from gateway.service.demo_link import Link
    from gateway.service.demo_sender import DemoSender
    from gateway.service.demo_view import DemoView

__all__ = ["Demo", "DemoPlan", "Reckoning"]

#: Without ``--for``: long enough to see a backlog build up and go, short enough to wait for.
DEFAULT_S = 45.0
_RATE_PER_S = 25.0
_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """When what happens, in seconds from the start; everything scales with the length of the demo."""

    length_s: float

    @property
    def cut_s(self) -> float:
        """The cable is pulled."""
        return 0.25 * self.length_s

    @property
    def plug_s(self) -> float:
        """The cable is plugged in again."""
        return 0.6 * self.length_s

    @property
    def quiet_s(self) -> float:
        """Senders stop; what is queued drains until the end."""
        return 0.8 * self.length_s


@dataclass(frozen=True, slots=True)
class Reckoning:
    """The four numbers that must agree."""

    acknowledged: int
    accepted: int
    delivered: int
    applied: int

    @property
    def equal(self) -> bool:
        """True where nothing was lost, doubled or invented, and something was sent at all."""
        return 0 < self.acknowledged == self.accepted == self.delivered == self.applied


@dataclass(slots=True)
class Demo:
    """One run. ``status()`` asks the daemon for its snapshot; ``started`` is its process."""

    clock: Clock
    plan: DemoPlan
    receiver: ReferenceReceiver
    link: Link
    status: Callable[[], Awaitable[dict[str, Any]]]
    senders: list[DemoSender]
    view: DemoView
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _last: DemoFrame | None = None

    async def play(self) -> Reckoning:
        """Send, cut, plug in, drain; returns the books."""
        began_s = self.clock.monotonic_s()
        quiet = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for sender in self.senders:
                tasks.create_task(sender.run(quiet))
            script = tasks.create_task(self._script(began_s, quiet))
            await script
            quiet.set()
        return await self._reckon(began_s)

    async def _script(self, began_s: float, quiet: asyncio.Event) -> None:
        self.view.say("Four departments send ADT, ORU, ORM and SIU; the gateway acknowledges each message once it is on disk.")
        await self._watch(began_s, self.plan.cut_s, "all is well")
        if not self.stop.is_set():
            self.view.say("Now the link to the receiver is cut. Senders go on being acknowledged; the queue grows.")
            await self.link.cut()
            await self._watch(began_s, self.plan.plug_s, "the link is cut")
        if not self.link.up:
            self.view.say("The link is back. What is queued leaves, oldest first, while new messages keep coming.")
            await self.link.plug_in()
        await self._watch(began_s, self.plan.quiet_s, "draining")
        quiet.set()

    async def _watch(self, began_s: float, until_s: float, phase: str) -> None:
        while (left_s := began_s + until_s - self.clock.monotonic_s()) > 0 and not self.stop.is_set():
            await self._show(began_s, phase)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), min(1.0, left_s))

    async def _reckon(self, began_s: float) -> Reckoning:
        """Wait for the queue to drain: until the end of the plan, and at least ``_STOP_S`` after the senders stopped."""
        self.view.say("The senders have stopped. Waiting for the last receipts, then the books.")
        end_s = max(began_s + self.plan.length_s, self.clock.monotonic_s() + _STOP_S)
        while True:
            books = (await self.status())["routes"][0]
            reckoning = Reckoning(
                acknowledged=sum(sender.accepted for sender in self.senders),
                accepted=books["accepted"],
                delivered=books["delivered"],
                applied=self.receiver.applied,
            )
            await self._show(began_s, "reconciliation")
            if reckoning.equal or self.clock.monotonic_s() > end_s:
                return reckoning
            await asyncio.sleep(0.25)

    async def _show(self, began_s: float, phase: str) -> None:
        books = (await self.status())["routes"][0]
        elapsed_s = self.clock.monotonic_s() - began_s
        last = self._last
        gap_s = max(elapsed_s - last.elapsed_s, 0.05) if last else 1.0
        self._last = DemoFrame(
            elapsed_s=elapsed_s,
            phase=phase,
            sent=sum(sender.sent for sender in self.senders),
            accepted=books["accepted"],
            queued=books["queued"],
            oldest_age_s=books["oldest_age_s"],
            delivered=books["delivered"],
            link_up=self.link.up,
            route_state=books["state"],
            in_per_s=(books["accepted"] - (last.accepted if last else 0)) / gap_s,
            out_per_s=(books["delivered"] - (last.delivered if last else 0)) / gap_s,
        )
        self.view.show(self._last)
