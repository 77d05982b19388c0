"""The console script ``edge-gateway``.

``run`` is handled first and without the command-line library, which the daemon does not carry in memory; everything else
goes to the command group of ``admin``, which is handed the long-running programs and the registries of kinds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

from gateway.admin.run_arguments import run_arguments
from gateway.model.errors import ConfigurationError, GatewayError, LockedError, UnavailableError
from gateway.observe.events import LogEvent
from gateway.observe.log import EventLog
from gateway.observe.rerouting import LoopExceptions, install
from gateway.service.system_clock import SystemClock, SystemRandomness

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings.configuration import Configuration

__all__ = ["main", "run"]

_EXITS = {ConfigurationError: 3, LockedError: 4, UnavailableError: 5}


def main() -> int:
    """Entry point; returns the exit code."""
    if sys.argv[1:2] == ["run"] and not {"-h", "--help"} & set(sys.argv[2:]):
        return run(run_arguments(sys.argv[2:], os.environ))
    from gateway.service.command_line import command_line

    return command_line()


def run(path: Path) -> int:
    """Run the daemon of that configuration until SIGTERM or SIGINT; 0 after an ordered stop."""
    from gateway.service.kinds import KINDS
    from gateway.settings.load import load

    try:
        configuration = load(path, KINDS)
    except ConfigurationError as error:
        for issue in error.issues:
            sys.stderr.write(f"error: {issue.path}: {issue.reason}; {issue.fix}\n")
        return 3
    os.umask(0o077)
    clock = SystemClock()
    log = EventLog(clock, sys.stderr)
    install(log)
    for issue in configuration.warnings:
        log.emit(LogEvent.CONFIGURATION_WARNING, setting=issue.path)
    try:
        asyncio.run(_serve(configuration, clock, log))
    except GatewayError as error:
        log.emit(LogEvent.START_FAILED, code=error.code)
        sys.stderr.write(f"error: {error}\n")
        return next((code for kind, code in _EXITS.items() if isinstance(error, kind)), 1)
    return 0


async def _serve(configuration: Configuration, clock: SystemClock, log: EventLog) -> None:
    from gateway.service.daemon import Daemon

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(LoopExceptions(log))
    daemon = Daemon(configuration, clock, SystemRandomness(), log, os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop.set)
    await daemon.run()
