"""The HTTP client: answers are bounded, nothing is followed, and each failure says whether bytes may have been applied."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trustme

from gateway.model.errors import GatewayError, InDoubtError, TransientError
from gateway.transport.http_client import ANSWER_MAX_BYTES, HttpClient, HttpPlace
from gateway.transport.tls import ClientTls, client_context, server_context
from tests.transport.http_peer import CLOSE, HANG, Request, answer, peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

CANARY = b"ZQCANARYDOE"


@asynccontextmanager
async def client(url: str, tls: ClientTls | None = None, proxy: str = "", answer_timeout_s: float = 5.0) -> AsyncIterator[HttpClient]:
    it = HttpClient(HttpPlace(url, 0.5, answer_timeout_s, proxy), tls)
    try:
        yield it
    finally:
        await it.close()


async def failure(url: str, tls: ClientTls | None = None, proxy: str = "", answer_timeout_s: float = 5.0) -> GatewayError:
    async with client(url, tls, proxy, answer_timeout_s) as it:
        with pytest.raises((TransientError, InDoubtError)) as caught:
            await it.post(CANARY, {})
    assert CANARY.decode() not in f"{caught.value!r} {caught.value}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return caught.value


async def test_the_answer_comes_back_with_its_headers_in_lower_case() -> None:
    async with peer(answer(200, b"yes", Retry_After="3")) as there, client(there.url) as it:
        found = await it.post(b"body", {"Content-Type": "text/plain"})
    assert (found.status, found.headers["retry-after"], found.body) == (200, "3", b"yes")
    request = there.requests[0]
    assert request.line == "POST /v1/events HTTP/1.1"
    assert request.body == b"body"
    assert request.headers["content-type"] == "text/plain"
    assert request.headers["accept-encoding"] == "identity"


async def test_one_connection_serves_many_requests() -> None:
    async with peer(answer(202)) as there, client(there.url) as it:
        for _ in range(5):
            await it.post(b"x", {})
    assert there.connections == 1


async def test_large_bodies_travel_whole() -> None:
    body = bytes(range(256)) * 20_000
    async with peer(answer(202)) as there, client(there.url) as it:
        await it.post(body, {})
    assert there.requests[0].body == body


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_answers_and_never_followed(status: int) -> None:
    async with peer(answer(202)) as elsewhere, peer(answer(status, Location=elsewhere.url)) as there, client(there.url) as it:
        assert (await it.post(CANARY, {"Authorization": "Bearer secret"})).status == status
    assert not elsewhere.requests


async def test_cookies_are_not_kept() -> None:
    async with peer(answer(202, Set_Cookie="a=b")) as there, client(there.url) as it:
        await it.post(b"", {})
        await it.post(b"", {})
    assert "cookie" not in there.requests[1].headers


async def test_proxy_variables_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with peer(answer(202)) as there, client(there.url) as it:
        assert (await it.post(b"", {})).status == 202


async def test_an_answer_without_end_is_cut_off() -> None:
    size = 3 * ANSWER_MAX_BYTES
    async with peer(answer(200, b"x" * size)) as there, client(there.url) as it:
        found = await it.post(b"", {})
        assert (found.status, found.body) == (200, None)
        assert (await it.post(b"", {})).body is None
    assert there.connections == 2, "the rest of the answer is not read"


async def test_a_compressed_answer_is_not_unpacked() -> None:
    async with peer(answer(200, b"\x1f\x8b-bomb", Content_Encoding="gzip")) as there, client(there.url) as it:
        assert (await it.post(b"", {})).body == b"\x1f\x8b-bomb"


# --- before a byte left -----------------------------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = await failure(f"http://127.0.0.1:{port}/")
    assert isinstance(error, TransientError)
    assert error.code == "connect-refused"


async def test_nobody_accepts() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        error = await failure(f"http://127.0.0.1:{port}/")
        for filler in fillers:
            filler.close()
    assert isinstance(error, TransientError)
    assert error.code == "connect-timeout"


async def test_a_name_that_does_not_exist() -> None:
    error = await failure("http://no-such-host.invalid/")
    assert isinstance(error, TransientError)
    assert error.code in {"name-unknown", "connect-timeout"}, "offline resolvers may take longer than the deadline"


async def test_a_name_that_cannot_exist() -> None:
    error = await failure(f"http://{'a' * 70}.example/")
    assert isinstance(error, TransientError | InDoubtError)


# --- after bytes left -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bytes_", "code"),
    [
        (CLOSE, "connection-lost"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n" + CANARY, "connection-lost"),
        (b"\x0bMSH|^~\\&|" + CANARY + b"\x1c\rConnection: close", "http-protocol"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: " + CANARY * 3000 + b"\r\nConnection: close\r\n\r\n", "http-protocol"),
        (b"HTTP/1.1 999999 " + CANARY + b"\r\nConnection: close\r\n\r\n", "http-protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\nConnection: close\r\n\r\n", "http-protocol"),
    ],
)
async def test_answers_that_are_none(bytes_: bytes, code: str) -> None:
    async with peer(bytes_) as there:
        error = await failure(there.url)
    assert isinstance(error, InDoubtError)
    assert error.code == code


async def test_a_half_open_connection_ends_with_the_deadline() -> None:
    began_s = asyncio.get_running_loop().time()
    async with peer(HANG) as there:
        error = await failure(there.url, answer_timeout_s=0.2)
    assert isinstance(error, InDoubtError)
    assert error.code == "answer-timeout"
    assert asyncio.get_running_loop().time() - began_s < 3


@asynccontextmanager
async def raw_server(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A server whose connections end with the test."""
    writers: list[asyncio.StreamWriter] = []

    async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(OSError):
            await serve(reader, writer)

    server = await asyncio.start_server(each, "127.0.0.1", 0, limit=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)


