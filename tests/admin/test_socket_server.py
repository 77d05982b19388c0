"""The daemon's end of the socket: what cannot be understood is refused, what goes away is let go, nothing else is touched."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import orjson
import pytest

from gateway.admin.operations import OPERATIONS
from gateway.admin.place import SocketPlaces
from gateway.admin.remote import find_daemon
from gateway.admin.socket_server import AdminServer
from gateway.admin.wire import Arguments, Request, read_request
from gateway.model.errors import PermanentError, UnavailableError
from gateway.observe.log import EventLog
from tests.admin.fake_gateway import CANARY, FakeGateway, FixedClock, Lines, event_id, serving

if TYPE_CHECKING:
    from pathlib import Path


def places(tmp_path: Path, **environ: str) -> SocketPlaces:
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "run").mkdir(exist_ok=True, mode=0o700)
    return SocketPlaces(tmp_path / "state", {"RUNTIME_DIRECTORY": str(tmp_path / "run"), **environ}, os.geteuid())


async def exchange(path: Path, *lines: bytes) -> list[dict[str, object]]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"\n".join(lines) + b"\n")
    got = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return [orjson.loads(line) for line in got.splitlines()]


async def serve(fake: FakeGateway, tmp_path: Path, lines: Lines | None = None) -> tuple[AdminServer, Path]:
    server = AdminServer(fake, EventLog(FixedClock(), lines or Lines()), "ward-3", places(tmp_path))
    return server, await server.start(in_state_dir=True)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", "bad-request"),
        (b"\xff\x00", "bad-request"),
        (b"[]", "bad-request"),
        (b"{}", "version-mismatch"),
        (b'{"v":2,"op":"status","args":{}}', "version-mismatch"),
        (b'{"v":1,"op":5,"args":{}}', "bad-request"),
        (b'{"v":1,"op":"status"}', "bad-request"),
        (b'{"v":1,"op":"status","args":{},"by":5}', "bad-request"),
        (b'{"v":1,"op":"destroy","args":{}}', "unknown-operation"),
        (b'{"v":1,"op":"queue","args":{}}', "bad-request"),
        (b'{"v":1,"op":"queue","args":{"route":"r","limit":true}}', "bad-request"),
        (b'{"v":1,"op":"queue","args":{"route":["r"],"limit":1}}', "bad-request"),
        (b'{"v":1,"op":"message","args":{"id":"ZQDOEJANE"}}', "not-an-event-id"),
        (b'{"v":1,"op":"message","args":{"id":5,"reveal":1}}', "bad-request"),
        (b'{"v":1,"op":"dead-letter-replay","args":{"ids":[1],"reason":""}}', "bad-request"),
        (b'{"v":1,"op":"replay","args":{"route":"r","since_us":"x","until_us":1,"reason":""}}', "bad-request"),
    ],
)
async def test_what_cannot_be_understood_is_refused_in_our_words(tmp_path: Path, line: bytes, code: str) -> None:
    log = Lines()
    server, path = await serve(FakeGateway(), tmp_path, log)
    (answer,) = await exchange(path, line)
    error = answer["error"]
    assert isinstance(error, dict)
    assert error["code"] == code
    assert error["hint"]
    assert error["exit"] == 1
    assert '"EG404"' in log.text
    assert CANARY not in log.text + str(answer)
    await server.stop()


@pytest.mark.parametrize("op", OPERATIONS)
async def test_every_operation_refuses_arguments_that_are_none(tmp_path: Path, op: str) -> None:
    server, path = await serve(FakeGateway(), tmp_path)
    for wrong in ({}, {"id": [], "ids": {}, "route": 1, "limit": "x", "reveal": "yes"}):
        if op in ("status", "audit") or (not wrong and op == "tap"):
            continue
        answers = await exchange(path, Request(op, Arguments(wrong)).line())
        assert "error" in answers[-1], op
    await server.stop()


async def test_a_reader_that_goes_away_ends_its_stream(tmp_path: Path) -> None:
    fake = FakeGateway()
    server, path = await serve(fake, tmp_path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(Request("tap", Arguments({})).line() + b"\n")
    assert orjson.loads(await reader.readline()) == {"row": {"missed": 3}}
    writer.close()
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
    await server.stop()


async def test_stopping_ends_a_tap(tmp_path: Path) -> None:
    server, path = await serve(FakeGateway(), tmp_path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(Request("tap", Arguments({})).line() + b"\n")
    await reader.readline()
    await asyncio.wait_for(server.stop(), 10)
    assert not (await asyncio.wait_for(reader.read(), 10)).endswith(b'{"end":{}}\n')
    writer.close()
    assert not path.exists()
    assert server.path is None


async def test_a_bug_in_one_answer_ends_only_that_connection(tmp_path: Path) -> None:
    class Buggy(FakeGateway):
        async def status(self) -> object:  # type: ignore[override] # the bug
            raise RuntimeError(CANARY)

    told: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    server, path = await serve(Buggy(), tmp_path)
    assert await exchange(path, Request("status", Arguments({})).line()) == []
    assert (await exchange(path, Request("refused", Arguments({"limit": 1})).line()))[-1] == {"end": {}}
    await server.stop()
    assert len(told) == 1


async def test_the_socket_is_private_and_in_the_state_directory(tmp_path: Path) -> None:
    server, path = await serve(FakeGateway(), tmp_path)
    assert path == tmp_path / "state" / "admin.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await server.stop()


async def test_a_second_daemon_does_not_take_the_place_of_the_first(tmp_path: Path) -> None:
    server, _ = await serve(FakeGateway(), tmp_path)
    with pytest.raises(UnavailableError, match="already-running"):
        await serve(FakeGateway(), tmp_path)
    await server.stop()


async def test_a_disk_that_refuses_the_socket_moves_it_to_the_runtime_directory(tmp_path: Path) -> None:
    found = places(tmp_path)
    (tmp_path / "state").rmdir()
    (tmp_path / "state").write_text("as good as a read-only disk")
    server = AdminServer(FakeGateway(), EventLog(FixedClock(), Lines()), "ward-3", found)
    assert (await server.start(in_state_dir=True)).parent == tmp_path / "run"
    await server.stop()


async def test_no_place_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = AdminServer(FakeGateway(), EventLog(FixedClock(), Lines()), "ward-3", places(tmp_path))
    monkeypatch.setattr(SocketPlaces, "outside", lambda _self: (tmp_path / "nowhere" / "deeper" / "s",))
    with pytest.raises(UnavailableError, match="no-socket-place"):
        await server.start(in_state_dir=False)


# ---------------------------------------------------------------- the other end


def test_a_socket_of_somebody_else_is_not_our_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = places(tmp_path)
    with serving(FakeGateway(), tmp_path / "state", found.environ):
        assert find_daemon(found) is not None
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        stranger = SocketPlaces(found.state_dir, found.environ, 4242)
        assert (find_daemon(stranger) is None) is (found.state_dir.stat().st_uid != 0)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "answer-cut-off"),
        (b'{"row":{}}\n', "answer-cut-off"),
        (b"HTTP/1.1 400 Bad Request\n", "answer-not-understood"),
        (b"[]\n", "answer-not-understood"),
        (b'{"error":5}\n', "unknown"),
        (b'{"error":{"code":"x","hint":"y","exit":4}}\n', "x"),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_never_half_a_result(tmp_path: Path, answer: bytes, code: str) -> None:
    found = places(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "state" / "admin.sock"))
        listener.listen(2)
        daemon = find_daemon(found)
        assert daemon is not None
        listener.accept()[0].close()
        rows = daemon.rows("status", {})
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(lambda: list(rows))
            line, _ = listener.accept()
            with line:
                line.recv(65536)
                line.sendall(answer)
            error = reading.exception(10)
    assert getattr(error, "code", None) == code


def test_a_gateway_that_stops_in_between_is_said_to_have_stopped(tmp_path: Path) -> None:
    found = places(tmp_path)
    with serving(FakeGateway(), tmp_path / "state", found.environ):
        daemon = find_daemon(found)
    assert daemon is not None
    with pytest.raises(UnavailableError, match="just stopped"):
        list(daemon.rows("status", {}))


def test_a_request_survives_its_way() -> None:
    request = Request("message", Arguments({"id": event_id(1), "reveal": True}), "Dr. Kim")
    assert read_request(request.line()) == request
    with pytest.raises(PermanentError):
        request.arguments.number("id")
