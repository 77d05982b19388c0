"""A real journal for the tests of audit, offline reading and salvage: messages in, settled in part, some dead letters, closed."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.journal.interface import JournalPlace, JournalServices, RouteRule
from gateway.journal.journal import Journal
from gateway.journal.keyring import KeyringState, create_keyring, keyring_state, open_keyring
from gateway.journal.lockfile import take_lock
from gateway.journal.witness import write_last_status
from gateway.model.clock import ClockState
from gateway.model.cursor import DeadLetter, Settlement
from gateway.model.message import AppendGroup, Entry
from gateway.model.traffic import TrafficClass
from tests.journal.keeping import KEK, Seeded, SetClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from gateway.journal.interface import JournalEvent, JournalSnapshot
    from gateway.model.message import Delivery

__all__ = ["GATEWAY", "ROUTES", "OneKey", "Running", "append", "books_hold", "deliver", "drain", "entry", "fill", "running", "status_of"]

GATEWAY = "ward-3"
ROUTES = (RouteRule("all"), RouteRule("labs", frozenset({"lab"})))


@dataclass(frozen=True)
class OneKey:
    """A key provider that has the key."""

    kek: bytes = KEK

    def read(self) -> bytes:
        return self.kek


@dataclass
class Running:
    """An open journal, and what it told its owner."""

    journal: Journal
    clock: SetClock
    events: list[JournalEvent] = field(default_factory=list)


@asynccontextmanager
async def running(
    state: Path, *, seed: int = 1, routes: tuple[RouteRule, ...] = ROUTES, clock: SetClock | None = None, retain_days: float = 7.0
) -> AsyncIterator[Running]:
    """Open as the daemon does: key, keyring, lock, journal; the witness is written at the end."""
    randomness, clock = Seeded(seed), clock or SetClock()
    keys = open_keyring(state, KEK) if keyring_state(state) is not KeyringState.FRESH else None
    lock = take_lock(state, create=True)
    assert lock is not None
    with lock, ThreadPoolExecutor(1) as writing, ThreadPoolExecutor(1) as reading:
        keys = keys or create_keyring(state, KEK, randomness)
        events: list[JournalEvent] = []
        services = JournalServices(clock, randomness, writing, reading, events.append, GATEWAY)
        journal = await Journal.open(JournalPlace(state, retain_days=retain_days), keys, routes, services)
        try:
            yield Running(journal, clock, events)
        finally:
            await journal.close()
            write_last_status(state, status_of(journal.snapshot()), journal.witness(), keys)


def status_of(snapshot: JournalSnapshot) -> dict[str, object]:
    """The part of a status answer that the witness vouches for."""
    return {
        "sources": [{"name": name, "accepted": count} for name, count in snapshot.accepted.items()],
        "routes": [{"name": route.name, "accepted": route.books.accepted, "delivered": route.books.delivered} for route in snapshot.routes],
    }


def entry(at: int, source: str = "adt", traffic: TrafficClass = TrafficClass.ADT, size: int = 300) -> Entry:
    body = b"MSH|^~\\&|A|B|C|D|||ADT^A01|%d|P|2.5\rPID|||1%05d^^^TEST||DOE^TEST\r" % (at, at % 100_000)
    # Not compressible, so that a block spreads over pages as real ones do.
    body += b"OBX|1|ED|" + Seeded(at).bytes(size // 2).hex().encode() + b"\r"
    return Entry(
        source=source,
        body=body,
        traffic=traffic,
        kind="hl7.v2.ADT.A01",
        received_us=1_795_000_000_000_000 + at,
        clock_state=ClockState.SYNCED,
        identity=(b"A", b"B", b"%d" % at),
    )


async def append(journal: Journal, entries: Sequence[Entry]) -> None:
    """Append as one group and wait for its commit."""
    done: asyncio.Future[AppendGroup] = asyncio.get_running_loop().create_future()
    journal.append(AppendGroup(list(entries), done.set_result))
    await done
    assert all(entry.error is None for entry in entries), [entry.error for entry in entries]


async def deliver(journal: Journal, route: str, commits: int = 1, dead: Sequence[int] = ()) -> list[Delivery]:
    """Settle the messages of a route's next commits, those at the positions ``dead`` of each as dead letters."""
    taken: list[Delivery] = []
    for _ in range(commits):
        result = await journal.read(route, journal.cursor(route), 1)
        letters = tuple(DeadLetter(delivery, "rejected", "no such ward") for at, delivery in enumerate(result.deliveries) if at in dead)
        delivered = tuple(delivery for at, delivery in enumerate(result.deliveries) if at not in dead)
        await journal.settle(Settlement(route, result.after, delivered, dead=letters, proof="200"))
        taken += result.deliveries
    return taken


async def fill(journal: Journal, commits: int = 20, each: int = 4, first: int = 0) -> list[Entry]:
    """Commits of ``each`` messages of two sources and two classes."""
    made: list[Entry] = []
    for at in range(commits):
        group = [
            entry(first + at * each + part, "lab", TrafficClass.RESULT) if part % 2 else entry(first + at * each + part)
            for part in range(each)
        ]
        await append(journal, group)
        made += group
    return made


async def drain(journal: Journal, route: str) -> list[Delivery]:
    """Deliver everything that is queued."""
    taken: list[Delivery] = []
    while True:
        before = journal.cursor(route)
        result = await journal.read(route, before, 1 << 20)
        await journal.settle(Settlement(route, result.after, result.deliveries, proof="200"))
        taken += result.deliveries
        if result.after == before:
            return taken


def books_hold(snapshot: JournalSnapshot) -> bool:
    """The equation, and no term below zero."""
    for route in snapshot.routes:
        books = route.books
        terms = (books.delivered, books.queued, books.held, books.dead_letter, books.filtered, books.gaps)
        if sum(terms) != books.accepted or min(terms) < 0:
            return False
    return True
