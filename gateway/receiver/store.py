"""The receiver's books: what was applied, under which revision and digest, and which numbers of a lane are missing.

One SQLite file in WAL mode with ``synchronous=FULL``; one batch is one transaction, and ``apply`` returns after its fsync.
Three rules do all the work:

1. *Apply once.* The key is (event id, revision). Known with the same digest: a duplicate. Known with another digest: refused
   and alarmed, never overwritten: two gateways live under one identity, or one was set back. A higher revision takes the
   place of a lower one; a lower one that comes late changes nothing.
2. *Gaps are counted on laneseq alone.* Per (gateway, lane) a high-water and the ranges below it that are missing. A number
   arrives with an event that is applied (now or earlier), or is declared by a ``gateway.gap`` event. An event that was
   rejected leaves its number missing, until it is replayed or its loss is declared.
3. *Nothing is answered before it is durable.*

An event above the highest seq of its incarnation needs no look-up: seq orders for ever, so it cannot be known yet.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway.model.clock import rfc3339
from gateway.model.errors import CapacityError, GatewayError, IntegrityError, StorageError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from gateway.model.event import EventId

__all__ = ["Applied", "Declaration", "Offer", "ReceiverStore", "Result", "Status", "merged"]

#: 16 MiB of WAL between checkpoints: a checkpoint costs two more fsyncs, 4 MiB (SQLite's default) is 20 batches.
_CHECKPOINT_PAGES: Final = 4096
_CONFLICTS_KEPT: Final = 1000
_SHOWN_RANGES: Final = 100
_SHOWN_INCARNATIONS: Final = 1000
_SHOWN_CONFLICTS: Final = 20
_NO_PART: Final = -1

_OTHER_CONTENT: Final = "another content is stored under this id and revision"
_SUPERSEDED: Final = "a later revision is in force"


class Status(StrEnum):
    """The receiver's word on one event, as the answer says it."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    RETRY = "retry"


class Declaration(NamedTuple):
    """What a ``gateway.gap`` event says: these numbers of that lane will not come."""

    lane: str
    first: int
    last: int
    reason: str


class Offer(NamedTuple):
    """One event as the store sees it. ``digest``: SHA-256 of the payload bytes, b"" where the event could not be read.

    ``rejection``: why it shall not be applied (it still is a duplicate where it has been applied before).
    """

    id: EventId
    revision: int
    lane: str
    laneseq: int
    digest: bytes
    type: str = ""
    source: str = ""
    body: bytes = b""
    declaration: Declaration | None = None
    rejection: str = ""


class Result(NamedTuple):
    """The verdict on one event, in the order of the batch."""

    id: str
    status: Status
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """What one batch did. ``opened``: (lane, first, last) of numbers found missing; ``closed``: how many that were missing came.

    ``reused``: events that are new here and yet carry a number their lane has used: the gateway's counters were set back.
    """

    gateway: str = ""
    incarnation: str = ""
    first_of_incarnation: bool = False
    results: tuple[Result, ...] = ()
    accepted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    opened: tuple[tuple[str, int, int], ...] = ()
    closed: int = 0
    declared: int = 0
    reused: int = 0


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers as ascending spans that neither touch nor overlap."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined


