"""The cloud's side: applies once by (id, revision), checks the contract, and misbehaves as told."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import json
import os
import random
import re
import socket
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from tests.blackbox.messages import control_id

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Applied", "Behaviour", "Destination", "free_port", "payload_of"]

GATEWAY_ID = "test-gw"
_HANDED_OUT: set[int] = set()
_WANTED = ("id", "source", "type", "time", "sequence", "lane", "laneseq", "revision", "partitionkey", "datacontenttype", "clockstate")


def free_port() -> int:
    """A port nobody else gets: below the kernel's own range, from this worker's part of it, never handed out twice."""
    worker = int("".join(filter(str.isdigit, os.environ.get("PYTEST_XDIST_WORKER", ""))) or 9)
    while True:
        port = random.randrange(20_000 + worker % 10 * 1200, 21_200 + worker % 10 * 1200)
        with contextlib.suppress(OSError):
            if port not in _HANDED_OUT:
                socket.create_server(("127.0.0.1", port)).close()
                _HANDED_OUT.add(port)
                return port


def payload_of(event: dict[str, Any]) -> bytes:
    """The wire bytes that an event carries."""
    if "data_base64" in event:
        return base64.b64decode(event["data_base64"], validate=True)
    data = event["data"]
    return data.encode(event.get("datacharset", "utf-8")) if isinstance(data, str) else json.dumps(data, sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class Applied:
    """One event as it was applied for the first time."""

    id: str
    revision: int
    source: str
    type: str
    lane: str
    laneseq: int
    sequence: int
    body: bytes
    event: dict[str, Any]

    @property
    def control(self) -> str:
        return control_id(self.body)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the destination does with the next requests.

    ``status`` other than 200 applies nothing. ``lose``: apply, then end the connection without an answer, that many times.
    ``hold_s``: how long the answer takes after applying. ``silent``: read, apply nothing, never answer. ``text``: a body of
    its own instead of the results (with status 200: a portal's page).
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    text: bytes | None = None
    lose: int = 0
    hold_s: float = 0.0
    silent: bool = False


@dataclass(slots=True)
class _Books:
    applied: dict[tuple[str, int], Applied] = field(default_factory=dict)
    order: list[Applied] = field(default_factory=list)
    duplicates: int = 0
    conflicts: list[str] = field(default_factory=list)
    flaws: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[float, int, int]] = field(default_factory=list)  # monotonic second, events, status


class Destination:
    """An HTTP receiver on loopback. ``behaviour`` may be changed at any time; ``rejects`` and ``poisons`` judge event bodies."""

    def __init__(self) -> None:
        self.port = free_port()
        self.behaviour = Behaviour()
        self.rejects: Callable[[bytes], bool] = lambda _body: False
        self.poisons: Callable[[bytes], bool] = lambda _body: False
        self.reason = "not usable"
        self.books = _Books()
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self._server: _Server | None = None
        self.up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/events"

    def up(self) -> None:
        """Listen (again) and behave."""
        self.behaviour = Behaviour()
        if self._server is None:
            self._server = _Server(("127.0.0.1", self.port), self)
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections and cut the live ones."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # ---- what was applied

    def controls(self) -> dict[str, list[str]]:
        """Control id -> ids of the distinct events that carried it, in order of application."""
        found: dict[str, list[str]] = defaultdict(list)
        with self.lock:
            for applied in self.books.order:
                found[applied.control].append(applied.id)
        return dict(found)

    def wait_for(self, wanted: set[str], patience_s: float = 15.0) -> set[str]:
        """Wait until every control id of ``wanted`` has arrived; what is missing after ``patience_s`` without progress."""
        fewest, since = len(wanted) + 1, time.monotonic()
        while missing := wanted - self.controls().keys():
            if len(missing) < fewest:
                fewest, since = len(missing), time.monotonic()
            if time.monotonic() - since > patience_s:
                return missing
            time.sleep(0.05)
        return set()

    def statuses(self, since: float = 0.0) -> list[tuple[float, int]]:
        with self.lock:
            return [(at, status) for at, _, status in self.books.requests if at >= since]

    def gaps(self) -> list[str]:
        """Holes in ``laneseq`` that no gateway.gap event declares."""
        seen: dict[str, set[int]] = defaultdict(set)
        with self.lock:
            for applied in self.books.order:
                seen[applied.lane].add(applied.laneseq)
                if applied.type == "gateway.gap":
                    declared = applied.event["data"]
                    lane = declared.get("lane", applied.lane)
                    seen[lane] |= set(range(int(declared["from"]), int(declared["to"]) + 1))
        return [f"{lane}: {n}" for lane, numbers in seen.items() for n in range(1, max(numbers) + 1) if n not in numbers]

    # ---- one request

    def answer(self, headers: dict[str, str], raw: bytes) -> tuple[int, bytes | None, tuple[tuple[str, str], ...]]:
        """Status, body (None = no answer at all) and headers of the answer to one POST."""
        with self.lock:
            told = self.behaviour
            if told.status != 200 or told.silent:
                self.books.requests.append((time.monotonic(), 0, 0 if told.silent else told.status))
                return told.status, None if told.silent else told.text or b"", told.headers
            events = self._decoded(headers, raw)
            status, body = self._judged(events)
            self.books.requests.append((time.monotonic(), len(events), status))
            if told.lose > 0 and status == 200:
                self.behaviour = replace(told, lose=told.lose - 1)
                return status, None, ()
            return status, body if told.text is None else told.text, told.headers

    def _judged(self, events: list[dict[str, Any]]) -> tuple[int, bytes]:
        if any(self.poisons(payload_of(event)) for event in events):
            return 422, b'{"error":"unprocessable"}'
        return 200, json.dumps({"results": [self._apply(event) for event in events]}).encode()

    def _decoded(self, headers: dict[str, str], raw: bytes) -> list[dict[str, Any]]:
        flaws = self.books.flaws
        if headers.get("content-type", "").split(";")[0] != "application/cloudevents-batch+json":
            flaws["content type"] += 1
        if base64.b64encode(hashlib.sha256(raw).digest()).decode() not in headers.get("content-digest", ""):
            flaws["content digest"] += 1
        if not headers.get("idempotency-key"):
            flaws["idempotency key"] += 1
        text = gzip.decompress(raw) if headers.get("content-encoding") == "gzip" else raw
        events: list[dict[str, Any]] = json.loads(text)
        for event in events:
            flaws.update(flaws_of(event))
        if len({event["id"].split("/")[1] for event in events}) > 1:
            flaws["two incarnations in one batch"] += 1
        return events

    def _apply(self, event: dict[str, Any]) -> dict[str, str]:
        body = payload_of(event)
        if self.rejects(body):
            return {"id": event["id"], "status": "rejected", "reason": self.reason}
        books = self.books
        key = (event["id"], int(event["revision"]))
        if known := books.applied.get(key):
            books.duplicates += 1
            if known.body != body or known.laneseq != int(event["laneseq"]):
                books.conflicts.append(event["id"])
            return {"id": event["id"], "status": "duplicate"}
        applied = Applied(
            *(*key, event["source"], event["type"], event["lane"]), int(event["laneseq"]), int(event["sequence"]), body, event
        )
        books.applied[key] = applied
        books.order.append(applied)
        return {"id": event["id"], "status": "accepted"}


def flaws_of(event: dict[str, Any]) -> list[str]:
    """What an event lacks of the published contract."""
    flaws = [f"no {name}" for name in _WANTED if str(event.get(name, "")) == ""]
    if event.get("specversion") != "1.0":
        flaws.append("specversion")
    if not (match := re.fullmatch(rf"{GATEWAY_ID}/[0-9a-f]{{32}}/(\d+)", str(event.get("id")))):
        flaws.append("form of id")
    elif event.get("sequence") != f"{int(match[1]):020d}":
        flaws.append("sequence")
    if not re.fullmatch(rf"urn:edge-gateway:{GATEWAY_ID}:[\w-]+", str(event.get("source"))):
        flaws.append("form of source")
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", str(event.get("time"))):
        flaws.append("form of time")
    if ("data" in event) == ("data_base64" in event):
        flaws.append("data or data_base64")
    return flaws


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], destination: Destination) -> None:
        self.destination = destination
        super().__init__(address, _Requests)

    def handle_error(self, request: object, client_address: object) -> None:
        """A cut connection is what these tests are about."""


class _Requests(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.destination.connections.add(self.connection)

    def finish(self) -> None:
        self.server.destination.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        destination = self.server.destination
        raw = self._body()
        if destination._server is not self.server:  # taken down meanwhile: nothing applied, no answer
            self.close_connection = True
            return
        status, body, headers = destination.answer({name.lower(): value for name, value in self.headers.items()}, raw)
        self._wait(destination)
        if body is None:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _wait(self, destination: Destination) -> None:
        time.sleep(destination.behaviour.hold_s)
        while destination.behaviour.silent and destination._server is self.server:
            time.sleep(0.02)
