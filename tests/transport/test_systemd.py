"""Notices to systemd: the exact datagrams, path and abstract names, and silence where nobody listens."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from gateway.transport.systemd import ServiceNotices, watchdog_interval_s

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@edge-gateway-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.settimeout(5)
        line.bind("\0" + address[1:] if address.startswith("@") else address)
        yield line, address


def test_each_notice_is_the_datagram_that_systemd_documents(listener: tuple[socket.socket, str]) -> None:
    line, address = listener
    notices = ServiceNotices.from_environment({"NOTIFY_SOCKET": address})
    assert notices.ready("running")
    assert line.recv(4096) == b"READY=1\nSTATUS=running"
    assert notices.status("running, 5 queued")
    assert line.recv(4096) == b"STATUS=running, 5 queued"
    assert notices.watchdog()
    assert line.recv(4096) == b"WATCHDOG=1"
    assert notices.stopping()
    assert line.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


def test_a_status_is_one_line_whatever_is_in_it(listener: tuple[socket.socket, str]) -> None:
    line, address = listener
    assert ServiceNotices(address).status("a\nWATCHDOG=1\r\n b" + "x" * 900)
    sent = line.recv(4096)
    assert sent.startswith(b"STATUS=a WATCHDOG=1 b")
    assert b"\n" not in sent
    assert len(sent) == len("STATUS=") + 200


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_nothing_is_sent_where_systemd_does_not_listen(environ: dict[str, str]) -> None:
    assert not ServiceNotices.from_environment(environ).ready("x")


def test_a_socket_that_is_gone_or_full_stops_nothing(tmp_path: Path) -> None:
    assert not ServiceNotices(str(tmp_path / "gone")).watchdog()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "full"))
        notices = ServiceNotices(str(tmp_path / "full"))
        answers = [notices.watchdog() for _ in range(2000)]
    assert answers[0]
    assert not answers[-1]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "5000000"}, 5.0),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "77"}, 5.0),
        ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_interval_is_what_the_unit_says_for_this_process(environ: dict[str, str], expected: float | None) -> None:
    assert watchdog_interval_s(environ, 77) == expected
