"""Finding single messages and rows: queue listings, dead letters, replays, traces. All of it in the reader's thread.

Every function but ``trace`` runs inside ``Reader.in_snapshot``. Ids of blocks ascend with seq, so a message is found by
bisection over the rows; nothing here scans a backlog but ``trace``, which says so.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind, AuditRecord
from gateway.journal.exceptions import DeadLetterContent, exception_id, open_content, seq_of
from gateway.journal.interface import ExceptionRow, TraceRecord
from gateway.journal.reader import BlockHead, block_head
from gateway.journal.records import NO_INCARNATION, TABLE_META, block_id, commit_of, decode_meta
from gateway.model.errors import IntegrityError
from gateway.model.event import EventId
from gateway.model.message import Delivery
from gateway.model.state import Term
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gateway.journal.ledger import RouteLedger, RoutingVersion
    from gateway.journal.reader import Reader
    from gateway.journal.records import BlockContent, BlockRef, MetaRow
    from gateway.model.message import StoredMessage

__all__ = [
    "LedgerView",
    "Places",
    "commit_with",
    "dead_letters",
    "exception_content",
    "find_message",
    "held_in_exceptions",
    "requeued",
    "trace",
]

_FIRST_FROM: Final = "SELECT id, first_seq FROM block WHERE id >= ? ORDER BY id LIMIT 1"
_NEWEST: Final = "SELECT max(id) FROM block"
_OF_COMMIT: Final = "SELECT id, class, first_seq, last_seq, n, census, size, sealed IS NULL FROM block WHERE id >= ? AND id < ? ORDER BY id"
_REQUEUED: Final = (
    "SELECT id, class, laneseq, revision, block_commit, sealed FROM exception WHERE state = 3 AND route = ? AND id > ? ORDER BY id LIMIT ?"
)
_DEAD: Final = (
    "SELECT id, class, laneseq, revision, block_commit, at_us, sealed FROM exception WHERE state = 2 AND route = ? ORDER BY id LIMIT ?"
)
_ONE: Final = "SELECT id, class, sealed FROM exception WHERE id = ? AND sealed IS NOT NULL"
_BY_CODE: Final = {traffic.code: traffic for traffic in TrafficClass}
_METAS: Final = "SELECT id, at_us, sealed FROM commit_meta WHERE id >= ? ORDER BY id LIMIT 256"


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What the loop's side knows and the lookups need: the gateway's name, the routing of the past, the route's ledger."""

    gateway: str
    versions: tuple[RoutingVersion, ...]
    ledger: RouteLedger


class Places:
    """Messages by (commit, seq); keeps the last opened blocks, because neighbours are asked for together."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._commit = -1
        self._contents: list[tuple[BlockHead, BlockContent]] = []

    def message(self, commit: int, seq: int) -> StoredMessage | None:
        """The message, None where it cannot be read (any more)."""
        if commit != self._commit:
            self._commit, self._contents = commit, list(self._open(commit))
        for head, content in self._contents:
            at = bisect_left(content.seqs, seq)
            if at < len(content) and content.seqs[at] == seq:
                incarnation = self._reader.incarnation_of(commit).hex()
                return content.message(at, TrafficClass.from_code(head.traffic), incarnation, commit)
        return None

    def _open(self, commit: int) -> Iterator[tuple[BlockHead, BlockContent]]:
        for row in self._reader.connection.execute(_OF_COMMIT, (block_id(commit), block_id(commit + 1))).fetchall():
            head = block_head(row)
            try:
                yield head, self._reader.open_block(head)
            except IntegrityError:
                continue


def commit_with(reader: Reader, seq: int) -> int | None:
    """The commit that should hold ``seq``: the last one that begins at or before it."""
    connection = reader.connection
    first, newest = connection.execute(_FIRST_FROM, (0,)).fetchone(), connection.execute(_NEWEST).fetchone()[0]
    if first is None or first[1] > seq:
        return None
    low, high = commit_of(first[0]), commit_of(newest)
    while low < high:
        middle = (low + high + 1) // 2
        row = connection.execute(_FIRST_FROM, (block_id(middle),)).fetchone()
        if row is None or row[1] > seq:
            high = middle - 1
        else:
            low = commit_of(row[0])
    return low


def find_message(reader: Reader, seq: int) -> StoredMessage | None:
    """A message out of the kept blocks."""
    commit = commit_with(reader, seq)
    return None if commit is None else Places(reader).message(commit, seq)


def held_in_exceptions(reader: Reader, seq: int, numbers: Iterable[int]) -> StoredMessage | None:
    """A message whose block is gone, out of the dead letters of these routes."""
    for number in numbers:
        content = exception_content(reader, seq, number)
        if content is not None:
            return content.message
    return None


def exception_content(reader: Reader, seq: int, number: int) -> DeadLetterContent | None:
    """A dead letter with its content and the destination's reason; None where there is none."""
    row = reader.connection.execute(_ONE, (exception_id(seq, number),)).fetchone()
    return None if row is None else open_content(reader.cipher, row[0], row[1], row[2])


