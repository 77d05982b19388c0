"""A destination that is away, slow, busy, deaf, forgetful or picky: ids stay, order stays, nothing is lost, the books balance."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.blackbox.destination import Behaviour, Destination
from tests.blackbox.gateway_process import Gateway, until
from tests.blackbox.gateway_setup import reconcile, rows_of, wind_down
from tests.blackbox.messages import control_id
from tests.blackbox.mllp_line import Sender

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.blackbox.gateway_setup import NewGateway

RATE = 60.0


class Watch:
    """Reads the status all along; every answer must balance (Gateway.route asserts it). ``states``: those that were seen."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.states: list[str] = []
        self.last: dict[str, Any] = {}
        self.wrong: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)
        assert not self.wrong, self.wrong[0]

    def _run(self) -> None:
        while not self._ended.wait(0.3):
            try:
                self.last = self.gateway.route()
            except AssertionError as fault:
                self.wrong.append(str(fault))
            else:
                self.states.append(self.last["state"])

    def sees(self, *states: str, wait_s: float = 15.0) -> bool:
        return until(lambda: bool(set(states) & set(self.states)), wait_s)


class Scene:
    """Two senders that go on all along, a gateway, and a destination that has a bad time."""

    def __init__(self, new_gateway: NewGateway, destination: Destination, **more: Any) -> None:
        self.destination = destination
        self.gateway = new_gateway(**more)
        self.gateway.start()
        self.senders = [Sender(self.gateway.port, f"S{number}", rate=RATE).start() for number in range(2)]

    def acked(self) -> set[str]:
        return {control for sender in self.senders for control in dict(sender.acked)}

    def caught_up(self, within_s: float, except_for: set[str] | None = None) -> None:
        """What was acknowledged by now has arrived ``within_s``."""
        wanted = self.acked() - (except_for or set())
        assert until(lambda: not wanted - self.destination.controls().keys(), within_s, 0.05), f"not caught up within {within_s} s"

    def end(self, except_for: set[str] | None = None) -> dict[str, Any]:
        """Stop, reconcile, and the settled counts."""
        wind_down(self.senders)
        lost = except_for or set()
        reconcile(self.senders, self.destination, except_for=lost, dead=len(lost))
        counts = self.gateway.settled()
        acked = len(self.acked())
        assert counts["accepted"] == acked
        assert counts["delivered"] == acked - len(lost), counts
        return counts


@pytest.fixture
def scene(new_gateway: NewGateway, destination: Destination) -> Callable[..., Scene]:
    def make(**more: Any) -> Scene:
        made = Scene(new_gateway, destination, **more)
        time.sleep(0.7)
        return made

    return make


def test_an_outage_is_caught_up_with_in_order(scene: Callable[..., Scene], destination: Destination) -> None:
    here = scene()
    with Watch(here.gateway) as watch:
        destination.down()
        time.sleep(6)
        assert watch.sees("retrying", "offline")
        assert watch.last["queued"] > 0
        assert watch.last["oldest_age_s"] > 0
        assert watch.last["last_error"]
        assert watch.last["next_attempt_s"] is not None
        destination.up()
        here.caught_up(12)
    assert here.end()["state"] == "online"


def test_a_slow_destination_is_waited_for_and_not_asked_twice(scene: Callable[..., Scene], destination: Destination) -> None:
    here = scene()
    destination.behaviour = Behaviour(hold_s=1.0)
    time.sleep(5)
    destination.up()
    here.caught_up(8)
    here.end()
    assert destination.books.duplicates == 0


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (401, "auth_blocked"),
        (403, "auth_blocked"),
        (404, "misconfigured"),
        (405, "misconfigured"),
        (415, "misconfigured"),
        (302, "misconfigured"),
    ],
)
def test_a_closed_door_is_probed_gently_and_costs_no_message(
    scene: Callable[..., Scene], destination: Destination, status: int, state: str
) -> None:
    here = scene()
    with Watch(here.gateway) as watch:
        since = time.monotonic()
        destination.behaviour = Behaviour(status, (("Location", "http://127.0.0.1:9/"),) if status == 302 else ())
        assert watch.sees(state)
        time.sleep(4)
        probes = [at for at, answered in destination.statuses(since) if answered == status]
        assert 1 <= len(probes) <= 5, f"{len(probes)} requests in {time.monotonic() - since:.1f} s"
        assert watch.last["dead_letter"] == 0
        destination.up()
        here.caught_up(12)
    here.end()


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_is_kept_when_the_destination_asks_for_one(scene: Callable[..., Scene], destination: Destination, status: int) -> None:
    here = scene()
    with Watch(here.gateway) as watch:
        since = time.monotonic()
        destination.behaviour = Behaviour(status, (("Retry-After", "2"),))
        time.sleep(6)
        asked = [at for at, answered in destination.statuses(since) if answered == status]
        early = [b - a for a, b in itertools.pairwise(asked) if b - a < 1.99]
        assert 2 <= len(asked) <= 4
        assert not early, early
        assert watch.sees("rate_limited")
        destination.up()
        here.caught_up(8)
    here.end()


