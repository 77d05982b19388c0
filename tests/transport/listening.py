"""A session that records what a listener tells it, and a listener on any free port of the loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.transport.tcp_listener import Link, ListenerLimits, TcpListener, TurnedAway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.transport.tls import ServerTls


@dataclass(eq=False)
class Recorder:
    """``echo``: send back what comes in. ``debt``: what ``owes`` says."""

    link: Link
    echo: bool = False
    debt: bool = False
    got: bytearray = field(default_factory=bytearray)
    calls: list[str] = field(default_factory=list)

    def received(self, data: bytes) -> None:
        self.got += data
        if self.echo:
            self.link.write(data)

    def ended(self) -> None:
        self.calls.append("ended")
        if not self.debt:
            self.link.close("done")

    def overdue(self) -> None:
        self.calls.append("overdue")
        self.link.close("overdue")

    def owes(self) -> bool:
        return self.debt

    def finish(self, cause: str) -> None:
        if not self.debt:
            self.link.close(cause)

    def lost(self) -> None:
        self.calls.append("lost")


@dataclass(eq=False)
class Door:
    """A running listener and all its sessions and refusals so far."""

    listener: TcpListener
    sessions: list[Recorder]
    turned_away: list[tuple[TurnedAway, str]]

    @property
    def port(self) -> int:
        return self.listener.address[1]


@asynccontextmanager
async def listening(limits: ListenerLimits | None = None, *, echo: bool = False, tls: ServerTls | None = None) -> AsyncIterator[Door]:
    sessions: list[Recorder] = []
    away: list[tuple[TurnedAway, str]] = []

    def session_for(link: Link) -> Recorder:
        sessions.append(Recorder(link, echo))
        return sessions[-1]

    listener = TcpListener("127.0.0.1", 0, limits or ListenerLimits(), session_for, lambda why, who: away.append((why, who)), tls)
    await listener.start()
    try:
        yield Door(listener, sessions, away)
    finally:
        await listener.close(1.0)


async def until(truth: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait for a condition; fails the test when it does not come true."""
    async with asyncio.timeout(within_s):
        while not truth():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain client connection, closed at the end whatever happened."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def read_to_end(reader: asyncio.StreamReader, within_s: float = 5.0) -> bytes:
    """Everything until the peer closes; a reset counts as the end."""
    got = bytearray()
    async with asyncio.timeout(within_s):
        try:
            while chunk := await reader.read(65536):
                got += chunk
        except ConnectionError:
            pass
    return bytes(got)
