"""The running gateway: what starts in which order, what stops in which order, and what happens while there is no key.

Start: pages -> journal (or LOCKED) -> admin socket -> ports of sources -> routes -> READY.
Stop: ports of sources (waiting commits are still answered) -> routes (the answer under way is still settled) -> admin
socket -> journal -> pages -> lock. Nothing is acknowledged after the journal is closed, because nothing reads any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway import __version__
from gateway.admin.http import AdminPages, serve_pages
from gateway.admin.place import SocketPlaces
from gateway.admin.socket_server import AdminServer
from gateway.admin.tap_feed import TapFeed
from gateway.journal.audit import AuditKind
from gateway.journal.interface import JournalServices
from gateway.journal.live_check import verify_live
from gateway.journal.witness import LastStatusFile
from gateway.model.errors import CapacityError, GatewayError, LockedError, StorageError, UnavailableError
from gateway.model.limits import IN_FLIGHT_MAX_BYTES
from gateway.model.state import GatewayState
from gateway.observe.events import LogEvent
from gateway.observe.metrics import Metrics
from gateway.observe.process import ProcessFigures, read_figures
from gateway.observe.status import as_json
from gateway.service.admin_port import DaemonPort
from gateway.service.intake import Intake
from gateway.service.parts import RoutePorts, make_route, make_sink, make_source
from gateway.service.picture import Parts, picture
from gateway.service.pulse import Pulse
from gateway.service.standing import Standing
from gateway.service.supervisor import Supervisor
from gateway.service.unlocking import Unlocking, key_provider
from gateway.sink.services import SinkServices
from gateway.source.ports import SourceServices
from gateway.transport.byte_budget import ByteBudget
from gateway.transport.systemd import ServiceNotices, watchdog_interval_s

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gateway.journal.audit_check import AuditVerdict
    from gateway.journal.journal import Journal
    from gateway.model.clock import Clock, Randomness
    from gateway.model.sink import Sink
    from gateway.observe.log import EventLog
    from gateway.observe.status import GatewayStatus
    from gateway.route.route import Route
    from gateway.settings.configuration import Configuration
    from gateway.source.mllp import MllpSource
    from gateway.transport.http_server import HttpServer

__all__ = ["Daemon"]

#: A locked daemon asks for the key again this often; so does one whose disk cannot be used, and a port that is taken.
AGAIN_S: Final = 2.0
#: How long an ordered stop waits for a destination's answer and for commits; systemd's own limit is 90 s.
STOP_S: Final = 5.0
_WAITING: Final = LockedError("starting", "the gateway is starting")


@dataclass(slots=True)
class Daemon:
    """One gateway. ``run`` returns after an ordered stop; ``stop.set()`` asks for it."""

    configuration: Configuration
    clock: Clock
    randomness: Randomness
    log: EventLog
    environ: Mapping[str, str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    journal: Journal | None = None
    sources: tuple[MllpSource, ...] = ()
    routes: dict[str, Route] = field(default_factory=dict)
    taps: TapFeed = field(default_factory=TapFeed)
    _standing: Standing = field(init=False)
    _supervisor: Supervisor = field(init=False)
    _unlocking: Unlocking = field(init=False)
    _intake: Intake = field(init=False)
    _admin: AdminServer = field(init=False)
    _last_status: LastStatusFile | None = None
    _pages: HttpServer | None = None
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _began_s: float = 0.0

    async def run(self) -> None:
        """Start, work until ``stop``, stop in order.

        Raises:
            UnavailableError: another daemon works on this state directory.
            ConfigurationError: a certificate, key or token that cannot be used.
        """
        self._began_s = self.clock.monotonic_s()
        self.log.emit(LogEvent.GATEWAY_STARTING, gateway=self._id, version=__version__, configuration=self.configuration.digest)
        self._compose()
        with ThreadPoolExecutor(1, "journal-writer") as writer, ThreadPoolExecutor(1, "journal-reader") as reader:
            services = JournalServices(self.clock, self.randomness, writer, reader, self._standing.on_journal, self._id)
            try:
                await self._work(services)
            finally:
                await self._shut()
                self._unlocking.release()
        self.log.emit(LogEvent.GATEWAY_STOPPED, gateway=self._id)

    def _compose(self) -> None:
        self._standing = Standing(self.log, self.clock)
        self._supervisor = Supervisor(self.clock, self._task_failed)
        self._unlocking = Unlocking(self.configuration, key_provider(self.configuration, self.environ), self.randomness)
        self._intake = Intake(asyncio.get_running_loop(), _WAITING, self._id, self.taps)
        budget = ByteBudget(IN_FLIGHT_MAX_BYTES)
        services = SourceServices(self.clock, self.log, budget, self.randomness.bytes(5).hex().upper(), self._credentials)
        self.sources = tuple(make_source(table, self._intake, services) for table in self.configuration.sources)
        places = SocketPlaces(self.configuration.gateway.state_dir, self.environ, os.geteuid())
        self._admin = AdminServer(
            DaemonPort(self.picture, lambda: self.journal, self._standing, self.taps, self._verify), self.log, self._id, places
        )

    def _make_sinks(self) -> dict[str, Sink]:
        tables = self.configuration.routes
        return {table.name: make_sink(self.configuration.sink(table.sink), self._sink_services(table.name)) for table in tables}

    async def _work(self, services: JournalServices) -> None:
        sinks = self._make_sinks()
        await self._serve_pages()
        await self._try_open(services)
        await self._serve_admin()
        for source in self.sources:
            await self._listen(source)
        notices = ServiceNotices.from_environment(self.environ)
        self._start_pulse(notices)
        notices.ready(self._line())
        self.log.emit(LogEvent.GATEWAY_READY, gateway=self._id, state=self._standing.state.value, age_s=self._age_s)
        while not self.stop.is_set():
            await self._deliver(services, sinks)
            sinks = self._make_sinks()
        self._standing.enter(GatewayState.STOPPING)
        self.log.emit(LogEvent.GATEWAY_STOPPING, gateway=self._id)
        notices.stopping()

    async def _deliver(self, services: JournalServices, sinks: Mapping[str, Sink]) -> None:
        """From an open journal to the stop, or to damage that only opening it anew can mend."""
        while self.journal is None and not await self._stopped_within(AGAIN_S):
            if await self._try_open(services):
                await self._serve_admin()
        if self.journal is None:
            return
        self._start_routes(self.journal, sinks)
        ends = [asyncio.ensure_future(event.wait()) for event in (self.stop, self._standing.damaged)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if self._standing.damaged.is_set() and not self.stop.is_set():
            await self._put_away(self.journal)

    async def _put_away(self, journal: Journal) -> None:
        """Close a damaged journal; the next try to open it salvages what can be read. Senders keep their data meanwhile."""
        self._standing.damaged.clear()
        self._cannot(GatewayState.READ_ONLY, StorageError("journal-damaged", "the journal is being salvaged"))
        self.journal = self._intake.journal = None
        await asyncio.gather(*(route.stop(STOP_S) for route in self.routes.values()))
        self.routes.clear()
        await journal.close()

    def _start_pulse(self, notices: ServiceNotices) -> None:
        interval_s = watchdog_interval_s(self.environ, os.getpid())
        pulse = Pulse(
            self.clock, self.log, notices, interval_s, lambda: self._standing.state, lambda: self.journal, self._line, self._keep_status
        )
        self._keep("pulse", pulse.run)

    # --- journal --------------------------------------------------------------------------------------------------

    async def _try_open(self, services: JournalServices) -> bool:
        """One try; on failure the state says why, and senders are told to keep their data."""
        was_locked = self._standing.state is GatewayState.LOCKED
        try:
            journal = await self._unlocking.attempt(services)
        except LockedError as error:
            self._cannot(GatewayState.LOCKED, error)
            return False
        except CapacityError as error:
            self._cannot(GatewayState.FULL, error)
            return False
        except StorageError as error:
            self._cannot(GatewayState.READ_ONLY, error)
            return False
        self.journal = self._intake.journal = journal
        if self._unlocking.keys is not None:
            self._last_status = LastStatusFile(self.configuration.gateway.state_dir, self._unlocking.keys, self.clock)
        self._standing.opened(journal)
        await self._note_start(journal, was_locked=was_locked)
        return True

    def _cannot(self, state: GatewayState, error: GatewayError) -> None:
        self._intake.reason = error
        if self._standing.enter(state, error.code):
            self.log.emit(LogEvent.GATEWAY_LOCKED if state is GatewayState.LOCKED else LogEvent.START_FAILED, code=error.code)
        self._standing.remember(self.configuration)

    async def _note_start(self, journal: Journal, *, was_locked: bool) -> None:
        """Start, configuration and unlocking are part of the audit trail; a full disk must not keep the daemon down."""
        with contextlib.suppress(CapacityError, StorageError):
            if was_locked:
                await journal.note(AuditKind.UNLOCK, {})
                self.log.emit(LogEvent.GATEWAY_UNLOCKED, age_s=self._age_s)
            await journal.note(AuditKind.CONFIGURATION, {"version": __version__, "digest": self.configuration.digest})

    # --- sources, routes ------------------------------------------------------------------------------------------

    async def _listen(self, source: MllpSource) -> None:
        """Bind now; where the port cannot be had, the others go on and this one is tried again."""
        if not await self._bind(source):
            self._keep(f"source-{source.name}", lambda: self._bind_later(source))

    async def _bind(self, source: MllpSource) -> bool:
        try:
            await source.start()
        except GatewayError as error:
            self.log.emit(LogEvent.LISTEN_FAILED, source=source.name, address=source.address, code=error.code)
            return False
        return True

    async def _bind_later(self, source: MllpSource) -> None:
        while not await self._stopped_within(AGAIN_S):
            if await self._bind(source):
                return

    def _start_routes(self, journal: Journal, sinks: Mapping[str, Sink]) -> None:
        ports = RoutePorts(self.clock, self.randomness, self.log, self._id, journal)
        for table in self.configuration.routes:
            route = self.routes[table.name] = make_route(table, self.configuration.sink(table.sink), sinks[table.name], ports)
            self._keep(f"route-{table.name}", route.run)

    # --- pages, admin socket, tap ---------------------------------------------------------------------------------

    async def _serve_pages(self) -> None:
        """Health comes first, so that a slow start can be watched. The gateway goes on without it."""
        if (address := self.configuration.admin.listen) is None:
            return
        metrics = Metrics(__version__, self.picture, self._figures)
        pages = serve_pages(address, AdminPages(lambda: self._standing.state, metrics.render), self._page_failed)
        try:
            await pages.start()
        except UnavailableError as error:
            self.log.emit(LogEvent.ADMIN_UNAVAILABLE, code=error.code, address=str(address))
            return
        self._pages = pages
        self.log.emit(LogEvent.ADMIN_LISTENING, address=str(address))

    async def _serve_admin(self) -> None:
        """In the state directory once the journal is open; while locked nothing is created there."""
        await self._admin.stop()
        try:
            await self._admin.start(in_state_dir=self.journal is not None)
        except UnavailableError as error:
            self.log.emit(LogEvent.ADMIN_UNAVAILABLE, code=error.code)

    # --- what is shown --------------------------------------------------------------------------------------------

    def picture(self) -> GatewayStatus:
        """One atomic snapshot of everything (DESIGN 6.1)."""
        return picture(
            Parts(
                gateway=self._id,
                state=self._standing.state,
                cause=self._standing.cause,
                sources=self.sources,
                routes=self.routes,
                route_names=self.configuration.route_names,
                journal=None if self.journal is None else self.journal.snapshot(),
                now_us=self.clock.wall_us(),
                last_known=self._standing.last_known,
            )
        )

    def _line(self) -> str:
        """What ``systemctl status`` shows."""
        status = self.picture()
        cause = f" ({status.cause})" if status.cause else ""
        queued = sum(route.books.queued for route in status.routes)
        return f"{status.state.value}{cause}, {queued} queued, " + ", ".join(f"{route.name} {route.state.value}" for route in status.routes)

    def _keep_status(self) -> None:
        """What a locked gateway shows later; written at most once a second, when something changed."""
        if self.journal is not None and self._last_status is not None:
            witness = self.journal.witness()
            if self._last_status.due(witness.commit):
                self._last_status.offer(as_json(self.picture()), witness)

    def _verify(self) -> AuditVerdict:
        """Walk the audit chain; blocking, for a thread."""
        state_dir, keys = self.configuration.gateway.state_dir, self._unlocking.keys
        if keys is None:
            raise _WAITING
        return verify_live(state_dir, keys)

    def _figures(self) -> ProcessFigures:
        return read_figures(self._age_s)

    # --- small parts ----------------------------------------------------------------------------------------------

    @property
    def _id(self) -> str:
        return self.configuration.gateway.id

    @property
    def _age_s(self) -> float:
        return round(self.clock.monotonic_s() - self._began_s, 3)

    def _sink_services(self, route: str) -> SinkServices:
        return SinkServices(self._id, route, self.clock, None, self._credentials)

    @property
    def _credentials(self) -> Path | None:
        directory = self.environ.get("CREDENTIALS_DIRECTORY")
        return Path(directory) if directory else None

    def _keep(self, name: str, start: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(self._supervisor.keep(name, start)))

    def _task_failed(self, name: str, error: str, place: str | None) -> None:
        self.log.emit(LogEvent.TASK_FAILED, task=name, error=error, place=place, count=self._supervisor.failures)

    def _page_failed(self, error: str) -> None:
        self._task_failed("pages", error, None)

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)
        return self.stop.is_set()

    async def _shut(self) -> None:
        """Everything that was started, in the order in which data flows, so that nothing is cut off half-way."""
        await asyncio.gather(*(source.stop(STOP_S) for source in self.sources))
        await asyncio.gather(*(route.stop(STOP_S) for route in self.routes.values()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._admin.stop()
        if self.journal is not None:
            await self.journal.close()
            if self._last_status is not None:
                self._last_status.close(as_json(self.picture()), self.journal.witness())
        if self._pages is not None:
            await self._pages.stop(grace_s=0.5)