def test_a_connection_that_swallows_everything_is_given_up_by_its_deadline(scene: Callable[..., Scene], destination: Destination) -> None:
    here = scene(sink="answer_timeout_s = 1")
    with Watch(here.gateway) as watch:
        destination.behaviour = Behaviour(silent=True)
        assert watch.sees("retrying", "offline")
        destination.up()
        here.caught_up(12)
    here.end()


def test_an_answer_that_was_lost_after_applying_is_asked_for_again_under_the_same_ids(
    scene: Callable[..., Scene], destination: Destination
) -> None:
    here = scene()
    destination.behaviour = Behaviour(lose=4)
    assert until(lambda: destination.behaviour.lose == 0, 20)
    here.caught_up(8)
    here.end()
    assert destination.books.duplicates > 0


@pytest.mark.parametrize(
    "page",
    [b"<html><body>Please log in</body></html>", b"{", b"", b'{"results":[{"id":"somebody/else/1","status":"accepted"}]}', b"[]"],
    ids=["portal", "broken", "empty", "foreign", "array"],
)
def test_a_page_that_is_no_receipt_settles_nothing(scene: Callable[..., Scene], destination: Destination, page: bytes) -> None:
    here = scene()
    with Watch(here.gateway) as watch:
        applied = len(destination.books.order)
        destination.behaviour = Behaviour(text=page)
        assert watch.sees("bad_receipt")
        delivered = watch.last["delivered"]
        assert delivered <= applied + 200, "settled by something that is no receipt"
        destination.up()
        here.caught_up(12)
    here.end()


def test_a_poison_message_is_found_by_bisection_and_its_neighbours_go_on(scene: Callable[..., Scene], destination: Destination) -> None:
    poison = {"S0-120", "S1-140", "S1-141"}
    destination.poisons = lambda body: control_id(body) in poison
    here = scene()
    assert until(lambda: poison <= here.acked(), 20)
    time.sleep(1)
    counts = here.end(except_for=poison)
    assert counts["dead_letter"] == len(poison)
    listed = here.gateway.ask("dead-letter", "ls", "--json").stdout.decode()
    assert listed.count("test-gw/") >= len(poison)


def test_a_rejected_event_becomes_a_dead_letter_that_can_be_replayed(scene: Callable[..., Scene], destination: Destination) -> None:
    refused = {"S0-110", "S0-111"}
    destination.rejects = lambda body: control_id(body) in refused
    here = scene()
    assert until(lambda: here.gateway.route()["dead_letter"] == 2, 20)
    wind_down(here.senders)
    destination.rejects = lambda _body: False
    letters = rows_of(here.gateway.ask("dead-letter", "ls", "--json").stdout)
    ids = [str(row.get("id") or row.get("event_id")) for row in letters]
    done = here.gateway.ask("dead-letter", "replay", *ids, "--by", "tester", "--reason", "mended")
    assert done.returncode == 0, done.stderr.decode()
    assert not destination.wait_for(here.acked())
    counts = here.gateway.settled()
    assert counts["dead_letter"] == 0
    assert counts["delivered"] == counts["accepted"] == len(here.acked())
    revisions = {applied.control: applied.revision for applied in destination.books.order if applied.control in refused}
    assert revisions == dict.fromkeys(refused, 1)


def test_a_destination_that_rejects_everything_costs_nothing(scene: Callable[..., Scene], destination: Destination) -> None:
    here = scene()
    with Watch(here.gateway) as watch:
        destination.behaviour = Behaviour(400)
        assert watch.sees("rejecting", wait_s=30)
        assert watch.last["dead_letter"] == 0
        destination.up()
        here.caught_up(20)
    assert here.end()["dead_letter"] == 0
