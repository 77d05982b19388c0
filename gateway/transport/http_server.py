"""A small HTTP/1.1 server: a table of (method, path) and one function per row. TLS, limits, and no surprises.

The bytes of HTTP are aiohttp's work; what this module adds is that every way a request can go wrong has a typed answer
(RFC 9457 problem details, our own words only), that bodies are bounded each and in sum, that a connection that says
nothing ends, and that nothing a peer sends reaches a log: aiohttp would quote the offending bytes there.

The body is handed over as it came: a Content-Encoding is not undone here, because a digest covers the encoded bytes.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from gateway.model.errors import UnavailableError

if TYPE_CHECKING:
    import ssl

    from aiohttp.streams import StreamReader

__all__ = ["Answer", "Endpoint", "Guard", "HttpLimits", "HttpServer", "Request", "json_answer", "problem"]

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"

_BIND_FAULTS: Final = {
    errno.EADDRINUSE: ("address-in-use", "another program listens there: choose another port, or stop the other program"),
    errno.EACCES: ("address-not-permitted", "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher port or grant it"),
    errno.EADDRNOTAVAIL: ("address-not-here", "no interface of this machine has that address"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``headers``: names in lower case, repeated ones joined with a comma (RFC 9110 section 5.3).

    ``path`` and ``query`` with their percent signs, the path without the query. ``body``: exactly the bytes of the content (chunks joined,
    Content-Encoding untouched). ``peer``: the network address, for limits; never a name.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""
    peer: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Without a ``Content-Type`` in ``headers``, a body goes out as application/octet-stream."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one peer and all peers together may take.

    ``bodies_max_bytes``: bodies being received at one time, over all connections: past it the answer is 503.
    ``idle_timeout_s``: a connection without a complete request head for so long is closed.
    """

    body_max_bytes: int = 1024 * 1024
    bodies_max_bytes: int = 256 * 1024 * 1024
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0
    connections_max: int = 256


#: Answers one request. What it raises becomes a 500 without a word of the exception.
Endpoint = Callable[[Request], Awaitable[Answer]]
#: Looks at the head (``body`` is empty) before a byte of the body is read; an ``Answer`` refuses the request.
Guard = Callable[[Request], Answer | None]