async def test_an_answer_that_drips_ends_with_the_deadline() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_server(drip) as url:
        assert (await failure(url, answer_timeout_s=0.3)).code == "answer-timeout"


async def test_a_peer_that_stops_reading_ends_with_the_deadline() -> None:
    async def deaf(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        """Takes what fits into the buffers."""

    async with raw_server(deaf) as url:
        it = HttpClient(HttpPlace(url, 0.2, 0.3), None)
        with pytest.raises(InDoubtError, match="answer-timeout"):
            await it.post(b"x" * 50_000_000, {})
        await it.close()


async def test_after_a_failure_the_next_request_gets_a_new_connection() -> None:
    def script(request: Request) -> bytes:
        return CLOSE if request.connection == 1 else answer(202)

    async with peer(script) as there, client(there.url) as it:
        with pytest.raises(InDoubtError):
            await it.post(b"", {})
        assert (await it.post(b"", {})).status == 202


# --- TLS and proxies --------------------------------------------------------------------------------------------------


class Certificates:
    """A CA, a server for localhost, a client."""

    def __init__(self, place: Path) -> None:
        authority = trustme.CA()
        self.ca = place / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        self.server = self._issue(place, authority, "server", "localhost")
        self.client = self._issue(place, authority, "client", "ward-3.example")

    @staticmethod
    def _issue(place: Path, authority: trustme.CA, label: str, name: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(name)
        cert, key = place / f"{label}.pem", place / f"{label}-key.pem"
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        return cert, key


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_tls_with_a_client_certificate_and_a_name_of_its_own(certificates: Certificates) -> None:
    there_tls = server_context(*certificates.server, certificates.ca)
    tls = client_context(certificates.ca, *certificates.client, "localhost")
    async with peer(answer(202), there_tls) as there, client(f"https://127.0.0.1:{there.port}/", tls) as it:
        assert (await it.post(b"x", {})).status == 202


async def test_a_certificate_for_another_name_is_refused_before_a_byte_leaves(certificates: Certificates) -> None:
    async with peer(answer(202), server_context(*certificates.server)) as there:
        error = await failure(f"https://127.0.0.1:{there.port}/", client_context(certificates.ca))
    assert isinstance(error, TransientError)
    assert error.code == "tls-certificate"
    assert not there.requests


async def test_an_unknown_authority_is_refused(certificates: Certificates) -> None:
    async with peer(answer(202), server_context(*certificates.server)) as there:
        error = await failure(f"https://localhost:{there.port}/", client_context())
    assert error.code == "tls-certificate"


async def test_a_missing_client_certificate_is_told(certificates: Certificates) -> None:
    async with peer(answer(202), server_context(*certificates.server, certificates.ca)) as there:
        error = await failure(f"https://localhost:{there.port}/", client_context(certificates.ca))
    assert error.code in {"tls-failed", "connection-lost"}
    assert not there.requests


async def test_plain_http_behind_an_https_address_is_told(certificates: Certificates) -> None:
    async with peer(answer(202)) as there:
        error = await failure(f"https://localhost:{there.port}/", client_context(certificates.ca))
    assert error.code in {"tls-failed", "connection-lost", "connect-failed", "connect-timeout"}


async def test_a_proxy_gets_the_request() -> None:
    async with peer(answer(202)) as proxy, client("http://ingest.example/v1", proxy=f"http://127.0.0.1:{proxy.port}") as it:
        assert (await it.post(b"x", {})).status == 202
    assert proxy.requests[0].line == "POST http://ingest.example/v1 HTTP/1.1"


async def test_a_proxy_that_refuses_a_tunnel(certificates: Certificates) -> None:
    async with peer(answer(407, close=True)) as proxy:
        error = await failure("https://ingest.example/", client_context(certificates.ca), proxy=f"http://127.0.0.1:{proxy.port}")
    assert isinstance(error, TransientError)
    assert error.code == "proxy-refused"
    assert proxy.requests[0].line == "CONNECT ingest.example:443 HTTP/1.1"


async def test_a_proxy_that_is_away(certificates: Certificates) -> None:
    error = await failure("https://ingest.example/", client_context(certificates.ca), proxy="http://127.0.0.1:9")
    assert error.code == "proxy-unreachable"
