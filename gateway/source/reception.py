"""What all connections of one MLLP source share: who may send, what becomes of a frame, and which answer it gets when.

Knows no connection and no time limit. A chunk of frames becomes a list of items, in the order in which they are answered:
an item with an entry waits for its commit, one without is known at once (a refusal, an empty batch).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.codec.acknowledgement import AckBuilder, AckOutcome, hl7_time
from gateway.codec.batch import BatchFlag, split
from gateway.codec.message_header import UNKNOWN_HEADER, Header, HeaderFault, charset_of, classify, is_acknowledgement, patient_key, scan
from gateway.codec.mllp import Frame, FrameFlag, FrameReason, Malformed, frame
from gateway.codec.refusal import RefuseReason
from gateway.model.clock import ClockState
from gateway.model.limits import REFUSED_KEEP_BYTES
from gateway.model.message import Entry
from gateway.model.refusal import Refusal
from gateway.observe.events import LogEvent
from gateway.source.familiar import AnswerTemplate, FamiliarHeaders
from gateway.source.mllp_settings import WhenUnable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.codec.mllp import FrameEvent
    from gateway.source.mllp_settings import AllowedSender, MllpSettings
    from gateway.source.ports import AppendPort, SourceCounts, SourceServices

__all__ = ["NOTES_A_CHUNK", "Item", "Reception", "Unusual"]

#: Of one chunk so many refusals are kept and logged one by one; more are counted and answered only, and slow the sender down.
NOTES_A_CHUNK: Final = 64
#: What goes with a malformed frame whose sender waits for an answer.
_ANSWERED: Final = {FrameReason.OVERSIZE: RefuseReason.TOO_LARGE, FrameReason.EMPTY: RefuseReason.EMPTY_FRAME}


@dataclass(slots=True, eq=False)
class Unusual:
    """What went the long way. ``reason``: refused for it. Neither entry nor reason: an empty batch."""

    header: Header
    entry: Entry | None
    acknowledgement: bool = False
    reason: RefuseReason | None = None


#: One message or frame to be answered; the everyday one is a bare pair, because it costs a fifth of an object.
Item = tuple[Entry, AnswerTemplate | None] | Unusual
_Stamp = tuple[int, ClockState]


@dataclass(slots=True, eq=False)
class Reception:
    """One per source; used from the event loop only. ``noted``: refusals of the chunk that was taken last."""

    settings: MllpSettings
    journal: AppendPort
    services: SourceServices
    counts: SourceCounts
    noted: int = 0
    _answers: AckBuilder = field(init=False)
    _familiar: FamiliarHeaders = field(init=False)
    _answered: int = 0
    _senders: tuple[tuple[bytes | None, bytes | None], ...] = field(init=False)
    _time_ms: int = -1
    _time: bytes = b""

    def __post_init__(self) -> None:
        settings, prefix = self.settings, self.services.answer_prefix
        self._answers = AckBuilder(settings.ack, prefix)
        self._familiar = FamiliarHeaders(settings.name, settings.traffic, settings.ack, prefix)
        self._senders = tuple(_sender(allowed) for allowed in self.settings.senders)

    def take(self, events: Iterable[FrameEvent], peer: str, entries: list[Entry]) -> list[Item]:
        """What is to be answered for ``events``, in wire order; what is to be stored is added to ``entries``."""
        self.noted = 0
        now_us = self.services.clock.wall_us()
        clock_state = self.services.clock.state()
        familiar = self._familiar.take
        items: list[Item] = []
        for event in events:
            if isinstance(event, Malformed):
                self._malformed(event, peer, items)
            elif event.flags is FrameFlag.PLAIN and (usual := familiar(event.body, now_us, clock_state)):
                entries.append(usual[0])
                items.append(usual)
            else:
                seen = len(items)
                self._frame(event, peer, (now_us, clock_state), items)
                entries += [item.entry for item in items[seen:] if isinstance(item, Unusual) and item.entry is not None]
        return items

    def answer(self, items: Iterable[Item], out: list[bytes]) -> str:
        """Add the framed answers of ``items`` to ``out``, in order. Every entry has been settled by the journal.

        Returns the code of the storage error that kept some from being stored, "" where there was none. With
        ``when_unable = "close"`` nothing behind the first of these is answered.
        """
        time, trouble = self._time_text(), ""
        for item in items:
            if isinstance(item, tuple):
                entry, template = item
                if entry.error is None and not entry.duplicate and not entry.reused_control_id:
                    if template is not None and entry.identity is not None:
                        self._answered = count = self._answered + 1
                        pieces = (template.to_time, time, template.to_id, count, template.to_control_id, entry.identity[2], template.rest)
                        out.append(b"%b%b%b%d%b%b%b" % pieces)
                    continue
                unusual = Unusual(_header_of(entry.body), entry)
            else:
                unusual = item
            trouble = self._answer_unusual(unusual, time, out) or trouble
            if trouble and self.settings.when_unable is WhenUnable.CLOSE:
                break
        return trouble

    # --- counted and told ---

    def opened(self, peer: str) -> None:
        """A sender connected."""
        self.counts.connections += 1
        self._emit(LogEvent.CONNECTION_OPENED, peer=peer, count=self.counts.connections)

    def closed(self, peer: str, cause: str) -> None:
        """A sender's connection ended."""
        self.counts.connections -= 1
        self._emit(LogEvent.CONNECTION_CLOSED, peer=peer, cause=cause, count=self.counts.connections)

    def turned_away(self, code: str, peer: str) -> None:
        """A connection was closed before a byte was read."""
        self.counts.turned_away += 1
        self._emit(LogEvent.CONNECTION_REFUSED, peer=peer, code=code)

    def paused(self, cause: str) -> None:
        """A connection stopped reading."""
        self._emit(LogEvent.READING_PAUSED, cause=cause)

    def unable(self, code: str, count: int) -> None:
        """So many messages could not be stored; their senders keep them."""
        self.counts.unable += count
        self._emit(LogEvent.UNABLE, code=code, count=count)

    def note(self, code: str, kept: bytes, size_bytes: int, peer: str) -> None:
        """Count a refused frame, and keep its beginning for the person who has to find out why."""
        self.counts.refused += 1
        self.noted += 1
        if self.noted > NOTES_A_CHUNK:
            return
        self.journal.refuse_note(Refusal(self.settings.name, code, peer, kept, size_bytes, self.services.clock.wall_us()))
        self._emit(LogEvent.FRAME_REFUSED, peer=peer, code=code, count=self.counts.refused)

    def _reused(self) -> None:
        self.counts.reused_control_ids += 1
        self._emit(LogEvent.CONTROL_ID_REUSED, count=self.counts.reused_control_ids)

    def _emit(self, event: LogEvent, **fields: object) -> None:
        self.services.log.emit(event, source=self.settings.name, **fields)

    # --- in detail ---

    def _time_text(self) -> bytes:
        """MSH-7 of answers; formatting it costs as much as the rest of an answer, so once a millisecond."""
        now_us = self.services.clock.wall_us()
        if now_us // 1000 != self._time_ms:
            self._time_ms = now_us // 1000
            self._time = hl7_time(now_us)
        return self._time

    def _answer_unusual(self, item: Unusual, time: bytes, out: list[bytes]) -> str:
        outcome, reason, entry = AckOutcome.STORED, item.reason, item.entry
        if reason is not None:
            outcome = AckOutcome.REFUSED
        elif entry is not None and entry.error is not None:
            if self.settings.when_unable is not WhenUnable.NAK:
                return entry.error.code
            outcome, reason = AckOutcome.UNABLE, RefuseReason.UNABLE
        elif entry is not None and entry.duplicate:
            self.counts.duplicates += 1
        elif entry is not None and entry.reused_control_id:
            self._reused()
        out.extend(map(frame, self._answers.replies(item.header, outcome, time, reason=reason, acknowledgement=item.acknowledgement)))
        return entry.error.code if entry is not None and entry.error is not None else ""

    def _malformed(self, event: Malformed, peer: str, items: list[Item]) -> None:
        reason = _ANSWERED.get(event.reason) if event.reply else None
        self.note(reason.label if reason else event.reason.value, event.kept, event.size_bytes, peer)
        if reason is not None:
            items.append(Unusual(_header_of(event.kept), None, reason=reason))

    def _frame(self, event: Frame, peer: str, stamp: _Stamp, items: list[Item]) -> None:
        """A frame the long way: split it, judge each message by its own header."""
        batch = split(event.body)
        if event.flags is not FrameFlag.PLAIN or batch.flags is not BatchFlag.PLAIN:
            self.counts.flagged += 1
        if batch.refusal is not None:
            self._refuse(_header_of(event.body), batch.refusal, event.body, peer, items)
        elif not batch.children:  # "nothing to send" is legal, and positive
            items.append(Unusual(_header_of(event.body), None))
        envelope = batch.envelope
        for body in batch.children:
            header = scan(body)
            if isinstance(header, HeaderFault):
                self._refuse(header.header, header.reason, body, peer, items)
            elif self._senders and not self._may_send(header):
                self._refuse(header, RefuseReason.SENDER_NOT_ALLOWED, body, peer, items)
            else:
                items.append(self._admit(body, header, envelope, stamp))
                envelope = b""

    def _admit(self, body: bytes, header: Header, envelope: bytes, stamp: _Stamp) -> Unusual:
        kind, traffic = classify(header)
        now_us, clock_state = stamp
        entry = Entry(
            source=self.settings.name,
            body=body,
            traffic=self.settings.traffic or traffic,
            kind=kind,
            received_us=now_us,
            clock_state=clock_state,
            identity=(header.sending_app, header.sending_facility, header.control_id),
            restamp=header.restamp,
            ordering=patient_key(body, header),
            charset=charset_of(header),
            envelope=envelope,
        )
        acknowledgement = is_acknowledgement(body, header)
        if not acknowledgement:
            self._familiar.learn(body, header)
        return Unusual(header, entry, acknowledgement)

    def _refuse(self, header: Header, reason: RefuseReason, body: bytes, peer: str, items: list[Item]) -> None:
        self.note(reason.label, body[:REFUSED_KEEP_BYTES], len(body), peer)
        items.append(Unusual(header, None, reason=reason))

    def _may_send(self, header: Header) -> bool:
        component = header.component_separator
        app, facility = header.sending_app, header.sending_facility
        return any(
            (wanted_app is None or _names(app, wanted_app, component))
            and (wanted_facility is None or _names(facility, wanted_facility, component))
            for wanted_app, wanted_facility in self._senders
        )


def _sender(allowed: AllowedSender) -> tuple[bytes | None, bytes | None]:
    return (
        None if allowed.app is None else allowed.app.encode(),
        None if allowed.facility is None else allowed.facility.encode(),
    )


def _names(value: bytes, wanted: bytes, component: bytes) -> bool:
    """The field as a whole, or its first component (HD.1)."""
    return value == wanted or (bool(component) and value.split(component, 1)[0] == wanted)


def _header_of(body: bytes) -> Header:
    """What can be read of a header, for the answer to something that was not taken."""
    found = scan(body) if body else UNKNOWN_HEADER
    return found.header if isinstance(found, HeaderFault) else found
