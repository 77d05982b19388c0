"""The listener lets in whom it should, for as long as it should, and closes without losing its last words."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, cast

import pytest

from gateway.model.errors import LocalProtocolError, PermanentError, TransientError
from gateway.transport.tcp import connect
from gateway.transport.tcp_listener import Deadline, ListenerLimits, Pause, TcpListener, TurnedAway
from tests.transport.listening import Recorder, listening, raw, read_to_end, until

if TYPE_CHECKING:
    from gateway.transport.tcp import TcpLink
    from gateway.transport.tcp_listener import Link

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")


async def test_bytes_go_both_ways_and_the_end_is_seen_on_both_sides() -> None:
    async with listening(echo=True) as door:
        link = await connect("127.0.0.1", door.port, None, 5.0)
        await link.send(b"hello")
        assert await link.receive(5.0) == b"hello"
        await link.close()
        await until(lambda: door.sessions[0].calls == ["ended", "lost"])
        assert not door.listener.links
        await link.close()


async def test_who_is_not_in_the_allow_list_gets_no_session() -> None:
    limits = ListenerLimits(allow=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")))
    async with listening(limits) as door, raw(door.port) as (reader, _writer):
        assert await read_to_end(reader) == b""
        assert door.turned_away == [(TurnedAway.NOT_ALLOWED, "127.0.0.1")]
        assert not door.sessions


async def test_who_is_in_the_allow_list_gets_in() -> None:
    async with listening(ListenerLimits(allow=(LOOPBACK,)), echo=True) as door:
        link = await connect("127.0.0.1", door.port, None, 5.0)
        await link.send(b"x")
        assert await link.receive(5.0) == b"x"
        await link.close()


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ListenerLimits(max_connections=3), TurnedAway.TOO_MANY),
        (ListenerLimits(max_connections_per_address=3), TurnedAway.TOO_MANY_FROM_ADDRESS),
    ],
)
async def test_connections_over_the_cap_are_closed_and_a_place_that_becomes_free_is_given_again(
    limits: ListenerLimits, reason: TurnedAway
) -> None:
    async with listening(limits, echo=True) as door:
        inside = [await connect("127.0.0.1", door.port, None, 5.0) for _ in range(3)]
        await until(lambda: len(door.sessions) == 3)
        outside = await connect("127.0.0.1", door.port, None, 5.0)
        assert await outside.receive(5.0) == b""
        await outside.close()
        assert door.turned_away == [(reason, "127.0.0.1")]
        await inside.pop().close()
        await until(lambda: door.listener.connections == 2)
        again = await connect("127.0.0.1", door.port, None, 5.0)
        await again.send(b"x")
        assert await again.receive(5.0) == b"x"
        for link in (*inside, again):
            await link.close()


async def test_a_storm_of_connections_leaves_the_old_ones_working() -> None:
    async with listening(ListenerLimits(max_connections=20), echo=True) as door:
        old = await connect("127.0.0.1", door.port, None, 5.0)
        storm = [socket.create_connection(("127.0.0.1", door.port)) for _ in range(300)]
        await old.send(b"still here")
        assert await old.receive(5.0) == b"still here"
        await until(lambda: len(door.turned_away) == 281)
        assert door.listener.connections == 20
        for connection in storm:
            connection.close()
        await until(lambda: door.listener.connections == 1)
        await old.close()


async def test_a_silent_connection_is_closed_unless_it_waits_for_us() -> None:
    async with listening(ListenerLimits(idle_timeout_s=0.05)) as door, raw(door.port) as (silent, _), raw(door.port) as (waiting, _):
        await until(lambda: len(door.sessions) == 2)
        door.sessions[1].debt = True
        assert await read_to_end(silent) == b""
        assert not waiting.at_eof()
        door.sessions[1].debt = False
        assert await read_to_end(waiting) == b""


async def test_traffic_keeps_a_connection_open() -> None:
    async with listening(ListenerLimits(idle_timeout_s=0.5), echo=True) as door:
        link = await connect("127.0.0.1", door.port, None, 5.0)
        for _ in range(12):
            await asyncio.sleep(0.05)
            await link.send(b"x")
            assert await link.receive(5.0) == b"x"
        await link.close()


async def test_a_unit_that_does_not_end_in_time_is_reported_once_even_if_bytes_trickle_in() -> None:
    async with listening(ListenerLimits(unit_timeout_s=0.1)) as door, raw(door.port) as (reader, writer):
        await until(lambda: door.sessions)
        session = door.sessions[0]
        session.link.unit_open(anew=True)
        for _ in range(30):
            writer.write(b"x")
            await asyncio.sleep(0.01)
            if session.calls:
                break
            session.link.unit_open(anew=False)
        assert session.calls[0] == "overdue"
        assert await read_to_end(reader) == b""


async def test_a_unit_that_ends_in_time_or_a_pause_of_ours_is_not_overdue() -> None:
    async with listening(ListenerLimits(unit_timeout_s=0.05)) as door, raw(door.port) as (_, _writer):
        await until(lambda: door.sessions)
        session = door.sessions[0]
        session.link.unit_open(anew=True)
        session.link.unit_closed()
        await asyncio.sleep(0.1)
        session.link.unit_open(anew=True)
        session.link.pause(Pause.HOLD)
        session.link.unit_open(anew=True)
        await asyncio.sleep(0.1)
        assert session.calls == []
        session.link.resume(Pause.HOLD)
        await until(lambda: session.calls[:1] == ["overdue"])


async def test_reading_goes_on_only_when_no_reason_to_pause_is_left() -> None:
    async with listening(echo=True) as door:
        link = await connect("127.0.0.1", door.port, None, 5.0)
        await until(lambda: door.sessions)
        server = door.sessions[0].link
        server.pause(Pause.BUDGET)
        server.pause(Pause.HOLD)
        await link.send(b"x")
        server.resume(Pause.BUDGET)
        with pytest.raises(TransientError) as caught:
            await link.receive(0.05)
        assert caught.value.code == "answer-timeout"
        server.resume(Pause.HOLD)
        assert await link.receive(5.0) == b"x"
        await link.close()


async def test_a_peer_that_does_not_read_its_answers_is_not_read_either_and_ends() -> None:
    async with listening(ListenerLimits(unit_timeout_s=0.1)) as door, raw(door.port) as (_reader, writer):
        await until(lambda: door.sessions)
        server = door.sessions[0].link
        cast("asyncio.Transport", writer.transport).pause_reading()
        while server.reading:
            server.write(bytes(1_000_000))
            await asyncio.sleep(0)
        await until(lambda: door.sessions[0].calls == ["lost"])


async def test_the_last_words_arrive_although_the_peer_is_still_sending() -> None:
    async with listening(ListenerLimits(linger_s=0.3)) as door, raw(door.port) as (reader, writer):
        await until(lambda: door.sessions)
        writer.write(bytes(3_000_000))
        await until(lambda: door.sessions[0].got)
        door.sessions[0].link.write(b"no" * 10)
        door.sessions[0].link.close("said-no")
        before = len(door.sessions[0].got)
        assert await read_to_end(reader) == b"no" * 10
        await until(lambda: door.sessions[0].calls[-1:] == ["lost"])
        assert len(door.sessions[0].got) == before


async def test_a_peer_that_never_closes_is_cut_off_after_the_linger_time() -> None:
    async with listening(ListenerLimits(linger_s=0.05)) as door, raw(door.port) as (_, _writer):
        await until(lambda: door.sessions)
        door.sessions[0].link.close("done")
        await until(lambda: door.sessions[0].calls == ["lost"])


async def test_after_a_half_close_the_answers_still_go_out() -> None:
    async with listening() as door, raw(door.port) as (reader, writer):
        await until(lambda: door.sessions)
        session = door.sessions[0]
        session.debt = True
        writer.write(b"question")
        writer.write_eof()
        await until(lambda: session.calls == ["ended"])
        session.link.write(b"answer")
        session.link.close("done")
        assert await read_to_end(reader) == b"answer"
        await until(lambda: session.calls == ["ended", "lost"])


async def test_a_reset_ends_the_session_without_a_word_in_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as door, raw(door.port) as (_, writer):
        await until(lambda: door.sessions)
        plain: socket.socket = writer.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await until(lambda: door.sessions[0].calls == ["lost"])
        door.sessions[0].link.write(b"into the void")
        door.sessions[0].link.close("done")
    assert not caplog.records


async def test_a_taken_port_is_a_typed_error_with_a_hint_and_leaves_no_socket_open() -> None:
    async with listening() as door:
        second = TcpListener("127.0.0.1", door.port, ListenerLimits(), Recorder, lambda _why, _who: None)
        with pytest.raises(TransientError) as caught:
            await second.start()
        assert caught.value.code == "listen-in-use"
        assert str(door.port) in caught.value.hint
        with pytest.raises(LocalProtocolError):
            await door.listener.start()


@pytest.mark.parametrize(("host", "code"), [("192.0.2.1", "listen-address-missing"), ("no-such-host.invalid", "listen-address-missing")])
async def test_an_address_that_this_box_does_not_have_is_a_typed_error(host: str, code: str) -> None:
    listener = TcpListener(host, 0, ListenerLimits(), Recorder, lambda _why, _who: None)
    with pytest.raises((TransientError, PermanentError)) as caught:
        await listener.start()
    assert caught.value.code == code
    assert host in caught.value.hint


async def test_stopping_closes_the_port_and_waits_for_the_connections() -> None:
    async with listening() as door:
        link = await connect("127.0.0.1", door.port, None, 5.0)
        await until(lambda: door.sessions)
        port = door.port
        door.sessions[0].debt = True
        door.listener.stop_listening()
        with pytest.raises(TransientError) as caught:
            await connect("127.0.0.1", port, None, 5.0)
        assert caught.value.code == "connect-refused"
        assert not await door.listener.close(0.05)
        assert door.sessions[0].calls == ["lost"]
        assert await link.receive(5.0) == b""
        await link.close()


async def test_an_ipv6_wildcard_serves_ipv4_and_judges_the_plain_address() -> None:
    sessions: list[Recorder] = []

    def session_for(link: Link) -> Recorder:
        sessions.append(Recorder(link, echo=True))
        return sessions[-1]

    listener = TcpListener("::", 0, ListenerLimits(allow=(LOOPBACK,)), session_for, lambda _why, _who: None)
    await listener.start()
    link = await connect("127.0.0.1", listener.address[1], None, 5.0)
    await link.send(b"x")
    assert await link.receive(5.0) == b"x"
    assert sessions[0].link.peer == "127.0.0.1"
    await link.close()
    assert await listener.close(5.0)


class WithoutDescriptors:
    """The listening socket of a process that has used up its file descriptors, for one attempt."""

    def __init__(self, listening: socket.socket) -> None:
        self.listening = listening
        self.attempts = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.attempts += 1
        if self.attempts == 1:
            raise OSError(errno.EMFILE, "too many open files")
        return self.listening.accept()

    def fileno(self) -> int:
        return self.listening.fileno()

    def close(self) -> None:
        self.listening.close()

    def getsockname(self) -> tuple[str, int]:
        host, port = self.listening.getsockname()
        return host, port


async def test_without_file_descriptors_accepting_rests_and_goes_on_later() -> None:
    async with listening(echo=True) as door:
        starving = WithoutDescriptors(door.listener._sockets[0])
        door.listener._sockets[0] = starving  # type: ignore[call-overload]
        door.listener._accept(starving)  # type: ignore[arg-type]
        assert door.turned_away == [(TurnedAway.NO_DESCRIPTORS, "")]
        link = await connect("127.0.0.1", door.port, None, 5.0)
        await link.send(b"x")
        assert await link.receive(5.0) == b"x"
        assert starving.attempts >= 2
        await link.close()


async def test_a_name_needs_only_one_address_that_this_box_has() -> None:
    listener = TcpListener("127.0.0.1", 0, ListenerLimits(), Recorder, lambda _why, _who: None)
    listener._bind_each([(socket.AF_INET, ("192.0.2.1", 0)), (socket.AF_INET, ("127.0.0.1", 0))])
    assert listener.address[0] == "127.0.0.1"
    listener.stop_listening()


# --- the client side ---


async def _send_until_it_fails(link: TcpLink) -> None:
    async with asyncio.timeout(5.0):
        while True:
            await link.send(bytes(100_000))
            await asyncio.sleep(0.001)


async def test_connecting_says_what_went_wrong_in_our_words() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        with pytest.raises(TransientError) as refused:
            await connect("127.0.0.1", port, None, 5.0)
    assert refused.value.code == "connect-refused"
    with pytest.raises(TransientError) as unknown:
        await connect("no-such-host.invalid", 1, None, 30.0)
    assert unknown.value.code == "name-unknown"


async def test_a_connect_that_nobody_answers_ends_at_its_deadline() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        where = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(where)
        with pytest.raises(TransientError) as caught:
            await connect(where[0], where[1], None, 0.2)
        assert caught.value.code == "connect-timeout"
        for filler in fillers:
            filler.close()


async def test_the_other_side_being_gone_is_the_end_for_the_reader_and_an_error_for_the_writer() -> None:
    async with listening() as door:
        link = await connect("127.0.0.1", door.port, None, 5.0)
        await until(lambda: door.sessions)
        door.sessions[0].link.abort("test")
        assert await link.receive(5.0) == b""
        with pytest.raises(TransientError) as caught:
            await _send_until_it_fails(link)
        assert caught.value.code == "connection-lost"
        await link.close()


async def test_a_connection_notices_a_dead_peer() -> None:
    async with listening() as door:
        link = await connect("127.0.0.1", door.port, None, 5.0)
        await until(lambda: door.sessions)
        for end in (link._writer.transport, door.sessions[0].link._transport):
            assert end is not None
            connected: socket.socket = end.get_extra_info("socket")
            assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
            assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        await link.close()


# --- deadlines ---


async def test_a_deadline_that_is_moved_is_reached_once_at_its_last_place() -> None:
    loop = asyncio.get_running_loop()
    reached: list[float] = []
    deadline = Deadline(loop, lambda: reached.append(loop.time()))
    began = loop.time()
    for _ in range(5):
        deadline.after(0.05)
        await asyncio.sleep(0.02)
    assert not reached
    assert deadline.set
    await until(lambda: reached)
    assert reached[0] - began >= 0.13
    assert not deadline.set


async def test_a_cleared_deadline_is_not_reached_and_can_be_started_again() -> None:
    loop = asyncio.get_running_loop()
    reached: list[float] = []
    deadline = Deadline(loop, lambda: reached.append(loop.time()))
    deadline.after(0.01)
    deadline.clear()
    await asyncio.sleep(0.03)
    assert not reached
    deadline.after(0.01)
    await until(lambda: reached)
    deadline.after(0.01)
    deadline.cancel()
    await asyncio.sleep(0.03)
    assert len(reached) == 1
