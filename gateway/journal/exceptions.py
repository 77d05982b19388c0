"""Messages that a route has something to remember about: dead letters, replays, and the revision of what was replayed.

A row holds the term that the message is in. A dead letter's content is copied into its row, sealed, so that its block can go;
a message replayed out of the range of kept blocks stays in its block and pins it. The transitions are those of
``model.state.TRANSITIONS``; each function here is one of them and says so in the audit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind, AuditRecord, runs
from gateway.journal.gap import declare
from gateway.journal.records import NO_INCARNATION, TABLE_EXCEPTION, BlockColumns, decode_block, decode_headed, encode_block, encode_headed
from gateway.model.errors import IntegrityError
from gateway.model.state import Term
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.journal.cipher import RecordCipher
    from gateway.journal.transaction import Transaction
    from gateway.model.cursor import DeadLetter
    from gateway.model.message import StoredMessage

__all__ = [
    "DONE_STATES",
    "STATE_OF",
    "TERM_OF",
    "Candidate",
    "DeadLetterContent",
    "add_dead_letter",
    "close_requeued",
    "discard",
    "exception_id",
    "forget_routes",
    "open_content",
    "replay",
    "replay_messages",
    "seq_of",
]

_ROUTE_BITS: Final = 16
#: Persisted: never renumber.
STATE_OF: Final = {Term.HELD: 1, Term.DEAD_LETTER: 2, Term.QUEUED: 3, Term.DELIVERED: 4, Term.FILTERED: 5, Term.GAP: 6}
TERM_OF: Final = {state: term for term, state in STATE_OF.items()}
#: Rows that only keep a revision, until their block goes.
DONE_STATES: Final = (STATE_OF[Term.DELIVERED], STATE_OF[Term.FILTERED], STATE_OF[Term.GAP])

_DEAD: Final = STATE_OF[Term.DEAD_LETTER]
_QUEUED: Final = STATE_OF[Term.QUEUED]

_INSERT = (
    "INSERT OR REPLACE INTO exception (id, route, state, class, laneseq, revision, block_commit, at_us, sealed) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_BURY_AGAIN = "UPDATE exception SET state = 2, at_us = ?, sealed = ? WHERE id = ? AND state = 3 AND revision = ?"
_CLOSE = "UPDATE exception SET state = ?, at_us = ?, sealed = NULL WHERE id = ? AND state = ?"
_CLOSE_REVISION = _CLOSE + " AND revision = ?"
_REQUEUE = "UPDATE exception SET state = 3, revision = revision + 1, at_us = ? WHERE id = ? AND state = ?"


@dataclass(frozen=True, slots=True)
class DeadLetterContent:
    """A dead letter, opened. ``reason``: text of the destination; show it only to a person who asked."""

    message: StoredMessage
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A message that a range replay could take up: its place, and the term that the route's records give it."""

    seq: int
    traffic: TrafficClass
    laneseq: int
    commit: int
    term: Term


def exception_id(seq: int, route_number: int) -> int:
    """The row id of a message's row for a route."""
    return seq << _ROUTE_BITS | route_number


def seq_of(row: int) -> int:
    """The seq of a row id."""
    return row >> _ROUTE_BITS


def add_dead_letter(tx: Transaction, route: str, letter: DeadLetter) -> None:
    """From queued to dead_letter. A replayed one that is no longer requeued at this revision is left as it is."""
    delivery, message = letter.delivery, letter.delivery.message
    ledger = tx.route(route)
    row = exception_id(message.seq, ledger.number)
    sealed = _seal_content(tx.cipher, row, letter)
    requeued = ledger.requeued
    if delivery.requeued:
        if not tx.connection.execute(_BURY_AGAIN, (tx.at_us, sealed, row, delivery.revision)).rowcount:
            return
        requeued -= 1
    else:
        place = (ledger.number, _DEAD, message.traffic.code, delivery.laneseq, delivery.revision, message.commit)
        tx.connection.execute(_INSERT, (row, *place, tx.at_us, sealed))
    tx.change(route, requeued=requeued, books=replace(ledger.books, dead_letter=ledger.books.dead_letter + 1))
    detail: dict[str, str | int] = {"code": letter.code}
    if delivery.revision:
        detail["revision"] = delivery.revision
    tx.audit.append(AuditRecord(AuditKind.DEAD_LETTER, ((message.seq, message.seq),), route, message.source, detail=detail))


def close_requeued(tx: Transaction, route: str, items: Sequence[tuple[int, int]], term: Term, proof: str) -> None:
    """From queued to delivered or filtered, for replayed messages ``(seq, revision)``."""
    ledger = tx.route(route)
    closed: dict[int, list[int]] = {}
    for seq, revision in items:
        row = exception_id(seq, ledger.number)
        if tx.connection.execute(_CLOSE_REVISION, (STATE_OF[term], tx.at_us, row, _QUEUED, revision)).rowcount:
            closed.setdefault(revision, []).append(seq)
    if not closed:
        return
    number = sum(map(len, closed.values()))
    books = ledger.books
    if term is Term.DELIVERED:
        books = replace(books, delivered=books.delivered + number)
    else:
        books = replace(books, filtered=books.filtered + number)
    tx.change(route, books=books, requeued=ledger.requeued - number, done=ledger.done + number)
    kind = AuditKind.DELIVER if term is Term.DELIVERED else AuditKind.FILTER
    for revision, seqs in closed.items():
        detail: dict[str, str | int] = {"revision": revision, **({"proof": proof} if proof else {})}
        tx.audit.append(AuditRecord(kind, runs(sorted(seqs)), route, detail=detail))


