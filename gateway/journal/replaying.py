"""Replaying a range of time: which messages of a route it means, found block by block outside any transaction.

The term of a message: its exception row's, where there is one; else filtered, where a commit row says so; else delivered, where
the route has settled it; else queued. Its lane number is counted back from the cursor over the clear census of the blocks in
between, so that a replay carries the number that the message was sent under.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind
from gateway.journal.exceptions import TERM_OF, Candidate, exception_id
from gateway.journal.ledger import member, members, rules_at
from gateway.journal.reader import block_head
from gateway.journal.records import TABLE_META, block_id, commit_of, decode_meta
from gateway.model.errors import IntegrityError
from gateway.model.state import Term
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.journal.ledger import RouteLedger, RoutingVersion
    from gateway.journal.reader import BlockHead, Reader

__all__ = ["Portion", "RangeWalk"]

_FIRST_IN_TIME: Final = "SELECT min(id) FROM block WHERE at_us >= ?"
_NEWEST: Final = "SELECT max(id) FROM block"
_HEADS: Final = (
    "SELECT id, class, first_seq, last_seq, n, census, size, sealed IS NULL, at_us FROM block WHERE id >= ? AND id <= ? ORDER BY id LIMIT ?"
)
_METAS: Final = "SELECT id, sealed FROM commit_meta WHERE id >= ? ORDER BY id LIMIT 256"
_STATES: Final = "SELECT id, state FROM exception WHERE id >= ? AND id < ?"
#: A message is committed within seconds of its reception; a step of the clock in between may make that look like an hour.
_SLACK_US: Final = 3_600_000_000
_HEADS_A_STEP: Final = 4096
#: What is read ahead of a portion's end is read again for the next one.
_HEADS_A_PORTION: Final = 16
#: Blocks (of at most 512 messages) that one portion opens: one transaction's worth of rows.
_BLOCKS_A_PORTION: Final = 8
_REPLAYABLE: Final = frozenset({Term.DELIVERED, Term.DEAD_LETTER})


@dataclass(slots=True)
class Portion:
    """Some of the messages in the range. ``skipped``: those that cannot be replayed, by term or ``unreadable``."""

    candidates: list[Candidate] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class RangeWalk:
    """Walks the range once, in the reader's thread. ``next`` gives portion after portion, None at the end."""

    def __init__(
        self, reader: Reader, route: str, ledger: RouteLedger, versions: tuple[RoutingVersion, ...], since_us: int, until_us: int
    ) -> None:
        self._reader = reader
        self._route = route
        self._ledger = ledger
        self._versions = versions
        self._since_us = since_us
        self._until_us = until_us
        self._lanes: Counter[int] = Counter()
        self._at: int | None = None
        self._end = 0
        self._filtered: list[tuple[int, int]] = []

    def begin(self) -> None:
        """Find the first block, the lane numbers there, and what was filtered since."""
        first, newest = self._reader.in_snapshot(self._bounds)
        if first is None or newest is None:
            return
        self._at, self._end = first, newest
        cursor = self._ledger.cursor
        for traffic, count in cursor.laneseq.items():
            self._lanes[traffic.code] += count - cursor.partial.get(traffic, 0)
        for head, _ in self._heads(first, block_id(cursor.commit) - 1):
            self._lanes[head.traffic] -= self._members(head)
        if self._ledger.books.filtered:
            self._filtered = sorted(self._filtered_since(commit_of(first)))

    def next(self) -> Portion | None:
        """The next portion."""
        if self._at is None:
            return None
        portion, opened = Portion(), 0
        for head, at_us in self._heads(self._at, self._end, _HEADS_A_PORTION):
            if opened >= _BLOCKS_A_PORTION:
                self._at = head.id
                return portion
            opened += self._take(head, at_us, portion)
        self._at = None
        return portion

    def _bounds(self) -> tuple[int | None, int | None]:
        connection = self._reader.connection
        first = connection.execute(_FIRST_IN_TIME, (self._since_us - _SLACK_US,)).fetchone()[0]
        return first, connection.execute(_NEWEST).fetchone()[0]

    def _heads(self, first: int, last: int, step: int = _HEADS_A_STEP) -> Iterator[tuple[BlockHead, int]]:
        """Clear columns of the blocks from ``first`` to ``last``, read in steps of one snapshot each."""
        at = first
        while rows := self._rows(at, last, step):
            for row in rows:
                yield block_head(row[:8]), row[8]
            at = rows[-1][0] + 1

    def _rows(self, first: int, last: int, step: int) -> list[tuple[int, int, int, int, int, bytes, int, int, int]]:
        return self._reader.in_snapshot(lambda: self._reader.connection.execute(_HEADS, (first, last, step)).fetchall())

    def _members(self, head: BlockHead) -> int:
        rules = rules_at(self._versions, head.first_seq)
        return members(rules[self._route], self._route, head.census) if self._route in rules else 0

    def _take(self, head: BlockHead, at_us: int, portion: Portion) -> int:
        """Sort one block's messages into the portion; how many blocks that opened."""
        count = self._members(head)
        lane = self._lanes[head.traffic]
        self._lanes[head.traffic] += count
        if not count or not self._since_us - _SLACK_US <= at_us <= self._until_us + _SLACK_US:
            return 0
        try:
            self._reader.in_snapshot(lambda: self._sort(head, lane, portion))
        except IntegrityError:
            portion.skipped["unreadable"] += count
        return 1

    def _sort(self, head: BlockHead, lane: int, portion: Portion) -> None:
        content = self._reader.open_block(head)
        rule = rules_at(self._versions, head.first_seq)[self._route]
        ours = [member(rule, self._route, source, only) for source, _, _, _, only in content.profiles]
        states = self._states(head)
        traffic, commit = TrafficClass.from_code(head.traffic), commit_of(head.id)
        for profile, seq, received_us in zip(content.profile, content.seqs, content.received_us, strict=True):
            if not ours[profile]:
                continue
            lane += 1
            if not self._since_us <= received_us <= self._until_us:
                continue
            term = self._term(seq, states)
            if term in _REPLAYABLE:
                portion.candidates.append(Candidate(seq, traffic, lane, commit, term))
            else:
                portion.skipped[term.value] += 1

    def _states(self, head: BlockHead) -> dict[int, Term]:
        bounds = (exception_id(head.first_seq, 0), exception_id(head.last_seq + 1, 0))
        number = self._ledger.number
        rows = self._reader.connection.execute(_STATES, bounds).fetchall()
        return {row: TERM_OF[state] for row, state in rows if row & 0xFFFF == number}

    def _term(self, seq: int, states: dict[int, Term]) -> Term:
        ledger = self._ledger
        known = states.get(exception_id(seq, ledger.number))
        if known is not None:
            return known
        if seq > ledger.cursor.seq and seq not in ledger.beyond:
            return Term.QUEUED
        at = bisect_right(self._filtered, (seq, 2**63)) - 1
        return Term.FILTERED if at >= 0 and self._filtered[at][1] >= seq else Term.DELIVERED

    def _filtered_since(self, commit: int) -> Iterator[tuple[int, int]]:
        """Ranges of seqs that the route filtered, from the audit of the commits since."""
        at = commit
        while rows := self._metas(at):
            for number, sealed in rows:
                try:
                    meta = decode_meta(self._reader.cipher.open(TABLE_META, number, 0, 0, 0, self._reader.incarnation_of(number), sealed))
                except IntegrityError:
                    continue
                for record in meta.audit:
                    if record.kind is AuditKind.FILTER and record.route == self._route:
                        yield from record.seqs
            at = rows[-1][0] + 1

    def _metas(self, at: int) -> list[tuple[int, bytes]]:
        return self._reader.in_snapshot(lambda: self._reader.connection.execute(_METAS, (at,)).fetchall())
