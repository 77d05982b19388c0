"""What one commit costs the disk: fsyncs, and bytes written per byte of payload, by the journal's own code."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.journal.interface import JournalPlace, JournalServices, RouteRule
from gateway.journal.journal import Journal
from gateway.journal.keyring import create_keyring
from gateway.model.clock import ClockState
from gateway.model.cursor import START, Settlement
from gateway.model.limits import DEDUPE_KEYS
from gateway.model.message import AppendGroup, Entry
from gateway.model.traffic import TrafficClass
from gateway.service.system_clock import SystemClock, SystemRandomness
from tests.bench.measure import Report, usage
from tests.bench.programs import ROOT, scratch
from tests.blackbox.messages import padded
from tests.blackbox.slow_disk import slow_disk_library

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["measure_writes"]

ROUTE = "everything"
COMMITS = {1: 2000, 8: 1500, 64: 1500, 512: 300}


class Appending:
    """A journal and what is appended to it: groups of one size, each its own commit."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.number = 0

    def entries(self, count: int) -> list[Entry]:
        first, self.number = self.number, self.number + count
        now_us = time.time_ns() // 1000
        return [_entry(number, now_us) for number in range(first, first + count)]

    async def commit(self, entries: list[Entry]) -> None:
        done: asyncio.Future[AppendGroup] = asyncio.get_running_loop().create_future()
        self.journal.append(AppendGroup(entries, done.set_result, sum(len(entry.body) for entry in entries)))
        await done
        assert all(entry.error is None for entry in entries)

    async def commits(self, count: int, size: int) -> tuple[int, float]:
        """Payload bytes and CPU seconds of ``count`` commits of ``size`` messages (making the messages excluded)."""
        payload, cpu_s = 0, 0.0
        for _ in range(count):
            entries = self.entries(size)
            payload += sum(len(entry.body) for entry in entries)
            before = time.process_time()
            await self.commit(entries)
            cpu_s += time.process_time() - before
        return payload, cpu_s


def _entry(number: int, now_us: int) -> Entry:
    control = f"{number:012d}"
    identity = (b"MONITOR", b"ICU", control.encode())
    body = padded(control, 700, number % 4096)
    return Entry("adt", body, TrafficClass.RESULT, "hl7.v2.ORU.R01", now_us, ClockState.SYNCED, identity, ordering=b"100001SITE")


async def opened(state_dir: Path) -> Appending:
    services = JournalServices(SystemClock(), SystemRandomness(), ThreadPoolExecutor(1), ThreadPoolExecutor(1))
    keys = create_keyring(state_dir, bytes(range(32)), SystemRandomness())
    return Appending(await Journal.open(JournalPlace(state_dir), keys, (RouteRule(ROUTE),), services))


async def one_shape(state_dir: Path, size: int, count: int, counted: Path) -> dict[str, Any]:
    """Commits of one size on a fresh journal, its close and last checkpoint included."""
    appending = await opened(state_dir)
    await appending.commits(20, size)
    before, fsyncs = usage(), counted.stat().st_size
    payload, cpu_s = await appending.commits(count, size)
    steady = counted.stat().st_size - fsyncs
    await appending.journal.close()
    used = usage() - before
    messages = size * count
    return {
        "amplification": used.written_bytes / payload,
        "fsyncs": steady / count,
        "cpu_us": cpu_s / messages * 1e6,
    }


async def deliver_all(journal: Journal) -> None:
    """Settle everything as delivered, as a fast destination would."""
    position = START
    while (found := await journal.read(ROUTE, position, 8 << 20)).after != position:
        position = found.after
        await journal.settle(Settlement(ROUTE, position, delivered=found.deliveries))


async def enqueue_at(state_dir: Path, backlog: int) -> dict[str, float]:
    """CPU and written bytes per message at an empty queue and behind ``backlog`` queued messages.

    The duplicate window is full in both: a gateway with an empty queue has a past, too.
    """
    appending = await opened(state_dir)

    async def probe() -> tuple[float, float]:
        before = usage()
        payload, cpu_s = await appending.commits(400, 64)
        used = usage() - before
        return cpu_s / (400 * 64) * 1e6, used.written_bytes / payload

    async def fill(until: int) -> None:
        while appending.number < until:
            await appending.commit(appending.entries(512))

    async def least(rounds: int = 9) -> list[float]:
        """The least of several: what is above it is the machine's other work."""
        found = [await probe() for _ in range(rounds)]
        return [min(values) for values in zip(*found, strict=True)]

    await fill(DEDUPE_KEYS + 20_000)
    await deliver_all(appending.journal)
    empty = await least()
    await fill(appending.number + backlog)
    full = await least()
    await appending.journal.close()
    return {"cpu_empty_us": empty[0], "wa_empty": empty[1], "cpu_full_us": full[0], "wa_full": full[1]}


def _apart(what: str, *arguments: str) -> Any:
    """Run a coroutine of this module in a process of its own, with the counting shim in front of fsync."""
    with scratch() as folder:
        counted = folder / "fsyncs"
        counted.touch()
        environment = {"LD_PRELOAD": str(slow_disk_library()), "SLOWDISK_COUNT": str(counted)}
        command = ["env", *(f"{name}={value}" for name, value in environment.items())]
        command += [sys.executable, "-m", "tests.bench.writes", what, str(folder / "state"), str(counted), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)


def measure_writes(report: Report, shapes: Iterable[int] = COMMITS) -> None:
    """Per shape: written bytes per payload byte (log, checkpoints, keys and audit included), fsyncs per commit, CPU."""
    for size in shapes:
        found = _apart("shape", str(size))
        bar = 1.1 if size == 64 else None
        report.add(f"{size} per commit: bytes written per payload byte", found["amplification"], "x", at_most=bar)
        report.add(f"{size} per commit: fsyncs per commit, checkpoints included", found["fsyncs"], "")
        report.add(f"{size} per commit: CPU of the journal per message", found["cpu_us"], "µs")
    found = _apart("backlog", "1000000")
    report.add("enqueue at an empty queue: CPU per message", found["cpu_empty_us"], "µs")
    report.add("enqueue behind 1,000,000 messages: CPU per message", found["cpu_full_us"], "µs")
    report.add("enqueue behind 1,000,000 / empty: CPU", found["cpu_full_us"] / found["cpu_empty_us"], "x", at_most=1.1)
    report.add("enqueue behind 1,000,000 / empty: bytes written", found["wa_full"] / found["wa_empty"], "x", at_most=1.1)


def main() -> None:
    what, state_dir, counted, argument = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    work = one_shape(state_dir, argument, COMMITS[argument], counted) if what == "shape" else enqueue_at(state_dir, argument)
    print(json.dumps(asyncio.run(work)))


if __name__ == "__main__":
    main()