class ReceiverStore:
    """The store in ``folder`` (made where it is missing, 0700; its files 0600). One thread uses it at a time.

    Raises, from every method: CapacityError (``store-full``), StorageError, IntegrityError (``store-corrupt``),
    UnavailableError (``store-in-use``). Nothing of a failed batch is applied; the next one opens the file anew.
    """

    def __init__(self, folder: Path, *, keep_payloads: bool = False) -> None:
        self._folder = folder
        self._keep_payloads = keep_payloads
        self._lock: int | None = None
        self._database: sqlite3.Connection | None = None
        self._totals: Counter[str] = Counter()
        self._missing = 0

    @property
    def totals(self) -> Mapping[str, int]:
        """``events`` (distinct ids), ``applied``, ``superseded``, ``duplicates``, ``conflicts``, ``rejected``, ``batches``, ``reused``."""
        return {name: self._totals[name] for name in _TOTALS}

    @property
    def missing(self) -> int:
        """Numbers of all lanes that are missing now."""
        return self._missing

    def open(self) -> None:
        """Take the folder for this process and open the file; what it holds is kept."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except BlockingIOError:
            self.close()
            raise UnavailableError("store-in-use", "another receiver works in this folder: give each its own") from None
        except OSError:
            self.close()
            raise StorageError("store-not-writable", "the folder of the store cannot be made or written") from None
        self._connected()

    def close(self) -> None:
        """Close the file and let the folder go. Idempotent."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def apply(self, offers: Sequence[Offer], now_us: int) -> Applied:
        """Apply one batch (of one incarnation) in one transaction; durable when it returns."""
        if not offers:
            return Applied()
        database = self._connected()
        try:
            database.execute("BEGIN IMMEDIATE")
            batch = _Batch(database, offers[0].id, now_us, keep_payloads=self._keep_payloads)
            for offer in offers:
                batch.take(offer)
            applied = batch.finish()
            database.execute("COMMIT")
        except sqlite3.Error as fault:
            self._abandon()
            raise _mapped(fault) from None
        finally:
            if database is self._database and database.in_transaction:  # a bug or no memory: nothing half-done stays open
                self._abandon()
        self._totals.update(batch.totals)
        self._missing += sum(last - first + 1 for _, first, last in applied.opened) - applied.closed
        return applied

    def summary(self) -> dict[str, Any]:
        """Everything the books say, as ``GET /v1/state`` answers it (OpenAPI: ``State``). Lists are cut to a stated length."""
        database = self._connected()
        try:
            return {
                **self.totals,
                "gateways": _gateways(database),
                "lanes": [_lane_state(database, row) for row in database.execute(_LANES)],
                "recent_conflicts": [_conflict_state(row) for row in database.execute(_CONFLICTS, (_SHOWN_CONFLICTS,))],
            }
        except sqlite3.Error as fault:
            self._abandon()
            raise _mapped(fault) from None

    @property
    def _file(self) -> Path:
        return self._folder / "receiver.db"

    def _connected(self) -> sqlite3.Connection:
        """The open connection, or a new one: after a failed write the old one is never trusted again."""
        if self._lock is None:
            raise UnavailableError("store-closed", "the receiver is stopping")
        if self._database is None:
            try:
                self._database = _connection(self._file)
                self._totals = Counter(dict(self._database.execute("SELECT name, n FROM total")))
                self._missing = self._database.execute("SELECT ifnull(sum(last - first + 1), 0) FROM missing").fetchone()[0]
            except sqlite3.Error as fault:
                self._abandon()
                raise _mapped(fault) from None
        return self._database

    def _abandon(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


_TOTALS: Final = ("events", "applied", "superseded", "duplicates", "conflicts", "rejected", "reused", "batches")
_LANES: Final = "SELECT id, gateway, name, high, reused FROM lane ORDER BY gateway, name"
_CONFLICTS: Final = "SELECT at_us, event, revision, kept, offered FROM conflict ORDER BY id DESC LIMIT ?"
_FAULTS: Final[Mapping[int, GatewayError]] = {
    sqlite3.SQLITE_FULL: CapacityError("store-full", "the disk of the store is full"),
    sqlite3.SQLITE_READONLY: StorageError("store-read-only", "the store cannot be written"),
    sqlite3.SQLITE_NOTADB: IntegrityError("store-corrupt", "receiver.db is not a database: restore it or start a new folder"),
    sqlite3.SQLITE_CORRUPT: IntegrityError("store-corrupt", "receiver.db is damaged: restore it or start a new folder"),
    sqlite3.SQLITE_BUSY: UnavailableError("store-in-use", "another program holds receiver.db open for writing"),
}


def _mapped(fault: sqlite3.Error) -> GatewayError:
    """Ours for theirs, whose text may quote. The low byte is SQLite's primary code."""
    known = _FAULTS.get(getattr(fault, "sqlite_errorcode", 0) & 0xFF)
    return type(known)(known.code, known.hint) if known else StorageError("store-failing", "the store could not be read or written")


def _connection(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False, cached_statements=64)
    try:
        database.execute("PRAGMA busy_timeout=2000")
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        database.execute("PRAGMA synchronous=FULL")
        database.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        database.execute("PRAGMA cell_size_check=ON")
        if mode != "wal" or database.execute("PRAGMA synchronous").fetchone()[0] != 2:
            raise sqlite3.OperationalError
        database.executescript(files(__package__).joinpath("schema.sql").read_text(encoding="utf-8"))
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # the name of a file that was just made must survive a power cut too
        finally:
            os.close(folder)
    except sqlite3.Error:
        database.close()
        raise
    return database


class _Batch:
    """One transaction in the making: verdicts first, then the writes that follow from them."""

    __slots__ = ("_at_us", "_database", "_first_of", "_fresh", "_gaps", "_home", "_id", "_keep", "_known", "_last_seq", "_numbers",
                 "_payloads", "_results", "_rows", "_seqs", "totals")  # fmt: skip

    def __init__(self, database: sqlite3.Connection, first: EventId, at_us: int, *, keep_payloads: bool) -> None:
        self._database = database
        self._at_us = at_us
        self._keep = keep_payloads
        self._home = (first.gateway, first.incarnation)
        self._first_of, self._id, self._last_seq = _incarnation(database, self._home, at_us)
        self._known: dict[tuple[int, int], tuple[int, bytes]] = {}  # (seq, part) -> (revision, digest), as of now in this batch
        self._rows: list[tuple[int, int, int, int, bytes]] = []
        self._payloads: list[tuple[int, int, int, str, str, bytes]] = []
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._fresh: defaultdict[str, set[int]] = defaultdict(set)
        self._gaps: list[Declaration] = []
        self._results: list[Result] = []
        self._seqs: list[int] = []
        self.totals: Counter[str] = Counter()

    def take(self, offer: Offer) -> None:
        """Judge one event and note its verdict."""
        event = offer.id
        key = (event.seq, _NO_PART if event.part is None else event.part)
        known = self._look_up(key) if offer.digest else None
        if known is not None and offer.revision <= known[0]:
            status, reason = self._again(offer, key, known)
        elif offer.rejection:
            status, reason = self._count(Status.REJECTED, "rejected", offer.rejection)
        else:
            self._apply(offer, key, known)
            status, reason = Status.ACCEPTED, ""
        if status is not Status.REJECTED:
            self._numbers[offer.lane].append(offer.laneseq)
        self._results.append(Result(str(event), status, reason))

    def finish(self) -> Applied:
        """Write everything; the caller commits."""
        self._flush()
        totals = self.totals
        opened, closed, reused = self._count_lanes()
        totals["reused"] = reused
        totals["batches"] = 1
        if self._seqs:
            self._database.execute(_INCARNATION_GROWS, (len(self._seqs), min(self._seqs), max(self._seqs), self._id))
        grown = [(name, n) for name, n in totals.items() if n]
        self._database.executemany("INSERT INTO total VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET n = n + excluded.n", grown)
        return Applied(
            *self._home,
            first_of_incarnation=self._first_of,
            results=tuple(self._results),
            accepted=totals["applied"],
            duplicates=totals["duplicates"],
            conflicts=totals["conflicts"],
            rejected=totals["rejected"],
            opened=tuple(opened),
            closed=closed,
            declared=sum(gap.last - gap.first + 1 for gap in self._gaps),
            reused=reused,
        )

    def _look_up(self, key: tuple[int, int]) -> tuple[int, bytes] | None:
        if (known := self._known.get(key)) or key[0] > self._last_seq:
            return known
        return self._database.execute(_EVENT, (self._id, *key)).fetchone()  # type: ignore[no-any-return]

    def _again(self, offer: Offer, key: tuple[int, int], known: tuple[int, bytes]) -> tuple[Status, str]:
        """A revision that is in force, or was: the same content is a duplicate, another one is an alarm."""
        digest: bytes | None = known[1]
        reason = ""
        if offer.revision < known[0]:
            row = self._database.execute(_SUPERSEDED_EVENT, (self._id, *key, offer.revision)).fetchone()
            digest = row[0] if row else None
            reason = _SUPERSEDED
        if digest is None:
            self._database.execute("INSERT INTO superseded VALUES (?, ?, ?, ?, ?)", (self._id, *key, offer.revision, offer.digest))
        elif digest != offer.digest:
            self._alarm(offer, digest)
            return self._count(Status.REJECTED, "conflicts", _OTHER_CONTENT)
        return self._count(Status.DUPLICATE, "duplicates", reason)

    def _apply(self, offer: Offer, key: tuple[int, int], known: tuple[int, bytes] | None) -> None:
        if known is None:
            self._rows.append((self._id, *key, offer.revision, offer.digest))
            self._seqs.append(key[0])
            self.totals["events"] += 1
            if offer.revision == 0:
                self._fresh[offer.lane].add(offer.laneseq)
        else:
            self._flush()
            self._database.execute("INSERT OR IGNORE INTO superseded VALUES (?, ?, ?, ?, ?)", (self._id, *key, *known))
            self._database.execute(_SUPERSEDE, (offer.revision, offer.digest, self._id, *key))
            self.totals["superseded"] += 1
        self._known[key] = (offer.revision, offer.digest)
        if self._keep:
            self._payloads.append((self._id, *key, offer.type, offer.source, offer.body))
        if offer.declaration is not None:
            self._gaps.append(offer.declaration)
        self.totals["applied"] += 1

    def _alarm(self, offer: Offer, kept: bytes) -> None:
        row = (self._at_us, str(offer.id), offer.revision, kept, offer.digest)
        self._database.execute("INSERT INTO conflict (at_us, event, revision, kept, offered) VALUES (?, ?, ?, ?, ?)", row)
        self._database.execute("DELETE FROM conflict WHERE id <= (SELECT max(id) FROM conflict) - ?", (_CONFLICTS_KEPT,))

    def _count(self, status: Status, name: str, reason: str) -> tuple[Status, str]:
        self.totals[name] += 1
        return status, reason

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?)", self._rows)
        self._database.executemany("INSERT OR REPLACE INTO payload VALUES (?, ?, ?, ?, ?, ?)", self._payloads)
        self._rows.clear()
        self._payloads.clear()

    def _count_lanes(self) -> tuple[list[tuple[str, int, int]], int, int]:
        """Move the high-waters. The batch's numbers and declarations go in together, so that order inside it is no gap."""
        opened: list[tuple[str, int, int]] = []
        closed = reused = 0
        gateway = self._home[0]
        for name in dict.fromkeys([*self._numbers, *(gap.lane for gap in self._gaps)]):
            lane = _Lane.load(self._database, gateway, name)
            spans = [(gap.first, gap.last) for gap in self._gaps if gap.lane == name]
            reused += lane.already_used(self._fresh[name])
            for span in merged([*((n, n) for n in self._numbers[name]), *spans]):
                lane.arrive(*span)
            lane.save([gap for gap in self._gaps if gap.lane == name])
            opened += [(name, first, last) for first, last in lane.opened]
            closed += lane.closed
        return opened, closed, reused


