"""A damaged journal at the start: put aside, never deleted, and everything that can still be read carried over.

``mend`` runs before the journal is opened. On a sound file it reads the head and changes nothing. Where the file is damaged
(SQLite refuses it, the newest commit row does not open, the database is gone while its log is not), it builds a new file from
every row that ``pages.PageFile`` finds, brings the books into line (``repair``), and only then moves the damaged one to
``journal.db.quarantine-<n>``. Where the witness knows more commits than the file holds (a deleted log, an old copy put back),
it says so in a commit of its own and never lets a seq be used twice.

Steps, so that a crash at any point loses nothing and the next start goes on from there:

1. ``journal.db.salvaging`` is built (a left-over one is thrown away: it is a partial copy);
2. renamed to ``journal.db.salvaged``: from now on it is the journal;
3. log, index and database are renamed to their quarantine names, in this order: a log must never meet another database;
4. ``journal.db.salvaged`` is renamed to ``journal.db``.

A block whose row is lost but whose commit row is not comes back as a row with the right facts and an empty content: the reader
treats it like any block that does not open, and its messages become declared gaps of the routes that still needed them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from gateway.codec.sealed_record import read_head
from gateway.journal.audit import AuditKind, AuditRecord, total
from gateway.journal.cipher import RecordCipher, fastest_suite
from gateway.journal.commits import newest_state, opening_cipher
from gateway.journal.ledger import JournalState, encode_state
from gateway.journal.mending import Losses, bring_into_line
from gateway.journal.migrations import migrate, schema_scripts
from gateway.journal.pages import PageFile
from gateway.journal.pragmas import connect_writer, storage_error
from gateway.journal.quota import JOURNAL_NAME
from gateway.journal.records import SCHEMA_VERSION, TABLE_BLOCK, TABLE_EXCEPTION, TABLE_META, TABLE_REFUSED, commit_of, encode_meta
from gateway.journal.repair import believe_witness
from gateway.journal.witness import LastStatus, WitnessState, read_last_status
from gateway.model.errors import CapacityError, GatewayError, IntegrityError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from gateway.journal.interface import RouteRule
    from gateway.journal.keyring import OpenKeyring
    from gateway.journal.pages import Row
    from gateway.model.clock import Clock, Randomness

__all__ = ["BUILT_NAME", "Damage", "SalvageReport", "ask_for_salvage", "examine", "mend"]

_INCARNATION_BYTES: Final = 16
_BUILDING: Final = f"{JOURNAL_NAME}.salvaging"
#: The new file, complete: from now on it is the journal, whatever its name.
BUILT_NAME: Final = f"{JOURNAL_NAME}.salvaged"
_ASKED: Final = f"{JOURNAL_NAME}.damaged"
_CHECKPOINT_PAGES: Final = 1000
_NO_PAGE_LIMIT: Final = 2**30
#: Carried over per transaction.
_PORTION_BYTES: Final = 8 * 1024 * 1024
#: Files up to this size are checked page by page at the start (about 0.1 s); larger ones at their head and tail only.
_WHOLE_CHECK_BYTES: Final = 16 * 1024 * 1024
#: A row costs about this much beside its content.
_ROW_BYTES: Final = 64
_CARRY: Final = {
    "incarnation": "INSERT OR IGNORE INTO incarnation VALUES (?, ?, ?, ?)",
    "commit_meta": "INSERT OR IGNORE INTO commit_meta VALUES (?, ?, ?)",
    "exception": "INSERT OR IGNORE INTO exception VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "refused": "INSERT OR IGNORE INTO refused VALUES (?, ?, ?)",
    "quarantine": "INSERT OR IGNORE INTO quarantine VALUES (?, ?, ?, ?)",
    "block": "INSERT OR IGNORE INTO block VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
}


#: Columns of the tables, text of everything else. Not the text of tables: a later ALTER may word it in its own way.
_SCHEMA: Final = (
    "SELECT type, tbl_name, name, CASE type WHEN 'table' THEN "
    "(SELECT group_concat(name) FROM pragma_table_info(things.name)) ELSE sql END FROM sqlite_schema AS things ORDER BY 1, 2, 3"
)
_TWINS_DIFFER: Final = (
    "SELECT EXISTS (SELECT id, uuid, first_commit FROM incarnation_twin EXCEPT SELECT id, uuid, first_commit FROM incarnation)"
)
#: (table number in the sealed head, columns) -> table
_SEALED_TABLES: Final = {
    (TABLE_BLOCK, 9): "block",
    (TABLE_META, 3): "commit_meta",
    (TABLE_EXCEPTION, 9): "exception",
    (TABLE_REFUSED, 3): "refused",
}


class Damage(StrEnum):
    """What is wrong with the database file."""

    REFUSED = "refused"  #: SQLite says malformed, truncated or not a database
    UNREADABLE = "unreadable"  #: the newest commit row does not open
    GONE = "gone"  #: no database (or an empty one) beside a log that is not empty
    REPORTED = "reported"  #: found while it was in use


@dataclass(frozen=True, slots=True)
class SalvageReport:
    """What a start found and did. ``quarantined``: name of the file that was put aside, empty where none was.

    ``carried``: rows by table. ``unreadable``: pages, cells and rows that could not be read. ``losses``: what that means.
    """

    damage: Damage | None
    quarantined: str = ""
    carried: Mapping[str, int] = field(default_factory=dict)
    unreadable: int = 0
    losses: Losses = field(default_factory=Losses)


def ask_for_salvage(state_dir: Path) -> None:
    """Leave a note that the file was found damaged while in use: the next ``mend`` salvages whatever it looks like."""
    with contextlib.suppress(OSError):
        (state_dir / _ASKED).touch(mode=0o600)


def mend(state_dir: Path, keys: OpenKeyring, routing: tuple[RouteRule, ...], clock: Clock, randomness: Randomness) -> SalvageReport | None:
    """Make the journal in ``state_dir`` fit to be opened; None where it was (or where there is none). Blocking.

    The caller holds the lock, and no connection is open. ``routing`` serves where nothing of the state is left: its routes
    then start at the oldest message that is.

    Raises:
        CapacityError: ``salvage-space``: no room for the new file; nothing was changed.
        StorageError: the disk refuses; nothing is lost.
        LockedError: ``journal-newer``.
    """
    _finish(state_dir)
    damage = Damage.REPORTED if (state_dir / _ASKED).exists() else examine(state_dir, keys)
    last = read_last_status(state_dir)
    trusted = last if last is not None and last.testify(keys) is WitnessState.VALID else None
    sealing = _Sealing(keys, clock, randomness)
    try:
        if damage is None:
            return _look_behind(state_dir, trusted, routing, sealing)
        report = _salvage(state_dir, damage, routing, trusted, sealing)
    except sqlite3.Error as error:
        raise _salvage_error(error) from None
    (state_dir / _ASKED).unlink(missing_ok=True)
    return report


def examine(state_dir: Path, keys: OpenKeyring) -> Damage | None:
    """Look at head and tail of the database without changing it.

    Raises:
        StorageError: it cannot be read at all (permission, disk).
    """
    path = state_dir / JOURNAL_NAME
    log = _size(path.with_name(f"{path.name}-wal"))
    if not (size := _size(path)):
        # SQLite deletes a log that it finds beside an empty database.
        return Damage.GONE if log else None
    try:
        with contextlib.closing(_connect_read_only(path)) as connection:
            _touch(connection, whole=size <= _WHOLE_CHECK_BYTES)
            if connection.execute("PRAGMA user_version").fetchone()[0]:
                _check_head(connection, keys)
    except (IntegrityError, UnicodeDecodeError):  # names in the schema may be bytes now
        return Damage.UNREADABLE
    except sqlite3.Error as error:
        if isinstance(mapped := storage_error(error), IntegrityError) or _is_schema(error):
            return Damage.REFUSED
        raise mapped from None
    return None


class _Sealing:
    """Writes the one commit that says what was lost."""

    def __init__(self, keys: OpenKeyring, clock: Clock, randomness: Randomness) -> None:
        self.keys = keys
        self._clock = clock
        self._randomness = randomness

    def write(
        self, connection: sqlite3.Connection, state: JournalState, losses: Losses, name: str, known: int, more: Sequence[AuditRecord] = ()
    ) -> Losses:
        """Commit ``state`` under a fresh incarnation, numbered above ``known`` and everything that lies there.

        The record says what was lost, the numbers skipped here included. ``name``: of the file put aside, empty = none.
        """
        cipher = RecordCipher(self.keys, self._randomness, fastest_suite(self._clock))
        newest_block = connection.execute("SELECT coalesce(max(id), 0) FROM block").fetchone()[0]
        number, at_us = max(state.commit, known, commit_of(newest_block)) + 1, self._clock.wall_us()
        if number > state.commit + 1:
            missing = (*losses.missing, (state.commit + 1, number - 1))
            losses = replace(losses, missing=missing, commits=total(missing))
        record = AuditRecord(AuditKind.SALVAGE if name else AuditKind.ROLLBACK, detail={"file": name} | losses.facts())
        uuid = self._randomness.bytes(_INCARNATION_BYTES)
        plaintext = encode_meta(state.chain, (), [record, *more], encode_state(state), ())
        sealed = cipher.seal(TABLE_META, number, 0, 0, 0, uuid, plaintext)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO incarnation (uuid, first_commit, started_us) VALUES (?, ?, ?)", (uuid, number, at_us))
        connection.execute("INSERT INTO commit_meta (id, at_us, sealed) VALUES (?, ?, ?)", (number, at_us, sealed))
        connection.execute("COMMIT")
        return losses


def _look_behind(state_dir: Path, last: LastStatus | None, routing: tuple[RouteRule, ...], sealing: _Sealing) -> SalvageReport | None:
    """On a sound file (or none): does the witness know more than it holds?"""
    if last is None:
        return None
    state = _state_of(state_dir, sealing.keys)
    if state.commit >= last.witness.commit and state.next_seq >= last.witness.next_seq:
        return None
    losses = Losses(unnamed=max(0, last.witness.next_seq - state.next_seq))
    if not state.commit:
        state.configure(routing)
    losses = replace(losses, gaps=believe_witness(state, last))
    with contextlib.closing(_open_new(state_dir / JOURNAL_NAME)) as connection:
        losses = sealing.write(connection, state, losses, "", last.witness.commit)
    return SalvageReport(None, losses=losses)


def _state_of(state_dir: Path, keys: OpenKeyring) -> JournalState:
    """The state of a sound file; a first state where there is none."""
    path = state_dir / JOURNAL_NAME
    if not _size(path):
        return JournalState()
    with contextlib.closing(_connect_read_only(path)) as connection:
        written = connection.execute("PRAGMA user_version").fetchone()[0]
        return (newest_state(connection, opening_cipher(keys), keys) if written else None) or JournalState()


def _salvage(state_dir: Path, damage: Damage, routing: tuple[RouteRule, ...], last: LastStatus | None, sealing: _Sealing) -> SalvageReport:
    """Steps 1 to 4."""
    name = _free_name(state_dir)
    building = state_dir / _BUILDING
    _remove(building)
    try:
        with contextlib.closing(_open_new(building)) as connection, PageFile.open(state_dir / JOURNAL_NAME) as file:
            carried, below = _carry_over(file, connection, sealing.keys, lean=not _has_room(state_dir))
            state, losses = bring_into_line(connection, sealing.keys, routing, last, below)
            known = last.witness.commit if last is not None else 0
            left = [AuditRecord(AuditKind.RETIRE, detail={"below": below})] if below else []
            losses = sealing.write(connection, state, losses, name, known, left)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            unreadable = file.unreadable
    except (sqlite3.Error, GatewayError, OSError):
        _remove(building)
        raise
    _fsync(building)
    building.rename(state_dir / BUILT_NAME)
    _finish(state_dir)
    return SalvageReport(damage, name, carried, unreadable, losses)


def _carry_over(file: PageFile, connection: sqlite3.Connection, keys: OpenKeyring, *, lean: bool) -> tuple[dict[str, int], int]:
    """Every row that is found, into the new file; the rows by table, and the commit below which blocks were left behind.

    ``lean``: of the blocks only those from the first one on that a route still needs.
    """
    carried = dict.fromkeys(_CARRY, 0)
    pending = 0
    below: int | None = None if lean else 0
    connection.execute("BEGIN")
    for name, row in _found_rows(file):
        if name == "block":
            if below is None:
                below = _first_needed(connection, keys)
            if commit_of(row.rowid) < below:
                continue
        rowid = None if name == "incarnation" else row.rowid  # both tables' rows: which of two is true is found out later
        carried[name] += connection.execute(_CARRY[name], (rowid, *row.values[1:])).rowcount
        pending += _ROW_BYTES + sum(len(value) for value in row.values if isinstance(value, bytes))
        if pending > _PORTION_BYTES:
            connection.execute("COMMIT")
            connection.execute("BEGIN")
            pending = 0
    connection.execute("COMMIT")
    return carried, below or 0


def _first_needed(connection: sqlite3.Connection, keys: OpenKeyring) -> int:
    """The first commit of which a route still needs a block; 0 where that is not known."""
    try:
        state = newest_state(connection, opening_cipher(keys), keys)
    except IntegrityError:
        state = None
    pinned = connection.execute("SELECT min(block_commit) FROM exception WHERE state = 3 AND sealed IS NULL").fetchone()[0]
    cursors = [] if state is None else [ledger.cursor.commit for ledger in state.routes.values() if ledger.pins]
    return min([*cursors, *([] if pinned is None else [pinned])], default=0)


def _found_rows(file: PageFile) -> Iterator[tuple[str, Row]]:
    """(table, row): rows that a table reaches first, so that they win over what only lies about.

    The table is told by the row itself, whatever tree it hung in. Small tables come first: the blocks are judged by them.
    """
    roots = file.tables()
    rank = {name: at for at, name in enumerate(("incarnation", "incarnation_twin", *_CARRY))}
    for name in sorted(roots, key=lambda name: rank.get(name, len(rank))):
        for row in file.table(roots[name]):
            if table := _table_of(row):
                yield table, row
    file.skip_free_pages()
    for row in file.orphans():
        if table := _table_of(row):
            yield table, row


def _table_of(row: Row) -> str | None:
    """Which table's row this is: by the table number in its sealed head, else by its shape."""
    sealed = row.values[-1] if row.values else None
    if isinstance(sealed, bytes) and (name := _SEALED_TABLES.get((_sealed_table(sealed), len(row.values)))):
        return name
    match row.values:
        case (None, bytes(uuid), int(), int()) if len(uuid) == _INCARNATION_BYTES:
            return "incarnation"
        case (None, int(), int(), int(), int(), bytes(), int(), int(), bytes() | None):
            return "block"
        case (None, int(), int(), int(), int(), int(), int(), int(), bytes() | None):
            return "exception"
        case (None, int(), str(), bytes() | None):
            return "quarantine"
    return None


