"""kill -9 at any instant: nothing acknowledged is lost, doubled, reordered, altered or renamed."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.destination import Behaviour, Destination
from tests.blackbox.gateway_setup import reconcile, wind_down
from tests.blackbox.mllp_line import Sender

if TYPE_CHECKING:
    from pathlib import Path

    from tests.blackbox.gateway_setup import NewGateway

SENDERS = 6


def moods(destination: Destination, ended: threading.Event, chance: random.Random) -> None:
    """The destination is away, deaf, busy or forgetful, for a moment each, as long as the test goes on."""
    while not ended.wait(chance.uniform(0.4, 1.2)):
        mood = chance.choice((None, Behaviour(silent=True), Behaviour(503, (("Retry-After", "1"),)), Behaviour(lose=2)))
        if mood is None:
            destination.down()
        else:
            destination.behaviour = mood
        ended.wait(chance.uniform(0.3, 1.0))
        destination.up()


def kill_often(kills: int, seed: int, new_gateway: NewGateway, destination: Destination, shim: Path) -> None:
    """A slow fsync and a slow answer make it likely that a kill falls between taking and committing, applying and settling."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    gateway = new_gateway(sink="answer_timeout_s = 3", env={"LD_PRELOAD": str(shim), "SLOWDISK_US": "15000"})
    destination.behaviour = Behaviour(hold_s=0.05)
    gateway.start()
    senders = [Sender(gateway.port, f"S{number}", rate=150, window=16).start() for number in range(SENDERS)]
    ended = threading.Event()
    mood = threading.Thread(target=moods, args=(destination, ended, random.Random(seed + 1)), daemon=True)
    mood.start()
    for _ in range(kills):
        time.sleep(chance.uniform(0.2, 1.5))
        gateway.kill()
        gateway.start()
    time.sleep(0.5)
    wind_down(senders)
    ended.set()
    mood.join(5)
    destination.up()

    reconcile(senders, destination)
    counts = gateway.settled()
    assert counts["accepted"] == counts["delivered"] == len(destination.books.order), counts
    assert not any(sender.refused for sender in senders)
    assert sum(len(sender.acked) for sender in senders) > 100 * kills, "too little load to tell"


@pytest.mark.timeout(240)
def test_nothing_acknowledged_is_lost_over_eight_kills(new_gateway: NewGateway, destination: Destination, slow_disk: Path) -> None:
    kill_often(8, random.randrange(10**6), new_gateway, destination, slow_disk)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_over_fifty_kills(new_gateway: NewGateway, destination: Destination, slow_disk: Path) -> None:
    kill_often(50, random.randrange(10**6), new_gateway, destination, slow_disk)


def test_the_books_of_a_killed_gateway_can_be_read_and_balance(new_gateway: NewGateway, destination: Destination) -> None:
    destination.down()
    gateway = new_gateway()
    gateway.start()
    sender = Sender(gateway.port, "S", rate=500).start()
    time.sleep(1.0)
    gateway.kill()
    wind_down([sender], 0.0)
    counts = gateway.route()
    assert counts["state"] == "stopped"
    assert counts["accepted"] >= len(sender.acked) > 0
    assert counts["queued"] == counts["accepted"]


def test_a_message_that_was_sent_again_after_a_kill_is_still_the_same_message(new_gateway: NewGateway, destination: Destination) -> None:
    gateway = new_gateway()
    gateway.start()
    sender = Sender(gateway.port, "S", rate=200, window=1).start()
    time.sleep(0.5)
    wind_down([sender])
    gateway.kill()
    gateway.start()
    again = Sender(gateway.port, "S", rate=2000, window=4)
    again.make = lambda control: sender.sent.get(control, b"")
    again.start()
    while len(again.sent) < len(sender.sent):
        time.sleep(0.02)
    wind_down([again])
    assert set(sender.acked) <= set(again.acked)
    reconcile([sender], destination)
    assert gateway.settled()["accepted"] == len(sender.acked)
