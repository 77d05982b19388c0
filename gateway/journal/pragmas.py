"""Opening SQLite so that it does what we say: every pragma is set and read back (a misspelt value silently means NORMAL)."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from gateway.model.errors import CapacityError, GatewayError, IntegrityError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PAGE_BYTES", "connect_reader", "connect_writer", "set_and_read_back", "storage_error"]

PAGE_BYTES: Final = 4096
#: SQLite's own busy wait; the only other connection is our reader, which never holds a statement open across calls.
_BUSY_S: Final = 2.0

_ALWAYS: Final[dict[str, int | str]] = {
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: the commit returns after the fsync of the log
    "temp_store": 2,  # memory: Debian's default spills sorts, in clear, to files
    "mmap_size": 0,  # a mapped file turns an I/O error into a signal
    "secure_delete": 0,  # costs six times the bytes of a purge and does not shred on flash anyway
    "trusted_schema": 0,
    "cell_size_check": 1,
}

_READ_ONLY_CODES: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})
_DAMAGED_CODES: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def storage_error(error: sqlite3.Error) -> GatewayError:
    """Our error for SQLite's; its text is dropped (it may quote data), its primary code decides."""
    primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return CapacityError("journal-full", "the file system or the quota is full: free space or raise the quota")
    if primary in _READ_ONLY_CODES:
        return StorageError("journal-read-only", "the journal cannot be written: check the mount, owner and mode of the state directory")
    if primary in _DAMAGED_CODES:
        return IntegrityError(
            "journal-damaged", "the database file is damaged: the next start puts it aside and carries over what is readable"
        )
    return StorageError("journal-io-error", "the disk refused: check it, the kernel log says more")


def set_and_read_back(connection: sqlite3.Connection, wanted: dict[str, int | str]) -> None:
    """Set each pragma, read it back.

    Raises:
        StorageError: ``journal-pragma``: one of them did not take.
    """
    for name, value in wanted.items():
        connection.execute(f"PRAGMA {name}={value}")
        got = connection.execute(f"PRAGMA {name}").fetchone()
        if got is None or got[0] != value:
            raise StorageError("journal-pragma", f"SQLite does not take {name}={value}")


def connect_writer(path: Path, checkpoint_pages: int, max_pages: int) -> sqlite3.Connection:
    """The one writing connection. ``checkpoint_pages``: log length at which the writer checkpoints; the log file is cut to it.

    Raises:
        GatewayError: as ``storage_error`` maps it.
    """
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64)
    except sqlite3.Error as error:
        raise storage_error(error) from None
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")  # takes effect on a new file only
        set_and_read_back(
            connection,
            {
                **_ALWAYS,
                "wal_autocheckpoint": checkpoint_pages,
                "journal_size_limit": checkpoint_pages * PAGE_BYTES,
                "max_page_count": max(max_pages, 1 + connection.execute("PRAGMA page_count").fetchone()[0]),
            },
        )
    except sqlite3.Error as error:
        connection.close()
        raise storage_error(error) from None
    except GatewayError:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write.

    Raises:
        GatewayError: as ``storage_error`` maps it.
    """
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=64)
        set_and_read_back(connection, {"query_only": 1, "temp_store": 2, "mmap_size": 0, "trusted_schema": 0, "cell_size_check": 1})
    except sqlite3.Error as error:
        raise storage_error(error) from None
    return connection
