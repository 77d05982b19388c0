"""A destination, gateways in folders of their own, and the shim that makes a disk slow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.blackbox.destination import Destination
from tests.blackbox.gateway_process import PROGRAM, Gateway
from tests.blackbox.slow_disk import slow_disk_library
from tests.prerequisites import need, need_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.blackbox.gateway_setup import NewGateway


@pytest.fixture
def destination() -> Iterator[Destination]:
    with Destination() as running:
        yield running


@pytest.fixture
def new_gateway(tmp_path: Path, destination: Destination) -> Iterator[NewGateway]:
    """Makes gateways; none outlives its test."""
    need("edge-gateway beside this Python (pip install -e .)", Path(PROGRAM).exists())
    made: list[Gateway] = []

    def make(name: str = "gw", **more: Any) -> Gateway:
        gateway = Gateway(tmp_path / name, destination.url, **more)
        made.append(gateway)
        return gateway.init()

    yield make
    for gateway in made:
        gateway.kill()


@pytest.fixture(scope="session")
def slow_disk() -> Path:
    """The compiled shim of slowdisk.c."""
    need_programs("gcc")
    return slow_disk_library()
