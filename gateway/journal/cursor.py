"""Settling: what one answer of a destination changes, in one transaction, exactly once.

Settling the same thing twice changes nothing (a commit whose outcome was unknown is simply done again): what lies at or below
the cursor, in ``beyond``, or in a closed exception is settled already and is not counted again. A cursor that passes more or
fewer messages than were settled is refused: a defect of a route must stop the route, not lose a message silently.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.journal.audit import AuditKind, AuditRecord, runs
from gateway.journal.exceptions import add_dead_letter, close_requeued
from gateway.model.errors import LocalProtocolError
from gateway.model.state import Term

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.journal.ledger import Beyond, DeclaredGap, RouteLedger
    from gateway.journal.transaction import Transaction
    from gateway.model.cursor import Cursor, DeadLetter, Settlement
    from gateway.model.message import Delivery

__all__ = ["SettleFacts", "settle"]

#: seq -> (class code, laneseq) of deliveries that were read by the cursor.
Settled = dict[int, tuple[int, int]]
#: (seq, revision) of replayed ones.
Requeued = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class SettleFacts:
    """A settlement without the contents: it may have to wait for a disk that has gone read-only."""

    route: str
    cursor: Cursor
    delivered: Settled
    filtered: Settled
    requeued_delivered: Requeued
    requeued_filtered: Requeued
    dead: tuple[DeadLetter, ...]
    duplicates: int
    proof: str

    @classmethod
    def of(cls, settlement: Settlement) -> SettleFacts:
        """The facts of a settlement."""
        return cls(
            settlement.route,
            settlement.cursor,
            _fresh(settlement.delivered),
            _fresh(settlement.filtered),
            _requeued(settlement.delivered),
            _requeued(settlement.filtered),
            settlement.dead,
            settlement.duplicates,
            settlement.proof,
        )


def _fresh(deliveries: Iterable[Delivery]) -> Settled:
    return {d.message.seq: (d.message.traffic.code, d.laneseq) for d in deliveries if not d.requeued}


def _requeued(deliveries: Iterable[Delivery]) -> Requeued:
    return [(d.message.seq, d.revision) for d in deliveries if d.requeued]


def settle(tx: Transaction, facts: SettleFacts) -> None:
    """Apply a settlement.

    Raises:
        LocalProtocolError: ``route-unknown``, ``cursor-miscounts``; nothing is changed then.
    """
    ledger = tx.route(facts.route)
    delivered = _unsettled(facts.delivered, ledger)
    filtered = _unsettled(facts.filtered, ledger)
    dead = [d for d in facts.dead if d.delivery.requeued or not _is_settled(d.delivery.message.seq, ledger)]
    dead_now = _fresh(d.delivery for d in dead)
    settled = {**delivered, **filtered, **dead_now}
    moved = _move(ledger, facts.cursor, settled)
    tx.state.routes[facts.route] = moved
    count(tx, facts.route, delivered=len(delivered), filtered=len(filtered))
    for letter in dead:
        add_dead_letter(tx, facts.route, letter)
    _audit(tx, facts, delivered, filtered)
    close_requeued(tx, facts.route, facts.requeued_delivered, Term.DELIVERED, facts.proof)
    close_requeued(tx, facts.route, facts.requeued_filtered, Term.FILTERED, facts.proof)


def count(tx: Transaction, route: str, *, delivered: int = 0, filtered: int = 0) -> None:
    """Add to the books."""
    books = tx.state.routes[route].books
    if delivered or filtered:
        tx.change(route, books=replace(books, delivered=books.delivered + delivered, filtered=books.filtered + filtered))


def _is_settled(seq: int, ledger: RouteLedger) -> bool:
    return seq <= ledger.cursor.seq or seq in ledger.beyond


def _unsettled(settled: Settled, ledger: RouteLedger) -> Settled:
    low, beyond = ledger.cursor.seq, ledger.beyond
    if settled and (beyond or min(settled) <= low):
        return {seq: lane for seq, lane in settled.items() if seq > low and seq not in beyond}
    return settled


def _move(ledger: RouteLedger, cursor: Cursor, settled: Settled) -> RouteLedger:
    """The ledger with the cursor moved and what is settled beyond it."""
    old = ledger.cursor
    if cursor.seq <= old.seq:
        cursor = old
    else:
        _check_count(ledger, cursor, settled)
    beyond: Beyond = {seq: lane for seq, lane in (ledger.beyond | settled).items() if seq > cursor.seq}
    gaps = {row: gap for row, gap in ledger.gaps.items() if gap.last_seq > cursor.seq} if ledger.gaps else ledger.gaps
    return replace(ledger, cursor=replace(cursor, beyond=tuple(sorted(beyond))), beyond=beyond, gaps=gaps)


def _check_count(ledger: RouteLedger, cursor: Cursor, settled: Settled) -> None:
    """Between the old cursor and the new one lie exactly as many of the route's messages as are settled there."""
    old = ledger.cursor
    if any(_straddles(gap, old.seq) or _straddles(gap, cursor.seq) for gap in ledger.gaps.values()):
        return  # inside an unreadable block only its total is known; the next move past it is checked
    passed = sum(cursor.laneseq.values()) - sum(old.laneseq.values())
    known = sum(1 for seq in settled if seq <= cursor.seq) + sum(1 for seq in ledger.beyond if seq <= cursor.seq)
    declared = sum(gap.count for gap in ledger.gaps.values() if old.seq < gap.first_seq and gap.last_seq <= cursor.seq)
    if passed != known + declared:
        raise LocalProtocolError("cursor-miscounts", "a route's cursor passes other messages than were settled: nothing was moved")


def _straddles(gap: DeclaredGap, seq: int) -> bool:
    return gap.first_seq <= seq < gap.last_seq


def _audit(tx: Transaction, facts: SettleFacts, delivered: Settled, filtered: Settled) -> None:
    detail: dict[str, str | int] = {"proof": facts.proof} if facts.proof else {}
    if delivered:
        told = {**detail, "duplicates": facts.duplicates} if facts.duplicates else detail
        tx.audit.append(AuditRecord(AuditKind.DELIVER, runs(sorted(delivered)), facts.route, detail=told))
    if filtered:
        tx.audit.append(AuditRecord(AuditKind.FILTER, runs(sorted(filtered)), facts.route))