class _Lane:
    """One lane of one gateway while a batch goes through it."""

    __slots__ = ("_database", "_high", "_id", "_reused", "closed", "opened")

    def __init__(self, database: sqlite3.Connection, lane: int, high: int) -> None:
        self._database = database
        self._id = lane
        self._high = high
        self._reused = 0
        self.opened: list[tuple[int, int]] = []
        self.closed = 0

    @classmethod
    def load(cls, database: sqlite3.Connection, gateway: str, name: str) -> _Lane:
        """The lane as it stands; a new one starts below its first number, 1."""
        row = database.execute("SELECT id, high FROM lane WHERE gateway = ? AND name = ?", (gateway, name)).fetchone()
        if row is None:
            lane = database.execute("INSERT INTO lane (gateway, name) VALUES (?, ?)", (gateway, name)).lastrowid or 0
            return cls(database, lane, 0)
        return cls(database, *row)

    def already_used(self, numbers: set[int]) -> int:
        """How many of the numbers the lane has used: below its high-water, and neither missing nor declared."""
        used = 0
        for number in numbers:
            if number <= self._high:
                missing = self._database.execute(_REACHES, (number, self._id, number)).fetchone()
                if missing == (1,):
                    continue
                used += self._database.execute(_DECLARED, (self._id, number, number)).fetchone() is None
        self._reused += used
        return used

    def arrive(self, first: int, last: int) -> None:
        """These numbers are here (or declared); spans come in ascending order."""
        if first <= self._high:
            self._fill(first, min(last, self._high))
        if last <= self._high:
            return
        if first > self._high + 1:
            self.opened.append((self._high + 1, first - 1))
            self._database.execute("INSERT INTO missing VALUES (?, ?, ?)", (self._id, self._high + 1, first - 1))
        self._high = last

    def save(self, gaps: Sequence[Declaration]) -> None:
        """Write the high-water and what was declared."""
        self._database.execute("UPDATE lane SET high = ?, reused = reused + ? WHERE id = ?", (self._high, self._reused, self._id))
        rows = [(self._id, gap.first, gap.last, gap.reason) for gap in gaps]
        self._database.executemany("INSERT OR IGNORE INTO declared VALUES (?, ?, ?, ?)", rows)

    def _fill(self, first: int, last: int) -> None:
        for low, high in self._database.execute(_OVERLAPPING, {"lane": self._id, "first": first, "last": last}).fetchall():
            self._database.execute("DELETE FROM missing WHERE lane = ? AND first = ?", (self._id, low))
            rest = [(self._id, *span) for span in ((low, first - 1), (last + 1, high)) if span[0] <= span[1]]
            self._database.executemany("INSERT INTO missing VALUES (?, ?, ?)", rest)
            self.closed += min(high, last) - max(low, first) + 1


