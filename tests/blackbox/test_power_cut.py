"""A power cut at any instant: what was acknowledged before it is there after it. With a control that must lose data.

The real daemon on an ext4 that loses its power; then the same journal code in a small writer process, once as it is and
once with ``synchronous=NORMAL`` put into its pragma table: a recipe that cannot see the difference would prove nothing.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.disks import LoopDisk, loop_disk
from tests.blackbox.gateway_setup import reconcile, wind_down
from tests.blackbox.mllp_line import Sender
from tests.prerequisites import need_loop_devices

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_setup import NewGateway

pytestmark = [pytest.mark.root, pytest.mark.xdist_group("disks")]
CYCLES = 6


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    need_loop_devices()
    with loop_disk(tmp_path / "power") as mounted:
        yield mounted


@pytest.mark.timeout(300)
def test_what_was_acknowledged_before_a_power_cut_is_delivered_after_it(
    new_gateway: NewGateway, destination: Destination, disk: LoopDisk
) -> None:
    gateway = new_gateway(state_dir=disk.path / "state")
    chance = random.Random(time.time_ns())
    promised: set[str] = set()
    acked_late = 0
    for cycle in range(CYCLES):
        gateway.start()
        if cycle % 2:
            destination.down()  # half of the cycles cut with a backlog, half in the middle of settling
        senders = [Sender(gateway.port, f"C{cycle}S{number}", rate=300, window=16).start() for number in range(4)]
        time.sleep(chance.uniform(0.5, 1.5))
        cut = disk.cut_power()
        time.sleep(0.2)
        gateway.kill()
        wind_down(senders, 0.0)
        before = {control for sender in senders for control, at in sender.acked.items() if at < cut}
        acked_late += sum(len(sender.acked) for sender in senders) - len(before)
        assert before, "the cut came before the first acknowledgement: such a cycle proves nothing"
        promised |= before
        disk.umount()
        disk.mount()
        destination.up()
    gateway.start()
    missing = destination.wait_for(promised, 15)
    assert not missing, f"{len(missing)} of {len(promised)} acknowledged messages are lost, such as {sorted(missing)[:5]}"
    print(f"{len(promised)} acknowledged before {CYCLES} cuts, {acked_late} while a cut was under way")
    reconcile([], destination)
    gateway.settled()


# ---------------------------------------------------------------- the same with and without the fsync


def cycle(disk: LoopDisk, run_s: float, synchronous: str) -> tuple[int, int]:
    """One life of the writer: the last commit it reported before the cut, and the last one that is there afterwards."""
    writer = [sys.executable, "-m", "tests.blackbox.journal_writer", str(disk.path / "state")]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([*writer, "append", synchronous], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first, "the writer reports nothing"
    time.sleep(run_s)
    cut_ns = int(disk.cut_power() * 1e9)
    process.kill()
    reports = [tuple(map(int, line.split(b":"))) for line in (first + process.stdout.read()).splitlines() if line.count(b":") == 1]
    process.stdout.close()
    process.wait(20)
    reported = max(seq for seq, at_ns in reports if at_ns < cut_ns)
    disk.umount()
    disk.mount()
    kept = subprocess.run([*writer, "last", "FULL"], capture_output=True, cwd=root, check=True, timeout=60)
    return reported, int(kept.stdout)


def lost_over_cycles(disk: LoopDisk, synchronous: str) -> list[int]:
    """How many reported messages each of the cycles lost."""
    chance = random.Random(time.time_ns())
    results = [cycle(disk, chance.uniform(0.3, 0.9), synchronous) for _ in range(CYCLES)]
    print(synchronous, results)
    return [max(0, reported - kept) for reported, kept in results]


@pytest.mark.timeout(180)
def test_the_journal_as_it_is_loses_nothing(disk: LoopDisk) -> None:
    assert lost_over_cycles(disk, "FULL") == [0] * CYCLES


@pytest.mark.timeout(180)
def test_the_control_without_the_fsync_does_lose_messages(disk: LoopDisk) -> None:
    assert any(lost_over_cycles(disk, "NORMAL")), "the recipe has no teeth"
