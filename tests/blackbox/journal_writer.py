"""A small process on the journal's own code: the power-cut tests run it with the pragma as it is, and with a weaker one.

``python -m tests.blackbox.journal_writer STATE_DIR append FULL|NORMAL`` prints ``SEQ:MONOTONIC_NS`` after each commit.
``… last FULL`` opens the journal and prints the seq of the last message that can really be read.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gateway.journal import pragmas
from gateway.journal.interface import JournalPlace, JournalServices, RouteRule
from gateway.journal.journal import Journal
from gateway.journal.keyring import KeyringState, OpenKeyring, create_keyring, keyring_state, open_keyring
from gateway.model.clock import ClockState
from gateway.model.cursor import START
from gateway.model.message import AppendGroup, Entry
from gateway.model.traffic import TrafficClass
from gateway.service.system_clock import SystemClock, SystemRandomness
from tests.blackbox.messages import padded

KEK = bytes(range(32))
ROUTE = "everything"


def keys(state_dir: Path) -> OpenKeyring:
    if keyring_state(state_dir) is KeyringState.PRESENT:
        return open_keyring(state_dir, KEK)
    return create_keyring(state_dir, KEK, SystemRandomness())


def weaken(synchronous: str) -> None:
    """The planted fault: the one word that makes the difference between durable and merely consistent."""
    pragmas._ALWAYS["synchronous"] = {"FULL": 2, "NORMAL": 1}[synchronous]


async def opened(state_dir: Path) -> Journal:
    services = JournalServices(SystemClock(), SystemRandomness(), ThreadPoolExecutor(1), ThreadPoolExecutor(1))
    return await Journal.open(JournalPlace(state_dir), keys(state_dir), (RouteRule(ROUTE),), services)


def entry(number: int) -> Entry:
    control = f"W-{number}"
    now_us = time.time_ns() // 1000
    return Entry(
        "adt", padded(control, 700), TrafficClass.RESULT, "hl7.v2.ORU.R01", now_us, ClockState.SYNCED, (b"A", b"B", control.encode())
    )


async def append(state_dir: Path) -> None:
    """One commit after the other, for ever."""
    journal = await opened(state_dir)
    loop = asyncio.get_running_loop()
    number = 0
    while True:
        done: asyncio.Future[AppendGroup] = loop.create_future()
        number += 1
        journal.append(AppendGroup([entry(number)], done.set_result, 700))
        group = await done
        if group.entries[0].error is not None:
            return
        print(f"{group.entries[0].seq}:{time.monotonic_ns()}", flush=True)


async def last(state_dir: Path) -> None:
    journal = await opened(state_dir)
    position, highest = START, 0
    while (result := await journal.read(ROUTE, position, 4 << 20)).after != position:
        position = result.after
        highest = max([highest, *(delivery.message.seq for delivery in result.deliveries)])
    print(highest, flush=True)
    await journal.close()


def main() -> None:
    state_dir, what, synchronous = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    weaken(synchronous)
    asyncio.run({"append": append, "last": last}[what](state_dir))


if __name__ == "__main__":
    main()
