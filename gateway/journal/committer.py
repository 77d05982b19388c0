"""Group commit, the event loop's side: what arrives while a commit runs goes into the next one. No timer on the way.

Groups finish in the order in which they were appended; acts (settlements, replays, notes) go first in their transaction. When
a commit fails, its groups fail and nothing else is tried for a second; groups that arrive meanwhile fail at once with the
same error, settlements wait, and the next try writes a real row, so that a disk that came back is noticed without traffic.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.journal.interface import Condition, JournalEvent, JournalEventKind
from gateway.journal.transaction import Act, Transaction
from gateway.journal.writer import CommitBatch, Committed, PendingGroup, Writer
from gateway.model.errors import CapacityError, GatewayError, StorageError
from gateway.model.limits import COMMIT_MAX_BYTES, COMMIT_MAX_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

    from gateway.journal.dedupe import Dedupe
    from gateway.journal.interface import JournalServices
    from gateway.model.message import AppendGroup, Entry

__all__ = ["Committer"]

_RETRY_S: Final = 1.0
#: On an idle box nothing else would delete what has become old.
_IDLE_S: Final = 30.0
#: More children than this in one frame are no batch of messages; ids and one transaction have to hold them.
_GROUP_MAX_MESSAGES: Final = 1_000_000
_GROUP_MAX_BYTES: Final = 256 * 1024 * 1024
_FULL: Final = CapacityError("journal-full", "the journal is full: deliver, discard, free space or raise the quota")
_CLOSED: Final = StorageError("journal-closed", "the journal is closed")


class Committer:
    """Lives in the event loop. ``last`` is what the newest successful commit left; ``condition`` what can be done now.

    ``probe``: the act that writes one row and reads it back. ``on_commit``: called after each commit that brought messages or
    replays, in the loop.
    """

    def __init__(
        self, writer: Writer, dedupe: Dedupe, services: JournalServices, first: Committed, probe: Callable[[Transaction], Any]
    ) -> None:
        self._writer = writer
        self._dedupe = dedupe
        self._services = services
        self._loop = asyncio.get_running_loop()
        self._probe = probe
        self._groups: deque[PendingGroup] = deque()
        self._acts: list[Act] = []
        self._busy = False
        self._scheduled = False
        self._closing = False
        self._failure: GatewayError | None = None
        self._quiet: asyncio.Future[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._idle = self._loop.call_later(_IDLE_S, self._look_idle)
        self.last = first
        self.condition = Condition.FULL if first.full else Condition.RUNNING
        self.error = ""
        self.on_commit: list[Callable[[], None]] = []
        self.before_commit: Callable[[], None] | None = None
        if first.full:
            self._retry_later()

    # ------------------------------------------------------------------ asking

    def append(self, group: AppendGroup) -> None:
        """Take a group for the next commit."""
        refused = self._refusal(group)
        if refused is not None:
            for entry in group.entries:
                entry.error = refused
            pending = PendingGroup(group, [], [], [], 0)
        else:
            pending = self._admit(group)
        self._groups.append(pending)
        self._kick()

    def _admit(self, group: AppendGroup) -> PendingGroup:
        fresh: list[Entry] = []
        keys: list[tuple[bytes, Entry]] = []
        copies: list[tuple[Entry, Entry]] = []
        size = 0
        admit = self._dedupe.admit
        for entry in group.entries:
            if entry.identity is not None:
                key, original = admit(entry)
                if original is not None:
                    if original is not entry:
                        copies.append((entry, original))
                    continue
                keys.append((key, entry))
            fresh.append(entry)
            size += len(entry.body) + len(entry.envelope)
        return PendingGroup(group, fresh, keys, copies, size)

    def _refusal(self, group: AppendGroup) -> GatewayError | None:
        """Why nothing of it can be stored now; None where it can be tried."""
        if self._closing:
            return _CLOSED
        if self._failure is not None:
            return self._failure
        if self.condition is Condition.FULL:
            return _FULL
        if len(group.entries) > _GROUP_MAX_MESSAGES or group.size_bytes > _GROUP_MAX_BYTES:
            return CapacityError("group-too-large", "one frame holds more messages than one commit can take")
        return None

    def submit(self, run: Callable[[Transaction], Any], *, patient: bool = False) -> asyncio.Future[Any]:
        """Do ``run`` in the next commit; the future has its result once that is durable.

        The future fails with what ``run`` raises, or, unless ``patient``, with the error of the commit.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._closing:
            future.set_exception(_CLOSED)
        elif self._failure is not None and not patient:
            future.set_exception(self._failure)
        else:
            self._acts.append(Act(run, future, patient))
            self._kick()
        return future

    def look(self) -> None:
        """Commit what is due (retirements, notes that ``before_commit`` adds), if anything is."""
        if not self._closing and self._failure is None:
            self._acts.append(Act(_nothing))
            self._kick()

    async def close(self) -> None:
        """Finish what was asked for; what cannot be written now fails."""
        if self.before_commit is not None and self._failure is None:
            self.before_commit()
        self._closing = True
        self._idle.cancel()
        if self._retry is not None:
            self._retry.cancel()
        if self._failure is not None:
            self._fail_acts(self._failure, patient=True)
        while self._busy or self._groups or self._acts:
            self._quiet = self._loop.create_future()
            self._kick()
            await self._quiet

    # ------------------------------------------------------------------ committing

    def _kick(self) -> None:
        if not self._busy and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._scheduled = False
        if self._busy:
            return
        if self.before_commit is not None and self._failure is None and not self._closing:
            self.before_commit()
        groups, acts = self._take()
        if acts or any(pending.fresh for pending in groups):
            self._busy = True
            oldest = self._dedupe.oldest_commit
            clock = self._services.clock
            window = self.last.state.commit + 1 if oldest is None else oldest
            batch = CommitBatch(groups, acts, clock.wall_us(), clock.state(), window)
            self._services.executor.submit(self._writer.commit, batch).add_done_callback(partial(self._hand_over, batch))
            return
        self._finish(deque(groups))  # duplicates of committed messages, and refusals: nothing to write
        self._tell_quiet()
        if self._groups:
            self._kick()

    def _take(self) -> tuple[list[PendingGroup], list[Act]]:
        acts: list[Act] = []
        if self._failure is None or self._retry is None:
            acts, self._acts = self._acts, []
        groups: list[PendingGroup] = []
        messages = size = 0
        while self._groups and (not groups or (messages < COMMIT_MAX_MESSAGES and size < COMMIT_MAX_BYTES)):
            pending = self._groups.popleft()
            groups.append(pending)
            messages += len(pending.fresh)
            size += pending.size_bytes
        return groups, acts

    def _hand_over(self, batch: CommitBatch, running: Future[Committed]) -> None:
        """In the writer's thread. One wake-up of the loop a commit; ``run_in_executor`` would chain two futures for the same."""
        self._loop.call_soon_threadsafe(self._committed, batch, running)

    def _committed(self, batch: CommitBatch, running: Future[Committed]) -> None:
        self._busy = False
        error = running.exception()
        if error is None:
            self._succeeded(batch, running.result())
            return
        if not isinstance(error, GatewayError):
            # A defect of ours: its text may quote data, so only its type leaves; the writer opens its connection anew.
            context = {"message": f"journal: a commit failed with {type(error).__name__}"}
            self._loop.call_exception_handler(context)
            error = StorageError("journal-defect", "a defect of the program: nothing was stored; report it")
        self._failed(batch, error)

    def _succeeded(self, batch: CommitBatch, done: Committed) -> None:
        before, self.last = self.last, done
        if done.adopted is not None:
            self._dedupe.load(*done.adopted)
        for pending in batch.groups:
            if pending.keys:
                self._dedupe.settle(pending.keys, done.state.commit, committed=pending.fresh[0].error is None)
        self._failure = None
        self._set_condition(Condition.FULL if done.full else Condition.RUNNING, "journal-full" if done.full else "")
        if done.ballast:
            self._tell(JournalEvent(JournalEventKind.BALLAST, "released", self.condition))
        if self._groups or self._acts:
            self._kick()
        elif done.more:
            self._loop.call_later(_RETRY_S, self.look)
        _resolve(batch.acts)
        self._tell_quiet()
        if done.appended or _requeued(done) != _requeued(before):
            self._finish(deque(batch.groups), list(self.on_commit))
        else:
            self._finish(deque(batch.groups))

    def _failed(self, batch: CommitBatch, error: GatewayError) -> None:
        for pending in batch.groups:
            for entry in pending.fresh:
                entry.error = error
            self._dedupe.settle(pending.keys, 0, committed=False)
        full = isinstance(error, CapacityError)
        self._failure = error
        self._acts[:0] = batch.acts
        self._fail_acts(error, patient=self._closing)
        self._tell(JournalEvent(JournalEventKind.COMMIT_FAILED, error.code, self.condition))
        if error.code == "journal-damaged":
            self._tell(JournalEvent(JournalEventKind.DAMAGED, error.code, self.condition))
        self._set_condition(Condition.FULL if full else Condition.READ_ONLY, error.code)
        self._fail_groups(error)
        self._retry_later()
        self._tell_quiet()
        self._finish(deque(batch.groups))

    def _fail_groups(self, error: GatewayError) -> None:
        """What waited for its turn: the disk is not asked again before the second is over."""
        for pending in self._groups:
            for entry in pending.fresh:
                entry.error = error
            self._dedupe.settle(pending.keys, 0, committed=False)
            pending.fresh, pending.keys = [], []
        if self._groups:
            self._kick()

    def _fail_acts(self, error: GatewayError, *, patient: bool) -> None:
        kept: list[Act] = []
        for act in self._acts:
            if act.patient and not patient:
                kept.append(act)
            elif act.future is not None and not act.future.done():
                act.future.set_exception(error)
        self._acts = kept

    def _finish(self, groups: deque[PendingGroup], then: Sequence[Callable[[], None]] = ()) -> None:
        """Call back in order. One callback that raises does not keep the others from theirs."""
        try:
            while groups:
                pending = groups.popleft()
                for copy, original in pending.copies:
                    if original.error is not None:
                        copy.error = original.error
                pending.group.done(pending.group)
        finally:
            if groups:
                self._loop.call_soon(self._finish, groups)
            for callback in then:
                self._loop.call_soon(callback)

    # ------------------------------------------------------------------ trouble and idleness

    def _retry_later(self) -> None:
        if self._retry is None and not self._closing:
            self._retry = self._loop.call_later(_RETRY_S, self._try_again)

    def _try_again(self) -> None:
        """A real write where the disk had refused; a look at the space where it was full."""
        self._retry = None
        if self._closing:
            return
        self._acts.append(Act(_nothing if self.condition is Condition.FULL else self._probe))
        self._kick()

    def _set_condition(self, condition: Condition, code: str) -> None:
        self.error = code
        if condition is not self.condition:
            self.condition = condition
            self._tell(JournalEvent(JournalEventKind.CONDITION, code, condition))
        if condition is not Condition.RUNNING:
            self._retry_later()

    def _tell(self, event: JournalEvent) -> None:
        self._loop.call_soon(self._services.on_event, event)

    def _tell_quiet(self) -> None:
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _look_idle(self) -> None:
        self._idle = self._loop.call_later(_IDLE_S, self._look_idle)
        self.look()


def _nothing(_tx: Transaction) -> None:
    """Let the transaction do what is due."""


def _resolve(acts: Iterable[Act]) -> None:
    for act in acts:
        if act.future is None or act.future.done():
            continue
        if act.error is not None:
            act.future.set_exception(act.error)
        else:
            act.future.set_result(act.result)


def _requeued(done: Committed) -> int:
    return sum(ledger.requeued for ledger in done.state.routes.values())
