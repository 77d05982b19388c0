"""``gateway.gap`` events: numbers of a lane that its receiver will never see, declared to the receiver itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from gateway.model.event import lane_name
from gateway.model.message import GATEWAY_SOURCE, Entry
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.journal.transaction import Transaction

__all__ = ["GAP_KIND", "declare", "lane_runs"]

GAP_KIND: Final = "gateway.gap"


def declare(tx: Transaction, route: str, traffic: TrafficClass, lanes: Iterable[int], reason: str) -> None:
    """Add one event per run of lane numbers, for this route only. A route that is no longer configured gets none."""
    if not tx.state.routes[route].configured:
        return
    for first, last in lane_runs(lanes):
        data = {"lane": lane_name(route, traffic.label), "from": first, "to": last, "count": last - first + 1, "reason": reason}
        tx.events.append(
            Entry(
                source=GATEWAY_SOURCE,
                body=orjson.dumps(data),
                traffic=TrafficClass.AUDIT,
                kind=GAP_KIND,
                received_us=tx.at_us,
                clock_state=tx.clock_state,
                route=route,
            )
        )


def lane_runs(lanes: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as inclusive ranges."""
    found: list[tuple[int, int]] = []
    for lane in sorted(lanes):
        if found and found[-1][1] + 1 >= lane:
            found[-1] = (found[-1][0], lane)
        else:
            found.append((lane, lane))
    return found
