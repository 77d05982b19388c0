"""python-hl7 as a server that acknowledges and stores nothing: python hl7_server.py PORT [quiet].

Prints ``listening``, then (unless quiet) one JSON line per message: its bytes as Latin-1 text. Runs in the peer's own
environment, not in ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import hl7.mllp

QUIET = sys.argv[2:] == ["quiet"]


async def serve(reader: Any, writer: Any) -> None:
    try:
        while not writer.is_closing():
            message = await reader.readmessage()
            writer.writemessage(message.create_ack())
            await writer.drain()
            if not QUIET:
                print(json.dumps(str(message)), flush=True)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(port: int) -> None:
    server = await hl7.mllp.start_hl7_server(serve, "127.0.0.1", port, limit=1 << 20)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
