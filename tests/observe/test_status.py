"""The status object: the shape that scripts rely on, and what can be made of an old one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.receipt import RouteState
from gateway.model.state import Books, GatewayState
from gateway.observe.status import GatewayStatus, JournalStatus, RouteStatus, SourceStatus, as_json, from_json, stale, zeros

STATUS = GatewayStatus(
    gateway="ward-3",
    incarnation="ab" * 16,
    state=GatewayState.RUNNING,
    sources=(SourceStatus("adt", 10, 1, 2, 3),),
    routes=(RouteStatus("everything", RouteState.OFFLINE, Books(10, 5, 1, 1, 1, 1), 12.34567, "connect-refused", 1.5),),
    journal=JournalStatus(5_000, 1_000_000, 42),
)


@dataclass(frozen=True, slots=True)
class Listed:
    gateway_id: str = "ward-3"
    source_names: tuple[str, ...] = ("adt", "lab")
    route_names: tuple[str, ...] = ("everything", "copy")


def test_the_object_is_exactly_what_is_promised() -> None:
    assert as_json(STATUS) == {
        "gateway": "ward-3",
        "incarnation": "ab" * 16,
        "state": "running",
        "sources": [{"name": "adt", "accepted": 10, "duplicates": 1, "refused": 2, "connections": 3}],
        "routes": [
            {
                "name": "everything",
                "state": "offline",
                "accepted": 10,
                "delivered": 5,
                "queued": 1,
                "held": 1,
                "dead_letter": 1,
                "filtered": 1,
                "gaps": 1,
                "oldest_age_s": 12.346,
                "last_error": "connect-refused",
                "next_attempt_s": 1.5,
            }
        ],
        "journal": {"bytes": 5_000, "quota": 1_000_000, "blocks": 42},
    }


def test_a_gateway_that_never_ran_has_zeros_for_everything_configured() -> None:
    found = as_json(zeros("ward-3", ["adt"], ["everything"]))
    assert found["state"] == "stopped"
    assert found["incarnation"] == ""
    assert found["sources"] == [{"name": "adt", "accepted": 0, "duplicates": 0, "refused": 0, "connections": 0}]
    assert isinstance(found["routes"], list)
    assert found["routes"][0]["state"] == "stopped"
    assert found["routes"][0]["oldest_age_s"] == 0


def test_last_known_counts_say_so_and_list_everything_configured() -> None:
    found = as_json(stale(from_json(as_json(STATUS), Listed()), GatewayState.LOCKED, "key-missing"))
    assert (found["state"], found["counts"], found["cause"]) == ("locked", "stale", "key-missing")
    assert isinstance(found["routes"], list)
    assert isinstance(found["sources"], list)
    assert [row["name"] for row in found["routes"]] == ["everything", "copy"]
    assert [row["name"] for row in found["sources"]] == ["adt", "lab"]
    assert found["routes"][0]["accepted"] == 10
    assert found["routes"][0]["state"] == "stopped"
    assert found["sources"][0]["connections"] == 0
    assert found["journal"] == {"bytes": 5_000, "quota": 1_000_000, "blocks": 42}


def test_a_route_that_was_removed_stays_known() -> None:
    found = from_json(as_json(STATUS), Listed(route_names=("other",)))
    assert [route.name for route in found.routes] == ["other", "everything"]


_KEYS = st.sampled_from([*as_json(STATUS), "name", "queued", "delivered", "bytes"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=12,
)


@given(content=st.dictionaries(st.sampled_from([*as_json(STATUS), "x"]), _JSON))
def test_whatever_an_old_file_holds_the_equation_holds(content: dict[str, Any]) -> None:
    found = from_json(content, Listed())
    orjson.dumps(as_json(found))
    for route in found.routes:
        books = route.books
        assert books.queued >= 0
        assert books.accepted == books.delivered + books.queued + books.held + books.dead_letter + books.filtered + books.gaps
