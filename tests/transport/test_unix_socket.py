"""Lines over a Unix socket: private from the first instant, bounded, and honest about who is at the other end."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from gateway.model.errors import UnavailableError
from gateway.transport import unix_socket
from gateway.transport.unix_socket import PATH_MAX_BYTES, Line, LineClient, LineServer, PeerIdentity, fits

if TYPE_CHECKING:
    from pathlib import Path


async def echo(line: Line) -> None:
    while (got := await line.read(5)) is not None:
        if not await line.write(got, 5):
            return


def ask(path: Path, *requests: bytes) -> list[bytes]:
    client = LineClient.connect(path, 5)
    assert client is not None
    try:
        for request in requests:
            client.send(request)
        lines = client.lines(5)
        return [next(lines) for _ in requests]
    finally:
        client.close()


async def test_what_is_sent_arrives_line_by_line(tmp_path: Path) -> None:
    server = LineServer(tmp_path / "s", echo)
    await server.start()
    assert await asyncio.to_thread(ask, tmp_path / "s", b"one", b"", b"three" * 20_000) == [b"one", b"", b"three" * 20_000]
    await server.stop()


async def test_the_socket_is_private_and_the_kernel_says_who_asks(tmp_path: Path) -> None:
    peers: list[PeerIdentity] = []

    async def note(line: Line) -> None:
        peers.append(line.peer)
        await line.write(b"ok", 5)

    server = LineServer(tmp_path / "s", note)
    before = os.umask(0)
    try:
        await server.start()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600

    def see_server() -> PeerIdentity:
        client = LineClient.connect(tmp_path / "s", 5)
        assert client is not None
        assert list(client.lines(5)) == [b"ok"]
        seen = client.peer()
        client.close()
        return seen

    me = PeerIdentity(os.getpid(), os.geteuid(), os.getegid())
    assert await asyncio.to_thread(see_server) == me
    assert peers == [me]
    await server.stop()


async def test_stopping_removes_the_file_and_ends_connections(tmp_path: Path) -> None:
    server = LineServer(tmp_path / "s", echo)
    await server.start()
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(b"x\n")
    assert await reader.readline() == b"x\n"
    await server.stop()
    await server.stop()
    assert await reader.read() == b""
    writer.close()
    assert not (tmp_path / "s").exists()


async def test_a_successors_file_is_left_alone(tmp_path: Path) -> None:
    server = LineServer(tmp_path / "s", echo)
    await server.start()
    (tmp_path / "s").unlink()
    (tmp_path / "s").write_text("not ours")
    await server.stop()
    assert (tmp_path / "s").read_text() == "not ours"


async def test_what_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    server = LineServer(tmp_path / "s", echo)
    await server.start()
    assert await asyncio.to_thread(ask, tmp_path / "s", b"alive") == [b"alive"]
    await server.stop()


async def test_a_living_daemon_is_not_robbed_of_its_socket(tmp_path: Path) -> None:
    server = LineServer(tmp_path / "s", echo)
    await server.start()
    with pytest.raises(UnavailableError, match="already-running"):
        await LineServer(tmp_path / "s", echo).start()
    assert await asyncio.to_thread(ask, tmp_path / "s", b"alive") == [b"alive"]
    await server.stop()


@pytest.mark.parametrize("place", ["nowhere/s", "file"])
async def test_a_place_that_cannot_be_used_is_refused_with_its_reason(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a file that is no socket is never removed")
    with pytest.raises(UnavailableError, match="socket-not-bound") as caught:
        await LineServer(tmp_path / place, echo).start()
    assert any(word in caught.value.hint for word in ("ENOENT", "EADDRINUSE"))
    assert (tmp_path / "file").exists()


async def test_a_path_that_the_kernel_would_cut_is_refused(tmp_path: Path) -> None:
    long = tmp_path / ("x" * PATH_MAX_BYTES)
    assert not fits(long)
    assert fits(tmp_path / "s")
    with pytest.raises(UnavailableError, match="socket-path-too-long"):
        await LineServer(long, echo).start()
    assert LineClient.connect(long, 1) is None


async def test_a_request_that_is_too_long_or_too_slow_ends_the_connection(tmp_path: Path) -> None:
    seen: list[bytes | None] = []

    async def once(line: Line) -> None:
        seen.append(await line.read(0.05))

    server = LineServer(tmp_path / "s", once)
    await server.start()
    for sent in (b"half a line", b"x" * 300_000 + b"\n"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(sent)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
    assert seen == [None, None]
    await server.stop()


async def test_one_client_too_many_is_turned_away(tmp_path: Path) -> None:
    server = LineServer(tmp_path / "s", echo)
    await server.start()
    many = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(32)]
    for reader, writer in many:
        writer.write(b"x\n")
        assert await reader.readline() == b"x\n"
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    assert await reader.read() == b""
    for _, other in [*many, (reader, writer)]:
        other.close()
    await server.stop()


async def test_the_server_notices_that_its_reader_has_gone(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def watch(line: Line) -> None:
        await line.gone()
        gone.set()

    server = LineServer(tmp_path / "s", watch)
    await server.start()
    _, writer = await asyncio.open_unix_connection(tmp_path / "s")
    writer.close()
    async with asyncio.timeout(5):
        await gone.wait()
    await server.stop()


def test_nobody_there_is_none_and_not_an_error(tmp_path: Path) -> None:
    assert LineClient.connect(tmp_path / "s", 1) is None
    (tmp_path / "f").write_text("")
    assert LineClient.connect(tmp_path / "f" / "s", 1) is None
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    assert LineClient.connect(tmp_path / "s", 1) is None


def test_somebody_elses_socket_says_as_whom_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_path: object, _timeout_s: float) -> socket.socket:
        raise PermissionError

    monkeypatch.setattr(unix_socket, "_connected", closed)  # the tests may run as root, whom no mode keeps out
    with pytest.raises(UnavailableError, match="not-permitted") as caught:
        LineClient.connect(tmp_path / "s", 1)
    assert "as the account of the gateway" in caught.value.hint


def test_a_silent_server_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen(1)
        client = LineClient.connect(tmp_path / "s", 1)
        assert client is not None
        client.send(b"hello?")
        with pytest.raises(UnavailableError, match="too long to answer"):
            next(client.lines(0.05))
        client.close()


def test_an_endless_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_socket, "_ANSWER_MAX_BYTES", 1000)
    ours, theirs = socket.socketpair()
    client = LineClient(ours)
    theirs.sendall(b"x" * 2000)
    with pytest.raises(UnavailableError, match="answer-too-long"):
        next(client.lines(1))
    theirs.close()
    with pytest.raises(UnavailableError, match="no-answer"):
        client.send(b"x")
    client.close()
