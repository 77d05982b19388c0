"""MLLP framing: bytes in, frames and malformed runs out; a message in, a frame out.

Rules (each has a test in ``tests/codec/test_mllp.py``):

- A frame is VT, content, FS CR. FS also ends it before LF, before VT, and when the line falls silent or ends (``idle``, ``end``).
  Any other FS or VT inside is data and flagged: a stray FS must not make a message vanish.
- VT before ``MSH``, ``FHS`` or ``BHS`` inside a frame is a sender that started over: the open frame is reported as truncated.
- Between frames CR, LF, NUL and space are skipped; any other run is reported as unframed, up to the next VT.
- A malformed frame is an event like any other, so its neighbours live. ``reply`` says whether its sender waits for an answer.
- At most ``max_message_bytes`` and one chunk are buffered. Larger frames are read and dropped, so that their sender gets an answer.

Source: HL7 Transport Specification: MLLP, Release 1 and Release 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Flag, StrEnum

from gateway.model.limits import DISCARD_MAX_BYTES, FRAME_MAX_BYTES, REFUSED_KEEP_BYTES

__all__ = ["Frame", "FrameEvent", "FrameFlag", "FrameReason", "Malformed", "MllpReceiver", "commit_block", "frame"]

_VT = b"\x0b"
_FS = b"\x1c"
_CR = b"\r"
_VT_BYTE = 0x0B
_CR_BYTE = 0x0D
_SKIPPED = b"\r\n\x00 "
_FRAME_END = re.compile(rb"\x1c(?=[\r\n\x0b])|\x0b(?=(?:\xef\xbb\xbf)?(?:MSH|FHS|BHS))")
#: An end of frame that begins this many bytes before the end of the buffer may still be undecided (VT, BOM, "MS").
_LOOKAHEAD_BYTES = 6


class FrameFlag(Flag):
    """What was odd about a frame that was taken all the same."""

    PLAIN = 0
    FS_IN_DATA = 1
    VT_IN_DATA = 2
    ENDED_WITHOUT_CR = 4


class FrameReason(StrEnum):
    """Why bytes are not a frame."""

    UNFRAMED = "unframed"
    TRUNCATED = "truncated"
    OVERSIZE = "oversize"
    EMPTY = "empty"


# Frame is not frozen: a frozen dataclass costs 0.4 µs more to make, half of what framing costs.
@dataclass(slots=True)
class Frame:
    """One complete frame; ``body`` is what stood between VT and FS, untouched, never empty."""

    body: bytes
    flags: FrameFlag


@dataclass(frozen=True, slots=True)
class Malformed:
    """Bytes that are not a frame. ``kept``: their beginning, ``size_bytes``: how many there were (at least, past the cap)."""

    reason: FrameReason
    kept: bytes
    size_bytes: int
    reply: bool


FrameEvent = Frame | Malformed

_PLAIN = FrameFlag.PLAIN


def frame(body: bytes) -> bytes:
    """``body`` as it goes on the wire."""
    return b"\x0b%b\x1c\r" % body


def commit_block(body: bytes) -> bool | None:
    """MLLP Release 2: True for a commit acknowledgement, False for a negative one, None for any other frame body."""
    return {b"\x06": True, b"\x15": False}.get(body)


class MllpReceiver:
    """The framer of one connection. Feed it with ``receive``; how the bytes are cut into chunks makes no difference.

    ``must_close`` becomes True when a peer has sent ``discard_max_bytes`` without an end: the event that says so has been
    returned, everything further is ignored and the connection should be closed. Never raises, for any bytes.
    """

    __slots__ = ("_buffer", "_discard_max", "_gone", "_keep", "_kept", "_max", "_open", "_scanned", "must_close", "skipped_bytes")

    def __init__(
        self,
        max_message_bytes: int = FRAME_MAX_BYTES,
        discard_max_bytes: int = DISCARD_MAX_BYTES,
        keep_bytes: int = REFUSED_KEEP_BYTES,
    ) -> None:
        self.must_close = False
        self.skipped_bytes = 0
        self._max = max_message_bytes
        self._discard_max = max(discard_max_bytes, max_message_bytes)
        self._keep = min(keep_bytes, self._discard_max)
        self._open = False
        self._buffer = bytearray()  # in a frame: what follows VT; else empty between two calls
        self._scanned = 0  # no end of frame begins before this offset of the buffer: nothing is searched twice
        self._gone = 0  # bytes of the oversize frame, or of the unframed run, that left the buffer
        self._kept = bytearray()  # the first of them

    @property
    def open_frame(self) -> bool:
        """A VT has been seen and no end yet: the frame timer runs."""
        return self._open

    @property
    def awaiting_idle(self) -> bool:
        """The last byte was an FS: the idle timer runs, ``idle`` will end the frame."""
        return self._open and self._buffer.endswith(_FS)

    @property
    def buffered_bytes(self) -> int:
        """What this connection holds in memory."""
        return len(self._buffer) + len(self._kept)

    def receive(self, data: bytes) -> list[FrameEvent]:
        """What ``data`` completes, in wire order."""
        events: list[FrameEvent] = []
        if self.must_close:
            return events
        position = 0
        if self._open:  # complete the carried frame alone, so that those behind it take the short way
            end = data.find(_FS)
            position = len(data) if end < 0 else end + 2
            self._feed(data[:position], events)
        if not self._open and not self._gone:
            position = self._take_plain(data, position, events)
        if position < len(data):
            self._feed(data[position:], events)
        return events

    def idle(self) -> list[FrameEvent]:
        """The line was silent for the idle time: an FS at the end of the buffer ends the frame."""
        events: list[FrameEvent] = []
        if self.awaiting_idle:
            self._close_frame(len(self._buffer) - 1, events)
        return events

    def end(self) -> list[FrameEvent]:
        """End of file or frame timeout: what is left is reported; a frame that only lacks its CR counts as complete."""
        if self.awaiting_idle:
            return self.idle()
        events: list[FrameEvent] = []
        if self._open:
            self._report_cut(len(self._buffer), FrameReason.TRUNCATED, events)
        elif self._gone:
            self._report_cut(0, FrameReason.UNFRAMED, events)
        self._forget(len(self._buffer))
        return events

    def _take_plain(self, data: bytes, position: int, events: list[FrameEvent]) -> int:
        """Take the complete plain frames at ``position``, return where the first other thing begins."""
        find = data.find
        append = events.append
        max_bytes = self._max
        last = len(data) - 1
        while position < last and data[position] == _VT_BYTE:
            start = position + 1
            end = find(_FS, start)
            if end < 0 or end == last or data[end + 1] != _CR_BYTE or not 0 < end - start <= max_bytes or find(_VT, start, end) >= 0:
                break
            append(Frame(data[start:end], _PLAIN))
            position = end + 2
        return position

    def _feed(self, data: bytes, events: list[FrameEvent]) -> None:
        self._buffer += data
        while not self.must_close and (self._step_inside(events) if self._open else self._step_outside(events)):
            pass

    def _step_outside(self, events: list[FrameEvent]) -> bool:
        """Skip or set aside what stands before the next VT; False when more data is needed."""
        buffer = self._buffer
        start = buffer.find(_VT)
        size = len(buffer) if start < 0 else start
        if not self._gone:
            junk = len(buffer[:size].lstrip(_SKIPPED))
            self.skipped_bytes += size - junk
            del buffer[: size - junk]
            size = junk
        self._set_aside(size)
        if self._gone > self._discard_max:
            self._give_up(FrameReason.UNFRAMED, events, reply=False)
            return False
        if start < 0:
            return False
        self._report_cut(0, FrameReason.UNFRAMED, events)
        self._forget(1)
        self._open = True
        return True

    def _step_inside(self, events: list[FrameEvent]) -> bool:
        """Look for the end of the open frame; False when more data is needed."""
        buffer = self._buffer
        found = _FRAME_END.search(buffer, self._scanned)
        end = found.start() if found else max(self._scanned, len(buffer) - _LOOKAHEAD_BYTES)
        if self._gone + end > self._discard_max:
            self._give_up(FrameReason.OVERSIZE, events, reply=True)
            return False
        if not found:
            self._scanned = end
            if self._gone + end > self._max:
                self._set_aside(end)
            return False
        if buffer[end] == _VT_BYTE:
            self._report_cut(end, FrameReason.TRUNCATED, events)
            self._forget(end)
        else:
            self._close_frame(end, events)
        return True

    def _close_frame(self, end: int, events: list[FrameEvent]) -> None:
        """FS at offset ``end`` ends the frame."""
        size = self._gone + end
        after = bytes(self._buffer[end + 1 : end + 2])
        if size > self._max:
            events.append(Malformed(FrameReason.OVERSIZE, self._beginning(end), size, reply=True))
        elif size == 0:
            events.append(Malformed(FrameReason.EMPTY, b"", 0, reply=True))
        else:
            body = bytes(self._buffer[:end])
            events.append(Frame(body, _flags(body, after)))
        self._forget(end + (2 if after in (_CR, b"\n") else 1))

    def _report_cut(self, end: int, reason: FrameReason, events: list[FrameEvent]) -> None:
        """Report what was set aside and the first ``end`` buffered bytes, if any (VT VT MSH loses nothing)."""
        if size := self._gone + end:
            events.append(Malformed(reason, self._beginning(end), size, reply=False))

    def _give_up(self, reason: FrameReason, events: list[FrameEvent], *, reply: bool) -> None:
        events.append(Malformed(reason, self._beginning(len(self._buffer)), self._discard_max, reply))
        self._forget(len(self._buffer))
        self.must_close = True

    def _beginning(self, end: int) -> bytes:
        return bytes(self._kept + self._buffer[: max(0, min(end, self._keep - len(self._kept)))])

    def _set_aside(self, end: int) -> None:
        """Drop the first ``end`` buffered bytes but for what is kept of the run."""
        room = self._keep - len(self._kept)
        if room > 0:
            self._kept += self._buffer[: min(end, room)]
        self._gone += end
        self._scanned = 0
        del self._buffer[:end]

    def _forget(self, end: int) -> None:
        """The run is reported: continue outside, behind ``end`` buffered bytes."""
        del self._buffer[:end]
        self._open = False
        self._scanned = 0
        if self._gone:
            self._gone = 0
            self._kept = bytearray()


def _flags(body: bytes, after: bytes) -> FrameFlag:
    flags = _PLAIN if after == _CR else FrameFlag.ENDED_WITHOUT_CR
    if _FS in body:
        flags |= FrameFlag.FS_IN_DATA
    if _VT in body:
        flags |= FrameFlag.VT_IN_DATA
    return flags
