"""systemd's side of ``Type=notify``: a datagram socket that remembers what it was told, and when."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NotifySocket"]


class NotifySocket:
    """``notices``: (monotonic second, assignment), in order of arrival."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.05)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            with contextlib.suppress(TimeoutError):
                text = self._socket.recv(4096).decode()
                now = time.monotonic()
                self.notices += [(now, line) for line in text.splitlines()]

    def environment(self, watchdog_s: float) -> dict[str, str]:
        """What systemd would set."""
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(int(watchdog_s * 1e6))}

    def times(self, assignment: str, since: float = 0.0) -> list[float]:
        """When that was said."""
        return [at for at, line in list(self.notices) if line == assignment and at >= since]

    def longest_silence_s(self, since: float, until: float) -> float:
        """The longest time between two WATCHDOG=1 in that span, its ends included."""
        marks = [since, *(at for at in self.times("WATCHDOG=1", since) if at <= until), until]
        return max(b - a for a, b in itertools.pairwise(marks))
