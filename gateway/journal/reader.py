"""Reading: whole next commits of a route, in seq order, numbered in their lanes; what cannot be read becomes ``Damage``.

Runs in the reader's thread, on a connection of its own that cannot write. Every call reads one snapshot and ends it: no
statement stays open across calls, because an open one keeps the log from being checkpointed.

Block rows are looked at by their clear columns first; only those that hold something for the route are opened. A hole in
the seqs is looked up in the commit rows: blocks that these name and that are gone are damage like those that do not open.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.journal.ledger import member as is_member
from gateway.journal.ledger import members, rules_at
from gateway.journal.pragmas import storage_error
from gateway.journal.records import (
    TABLE_BLOCK,
    TABLE_META,
    BlockContent,
    Census,
    block_id,
    commit_of,
    decode_block,
    decode_census,
    decode_meta,
)
from gateway.model.cursor import Cursor
from gateway.model.errors import IntegrityError
from gateway.model.message import Delivery
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from gateway.journal.cipher import RecordCipher
    from gateway.journal.ledger import Beyond, RoutingVersion
    from gateway.journal.records import BlockRef

__all__ = ["BlockHead", "Damage", "ReadBatch", "ReadRequest", "Reader", "block_head"]

_HEADS: Final = "SELECT id, class, first_seq, last_seq, n, census, size, sealed IS NULL FROM block WHERE id >= ? ORDER BY id"
_SEALED: Final = "SELECT sealed FROM block WHERE id = ?"
_METAS: Final = "SELECT id, sealed FROM commit_meta WHERE id >= ? AND id < ? ORDER BY id"
_BY_CODE: Final = {traffic.code: traffic for traffic in TrafficClass}
_ROWID_MAX: Final = 2**63 - 1
#: A read passes at most so many commits, so that a route with a rare source does not keep the thread from the others.
_COMMITS_PER_READ: Final = 2048
_seq_of: Final = attrgetter("message.seq")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BlockHead:
    """The clear columns of a block row. ``quarantined``: its content was put aside (or never found)."""

    id: int
    traffic: int
    first_seq: int
    last_seq: int
    count: int
    census: Census
    size_bytes: int
    quarantined: bool = False


@dataclass(frozen=True, slots=True)
class Damage:
    """A block that cannot be read, as one route sees it. ``lanes``: the route's lane numbers in it that are not settled."""

    head: BlockHead
    lanes: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One read. ``until_seq``: first seq that is not committed yet. ``beyond``: what is settled past ``after``.

    ``declared``: ids of unreadable blocks that the route has declared already.
    """

    route: str
    after: Cursor
    max_bytes: int
    versions: tuple[RoutingVersion, ...]
    until_seq: int
    beyond: Beyond = field(default_factory=dict)
    declared: frozenset[int] = frozenset()


@dataclass(slots=True)
class ReadBatch:
    """What was read, and what could not be."""

    after: Cursor
    deliveries: list[Delivery] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)


class Reader:
    """See the module text. ``incarnation_of``: the incarnation that sealed a commit."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], cipher: RecordCipher, incarnation_of: Callable[[int], bytes]) -> None:
        self._connect = connect
        self.cipher = cipher
        self.incarnation_of = incarnation_of
        self._connection: sqlite3.Connection | None = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, opened at first use."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def close(self) -> None:
        """Close it; the next call would open it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def in_snapshot(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` on one consistent picture of the file.

        Raises:
            GatewayError: the disk or the file failed.
        """
        try:
            connection = self.connection
            connection.execute("BEGIN")
            try:
                return work()
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            self.close()
            raise storage_error(error) from None

    def read(self, request: ReadRequest) -> ReadBatch:
        """The route's messages of the next whole commits behind ``after``, about ``max_bytes`` of them, at least one.

        Raises:
            GatewayError: the disk or the file failed.
        """
        return self.in_snapshot(lambda: self._read(request))

    def _read(self, request: ReadRequest) -> ReadBatch:
        batch = ReadBatch(request.after)
        step = _Step(self, request, batch)
        size = 0
        for number, (commit, heads) in enumerate(self.commits(request.after.commit, request.after.seq + 1, request.until_seq)):
            if max(head.last_seq for head in heads) <= request.after.seq:
                continue  # passed already: its size must not keep the next one from being read
            wanted = step.wanted_bytes(heads)
            if number >= _COMMITS_PER_READ or (size and wanted and size + wanted > request.max_bytes):
                break
            size += wanted
            step.take(commit, heads)
        return batch

    def commits(self, commit: int, expected: int, until: int) -> Iterator[tuple[int, list[BlockHead]]]:
        """Commits with blocks from ``commit`` on, each with all its blocks, those that are gone included.

        ``expected``: the first seq that matters; ``until``: the first that does not exist yet.
        """
        held: tuple[int, list[BlockHead]] | None = None
        groups = groupby(map(block_head, self.connection.execute(_HEADS, (block_id(commit),))), key=lambda head: commit_of(head.id))
        for at, group in groups:
            heads = list(group)
            first, last = min(head.first_seq for head in heads), max(head.last_seq for head in heads)
            if first > expected or sum(head.count for head in heads) != last - first + 1:
                # What is held may hold lost blocks already: they must not be found a second time.
                present = {head.id for head in (*heads, *([] if held is None else held[1]))}
                lost = self._lost(commit if held is None else held[0], at + 1, expected, present)
                yield from _before(at, held, lost)
                heads = sorted([*heads, *lost.pop(at, [])], key=lambda head: head.id)
                last = max(head.last_seq for head in heads)
            elif held is not None:
                yield held
            held, expected = (at, heads), max(expected, last + 1)
        present = {head.id for head in ([] if held is None else held[1])}
        lost = self._lost(commit if held is None else held[0], _ROWID_MAX, expected, present) if expected < until else {}
        yield from _before(_ROWID_MAX, held, lost)

    def _lost(self, first_commit: int, end_commit: int, expected: int, present: set[int]) -> dict[int, list[BlockHead]]:
        """By commit, the blocks that rows of [first, end) name, that end at or behind ``expected`` and are not ``present``."""
        found: dict[int, list[BlockHead]] = {}
        for number, sealed in self.connection.execute(_METAS, (first_commit, end_commit)).fetchall():
            for ref in self._named(number, sealed):
                if ref.last_seq >= expected and ref.id not in present:
                    head = BlockHead(ref.id, ref.traffic, ref.first_seq, ref.last_seq, ref.count, ref.census, 0, quarantined=True)
                    found.setdefault(number, []).append(head)
        return found

    def _named(self, number: int, sealed: bytes) -> tuple[BlockRef, ...]:
        """The blocks that a commit row names; none where it does not open.

        What such a row named stays queued: told by the audit, in no answer as delivered.
        """
        try:
            return decode_meta(self.cipher.open(TABLE_META, number, 0, 0, 0, self.incarnation_of(number), sealed)).blocks
        except IntegrityError:
            return ()

    def open_block(self, head: BlockHead) -> BlockContent:
        """The content of a block.

        Raises:
            IntegrityError: it is quarantined, gone, or does not open; the code says which.
        """
        if head.quarantined:
            raise IntegrityError("block-gone", "a block was put aside or is gone")
        try:
            row = self.connection.execute(_SEALED, (head.id,)).fetchone()
        except sqlite3.DatabaseError as error:
            if (mapped := storage_error(error)).code != "journal-damaged":
                raise
            raise IntegrityError("block-page", mapped.hint) from None
        if row is None or row[0] is None:
            raise IntegrityError("block-gone", "a block was put aside or is gone")
        incarnation = self.incarnation_of(commit_of(head.id))
        return decode_block(self.cipher.open(TABLE_BLOCK, head.id, head.traffic, head.first_seq, head.count, incarnation, row[0]))

    def check_columns(self, head: BlockHead) -> None:
        """The clear columns of a block that does not open are believed only as far as its commit row says the same.

        Raises:
            IntegrityError: ``journal-damaged``: they differ; salvage sets them right from the commit row.
        """
        commit = commit_of(head.id)
        for true in (
            ref for number, sealed in self.connection.execute(_METAS, (commit, commit + 1)) for ref in self._named(number, sealed)
        ):
            if true.id == head.id and (true.traffic, true.first_seq, true.last_seq, true.census) != (
                head.traffic,
                head.first_seq,
                head.last_seq,
                head.census,
            ):
                raise IntegrityError("journal-damaged", "the columns of a block are not those that its commit row names")


