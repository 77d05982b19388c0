"""The snapshot is put together without a gap between its parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.journal.interface import Condition, JournalSnapshot, RouteSnapshot
from gateway.model.cursor import START
from gateway.model.receipt import RouteState
from gateway.model.state import Books, GatewayState
from gateway.observe.status import zeros
from gateway.route.delivery import Outlook
from gateway.service.picture import Parts, picture, route_status

NOW_US = 10_000_000


@dataclass
class Counts:
    duplicates: int = 1
    refused: int = 2
    connections: int = 3


@dataclass
class Source:
    name: str
    counts: Counts = field(default_factory=Counts)


@dataclass
class Route:
    outlook: Outlook


def snapshot(*routes: RouteSnapshot, accepted: dict[str, int] | None = None) -> JournalSnapshot:
    return JournalSnapshot("ab" * 16, Condition.RUNNING, accepted or {"adt": 5}, routes, 100, 1000, 2, 7, 6)


def parts(**more: Any) -> Parts:
    given: dict[str, Any] = {
        "gateway": "ward-3",
        "state": GatewayState.RUNNING,
        "cause": None,
        "sources": [Source("adt")],
        "routes": {},
        "route_names": ["everything"],
        "journal": None,
        "now_us": NOW_US,
    }
    return Parts(**(given | more))


def test_counts_come_from_the_journal_and_states_from_the_routes() -> None:
    known = RouteSnapshot("everything", Books(accepted=5, delivered=3), START, NOW_US - 2_500_000)
    found = picture(parts(journal=snapshot(known), routes={"everything": Route(Outlook(RouteState.RETRYING, "connect-refused", 1.5))}))
    route = found.routes[0]
    assert (route.state, route.last_error, route.next_attempt_s) == (RouteState.RETRYING, "connect-refused", 1.5)
    assert (route.books.queued, route.oldest_age_s) == (2, 2.5)
    source = found.sources[0]
    assert (source.accepted, source.duplicates, source.refused, source.connections) == (5, 1, 2, 3)


def test_a_clock_that_was_set_back_gives_no_negative_age() -> None:
    assert route_status(RouteSnapshot("r", Books(accepted=1), START, NOW_US + 5_000_000), None, NOW_US).oldest_age_s == 0


def test_a_route_that_was_taken_out_of_the_configuration_says_so() -> None:
    found = route_status(RouteSnapshot("old", Books(accepted=1), START, NOW_US, configured=False), None, NOW_US)
    assert (found.state, found.last_error) == (RouteState.STOPPED, "route-removed")


def test_events_of_the_gateways_own_are_a_source_once_there_are_any() -> None:
    assert [source.name for source in picture(parts(journal=snapshot())).sources] == ["adt"]
    found = picture(parts(journal=snapshot(accepted={"adt": 5, "gateway": 1})))
    assert [(source.name, source.accepted) for source in found.sources] == [("adt", 5), ("gateway", 1)]


def test_without_a_journal_the_last_known_counts_are_shown_as_such() -> None:
    found = picture(parts(state=GatewayState.LOCKED, cause="key-missing", last_known=zeros("ward-3", ["adt"], ["everything"])))
    assert (found.state, found.cause, found.counts_stale) == (GatewayState.LOCKED, "key-missing", True)
    assert [route.name for route in found.routes] == ["everything"]
