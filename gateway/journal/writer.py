"""The writer's thread: one connection, one transaction a commit, one fsync a transaction.

Everything here runs in the injected one-thread executor. ``state`` is what the last successful commit left; a failed commit
changes nothing. After a failed commit the connection is given up and opened again before the next try: an fsync is never
repeated (the kernel may have dropped the pages), the log is checkpointed and cut first, and the state is read anew, because a
commit that reported an error may be found to have happened.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind, AuditRecord, chain_next
from gateway.journal.blocks import pack
from gateway.journal.dedupe import Digest
from gateway.journal.ledger import JournalState, decode_state, encode_state, member, members
from gateway.journal.migrations import migrate
from gateway.journal.pragmas import connect_writer, storage_error
from gateway.journal.quota import JOURNAL_NAME, Ballast, Gauge, Limits
from gateway.journal.records import TABLE_META, block_id, decode_census, decode_meta, encode_meta
from gateway.journal.retention import Oldest, RetainRule, find_oldest, is_due, retire
from gateway.journal.salvage import ask_for_salvage
from gateway.journal.transaction import Act, Transaction
from gateway.model.cursor import Cursor
from gateway.model.errors import CapacityError, GatewayError, IntegrityError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gateway.journal.blocks import SealedBlock
    from gateway.journal.cipher import RecordCipher
    from gateway.journal.dedupe import Blinder
    from gateway.journal.interface import JournalPlace
    from gateway.journal.keyring import OpenKeyring
    from gateway.journal.ledger import RouteLedger
    from gateway.journal.records import Census
    from gateway.model.clock import ClockState
    from gateway.model.message import AppendGroup, Entry

__all__ = ["CommitBatch", "Committed", "PendingGroup", "Writer"]

_INSERT_BLOCK: Final = (
    "INSERT INTO block (id, class, first_seq, last_seq, n, census, at_us, size, sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_META: Final = "INSERT INTO commit_meta (id, at_us, sealed) VALUES (?, ?, ?)"
_NEWEST: Final = "SELECT id, at_us, sealed FROM commit_meta ORDER BY id DESC LIMIT 1"
_AHEAD: Final = "SELECT last_seq, census, at_us FROM block WHERE id >= ? ORDER BY id LIMIT 32"
_OLDEST_REQUEUED: Final = "SELECT at_us FROM exception WHERE state = 3 AND route = ? ORDER BY id LIMIT 1"
_DAY_US: Final = 86_400_000_000
#: What the commit row and the pages around it take, beside the blocks.
_FULL: Final = CapacityError("journal-full", "the journal's quota is used: deliver, discard or raise the quota")


@dataclass(slots=True, eq=False)
class PendingGroup:
    """A group that waits for its commit. ``fresh``: entries to be written; ``keys``: their duplicate keys.

    ``copies``: (duplicate, original) pairs that share the original's fate.
    """

    group: AppendGroup
    fresh: list[Entry]
    keys: list[tuple[bytes, Entry]]
    copies: list[tuple[Entry, Entry]]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CommitBatch:
    """What the next transaction is asked to do. ``window``: first commit whose duplicate keys are still needed."""

    groups: Sequence[PendingGroup]
    acts: Sequence[Act]
    at_us: int
    clock_state: ClockState
    window: int


@dataclass(frozen=True, slots=True)
class Committed:
    """What it did. ``written`` False: there was nothing to write. ``more``: another retirement is due already.

    ``oldest_us``: per route, reception time of its oldest queued message. ``adopted``: commit and duplicate keys of a
    commit that had reported an error and was found to have happened.
    """

    state: JournalState
    written: bool
    appended: int
    used: int
    full: bool
    more: bool
    oldest_us: Mapping[str, int | None]
    ballast: bool = False
    adopted: tuple[int, bytes] | None = None


class Writer:
    """See the module text. ``incarnation``: 16 bytes, set by ``open``."""

    def __init__(self, place: JournalPlace, keys: OpenKeyring, limits: Limits, cipher: RecordCipher, blinder: Blinder) -> None:
        self._place = place
        self._keys = keys
        self._limits = limits
        self._cipher = cipher
        self._blinder = blinder
        self._ballast = Ballast(place.state_dir, limits.reserve)
        self._digest = Digest()
        self._gauge = Gauge(place.state_dir)
        self._connection: sqlite3.Connection | None = None
        self._incarnations: list[tuple[int, bytes]] = []
        self._oldest = Oldest()
        self._oldest_us: dict[str, int | None] = {}
        self._used = 0
        self._full = False
        self._disk_full = False
        self._adopted: tuple[int, bytes] | None = None
        self.state = JournalState()
        self.incarnation = b""

    # ------------------------------------------------------------------ opening

    def connect(self) -> list[int]:
        """Open the file (making it where it is missing), bring its schema up to date, read the newest state.

        Returns the numbers of the schema steps taken.

        Raises:
            GatewayError: the disk refuses, the file is damaged or newer than this program.
        """
        connection = connect_writer(self._place.state_dir / JOURNAL_NAME, self._limits.checkpoint_pages, self._limits.max_pages)
        try:
            steps = migrate(connection)
            self._load(connection)
        except sqlite3.Error as error:
            connection.close()
            raise storage_error(error) from None
        except GatewayError:
            connection.close()
            raise
        self._connection = connection
        return steps

    def _load(self, connection: sqlite3.Connection) -> None:
        self._incarnations = [
            (row[0], bytes(row[1])) for row in connection.execute("SELECT first_commit, uuid FROM incarnation ORDER BY id")
        ]
        newest = connection.execute(_NEWEST).fetchone()
        if newest is not None and newest[0] != self.state.commit:
            number, at_us, sealed = newest
            meta = decode_meta(self._cipher.open(TABLE_META, number, 0, 0, 0, self.incarnation_of(number), sealed))
            link = chain_next(self._keys.chain_key, meta.prev, number, at_us, sealed)
            self.state = decode_state(meta.state, number, link)
            self._adopted = (number, meta.keys)
        self._oldest = find_oldest(connection)
        self._used = self._gauge.measure(connection)

    def begin_incarnation(self, uuid: bytes, prepare: Callable[[Transaction], None], at_us: int, clock_state: ClockState) -> Committed:
        """The first commit of this start: the incarnation row, and what ``prepare`` does.

        Raises:
            GatewayError: the disk refuses; nothing was written.
        """
        self.incarnation = uuid

        def run(tx: Transaction) -> None:
            tx.connection.execute("INSERT INTO incarnation (uuid, first_commit, started_us) VALUES (?, ?, ?)", (uuid, tx.number, tx.at_us))
            tx.audit.append(AuditRecord(AuditKind.START, detail={"incarnation": uuid.hex()}))
            prepare(tx)

        self._incarnations.append((self.state.commit + 1, uuid))
        try:
            self._transact([], [Act(run)], at_us, clock_state, window=0)
        except GatewayError:
            self._incarnations.pop()
            raise
        self._oldest_us = {name: self._oldest_queued(name) for name in self.state.routes}
        self._adopted = None  # the window is read from the rows at a start
        self._ballast.place()
        self._full = self._limits.is_full(self._used, was_full=False)
        return Committed(self.state, written=True, appended=0, used=self._used, full=self._full, more=True, oldest_us=dict(self._oldest_us))

    def incarnation_of(self, commit: int) -> bytes:
        """The incarnation under which a commit was sealed.

        Raises:
            IntegrityError: ``incarnation-unknown``.
        """
        at = bisect_right(self._incarnations, commit, key=lambda known: known[0])
        if at == 0:
            raise IntegrityError("incarnation-unknown", "a commit is older than every recorded start")
        return self._incarnations[at - 1][1]

    def incarnations(self) -> tuple[tuple[int, bytes], ...]:
        """(first commit, incarnation) of every start, oldest first."""
        return tuple(self._incarnations)

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection; opened again where the last commit failed."""
        if self._connection is None:
            self._reopen()
        if self._connection is None:
            raise StorageError("journal-closed", "the journal is closed")
        return self._connection

    def _reopen(self) -> None:
        """After a failed commit: a new connection, and a log that starts afresh.

        What is committed from now on must not depend on log pages whose fsync failed.
        """
        self.connect()
        if self._connection is None:
            return
        try:
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if self._adopted is not None:
                self._oldest_us = {name: self._oldest_queued(name) for name in self.state.routes}
        except sqlite3.Error as error:
            self._abandon()
            raise storage_error(error) from None
        if busy:
            self._abandon()
            raise StorageError("journal-busy", "the log cannot be checkpointed while it is being read")

    def _abandon(self) -> None:
        """Give the connection up after an error; what it says while closing does not matter any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                return

    def close(self) -> None:
        """Checkpoint, close."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()
            except sqlite3.Error:
                return  # what is committed is in the log; the next start reads it from there

    # ------------------------------------------------------------------ committing

    def commit(self, batch: CommitBatch) -> Committed:
        """One transaction for all of it. Entries get ``seq`` or ``error``, acts ``result`` or ``error``.

        Raises:
            GatewayError: nothing of the batch happened (or its outcome is unknown until the file is opened again).
        """
        released = False
        groups = list(batch.groups)
        try:
            appended, written = self._transact(groups, batch.acts, batch.at_us, batch.clock_state, batch.window)
        except CapacityError as error:
            # The file system is full: give up the ballast and do everything but the appends.
            released = self._ballast.release()
            self._disk_full = True
            _refuse(groups, error)
            appended, written = self._transact([], batch.acts, batch.at_us, batch.clock_state, batch.window)
        self._look_at_space()
        more = self._connection is not None and is_due(self._oldest, self._next(batch, self._connection), self._rule(batch.window))
        adopted, self._adopted = self._adopted, None
        return Committed(self.state, written, appended, self._used, self._full, more, dict(self._oldest_us), released, adopted)

    def _next(self, batch: CommitBatch, connection: sqlite3.Connection) -> Transaction:
        """What a transaction right behind this one would see."""
        number = self.state.commit + 1
        return Transaction(connection, self._cipher, self.state, number, batch.at_us, batch.clock_state, self.incarnation_of)

    def _look_at_space(self) -> None:
        if self._disk_full and self._ballast.place():
            self._disk_full = False
        self._full = self._disk_full or self._limits.is_full(self._used, was_full=self._full)

    def _rule(self, window: int) -> RetainRule:
        return RetainRule(int(self._place.retain_days * _DAY_US), self._used > self._limits.pressure, window)

    def _transact(
        self, groups: Sequence[PendingGroup], acts: Sequence[Act], at_us: int, clock_state: ClockState, window: int
    ) -> tuple[int, bool]:
        """Everything between BEGIN and COMMIT; (messages appended, whether anything was written)."""
        connection = self.connection
        number = self.state.commit + 1
        tx = Transaction(connection, self._cipher, self.state.draft(), number, at_us, clock_state, self.incarnation_of)
        try:
            if connection.in_transaction:  # a defect of ours ended the last one half way
                connection.execute("ROLLBACK")
                self._digest.clear()
            connection.execute("BEGIN IMMEDIATE")
            _perform(acts, tx)
            oldest = retire(tx, self._oldest, self._rule(window))
            fresh, blocks, keys = self._append(tx, groups)
            changed = bool(blocks or tx.audit or tx.state != self.state)
            if changed:
                self._write_meta(tx, blocks, keys)
            # Asked inside the transaction: outside it would take locks again, and the log's length of a commit ago will do.
            self._used = self._gauge.measure(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from None
        before, self.state = self.state, tx.state
        try:
            self._oldest = oldest or (self._oldest if self._oldest.block and self._oldest.row else find_oldest(connection))
            self._follow(before, fresh)
        except sqlite3.Error:
            self._abandon()  # it is committed all the same; the next commit opens the file anew
        return len(fresh), changed

    def _failed(self, error: sqlite3.Error) -> GatewayError:
        """A full disk needs a rollback only; after anything else the connection is not trusted any more."""
        mapped = storage_error(error)
        connection = self._connection
        self._digest.clear()
        if not isinstance(mapped, CapacityError) or connection is None:
            if isinstance(mapped, IntegrityError):
                ask_for_salvage(self._place.state_dir)
            self._abandon()
            return mapped
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._abandon()
        return mapped

    def _append(self, tx: Transaction, groups: Sequence[PendingGroup]) -> tuple[list[Entry], list[SealedBlock], list[bytes]]:
        """Number and seal what fits, insert it, count it."""
        accepted = self._admit(tx, groups)
        fresh = [entry for pending in accepted for entry in pending.fresh]
        fresh += tx.events
        if not fresh:
            return [], [], []
        for seq, entry in enumerate(fresh, start=tx.state.next_seq):
            entry.seq = seq
        blocks = pack(fresh, 0, tx.number, self.incarnation, self._cipher, self._blinder)
        tx.connection.executemany(_INSERT_BLOCK, [block.row(tx.at_us) for block in blocks])
        tx.state.next_seq = fresh[-1].seq + 1
        tx.state.blocks += len(blocks)
        _account(tx, blocks)
        return fresh, blocks, [key for pending in accepted for key, _ in pending.keys]

    def _admit(self, tx: Transaction, groups: Sequence[PendingGroup]) -> Sequence[PendingGroup]:
        """The groups that the quota has room for; each of the others is refused alone.

        Sizes are taken before compression as long as there is plenty of room; close to the limit each group is packed for
        trial.
        """
        if self._limits.fits(self._used, sum(pending.size_bytes for pending in groups)):
            return groups
        accepted: list[PendingGroup] = []
        taken = 0
        for pending in groups:
            size = sum(len(block.sealed) for block in pack(pending.fresh, 0, tx.number, self.incarnation, self._cipher, self._blinder))
            if self._limits.fits(self._used, taken + size):
                accepted.append(pending)
                taken += size
            else:
                _refuse([pending], _FULL)
        return accepted

    def _write_meta(self, tx: Transaction, blocks: Sequence[SealedBlock], keys: Sequence[bytes]) -> None:
        state = tx.state
        keys_from, kept = self._digest.add(tx.number, keys)
        plaintext = encode_meta(state.chain, [block.ref for block in blocks], tx.audit, encode_state(state), kept, keys_from)
        sealed = self._cipher.seal(TABLE_META, tx.number, 0, 0, 0, self.incarnation, plaintext)
        tx.connection.execute(_INSERT_META, (tx.number, tx.at_us, sealed))
        state.chain = chain_next(self._keys.chain_key, state.chain, tx.number, tx.at_us, sealed)
        state.commit = tx.number

    # ------------------------------------------------------------------ ages

    def _follow(self, before: JournalState, fresh: Sequence[Entry]) -> None:
        """Keep the age of each route's oldest queued message."""
        for name, ledger in self.state.routes.items():
            known = before.routes.get(name)
            if ledger is known:
                continue
            if not ledger.books.queued:
                self._oldest_us[name] = None
            elif known is None or not known.books.queued:
                self._oldest_us[name] = self._first_received(name, fresh)
            elif ledger.cursor.seq != known.cursor.seq or ledger.requeued != known.requeued:
                self._oldest_us[name] = self._oldest_queued(name)

    def _first_received(self, name: str, fresh: Iterable[Entry]) -> int | None:
        rule = self.state.rules().get(name, frozenset())
        received = (entry.received_us for entry in fresh if member(rule, name, entry.source, entry.route))
        first = next(received, None)
        return self._oldest_queued(name) if first is None else first

    def _oldest_queued(self, name: str) -> int | None:
        """From the first block ahead that holds one of the route's; the commit time stands for the reception."""
        ledger = self.state.routes[name]
        if not ledger.books.queued:
            return None
        if ledger.requeued and (row := self.connection.execute(_OLDEST_REQUEUED, (ledger.number,)).fetchone()):
            return int(row[0])
        rule = self.state.rules().get(name)
        for last_seq, census, at_us in self.connection.execute(_AHEAD, (block_id(ledger.cursor.commit),)).fetchall():
            if last_seq > ledger.cursor.seq and members(rule, name, decode_census(census)):
                return int(at_us)
        return None


def _perform(acts: Iterable[Act], tx: Transaction) -> None:
    for act in acts:
        act.error = None
        try:
            act.result = act.run(tx)
        except GatewayError as error:
            act.error = error


def _refuse(groups: Iterable[PendingGroup], error: GatewayError) -> None:
    for pending in groups:
        for entry in pending.fresh:
            entry.error = error


def _account(tx: Transaction, blocks: Iterable[SealedBlock]) -> None:
    """Count what was appended, per source and per route; a route that waits for nothing moves along for nothing."""
    census: Census = {}
    for block in blocks:
        for key, count in block.ref.census.items():
            census[key] = census.get(key, 0) + count
    accepted = tx.state.accepted
    for (source, _), count in census.items():
        accepted[source] = accepted.get(source, 0) + count
    last = tx.state.next_seq - 1
    for name, rule in tx.state.rules().items():
        ledger = tx.state.routes[name]
        if count := members(rule, name, census):
            tx.state.routes[name] = replace(ledger, books=replace(ledger.books, accepted=ledger.books.accepted + count))
        elif not ledger.ahead and not ledger.beyond and not ledger.gaps:
            tx.state.routes[name] = _moved_along(ledger, tx.number, last)


def _moved_along(ledger: RouteLedger, commit: int, seq: int) -> RouteLedger:
    """Nothing of the route is between its cursor and this commit: a rare source must not pin the blocks of the others."""
    return replace(ledger, cursor=Cursor(commit, seq, ledger.cursor.laneseq))