def _sealed_table(sealed: bytes) -> int:
    try:
        return read_head(sealed).table
    except IntegrityError:
        return 0


def _finish(state_dir: Path) -> None:
    """Steps 3 and 4, also of a salvage that a crash interrupted."""
    built, live = state_dir / BUILT_NAME, state_dir / JOURNAL_NAME
    if not built.exists():
        return
    aside = state_dir / _free_name(state_dir)
    if not live.exists():
        aside.touch(mode=0o600)  # so that a log without its database has a name of its own
    for end in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            state_dir.joinpath(live.name + end).rename(state_dir / (aside.name + end))
    built.rename(live)
    _fsync(state_dir)


def _free_name(state_dir: Path) -> str:
    number = 1
    while (state_dir / f"{JOURNAL_NAME}.quarantine-{number}").exists():
        number += 1
    return f"{JOURNAL_NAME}.quarantine-{number}"


def _has_room(state_dir: Path) -> bool:
    """Whether the whole file fits beside itself."""
    system = os.statvfs(state_dir)
    needed = sum(_size(state_dir / f"{JOURNAL_NAME}{end}") for end in ("", "-wal"))
    return system.f_bavail * system.f_frsize > needed + needed // 8 + _PORTION_BYTES


def _open_new(path: Path) -> sqlite3.Connection:
    connection = connect_writer(path, _CHECKPOINT_PAGES, _NO_PAGE_LIMIT)
    try:
        migrate(connection)
    except GatewayError:
        connection.close()
        raise
    return connection


