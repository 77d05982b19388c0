"""A closed-loop MLLP load on raw sockets and epoll, in a process of its own, so that it costs as little as it can.

``python -m tests.bench.load '{"port": …, "connections": 64, "in_flight": 16, "seconds": 5, "size_bytes": 700}'`` prints one
JSON object. Each connection keeps ``in_flight`` messages unanswered; control ids are unique over the life of the machine.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.measure import quantile
from tests.blackbox.messages import framed, message, padded

__all__ = ["Load", "LoadResult", "run"]

_MARK = "0000000000000000"  # 16 characters, replaced by the number of each message


@dataclass(frozen=True, slots=True)
class Load:
    """What to send. It ends after ``seconds``, or after ``messages`` where that is not 0. ``random``: hardly compressible."""

    port: int
    connections: int
    in_flight: int
    seconds: float = 5.0
    size_bytes: int = 700
    messages: int = 0
    random: bool = False
    warm_up_s: float = 0.5


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came back. ``rate``: positive answers per second after the warm-up; latencies in ms, of sampled messages."""

    sent: int
    accepted: int
    refused: int
    rate: float
    p50_ms: float
    p99_ms: float
    seconds: float
    cpu_s: float


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    tail: bytes = b""
    unsent: bytes = b""
    open_since: list[float] = field(default_factory=list)


class _Sender:
    def __init__(self, load: Load) -> None:
        self.load = load
        self.template = _templates(load)
        self.base = time.time_ns() // 1000 * 4096 % 10**16
        self.sent = self.accepted = self.refused = 0
        self.counted_from = 0
        self.started = self.warm = 0.0
        self.latencies: list[float] = []
        self.poll = select.epoll()
        self.connections: dict[int, _Connection] = {}

    def frames(self, count: int) -> bytes:
        """The next ``count`` messages."""
        head, tail = self.template[self.sent % len(self.template)]
        first = self.base + self.sent
        self.sent += count
        return b"".join(b"%b%016d%b" % (head, first + number, tail) for number in range(count))

    def connect(self) -> None:
        for _ in range(self.load.connections):
            sock = socket.create_connection(("127.0.0.1", self.load.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self.connections[sock.fileno()] = _Connection(sock)
            self.poll.register(sock.fileno(), select.EPOLLIN)

    def more(self) -> bool:
        """Whether to send new messages."""
        if self.load.messages:
            return self.sent < self.load.messages
        return time.perf_counter() < self.started + self.load.warm_up_s + self.load.seconds

    def write(self, connection: _Connection, data: bytes) -> None:
        connection.unsent += data
        try:
            done = connection.sock.send(connection.unsent)
        except BlockingIOError:
            done = 0
        connection.unsent = connection.unsent[done:]
        events = select.EPOLLIN | (select.EPOLLOUT if connection.unsent else 0)
        self.poll.modify(connection.sock.fileno(), events)

    def read(self, connection: _Connection, now: float) -> None:
        try:
            data = connection.sock.recv(1 << 18)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionError("the server closed a connection")
        data = connection.tail + data
        whole = data.rfind(b"\x1c\r") + 2
        answered, connection.tail = data[:whole], data[whole:]
        count = answered.count(b"\x1c\r")
        good = answered.count(b"\rMSA|AA|") + answered.count(b"\rMSA|CA|")
        self.accepted += good
        self.refused += count - good
        sampled, connection.open_since = connection.open_since[:count], connection.open_since[count:]
        self.latencies += [(now - since) * 1000 for since in sampled]
        if count and self.more():
            connection.open_since += [now] * count
            self.write(connection, self.frames(count))

    def run(self) -> LoadResult:
        self.connect()
        self.started = time.perf_counter()
        cpu = time.process_time()
        for connection in self.connections.values():
            connection.open_since = [self.started] * self.load.in_flight
            self.write(connection, self.frames(self.load.in_flight))
        end = 0.0
        while self.accepted + self.refused < self.sent:
            now = time.perf_counter()
            if not self.warm and now > self.started + self.load.warm_up_s:
                self.warm, self.counted_from = now, self.accepted
                self.latencies.clear()
            for handle, events in self.poll.poll(5.0) or self.stalled():
                connection = self.connections[handle]
                if events & select.EPOLLOUT:
                    self.write(connection, b"")
                if events & ~select.EPOLLOUT:
                    self.read(connection, time.perf_counter())
            if self.more() or not end:
                end, counted = time.perf_counter(), self.accepted
        since = self.warm or self.started
        rate = (counted - self.counted_from) / max(end - since, 1e-9)
        latencies = self.latencies or [0.0]
        cpu = time.process_time() - cpu
        return LoadResult(
            self.sent, self.accepted, self.refused, rate, quantile(latencies, 0.5), quantile(latencies, 0.99), end - since, cpu
        )

    def stalled(self) -> list[tuple[int, int]]:
        raise TimeoutError(f"no answer for 5 s: {self.accepted} accepted, {self.refused} refused of {self.sent}")


def _templates(load: Load) -> list[tuple[bytes, bytes]]:
    """What stands before and after the number, for several patients, so that traffic is neither constant nor random."""
    bodies = []
    for patient in range(64 if load.random else 2048):
        if load.random:
            text = os.urandom(load.size_bytes // 2).hex().encode()
            body = message(_MARK, patient=patient, rest=b"PID|1||100001^^^SITE^MR||DOE^JANE\rOBX|1|TX|9||" + text + b"||||||F\r")
        else:
            body = padded(_MARK, load.size_bytes, patient)  # another patient, other values
        head, _, tail = framed(body).partition(_MARK.encode())
        bodies.append((head, tail))
    return bodies


def run(load: Load) -> LoadResult:
    """Run the load in a process of its own."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.bench.load", json.dumps(asdict(load))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        raise RuntimeError(f"the load failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return LoadResult(**found)


if __name__ == "__main__":
    print(json.dumps(asdict(_Sender(Load(**json.loads(sys.argv[1]))).run())))
