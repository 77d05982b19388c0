"""``audit verify``: walk every kept commit row and compare it with what the journal really holds.

Found, each with the first commit where it shows: an edited, deleted, inserted, duplicated or moved commit row; a tail that was
cut off although the witness knows it; a block that is gone, exchanged, edited or that no commit ever wrote; a dead letter that
was edited, deleted, or whose state was changed; an edited refused frame. What the journal itself reported when it happened
(salvage, rollback, quarantine) is listed as declared, not as a finding: the records that say so are in the chain too.

Reads in portions and holds no snapshot, so a running daemon is not held up; rows that retire meanwhile are recognised by the
records of their retirement. Cost: every block is opened, so about 1 s per GB on a PC.

Limits, honestly: a tail that was cut off together with the witness cannot be seen from inside (compare with a copy of
``last-status.json`` kept elsewhere, or with what the receiver holds); who has the keys can rewrite everything.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind
from gateway.journal.commits import commit_rows, newest_state, opening_cipher, read_incarnations
from gateway.journal.exceptions import DONE_STATES, STATE_OF, open_content, seq_of
from gateway.journal.records import (
    NO_INCARNATION,
    TABLE_BLOCK,
    TABLE_REFUSED,
    block_id,
    commit_of,
    encode_census,
)
from gateway.journal.refused import ROW_BYTES
from gateway.journal.witness import WitnessState
from gateway.model.errors import IntegrityError
from gateway.model.state import Term

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from gateway.journal.audit import AuditRecord
    from gateway.journal.cipher import RecordCipher
    from gateway.journal.commits import CommitRow, Incarnations
    from gateway.journal.keyring import OpenKeyring
    from gateway.journal.ledger import JournalState
    from gateway.journal.records import BlockRef
    from gateway.journal.witness import LastStatus, Witness

__all__ = ["AuditVerdict", "Declared", "Fault", "Finding", "verify"]

_BLOCKS_OF: Final = "SELECT id, class, first_seq, last_seq, n, census, at_us, size, sealed FROM block WHERE id >= ? AND id < ? ORDER BY id"
_TAG_BYTES: Final = 16
#: SQLite keeps any value in any column: what was put there by hand may be no number, or none that can be.
_UNREADABLE: Final = (IntegrityError, OverflowError, TypeError, ValueError, KeyError, AttributeError, struct.error)
#: id, class, first seq, last seq, n, census, time, size, sealed
_BlockRow = tuple[int, int, int, int, int, bytes, int, int, bytes]
_HELD: Final = STATE_OF[Term.HELD]
_DEAD: Final = STATE_OF[Term.DEAD_LETTER]
_QUEUED: Final = STATE_OF[Term.QUEUED]
#: More findings of one kind than this say nothing new; they are counted on.
_TOLD: Final = 100


class Fault(StrEnum):
    """What does not fit. The values are shown to people and compared by scripts."""

    ROW_ALTERED = "row-altered"  #: a commit row does not open
    ROW_UNLINKED = "row-unlinked"  #: a commit row follows another one than it should
    START_ALTERED = "start-altered"  #: the recorded start is another one than its commit says
    ROWS_MISSING = "rows-missing"  #: numbers between two kept commit rows
    TAIL_MISSING = "tail-missing"  #: the witness, a start or a block knows a later commit
    FORKED = "forked"  #: the witness knows this commit with other content
    WITNESS_FORGED = "witness-forged"
    BLOCK_MISSING = "block-missing"
    BLOCK_ALTERED = "block-altered"  #: it does not open, or is not the one that its commit wrote
    BLOCK_UNKNOWN = "block-unknown"  #: no commit row names it
    EXCEPTION_ALTERED = "exception-altered"  #: a dead letter that does not open
    EXCEPTIONS_MISCOUNTED = "exceptions-miscounted"  #: other numbers of rows than the books say
    REFUSED_ALTERED = "refused-altered"
    REFUSED_MISCOUNTED = "refused-miscounted"  #: the ring holds other rows than the last commit left


@dataclass(frozen=True, slots=True)
class Finding:
    """One place that is not what was written. ``commit``: where it shows; 0 where it belongs to none."""

    fault: Fault
    commit: int


@dataclass(frozen=True, slots=True)
class Declared:
    """A loss that the journal reported itself, in the chain."""

    kind: AuditKind
    commit: int


@dataclass(frozen=True, slots=True)
class AuditVerdict:
    """What was walked and what was found.

    ``first_commit``, ``last_commit``: the kept rows. ``findings``: at most 100 of a kind, ``counts`` has them all.
    ``witness``: whether a valid witness stood beside the journal (absent: a cut tail could not have been seen).
    """

    first_commit: int
    last_commit: int
    commits: int
    records: int
    blocks: int
    findings: tuple[Finding, ...]
    counts: dict[Fault, int]
    declared: tuple[Declared, ...]
    witness: WitnessState

    @classmethod
    def of_nothing(cls) -> AuditVerdict:
        """Where no journal is, there is nothing to find."""
        return cls(0, 0, 0, 0, 0, (), {}, (), WitnessState.ABSENT)

    @property
    def intact(self) -> bool:
        """Nothing found."""
        return not self.findings

    @property
    def first_bad(self) -> int | None:
        """The lowest commit at which something does not fit; None where nothing was found."""
        return min((finding.commit for finding in self.findings), default=None)


@dataclass(slots=True)
class _Walk:
    """One verification. ``previous``: the last row that opened. ``absent``: named blocks without content, by row id."""

    connection: sqlite3.Connection
    cipher: RecordCipher
    keys: OpenKeyring
    incarnations: Incarnations
    anchor: tuple[int, bytes]
    counts: Counter[Fault] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    declared: list[Declared] = field(default_factory=list)
    holes: list[tuple[int, int]] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    emptied: list[int] = field(default_factory=list)
    quarantined: set[int] = field(default_factory=set)
    told_missing: list[tuple[int, int]] = field(default_factory=list)
    told_emptied: list[tuple[int, int]] = field(default_factory=list)
    retired_below: int = 0
    first: int = 0
    last: int = 0
    link: bytes = b""
    commits: int = 0
    records: int = 0
    blocks: int = 0
    witnessed: bytes | None = None

    def find(self, fault: Fault, commit: int) -> None:
        self.counts[fault] += 1
        if self.counts[fault] <= _TOLD:
            self.findings.append(Finding(fault, commit))


def verify(connection: sqlite3.Connection, keys: OpenKeyring, last: LastStatus | None) -> AuditVerdict:
    """Walk the whole journal on a connection that is in no transaction. ``last``: ``witness.read_last_status``.

    Raises:
        sqlite3.Error: the file cannot be read (the caller maps it; a damaged file is salvaged at the next start).
    """
    cipher = opening_cipher(keys)
    walk = _Walk(connection, cipher, keys, read_incarnations(connection), _anchor(connection, cipher, keys))
    witness, standing = _witness(last, keys)
    for row in commit_rows(connection, cipher, walk.incarnations, keys):
        _take_row(walk, row)
        if witness is not None and row.number == witness.commit:
            walk.witnessed = row.link
    _judge(walk)
    _check_ends(walk, witness)
    if standing is WitnessState.FORGED:
        walk.find(Fault.WITNESS_FORGED, 0)
    _check_rest(walk)
    findings = tuple(sorted(walk.findings, key=lambda finding: finding.commit))
    return AuditVerdict(
        walk.first, walk.last, walk.commits, walk.records, walk.blocks, findings, dict(walk.counts), tuple(walk.declared), standing
    )


def _witness(last: LastStatus | None, keys: OpenKeyring) -> tuple[Witness | None, WitnessState]:
    if last is None:
        return None, WitnessState.ABSENT
    standing = last.testify(keys)
    return (last.witness if standing is WitnessState.VALID else None), standing


def _anchor(connection: sqlite3.Connection, cipher: RecordCipher, keys: OpenKeyring) -> tuple[int, bytes]:
    try:
        state = newest_state(connection, cipher, keys)
    except IntegrityError:
        return (0, b"")
    return (1, bytes(32)) if state is None else state.anchor


# ---------------------------------------------------------------------- rows


def _take_row(walk: _Walk, row: CommitRow) -> None:
    walk.commits += 1
    walk.first = walk.first or row.number
    if row.meta is None:
        walk.find(Fault.ROW_ALTERED, row.number)
        _note_hole(walk, row.number)
        walk.last, walk.link = row.number, b""
        return
    _note_hole(walk, row.number)
    if row.number < walk.anchor[0]:
        walk.find(Fault.ROW_UNLINKED, row.number)  # a row that had been retired, put back
    expected = _expected_link(walk, row.number)
    if expected and expected != row.meta.prev:
        walk.find(Fault.ROW_UNLINKED, row.number)
    walk.last, walk.link = row.number, row.link
    walk.records += len(row.meta.audit)
    for record in row.meta.audit:
        _take_record(walk, record, row.number)
    _take_blocks(walk, row, row.meta.blocks)


def _expected_link(walk: _Walk, number: int) -> bytes:
    """The link that the row must name; empty where the row before it is not there to say."""
    if number == walk.anchor[0]:
        return walk.anchor[1]
    return walk.link if number == walk.last + 1 else b""


def _note_hole(walk: _Walk, number: int) -> None:
    expected = walk.last + 1 if walk.last else walk.anchor[0]
    if expected and number > expected:
        walk.holes.append((expected, number - 1))


def _take_record(walk: _Walk, record: AuditRecord, commit: int) -> None:
    match record.kind:
        case AuditKind.SALVAGE | AuditKind.ROLLBACK:
            walk.declared.append(Declared(record.kind, commit))
            walk.told_missing += _told(record.detail.get("missing"))
            walk.told_emptied += _told(record.detail.get("emptied"))
        case AuditKind.QUARANTINE:
            walk.declared.append(Declared(record.kind, commit))
            walk.quarantined.add(int(record.detail.get("block", 0)))
        case AuditKind.START:
            if not walk.incarnations.begins(commit, _bytes(record.detail.get("incarnation"))):
                walk.find(Fault.START_ALTERED, commit)
        case AuditKind.RETIRE:
            walk.retired_below = max(walk.retired_below, int(record.detail.get("below", 0)))
        case _:
            pass


def _bytes(text: str | int | None) -> bytes:
    return bytes.fromhex(text) if isinstance(text, str) else b""


def _told(text: str | int | None) -> list[tuple[int, int]]:
    parts = [part.partition("-") for part in text.split(",")] if isinstance(text, str) else []
    return [(int(first), int(last)) for first, _, last in parts]


# ---------------------------------------------------------------------- blocks


def _take_blocks(walk: _Walk, row: CommitRow, refs: Iterable[BlockRef]) -> None:
    found = {found[0]: found for found in walk.connection.execute(_BLOCKS_OF, (block_id(row.number), block_id(row.number + 1)))}
    for ref in refs:
        block = found.pop(ref.id, None)
        if block is None:
            walk.gone.append(ref.id)
        elif not block[8]:
            walk.emptied.append(ref.id)
        elif not _is_written(walk, row, ref, block):
            walk.find(Fault.BLOCK_ALTERED, row.number)
        else:
            walk.blocks += 1
    for _ in found:
        walk.find(Fault.BLOCK_UNKNOWN, row.number)


def _is_written(walk: _Walk, row: CommitRow, ref: BlockRef, block: _BlockRow) -> bool:
    """Whether every column is what the commit wrote."""
    *facts, size, sealed = block
    if facts[1:] != [ref.traffic, ref.first_seq, ref.last_seq, ref.count, encode_census(ref.census), row.at_us]:
        return False
    if not isinstance(sealed, bytes) or sealed[-_TAG_BYTES:] != ref.tag:
        return False
    incarnation = walk.incarnations.of(row.number)
    try:
        return len(walk.cipher.open(TABLE_BLOCK, ref.id, ref.traffic, ref.first_seq, ref.count, incarnation, sealed)) == size
    except _UNREADABLE:
        return False


def _judge(walk: _Walk) -> None:
    """What looked missing on the way is a finding unless a record in the chain accounts for it."""
    anchor = _anchor(walk.connection, walk.cipher, walk.keys)[0]
    for first, last in walk.holes:
        if last >= anchor and not _covered(first, last, walk.told_missing):
            walk.find(Fault.ROWS_MISSING, max(first, anchor))
    for row in walk.gone:
        if commit_of(row) >= walk.retired_below:
            walk.find(Fault.BLOCK_MISSING, commit_of(row))
    for row in walk.emptied:
        if row not in walk.quarantined and not _covered(commit_of(row), commit_of(row), walk.told_emptied):
            walk.find(Fault.BLOCK_ALTERED, commit_of(row))


def _covered(first: int, last: int, told: list[tuple[int, int]]) -> bool:
    at = first
    for begin, end in sorted(told):
        if begin <= at <= end:
            at = end + 1
    return at > last


# ---------------------------------------------------------------------- the rest


def _check_ends(walk: _Walk, witness: Witness | None) -> None:
    """Nothing may lie before the first kept row or behind the last one."""
    connection = walk.connection
    newest_block = connection.execute("SELECT max(id) FROM block").fetchone()[0] or 0
    known = max(commit_of(newest_block), read_incarnations(connection).newest_commit(), 0 if witness is None else witness.commit)
    last = connection.execute("SELECT max(id) FROM commit_meta").fetchone()[0] or 0  # the daemon may have gone on meanwhile
    if known > last:
        walk.find(Fault.TAIL_MISSING, last + 1)
    oldest = connection.execute("SELECT min(id) FROM block").fetchone()[0]
    if oldest is not None and commit_of(oldest) < walk.first and not _covered(commit_of(oldest), walk.first - 1, walk.told_missing):
        walk.find(Fault.BLOCK_UNKNOWN, commit_of(oldest))
    if witness is not None and walk.witnessed is not None and walk.witnessed != witness.chain:
        walk.find(Fault.FORKED, witness.commit)


def _check_rest(walk: _Walk) -> None:
    """Dead letters and refused frames open, and there are as many as the state says, in one picture of the file."""
    walk.connection.execute("BEGIN")
    try:
        state = newest_state(walk.connection, walk.cipher, walk.keys)
        exceptions = walk.connection.execute("SELECT id, route, state, class, block_commit, sealed FROM exception").fetchall()
        refused = walk.connection.execute("SELECT id, sealed FROM refused").fetchall()
    except IntegrityError:
        return  # the newest row: reported already
    finally:
        walk.connection.execute("ROLLBACK")
    for row, _, row_state, traffic, commit, sealed in exceptions:
        kept = row_state in (_HELD, _DEAD)
        if (kept or sealed is not None) and not _holds(walk, row, traffic, commit, sealed):
            walk.find(Fault.EXCEPTION_ALTERED, 0)
    for row, sealed in refused:
        if not _opens(walk, row, sealed):
            walk.find(Fault.REFUSED_ALTERED, 0)
    if state is not None:
        if _miscounts(state, Counter((route, 0 if row_state in DONE_STATES else row_state) for _, route, row_state, *_ in exceptions)):
            walk.find(Fault.EXCEPTIONS_MISCOUNTED, 0)
        if sum(len(sealed) + ROW_BYTES for _, sealed in refused if isinstance(sealed, bytes)) != state.refused_bytes:
            walk.find(Fault.REFUSED_MISCOUNTED, 0)


def _holds(walk: _Walk, row: int, traffic: int, commit: int, sealed: bytes | None) -> bool:
    """Whether a row holds the message that its columns say."""
    if sealed is None:
        return False
    try:
        message = open_content(walk.cipher, row, traffic, sealed).message
    except _UNREADABLE:
        return False
    return (message.seq, message.commit) == (seq_of(row), commit)


def _opens(walk: _Walk, row: int, sealed: bytes) -> bool:
    try:
        walk.cipher.open(TABLE_REFUSED, row, 0, 0, 0, NO_INCARNATION, sealed)
    except _UNREADABLE:
        return False
    return True


def _miscounts(state: JournalState, found: Counter[tuple[int, int]]) -> bool:
    """Whether the rows are others than the books say; rows that only keep a revision count together."""
    expected: Counter[tuple[int, int]] = Counter()
    for ledger in state.routes.values():
        expected[ledger.number, _HELD] = ledger.books.held
        expected[ledger.number, _DEAD] = ledger.books.dead_letter
        expected[ledger.number, _QUEUED] = ledger.requeued
        expected[ledger.number, 0] = ledger.done
    return +expected != +found
