"""A destination that costs almost nothing: reads requests, answers 204 (accept all), counts bytes.

``python -m tests.bench.fast_receiver PORT`` prints ``listening``.
"""

from __future__ import annotations

import asyncio
import re
import sys

ANSWER = b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Accepting(asyncio.Protocol):
    """One keep-alive connection; bodies have a Content-Length (the gateway never streams a batch)."""

    def __init__(self) -> None:
        self.head = b""
        self.missing = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self.took(len(data))
            return
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return
        found = LENGTH.search(self.head, 0, end)
        if found is None:
            raise ValueError("a request without Content-Length")
        self.missing = int(found[1])
        rest = len(self.head) - end - 4
        self.head = b""
        self.took(rest)

    def took(self, count: int) -> None:
        self.missing -= count
        if self.missing == 0 and self.transport is not None:
            self.transport.write(ANSWER)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Accepting, "127.0.0.1", port)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
