"""A destination that speaks MLLP badly, on purpose: each message is answered as a script says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

from tests.blackbox.messages import control_id, framed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CLOSE", "MisbehavingServer", "acknowledgement", "good"]

#: In a script: end the connection here.
CLOSE = b""


def acknowledgement(control: str, code: str = "AA", *, error: str = "", kind: str = "ACK", end: str = "\r") -> bytes:
    """An answer's body. ``end``: what ends its segments."""
    segments = [f"MSH|^~\\&|DOWN|SITE|GATEWAY|SITE|20261122120000||{kind}|A{time.monotonic_ns()}|P|2.5.1", f"MSA|{code}|{control}"]
    segments += [f"ERR|||{error}|E"] if error else []
    return end.join([*segments, ""]).encode()


def good(body: bytes) -> list[bytes]:
    return [framed(acknowledgement(control_id(body)))]


class MisbehavingServer:
    """``script(attempt, body)``: the bytes to send for the ``attempt``-th (from 1) sending of that message; ``CLOSE`` ends.

    ``received``: bodies in order of arrival, over all connections. ``connections``: how many there were.
    """

    def __init__(self, script: Callable[[int, bytes], Iterable[bytes]]) -> None:
        self.script = script
        self.received: list[bytes] = []
        self.connections = 0
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def controls(self) -> list[str]:
        """Control ids in order of first arrival."""
        return list(dict.fromkeys(control_id(body) for body in list(self.received)))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        rest = b""
        with contextlib.suppress(OSError), connection:
            while data := connection.recv(65536):
                *frames, rest = (rest + data).split(b"\x1c\r")
                for frame in frames:
                    if not self._answer(connection, frame[1:]):
                        return

    def _answer(self, connection: socket.socket, body: bytes) -> bool:
        with self._lock:
            self.received.append(body)
            attempt = self.received.count(body)
        for part in self.script(attempt, body):
            if part == CLOSE:
                return False
            connection.sendall(part)
            time.sleep(0.005)
        return True
