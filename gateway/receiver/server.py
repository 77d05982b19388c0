"""The reference receiver: HTTP in, books in SQLite, a verdict per event out, only after the commit.

Everything between reading a request and answering it runs in one thread, in the order of arrival: decode, verify, apply,
fsync. A receiver that has to do more (a database cluster, a queue) replaces ``ReceiverStore.apply`` and keeps the rest.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, TypeVar

from gateway.codec.cloudevents import BATCH_CONTENT_TYPE
from gateway.model.errors import GatewayError, LocalProtocolError, UnavailableError
from gateway.receiver.offers import offers
from gateway.receiver.store import Applied, ReceiverStore
from gateway.receiver.verify import REFUSALS, RequestRefusedError, authorised, content
from gateway.transport.http_server import Answer, HttpLimits, HttpServer, Request, json_answer, problem
from gateway.transport.tls import server_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gateway.model.clock import Clock
    from gateway.receiver.offers import Judge
    from gateway.receiver.store import Result

__all__ = ["BatchReport", "ReceiverSettings", "ReferenceReceiver"]

_T = TypeVar("_T")

EVENTS_PATH: Final = "/v1/events"
STATE_PATH: Final = "/v1/state"
CONTRACT_PATH: Final = "/v1/openapi.json"

#: A lone message of 16 MiB, its line ends escaped and base64 around it, still fits; compressed bodies are far smaller.
BODY_MAX_BYTES: Final = 32 * 1024 * 1024
CONTENT_MAX_BYTES: Final = 64 * 1024 * 1024
#: A full or failing disk does not mend in a second; the sender adds up to a tenth to this.
_STORE_RETRY_AFTER_S: Final = 5


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """Where it listens and what it keeps. ``port`` 0: any free one.

    ``token``: every request must carry it as a bearer token; None: anybody may send. ``cert`` and ``key``: PEM files; both
    or neither. ``keep_payloads``: the content of each event is kept in clear, in a file of mode 0600.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = 0
    keep_payloads: bool = False
    token: bytes | None = None
    cert: Path | None = None
    key: Path | None = None
    body_max_bytes: int = BODY_MAX_BYTES
    content_max_bytes: int = CONTENT_MAX_BYTES


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of one request, without a word of its content. ``refused``: code of the refusal, or "" where it was applied.

    ``applied`` is empty where ``refused`` is set. ``body_bytes``: as received, encoded.
    """

    applied: Applied
    body_bytes: int
    refused: str = ""


class ReferenceReceiver:
    """Receives, applies exactly once, and answers (DESIGN of the contract: ``openapi.json``).

    ``judge`` says of an event why it shall be rejected, or "" (a receiver's own rules; tests and demos); it runs in the
    worker thread. ``on_batch`` is called in the event loop once per request, also where the sender did not wait for the answer.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        clock: Clock,
        *,
        judge: Judge | None = None,
        on_batch: Callable[[BatchReport], None] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._judge = judge
        self._on_batch = on_batch
        self._store = ReceiverStore(settings.store, keep_payloads=settings.keep_payloads)
        self._server: HttpServer | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._faults = 0

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, also while paused. Raises: LocalProtocolError before ``start``."""
        if self._server is None:
            raise LocalProtocolError("receiver-not-started", "call start first")
        return self._server.address

    @property
    def url(self) -> str:
        """What a sink's ``url`` must be to reach it."""
        host, port = self.address
        scheme = "https" if self._settings.cert else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{EVENTS_PATH}"

    @property
    def applied(self) -> int:
        """Distinct event ids applied in the life of the store."""
        return self._store.totals["events"]

    @property
    def totals(self) -> dict[str, int]:
        """The totals of the store (see ``ReceiverStore.totals``), ``missing`` numbers now, and ``faults`` (bugs) since start."""
        return {**self._store.totals, "missing": self._store.missing, "faults": self._faults}

    async def start(self) -> None:
        """Open the store and listen.

        Raises: UnavailableError (address or store in use), StorageError, IntegrityError, ConfigurationError (TLS files).
        """
        settings = self._settings
        tls = server_context(settings.cert, settings.key) if settings.cert and settings.key else None
        limits = HttpLimits(body_max_bytes=settings.body_max_bytes, bodies_max_bytes=4 * settings.body_max_bytes)
        table = {("POST", EVENTS_PATH): self._take, ("GET", STATE_PATH): self._state, ("GET", CONTRACT_PATH): _contract}
        server = HttpServer(settings.host, settings.port, table, limits=limits, tls=tls, guard=self._guard, on_fault=self._count_fault)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="receiver")
        self._server = server
        try:
            await self._work(self._store.open)
            await server.start()
        except GatewayError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let running requests end, answer them, close the store. Idempotent."""
        if self._server is not None:
            await self._server.stop()
        if self._worker is not None:
            await self._work(self._store.close)
            self._worker.shutdown()
            self._worker = None

    async def pause(self) -> None:
        """As a cut cable: the port is closed, connections are gone, answers on the way are lost. The store stays open."""
        if self._server is not None:
            await self._server.stop(grace_s=0)

    async def resume(self) -> None:
        """Listen on the same address again."""
        if self._server is not None and not self._server.listening:
            await self._server.start()

    async def state(self) -> dict[str, Any]:
        """What ``GET /v1/state`` answers."""
        return await self._work(self._store.summary)

    async def _work(self, job: Callable[[], _T]) -> _T:
        if self._worker is None:
            raise UnavailableError("store-closed", "the receiver is not running")
        return await asyncio.get_running_loop().run_in_executor(self._worker, job)

    async def _take(self, request: Request) -> Answer:
        """One batch. The work goes on, and is reported, where the sender has hung up meanwhile."""
        job = asyncio.ensure_future(self._work(lambda: self._apply(request)))
        job.add_done_callback(self._report)
        answer, _ = await asyncio.shield(job)
        return answer

    def _apply(self, request: Request) -> tuple[Answer, BatchReport]:
        """In the worker thread: from bytes to a durable verdict for each event."""
        size_bytes = len(request.body)
        try:
            plain = content(request.headers, request.body, self._settings.content_max_bytes)
            applied = self._store.apply(offers(plain, self._judge), self._clock.wall_us())
        except RequestRefusedError as refused:
            return problem(refused.status, refused.code, refused.hint, _HEADERS.get(refused.status)), BatchReport(
                Applied(), size_bytes, refused.code
            )
        except GatewayError as fault:
            return _unable(fault), BatchReport(Applied(), size_bytes, fault.code)
        return json_answer(200, {"results": [_verdict(result) for result in applied.results]}), BatchReport(applied, size_bytes)

    def _report(self, job: asyncio.Future[tuple[Answer, BatchReport]]) -> None:
        if not job.cancelled() and job.exception() is None and self._on_batch is not None:
            self._on_batch(job.result()[1])

    async def _state(self, _request: Request) -> Answer:
        try:
            return json_answer(200, await self.state(), {"Cache-Control": "no-store"})
        except GatewayError as fault:
            return _unable(fault)

    def _guard(self, head: Request) -> Answer | None:
        """Who may not send is told so before the body is read."""
        token = self._settings.token
        code = authorised(head.headers, token) if token is not None else None
        return problem(*_refusal(code), {"WWW-Authenticate": 'Bearer realm="receiver"'}) if code else None

    def _count_fault(self, _kind: str) -> None:
        self._faults += 1


#: What a refusal of that status tells a client about the way to do better. Source: RFC 9110 sections 12.5.3 and 15.5.16.
_HEADERS: Final[Mapping[int, Mapping[str, str]]] = {415: {"Accept": BATCH_CONTENT_TYPE, "Accept-Encoding": "zstd, gzip"}}


def _refusal(code: str) -> tuple[int, str, str]:
    status, detail = REFUSALS[code]
    return status, code, detail


def _verdict(result: Result) -> dict[str, str]:
    verdict = {"id": result.id, "status": result.status.value}
    return verdict | {"reason": result.reason} if result.reason else verdict


def _unable(fault: GatewayError) -> Answer:
    """Nothing was applied; the sender keeps everything and comes again."""
    return problem(503, fault.code, fault.hint, {"Retry-After": str(_STORE_RETRY_AFTER_S)})


async def _contract(_request: Request) -> Answer:
    return Answer(200, {"Content-Type": "application/json"}, files(__package__).joinpath("openapi.json").read_bytes())
