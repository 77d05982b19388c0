"""One MLLP connection: chunks in, one append per chunk, answers in frame order, one write per commit.

The speed of the product is decided here. No future, no task and no closure is made per message: a chunk's items wait in a
deque until the journal calls ``_committed`` with their group, which is always the eldest one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.codec.mllp import MllpReceiver
from gateway.model.message import AppendGroup
from gateway.source.mllp_settings import WhenUnable
from gateway.source.reception import NOTES_A_CHUNK
from gateway.transport.byte_budget import Share
from gateway.transport.tcp_listener import Deadline, Pause

if TYPE_CHECKING:
    from gateway.codec.mllp import FrameEvent
    from gateway.model.message import Entry
    from gateway.source.reception import Item, Reception
    from gateway.transport.tcp_listener import Link

__all__ = ["MllpSession", "SessionTimes"]

#: In flight on one connection: far above any useful window, far below the budget of all connections.
IN_FLIGHT_BYTES: Final = 1024 * 1024
#: What a message costs beside its bytes (entry, header, answer): charged, so that tiny frames cannot outgrow the budget.
ITEM_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """``lone_fs_s``: an FS without CR ends the frame after so much silence. ``hold_s``: reading pauses so long after a no.

    One second keeps a sender that repeats at once from turning a full disk into a busy loop, and answers well within 5 s.
    """

    lone_fs_s: float = 0.5
    hold_s: float = 1.0


@dataclass(slots=True, eq=False)
class _Owed:
    """The items of one chunk. ``group`` None: nothing of it had to be stored."""

    items: list[Item]
    group: AppendGroup | None
    charge_bytes: int


class MllpSession:
    """The session of one ``Link``; also the ``Holder`` of its share of the memory budget."""

    __slots__ = (
        "_ended",
        "_flushing",
        "_framer",
        "_hold",
        "_link",
        "_lone_fs",
        "_loop",
        "_mute",
        "_on_commit",
        "_out",
        "_owed",
        "_reception",
        "_share",
        "_times",
        "_unfinished",
    )

    def __init__(self, reception: Reception, link: Link, times: SessionTimes) -> None:
        loop = asyncio.get_running_loop()
        self._reception = reception
        self._link = link
        self._times = times
        self._loop = loop
        self._framer = MllpReceiver(reception.settings.max_message_bytes)
        self._share = Share(reception.services.budget, self)
        self._owed: deque[_Owed] = deque()
        self._out: list[bytes] = []
        self._unfinished = False  # a frame, or a run of something else, has begun and not ended
        self._flushing = False  # a flush is on its way in the loop
        self._ended = ""  # why this session takes no more; it closes when nothing is owed
        self._mute = False  # nobody is there to be answered
        self._lone_fs = Deadline(loop, self._silent_after_fs)
        self._hold = Deadline(loop, self._hold_over)
        self._on_commit = self._committed  # one bound method for all groups

    # --- Session: bytes in, and their end ---

    def received(self, data: bytes) -> None:
        """A chunk: frame it, append what is to be stored, answer the rest in its turn."""
        if self._ended:
            return
        framer = self._framer
        events = framer.receive(data)
        charge_bytes = self._take(events) if events else 0
        partial_bytes = framer.buffered_bytes
        self._share.read(len(data), charge_bytes, partial_bytes)
        if partial_bytes or self._unfinished or framer.open_frame:
            self._mind_unfinished(anew=bool(events))
        if framer.must_close:
            self.finish("too-large")

    def ended(self) -> None:
        """The sender says no more. What it left unfinished is noted; what it is owed still goes out."""
        self._take_rest()
        self.finish("peer-closed")

    def overdue(self) -> None:
        """A frame took too long: note it, close."""
        self._take_rest()
        self.finish("frame-timeout")

    def owes(self) -> bool:
        """True while a commit is awaited."""
        return bool(self._owed)

    def finish(self, cause: str) -> None:
        """Take no more; close as soon as nothing is owed."""
        if self._ended:
            return
        self._ended = cause
        self._framer = MllpReceiver()  # lets go of an unfinished frame
        self._share.read(0, 0, 0)
        self._lone_fs.cancel()
        if self._owed:
            self._link.pause(Pause.STOP)
        else:
            self._flush()
            self._link.close(cause)

    def lost(self) -> None:
        """The connection is gone. What was appended stays so; its answers are given up when the journal is done with it."""
        self._mute = True
        self._take_rest()
        self._ended = self._ended or self._link.cause
        self._lone_fs.cancel()
        self._hold.cancel()
        self._share.drop()
        self._reception.closed(self._link.peer, self._link.cause)

    # --- Holder: memory ---

    @property
    def reading(self) -> bool:
        """True while nothing of ours keeps the connection from reading."""
        return self._link.reading

    def wait_for_room(self) -> None:
        """The budget is used up."""
        self._link.pause(Pause.BUDGET)
        self._reception.paused("memory")

    def room(self) -> None:
        """There is room again."""
        self._link.resume(Pause.BUDGET)

    def evict(self) -> None:
        """Others wait for the memory that this slow frame holds."""
        self._take_rest()
        self.finish("frame-too-slow")

    # --- unfinished frames ---

    def _mind_unfinished(self, *, anew: bool) -> None:
        """Run, restart or stop the timers of what has begun and not ended."""
        framer = self._framer
        self._unfinished = framer.open_frame or framer.buffered_bytes > 0
        if self._unfinished:
            self._link.unit_open(anew=anew)
        else:
            self._link.unit_closed()
        if framer.awaiting_idle:
            self._lone_fs.after(self._times.lone_fs_s)
        else:
            self._lone_fs.clear()

    def _silent_after_fs(self) -> None:
        if events := self._framer.idle():
            self._share.read(0, self._take(events), 0)
            self._mind_unfinished(anew=True)

    def _take_rest(self) -> None:
        """What the framer still holds, when no more will come."""
        if not self._ended and (events := self._framer.end()):
            self._share.read(0, self._take(events), 0)

    # --- messages ---

    def _take(self, events: list[FrameEvent]) -> int:
        """Append what ``events`` bring. Returns the bytes that are owed for now: nothing where all was answered at once."""
        entries: list[Entry] = []
        reception = self._reception
        items = reception.take(events, self._link.peer, entries)
        if reception.noted > NOTES_A_CHUNK:
            self._pause_a_while()
        if not items:
            return 0
        size_bytes = 0
        for entry in entries:
            size_bytes += len(entry.body)
        charge_bytes = size_bytes + ITEM_BYTES * len(items)
        if not entries:
            return self._take_refused(_Owed(items, None, charge_bytes))
        self._limit(charge_bytes)
        group = AppendGroup(entries, self._on_commit, size_bytes)
        self._owed.append(_Owed(items, group, charge_bytes))
        reception.journal.append(group)
        return charge_bytes

    def _take_refused(self, owed: _Owed) -> int:
        """Answer now where nothing is awaited, else in its turn."""
        if self._owed:
            self._limit(owed.charge_bytes)
            self._owed.append(owed)
            return owed.charge_bytes
        if not self._mute:
            self._reception.answer(owed.items, self._out)
            self._flush()
        return 0

    def _limit(self, charge_bytes: int) -> None:
        if self._share.in_flight_bytes + charge_bytes > IN_FLIGHT_BYTES:
            self._link.pause(Pause.IN_FLIGHT)

    def _committed(self, group: AppendGroup) -> None:
        """The journal is done with the eldest group: answer it, and the refusals that waited behind it."""
        owed, share = self._owed, self._share
        done = owed.popleft()
        if self._mute:
            self._reception.counts.ack_undelivered += sum(entry.error is None for entry in group.entries)
        elif trouble := self._reception.answer(done.items, self._out):
            self._unable(trouble, len(group.entries))
        share.give_back(done.charge_bytes)
        while owed and owed[0].group is None:
            ready = owed.popleft()
            if not self._mute:
                self._reception.answer(ready.items, self._out)
            share.give_back(ready.charge_bytes)
        if self._link.pauses and share.in_flight_bytes < IN_FLIGHT_BYTES // 2:
            self._link.resume(Pause.IN_FLIGHT)
        self._write_in_time()

    def _write_in_time(self) -> None:
        """Write what is ready; where more may be committed in this turn of the loop, at its end and in one piece."""
        if not self._owed:
            self._flush()
            if self._ended:
                self._link.close(self._ended)
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_later)

    def _flush(self) -> None:
        if self._out:
            self._link.write(b"".join(self._out))
            self._out.clear()

    def _flush_later(self) -> None:
        self._flushing = False
        self._flush()

    # --- when nothing can be stored ---

    def _unable(self, code: str, count: int) -> None:
        """The senders have been told as ``when_unable`` says; then no reading for a while, or no connection."""
        self._reception.unable(code, count)
        if self._reception.settings.when_unable is not WhenUnable.CLOSE:
            self._pause_a_while()
            return
        self._flush()
        self._mute = True
        self._ended = self._ended or "unable"
        self._link.close("unable")

    def _pause_a_while(self) -> None:
        self._link.pause(Pause.HOLD)
        self._hold.after(self._times.hold_s)

    def _hold_over(self) -> None:
        self._link.resume(Pause.HOLD)
