"""A blunt MLLP client on a plain socket, and a sender that never gives up on a message."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tests.blackbox.messages import framed, message

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["POSITIVE", "Answer", "Line", "Sender", "answer_of"]

POSITIVE = ("AA", "CA")


@dataclass(frozen=True, slots=True)
class Answer:
    """One acknowledgement: MSA-1, MSA-2, the ERR-3 (or ERR-1) codes in it, and its bytes."""

    code: str
    control: str
    errors: tuple[str, ...]
    text: bytes

    @property
    def positive(self) -> bool:
        return self.code in POSITIVE


def answer_of(text: bytes) -> Answer:
    """Read an acknowledgement with the separator that it declares itself."""
    separator = text[3:4].decode("latin-1")
    code = control = ""
    errors: list[str] = []
    for segment in text.decode("latin-1").split("\r"):
        fields = [*segment.split(separator), "", "", "", ""]
        if fields[0] == "MSA":
            code, control = fields[1], fields[2]
        elif fields[0] == "ERR":
            errors += re.findall(r"\d{3}", fields[3].split("^")[0] or fields[1].rpartition("^")[2])
    return Answer(code, control, tuple(errors), text)


class Line:
    """One connection. ``got`` holds every answer so far; ``closed`` whether the other side has ended it."""

    def __init__(self, port: int, timeout_s: float = 5.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.got: list[Answer] = []
        self.closed = False
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes, timeout_s: float = 10.0) -> None:
        self.socket.settimeout(timeout_s)
        self.socket.sendall(data)

    def read(self, wait_s: float) -> list[Answer]:
        """The answers that one read brings, waiting at most ``wait_s`` for it."""
        self.socket.settimeout(max(wait_s, 0.001))
        try:
            data = self.socket.recv(1 << 18)
        except TimeoutError:
            return []
        except OSError:
            data = b""
        self.closed = self.closed or not data
        *whole, self._rest = (self._rest + data).split(b"\x1c\r")
        new = [answer_of(frame.rpartition(b"\x0b")[2]) for frame in whole]
        self.got += new
        return new

    def answers(self, count: int, wait_s: float = 5.0) -> list[Answer]:
        """All answers so far, once there are ``count`` or the time is over or the connection has ended."""
        end = time.monotonic() + wait_s
        while len(self.got) < count and not self.closed and (left := end - time.monotonic()) > 0:
            self.read(left)
        return self.got

    def quiet(self, for_s: float) -> list[Answer]:
        """What still comes within ``for_s``."""
        before = len(self.got)
        end = time.monotonic() + for_s
        while not self.closed and (left := end - time.monotonic()) > 0:
            self.read(left)
        return self.got[before:]

    def ask(self, body: bytes, wait_s: float = 5.0) -> Answer | None:
        """Send one message and return the next answer, or None where none came."""
        before = len(self.got)
        self.send(framed(body))
        got = self.answers(before + 1, wait_s)
        return got[before] if len(got) > before else None


@dataclass(slots=True)
class _Account:
    acked: dict[str, float] = field(default_factory=dict)
    refused: dict[str, Answer] = field(default_factory=dict)
    misplaced: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


class Sender:
    """Sends ``<name>-0``, ``<name>-1``, … in order, at most ``window`` unanswered; reconnects and sends the unanswered again.

    ``acked``: control id -> monotonic second at which its positive answer was read. ``refused``: negative answers (not
    sent again unless ``persistent``, which then reconnects). ``misplaced``: answers that were not for the oldest unanswered message.
    """

    def __init__(
        self,
        port: int,
        name: str,
        *,
        rate: float = 100.0,
        window: int = 8,
        make: Callable[[str], bytes] = message,
        persistent: bool = False,
    ) -> None:
        self.port, self.name, self.rate, self.window, self.make, self.persistent = port, name, rate, window, make, persistent
        self.account = _Account()
        self.sent: dict[str, bytes] = {}
        self._pending: dict[str, tuple[bytes, float]] = {}
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name=f"sender {name}", daemon=True)

    @property
    def acked(self) -> dict[str, float]:
        return self.account.acked

    @property
    def refused(self) -> dict[str, Answer]:
        return self.account.refused

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self, patience_s: float = 5.0) -> None:
        """Send nothing new; leave ``patience_s`` for the answers still due."""
        self._deadline = time.monotonic() + patience_s
        self._stopping.set()

    def join(self, timeout_s: float = 15.0) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"sender {self.name} does not end"

    def _over(self) -> bool:
        return self._stopping.is_set() and (not self._pending or time.monotonic() > self._deadline)

    def _run(self) -> None:
        while not self._over():
            with contextlib.suppress(OSError), Line(self.port, 2.0) as line:
                self._converse(line)
            time.sleep(0.03)

    def _converse(self, line: Line) -> None:
        now = time.monotonic()
        self._pending = {control: (body, now) for control, (body, _) in self._pending.items()}
        line.send(b"".join(framed(body) for body, _ in self._pending.values()))
        due = now
        while not line.closed and not self._over():
            due = max(due, time.monotonic() - 0.2)
            due = self._send_due(line, due)
            kept = [self._take(answer) for answer in line.read(0.02)]
            if not all(kept):
                time.sleep(0.1)
                return

    def _send_due(self, line: Line, due: float) -> float:
        now = time.monotonic()
        burst = []
        while len(self._pending) < self.window and due <= now and not self._stopping.is_set():
            control = f"{self.name}-{len(self.sent)}"
            body = self.sent[control] = self.make(control)
            self._pending[control] = (body, now)
            burst.append(framed(body))
            due += 1 / self.rate
        if burst:
            line.send(b"".join(burst))
        return due

    def _take(self, answer: Answer) -> bool:
        """Enter one answer; False where this connection should be given up to send the refused again, in order."""
        account = self.account
        if answer.control != next(iter(self._pending), None):
            account.misplaced.append(answer.control)
        if not (waited := self._pending.pop(answer.control, None)):
            return True
        body, since = waited
        now = time.monotonic()
        account.slowest_s = max(account.slowest_s, now - since)
        if answer.positive:
            account.acked[answer.control] = now
            account.refused.pop(answer.control, None)
            return True
        account.refused[answer.control] = answer
        if self.persistent:
            self._pending = {answer.control: (body, now), **self._pending}
        return not self.persistent
