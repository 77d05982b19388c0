"""Everything but ``run``: the command group, joined with the programs it starts."""

from __future__ import annotations

import os

from gateway.admin.command import PROGRAM, Programs, Surroundings, build
from gateway.admin.offline_port import open_offline
from gateway.receiver.command import receive_command
from gateway.service.demo_run import demo
from gateway.service.kinds import KINDS
from gateway.service.main import run
from gateway.service.system_clock import SystemClock, SystemRandomness

__all__ = ["command_line"]


def command_line() -> int:
    """Run one command; returns its exit code (click ends the process by itself for usage errors)."""
    clock = SystemClock()
    surroundings = Surroundings(clock, SystemRandomness(), os.environ, open_offline)
    group = build(Programs(run, demo, receive_command(clock)), KINDS, surroundings)
    group.main(prog_name=PROGRAM)
    return 0
