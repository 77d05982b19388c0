"""The yardstick: asyncio MLLP servers that frame, read the MSH segment, acknowledge, and store nothing.

``python -m tests.bench.bare_server PORT KIND`` prints ``listening``. Kinds:

- ``plain``: ``asyncio.Protocol``, one frame after the other, each answered with a write of its own, as a server is
  written that has no reason to wait. This is the bar that the targets name.
- ``joined``: the same with a constant answer and one write for all frames of a read: the floor of what asyncio itself costs.
"""

from __future__ import annotations

import asyncio
import sys
import time

__all__ = ["acknowledge", "main"]


def acknowledge(body: bytes) -> bytes:
    """A framed AA with the sender's separators, sender and receiver swapped, MSH-7 now."""
    end = body.find(b"\r")
    fields = body[: end if end >= 0 else len(body)].split(body[3:4])
    moment = time.strftime("%Y%m%d%H%M%S").encode()
    msh = b"|".join((b"MSH", fields[1], fields[4], fields[5], fields[2], fields[3], moment, b"", b"ACK", fields[9], b"P", fields[11]))
    return b"\x0b" + msh + b"\rMSA|AA|" + fields[9] + b"\r\x1c\r"


class PlainMllp(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.buffer += data
        while (end := self.buffer.find(b"\x1c\r")) >= 0:
            body = bytes(self.buffer[1:end])
            del self.buffer[: end + 2]
            self.transport.write(acknowledge(body))


class JoinedMllp(asyncio.Protocol):
    """One connection."""

    HEAD = b"\x0bMSH|^~\\&|GATEWAY|SITE|MONITOR|ICU|20261122120000||ACK^R01^ACK|1|P|2.5.1\rMSA|AA|"
    TAIL = b"\r\x1c\r"

    def __init__(self) -> None:
        self.rest = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *frames, self.rest = (self.rest + data).split(b"\x1c\r")
        answers = [self.HEAD + frame[1 : frame.find(b"\r")].split(b"|")[9] + self.TAIL for frame in frames]
        if answers and self.transport is not None:
            self.transport.write(b"".join(answers))


KINDS: dict[str, type[asyncio.Protocol]] = {"plain": PlainMllp, "joined": JoinedMllp}


async def main(port: int, kind: str) -> None:
    server = await asyncio.get_running_loop().create_server(KINDS[kind], "127.0.0.1", port, backlog=512)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