_EVENT: Final = "SELECT revision, digest FROM event WHERE incarnation = ? AND seq = ? AND part = ?"
_SUPERSEDED_EVENT: Final = "SELECT digest FROM superseded WHERE incarnation = ? AND seq = ? AND part = ? AND revision = ?"
_SUPERSEDE: Final = "UPDATE event SET revision = ?, digest = ? WHERE incarnation = ? AND seq = ? AND part = ?"
_INCARNATION_GROWS: Final = """
    UPDATE incarnation SET
        events = events + ?1, first_seq = iif(events = 0, ?2, min(first_seq, ?2)), last_seq = max(last_seq, ?3)
    WHERE id = ?4
"""
# Ranges never overlap, so at most one that starts at or before ``first`` can reach into it.
_OVERLAPPING: Final = """
    SELECT first, last FROM missing
    WHERE lane = :lane AND last >= :first AND first <= :last
    AND first >= coalesce((SELECT max(first) FROM missing WHERE lane = :lane AND first <= :first), :first)
"""
_REACHES: Final = "SELECT last >= ? FROM missing WHERE lane = ? AND first <= ? ORDER BY first DESC LIMIT 1"
_DECLARED: Final = "SELECT 1 FROM declared WHERE lane = ? AND first <= ? AND last >= ? LIMIT 1"


