"""A bad, huge, slow or hostile sender hurts only its own connection: its neighbours are served, memory and disk stay bounded."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.gateway_process import until
from tests.blackbox.messages import framed, message, padded
from tests.blackbox.mllp_line import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_process import Gateway
    from tests.blackbox.gateway_setup import NewGateway


@pytest.fixture
def gateway(new_gateway: NewGateway, destination: Destination) -> Gateway:
    destination.down()  # nothing else moves
    made = new_gateway(source="max_connections_per_address = 40\nidle_timeout_s = 3\nframe_timeout_s = 2\nmax_message_bytes = 1048576")
    made.start()
    return made


@contextlib.contextmanager
def crowd(port: int, count: int) -> Iterator[list[socket.socket]]:
    """That many connections at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)) for _ in range(count)]


def is_served(gateway: Gateway, control: str, within_s: float = 2.0) -> bool:
    began = time.monotonic()
    with Line(gateway.port) as line:
        answer = line.ask(message(control))
    return answer is not None and answer.positive and time.monotonic() - began < within_s


def is_closed(connection: socket.socket, within_s: float) -> bool:
    connection.settimeout(within_s)
    try:
        return connection.recv(65536) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_one_address_cannot_take_every_connection(gateway: Gateway) -> None:
    assert until(lambda: gateway.status()["sources"][0]["connections"] == 0, 5)  # those that looked for the open port
    with crowd(gateway.port, 40) as taken:
        assert until(lambda: gateway.status()["sources"][0]["connections"] == 40, 5)
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as one_more:
            assert is_closed(one_more, 2)
        taken[0].sendall(framed(message("among-many")))
        assert b"MSA|AA|among-many" in taken[0].recv(4096)
    assert until(lambda: gateway.status()["sources"][0]["connections"] == 0, 5)
    assert is_served(gateway, "after-many")


def test_a_sender_that_dribbles_is_cut_off_and_its_neighbours_never_wait(gateway: Gateway) -> None:
    with crowd(gateway.port, 30) as slow:
        began = time.monotonic()
        while time.monotonic() - began < 1.8:
            for connection in slow:
                connection.sendall(b"\x0b" if time.monotonic() - began < 0.05 else b"M")
            assert is_served(gateway, f"beside-{time.monotonic_ns()}")
            time.sleep(0.1)
        assert all(is_closed(connection, 4) for connection in slow), "a frame that never ends is not cut off"


def test_a_silent_connection_ends_by_its_deadline(gateway: Gateway) -> None:
    with crowd(gateway.port, 3) as silent:
        began = time.monotonic()
        assert all(is_closed(connection, 6) for connection in silent)
        assert time.monotonic() - began > 2


def test_ten_thousand_garbage_frames_cost_neither_memory_nor_disk(gateway: Gateway) -> None:
    chance = random.Random(11)
    assert is_served(gateway, "before-garbage")
    memory, disk = gateway.rss_mb(), gateway.status()["journal"]["bytes"]
    for _ in range(10):
        with Line(gateway.port) as line:
            frames = [framed(chance.randbytes(60).replace(b"\x0b", b"x").replace(b"\x1c", b"x")) for _ in range(1000)]
            line.send(b"".join(frames))
            answers = line.answers(1000, 20)
            assert len(answers) == 1000
            assert {answer.code for answer in answers} == {"AR"}
            assert is_served(gateway, f"beside-{time.monotonic_ns()}")
    status = gateway.status()
    assert status["sources"][0]["refused"] >= 10_000
    assert gateway.rss_mb() - memory < 40
    assert status["journal"]["bytes"] - disk < 16 << 20, "a flood of refusals fills the disk"


def test_a_sender_that_never_reads_its_answers_does_not_grow_the_gateway(gateway: Gateway) -> None:
    memory = gateway.rss_mb()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=1) as deaf, contextlib.suppress(OSError):
        for number in range(200):
            deaf.sendall(b"".join(framed(padded(f"deaf-{number}-{n}", 300)) for n in range(500)))
    assert gateway.rss_mb() - memory < 60
    assert is_served(gateway, "after-the-deaf")


@pytest.mark.parametrize(
    "opening",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-x\r\n", b"\0" * 5000, b"\x0b" * 5000],
    ids=["http", "tls", "ssh", "nul", "vt"],
)
def test_a_port_scanner_gets_no_positive_answer_and_ends_nothing(gateway: Gateway, opening: bytes) -> None:
    with Line(gateway.port) as line:
        line.send(opening)
        line.quiet(0.3)
        assert not any(answer.positive for answer in line.got)
    assert is_served(gateway, "after-the-scan")
    assert gateway.alive()


def test_a_thousand_connections_one_after_the_other_leave_nothing_behind(gateway: Gateway) -> None:
    assert is_served(gateway, "warm")
    handles = len(list(gateway.proc("fd").iterdir()))
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
            if number % 3 == 0:
                connection.sendall(framed(message(f"many-{number}"))[: 40 * (number % 2) or None])
    assert until(lambda: len(list(gateway.proc("fd").iterdir())) <= handles + 2, 10)
    assert is_served(gateway, "after-a-thousand")