def requeued(reader: Reader, ledger: RouteLedger, after_seq: int, limit: int, max_bytes: int) -> list[Delivery]:
    """The route's replayed messages that are not settled yet, oldest first; what cannot be read any more is left out."""
    places = Places(reader)
    found: list[Delivery] = []
    size = 0
    rows = reader.connection.execute(_REQUEUED, (ledger.number, exception_id(after_seq, 0xFFFF), limit)).fetchall()
    for row, traffic, lane, revision, commit, sealed in rows:
        message = _requeued_message(reader, places, row, traffic, commit, sealed)
        if message is None:
            continue
        size += len(message.body)
        if found and size > max_bytes:
            break
        found.append(Delivery(message, lane, revision, requeued=True))
    return found


def _requeued_message(reader: Reader, places: Places, row: int, traffic: int, commit: int, sealed: bytes | None) -> StoredMessage | None:
    if sealed is None:
        return places.message(commit, seq_of(row))
    try:
        return open_content(reader.cipher, row, traffic, sealed).message
    except IntegrityError:
        return places.message(commit, seq_of(row))


def dead_letters(reader: Reader, view: LedgerView, limit: int) -> list[ExceptionRow]:
    """The route's dead letters, oldest first, without content."""
    return [_listed(reader, view, row) for row in reader.connection.execute(_DEAD, (view.ledger.number, limit)).fetchall()]


def _listed(reader: Reader, view: LedgerView, found: tuple[int, int, int, int, int, int, bytes]) -> ExceptionRow:
    row, code, lane, revision, commit, at_us, sealed = found
    seq = seq_of(row)
    traffic = _BY_CODE.get(code, TrafficClass.OTHER)  # a damaged column must not hide the others
    try:
        content = open_content(reader.cipher, row, code, sealed)
    except IntegrityError as error:
        event = str(EventId(view.gateway, _incarnation(reader, commit), seq))
        return ExceptionRow(event, view.ledger.name, seq, Term.DEAD_LETTER, traffic, lane, revision, at_us, code=error.code)
    message = content.message
    return ExceptionRow(
        str(EventId(view.gateway, message.incarnation, seq)),
        view.ledger.name,
        seq,
        Term.DEAD_LETTER,
        traffic,
        lane,
        revision,
        at_us,
        message.source,
        message.kind,
        message.received_us,
        content.code,
        len(message.body),
    )


def _incarnation(reader: Reader, commit: int) -> str:
    try:
        return reader.incarnation_of(commit).hex()
    except IntegrityError:
        return NO_INCARNATION.hex()


# ---------------------------------------------------------------- traces


def trace(reader: Reader, seq: int) -> list[TraceRecord]:
    """Every recorded fact about one message, in order. Reads all commit rows from the message's on, a portion a snapshot."""
    commit = reader.in_snapshot(lambda: commit_with(reader, seq)) or 0
    message = reader.in_snapshot(lambda: find_message(reader, seq))
    source = "" if message is None else message.source
    found: list[TraceRecord] = []
    at = 0 if message is None else commit
    while rows := reader.in_snapshot(partial(_metas, reader, at)):
        for number, at_us, sealed in rows:
            meta = _opened(reader, number, sealed)
            if meta is not None:
                found += [TraceRecord(number, at_us, record) for record in _facts(meta, seq, source)]
        at = rows[-1][0] + 1
    return found


def _metas(reader: Reader, at: int) -> list[tuple[int, int, bytes]]:
    return reader.connection.execute(_METAS, (at,)).fetchall()


def _opened(reader: Reader, number: int, sealed: bytes) -> MetaRow | None:
    try:
        return decode_meta(reader.cipher.open(TABLE_META, number, 0, 0, 0, reader.incarnation_of(number), sealed))
    except IntegrityError:
        return None


def _facts(meta: MetaRow, seq: int, source: str) -> Iterator[AuditRecord]:
    blocks = [ref for ref in meta.blocks if ref.first_seq <= seq <= ref.last_seq]
    if blocks:
        yield AuditRecord(AuditKind.ACCEPT, ((seq, seq),), source=source or _only_source(blocks))
    for record in meta.audit:
        if record.covers(seq):
            yield record


def _only_source(blocks: Sequence[BlockRef]) -> str:
    """The source, where the census leaves no doubt."""
    sources = {source for ref in blocks for source, _ in ref.census}
    return sources.pop() if len(sources) == 1 else ""