def _incarnation(database: sqlite3.Connection, home: tuple[str, str], at_us: int) -> tuple[bool, int, int]:
    """(new here, row id, highest seq so far); the row id is the order of first arrival."""
    row = database.execute("SELECT id, last_seq FROM incarnation WHERE gateway = ? AND uuid = ?", home).fetchone()
    if row is not None:
        return False, *row
    made = database.execute("INSERT INTO incarnation (gateway, uuid, first_us) VALUES (?, ?, ?)", (*home, at_us))
    return True, made.lastrowid or 0, 0


def _gateways(database: sqlite3.Connection) -> list[dict[str, Any]]:
    """Per gateway its incarnations in order of first arrival (the latest ones, where there are very many)."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    rows = database.execute(
        "SELECT gateway, uuid, first_us, events, first_seq, last_seq FROM (SELECT * FROM incarnation ORDER BY id DESC LIMIT ?) ORDER BY id",
        (_SHOWN_INCARNATIONS,),
    )
    for gateway, uuid, first_us, events, first_seq, last_seq in rows:
        spans = {"events": events, "first_seq": first_seq, "last_seq": last_seq}
        found[gateway].append({"incarnation": uuid, "first_arrival": rfc3339(first_us), **spans})
    return [{"gateway": gateway, "incarnations": incarnations} for gateway, incarnations in sorted(found.items())]


def _lane_state(database: sqlite3.Connection, row: tuple[int, str, str, int, int]) -> dict[str, Any]:
    lane, gateway, name, high, reused = row
    ranges, missing = database.execute("SELECT count(*), ifnull(sum(last - first + 1), 0) FROM missing WHERE lane = ?", (lane,)).fetchone()
    shown = database.execute("SELECT first, last FROM missing WHERE lane = ? ORDER BY first LIMIT ?", (lane, _SHOWN_RANGES)).fetchall()
    declared = merged(database.execute("SELECT first, last FROM declared WHERE lane = ?", (lane,)).fetchall())
    return {
        "gateway": gateway,
        "lane": name,
        "high": high,
        "missing": missing,
        "missing_ranges": [list(span) for span in shown],
        "missing_ranges_total": ranges,
        "declared": sum(last - first + 1 for first, last in declared),
        "reused": reused,
    }


def _conflict_state(row: tuple[int, str, int, bytes, bytes]) -> dict[str, Any]:
    at_us, event, revision, kept, offered = row
    return {"at": rfc3339(at_us), "id": event, "revision": revision, "kept_sha256": kept.hex(), "offered_sha256": offered.hex()}
