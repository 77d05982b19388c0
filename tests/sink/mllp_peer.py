"""An MLLP server that plays a script: exact bytes, pauses, closes; it remembers what it was sent."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Iterable

__all__ = ["CLOSE", "MllpPeer", "Wait", "ack", "framed", "mllp_peer"]

CLOSE = b"close"  #: end the connection


class Wait(NamedTuple):
    """Nothing for so long."""

    seconds: float


Step = bytes | Wait


def framed(body: bytes) -> bytes:
    return b"\x0b" + body + b"\x1c\r"


def ack(code: str, control_id: bytes, *, more: bytes = b"", kind: bytes = b"ACK") -> bytes:
    """A framed answer."""
    msh = b"MSH|^~\\&|HIS|HOSP|MON|ICU|20261122120000||" + kind + b"|R1|P|2.5.1\r"
    return framed(msh + b"MSA|" + code.encode() + b"|" + control_id + b"\r" + more)


@dataclass
class MllpPeer:
    """``script(n, body)``: what to do with the n-th message (from 1), over all connections."""

    script: Callable[[int, bytes], Iterable[Step]]
    port: int = 0
    messages: list[bytes] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    connections: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                body = (await reader.readuntil(b"\x1c\r"))[1:-2]
                self.messages.append(body)
                self.arrivals_s.append(asyncio.get_running_loop().time())
                if not await self._play(writer, len(self.messages), body):
                    break
        writer.close()

    async def _play(self, writer: asyncio.StreamWriter, number: int, body: bytes) -> bool:
        for step in self.script(number, body):
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
            elif step is CLOSE:
                return False
            else:
                writer.write(step)
                await writer.drain()
        return True


@asynccontextmanager
async def mllp_peer(script: Callable[[int, bytes], Iterable[Step]], tls: ssl.SSLContext | None = None) -> AsyncIterator[MllpPeer]:
    it = MllpPeer(script)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, ssl=tls)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for writer in it.open:
            with suppress(OSError):
                writer.transport.abort()
                await writer.wait_closed()
