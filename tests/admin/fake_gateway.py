"""A gateway without a journal: what operators see of one, with every call written down."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.admin.place import SocketPlaces
from gateway.admin.ports import AuditReport, DeadLetterContent, TapLine
from gateway.admin.socket_server import AdminServer
from gateway.admin.tap_feed import TapFeed
from gateway.journal.audit import AuditKind, AuditRecord
from gateway.journal.interface import ExceptionRow, QueueRow, ReplayResult, TraceRecord
from gateway.journal.refused import RefusedRow
from gateway.journal.witness import WitnessState
from gateway.model.clock import ClockState
from gateway.model.message import StoredMessage
from gateway.model.receipt import RouteState
from gateway.model.state import Books, GatewayState, Term
from gateway.model.traffic import TrafficClass
from gateway.observe.log import EventLog
from gateway.observe.status import GatewayStatus, JournalStatus, RouteStatus, SourceStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
    from pathlib import Path

    from gateway.admin.ports import Actor
    from gateway.journal.audit_check import Finding
    from gateway.model.errors import GatewayError
    from gateway.model.event import EventId

INCARNATION = "0123456789abcdef0123456789abcdef"
#: Stands for patient data: nothing but a reveal may show it.
CANARY = "ZQDOEJANE"
BODY = f"MSH|^~\\&|MON|ICU|GW|HOSP|20261122120000||ADT^A01^ADT_A01|1|P|2.5.1\rPID|1||100001^^^H^MR||{CANARY}\x1b[2J^X\r".encode()
RECEIVED_US = 1_795_600_000_000_000


def event_id(seq: int, gateway: str = "ward-3") -> str:
    return f"{gateway}/{INCARNATION}/{seq}"


@dataclass(slots=True)
class FixedClock:
    now_us: int = RECEIVED_US
    now_s: float = 1000.0

    def wall_us(self) -> int:
        return self.now_us

    def monotonic_s(self) -> float:
        return self.now_s

    def state(self) -> ClockState:
        return ClockState.SYNCED


@dataclass(slots=True)
class Lines:
    text: str = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def status_of_two_routes(state: GatewayState = GatewayState.RUNNING) -> GatewayStatus:
    books = Books(accepted=10, delivered=5, held=1, dead_letter=1, filtered=1, gaps=1)
    return GatewayStatus(
        gateway="ward-3",
        incarnation=INCARNATION,
        state=state,
        sources=(SourceStatus("adt", 10, 1, 2, 3),),
        routes=(
            RouteStatus("everything", RouteState.RETRYING, books, 12.34, "connect-refused", 1.5),
            RouteStatus("copy", RouteState.ONLINE, Books(accepted=2, delivered=2)),
        ),
        journal=JournalStatus(5_000_000, 1_000_000_000, 42),
    )


@dataclass(slots=True)
class FakeGateway:
    """Implements ``AdminPort``; as ``OfflineGateway`` below also ``OfflinePort``. ``error``: raised by what needs the journal."""

    calls: list[tuple[object, ...]] = field(default_factory=list)
    error: GatewayError | None = None
    reveal_error: GatewayError | None = None
    picture: GatewayStatus = field(default_factory=status_of_two_routes)
    taps: TapFeed = field(default_factory=TapFeed)
    dead: list[int] = field(default_factory=lambda: [3, 4])
    findings: tuple[Finding, ...] = ()
    hang: bool = False

    def _need_key(self) -> None:
        if self.error is not None:
            raise self.error

    async def status(self) -> GatewayStatus:
        if self.hang:
            await asyncio.sleep(3600)
        return self.picture

    async def queue(self, route: str, limit: int) -> Sequence[QueueRow]:
        self._need_key()
        self.calls.append(("queue", route, limit))
        rows = [QueueRow(event_id(seq), "adt", "hl7.v2.ADT.A01", TrafficClass.ADT, seq, seq, 0, RECEIVED_US, 700) for seq in (1, 2)]
        return rows[:limit] if route == "everything" else []

    async def dead_letters(self, route: str | None, limit: int) -> Sequence[ExceptionRow]:
        self._need_key()
        return [
            ExceptionRow(
                event_id(seq), "everything", seq, Term.DEAD_LETTER, TrafficClass.ADT, seq, 0, RECEIVED_US, "adt",
                "hl7.v2.ADT.A01", RECEIVED_US, "rejected", 700,
            )
            for seq in self.dead[:limit]
            if route in (None, "everything")
        ]  # fmt: skip

    async def dead_letter_content(self, event: EventId, route: str) -> DeadLetterContent | None:
        self.calls.append(("content", event.seq, route))
        return DeadLetterContent(f"no patient {CANARY}", BODY, "utf-8")

    async def message(self, event: EventId) -> StoredMessage | None:
        self._need_key()
        if event.seq > 9:
            return None
        return StoredMessage(
            INCARNATION, event.seq, 7, "adt", TrafficClass.ADT, "hl7.v2.ADT.A01", "utf-8", RECEIVED_US, ClockState.SYNCED, "ab" * 8,
            BODY, b"", "",
        )  # fmt: skip

    async def trace(self, event: EventId) -> Sequence[TraceRecord]:
        self._need_key()
        if event.seq > 9:
            return []
        return [
            TraceRecord(7, RECEIVED_US, AuditRecord(AuditKind.ACCEPT, ((event.seq, event.seq),), source="adt")),
            TraceRecord(9, RECEIVED_US + 5, AuditRecord(AuditKind.DELIVER, ((1, 5),), route="everything", detail={"status": 200})),
        ]

    async def refused(self, limit: int) -> Sequence[RefusedRow]:
        self._need_key()
        return [RefusedRow(5, RECEIVED_US, "adt", "unframed", "10.0.0.9", 99)][:limit]

    async def refused_frame(self, number: int) -> RefusedRow | None:
        self._need_key()
        return RefusedRow(5, RECEIVED_US, "adt", "unframed", "10.0.0.9", 99, BODY) if number == 5 else None

    async def verify_audit(self) -> AuditReport:
        self._need_key()
        return AuditReport(1, 9, 9, 20, 3, self.findings, {}, (), WitnessState.ABSENT)

    async def note_reveal(self, actor: Actor, what: str, event: EventId | None) -> None:
        if self.reveal_error is not None:
            raise self.reveal_error
        self.calls.append(("reveal", str(actor), what, None if event is None else event.seq))

    async def replay_dead_letters(self, events: Sequence[EventId], route: str | None, actor: Actor, reason: str) -> int:
        return self._settle("replay", events, route, actor, reason)

    async def discard_dead_letters(self, events: Sequence[EventId], route: str | None, actor: Actor, reason: str) -> int:
        return self._settle("discard", events, route, actor, reason)

    def _settle(self, what: str, events: Sequence[EventId], route: str | None, actor: Actor, reason: str) -> int:
        self._need_key()
        seqs = [event.seq for event in events]
        self.calls.append((what, seqs, route, str(actor), reason))
        return len({*seqs} & {*self.dead})

    async def replay_range(self, route: str, since_us: int, until_us: int, *, dry_run: bool, actor: Actor, reason: str) -> ReplayResult:
        self._need_key()
        self.calls.append(("range", route, since_us, until_us, dry_run, str(actor), reason))
        return ReplayResult(4, 1, {"already-queued": 2}) if since_us > 0 else ReplayResult()

    async def tap(self) -> AsyncGenerator[TapLine | int, None]:
        self._need_key()
        self.calls.append(("tap",))
        yield 3
        seq = 0
        while True:
            seq += 1
            yield TapLine(event_id(seq), "adt", "hl7.v2.ADT.A01", "adt", RECEIVED_US, BODY, "utf-8")
            await asyncio.sleep(0)


@dataclass(slots=True)
class OfflineGateway:
    """The same facts without a daemon (``OfflinePort``)."""

    fake: FakeGateway
    closed: bool = False

    def status(self) -> GatewayStatus:
        return status_of_two_routes(GatewayState.STOPPED)

    def queue(self, route: str, limit: int) -> Sequence[QueueRow]:
        return asyncio.run(self.fake.queue(route, limit))

    def dead_letters(self, route: str | None, limit: int) -> Sequence[ExceptionRow]:
        return asyncio.run(self.fake.dead_letters(route, limit))

    def message(self, event: EventId) -> StoredMessage | None:
        return asyncio.run(self.fake.message(event))

    def trace(self, event: EventId) -> Sequence[TraceRecord]:
        return asyncio.run(self.fake.trace(event))

    def refused(self, limit: int) -> Sequence[RefusedRow]:
        return asyncio.run(self.fake.refused(limit))

    def verify_audit(self) -> AuditReport:
        return asyncio.run(self.fake.verify_audit())

    def close(self) -> None:
        self.closed = True


@contextmanager
def serving(fake: FakeGateway, state_dir: Path, environ: Mapping[str, str], *, in_state_dir: bool = True) -> Iterator[Lines]:
    """The admin socket of ``fake``, served by a loop in a thread of its own, as a daemon of its own would; gives its log."""
    lines = Lines()
    places = SocketPlaces(state_dir, environ, uid=_uid(state_dir))
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        server = AdminServer(fake, EventLog(FixedClock(), lines), "ward-3", places)
        try:
            await server.start(in_state_dir=in_state_dir)
        finally:
            started.set()
        await stop.wait()
        await server.stop()

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(asyncio.run, serve())
        assert started.wait(10)
        try:
            yield lines
        finally:
            loops[0].call_soon_threadsafe(stop.set)
            running.result(10)


def _uid(state_dir: Path) -> int:
    return state_dir.stat().st_uid
