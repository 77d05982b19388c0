"""A departmental system of the demo: sends over MLLP, waits for each answer, sends again what was not accepted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.codec.acknowledgement import parse_reply
from gateway.codec.mllp import Frame, MllpReceiver, frame
from gateway.model.errors import GatewayError
from gateway.model.limits import FRAME_MAX_BYTES
from gateway.transport.tcp import connect

if TYPE_CHECKING:
    from gateway.model.clock import Clock
    from gateway.service.demo_traffic import Department
    from gateway.transport.tcp import TcpLink

__all__ = ["DemoSender"]

_ANSWER_S = 10.0
_AGAIN_S = 0.3


@dataclass(slots=True)
class DemoSender:
    """Lock-step sender. ``sent`` counts messages on the wire (resends not), ``accepted`` those answered AA or CA."""

    department: Department
    port: int
    rate_per_s: float
    clock: Clock
    sent: int = 0
    accepted: int = 0
    refused: int = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Send until ``stop``; the message under way is always brought to an answer first."""
        while not stop.is_set():
            try:
                link = await connect("127.0.0.1", self.port, tls=None, timeout_s=5.0)
            except GatewayError:
                await asyncio.sleep(_AGAIN_S)
                continue
            try:
                await self._talk(link, stop)
            except GatewayError:
                await asyncio.sleep(_AGAIN_S)
            finally:
                await link.close()

    async def _talk(self, link: TcpLink, stop: asyncio.Event) -> None:
        due_s = self.clock.monotonic_s()
        while not stop.is_set():
            # A message that was not accepted is sent again under its own control id: ``sent`` moves only with an answer.
            message = self.department.message(self.sent, self.clock.wall_us())
            code = await _ask(link, message)
            if code in ("AA", "CA"):
                self.sent += 1
                self.accepted += 1
            else:
                self.refused += 1
                await asyncio.sleep(_AGAIN_S)
            due_s = max(due_s + 1 / self.rate_per_s, self.clock.monotonic_s() - 1)
            await asyncio.sleep(max(0.0, due_s - self.clock.monotonic_s()))


async def _ask(link: TcpLink, message: bytes) -> str:
    """Send one message; the code of its answer, or an empty text where the connection ended first."""
    await link.send(frame(message))
    codec = MllpReceiver(FRAME_MAX_BYTES)
    while data := await link.receive(_ANSWER_S):
        for event in codec.receive(data):
            if isinstance(event, Frame) and (reply := parse_reply(event.body)) is not None:
                return str(reply.code)
    return ""
