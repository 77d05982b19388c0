"""The demo's patients are synthetic, and its messages are what the gateway expects."""

from __future__ import annotations

import re

import pytest

from gateway.codec.message_header import Header, scan
from gateway.service.demo_traffic import SYSTEMS, Department

NOW_US = 1_763_812_800_000_000


@pytest.mark.parametrize("name", SYSTEMS)
def test_messages_of_the_demo_have_a_usable_header_and_a_synthetic_patient(name: str) -> None:
    department = Department(name)
    for n in range(200):
        message = department.message(n, NOW_US)
        header = scan(message)
        assert isinstance(header, Header)
        assert header.control_id == department.control_id(n).encode()
        match = re.search(rb"\rPID\|1\|\|(\d+)\^", message)
        assert match
        assert 100_000 <= int(match[1]) <= 199_999
        assert message.endswith(b"\r")


def test_the_same_number_gives_the_same_message() -> None:
    assert Department("LIS").message(7, NOW_US) == Department("LIS").message(7, NOW_US)
