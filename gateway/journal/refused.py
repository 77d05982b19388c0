"""Refused frames: a sealed ring for the person who has to find out why, and one audit record per source, code and minute.

A flood of bad frames must cost nothing but its own connection: of each source and code only the first few frames of a minute
are kept, what waits for the next commit is bounded, and the ring as a whole has 1 % of the quota.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind, AuditRecord
from gateway.journal.records import NO_INCARNATION, TABLE_REFUSED, decode_headed, encode_headed
from gateway.model.errors import IntegrityError
from gateway.model.limits import REFUSED_KEEP_BYTES
from gateway.model.refusal import Refusal

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from gateway.journal.cipher import RecordCipher
    from gateway.journal.transaction import Transaction

__all__ = ["ROW_BYTES", "Refusal", "Refusals", "RefusedRow", "list_refused", "show_refused"]

#: Of one source and code: frames kept a minute. The first ones tell; the ten thousandth like them does not.
_KEPT_PER_MINUTE: Final = 8
#: Frames that wait for a commit, in bytes.
_WAITING_MAX_BYTES: Final = 1024 * 1024
_MINUTE_US: Final = 60_000_000
#: (source, code) pairs counted at a time; both are our own words, so more than this is a defect.
_COUNTERS_MAX: Final = 4096
#: A row takes this much beside its content.
ROW_BYTES: Final = 64

_INSERT: Final = "INSERT INTO refused (id, at_us, sealed) VALUES (?, ?, ?)"
_NEXT: Final = (
    "SELECT 1 + max(coalesce((SELECT max(id) FROM refused), 0), coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'refused'), 0))"
)
_OLDEST: Final = "SELECT id, length(sealed) FROM refused ORDER BY id LIMIT 64"


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """One row of the ring. ``kept`` is empty in listings."""

    id: int
    at_us: int
    source: str
    code: str
    peer: str
    size_bytes: int
    kept: bytes = b""


@dataclass(slots=True)
class _Counter:
    minute: int
    count: int = 0
    size_bytes: int = 0


class Refusals:
    """Collects refusals in the event loop; ``take`` hands over what the next commit is to write."""

    def __init__(self, ring_bytes: int) -> None:
        self._ring_bytes = ring_bytes
        self._counters: dict[tuple[str, str], _Counter] = {}
        self._ended: list[AuditRecord] = []
        self._waiting: list[Refusal] = []
        self._waiting_bytes = 0

    def note(self, refusal: Refusal) -> bool:
        """Count it, keep its bytes if there is room; True where something waits for a commit now."""
        minute = refusal.refused_us // _MINUTE_US
        key = (refusal.source, refusal.code)
        counter = self._counters.get(key)
        if counter is not None and counter.minute != minute:
            self._end(key)
            counter = None
        if counter is None:
            if len(self._counters) >= _COUNTERS_MAX:
                self._end_all()
            counter = self._counters[key] = _Counter(minute)
        counter.count += 1
        counter.size_bytes += refusal.size_bytes
        if counter.count <= _KEPT_PER_MINUTE and self._waiting_bytes + len(refusal.kept) <= _WAITING_MAX_BYTES:
            self._waiting.append(refusal)
            self._waiting_bytes += len(refusal.kept)
        return bool(self._waiting or self._ended)

    def take(self, now_us: int, *, everything: bool = False) -> Callable[[Transaction], None] | None:
        """What the next commit is to write: kept frames, and the counts of minutes that are over (or all of them)."""
        minute = now_us // _MINUTE_US
        for key in [key for key, counter in self._counters.items() if everything or counter.minute != minute]:
            self._end(key)
        if not self._waiting and not self._ended:
            return None
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        ended, self._ended = self._ended, []

        def write(tx: Transaction) -> None:
            tx.audit.extend(ended)
            _write(tx, waiting, self._ring_bytes)

        return write

    @property
    def counting(self) -> bool:
        """Whether a minute is open."""
        return bool(self._counters)

    def _end(self, key: tuple[str, str]) -> None:
        counter = self._counters.pop(key)
        detail: dict[str, str | int] = {
            "code": key[1],
            "count": counter.count,
            "size_bytes": counter.size_bytes,
            "minute_us": counter.minute * _MINUTE_US,
        }
        self._ended.append(AuditRecord(AuditKind.REFUSE, source=key[0], detail=detail))

    def _end_all(self) -> None:
        for key in list(self._counters):
            self._end(key)


def _write(tx: Transaction, waiting: list[Refusal], ring_bytes: int) -> None:
    for refusal in waiting:
        row = tx.connection.execute(_NEXT).fetchone()[0]
        head = {
            "source": refusal.source,
            "code": refusal.code,
            "peer": refusal.peer,
            "size": refusal.size_bytes,
        }
        plaintext = encode_headed(head, refusal.kept[:REFUSED_KEEP_BYTES])
        sealed = tx.cipher.seal(TABLE_REFUSED, row, 0, 0, 0, NO_INCARNATION, plaintext)
        tx.connection.execute(_INSERT, (row, refusal.refused_us, sealed))
        tx.state.refused_bytes += len(sealed) + ROW_BYTES
    while tx.state.refused_bytes > ring_bytes and (rows := tx.connection.execute(_OLDEST).fetchall()):
        for row, size in rows:
            if tx.state.refused_bytes <= ring_bytes:
                break
            tx.connection.execute("DELETE FROM refused WHERE id = ?", (row,))
            tx.state.refused_bytes -= size + ROW_BYTES


def list_refused(connection: sqlite3.Connection, cipher: RecordCipher, limit: int) -> list[RefusedRow]:
    """The newest rows, newest first, without content. Rows that do not open are shown with code ``unreadable``."""
    rows = connection.execute("SELECT id, at_us, sealed FROM refused ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
    return [_open(cipher, *row, content=False) for row in rows]


def show_refused(connection: sqlite3.Connection, cipher: RecordCipher, row: int) -> RefusedRow | None:
    """One row with its content, None where the ring does not hold it (any more)."""
    found = connection.execute("SELECT id, at_us, sealed FROM refused WHERE id = ?", (row,)).fetchone()
    return None if found is None else _open(cipher, *found, content=True)


def _open(cipher: RecordCipher, row: int, at_us: int, sealed: bytes, *, content: bool) -> RefusedRow:
    try:
        head, kept = decode_headed(cipher.open(TABLE_REFUSED, row, 0, 0, 0, NO_INCARNATION, sealed))
        return RefusedRow(row, at_us, head["source"], head["code"], head["peer"], head["size"], kept if content else b"")
    except (IntegrityError, KeyError):
        return RefusedRow(row, at_us, "", "unreadable", "", 0)
