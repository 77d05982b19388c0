"""The composed daemon, in this process: order of start and stop, LOCKED and back, what is acknowledged is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING

import pytest

from gateway.codec.acknowledgement import parse_reply
from gateway.codec.mllp import Frame, MllpReceiver, frame
from gateway.journal.interface import JournalEvent, JournalEventKind
from gateway.model.errors import LockedError, UnavailableError
from gateway.model.event import EventId
from gateway.model.receipt import RouteState
from gateway.model.state import GatewayState
from gateway.service.admin_port import DaemonPort
from gateway.service.daemon import Daemon
from tests.service.wards import Ward, ward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


def message(control: str) -> bytes:
    return f"MSH|^~\\&|MON|ICU|GW|HOSP|20261122120000||ADT^A01^ADT_A01|{control}|P|2.5.1\rPID|1||100001^^^H^MR||DOE^JANE\r".encode()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(place: Ward, environ: dict[str, str] | None = None) -> AsyncIterator[Daemon]:
    """A daemon whose ports are bound; stopped in order at the end."""
    daemon = Daemon(place.configuration, place.clock, place.randomness, place.log, environ or {"TMPDIR": str(place.folder)})
    place.paper.text = ""
    task = asyncio.create_task(daemon.run())
    try:
        await until(lambda: task.done() or "gateway-ready" in place.paper.text)
        if task.done():
            await task
        yield daemon
    finally:
        daemon.stop.set()
        await asyncio.wait_for(task, 20)


async def answers(daemon: Daemon, *bodies: bytes) -> list[str]:
    """Send on one connection, return the codes in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", daemon.sources[0].port)
    writer.write(b"".join(map(frame, bodies)))
    codec, found = MllpReceiver(), list[str]()
    async with asyncio.timeout(10):
        while len(found) < len(bodies) and (data := await reader.read(65536)):
            for event in codec.receive(data):
                assert isinstance(event, Frame)
                reply = parse_reply(event.body)
                assert reply is not None
                found.append(reply.code.value)
    writer.close()
    await writer.wait_closed()
    return found


def arrived(place: Ward) -> list[str]:
    lines = place.out.read_text().splitlines() if place.out.exists() else []
    return [json.loads(line)["data"].split("|")[9] for line in lines]


async def test_what_is_acknowledged_arrives_in_order_and_the_books_say_so(tmp_path: Path) -> None:
    place = ward(tmp_path)
    async with running(place) as daemon:
        assert await answers(daemon, *(message(f"A-{n}") for n in range(20))) == ["AA"] * 20
        await until(lambda: daemon.picture().routes[0].books.delivered == 20)
        status = daemon.picture()
        assert status.state is GatewayState.RUNNING
        assert status.sources[0].accepted == 20
        assert status.routes[0].books.queued == 0
    assert arrived(place) == [f"A-{n}" for n in range(20)]


async def test_a_stop_answers_what_was_read_and_leaves_nothing_behind(tmp_path: Path) -> None:
    place = ward(tmp_path)
    async with running(place) as daemon:
        assert await answers(daemon, message("A-1")) == ["AA"]
    events = [json.loads(line)["event"] for line in place.paper.text.splitlines()]
    assert events.index("gateway-stopping") < events.index("source-stopped") < events.index("gateway-stopped")
    assert not (place.state / "admin.sock").exists()
    assert not (place.state / "journal.db-wal").exists(), "an ordered stop checkpoints"


async def test_without_a_key_nothing_is_created_and_with_it_everything_goes_on(tmp_path: Path) -> None:
    place = ward(tmp_path)
    async with running(place) as daemon:
        assert await answers(daemon, message("A-1")) == ["AA"]
        await until(lambda: arrived(place) == ["A-1"])
    key = place.kek.read_bytes()
    place.kek.unlink()
    before = {path.name: path.stat().st_mtime_ns for path in place.state.iterdir()}
    async with running(place) as daemon:
        status = daemon.picture()
        assert (status.state, status.cause, status.counts_stale) == (GatewayState.LOCKED, "key-missing", True)
        assert status.routes[0].books.delivered == 1, "the last known counts"
        assert await answers(daemon, message("A-2"), message("A-3")) == ["AE", "AE"]
        assert {path.name: path.stat().st_mtime_ns for path in place.state.iterdir()} == before
        place.kek.write_bytes(key)
        await until(lambda: daemon.picture().state is GatewayState.RUNNING)
        assert await answers(daemon, message("A-2")) == ["AA"]
        await until(lambda: arrived(place) == ["A-1", "A-2"])
    assert "gateway-unlocked" in place.paper.text


