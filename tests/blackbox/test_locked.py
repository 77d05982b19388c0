"""Without the right key: up, honest, and not one byte is touched; with it again: open within seconds, without a restart."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.gateway_process import Gateway, until
from tests.blackbox.gateway_setup import reconcile, snapshot_of, wind_down
from tests.blackbox.messages import message
from tests.blackbox.mllp_line import Line, Sender

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_setup import NewGateway


def lose_key(key: Path) -> None:
    key.rename(key.with_name("elsewhere"))


def wrong_key(key: Path) -> None:
    shutil.copy(key, key.with_name("elsewhere"))
    key.write_bytes(bytes(reversed(range(32))))


def cut_key(key: Path) -> None:
    shutil.copy(key, key.with_name("elsewhere"))
    key.write_bytes(key.read_bytes()[:7])


def bring_back(key: Path) -> None:
    key.with_name("elsewhere").replace(key)


def with_backlog(new_gateway: NewGateway, destination: Destination) -> tuple[Gateway, Sender]:
    destination.down()
    gateway = new_gateway()
    gateway.start()
    sender = Sender(gateway.port, "S", rate=200).start()
    time.sleep(0.7)
    wind_down([sender])
    assert gateway.stop() == 0
    return gateway, sender


@pytest.mark.parametrize("spoil", [lose_key, wrong_key, cut_key])
def test_a_locked_gateway_is_honest_touches_nothing_and_opens_without_a_restart(
    new_gateway: NewGateway, destination: Destination, spoil: Callable[[Path], None]
) -> None:
    gateway, sender = with_backlog(new_gateway, destination)
    spoil(gateway.key)
    before = snapshot_of(gateway.state)
    gateway.start()
    pid = gateway.pid
    destination.up()
    assert until(lambda: gateway.health() == "locked", 5)
    assert gateway.http("/readyz")[0] == 503
    with Line(gateway.port) as line:
        answer = line.ask(message("L-0"))
    assert answer is not None
    assert answer.code in ("AE", "CE")
    assert "207" in answer.errors

    status = gateway.status()
    assert status["state"] == "locked"
    assert status["counts"] == "stale"
    assert [route["name"] for route in status["routes"]] == ["everything"]
    assert status["routes"][0]["accepted"] == len(sender.acked)
    for command in (("queue", "ls"), ("dead-letter", "ls"), ("trace", "test-gw/" + "0" * 32 + "/1"), ("audit", "verify")):
        assert gateway.ask(*command).returncode == 4, command
    time.sleep(4.5)  # two attempts to open
    assert snapshot_of(gateway.state) == before, "something in the state directory was created, changed or deleted"
    assert not destination.books.order

    bring_back(gateway.key)
    assert until(lambda: gateway.health() == "running", 8)
    assert gateway.pid == pid
    assert gateway.alive()
    with Line(gateway.port) as line:
        opened = line.ask(message("L-1"))
    assert opened is not None
    assert opened.positive
    reconcile([sender], destination)
    assert gateway.settled()["accepted"] == len(sender.acked) + 1
    assert '"EG009"' in gateway.log.read_text()


def test_a_missing_keyring_beside_a_journal_never_gets_a_new_one(new_gateway: NewGateway, destination: Destination) -> None:
    gateway, sender = with_backlog(new_gateway, destination)
    keyring = gateway.state / "keyring"
    kept = keyring.read_bytes()
    keyring.unlink()
    gateway.start()
    assert until(lambda: gateway.health() == "locked", 5)
    time.sleep(2.5)
    assert not keyring.exists(), "a new key was invented over old data"
    keyring.write_bytes(kept)
    keyring.chmod(0o600)
    destination.up()
    assert until(lambda: gateway.health() == "running", 8)
    reconcile([sender], destination)


def test_a_locked_gateway_stops_in_order(new_gateway: NewGateway, destination: Destination) -> None:
    gateway, _ = with_backlog(new_gateway, destination)
    lose_key(gateway.key)
    before = snapshot_of(gateway.state)
    gateway.start()
    assert until(lambda: gateway.health() == "locked", 5)
    assert gateway.stop() == 0
    assert snapshot_of(gateway.state) == before
    status = gateway.status()
    assert status["state"] in ("locked", "stopped")
    assert gateway.ask("queue", "ls").returncode == 4


@pytest.mark.parametrize("command", ["status", "check", "queue"])
def test_a_configuration_that_cannot_be_read_ends_with_3_or_1_and_says_where(new_gateway: NewGateway, command: str) -> None:
    gateway = new_gateway()
    gateway.config.write_text(gateway.config.read_text().replace("[gateway]", "[gateway]\nsurprise = 1"))
    done = gateway.ask(*((command, "ls") if command == "queue" else (command,)))
    assert done.returncode == (1 if command == "check" else 3)
    assert "surprise" in (done.stdout + done.stderr).decode()
