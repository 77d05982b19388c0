"""A full disk and a disk that turns read-only: senders are told and keep their data, settling goes on, everything recovers."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.disks import loop_disk, tmpfs
from tests.blackbox.gateway_process import until
from tests.blackbox.gateway_setup import reconcile, wind_down
from tests.blackbox.messages import message, padded
from tests.blackbox.mllp_line import Answer, Line, Sender
from tests.prerequisites import is_root, need, need_loop_devices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_process import Gateway
    from tests.blackbox.gateway_setup import NewGateway

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("disks")]
SIZE_MB = 12


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    need("root", is_root())
    with tmpfs(tmp_path / "tmpfs", SIZE_MB) as path:
        yield path


def noise(control: str) -> bytes:
    """A message that hardly compresses, so that a small disk fills within seconds."""
    text = random.Random(control).randbytes(3000).hex()
    return message(control, rest=b"PID|1||100001^^^SITE^MR||DOE^JANE\rOBX|1|TX|9||" + text.encode() + b"||||||F\r")


def refused_with_207(answer: Answer | None) -> bool:
    return answer is not None and answer.code in ("AE", "CE") and "207" in answer.errors


def is_refused(gateway: Gateway, control: str) -> bool:
    """One message, one honest refusal, in time."""
    with Line(gateway.port) as line:
        began = time.monotonic()
        answer = line.ask(noise(control), wait_s=6)
        assert answer is not None, f"no answer while {gateway.health()}"
        assert time.monotonic() - began < 5
        return refused_with_207(answer)


def fill(gateway: Gateway, name: str) -> Sender:
    """Send until it is full and says so."""
    sender = Sender(gateway.port, name, rate=2000, window=32, make=noise).start()
    assert until(lambda: sender.refused and gateway.health() == "full", 60), f"{len(sender.acked)} accepted, {gateway.health()}"
    wind_down([sender])
    assert all(refused_with_207(answer) for answer in sender.refused.values()), list(sender.refused.values())[:2]
    assert sender.account.slowest_s < 5, f"an answer took {sender.account.slowest_s:.1f} s"
    return sender


def take_all(path: Path) -> None:
    """Somebody else's file that grows until nothing is left."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as taken:
        while True:
            taken.write(b"x" * 4096)


@pytest.mark.timeout(240)
def test_a_full_disk_refuses_keeps_settling_and_recovers(new_gateway: NewGateway, destination: Destination, small: Path) -> None:
    destination.down()
    gateway = new_gateway(state_dir=small / "state")
    gateway.start()
    sender = fill(gateway, "F")
    assert until(lambda: gateway.health() == "full", 5)
    assert gateway.http("/readyz")[0] == 503
    assert gateway.status()["state"] == "full"
    held = gateway.route()
    assert held["queued"] == held["accepted"] >= len(sender.acked) > 500
    destination.up()
    reconcile([sender], destination, except_for=sender.refused)
    assert until(lambda: gateway.health() == "running", 20), "the space does not come back"
    with Line(gateway.port) as line:
        after = line.ask(padded("after-0", 700))
    assert after is not None
    assert after.positive
    counts = gateway.settled()
    assert counts["accepted"] == counts["delivered"] == len(sender.acked) + 1
    assert gateway.stop() == 0


@pytest.mark.timeout(240)
def test_a_disk_that_others_fill_up_refuses_keeps_settling_and_recovers(
    new_gateway: NewGateway, destination: Destination, small: Path
) -> None:
    destination.down()
    gateway = new_gateway(state_dir=small / "state")
    gateway.start()
    sender = Sender(gateway.port, "F", rate=300, window=8, make=noise).start()
    time.sleep(1.0)
    filler = small / "somebody-elses"
    take_all(filler)
    assert until(lambda: bool(sender.refused), 30), "the disk is full and everything is accepted"
    wind_down([sender])
    assert until(lambda: gateway.health() in ("full", "read_only"), 5), gateway.health()
    assert is_refused(gateway, "G-0")
    destination.up()
    missing = destination.wait_for(set(sender.acked), 15)
    assert not missing, f"does not settle on a full disk: {len(missing)} missing"
    filler.unlink()
    assert until(lambda: gateway.health() == "running", 20), f"{gateway.health()} with free space"
    with Line(gateway.port) as line:
        after = line.ask(padded("after-0", 700))
    assert after is not None
    assert after.positive
    reconcile([sender], destination)
    counts = gateway.settled()
    assert counts["accepted"] == counts["delivered"]


def test_a_restart_on_a_full_disk_still_delivers(new_gateway: NewGateway, destination: Destination, small: Path) -> None:
    destination.down()
    gateway = new_gateway(state_dir=small / "state")
    gateway.start()
    sender = fill(gateway, "F")
    gateway.kill()
    gateway.start()
    destination.up()
    reconcile([sender], destination, except_for=sender.refused)
    counts = gateway.settled()
    assert counts["accepted"] == counts["delivered"] >= len(sender.acked)


@pytest.mark.timeout(240)
def test_a_disk_that_turns_read_only_loses_nothing(new_gateway: NewGateway, destination: Destination, tmp_path: Path) -> None:
    need_loop_devices()
    with loop_disk(tmp_path / "loop") as disk:
        destination.down()
        gateway = new_gateway(state_dir=disk.path / "state")
        gateway.start()
        sender = Sender(gateway.port, "R", rate=200).start()
        time.sleep(1.5)
        disk.turn_read_only()
        assert until(lambda: bool(sender.refused), 15), "a read-only disk and everything is accepted"
        wind_down([sender])
        assert all(refused_with_207(answer) for answer in sender.refused.values())
        assert until(lambda: gateway.health() == "read_only", 10), gateway.health()
        assert gateway.status()["state"] == "read_only"
        assert is_refused(gateway, "Q-0")
        gateway.kill()
        disk.umount()
        disk.repair()
        disk.mount()
        gateway.start()
        destination.up()
        reconcile([sender], destination, except_for=sender.refused)
        counts = gateway.settled()
        assert counts["accepted"] == counts["delivered"] >= len(sender.acked)
        assert gateway.stop() == 0
