"""The journal of a stopped daemon, for reading: what the daemon would answer, without changing a byte, name or time.

The lock is held meanwhile, so no daemon can start under the reader (and a running one is reported, not disturbed). Without a
write-ahead log (a clean stop) the database is opened in place as immutable; with one (after a crash) SQLite would have to
write an index beside it, so database and log are copied to a private temporary directory first. What is copied is sealed.

Where nothing exists yet, everything is zero and empty. A damaged file raises ``IntegrityError``: the next start salvages it.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import quote

from gateway.journal.audit_check import AuditVerdict, verify
from gateway.journal.commits import Incarnations, newest_state, opening_cipher, read_incarnations
from gateway.journal.interface import Condition, JournalSnapshot, QueueRow, RouteSnapshot
from gateway.journal.keyring import KeyringState, keyring_state, open_keyring
from gateway.journal.ledger import JournalState
from gateway.journal.lockfile import take_lock
from gateway.journal.lookup import LedgerView, dead_letters, exception_content, find_message, held_in_exceptions, requeued, trace
from gateway.journal.pragmas import storage_error
from gateway.journal.quota import JOURNAL_NAME, Gauge, scaled_limits
from gateway.journal.reader import Reader, ReadRequest
from gateway.journal.records import SCHEMA_VERSION
from gateway.journal.refused import list_refused, show_refused
from gateway.journal.salvage import BUILT_NAME
from gateway.journal.witness import read_last_status
from gateway.model.errors import CapacityError, GatewayError, LocalProtocolError, LockedError, StorageError
from gateway.model.event import EventId

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.journal.exceptions import DeadLetterContent
    from gateway.journal.interface import ExceptionRow, JournalPlace, TraceRecord
    from gateway.journal.key_provider import KeyProvider
    from gateway.journal.keyring import OpenKeyring
    from gateway.journal.ledger import RouteLedger
    from gateway.journal.lockfile import StateLock
    from gateway.journal.reader import ReadBatch
    from gateway.journal.refused import RefusedRow
    from gateway.model.cursor import Cursor
    from gateway.model.message import Delivery, StoredMessage

__all__ = ["OfflineJournal"]

_T = TypeVar("_T")
_HINT_COPY: Final = "no room (or no right) to copy the journal for reading: set TMPDIR to a directory with room, or start the gateway"
_NO_BYTE_LIMIT: Final = 2**62
_READ_BYTES: Final = 1024 * 1024
_LISTED_MAX: Final = 1000


@dataclass(slots=True)
class _Opened:
    """What lies behind an open journal. ``copy``: the private directory, None where the file is read in place."""

    connection: sqlite3.Connection
    keys: OpenKeyring
    incarnations: Incarnations
    reader: Reader
    copy: tempfile.TemporaryDirectory[str] | None


class OfflineJournal:
    """Answers as ``Journal`` does, synchronously. A context manager; ``close`` gives the lock back and removes the copy.

    Every method may raise ``IntegrityError`` (``journal-damaged``) or ``StorageError``. Of a route that the journal does not know
    there is nothing.
    """

    def __init__(self, place: JournalPlace, gateway: str, lock: StateLock | None, opened: _Opened | None, state: JournalState) -> None:
        self._place = place
        self._gateway = gateway
        self._lock = lock
        self._opened = opened
        self._state = state

    @classmethod
    def open(cls, place: JournalPlace, provider: KeyProvider, gateway: str) -> OfflineJournal:
        """Open what lies in ``place``; where nothing does, the key is not asked for. ``gateway``: for event ids.

        Raises:
            LockedError: no usable key, as ``keyring.open_keyring`` and the provider say, or ``journal-newer``.
            UnavailableError: ``already-running``: ask the daemon instead.
            IntegrityError: the file is damaged.
            CapacityError: ``copy-space``: no room for the private copy.
        """
        state_dir = place.state_dir
        keys = None if keyring_state(state_dir) is KeyringState.FRESH else open_keyring(state_dir, provider.read())
        journal = cls(place, gateway, take_lock(state_dir, create=False), None, JournalState())
        try:
            if keys is not None and (opened := _open(state_dir, keys)) is not None:
                journal._opened = opened
                state = _guarded(lambda: newest_state(opened.connection, opened.reader.cipher, opened.keys))
                journal._state = state or journal._state
        except GatewayError:
            journal.close()
            raise
        return journal

    def close(self) -> None:
        """Idempotent."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.connection.close()
            if opened.copy is not None:
                opened.copy.cleanup()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def snapshot(self) -> JournalSnapshot:
        """As ``Journal.snapshot``, as of the last commit; the incarnation is that of the last start."""
        state, opened = self._state, self._opened
        return JournalSnapshot(
            "" if opened is None else opened.incarnations.newest().hex(),
            Condition.RUNNING,
            state.accepted,
            tuple(self._route_snapshot(ledger) for ledger in state.routes.values()),
            0 if opened is None else _guarded(lambda: Gauge(self._place.state_dir).measure(opened.connection)),
            self._quota(),
            state.blocks,
            state.commit,
            state.next_seq,
        )

    def queue(self, route: str, limit: int = 100) -> list[QueueRow]:
        """As ``Journal.queue``."""
        waiting: list[QueueRow] = []
        for ledger in self._ledgers(route):
            waiting += [self._queue_row(delivery) for delivery in self._requeued(ledger, limit)]
            after = ledger.cursor
            while len(waiting) < limit:
                batch = self._read(ledger, after, _READ_BYTES)
                waiting += [self._queue_row(delivery) for delivery in batch.deliveries]
                if batch.after == after:
                    break
                after = batch.after
        return waiting[:limit]

    def dead_letters(self, route: str | None = None, limit: int = _LISTED_MAX) -> list[ExceptionRow]:
        """As ``Journal.dead_letters``."""
        found: list[ExceptionRow] = []
        for ledger in self._ledgers(route):
            if ledger.books.dead_letter:
                view = LedgerView(self._gateway, self._state.versions, ledger)
                found += self._in_snapshot(partial(dead_letters, self._reader(), view, limit))
        return sorted(found, key=lambda row: row.seq)[:limit]

    def exception_content(self, event: EventId, route: str | None = None) -> DeadLetterContent | None:
        """As ``Journal.exception_content``; nobody audits this reading, so whoever calls it decides whether to show it."""
        for ledger in self._ledgers(route):
            content = self._in_snapshot(partial(exception_content, self._reader(), event.seq, ledger.number))
            if content is not None and content.message.incarnation == event.incarnation:
                return content
        return None

    def message(self, event: EventId) -> StoredMessage | None:
        """As ``Journal.message``."""
        if self._opened is None or event.gateway != self._gateway:
            return None
        reader, numbers = self._reader(), [ledger.number for ledger in self._state.routes.values()]
        found = self._in_snapshot(lambda: find_message(reader, event.seq) or held_in_exceptions(reader, event.seq, numbers))
        return found if found is not None and found.incarnation == event.incarnation else None

    def trace(self, event: EventId) -> list[TraceRecord]:
        """As ``Journal.trace``."""
        if self._opened is None or event.gateway != self._gateway:
            return []
        return _guarded(lambda: trace(self._reader(), event.seq))

    def refused(self, limit: int = _LISTED_MAX) -> list[RefusedRow]:
        """As ``Journal.refused``."""
        if (opened := self._opened) is None:
            return []
        return self._in_snapshot(lambda: list_refused(opened.connection, opened.reader.cipher, limit))

    def refused_content(self, row: int) -> RefusedRow | None:
        """As ``Journal.refused_content``."""
        if (opened := self._opened) is None:
            return None
        return self._in_snapshot(lambda: show_refused(opened.connection, opened.reader.cipher, row))

    def verify_audit(self) -> AuditVerdict:
        """``audit_check.verify`` over what lies here."""
        if (opened := self._opened) is None:
            return AuditVerdict.of_nothing()
        return _guarded(lambda: verify(opened.connection, opened.keys, read_last_status(self._place.state_dir)))

    # ------------------------------------------------------------------ inside

    def _reader(self) -> Reader:
        if self._opened is None:
            raise LocalProtocolError("journal-closed", "the journal is closed, or nothing was ever stored here")
        return self._opened.reader

    def _in_snapshot(self, work: Callable[[], _T]) -> _T:
        return self._reader().in_snapshot(work)

    def _ledgers(self, route: str | None) -> list[RouteLedger]:
        return [ledger for name, ledger in self._state.routes.items() if route in (None, name)]

    def _read(self, ledger: RouteLedger, after: Cursor, max_bytes: int) -> ReadBatch:
        beyond = {seq: lane for seq, lane in ledger.beyond.items() if seq > after.seq}
        state = self._state
        request = ReadRequest(ledger.name, after, max_bytes, state.versions, state.next_seq, beyond, frozenset(ledger.gaps))
        return self._reader().read(request)

    def _requeued(self, ledger: RouteLedger, limit: int) -> list[Delivery]:
        if not ledger.requeued:
            return []
        return self._in_snapshot(lambda: requeued(self._reader(), ledger, 0, limit, _NO_BYTE_LIMIT))

    def _queue_row(self, delivery: Delivery) -> QueueRow:
        message = delivery.message
        return QueueRow(
            str(EventId(self._gateway, message.incarnation, message.seq)),
            message.source,
            message.kind,
            message.traffic,
            message.seq,
            delivery.laneseq,
            delivery.revision,
            message.received_us,
            len(message.body),
        )

    def _route_snapshot(self, ledger: RouteLedger) -> RouteSnapshot:
        return RouteSnapshot(ledger.name, ledger.books, ledger.cursor, self._oldest_us(ledger), ledger.requeued, ledger.configured)

    def _oldest_us(self, ledger: RouteLedger) -> int | None:
        waiting = self._requeued(ledger, 1)
        after = ledger.cursor
        while ledger.ahead and not waiting:
            batch = self._read(ledger, after, 1)
            waiting += batch.deliveries
            if batch.after == after:
                break
            after = batch.after
        return min((delivery.message.received_us for delivery in waiting), default=None)

    def _quota(self) -> int:
        try:
            return scaled_limits(self._place).quota
        except StorageError:
            return self._place.quota_bytes  # the directory is not there yet


