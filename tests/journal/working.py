"""What the tests of the journal's core share: a box with a state directory, executors that run at once, planned disk faults."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.journal.interface import JournalPlace, JournalServices, RouteRule
from gateway.journal.journal import Journal
from gateway.journal.keyring import OpenKeyring
from gateway.model.clock import ClockState
from gateway.model.cursor import Cursor, DeadLetter, Settlement
from gateway.model.message import AppendGroup, Entry
from gateway.model.traffic import TrafficClass
from tests.journal.keeping import Seeded, SetClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from gateway.journal.interface import Condition, JournalEvent, RouteSnapshot
    from gateway.model.message import Delivery

__all__ = [
    "ALL",
    "GATEWAY",
    "KEYS",
    "AtOnce",
    "Box",
    "Faulty",
    "Parked",
    "append",
    "condition_of",
    "deliver",
    "entry",
    "faulty",
    "leave",
    "read_all",
    "route_of",
    "soon",
]

GATEWAY = "ward-3"
ALL = (RouteRule("all"),)
KEYS = OpenKeyring(b"\x11" * 16, 1, {1: bytes(range(32))}, b"i" * 32, b"c" * 32)


class AtOnce(Executor):
    """Runs what it is given before it returns: a commit is one turn of the loop, and a test is the same every time."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (an executor hands over whatever happens)
            done.set_exception(error)
        return done


class Parked(Executor):
    """Keeps what it is given until ``go``: a disk that takes its time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.parked = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        self._waiting.append((done, lambda: fn(*args, **kwargs)))
        if not self.parked:
            self.go()
        return done

    def __len__(self) -> int:
        return len(self._waiting)

    def go(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done, work in waiting:
            try:
                done.set_result(work())
            except Exception as error:  # noqa: BLE001  (as above)
                done.set_exception(error)


class Faulty:
    """A connection that fails where the plan says so. ``plan``: statement start -> SQLite error codes, used up in order.

    A planned ``late`` COMMIT happens and then reports the error, as a lost answer of the disk would.
    """

    def __init__(self, real: sqlite3.Connection, *, late: bool = False) -> None:
        self.real = real
        self.late = late
        self.plan: dict[str, list[int]] = {}
        self.countdown = -1
        self.code = sqlite3.SQLITE_IOERR
        self.statements: list[str] = []

    def _count(self, sql: str) -> None:
        """``countdown`` statements from now on, one fails with ``code``."""
        self.statements.append(sql)
        self.countdown -= 1
        if self.countdown == -1:
            raise sqlite_error(self.code)

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._count(sql)
        for start, codes in self.plan.items():
            if sql.startswith(start) and codes:
                if self.late:
                    self.real.execute(sql, *args)
                raise sqlite_error(codes.pop(0))
        return self.real.execute(sql, *args)

    def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        self._count(sql)
        for start, codes in self.plan.items():
            if sql.startswith(start) and codes:
                raise sqlite_error(codes.pop(0))
        return self.real.executemany(sql, rows)

    def close(self) -> None:
        self.real.close()

    @property
    def in_transaction(self) -> bool:
        return self.real.in_transaction


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("text that may quote a patient")
    error.sqlite_errorcode = code
    return error


@dataclass
class Box:
    """A gateway's state directory, and what opens a journal in it."""

    state: Path
    routes: tuple[RouteRule, ...] = ALL
    clock: SetClock = field(default_factory=SetClock)
    randomness: Seeded = field(default_factory=Seeded)
    writing: Executor = field(default_factory=AtOnce)
    reading: Executor = field(default_factory=AtOnce)
    quota_bytes: int = 64 * 1024 * 1024
    reserve_bytes: int = 64 * 1024
    dedupe_keys: int = 100_000
    retain_days: float = 7.0
    events: list[JournalEvent] = field(default_factory=list)

    async def open(self) -> Journal:
        place = JournalPlace(self.state, self.quota_bytes, self.reserve_bytes, self.dedupe_keys, self.retain_days)
        services = JournalServices(self.clock, self.randomness, self.writing, self.reading, self.events.append, GATEWAY)
        return await Journal.open(place, KEYS, self.routes, services)

    def copy(self, to: Path) -> Box:
        """The files as they lie there now, as after a crash: an open journal is simply left behind."""
        shutil.copytree(self.state, to, ignore=shutil.ignore_patterns("*-shm", "ballast"))
        return Box(to, self.routes, self.clock, self.randomness, self.writing, self.reading, self.quota_bytes, self.reserve_bytes)

    def database(self) -> sqlite3.Connection:
        """A second connection, for tests that look or damage."""
        return sqlite3.connect(self.state / "journal.db", isolation_level=None)


