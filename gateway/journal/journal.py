"""The journal's face: the only durable truth of the gateway. The invariants, with their numbers, are in this package's README.

Lives in the event loop; writes in one injected thread, reads in another. Nothing here knows a protocol, a destination or SQL.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gateway.journal.audit import AuditKind, AuditRecord
from gateway.journal.committer import Committer
from gateway.journal.cursor import SettleFacts, settle
from gateway.journal.exceptions import discard, replay, replay_messages
from gateway.journal.interface import (
    Condition,
    ExceptionRow,
    JournalEvent,
    JournalEventKind,
    JournalSnapshot,
    QueueRow,
    ReplayResult,
    RouteSnapshot,
)
from gateway.journal.lookup import LedgerView, dead_letters, exception_content, find_message, held_in_exceptions, requeued, trace
from gateway.journal.opening import open_writer
from gateway.journal.pragmas import connect_reader
from gateway.journal.probing import write_and_read_back
from gateway.journal.quarantine import declare_damage
from gateway.journal.quota import JOURNAL_NAME
from gateway.journal.reader import Reader, ReadRequest
from gateway.journal.refused import Refusals, list_refused, show_refused
from gateway.journal.replaying import RangeWalk
from gateway.journal.salvage import ask_for_salvage
from gateway.journal.witness import Witness
from gateway.model.cursor import START, Cursor, ReadResult
from gateway.model.errors import IntegrityError, LocalProtocolError
from gateway.model.event import EventId
from gateway.model.state import Term

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.journal.exceptions import DeadLetterContent
    from gateway.journal.interface import JournalPlace, JournalServices, RouteRule, TraceRecord
    from gateway.journal.keyring import OpenKeyring
    from gateway.journal.ledger import RouteLedger
    from gateway.journal.opening import Opened
    from gateway.journal.reader import ReadBatch
    from gateway.journal.refused import Refusal, RefusedRow
    from gateway.model.cursor import Settlement
    from gateway.model.message import AppendGroup, Delivery, StoredMessage

__all__ = ["Journal"]

_T = TypeVar("_T")
#: Refusals wait this long for company: a flood of bad frames must not set the pace of the fsyncs.
_NOTE_S: Final = 1.0
_LISTED_MAX: Final = 1000
_READ_BYTES: Final = 1024 * 1024


class Journal:
    """See the module text. Every error it raises is a ``GatewayError`` without a byte of content.

    Messages that cannot be read become declared gaps while reading; nothing that a route has not settled is ever deleted.
    """

    def __init__(self, place: JournalPlace, services: JournalServices, opened: Opened) -> None:
        self._place = place
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._opened = opened
        self._refusals = Refusals(opened.limits.quota // 100)
        self._committer = Committer(opened.writer, opened.dedupe, services, opened.first, write_and_read_back)
        self._committer.before_commit = self._note_refusals
        path = place.state_dir / JOURNAL_NAME
        self._reader = Reader(partial(connect_reader, path), opened.cipher.clone(), opened.writer.incarnation_of)
        self._noting: asyncio.TimerHandle | None = None
        self._closed = False
        self.incarnation = opened.writer.incarnation.hex()

    @classmethod
    async def open(cls, place: JournalPlace, keys: OpenKeyring, routing: tuple[RouteRule, ...], services: JournalServices) -> Journal:
        """Open the journal in ``place`` (make it where there is none), under a new incarnation, with this routing in force.

        The caller holds the lock of the state directory. Damage is put aside and salvaged; the cost does not depend on the
        backlog.

        Raises:
            LockedError: ``journal-newer``.
            StorageError, CapacityError: the disk refuses; nothing is lost.
        """
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(services.executor, open_writer, place, keys, routing, services)
        journal = cls(place, services, opened)
        if opened.lost_rows:
            journal._tell(JournalEvent(JournalEventKind.DEDUPE_LOST, "meta-unreadable", count=opened.lost_rows))
        if opened.salvaged is not None:
            journal._tell(JournalEvent(JournalEventKind.SALVAGED, opened.salvaged.damage or "behind-witness"))
        return journal

    async def close(self) -> None:
        """Commit what was asked for, write the stop into the audit, checkpoint, close. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._noting is not None:
            self._noting.cancel()
        if (write := self._refusals.take(self._services.clock.wall_us(), everything=True)) is not None:
            self._submit(write).add_done_callback(_seen)
        self._submit(lambda tx: tx.audit.append(AuditRecord(AuditKind.STOP))).add_done_callback(_seen)
        await self._committer.close()
        await self._loop.run_in_executor(self._services.reader_executor, self._reader.close)
        await self._loop.run_in_executor(self._services.executor, self._opened.writer.close)

    # ------------------------------------------------------------------ state

    def append(self, group: AppendGroup) -> None:
        """Take a group for the next commit. ``group.done`` is called later in the loop, in the order of the appends.

        A few microseconds a message. Errors of the entries: ``CapacityError`` (full), ``StorageError`` (the disk refuses).
        """
        self._committer.append(group)

    @property
    def condition(self) -> Condition:
        """What can be done now."""
        return self._committer.condition

    @property
    def error(self) -> str:
        """Code of what makes ``condition`` not RUNNING; empty otherwise."""
        return self._committer.error

    def snapshot(self) -> JournalSnapshot:
        """One atomic picture as of the last commit. Costs a few microseconds a route."""
        last = self._committer.last
        state = last.state
        return JournalSnapshot(
            self.incarnation,
            self.condition,
            state.accepted,
            tuple(_route_snapshot(ledger, last.oldest_us) for ledger in state.routes.values()),
            last.used,
            self._opened.limits.quota,
            state.blocks,
            state.commit,
            state.next_seq,
            self.error,
        )

    def witness(self) -> Witness:
        """How far the journal has come: what ``last-status.json`` testifies."""
        state = self._committer.last.state
        return Witness(state.commit, state.chain, state.next_seq, self._services.clock.wall_us())

    def on_append(self, callback: Callable[[], None]) -> None:
        """``callback()`` in the loop after each commit that brought messages or replays."""
        self._committer.on_commit.append(callback)

    # ------------------------------------------------------------------ routes

    def cursor(self, route: str) -> Cursor:
        """The settled cursor; the start of the journal for a route that it does not know."""
        ledger = self._committer.last.state.routes.get(route)
        return START if ledger is None else ledger.cursor

    async def read(self, route: str, after: Cursor, max_bytes: int) -> ReadResult:
        """The route's messages of the next whole commits behind ``after``: about ``max_bytes``, at least one message.

        Blocks that cannot be read are put aside and declared as gaps before this returns.

        Raises:
            GatewayError: the disk failed, or a gap could not be declared; the same read may be tried again.
        """
        batch = await self._read(route, after, max_bytes)
        if batch.damages:
            lost = await self._submit(lambda tx: declare_damage(tx, route, batch.damages))
            if lost:
                self._tell(JournalEvent(JournalEventKind.QUARANTINED, batch.damages[0].reason, self.condition, route, lost))
        return ReadResult(tuple(batch.deliveries), batch.after)

    async def _read(self, route: str, after: Cursor, max_bytes: int) -> ReadBatch:
        state = self._committer.last.state
        ledger = self._ledger(route)
        beyond = {seq: lane for seq, lane in ledger.beyond.items() if seq > after.seq} if ledger.beyond else {}
        request = ReadRequest(route, after, max_bytes, state.versions, state.next_seq, beyond, frozenset(ledger.gaps))
        return await self._in_reader(lambda: self._reader.read(request))

    async def settle(self, settlement: Settlement) -> None:
        """Durable when it returns. While the disk refuses it waits and is tried again; settling twice changes nothing.

        Raises:
            LocalProtocolError: ``route-unknown``, ``cursor-miscounts``; nothing is changed.
            StorageError: the journal was closed first.
        """
        await self.settle_soon(settlement)

    def settle_soon(self, settlement: Settlement) -> asyncio.Future[Any]:
        """As ``settle``, without waiting: the future is done once it is durable. Settlements happen in the order asked for."""
        facts = SettleFacts.of(settlement)
        return self._committer.submit(lambda tx: settle(tx, facts), patient=True)

    async def requeued(self, route: str, limit: int, max_bytes: int, after_seq: int = 0) -> list[Delivery]:
        """The route's replayed messages behind ``after_seq`` that are not settled, oldest first; the same ones until they are."""
        ledger = self._ledger(route)
        if not ledger.requeued:
            return []
        return await self._in_snapshot(lambda: requeued(self._reader, ledger, after_seq, limit, max_bytes))

    # ------------------------------------------------------------------ dead letters and replays

    async def dead_letters(self, route: str | None = None, limit: int = _LISTED_MAX) -> list[ExceptionRow]:
        """Dead letters (of one route or all), oldest first, without content."""
        found: list[ExceptionRow] = []
        for ledger in self._ledgers(route):
            if ledger.books.dead_letter:
                view = self._view(ledger)
                found += await self._in_snapshot(partial(dead_letters, self._reader, view, limit))
        return sorted(found, key=lambda row: row.seq)[:limit]

    async def exception_content(self, event: str, route: str | None = None) -> DeadLetterContent | None:
        """A dead letter with its content and its destination's reason. Revealing it is for the caller to ``note``."""
        for seq, ledger in self._named([event], route):
            content = await self._in_snapshot(partial(exception_content, self._reader, seq, ledger.number))
            if content is not None:
                return content
        return None

    async def replay_dead_letter(self, ids: Sequence[str], actor: str, reason: str = "", route: str | None = None) -> list[tuple[str, str]]:
        """dead_letter -> queued, with the next revision; (event id, route) of those that were dead letters."""
        return await self._act_on(ids, route, lambda tx, name, seqs: replay(tx, name, seqs, actor, reason))

    async def discard_dead_letter(
        self, ids: Sequence[str], actor: str, reason: str = "", route: str | None = None
    ) -> list[tuple[str, str]]:
        """dead_letter -> gap, declared to the route's receiver; (event id, route) of those that were dead letters."""
        return await self._act_on(ids, route, lambda tx, name, seqs: discard(tx, name, seqs, actor, reason))

    async def replay_range(self, route: str, since_us: int, until_us: int, *, dry_run: bool, actor: str) -> ReplayResult:
        """Send again what the route delivered (or dead-lettered) of the messages received in [since, until].

        Works block by block, each portion durable by itself; interrupted, it can be repeated: what is queued again is skipped.
        """
        ledger = self._ledger(route)
        walk = RangeWalk(self._reader, route, ledger, self._committer.last.state.versions, since_us, until_us)
        await self._in_reader(walk.begin)
        counts = {Term.DELIVERED: 0, Term.DEAD_LETTER: 0}
        skipped: dict[str, int] = {}
        while (portion := await self._in_reader(walk.next)) is not None:
            for term, number in portion.skipped.items():
                skipped[term] = skipped.get(term, 0) + number
            done: Mapping[Term, int] = {term: sum(c.term is term for c in portion.candidates) for term in counts}
            if portion.candidates and not dry_run:
                done = await self._submit(partial(_replay_portion, route, portion.candidates, actor))
            counts = {term: counts[term] + done[term] for term in counts}
        return ReplayResult(counts[Term.DELIVERED], counts[Term.DEAD_LETTER], skipped)

    # ------------------------------------------------------------------ looking

    async def queue(self, route: str, limit: int = 100) -> list[QueueRow]:
        """The oldest queued messages of a route, replayed ones first, without content. Changes nothing."""
        ledger = self._ledger(route)
        waiting = [_queue_row(self._services.gateway, d) for d in await self.requeued(route, limit, 2**62)]
        after = ledger.cursor
        while len(waiting) < limit:
            batch = await self._read(route, after, _READ_BYTES)
            waiting += [_queue_row(self._services.gateway, d) for d in batch.deliveries]
            if batch.after == after:
                break
            after = batch.after
        return waiting[:limit]

    async def message(self, event: str) -> StoredMessage | None:
        """A message by its event id, from its block or from a dead letter; None where nothing of it is kept."""
        named = EventId.parse(event)
        if named is None or named.gateway != self._services.gateway:
            return None
        numbers = [ledger.number for ledger in self._ledgers(None)]
        found = await self._in_snapshot(
            lambda: find_message(self._reader, named.seq) or held_in_exceptions(self._reader, named.seq, numbers)
        )
        return found if found is not None and found.incarnation == named.incarnation else None

    async def trace(self, event: str) -> list[TraceRecord]:
        """Every recorded fact about one message, in order, as far as the audit is kept."""
        named = EventId.parse(event)
        return [] if named is None else await self._in_reader(lambda: trace(self._reader, named.seq))

    # ------------------------------------------------------------------ notes

    def refuse_note(self, refusal: Refusal) -> None:
        """Keep a refused frame in the ring and count it for the audit. Never blocks, never raises, bounded."""
        if self._refusals.note(refusal) and self._noting is None and not self._closed:
            self._noting = self._loop.call_later(_NOTE_S, self._commit_notes)

    def _commit_notes(self) -> None:
        self._noting = None
        self._committer.look()

    def _note_refusals(self) -> None:
        if (write := self._refusals.take(self._services.clock.wall_us())) is not None:
            self._submit(write).add_done_callback(_seen)

    async def refused(self, limit: int = _LISTED_MAX) -> list[RefusedRow]:
        """The newest refused frames, newest first, without content."""
        return await self._in_snapshot(lambda: list_refused(self._reader.connection, self._reader.cipher, limit))

    async def refused_content(self, row: int) -> RefusedRow | None:
        """One refused frame with what was kept of it. Revealing it is for the caller to ``note``."""
        return await self._in_snapshot(lambda: show_refused(self._reader.connection, self._reader.cipher, row))

    async def note(self, kind: AuditKind, detail: Mapping[str, str | int], actor: str = "", *, route: str = "", event: str = "") -> None:
        """An audit record; durable when it returns. ``event``: the message it is about."""
        named = EventId.parse(event) if event else None
        record = AuditRecord(kind, () if named is None else ((named.seq, named.seq),), route, "", actor, dict(detail))
        await self._submit(lambda tx: tx.audit.append(record))

    async def probe(self) -> float:
        """Write a sealed row, commit, read it back, open it; how many seconds that took.

        Raises:
            GatewayError: it did not work.
        """
        started = self._services.clock.monotonic_s()
        await self._submit(write_and_read_back)
        return self._services.clock.monotonic_s() - started

    # ------------------------------------------------------------------ inside

    async def _act_on(
        self, ids: Sequence[str], route: str | None, act: Callable[[Any, str, list[int]], list[int]]
    ) -> list[tuple[str, str]]:
        by_route: dict[str, list[int]] = {}
        names: dict[tuple[str, int], str] = {}
        for event in ids:
            for seq, ledger in self._named([event], route):
                by_route.setdefault(ledger.name, []).append(seq)
                names[ledger.name, seq] = event
        if not by_route:
            return []
        done = await self._submit(lambda tx: [(name, seq) for name, seqs in by_route.items() for seq in act(tx, name, seqs)])
        return [(names[name, seq], name) for name, seq in done]

    def _named(self, ids: Sequence[str], route: str | None) -> list[tuple[int, RouteLedger]]:
        """(seq, route) for each id that is one of this gateway's."""
        events = [event for text in ids if (event := EventId.parse(text)) is not None and event.gateway == self._services.gateway]
        return [(event.seq, ledger) for event in events for ledger in self._ledgers(route)]

    def _ledger(self, route: str) -> RouteLedger:
        ledger = self._committer.last.state.routes.get(route)
        if ledger is None:
            raise LocalProtocolError("route-unknown", "the journal does not know this route")
        return ledger

    def _ledgers(self, route: str | None) -> list[RouteLedger]:
        return list(self._committer.last.state.routes.values()) if route is None else [self._ledger(route)]

    def _view(self, ledger: RouteLedger) -> LedgerView:
        return LedgerView(self._services.gateway, self._committer.last.state.versions, ledger)

    def _submit(self, run: Callable[[Any], _T]) -> asyncio.Future[_T]:
        return self._committer.submit(run)

    async def _in_snapshot(self, work: Callable[[], _T]) -> _T:
        return await self._in_reader(lambda: self._reader.in_snapshot(work))

    async def _in_reader(self, work: Callable[[], _T]) -> _T:
        try:
            return await self._loop.run_in_executor(self._services.reader_executor, work)
        except IntegrityError as error:
            if error.code == "journal-damaged":
                ask_for_salvage(self._place.state_dir)
                self._tell(JournalEvent(JournalEventKind.DAMAGED, error.code, self.condition))
            raise

    def _tell(self, event: JournalEvent) -> None:
        self._loop.call_soon(self._services.on_event, event)


def _replay_portion(route: str, candidates: Sequence[Any], actor: str, tx: Any) -> Mapping[Term, int]:
    return replay_messages(tx, route, candidates, actor)


def _route_snapshot(ledger: RouteLedger, oldest_us: Mapping[str, int | None]) -> RouteSnapshot:
    oldest = oldest_us.get(ledger.name) if ledger.books.queued else None
    return RouteSnapshot(ledger.name, ledger.books, ledger.cursor, oldest, ledger.requeued, ledger.configured)


def _queue_row(gateway: str, delivery: Delivery) -> QueueRow:
    message = delivery.message
    event = str(EventId(gateway, message.incarnation, message.seq))
    return QueueRow(
        event,
        message.source,
        message.kind,
        message.traffic,
        message.seq,
        delivery.laneseq,
        delivery.revision,
        message.received_us,
        len(message.body),
    )


def _seen(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it; its error was told as a failed commit."""
    if not future.cancelled():
        future.exception()