def _open(state_dir: Path, keys: OpenKeyring) -> _Opened | None:
    """The database of a salvage that was interrupted at its very end is the journal already."""
    path = next((state_dir / name for name in (BUILT_NAME, JOURNAL_NAME) if _size(state_dir / name)), None)
    if path is None:
        return None
    copy = None
    if _size(path.with_name(f"{path.name}-wal")):
        copy, path = _copied(path)
        connect = partial(_connect, f"file:{quote(str(path))}")
    else:
        connect = partial(_connect, f"file:{quote(str(path))}?immutable=1")
    try:
        return _opened(connect(), connect, keys, copy)
    except GatewayError:
        if copy is not None:
            copy.cleanup()
        raise


def _opened(
    connection: sqlite3.Connection,
    connect: Callable[[], sqlite3.Connection],
    keys: OpenKeyring,
    copy: tempfile.TemporaryDirectory[str] | None,
) -> _Opened | None:
    try:
        version = _guarded(lambda: connection.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise LockedError("journal-newer", "the journal was written by a newer version of this program: use that version")
        incarnations = _guarded(lambda: read_incarnations(connection))
    except GatewayError:
        connection.close()
        raise
    return _Opened(connection, keys, incarnations, Reader(connect, opening_cipher(keys), incarnations.of), copy)


def _connect(address: str) -> sqlite3.Connection:
    def connected() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, isolation_level=None)
        connection.execute("PRAGMA query_only=1")
        return connection

    return _guarded(connected)


def _copied(path: Path) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    copy = None
    try:
        copy = tempfile.TemporaryDirectory(prefix="edge-gateway-")  # 0700
        for end in ("", "-wal"):
            shutil.copyfile(f"{path}{end}", Path(copy.name) / f"{path.name}{end}")
    except OSError:
        if copy is not None:
            copy.cleanup()
        raise CapacityError("copy-space", _HINT_COPY) from None
    return copy, Path(copy.name) / path.name


def _guarded(work: Callable[[], _T]) -> _T:
    try:
        return work()
    except sqlite3.Error as error:
        raise storage_error(error) from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
