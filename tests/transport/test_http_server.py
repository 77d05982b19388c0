"""The table of routes over HTTP: every way a request can go wrong has a typed answer, and none of them is heard of in a log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.model.errors import UnavailableError
from gateway.transport.http_server import Answer, HttpLimits, HttpServer, Request, json_answer, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CANARY = b"DOE-CANARY-100007"


async def echo(request: Request) -> Answer:
    return json_answer(
        200,
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "body": request.body.decode("latin-1"),
            "tag": request.headers.get("tag"),
        },
    )


async def broken(_request: Request) -> Answer:
    raise ValueError(CANARY.decode())


TABLE: dict[tuple[str, str], Callable[[Request], Awaitable[Answer]]] = {
    ("POST", "/take"): echo,
    ("GET", "/tell"): echo,
    ("GET", "/broken"): broken,
}


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer("127.0.0.1", 0, options.pop("table", TABLE), **options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace_s=0)


class Client:
    """Sends bytes as they are and reads one answer at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        self.writer.write(request)
        return await self.answer(head=request.startswith(b"HEAD"))

    async def answer(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = b"" if head else await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body

    async def closed(self) -> bool:
        try:
            return await asyncio.wait_for(self.reader.read(1), 5) == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def connected(server: HttpServer, **options: Any) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(*server.address, **options)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask(server: HttpServer, request: bytes) -> tuple[int, dict[str, str], bytes]:
    async with connected(server) as client:
        return await client.ask(request)


def code(body: bytes) -> str:
    return str(json.loads(body)["code"])


def post(body: bytes, *more: bytes) -> bytes:
    return b"\r\n".join([b"POST /take HTTP/1.1", b"Host: here", b"Content-Length: %d" % len(body), *more, b"", body])


async def test_a_request_of_the_table_reaches_its_function_and_its_answer_comes_back() -> None:
    async with served() as server:
        status, headers, body = await ask(
            server, b"POST /take?a=%31 HTTP/1.1\r\nHost: h\r\nTag: x\r\nTag: y\r\nContent-Length: 2\r\n\r\nhi"
        )
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {"method": "POST", "path": "/take", "query": "a=%31", "body": "hi", "tag": "x, y"}


async def test_one_connection_serves_many_requests_also_pipelined_and_with_an_absolute_target() -> None:
    async with served() as server, connected(server) as client:
        client.writer.write(post(b"1") + post(b"2") + b"GET http://here/tell HTTP/1.1\r\nHost: here\r\n\r\n")
        answers = [await client.answer() for _ in range(3)]
    assert [json.loads(body)["body"] for _, _, body in answers] == ["1", "2", ""]


async def test_no_answer_tells_what_the_server_is_made_of() -> None:
    async with served() as server:
        for request in (post(b""), b"GET /none HTTP/1.1\r\n\r\n", b"not http\r\n\r\n", b"GET /broken HTTP/1.1\r\nHost: h\r\n\r\n"):
            _, headers, body = await ask(server, request)
            assert "server" not in headers
            assert b"aiohttp" not in body
            assert b"Python" not in body


@pytest.mark.parametrize(
    ("request_bytes", "status", "problem_code"),
    [
        (b"GET /none HTTP/1.1\r\nHost: h\r\n\r\n", 404, "no-such-path"),
        (b"PUT /take HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", 405, "method-not-allowed"),
        (b"GET /broken HTTP/1.1\r\nHost: h\r\n\r\n", 500, "internal"),
        (b"nonsense " + CANARY + b"\r\n\r\n", 400, "not-http"),
        (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(60), 400, "not-http"),
        (b"GET /tell HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 400, "not-http"),
        (b"GET /tell HTTP/1.1\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(400)) + b"\r\n", 400, "not-http"),
        (b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "not-http"),
        (b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400, "not-http"),
        (b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "not-http"),
        (b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 999\r\n\r\n", 413, "body-too-large"),
        (b"POST /take HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"a" * 100 + b"\r\n", 413, "body-too-large"),
    ],
)
async def test_what_is_wrong_with_a_request_is_said_in_our_words(
    request_bytes: bytes, status: int, problem_code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with served(limits=HttpLimits(body_max_bytes=64)) as server:
        got, headers, body = await ask(server, request_bytes)
    assert (got, code(body), headers["content-type"]) == (status, problem_code, "application/problem+json")
    assert json.loads(body)["status"] == status
    assert CANARY not in body
    assert CANARY.decode() not in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_a_path_with_another_method_names_the_right_one() -> None:
    async with served() as server:
        _, headers, _ = await ask(server, b"DELETE /take HTTP/1.1\r\nHost: h\r\n\r\n")
    assert headers["allow"] == "POST"


async def test_head_is_get_without_its_body() -> None:
    async with served() as server:
        status, headers, _ = await ask(server, b"HEAD /tell HTTP/1.1\r\nHost: h\r\n\r\n")
    assert status == 200
    assert int(headers["content-length"]) > 0


async def test_chunks_are_joined_and_a_content_coding_is_left_alone() -> None:
    chunked = (
        b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    async with served() as server:
        status, _, body = await ask(server, chunked)
    assert (status, json.loads(body)["body"]) == (200, "abcde")


async def test_a_client_that_waits_for_leave_to_send_gets_it() -> None:
    async with served() as server, connected(server) as client:
        client.writer.write(b"POST /take HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (await client.answer())[0] == 100
        status, _, body = await client.ask(b"hi")
    assert (status, json.loads(body)["body"]) == (200, "hi")


async def test_the_guard_speaks_before_a_byte_of_the_body_is_read() -> None:
    seen: list[Request] = []

    def guard(head: Request) -> Answer | None:
        seen.append(head)
        return None if head.headers.get("key") == "right" else problem(401, "no-key", "a key is needed")

    async with served(guard=guard) as server:
        status, _, body = await ask(server, b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n")
        assert (status, code(body)) == (401, "no-key")
        assert (await ask(server, post(b"hi", b"Key: right")))[0] == 200
    assert [head.body for head in seen] == [b"", b""]


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with served(limits=HttpLimits(body_timeout_s=0.05)) as server, connected(server) as client:
        status, _, body = await client.ask(b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        assert (status, code(body)) == (408, "body-timeout")
        assert await client.closed()


async def test_chunks_that_are_none_end_the_request_at_its_deadline_at_the_latest() -> None:
    async with served(limits=HttpLimits(body_timeout_s=0.2)) as server, connected(server) as client:
        client.writer.write(b"POST /take HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(0.05)  # the head has been handled: the fault is then one of the body
        status, _, body = await client.ask(b"no-size\r\n")
    assert (status, code(body)) in ((400, "body-malformed"), (400, "not-http"), (408, "body-timeout"))


async def test_bodies_of_all_connections_together_are_bounded_and_the_bound_is_given_back() -> None:
    async with served(limits=HttpLimits(body_max_bytes=64, bodies_max_bytes=80)) as server, connected(server) as slow:
        slow.writer.write(b"POST /take HTTP/1.1\r\nHost: h\r\nContent-Length: 64\r\n\r\n" + b"a" * 60)
        async with asyncio.timeout(5):
            while server._body_bytes < 60:
                await asyncio.sleep(0)
        status, headers, body = await ask(server, post(b"b" * 40))
        assert (status, code(body), headers["retry-after"]) == (503, "busy", "1")
        assert (await slow.ask(b"aaaa"))[0] == 200
        assert (await ask(server, post(b"b" * 40)))[0] == 200


async def test_one_connection_too_many_is_told_so_and_others_are_served() -> None:
    async with served(limits=HttpLimits(connections_max=1)) as server, connected(server) as first:
        assert (await first.ask(post(b"1")))[0] == 200
        async with connected(server) as second:
            assert (await second.answer())[0] == 503
            assert await second.closed()
        assert (await first.ask(post(b"2")))[0] == 200


async def test_a_connection_that_never_finishes_a_request_head_is_closed() -> None:
    async with served(limits=HttpLimits(idle_timeout_s=0.05)) as server, connected(server) as client:
        client.writer.write(b"GET /tell HT")
        assert await client.closed()


async def test_a_fault_of_ours_is_counted_by_its_type_name_alone(caplog: pytest.LogCaptureFixture) -> None:
    faults: list[str] = []
    async with served(on_fault=faults.append) as server:
        status, _, _ = await ask(server, b"GET /broken HTTP/1.1\r\nHost: h\r\n\r\n")
    assert (status, faults) == (500, ["ValueError"])
    assert not caplog.records


async def test_an_address_that_cannot_be_had_is_a_typed_error_with_the_way_out() -> None:
    async with served() as server:
        with pytest.raises(UnavailableError) as taken:
            await HttpServer(*server.address, TABLE).start()
    assert (taken.value.code, bool(taken.value.hint)) == ("address-in-use", True)
    for host, expected in (("192.0.2.1", "address-not-here"), ("no-such-host.invalid", "address-unknown")):
        with pytest.raises(UnavailableError) as refused:
            await HttpServer(host, 0, TABLE).start()
        assert refused.value.code == expected


async def test_stop_lets_a_running_request_end_and_the_same_port_can_be_had_again() -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slow(_request: Request) -> Answer:
        entered.set()
        await leave.wait()
        return Answer(200, {}, b"done")

    async with served(table={("GET", "/slow"): slow}) as server, connected(server) as client, connected(server) as idle:
        asking = asyncio.create_task(client.ask(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n"))
        await entered.wait()
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0)
        leave.set()
        assert (await asking)[2] == b"done"
        await stopping
        assert await idle.closed()
        assert not server.listening
        address = server.address
        await server.start()
        assert server.address == address


async def test_stop_without_grace_cuts_running_requests() -> None:
    entered = asyncio.Event()

    async def stuck(_request: Request) -> Answer:
        entered.set()
        await asyncio.Event().wait()
        return Answer(200)

    async with served(table={("GET", "/stuck"): stuck}) as server, connected(server) as client:
        client.writer.write(b"GET /stuck HTTP/1.1\r\nHost: h\r\n\r\n")
        await entered.wait()
        async with asyncio.timeout(5):
            await server.stop(grace_s=0)
        assert await client.closed()


async def test_tls_is_served_from_a_context() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with served(tls=context) as server, connected(server, ssl=trusting) as client:
        assert (await client.ask(post(b"hi")))[0] == 200


@hypothesis_settings(max_examples=60)
@given(
    st.lists(
        st.binary(max_size=80) | st.sampled_from([b"GET /tell HTTP/1.1\r\n", b"Host: h\r\n", b"\r\n", b"POST /take HTTP/1.1\r\n"]),
        max_size=6,
    )
)
def test_no_bytes_at_all_make_it_raise_log_or_stop_serving(parts: list[bytes]) -> None:
    async def scenario() -> list[str]:
        faults: list[str] = []
        async with served(on_fault=faults.append) as server:
            async with connected(server) as client:
                client.writer.write(b"".join(parts))
                client.writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await asyncio.wait_for(client.reader.read(), 5)
            assert (await ask(server, post(b"hi")))[0] == 200
        return faults

    assert asyncio.run(scenario()) == []
