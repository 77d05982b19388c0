"""Blocks that cannot be read: put aside as they are, and declared as gaps of the routes that had not settled them."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind, AuditRecord
from gateway.journal.gap import declare
from gateway.journal.ledger import DeclaredGap
from gateway.journal.pragmas import storage_error
from gateway.journal.records import encode_census
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.journal.reader import BlockHead, Damage
    from gateway.journal.transaction import Transaction

__all__ = ["declare_damage"]

_PUT_ASIDE: Final = "INSERT OR IGNORE INTO quarantine (id, at_us, reason, sealed) SELECT id, ?, ?, sealed FROM block WHERE id = ?"
_EMPTY: Final = "UPDATE block SET sealed = NULL WHERE id = ? AND sealed IS NOT NULL"
_NOTE_GONE: Final = "INSERT OR IGNORE INTO quarantine (id, at_us, reason, sealed) VALUES (?, ?, ?, NULL)"
_PLACEHOLDER: Final = (
    "INSERT OR IGNORE INTO block (id, class, first_seq, last_seq, n, census, at_us, size, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, 0, NULL)"
)


def declare_damage(tx: Transaction, route: str, damages: Iterable[Damage]) -> int:
    """From queued to gap, each message of the route in these blocks that it has not settled; how many.

    The row stays in its place without content: it keeps its lane numbers counted for every reader, and other routes declare
    their own gaps when they come to it.
    """
    lost = 0
    for damage in damages:
        head, ledger = damage.head, tx.route(route)
        if head.id in ledger.gaps or head.last_seq <= ledger.cursor.seq:
            continue
        _put_aside(tx, head, damage.reason)
        gap = DeclaredGap(head.first_seq, head.last_seq, len(damage.lanes))
        books = replace(ledger.books, gaps=ledger.books.gaps + gap.count)
        tx.change(route, books=books, gaps={**ledger.gaps, head.id: gap})
        detail: dict[str, str | int] = {"reason": damage.reason, "count": gap.count, "block": head.id}
        tx.audit.append(AuditRecord(AuditKind.GAP, ((head.first_seq, head.last_seq),), route, detail=detail))
        declare(tx, route, TrafficClass.from_code(head.traffic), damage.lanes, "quarantined")
        lost += gap.count
    return lost


def _put_aside(tx: Transaction, head: BlockHead, reason: str) -> None:
    """Move the sealed bytes as they are; a row that is gone gets an empty one in its place."""
    connection = tx.connection
    if connection.execute("SELECT 1 FROM quarantine WHERE id = ?", (head.id,)).fetchone():
        return
    try:
        moved = connection.execute(_PUT_ASIDE, (tx.at_us, reason, head.id)).rowcount
        connection.execute(_EMPTY, (head.id,))
    except sqlite3.DatabaseError as error:
        if storage_error(error).code != "journal-damaged":
            raise
        moved = 1  # its pages cannot be read: it stays where it is, the declared gap stands in the ledger
        connection.execute(_NOTE_GONE, (head.id, tx.at_us, reason))
    if not moved:
        values = (head.id, head.traffic, head.first_seq, head.last_seq, head.count, encode_census(head.census), tx.at_us)
        tx.state.blocks += connection.execute(_PLACEHOLDER, values).rowcount
        connection.execute(_NOTE_GONE, (head.id, tx.at_us, reason))
    detail: dict[str, str | int] = {"block": head.id, "reason": reason, "messages": head.count}
    tx.audit.append(AuditRecord(AuditKind.QUARANTINE, ((head.first_seq, head.last_seq),), detail=detail))
