"""Commit rows as a reader meets them: opened one by one, in order, without holding a read transaction open."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.codec.sealed_record import Suite
from gateway.journal.audit import chain_next
from gateway.journal.cipher import RecordCipher
from gateway.journal.ledger import decode_state
from gateway.journal.records import TABLE_META, decode_meta
from gateway.model.errors import IntegrityError, LocalProtocolError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator

    from gateway.journal.keyring import OpenKeyring
    from gateway.journal.ledger import JournalState
    from gateway.journal.records import MetaRow

__all__ = ["CommitRow", "Incarnations", "commit_rows", "newest_state", "opened_state", "opening_cipher", "read_incarnations"]

_INCARNATION_BYTES: Final = 16
#: Rows of about a kilobyte: a portion is read in milliseconds, so a checkpoint never waits for a reader.
_PORTION: Final = 256
#: Below every row id, also below those that only somebody else can have written.
_BEFORE_ALL: Final = -(2**63)
_ROWS: Final = "SELECT id, at_us, sealed FROM commit_meta WHERE id > ? ORDER BY id LIMIT ?"
_NEWEST: Final = "SELECT id, at_us, sealed FROM commit_meta ORDER BY id DESC LIMIT 1"


class Incarnations:
    """Which start of the daemon a commit belongs to; rows are sealed under its id."""

    def __init__(self, starts: Iterable[tuple[int, bytes]]) -> None:
        self._starts = sorted(starts)

    def of(self, commit: int) -> bytes:
        """The 16 bytes under which a commit was sealed.

        Raises:
            IntegrityError: ``incarnation-unknown``: it is older than every recorded start.
        """
        at = bisect_right(self._starts, commit, key=lambda start: start[0])
        if at == 0:
            raise IntegrityError("incarnation-unknown", "a commit is older than every recorded start")
        return self._starts[at - 1][1]

    def begins(self, commit: int, incarnation: bytes) -> bool:
        """Whether a start with this commit and this id is recorded."""
        return (commit, incarnation) in self._starts

    def newest_commit(self) -> int:
        """The first commit of the last start; 0 where none is recorded."""
        return self._starts[-1][0] if self._starts else 0

    def newest(self) -> bytes:
        """The last start's; empty where none is recorded."""
        return self._starts[-1][1] if self._starts else b""


@dataclass(frozen=True, slots=True)
class CommitRow:
    """A commit row; ``meta`` is None where it does not open. ``link`` is ``chain_next`` over the link that the row names."""

    number: int
    at_us: int
    meta: MetaRow | None
    link: bytes


class _NoRandomness:
    """What a reading cipher has: it must never seal."""

    def bytes(self, n: int) -> bytes:
        raise LocalProtocolError("reading-only", f"{n} random bytes asked for where nothing may be sealed")

    def uniform(self) -> float:
        raise LocalProtocolError("reading-only", "randomness asked for where nothing may be sealed")


def opening_cipher(keys: OpenKeyring) -> RecordCipher:
    """A cipher that opens records of both suites and cannot seal."""
    return RecordCipher(keys, _NoRandomness(), Suite.AES_256_GCM)


def read_incarnations(connection: sqlite3.Connection) -> Incarnations:
    """Every recorded start of the file; what is none is left out (its commits do not open then)."""
    rows = connection.execute("SELECT first_commit, uuid FROM incarnation").fetchall()
    return Incarnations(
        (commit, uuid) for commit, uuid in rows if isinstance(commit, int) and isinstance(uuid, bytes) and len(uuid) == _INCARNATION_BYTES
    )


def commit_rows(
    connection: sqlite3.Connection, cipher: RecordCipher, incarnations: Incarnations, keys: OpenKeyring, after: int = _BEFORE_ALL
) -> Iterator[CommitRow]:
    """The rows with a number above ``after``, ascending, read in portions."""
    while rows := connection.execute(_ROWS, (after, _PORTION)).fetchall():
        for number, at_us, sealed in rows:
            yield _opened(number, at_us, sealed, cipher, incarnations, keys)
        after = rows[-1][0]


def newest_state(connection: sqlite3.Connection, cipher: RecordCipher, keys: OpenKeyring) -> JournalState | None:
    """The state of the journal: what its newest commit row says. None where there is none yet.

    Raises:
        IntegrityError: the newest row does not open.
    """
    row = connection.execute(_NEWEST).fetchone()
    return None if row is None else opened_state(_opened(row[0], row[1], row[2], cipher, read_incarnations(connection), keys))


def opened_state(row: CommitRow) -> JournalState:
    """The state that a row carries.

    Raises:
        IntegrityError: it does not open, or holds no state.
    """
    if row.meta is None:
        raise IntegrityError("meta-unreadable", "a commit row does not open")
    return decode_state(row.meta.state, row.number, row.link)


def _opened(number: int, at_us: int, sealed: bytes, cipher: RecordCipher, incarnations: Incarnations, keys: OpenKeyring) -> CommitRow:
    try:
        meta = decode_meta(cipher.open(TABLE_META, number, 0, 0, 0, incarnations.of(number), sealed))
        return CommitRow(number, at_us, meta, chain_next(keys.chain_key, meta.prev, number, at_us, sealed))
    except (IntegrityError, OverflowError, TypeError, AttributeError):
        return CommitRow(number, at_us, None, b"")  # SQLite keeps any value in any column: a negative number, a text as time
