"""The heartbeat: proves that the loop turns and that the journal seals, commits, reads and opens, and feeds systemd.

The watchdog is fed on proof, not on a timer: a process that is up but moves no data is started again. In the declared
states (LOCKED, FULL, READ_ONLY) senders are still answered and a restart would change nothing, so it is fed there too.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.model.errors import GatewayError
from gateway.observe.events import LogEvent
from gateway.observe.health import Vitals, WatchdogVerdict, probe_due, watchdog

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.journal.journal import Journal
    from gateway.model.clock import Clock
    from gateway.model.state import GatewayState
    from gateway.observe.log import EventLog
    from gateway.transport.systemd import ServiceNotices

__all__ = ["Pulse"]

BEAT_S: Final = 1.0


@dataclass(slots=True)
class Pulse:
    """``journal()`` is None while there is none; ``status_line()`` is what ``systemctl status`` shows.

    ``keep_status()`` is called at each beat: the counts that a locked gateway can still show.
    """

    clock: Clock
    log: EventLog
    notices: ServiceNotices
    interval_s: float | None
    state: Callable[[], GatewayState]
    journal: Callable[[], Journal | None]
    status_line: Callable[[], str]
    keep_status: Callable[[], None]
    proof_s: float = 0.0
    _commit: int = -1
    _fed_s: float = 0.0
    _told: str = ""
    _beat_s: float = 0.0

    async def run(self) -> None:
        """Until cancelled: one beat a second, and oftener where ``WatchdogSec`` asks for it."""
        self.proof_s = self._beat_s = self.clock.monotonic_s()
        pause_s = BEAT_S if self.interval_s is None else min(BEAT_S, self.interval_s / 4)
        while True:
            await self.beat()
            await asyncio.sleep(pause_s)

    async def beat(self) -> None:
        """One beat: look, prove, feed."""
        now_s = self.clock.monotonic_s()
        late_s, self._beat_s = now_s - self._beat_s, now_s
        self._observe_commits(now_s)
        vitals = Vitals(state=self.state(), now_s=now_s, heartbeat_s=now_s, proof_s=self.proof_s)
        if probe_due(vitals):
            await self._probe()
        self.keep_status()
        verdict = watchdog(vitals)
        if verdict is WatchdogVerdict.FEED:
            self._feed(now_s)
        else:
            self.log.emit(LogEvent.WATCHDOG_WITHHELD, cause=verdict.value, age_s=round(max(late_s, now_s - self.proof_s), 1))

    def _observe_commits(self, now_s: float) -> None:
        """A commit of real traffic is as good a proof as a probe."""
        if (journal := self.journal()) is not None and (commit := journal.snapshot().commit) != self._commit:
            self._commit, self.proof_s = commit, now_s

    async def _probe(self) -> None:
        if (journal := self.journal()) is None:
            return
        try:
            await journal.probe()
        except GatewayError as error:
            self.log.emit(LogEvent.PROBE_FAILED, code=error.code)
            return
        self.proof_s = self.clock.monotonic_s()
        self._commit = journal.snapshot().commit

    def _feed(self, now_s: float) -> None:
        line = self.status_line()
        if line != self._told:
            self._told = line
            self.notices.status(line)
        if self.interval_s is not None and now_s - self._fed_s >= self.interval_s / 4:
            self._fed_s = now_s
            self.notices.watchdog()
