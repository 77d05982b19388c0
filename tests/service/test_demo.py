"""The demo is the real program: it ends with equal books, or says that they are not."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING

import pytest

from gateway.service.demo import DemoPlan, Reckoning
from gateway.service.demo_link import Link
from gateway.service.demo_view import sparkline

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.timeout(90)
def test_the_demo_cuts_the_link_restores_it_and_ends_with_equal_books() -> None:
    done = subprocess.run([sys.executable, "-m", "gateway", "demo", "--for", "8"], capture_output=True, text=True, timeout=80, check=False)
    lines = done.stdout.splitlines()
    found = re.fullmatch(r"accepted=(\d+) delivered=(\d+)", lines[-1])
    assert found, done.stdout + done.stderr
    assert found[1] == found[2]
    assert int(found[1]) > 50
    assert any("link CUT" in line and "offline" in line for line in lines), "the outage is seen"
    assert done.returncode == 0


@pytest.mark.timeout(90)
def test_ctrl_c_ends_the_demo_with_the_books_too() -> None:
    process = subprocess.Popen([sys.executable, "-m", "gateway", "demo"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(r"accepted +[1-9]", line):
            break
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert re.fullmatch(r"accepted=(\d+) delivered=\1", rest.splitlines()[-1])
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("numbers", "equal"), [((5, 5, 5, 5), True), ((5, 5, 5, 4), False), ((5, 6, 6, 6), False), ((0, 0, 0, 0), False), ((5, 5, 4, 5), False)]
)
def test_the_books_are_equal_only_if_all_four_numbers_are(numbers: tuple[int, int, int, int], equal: bool) -> None:
    assert Reckoning(*numbers).equal is equal


def test_what_happens_in_the_demo_happens_in_order() -> None:
    plan = DemoPlan(100)
    assert 0 < plan.cut_s < plan.plug_s < plan.quiet_s < plan.length_s


def test_the_sparkline_shows_the_course_of_the_queue() -> None:
    assert sparkline(deque([0, 0])) == "  "
    assert sparkline(deque([0, 1, 4, 8])) == " ▁▄█"


async def ended(reader: asyncio.StreamReader, end: bytes, take: Callable[[bytes], None]) -> bool:
    """Whether the connection is over, by a FIN or by a reset; what came is handed on."""
    try:
        data = await reader.read(100)
    except ConnectionResetError:
        return True
    take(data)
    return data == end


async def test_a_cut_link_refuses_connections_and_ends_open_ones() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not await ended(reader, b"", writer.write):
            pass
        writer.transport.abort()

    far = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link(far.sockets[0].getsockname()[1])
    await link.plug_in()
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    writer.write(b"one")
    assert await reader.read(100) == b"one"
    await link.cut()
    assert not link.up
    assert await ended(reader, b"", lambda _data: None)
    writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", link.port)
    await link.plug_in()
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    writer.write(b"two")
    assert await reader.read(100) == b"two"
    writer.transport.abort()
    await link.cut()
    await asyncio.sleep(0.05)
    far.close()
    await far.wait_closed()
