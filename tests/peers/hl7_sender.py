"""python-hl7 as a sender, on its asyncio API: python hl7_sender.py PORT < messages as JSON lines.

Prints one JSON line per message: MSA-1 and MSA-2 of the answer. Runs in the peer's own environment, not in ours.
"""

from __future__ import annotations

import asyncio
import json
import sys

import hl7
import hl7.mllp


async def main(port: int) -> None:
    reader, writer = await hl7.mllp.open_hl7_connection("127.0.0.1", port)
    for line in sys.stdin:
        writer.writemessage(hl7.parse(json.loads(line)))
        await writer.drain()
        answer = await asyncio.wait_for(reader.readmessage(), 10)
        segment = answer.segment("MSA")
        print(json.dumps([str(segment[1]), str(segment[2])]), flush=True)
    writer.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
