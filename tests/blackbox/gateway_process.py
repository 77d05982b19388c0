"""The installed program as a process in a folder of its own: init, run, kill, stop, status."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.blackbox.destination import GATEWAY_ID, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PROGRAM", "Gateway", "balanced", "until"]

T = TypeVar("T")

PROGRAM = str(Path(sys.executable).parent / "edge-gateway")
_TERMS = ("delivered", "queued", "held", "dead_letter", "filtered", "gaps")


def until(condition: Callable[[], T], seconds: float, step_s: float = 0.02) -> T:
    """Wait for a true value and return it; the last value when the time is over."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(step_s)
    return value


def balanced(counts: Mapping[str, Any]) -> bool:
    """The accounting equation of one route."""
    return bool(counts["accepted"] == sum(counts[term] for term in _TERMS))


def _source(name: str, port: int, more: str) -> str:
    return f'[[source]]\nname = "{name}"\ntype = "mllp"\nlisten = "127.0.0.1:{port}"\n{more}'


@dataclass(slots=True)
class Gateway:
    """One gateway. ``home`` holds configuration and key, ``state_dir`` may lie on a disk of its own.

    ``sink``/``source``/``journal``: further lines of those tables; ``sink_table`` replaces the whole table of the sink, whose
    name must stay "cloud". ``tables``: further tables. ``env``: further environment of the daemon.
    """

    home: Path
    url: str
    state_dir: Path | None = None
    sources: tuple[str, ...] = ("adt",)
    sink: str = ""
    sink_table: str = ""
    batch: str = "{ max_messages = 200, linger_ms = 20 }"
    source: str = ""
    journal: str = ""
    tables: str = ""
    env: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    admin: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.home / "gateway.toml"

    @property
    def log(self) -> Path:
        return self.home.parent / f"{self.home.name}.log"

    @property
    def scratch(self) -> Path:
        """HOME and TMPDIR of the program, so that what it leaves there is found."""
        return self.home.parent / f"{self.home.name}.scratch"

    @property
    def state(self) -> Path:
        return self.state_dir or self.home / "state"

    @property
    def port(self) -> int:
        return self.ports[self.sources[0]]

    @property
    def key(self) -> Path:
        return self.home / "keys/kek"

    def environment(self) -> dict[str, str]:
        keep = {name: value for name, value in os.environ.items() if name in ("PATH", "VIRTUAL_ENV")}
        return {**keep, "HOME": str(self.scratch), "TMPDIR": str(self.scratch), "LANG": "C.UTF-8", **self.env}

    def call(self, *arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        return subprocess.run(
            [PROGRAM, *arguments], capture_output=True, env=self.environment(), cwd=self.home.parent, timeout=timeout_s, check=False
        )

    def ask(self, *arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[bytes]:
        """A command about this gateway."""
        return self.call(*arguments, "-c", str(self.config), timeout_s=timeout_s)

    def init(self) -> Gateway:
        """Write a configuration and a fresh key, as ``init`` would and our own tables ask."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.ports = self.ports or {name: free_port() for name in self.sources}
        self.admin = self.admin or free_port()
        self.key.parent.mkdir(parents=True)
        self.key.write_bytes(os.urandom(32))
        self.key.chmod(0o600)
        self.config.write_text(self._toml({"provider": "file", "path": "keys/kek"}))
        return self

    def _toml(self, keys: dict[str, Any]) -> str:
        tables = [
            f'[gateway]\nid = "{GATEWAY_ID}"\nstate_dir = {json.dumps(str(self.state))}\ntime_zone = "Europe/Berlin"',
            "[keys]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in keys.items()),
            f'[admin]\nlisten = "127.0.0.1:{self.admin}"',
            *(
                f'[[source]]\nname = "{name}"\ntype = "mllp"\nlisten = "127.0.0.1:{port}"\n{self.source}'
                for name, port in self.ports.items()
            ),
            self.sink_table or f'[[sink]]\nname = "cloud"\ntype = "https"\nurl = "{self.url}"\nbatch = {self.batch}\n{self.sink}',
            f'[[route]]\nname = "everything"\nfrom = {json.dumps(list(self.ports))}\nto = "cloud"',
            f"[journal]\n{self.journal}",
            self.tables,
        ]
        return "\n\n".join(tables) + "\n"

    # ---- the daemon

    def start(self, wait_s: float = 20.0) -> float:
        """Run it until the first MLLP port answers; the seconds that took."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "run", "-c", str(self.config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
                cwd=self.home.parent,
            )
        process = self.process
        until(lambda: process.poll() is not None or self.listening(), wait_s, 0.005)
        assert process.poll() is None, f"run ended with {process.returncode}: {self.tail()}"
        assert self.listening(), f"no MLLP port after {wait_s} s: {self.tail()}"
        return time.monotonic() - began

    def listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def tail(self, lines: int = 5) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else "(no log)"

    def kill(self) -> None:
        """SIGKILL, now."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def stop(self, wait_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end {wait_s} s after SIGTERM: {self.tail()}") from None

    # ---- what it says

    def http(self, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=timeout_s) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read()

    def health(self) -> str:
        """The state that /healthz tells, or empty where it does not answer."""
        with contextlib.suppress(OSError):
            status, body = self.http("/healthz")
            assert status == 200
            return str(json.loads(body)["state"])
        return ""

    def status(self) -> dict[str, Any]:
        done = self.ask("status", "--json")
        assert done.returncode == 0, f"status: exit {done.returncode}: {done.stderr.decode()[-300:]}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def route(self, name: str = "everything") -> dict[str, Any]:
        """One route of the status; it must balance in every answer."""
        (found,) = (route for route in self.status()["routes"] if route["name"] == name)
        assert balanced(found), found
        return dict(found)

    def settled(self, wait_s: float = 15.0) -> dict[str, Any]:
        """The route once nothing is queued any more (or the time is over)."""
        end = time.monotonic() + wait_s
        while (found := self.route())["queued"] and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def proc(self, name: str) -> Path:
        """What the kernel knows about the daemon."""
        return Path(f"/proc/{self.pid}/{name}")

    def rss_mb(self) -> float:
        match = re.search(r"VmRSS:\s*(\d+)", self.proc("status").read_text())
        return int(match[1]) / 1024 if match else 0.0
