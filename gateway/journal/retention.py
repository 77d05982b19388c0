"""What may go, and when: settled blocks, then the commit rows behind them. Nothing that a route has not settled ever goes.

A block goes when every route has passed it and no replay pins it, and its retain time is over or the quota is 3/4 used (oldest
first). A commit row goes when its blocks are gone, its duplicate keys are out of the window and its retain time is over; on
a small file system pressure may shorten the window on disk (never the audit of blocks that still lie here). The retain time
counts only while the wall clock can be trusted: a wrong clock must not expire anything.

Deletes ride in commits that happen anyway (a transaction of their own doubles the fsyncs), at most a portion at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind, AuditRecord
from gateway.journal.exceptions import DONE_STATES
from gateway.journal.records import TABLE_META, block_id, commit_of, decode_meta
from gateway.model.clock import ClockState
from gateway.model.errors import IntegrityError

if TYPE_CHECKING:
    import sqlite3

    from gateway.journal.transaction import Transaction

__all__ = ["Oldest", "RetainRule", "find_oldest", "is_due", "retire"]

#: At 64 messages a commit one portion frees what 64 commits brought.
_PORTION_BLOCKS: Final = 64
_PORTION_ROWS: Final = 128
#: Under pressure the newest commit rows stay all the same: a resend comes within seconds.
_KEPT_ROWS: Final = 64
_TRUSTED: Final = frozenset({ClockState.SYNCED, ClockState.HOLDOVER})

_OLD_BLOCKS = "SELECT id, last_seq, at_us FROM block ORDER BY id LIMIT ?"
_REST = "SELECT id, last_seq, at_us FROM block WHERE id > ? AND id < ? ORDER BY id"
_OLD_ROWS = "SELECT id, at_us FROM commit_meta WHERE id < ? ORDER BY id LIMIT ?"
_PINNED = "SELECT min(block_commit) FROM exception WHERE state = 3 AND sealed IS NULL"
_FORGET = "DELETE FROM exception WHERE state = ? AND route = ? AND block_commit < ?"


@dataclass(frozen=True, slots=True)
class RetainRule:
    """What the decision depends on, beside the transaction.

    ``retain_us``: how long settled blocks stay. ``pressed``: the quota is 3/4 used. ``window``: first commit whose
    duplicate keys are still needed.
    """

    retain_us: int
    pressed: bool
    window: int

    def over(self, at_us: int, tx: Transaction) -> bool:
        """Whether something of ``at_us`` may go now."""
        return self.pressed or self.expired(at_us, tx.at_us, tx.clock_state)

    def expired(self, at_us: int, now_us: int, clock: ClockState) -> bool:
        """Whether its retain time is over."""
        return clock in _TRUSTED and now_us - at_us > self.retain_us


@dataclass(frozen=True, slots=True)
class Oldest:
    """The oldest block and commit row, remembered so that a commit needs no query to see that nothing is due."""

    block: tuple[int, int, int] | None = None  #: id, last seq, time
    row: tuple[int, int] | None = None  #: id, time


def find_oldest(connection: sqlite3.Connection) -> Oldest:
    """Look it up."""
    block = connection.execute(_OLD_BLOCKS, (1,)).fetchone()
    row = connection.execute("SELECT id, at_us FROM commit_meta ORDER BY id LIMIT 1").fetchone()
    return Oldest(block, row)


def is_due(oldest: Oldest, tx: Transaction, rule: RetainRule) -> bool:
    """Whether ``retire`` would find something (a pinned block can make it find nothing)."""
    block, row = oldest.block, oldest.row
    if block is not None and block[1] < tx.state.retired_below() and rule.over(block[2], tx):
        return True
    return row is not None and row[0] < _rows_end(tx, oldest, rule) and rule.over(row[1], tx)


def _rows_end(tx: Transaction, oldest: Oldest, rule: RetainRule) -> int:
    """Commit rows before this one are needed neither for blocks nor for duplicates; the newest one always is."""
    block_commit = tx.number if oldest.block is None else commit_of(oldest.block[0])
    window = max(min(rule.window, tx.number), tx.number - _KEPT_ROWS) if rule.pressed else rule.window
    return min(block_commit, window, tx.number - 1)


def retire(tx: Transaction, oldest: Oldest, rule: RetainRule) -> Oldest | None:
    """Delete what is due, a portion of it; the new oldest, or None where nothing was deleted."""
    if not is_due(oldest, tx, rule):
        return None
    gone = _retire_blocks(tx, rule)
    if gone:
        _forget_done(tx)
        oldest = find_oldest(tx.connection)
    rows = _retire_rows(tx, oldest, rule)
    if not gone and not rows:
        return None
    # "below": no block of an earlier commit is left; with it the audit tells a retired block from a stolen one.
    tx.audit.append(AuditRecord(AuditKind.RETIRE, detail={"blocks": gone, "rows": rows, "below": tx.oldest_commit()}))
    return find_oldest(tx.connection)


def _retire_blocks(tx: Transaction, rule: RetainRule) -> int:
    """Whole commits only: a commit of which a part is missing means damage to every reader."""
    below = tx.state.retired_below()
    pinned = tx.connection.execute(_PINNED).fetchone()[0] if any(r.requeued for r in tx.state.routes.values()) else None
    end = 0
    rows = tx.connection.execute(_OLD_BLOCKS, (_PORTION_BLOCKS,)).fetchall()
    for commit, group in groupby(rows, key=lambda row: commit_of(row[0])):
        blocks = list(group)
        if blocks[-1] is rows[-1]:  # the portion may have cut this commit
            blocks += tx.connection.execute(_REST, (blocks[-1][0], block_id(commit + 1))).fetchall()
        if commit == pinned or any(last >= below or not rule.over(at_us, tx) for _, last, at_us in blocks):
            break
        end = commit + 1
    if not end:
        return 0
    gone = tx.connection.execute("DELETE FROM block WHERE id < ?", (block_id(end),)).rowcount
    tx.state.blocks -= gone
    tx.state.forget_versions(_first_seq(tx))
    return gone


def _first_seq(tx: Transaction) -> int:
    row = tx.connection.execute("SELECT first_seq FROM block ORDER BY id LIMIT 1").fetchone()
    first = tx.state.next_seq if row is None else row[0]
    return min([int(first), *(ledger.cursor.seq + 1 for ledger in tx.state.routes.values())])


def _forget_done(tx: Transaction) -> None:
    """Rows that only kept a revision go with their block."""
    commit = tx.oldest_commit()
    for name, ledger in list(tx.state.routes.items()):
        if ledger.done:
            gone = sum(tx.connection.execute(_FORGET, (state, ledger.number, commit)).rowcount for state in DONE_STATES)
            tx.state.routes[name] = replace(ledger, done=ledger.done - gone)


def _retire_rows(tx: Transaction, oldest: Oldest, rule: RetainRule) -> int:
    end = 0
    for row, at_us in tx.connection.execute(_OLD_ROWS, (_rows_end(tx, oldest, rule), _PORTION_ROWS)).fetchall():
        if not rule.over(at_us, tx):
            break
        end = row + 1
    if not end:
        return 0
    kept, sealed = tx.connection.execute("SELECT id, sealed FROM commit_meta WHERE id >= ? ORDER BY id LIMIT 1", (end,)).fetchone()
    try:
        link = decode_meta(tx.cipher.open(TABLE_META, kept, 0, 0, 0, tx.incarnation_of(kept), sealed)).prev
    except IntegrityError:
        return 0  # without its link the audit would have no beginning: keep everything, `audit verify` tells the damage
    gone = tx.connection.execute("DELETE FROM commit_meta WHERE id < ?", (end,)).rowcount
    tx.state.anchor = (kept, link)
    return gone
