"""The one status snapshot, put together from the journal, the sources and the routes without letting go of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.model.message import GATEWAY_SOURCE
from gateway.model.receipt import RouteState
from gateway.observe.status import GatewayStatus, JournalStatus, RouteStatus, SourceStatus, stale, zeros

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.journal.interface import JournalSnapshot, RouteSnapshot
    from gateway.model.state import GatewayState
    from gateway.route.route import Route
    from gateway.source.mllp import MllpSource

__all__ = ["Parts", "picture", "route_status"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a snapshot is made of; ``journal`` None = not open. ``last_known``: what was written before (locked)."""

    gateway: str
    state: GatewayState
    cause: str | None
    sources: Sequence[MllpSource]
    routes: Mapping[str, Route]
    route_names: Sequence[str]
    journal: JournalSnapshot | None
    now_us: int
    last_known: GatewayStatus | None = None


def picture(parts: Parts) -> GatewayStatus:
    """Atomic: nothing in here awaits, so no count can change between two others."""
    if parts.journal is None:
        known = parts.last_known or zeros(parts.gateway, [source.name for source in parts.sources], parts.route_names)
        return stale(known, parts.state, parts.cause)
    journal = parts.journal
    return GatewayStatus(
        gateway=parts.gateway,
        incarnation=journal.incarnation,
        state=parts.state,
        sources=_sources(parts.sources, journal.accepted),
        routes=tuple(route_status(route, parts.routes.get(route.name), parts.now_us) for route in journal.routes),
        journal=JournalStatus(journal.bytes, journal.quota, journal.blocks),
        cause=parts.cause,
    )


def _sources(sources: Sequence[MllpSource], accepted: Mapping[str, int]) -> tuple[SourceStatus, ...]:
    """Configured sources in their order; events of the gateway's own where there are any."""
    found = [
        SourceStatus(source.name, accepted.get(source.name, 0), source.counts.duplicates, source.counts.refused, source.counts.connections)
        for source in sources
    ]
    if own := accepted.get(GATEWAY_SOURCE, 0):
        found.append(SourceStatus(GATEWAY_SOURCE, own))
    return tuple(found)


def route_status(known: RouteSnapshot, route: Route | None, now_us: int) -> RouteStatus:
    """One route: the journal's books, the live state. ``route`` None: removed from the configuration, books still open."""
    age_s = 0.0 if known.oldest_us is None else max(0.0, (now_us - known.oldest_us) / 1e6)
    if route is None:
        removed = None if known.configured else "route-removed"
        return RouteStatus(known.name, RouteState.STOPPED, known.books, age_s, removed)
    outlook = route.outlook
    return RouteStatus(known.name, outlook.state, known.books, age_s, outlook.code or None, outlook.next_attempt_s)