async def test_a_wrong_key_is_locked_too_and_the_admin_port_says_so(tmp_path: Path) -> None:
    place = ward(tmp_path)
    async with running(place):
        pass
    place.kek.write_bytes(os.urandom(32))
    async with running(place) as daemon:
        assert daemon.picture().cause == "key-wrong"
        port = DaemonPort(daemon.picture, lambda: daemon.journal, daemon._standing, daemon.taps, daemon._verify)
        with pytest.raises(LockedError, match="key-wrong"):
            await port.queue("everything", 10)
        assert (await port.status()).state is GatewayState.LOCKED


async def test_a_second_daemon_on_the_same_state_gives_up(tmp_path: Path) -> None:
    place = ward(tmp_path)
    async with running(place):
        other = Daemon(place.configuration, place.clock, place.randomness, place.log, {"TMPDIR": str(place.folder)})
        with pytest.raises(UnavailableError, match="already-running"):
            await other.run()


async def test_a_port_that_is_taken_is_tried_again_while_the_others_serve(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    place = ward(tmp_path, f'\n[[source]]\nname = "lab"\ntype = "mllp"\nlisten = "127.0.0.1:{port}"\n')
    async with running(place) as daemon:
        assert "listen-failed" in place.paper.text
        assert await answers(daemon, message("A-1")) == ["AA"]
        taken.close()
        await taken.wait_closed()
        await until(lambda: place.paper.text.count("source-listening") == 2)


async def test_an_authority_that_cannot_be_used_blocks_its_route_and_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nonsense")
    sink = '\n[[sink]]\nname = "cloud"\ntype = "https"\nurl = "https://127.0.0.1:1/v1/events"\ntls = { ca = { file = "bad.pem" } }\n'
    place = ward(tmp_path, sink + '\n[[route]]\nname = "cloud"\nfrom = "*"\nto = "cloud"\n')
    async with running(place) as daemon:
        assert await answers(daemon, message("A-1")) == ["AA"]
        await until(lambda: daemon.picture().routes[1].state is RouteState.MISCONFIGURED)
        await until(lambda: daemon.picture().routes[0].books.delivered == 1)
        assert daemon.picture().routes[1].books.queued == 1


async def test_the_tap_and_the_trace_follow_a_message(tmp_path: Path) -> None:
    place = ward(tmp_path)
    async with running(place) as daemon:
        port = DaemonPort(daemon.picture, lambda: daemon.journal, daemon._standing, daemon.taps, daemon._verify)
        stream = port.tap()
        watching = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        await answers(daemon, message("A-1"))
        line = await asyncio.wait_for(watching, 5)
        await stream.aclose()
        assert not isinstance(line, int)
        assert (line.source, line.kind, line.traffic) == ("adt", "hl7.v2.ADT.A01", "adt")
        await until(lambda: daemon.picture().routes[0].books.delivered == 1)
        event = EventId.parse(line.event_id)
        assert event is not None
        facts = [record.record.kind.value for record in await port.trace(event)]
        assert facts[0] == "accept"
        assert "deliver" in facts
        verdict = await port.verify_audit()
        assert verdict.intact


async def test_a_journal_that_turns_out_damaged_is_opened_anew_and_everything_goes_on(tmp_path: Path) -> None:
    place = ward(tmp_path)
    async with running(place) as daemon:
        assert await answers(daemon, message("A-1")) == ["AA"]
        before = daemon.journal
        daemon._standing.on_journal(JournalEvent(JournalEventKind.DAMAGED, "journal-damaged"))
        await until(lambda: daemon.journal is not None and daemon.journal is not before)
        assert await answers(daemon, message("A-2"), message("A-1")) == ["AA", "AA"]
        await until(lambda: arrived(place) == ["A-1", "A-2"])
        assert daemon.picture().state is GatewayState.RUNNING
        assert daemon.picture().routes[0].books.accepted == 2, "the resend was a duplicate, also across the new start"
