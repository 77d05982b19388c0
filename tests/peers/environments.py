"""Where the independent peers live, and how to start one as a process."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.blackbox.destination import free_port
from tests.prerequisites import need

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HL7", "MEDPLUM", "NODE", "Peer", "hl7_server", "medplum_server", "need_peers"]

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".envs"
MEDPLUM = ENVIRONMENTS / "medplum"
NODE = MEDPLUM / "node"
HL7 = ENVIRONMENTS / "hl7/bin"


def need_peers() -> None:
    """The environments that tests/run.sh makes."""
    need("the peers' environments (bash tests/peers/setup.sh)", NODE.exists() and (HL7 / "python").exists())


class Peer:
    """A running server process; ``lines`` are what it has printed about messages."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    @property
    def pid(self) -> int:
        return self.process.pid

    def next_line(self) -> str:
        """The next line of its output; blocks until there is one."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")


@contextlib.contextmanager
def _running(command: list[str], port: int) -> Iterator[Peer]:
    process = subprocess.Popen(command, cwd=MEDPLUM, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    try:
        peer = Peer(process, port)
        assert peer.next_line() == "listening"
        yield peer
    finally:
        process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def medplum_server(*, quiet: bool = False) -> Iterator[Peer]:
    port = free_port()
    with _running([str(NODE), str(HERE / "node/server.mjs"), str(port), *(["quiet"] if quiet else [])], port) as peer:
        yield peer


@contextlib.contextmanager
def hl7_server(*, quiet: bool = False) -> Iterator[Peer]:
    port = free_port()
    with _running([str(HL7 / "python"), str(HERE / "hl7_server.py"), str(port), *(["quiet"] if quiet else [])], port) as peer:
        yield peer