def replay(tx: Transaction, route: str, seqs: Iterable[int], actor: str, reason: str) -> list[int]:
    """From dead_letter to queued, with the next revision; the seqs that were dead letters."""
    ledger = tx.route(route)
    taken = [seq for seq in seqs if tx.connection.execute(_REQUEUE, (tx.at_us, exception_id(seq, ledger.number), _DEAD)).rowcount]
    if taken:
        books = replace(ledger.books, dead_letter=ledger.books.dead_letter - len(taken))
        tx.change(route, books=books, requeued=ledger.requeued + len(taken))
        tx.audit.append(AuditRecord(AuditKind.REPLAY, runs(sorted(taken)), route, actor=actor, detail=_told(reason)))
    return taken


def discard(tx: Transaction, route: str, seqs: Iterable[int], actor: str, reason: str) -> list[int]:
    """From dead_letter to gap, declared to the route's receiver; the seqs that were dead letters. Their content is deleted."""
    ledger = tx.route(route)
    taken: list[int] = []
    lanes: dict[int, list[int]] = {}
    for seq in seqs:
        row = exception_id(seq, ledger.number)
        if tx.connection.execute(_CLOSE, (STATE_OF[Term.GAP], tx.at_us, row, _DEAD)).rowcount:
            taken.append(seq)
            traffic, lane = tx.connection.execute("SELECT class, laneseq FROM exception WHERE id = ?", (row,)).fetchone()
            lanes.setdefault(traffic, []).append(lane)
    if taken:
        books = replace(ledger.books, dead_letter=ledger.books.dead_letter - len(taken), gaps=ledger.books.gaps + len(taken))
        tx.change(route, books=books, done=ledger.done + len(taken))
        tx.audit.append(AuditRecord(AuditKind.DISCARD, runs(sorted(taken)), route, actor=actor, detail=_told(reason)))
        for traffic, numbers in lanes.items():
            declare(tx, route, TrafficClass.from_code(traffic), numbers, "discarded")
    return taken


def replay_messages(tx: Transaction, route: str, candidates: Sequence[Candidate], actor: str) -> Mapping[Term, int]:
    """From delivered or dead_letter to queued, with the next revision; how many of each term. Others are left alone.

    ``candidates`` were found outside the transaction: what has changed since then (another replay, a retired block) is
    looked at again here.
    """
    ledger = tx.route(route)
    oldest = tx.oldest_commit()
    taken: dict[Term, list[int]] = {Term.DELIVERED: [], Term.DEAD_LETTER: []}
    done = 0
    for candidate in candidates:
        row = exception_id(candidate.seq, ledger.number)
        found = tx.connection.execute("SELECT state, revision FROM exception WHERE id = ?", (row,)).fetchone()
        term = candidate.term if found is None else TERM_OF[found[0]]
        if term not in taken or (term is Term.DELIVERED and candidate.commit < oldest):
            continue
        if found is None:
            place = (ledger.number, _QUEUED, candidate.traffic.code, candidate.laneseq, 1, candidate.commit)
            tx.connection.execute(_INSERT, (row, *place, tx.at_us, None))
        else:
            tx.connection.execute(_REQUEUE, (tx.at_us, row, found[0]))
            done += term is Term.DELIVERED
        taken[term].append(candidate.seq)
    counts = {term: len(seqs) for term, seqs in taken.items()}
    if any(counts.values()):
        books = ledger.books
        books = replace(books, delivered=books.delivered - counts[Term.DELIVERED], dead_letter=books.dead_letter - counts[Term.DEAD_LETTER])
        tx.change(route, books=books, requeued=ledger.requeued + sum(counts.values()), done=ledger.done - done)
        seqs = sorted([*taken[Term.DELIVERED], *taken[Term.DEAD_LETTER]])
        tx.audit.append(AuditRecord(AuditKind.REPLAY, runs(seqs), route, actor=actor, detail={"range": len(seqs)}))
    return counts


def forget_routes(tx: Transaction) -> None:
    """Delete the rows of routes that are no longer listed: these only kept revisions of what was settled."""
    numbers = [row[0] for row in tx.connection.execute("SELECT DISTINCT route FROM exception").fetchall()]
    listed = {ledger.number for ledger in tx.state.routes.values()}
    for number in numbers:
        if number not in listed:
            tx.connection.execute("DELETE FROM exception WHERE route = ?", (number,))


def _told(reason: str) -> dict[str, str | int]:
    return {"reason": reason} if reason else {}


def _seal_content(cipher: RecordCipher, row: int, letter: DeadLetter) -> bytes:
    message = letter.delivery.message
    block = encode_block(
        BlockColumns(
            [(message.source, message.kind, message.charset, message.clock_state.value, message.route)],
            [0],
            [message.seq],
            [message.received_us],
            bytes.fromhex(message.ordering_key),
            [message.envelope],
            [message.body],
        )
    )
    head = {"code": letter.code, "reason": letter.reason, "incarnation": message.incarnation, "commit": message.commit}
    return cipher.seal(TABLE_EXCEPTION, row, 0, message.seq, 1, NO_INCARNATION, encode_headed(head, block))


def open_content(cipher: RecordCipher, row: int, traffic: int, sealed: bytes) -> DeadLetterContent:
    """The content of a row that holds one.

    Raises:
        IntegrityError: it does not open, or is not a dead letter.
    """
    plaintext = cipher.open(TABLE_EXCEPTION, row, 0, seq_of(row), 1, NO_INCARNATION, sealed)
    head, block = decode_headed(plaintext)
    try:
        message = decode_block(block).message(0, TrafficClass.from_code(traffic), head["incarnation"], head["commit"])
        return DeadLetterContent(message, head["code"], head["reason"])
    except (KeyError, TypeError):
        raise IntegrityError("record-format", "the columns of a dead letter cannot be its own") from None
