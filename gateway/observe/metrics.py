"""Prometheus text from one status snapshot: one collector in a registry of our own, so that numbers never disagree.

Names are ``edge_gateway_<noun>_<unit>[_total]``. Labels are names of the configuration and words of closed enums, and
nothing else ever (DESIGN 2.4). The terms of a route are one gauge per term, not counters: a replay moves a message back.
``prometheus_client`` is imported at the first scrape; a gateway that nobody scrapes does not carry it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.model.receipt import RouteState
from gateway.model.state import GatewayState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    from gateway.observe.process import ProcessFigures
    from gateway.observe.status import GatewayStatus, RouteStatus

__all__ = ["CONTENT_TYPE", "METRICS", "MetricSpec", "Metrics"]

#: Source: Prometheus text exposition format 0.0.4.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_CODE: Final = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: what it counts, in which unit, under which labels."""

    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    counter: bool = False


_SPECS: Final = (
    MetricSpec("edge_gateway_build_info", "Always 1; which program, which gateway", ("version", "gateway")),
    MetricSpec("edge_gateway_state_info", "1 for the state the gateway is in, 0 for the others", ("state",)),
    MetricSpec("edge_gateway_source_accepted_messages_total", "Messages committed, duplicates excluded", ("source",), counter=True),
    MetricSpec("edge_gateway_source_duplicate_messages_total", "Resends answered again, since the start", ("source",), counter=True),
    MetricSpec("edge_gateway_source_refused_frames_total", "Frames that we said no to, since the start", ("source",), counter=True),
    MetricSpec("edge_gateway_source_connections", "Open connections of senders", ("source",)),
    MetricSpec("edge_gateway_route_accepted_messages_total", "Messages the route has to account for", ("route",), counter=True),
    MetricSpec("edge_gateway_route_messages", "Accepted messages by the term of the accounting equation they are in", ("route", "term")),
    MetricSpec("edge_gateway_route_state_info", "1 for the state the route is in, 0 for the others", ("route", "state")),
    MetricSpec("edge_gateway_route_oldest_age_seconds", "Age of the oldest queued message, 0 where none is queued", ("route",)),
    MetricSpec("edge_gateway_route_next_attempt_seconds", "Seconds until the next attempt, 0 where none is planned", ("route",)),
    MetricSpec("edge_gateway_route_last_error_info", "1 for the code of the last error", ("route", "code")),
    MetricSpec("edge_gateway_journal_size_bytes", "Database, write-ahead log and shared memory"),
    MetricSpec("edge_gateway_journal_quota_bytes", "Limit of edge_gateway_journal_size_bytes"),
    MetricSpec("edge_gateway_journal_blocks", "Sealed blocks that hold messages"),
    MetricSpec("edge_gateway_process_resident_memory_bytes", "Resident memory of the daemon"),
    MetricSpec("edge_gateway_process_cpu_seconds_total", "User and system time of the daemon", counter=True),
    MetricSpec("edge_gateway_process_open_files", "Open file descriptors of the daemon"),
    MetricSpec("edge_gateway_process_uptime_seconds", "Seconds since the daemon started"),
)
#: name -> spec: the only metrics there are.
METRICS: Final[dict[str, MetricSpec]] = {spec.name: spec for spec in _SPECS}

_Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Renders ``status()`` and ``process()`` at each scrape; keeps nothing in between."""

    version: str
    status: Callable[[], GatewayStatus]
    process: Callable[[], ProcessFigures]

    def render(self) -> bytes:
        """The text of ``/metrics``."""
        from prometheus_client.exposition import generate_latest
        from prometheus_client.registry import CollectorRegistry

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """The ``Collector`` protocol of prometheus_client."""
        samples = _samples(self.status(), self.version) | _process_samples(self.process())
        for spec in _SPECS:
            yield _family(spec, samples.get(spec.name, []))


def _family(spec: MetricSpec, samples: list[_Sample]) -> Metric:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    family: CounterMetricFamily | GaugeMetricFamily
    if spec.counter:
        family = CounterMetricFamily(spec.name, spec.meaning, labels=spec.labels)
    else:
        family = GaugeMetricFamily(spec.name, spec.meaning, labels=spec.labels)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def _samples(status: GatewayStatus, version: str) -> dict[str, list[_Sample]]:
    sources, routes, journal = status.sources, status.routes, status.journal
    return {
        "edge_gateway_build_info": [((version, status.gateway), 1)],
        "edge_gateway_state_info": [((state.value,), state is status.state) for state in GatewayState],
        "edge_gateway_source_accepted_messages_total": [((s.name,), s.accepted) for s in sources],
        "edge_gateway_source_duplicate_messages_total": [((s.name,), s.duplicates) for s in sources],
        "edge_gateway_source_refused_frames_total": [((s.name,), s.refused) for s in sources],
        "edge_gateway_source_connections": [((s.name,), s.connections) for s in sources],
        "edge_gateway_route_accepted_messages_total": [((r.name,), r.books.accepted) for r in routes],
        "edge_gateway_route_messages": [sample for r in routes for sample in _terms(r)],
        "edge_gateway_route_state_info": [((r.name, state.value), state is r.state) for r in routes for state in RouteState],
        "edge_gateway_route_oldest_age_seconds": [((r.name,), r.oldest_age_s) for r in routes],
        "edge_gateway_route_next_attempt_seconds": [((r.name,), r.next_attempt_s or 0) for r in routes],
        "edge_gateway_route_last_error_info": [((r.name, _code(r.last_error)), 1) for r in routes if r.last_error is not None],
        "edge_gateway_journal_size_bytes": [((), journal.bytes)],
        "edge_gateway_journal_quota_bytes": [((), journal.quota)],
        "edge_gateway_journal_blocks": [((), journal.blocks)],
    }


def _process_samples(process: ProcessFigures) -> dict[str, list[_Sample]]:
    return {
        "edge_gateway_process_resident_memory_bytes": [((), process.resident_bytes)],
        "edge_gateway_process_cpu_seconds_total": [((), process.cpu_s)],
        "edge_gateway_process_open_files": [((), process.open_files)],
        "edge_gateway_process_uptime_seconds": [((), process.uptime_s)],
    }


def _terms(route: RouteStatus) -> list[_Sample]:
    books = route.books
    terms = {
        "delivered": books.delivered,
        "queued": books.queued,
        "held": books.held,
        "dead_letter": books.dead_letter,
        "filtered": books.filtered,
        "gaps": books.gaps,
    }
    return [((route.name, term), count) for term, count in terms.items()]


def _code(text: str) -> str:
    """A label is a code of ours or it is ``other``: the net below every careless caller."""
    return text if len(text) <= 60 and _CODE.fullmatch(text) else "other"