class _Step:
    """Takes commit after commit into a batch, counting lanes."""

    def __init__(self, reader: Reader, request: ReadRequest, batch: ReadBatch) -> None:
        self._reader = reader
        self._request = request
        self._batch = batch
        self._lanes = {traffic.code: count for traffic, count in request.after.laneseq.items()}
        self._settled_lanes: defaultdict[int, set[int]] = defaultdict(set)
        for code, lane in request.beyond.values():
            self._settled_lanes[code].add(lane)

    def wanted_bytes(self, heads: Iterable[BlockHead]) -> int:
        """Bytes of the blocks that hold something for the route (at least 1 where there is one)."""
        return sum(max(1, head.size_bytes) for head in heads if self._count(head))

    def _count(self, head: BlockHead) -> int:
        rules = rules_at(self._request.versions, head.first_seq)
        route = self._request.route
        return members(rules[route], route, head.census) if route in rules else 0

    def take(self, commit: int, heads: Sequence[BlockHead]) -> None:
        """Add the commit's deliveries and move the position to its end, unless it was passed before."""
        after = self._request.after
        last = max(head.last_seq for head in heads)
        if last <= after.seq:
            return
        settled: dict[int, int] = {}
        if commit == after.commit:
            settled = {traffic.code: count for traffic, count in after.partial.items()}
            for code, count in settled.items():
                self._lanes[code] -= count
        partial: dict[int, int] = {}
        found: list[Delivery] = []
        for head in heads:
            if count := self._count(head):
                found += self._block(commit, head, count, min(count, settled.get(head.traffic, 0)))
                settled[head.traffic] = max(0, settled.get(head.traffic, 0) - count)
                partial[head.traffic] = partial.get(head.traffic, 0) + count
        self._batch.deliveries += sorted(found, key=_seq_of) if len(heads) > 1 else found
        self._batch.after = Cursor(commit, last, _by_class(self._lanes), _by_class(partial))

    def _block(self, commit: int, head: BlockHead, count: int, settled: int) -> list[Delivery]:
        """The block's deliveries; ``settled``: how many of its first ``count`` messages lie at or below the cursor."""
        lane = self._lanes.get(head.traffic, 0)
        self._lanes[head.traffic] = lane + count
        try:
            content = self._reader.open_block(head)
        except IntegrityError as error:
            if head.id not in self._request.declared:
                self._reader.check_columns(head)
                lost = sorted(set(range(lane + settled + 1, lane + count + 1)) - self._settled_lanes[head.traffic])
                self._batch.damages.append(Damage(head, tuple(lost), error.code))
            return []
        return self._deliveries(commit, head, content, lane)

    def _deliveries(self, commit: int, head: BlockHead, content: BlockContent, lane: int) -> list[Delivery]:
        request = self._request
        traffic, incarnation, message = _BY_CODE[head.traffic], self._reader.incarnation_of(commit).hex(), content.message
        low, beyond, route = request.after.seq, request.beyond, request.route
        rule = rules_at(request.versions, head.first_seq)[route]
        ours = [is_member(rule, route, source, only) for source, _, _, _, only in content.profiles]
        if head.first_seq > low and not beyond and all(ours):
            return [Delivery(message(at, traffic, incarnation, commit), lane + at + 1) for at in range(len(content))]
        found: list[Delivery] = []
        for at, (profile, seq) in enumerate(zip(content.profile, content.seqs, strict=True)):
            if ours[profile]:
                lane += 1
                if seq > low and seq not in beyond:
                    found.append(Delivery(message(at, traffic, incarnation, commit), lane))
        return found


def _before(
    commit: int, held: tuple[int, list[BlockHead]] | None, lost: dict[int, list[BlockHead]]
) -> Iterator[tuple[int, list[BlockHead]]]:
    """The commits before ``commit``, lost blocks in their places; takes them out of ``lost``."""
    known = {} if held is None else {held[0]: held[1]}
    for at in sorted({*known, *[number for number in lost if number < commit]}):
        yield at, sorted([*known.get(at, []), *lost.pop(at, [])], key=lambda head: head.id)


def block_head(row: tuple[int, int, int, int, int, bytes, int, int]) -> BlockHead:
    """The clear columns (all but the time) as a value.

    Raises:
        IntegrityError: ``journal-damaged``: SQLite keeps any value in any column, and these cannot be ours.
    """
    if not all(isinstance(number, int) for number in (*row[:5], row[6])) or row[1] not in _BY_CODE:
        raise IntegrityError("journal-damaged", "the columns of a block are not what the journal writes")
    return BlockHead(row[0], row[1], row[2], row[3], row[4], decode_census(row[5]), row[6], bool(row[7]))


def _by_class(lanes: Mapping[int, int]) -> dict[TrafficClass, int]:
    return {_BY_CODE[code]: count for code, count in lanes.items() if count}
