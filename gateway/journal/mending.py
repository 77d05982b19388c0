"""What was carried over from a damaged file, brought into line: rows that prove themselves stay, the books follow the rows.

Works on the new file, before it becomes the journal. The commit rows are the witnesses of the blocks: they name tag, seqs and
messages of each, sealed. So a block row with wrong facts is set right, a block row that is gone comes back empty (the reader
makes gaps of it for the routes that still needed it), and only what neither row knows of is lost without a name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.journal.audit import AuditKind, runs, total
from gateway.journal.commits import commit_rows, opened_state, opening_cipher, read_incarnations
from gateway.journal.exceptions import STATE_OF, exception_id, seq_of
from gateway.journal.ledger import JournalState
from gateway.journal.records import TABLE_BLOCK, TABLE_META, BlockRef, commit_of, decode_census, encode_census
from gateway.journal.refused import ROW_BYTES
from gateway.journal.repair import (
    FoundException,
    HeldBlock,
    admit_blocks,
    believe_witness,
    reconcile_ahead,
    recount_exceptions,
)
from gateway.model.errors import IntegrityError, LocalProtocolError
from gateway.model.state import Term
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from gateway.journal.audit import Ranges
    from gateway.journal.cipher import RecordCipher
    from gateway.journal.commits import Incarnations
    from gateway.journal.interface import RouteRule
    from gateway.journal.keyring import OpenKeyring
    from gateway.journal.records import Census
    from gateway.journal.witness import LastStatus

__all__ = ["Losses", "bring_into_line"]

_RANGES_TOLD: Final = 64
_CODES: Final = frozenset(traffic.code for traffic in TrafficClass)
_QUEUED: Final = STATE_OF[Term.QUEUED]
_GAP: Final = STATE_OF[Term.GAP]
_BLOCKS: Final = "SELECT id, class, first_seq, last_seq, n, census, at_us, size FROM block WHERE id > ? ORDER BY id LIMIT 512"
_EMPTY: Final = "INSERT INTO block (id, class, first_seq, last_seq, n, census, at_us, size, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, x'')"
_REFUSED_BYTES: Final = "SELECT coalesce(sum(length(sealed) + ?), 0) FROM refused"
_SET_RIGHT: Final = "UPDATE block SET class = ?, first_seq = ?, last_seq = ?, n = ?, census = ?, at_us = ?, size = ? WHERE id = ?"
_EXCEPTIONS: Final = "SELECT id, route, state, class, laneseq, revision, block_commit, sealed IS NULL FROM exception"
_PUT_ASIDE: Final = (
    "INSERT OR IGNORE INTO quarantine (id, at_us, reason, sealed) SELECT id, at_us, 'columns', sealed FROM block WHERE id = ?"
)


@dataclass(frozen=True, slots=True)
class Losses:
    """What is gone, in numbers.

    ``commits``: numbers without a readable commit row (audit lost); ``missing``: as ranges. ``blocks``, ``messages``: blocks
    that are gone or unreadable, with what they held; their messages become gaps where a route still needed them; ``emptied``:
    their commits, as ranges.
    ``unnamed``: messages of which only the seq is known. ``exceptions``: rows of dead letters and replays. ``gaps``: what was
    added to the gaps of the routes at once, over all routes.
    """

    commits: int = 0
    missing: Ranges = ()
    emptied: Ranges = ()
    blocks: int = 0
    messages: int = 0
    unnamed: int = 0
    exceptions: int = 0
    gaps: int = 0

    def facts(self) -> dict[str, str | int]:
        """For the audit record."""
        counts = {
            "commits": self.commits,
            "blocks": self.blocks,
            "messages": self.messages,
            "unnamed": self.unnamed,
            "exceptions": self.exceptions,
            "gaps": self.gaps,
        }
        told: dict[str, str | int] = {name: count for name, count in counts.items() if count}
        return told | {name: _text(ranges) for name, ranges in (("missing", self.missing), ("emptied", self.emptied)) if ranges}


def _text(ranges: Ranges) -> str:
    """``3-5,9-9``; of a badly torn file, with a hole per row, the first to the last stand for all."""
    if len(ranges) > _RANGES_TOLD:
        ranges = ((ranges[0][0], ranges[-1][1]),)
    return ",".join(f"{first}-{last}" for first, last in ranges)


class _Block(NamedTuple):
    """The clear columns of a block row."""

    id: int
    traffic: int
    first_seq: int
    last_seq: int
    n: int
    census: bytes
    at_us: int
    size: int


@dataclass(slots=True)
class _Work:
    """One mending.

    ``refs``: blocks that commit rows name, with the time of the commit. ``held``: what is there, in the end. ``strays``: blocks
    behind the newest commit row. ``retired_below``: earlier commits had their blocks deleted.
    ``commits``: numbers of the rows that open.
    """

    connection: sqlite3.Connection
    cipher: RecordCipher
    keys: OpenKeyring
    incarnations: Incarnations
    state: JournalState = field(default_factory=JournalState)
    refs: dict[int, tuple[BlockRef, int]] = field(default_factory=dict)
    held: list[HeldBlock] = field(default_factory=list)
    strays: list[HeldBlock] = field(default_factory=list)
    retired_below: int = 0
    commits: set[int] = field(default_factory=set)


def bring_into_line(
    connection: sqlite3.Connection,
    keys: OpenKeyring,
    routing: tuple[RouteRule, ...],
    last: LastStatus | None,
    left_below: int,
) -> tuple[JournalState, Losses]:
    """Mend rows and compute the state that they allow; the caller commits it.

    ``last``: a witness whose MAC is ours. ``left_below``: blocks of earlier commits were left behind on purpose.
    """
    cipher = opening_cipher(keys)
    connection.execute("BEGIN")
    _prove_starts(connection, cipher)
    work = _Work(connection, cipher, keys, read_incarnations(connection), retired_below=left_below)
    missing = _read_commits(work)
    bad = _check_blocks(work, routing)
    gone = [*bad, *_bring_back(work)]
    unnamed = admit_blocks(work.state, work.strays)
    exceptions, gaps = _mend_exceptions(work)
    gaps += reconcile_ahead(work.state, sorted(work.held, key=lambda block: block.first_seq))
    known = work.state.next_seq
    if last is not None:
        gaps += believe_witness(work.state, last)
        unnamed += work.state.next_seq - known
    _recount(work)
    connection.execute("COMMIT")
    emptied = runs(sorted(commit_of(block.id) for block in gone))
    messages = sum(block.n for block in gone)
    return work.state, Losses(total(missing), missing, emptied, len(gone), messages, unnamed, exceptions, gaps)


def _prove_starts(connection: sqlite3.Connection, cipher: RecordCipher) -> None:
    """Keep of the recorded starts (found in both tables, perhaps in two versions) the true ones, in order.

    A start is proven by its first commit row, which opens under its id and no other. One whose commit row is gone or does not
    open is kept unless a proven one says otherwise.
    """
    newest = connection.execute("SELECT coalesce(max(id), 0) FROM commit_meta").fetchone()[0]
    found = connection.execute("SELECT DISTINCT first_commit, uuid, started_us FROM incarnation").fetchall()
    starts = [start for start in found if isinstance(start[0], int) and 0 < start[0] <= newest and isinstance(start[1], bytes)]
    proven = [start for start in starts if _proves(connection, cipher, start[0], start[1])]
    settled = {commit for commit, _, _ in proven} | {uuid for _, uuid, _ in proven}
    kept = sorted([*proven, *[start for start in starts if start[0] not in settled and start[1] not in settled]])
    connection.execute("DELETE FROM incarnation")
    connection.execute("DELETE FROM incarnation_twin")
    connection.executemany("INSERT INTO incarnation (first_commit, uuid, started_us) VALUES (?, ?, ?)", kept)


def _proves(connection: sqlite3.Connection, cipher: RecordCipher, commit: int, uuid: bytes) -> bool:
    row = connection.execute("SELECT sealed FROM commit_meta WHERE id = ?", (commit,)).fetchone()
    try:
        return row is not None and bool(cipher.open(TABLE_META, commit, 0, 0, 0, uuid, row[0]))
    except (IntegrityError, LocalProtocolError):  # not its row; not sixteen bytes
        return False


def _read_commits(work: _Work) -> Ranges:
    """State and block references from every row that opens; those that do not are removed. Ranges of missing numbers."""
    unreadable: list[int] = []
    newest = None
    for row in commit_rows(work.connection, work.cipher, work.incarnations, work.keys):
        if row.meta is None:
            unreadable.append(row.number)
            continue
        work.commits.add(row.number)
        newest = row
        work.refs.update((ref.id, (ref, row.at_us)) for ref in row.meta.blocks)
        below = [int(record.detail.get("below", 0)) for record in row.meta.audit if record.kind is AuditKind.RETIRE]
        work.retired_below = max([work.retired_below, *below])
    work.connection.executemany("DELETE FROM commit_meta WHERE id = ?", [(number,) for number in unreadable])
    if newest is None:
        return ()
    work.state = opened_state(newest)
    return _holes(work.state.anchor[0], sorted(work.commits))


def _holes(first: int, found: Sequence[int]) -> Ranges:
    """The numbers from ``first`` to the last of ``found`` that are not in it (the commit that reports them tells the rest)."""
    holes: list[tuple[int, int]] = []
    at = first
    for number in found:
        if number > at:
            holes.append((at, number - 1))
        at = number + 1
    return tuple(holes)


def _check_blocks(work: _Work, routing: tuple[RouteRule, ...]) -> list[_Block]:
    """Set facts right by the commit rows; what does not open then is put aside. The blocks that were."""
    bad: list[_Block] = []
    for block in _blocks(work.connection):
        ref, at_us = work.refs.pop(block.id, (None, block.at_us))
        true = block if ref is None else _true(ref, at_us)
        census, size = _census(true), _plaintext_bytes(work, true, ref)
        true = true._replace(size=block.size if size is None else size)
        if true != block:
            work.connection.execute(_SET_RIGHT, (*true[1:], true.id))
        if census is None or size is None:
            work.connection.execute(_PUT_ASIDE, (true.id,))
            bad.append(true)
            if census is None or (ref is None and (commit_of(true.id) > work.state.commit or commit_of(true.id) in work.commits)):
                # Nothing vouches for what it held, or its commit row knows of no such block: it is not even a gap.
                work.connection.execute("DELETE FROM block WHERE id = ?", (true.id,))
                continue
            work.connection.execute("UPDATE block SET sealed = x'' WHERE id = ?", (true.id,))
        work.held.append(HeldBlock(true.id, true.traffic, true.first_seq, true.last_seq, census))
        if commit_of(true.id) > work.state.commit:
            work.strays.append(work.held[-1])
    if work.state.commit == 0:
        # Nothing is left of the state: the routes start at the oldest message that is.
        work.state.next_seq = min((stray.first_seq for stray in work.strays), default=1)
        work.state.configure(routing)
    return bad


def _blocks(connection: sqlite3.Connection) -> Iterator[_Block]:
    after = -1
    while rows := connection.execute(_BLOCKS, (after,)).fetchall():
        yield from (_Block(*row) for row in rows)
        after = rows[-1][0]


def _true(ref: BlockRef, at_us: int) -> _Block:
    """The columns as the commit row names them."""
    return _Block(ref.id, ref.traffic, ref.first_seq, ref.last_seq, ref.count, encode_census(ref.census), at_us, 0)


def _census(block: _Block) -> Census | None:
    """The census where the clear columns agree with each other."""
    if not all(isinstance(number, int) for number in (*block[:5], block.at_us)) or not isinstance(block.census, bytes):
        return None
    try:
        census = decode_census(block.census)
    except IntegrityError:
        return None
    sane = block.traffic in _CODES and 0 < block.first_seq <= block.last_seq and 0 < block.n <= block.last_seq - block.first_seq + 1
    return census if sane and sum(census.values()) == block.n and min(census.values()) > 0 else None


def _plaintext_bytes(work: _Work, block: _Block, ref: BlockRef | None) -> int | None:
    """The size of the content; None where it is not what the commit sealed. One that was put aside before stays as it is."""
    sealed = work.connection.execute("SELECT sealed FROM block WHERE id = ?", (block.id,)).fetchone()[0]
    if sealed is None:
        return 0
    if not isinstance(sealed, bytes) or (ref is not None and sealed[-len(ref.tag) :] != ref.tag):
        return None
    try:
        incarnation = work.incarnations.of(commit_of(block.id))
        return len(work.cipher.open(TABLE_BLOCK, block.id, block.traffic, block.first_seq, block.n, incarnation, sealed))
    except IntegrityError:
        return None


def _bring_back(work: _Work) -> list[_Block]:
    """Blocks that are gone without having been retired come back without content."""
    refs = [(ref, at_us) for ref, at_us in work.refs.values() if commit_of(ref.id) >= work.retired_below]
    back = [_true(ref, at_us) for ref, at_us in refs]
    work.connection.executemany(_EMPTY, back)
    work.held.extend(HeldBlock(ref.id, ref.traffic, ref.first_seq, ref.last_seq, ref.census) for ref, _ in refs)
    return back


def _mend_exceptions(work: _Work) -> tuple[int, int]:
    """Rows that cannot be acted on go, the books follow the others; (rows that are gone, messages that became gaps)."""
    commits = {block.commit for block in work.held}
    work.connection.execute("UPDATE exception SET at_us = 0 WHERE typeof(at_us) <> 'integer'")
    rows: list[FoundException] = []
    for row, *facts, empty in work.connection.execute(_EXCEPTIONS).fetchall():
        if not all(isinstance(fact, int) and fact >= 0 for fact in facts) or facts[2] not in _CODES:
            work.connection.execute("DELETE FROM exception WHERE id = ?", (row,))
            continue
        route, state, _, _, _, commit = facts
        if state == _QUEUED and empty and commit not in commits:
            state = _GAP  # its content is gone with its block
            work.connection.execute("UPDATE exception SET state = ? WHERE id = ?", (_GAP, row))
        rows.append(FoundException(route, seq_of(row), state))
    before = sum(_expected(work.state))
    gaps, left_out = recount_exceptions(work.state, rows)
    work.connection.executemany("DELETE FROM exception WHERE id = ?", [(exception_id(seq, route),) for route, seq in left_out])
    return max(0, before - sum(_expected(work.state))), gaps


def _expected(state: JournalState) -> Iterator[int]:
    for ledger in state.routes.values():
        yield ledger.books.held + ledger.books.dead_letter + ledger.requeued


def _recount(work: _Work) -> None:
    """What the state says about numbers of rows."""
    work.state.blocks = work.connection.execute("SELECT count(*) FROM block").fetchone()[0]
    work.state.refused_bytes = work.connection.execute(_REFUSED_BYTES, (ROW_BYTES,)).fetchone()[0]