def json_answer(status: int, content: object, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with ``content`` as JSON."""
    return Answer(status, {"Content-Type": JSON, **(headers or {})}, orjson.dumps(content))


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A refusal as problem details: ``code`` is the stable word to act on, ``detail`` says it to a person.

    Source: RFC 9457 (``type`` about:blank: ``title`` is the status phrase; ``code`` is an extension member).
    """
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": detail}
    return Answer(status, {"Content-Type": PROBLEM_JSON, **(headers or {})}, orjson.dumps(content))


class HttpServer:
    """Serves ``table`` on ``host:port`` (port 0: any free one; ``address`` tells which, and a restart takes it again).

    A path of the table with another method is answered 405 with ``Allow``; HEAD is served where GET is. ``on_fault`` is told
    the type name of an exception that an endpoint let through (a bug here), nothing else.
    """

    def __init__(
        self,
        host: str,
        port: int,
        table: Mapping[tuple[str, str], Endpoint],
        *,
        limits: HttpLimits | None = None,
        tls: ssl.SSLContext | None = None,
        guard: Guard | None = None,
        on_fault: Callable[[str], None] | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._table = dict(table)
        self._limits = limits or HttpLimits()
        self._tls = tls
        self._guard = guard
        self._on_fault = on_fault
        self._listening: asyncio.Server | None = None
        self._web: web.Server | None = None
        self._body_bytes = 0

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, or listened last."""
        return self._host, self._port

    @property
    def listening(self) -> bool:
        """True between ``start`` and ``stop``."""
        return self._listening is not None

    async def start(self) -> None:
        """Bind and serve. Raises: UnavailableError where the address cannot be had."""
        self._web = web.Server(self._serve, request_factory=_request, handler_cancellation=False)
        loop = asyncio.get_running_loop()
        try:
            self._listening = await loop.create_server(
                self._connection, self._host, self._port, ssl=self._tls, backlog=128, reuse_address=True
            )
        except socket.gaierror:
            raise UnavailableError("address-unknown", "the host to listen on has no address: give an IP address") from None
        except OSError as fault:
            code, hint = _BIND_FAULTS.get(fault.errno or 0, ("address-not-bound", "the system refused to listen there"))
            raise UnavailableError(code, hint) from None
        self._port = self._listening.sockets[0].getsockname()[1]

    async def stop(self, grace_s: float = 5.0) -> None:
        """Close the port, let running requests end for ``grace_s`` seconds, then close every connection. Idempotent.

        ``grace_s`` 0: connections are cut at once; a request that is being worked on ends unheard.
        """
        listening, self._listening = self._listening, None
        served, self._web = self._web, None
        if listening is None or served is None:
            return
        listening.close()
        for connection in served.connections if grace_s <= 0 else ():
            connection.force_close()
        served.pre_shutdown()
        await served.shutdown(max(grace_s, 0.001))  # aiohttp takes 0 for "wait for ever"

    def _connection(self) -> asyncio.Protocol:
        served = self._web
        if served is None or len(served.connections) >= self._limits.connections_max:
            return _Busy()
        return _Connection(
            served,
            self._on_fault,
            keepalive_timeout=self._limits.idle_timeout_s,
            lingering_time=2.0,
            auto_decompress=False,
            access_log=None,
        )

    async def _serve(self, incoming: web.BaseRequest) -> web.StreamResponse:
        head = _head(incoming)
        endpoint = self._table.get(("GET" if head.method == "HEAD" else head.method, head.path))
        if endpoint is None:
            return _response(self._no_endpoint(head))
        if self._guard is not None and (refusal := self._guard(head)):
            return _response(refusal)
        body = await self._body(incoming)
        if isinstance(body, Answer):
            return _response(body)
        return _response(await endpoint(replace(head, body=body)))

    def _no_endpoint(self, head: Request) -> Answer:
        allowed = sorted(method for method, path in self._table if path == head.path)
        if not allowed:
            return problem(404, "no-such-path", "nothing is served under this path")
        return problem(405, "method-not-allowed", "this path takes another method", {"Allow": ", ".join(allowed)})

    async def _body(self, incoming: web.BaseRequest) -> bytes | Answer:
        """The content, or the answer that refuses it."""
        limits = self._limits
        if (incoming.content_length or 0) > limits.body_max_bytes:
            return _too_large(limits.body_max_bytes)
        if not incoming.can_read_body:
            return b""
        if incoming.headers.get("Expect", "").lower() == "100-continue":
            await incoming.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            incoming.writer.output_size = 0  # the interim answer is not the answer
        return await self._received(incoming)

    async def _received(self, incoming: web.BaseRequest) -> bytes | Answer:
        limits = self._limits
        taken = 0
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                async for part in incoming.content.iter_any():
                    taken += len(part)
                    self._body_bytes += len(part)
                    if taken > limits.body_max_bytes:
                        return _too_large(limits.body_max_bytes)
                    if self._body_bytes > limits.bodies_max_bytes:
                        return problem(503, "busy", "too many bytes are being received at once", {"Retry-After": "1"})
                    parts.append(part)
        except TimeoutError:
            return problem(408, "body-timeout", "the body did not arrive in time", {"Connection": "close"})
        except (HttpProcessingError, web.RequestPayloadError):
            return problem(400, "body-malformed", "the body breaks off or its chunks are malformed", {"Connection": "close"})
        finally:
            self._body_bytes -= taken
        return b"".join(parts)


class _Connection(RequestHandler):
    """aiohttp's connection, except that it says what is wrong in our words and logs nothing (it would quote the peer)."""

    __slots__ = ("_told",)

    def __init__(self, served: web.Server, on_fault: Callable[[str], None] | None, **options: Any) -> None:
        super().__init__(served, loop=asyncio.get_running_loop(), **options)
        self._told = on_fault

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The typed answer to what is not HTTP, and to an exception that came through an endpoint."""
        del message  # quotes the peer
        if request.writer.output_size > 0:
            raise ConnectionError
        if status < 500:
            answer = problem(400, "not-http", "this is not a well-formed HTTP/1.1 request")
        else:
            self._tell(exc)
            answer = problem(500, "internal", "the fault is on this side; it has been counted")
        response = _response(answer)
        response.force_close()
        return response

    def log_exception(self, *_args: Any, **details: Any) -> None:
        """Tell the name of the exception's type, never its text."""
        self._tell(details.get("exc_info"))

    def _tell(self, fault: object) -> None:
        if self._told is not None and isinstance(fault, BaseException):
            self._told(type(fault).__name__)


class _Busy(asyncio.Protocol):
    """The answer to one connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say so and close: nothing is read."""
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            transport.close()


class _Incoming(web.BaseRequest):
    """A request whose answer carries no banner: the versions of our parts are nobody's business."""

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.popall("Server", None)


def _request(message: Any, payload: StreamReader, protocol: RequestHandler, writer: Any, task: asyncio.Task[None]) -> _Incoming:
    return _Incoming(message, payload, protocol, writer, task, asyncio.get_running_loop())


def _head(incoming: web.BaseRequest) -> Request:
    headers: dict[str, str] = {}
    for name, value in incoming.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    url = incoming.rel_url
    return Request(incoming.method, url.raw_path, headers, b"", incoming.remote or "", url.raw_query_string)


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


def _too_large(limit_bytes: int) -> Answer:
    return problem(413, "body-too-large", f"a body may have {limit_bytes} bytes: send less at once", {"Connection": "close"})