def _connect_read_only(path: Path) -> sqlite3.Connection:
    """Reads the log too; being read-only, it neither checkpoints nor removes it when it closes. Without a log, no file is made."""
    way = "mode=ro" if _size(path.with_name(f"{path.name}-wal")) else "immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?{way}", uri=True, isolation_level=None)


def _touch(connection: sqlite3.Connection, *, whole: bool) -> None:
    """Read what a start needs; raises where it cannot be read or is not what this program made."""
    written = connection.execute("PRAGMA user_version").fetchone()[0]
    if not written and connection.execute("PRAGMA page_count").fetchone()[0] <= 1:
        return  # a first start that came no further
    if written <= SCHEMA_VERSION and connection.execute(_SCHEMA).fetchall() != _schema_of(written):
        raise IntegrityError("journal-damaged", "the database has another schema than this program makes")
    if connection.execute(_TWINS_DIFFER).fetchone()[0]:
        raise IntegrityError("journal-damaged", "the starts are not those of their twin table")
    for name in _CARRY:
        connection.execute(f"SELECT min(id), max(id) FROM {name}").fetchone()  # noqa: S608 - one of our own table names
    if whole and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise IntegrityError("journal-damaged", "the database is not consistent")


def _schema_of(version: int) -> list[tuple[str, ...]]:
    """What a sound file of that schema version answers to ``_SCHEMA``."""
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        for number, script in schema_scripts().items():
            if number <= version:
                model.executescript(script)
        return model.execute(_SCHEMA).fetchall()


def _is_schema(error: sqlite3.Error) -> bool:
    """Our statements are right: where SQLite finds an error in them, the schema that it read is not ours any more."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF == sqlite3.SQLITE_ERROR


def _check_head(connection: sqlite3.Connection, keys: OpenKeyring) -> None:
    """The newest commit row opens, and nothing is newer than it."""
    state = newest_state(connection, opening_cipher(keys), keys)
    newest = connection.execute("SELECT coalesce(max(id), 0) FROM block").fetchone()[0]
    if commit_of(newest) > (0 if state is None else state.commit):
        raise IntegrityError("journal-damaged", "a block is newer than the newest commit row")


def _salvage_error(error: sqlite3.Error) -> GatewayError:
    mapped = storage_error(error)
    if isinstance(mapped, CapacityError):
        return CapacityError("salvage-space", "the journal is damaged and there is no room to carry it over: free space on its file system")
    return mapped


def _remove(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError:
        raise StorageError("journal-unreadable", "the journal's files cannot be examined: check owner and mode") from None


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
