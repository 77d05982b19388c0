"""Everything but ``run``: the command group, joined with the programs it starts."""

from __future__ import annotations

import os
from functools import partial
from typing import NoReturn

from gateway.admin.command import PROGRAM, Programs, Surroundings, build
from gateway.receiver.command import receive_command
from gateway.service.kinds import KINDS
from gateway.service.main import run
from gateway.service.offline_port import open_stopped
from gateway.service.system_clock import SystemClock, SystemRandomness

__all__ = ["command_line"]


def _demo(seconds: float | None) -> int:
    """The demo brings a receiver with it; only ``demo`` itself pays for that."""
    from gateway.service.demo_run import demo

    return demo(seconds)


def command_line() -> NoReturn:
    """Run one command; click ends the process with its exit code."""
    clock = SystemClock()
    surroundings = Surroundings(clock, SystemRandomness(), os.environ, partial(open_stopped, clock=clock))
    build(Programs(run, _demo, receive_command(clock)), KINDS, surroundings).main(prog_name=PROGRAM)
