"""An HTTP server that answers with exactly the bytes a test wants, or with none, and remembers the requests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

__all__ = ["CLOSE", "HANG", "HttpPeer", "Request", "answer", "peer"]

CLOSE = b"close"  #: end the connection without an answer
HANG = b"hang"  #: read, never answer


@dataclass(frozen=True)
class Request:
    """One request as it arrived. ``connection``: which connection, counted from 1."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int


def answer(status: int, body: bytes = b"", *, close: bool = False, **headers: str) -> bytes:
    """A complete answer; ``retry_after`` becomes ``Retry-After``."""
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"] if status != 204 else ["HTTP/1.1 204 Whatever"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += ["Connection: close"] if close else []
    return "\r\n".join((*lines, "", "")).encode() + body


@dataclass
class HttpPeer:
    """``script(request)`` gives the bytes of the answer, or CLOSE, or HANG."""

    script: Callable[[Request], bytes]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/events"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self.open.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await _request(reader, number)
                self.requests.append(request)
                data = self.script(request)
                if data is HANG:
                    await reader.read()
                if data in (CLOSE, HANG):
                    break
                writer.write(data)
                await writer.drain()
                if b"Connection: close" in data:
                    break
        with suppress(OSError):
            writer.close()


async def _request(reader: asyncio.StreamReader, connection: int) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(head[0], headers, body, connection)


@asynccontextmanager
async def peer(script: Callable[[Request], bytes] | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[HttpPeer]:
    it = HttpPeer(script if callable(script) else lambda _request: script)
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