def leave(journal: Journal) -> None:
    """What a crash leaves of the process: closed descriptors, no last commit, no checkpoint."""
    journal._committer._idle.cancel()
    if journal._committer._retry is not None:
        journal._committer._retry.cancel()
    if journal._noting is not None:
        journal._noting.cancel()
    journal._closed = True
    journal._reader.close()
    journal._opened.writer._abandon()


def faulty(journal: Journal, *, late: bool = False) -> Faulty:
    """Put a faulty connection under the writer; it is given up with the first error, as a real one is."""
    writer = journal._opened.writer
    wrapped = Faulty(writer.connection, late=late)
    writer._connection = wrapped  # type: ignore[assignment]
    return wrapped


def entry(
    at: int,
    source: str = "adt",
    traffic: TrafficClass = TrafficClass.ADT,
    *,
    body: bytes | None = None,
    identity: tuple[bytes, ...] | None = None,
    size: int = 0,
    anonymous: bool = False,
) -> Entry:
    """A message with its own control id and patient; ``size`` adds that many bytes that do not compress."""
    made = b"MSH|^~\\&|A|B|C|D|20261125||ADT^A01|%d|P|2.5\rPID|||%d^^^TEST||DOE^TEST\r" % (at, 100_000 + at % 90_000)
    if size:
        made += b"OBX|1|ED|" + Seeded(at).bytes(size // 2).hex().encode() + b"\r"
    return Entry(
        source=source,
        body=made if body is None else body,
        traffic=traffic,
        kind="hl7.v2.ADT.A01",
        received_us=1_795_000_000_000_000 + at,
        clock_state=ClockState.SYNCED,
        identity=None if anonymous else (identity or (b"A", b"B", b"%d" % at)),
        ordering=b"%d^TEST" % (100_000 + at % 90_000),
    )


def soon(journal: Journal, *entries: Entry) -> asyncio.Future[AppendGroup]:
    """Append as one group; the future is done when the group is."""
    done: asyncio.Future[AppendGroup] = asyncio.get_running_loop().create_future()
    journal.append(AppendGroup(list(entries), done.set_result))
    return done


async def append(journal: Journal, *entries: Entry) -> list[Entry]:
    """Append as one group and wait for its end."""
    return (await soon(journal, *entries)).entries


async def read_all(journal: Journal, route: str = "all", after: Cursor | None = None, max_bytes: int = 1 << 20) -> list[Delivery]:
    """Everything from ``after`` (the settled cursor) on, without settling it."""
    found: list[Delivery] = []
    position = journal.cursor(route) if after is None else after
    while (result := await journal.read(route, position, max_bytes)).after != position:
        found += result.deliveries
        position = result.after
    return found


async def deliver(journal: Journal, route: str = "all", *, dead: Sequence[int] = (), filtered: Sequence[int] = ()) -> list[Delivery]:
    """Settle everything that is queued; ``dead`` and ``filtered`` are seqs."""
    taken: list[Delivery] = []
    while (result := await journal.read(route, before := journal.cursor(route), 1 << 20)).after != before:
        delivered = tuple(d for d in result.deliveries if d.message.seq not in {*dead, *filtered})
        letters = tuple(DeadLetter(d, "rejected", "no such ward") for d in result.deliveries if d.message.seq in dead)
        left_out = tuple(d for d in result.deliveries if d.message.seq in filtered)
        await journal.settle(Settlement(route, result.after, delivered, left_out, letters, proof="200"))
        taken += result.deliveries
    return taken


def condition_of(journal: Journal) -> Condition:
    """What can be done now."""
    return journal.condition


def route_of(journal: Journal, name: str = "all") -> RouteSnapshot:
    return next(route for route in journal.snapshot().routes if route.name == name)
