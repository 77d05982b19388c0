"""systemd's contract: READY when senders are answered, a fed watchdog in every declared state, an unfed one when the disk hangs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.disks import loop_disk, tmpfs
from tests.blackbox.gateway_process import Gateway, until
from tests.blackbox.gateway_setup import wind_down
from tests.blackbox.mllp_line import Sender
from tests.blackbox.notify_socket import NotifySocket
from tests.blackbox.test_full_and_read_only import noise
from tests.prerequisites import is_root, need, need_loop_devices

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_setup import NewGateway

WATCHDOG_S = 2.0


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[NotifySocket]:
    with NotifySocket(tmp_path / "notify") as listening:
        yield listening


def held_for_three_intervals(gateway: Gateway, systemd: NotifySocket) -> None:
    """Fed without a pause, by the same process, for 3 x WatchdogSec."""
    pid, since = gateway.pid, time.monotonic()
    time.sleep(3 * WATCHDOG_S)
    assert gateway.alive()
    assert gateway.pid == pid
    silence = systemd.longest_silence_s(since, time.monotonic())
    assert silence < WATCHDOG_S, f"no WATCHDOG=1 for {silence:.1f} s, systemd would have started it again"


def test_ready_comes_when_senders_are_answered_and_stopping_when_it_ends(new_gateway: NewGateway, systemd: NotifySocket) -> None:
    gateway = new_gateway(env=systemd.environment(WATCHDOG_S))
    gateway.start()
    assert until(lambda: systemd.times("READY=1"), 5)
    assert len(systemd.times("READY=1")) == 1
    assert any(line.startswith("STATUS=") for _, line in systemd.notices)
    held_for_three_intervals(gateway, systemd)
    assert gateway.stop() == 0
    assert len(systemd.times("STOPPING=1")) == 1
    assert not systemd.times("READY=1", systemd.times("STOPPING=1")[0])


def test_a_locked_gateway_is_not_started_again(new_gateway: NewGateway, systemd: NotifySocket) -> None:
    gateway = new_gateway(env=systemd.environment(WATCHDOG_S))
    gateway.start()
    assert gateway.stop() == 0
    gateway.key.rename(gateway.key.with_name("elsewhere"))
    gateway.start()
    assert until(lambda: gateway.health() == "locked", 5)
    held_for_three_intervals(gateway, systemd)


@pytest.mark.root
@pytest.mark.xdist_group("disks")
def test_a_full_gateway_is_not_started_again(
    new_gateway: NewGateway, destination: Destination, systemd: NotifySocket, tmp_path: Path
) -> None:
    need("root", is_root())
    with tmpfs(tmp_path / "tmpfs", 12) as small:
        destination.down()
        gateway = new_gateway(state_dir=small / "state", env=systemd.environment(WATCHDOG_S))
        gateway.start()
        sender = Sender(gateway.port, "F", rate=2000, window=32, make=noise).start()
        assert until(lambda: gateway.health() == "full", 60)
        wind_down([sender])
        held_for_three_intervals(gateway, systemd)
        gateway.kill()


@pytest.mark.root
@pytest.mark.xdist_group("disks")
def test_a_gateway_on_a_read_only_disk_is_not_started_again(new_gateway: NewGateway, systemd: NotifySocket, tmp_path: Path) -> None:
    need_loop_devices()
    with loop_disk(tmp_path / "loop") as disk:
        gateway = new_gateway(state_dir=disk.path / "state", env=systemd.environment(WATCHDOG_S))
        gateway.start()
        disk.turn_read_only()
        sender = Sender(gateway.port, "R", rate=50).start()
        assert until(lambda: gateway.health() == "read_only", 15), gateway.health()
        wind_down([sender])
        held_for_three_intervals(gateway, systemd)
        gateway.kill()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_disk_that_hangs_stops_the_feeding(new_gateway: NewGateway, systemd: NotifySocket, slow_disk: Path, tmp_path: Path) -> None:
    control = tmp_path / "disk-control"
    control.write_text("well")
    gateway = new_gateway(env={**systemd.environment(WATCHDOG_S), "LD_PRELOAD": str(slow_disk), "SLOWDISK_CONTROL": str(control)})
    gateway.start()
    sender = Sender(gateway.port, "H", rate=20).start()
    time.sleep(1)
    acked = len(sender.acked)
    assert acked
    control.write_text("hang")
    time.sleep(1)
    stuck = len(sender.acked)
    assert until(lambda: systemd.longest_silence_s(systemd.times("WATCHDOG=1")[-1], time.monotonic()) > WATCHDOG_S + 1, 90, 0.5)
    assert len(sender.acked) <= stuck + 16, "acknowledged while no fsync returned"
    control.write_text("well")
    assert until(lambda: len(sender.acked) > stuck + 20, 30), "does not go on when the disk does"
    wind_down([sender])


def test_nothing_is_acknowledged_before_its_fsync_returns(new_gateway: NewGateway, slow_disk: Path, tmp_path: Path) -> None:
    control = tmp_path / "disk-control"
    control.write_text("well")
    gateway = new_gateway(env={"LD_PRELOAD": str(slow_disk), "SLOWDISK_CONTROL": str(control)})
    gateway.start()
    control.write_text("hang")
    time.sleep(0.2)
    senders = [Sender(gateway.port, f"S{number}", rate=50).start() for number in range(3)]
    time.sleep(2)
    assert not any(sender.acked for sender in senders)
    control.write_text("well")
    assert until(lambda: all(sender.acked for sender in senders), 15)
    wind_down(senders)


def test_a_failing_fsync_is_answered_with_a_refusal_and_survived(
    new_gateway: NewGateway, destination: Destination, slow_disk: Path, tmp_path: Path
) -> None:
    control = tmp_path / "disk-control"
    control.write_text("well")
    gateway = new_gateway(env={"LD_PRELOAD": str(slow_disk), "SLOWDISK_CONTROL": str(control)})
    gateway.start()
    sender = Sender(gateway.port, "S", rate=50, window=1, persistent=True).start()
    time.sleep(0.7)
    control.write_text("fail")
    assert until(lambda: bool(sender.refused), 10), "fsync fails and everything is accepted"
    assert all(answer.code in ("AE", "CE") and "207" in answer.errors for answer in sender.refused.values())
    control.write_text("well")
    count = len(sender.acked)
    assert until(lambda: len(sender.acked) > count + 10, 15), gateway.tail()
    wind_down([sender])
    assert not destination.wait_for(set(sender.acked))
    counts = gateway.settled()
    assert counts["accepted"] == counts["delivered"] == len(sender.acked)
