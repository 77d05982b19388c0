"""From tables of the configuration to sources, sinks and routes: the constructors behind the registry of kinds.

Apart from ``kinds.py`` because constructors carry the network libraries, which the command line does not need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gateway.route.delivery import DispatchRules
from gateway.route.route import Route, RouteServices
from gateway.sink import file as file_sink
from gateway.sink import https as https_sink
from gateway.sink import mllp as mllp_sink
from gateway.sink.file_settings import FileSettings
from gateway.sink.https_settings import HttpsSettings, RetrySettings
from gateway.sink.mllp_settings import MllpSinkSettings
from gateway.source.mllp import MllpSource
from gateway.source.mllp_settings import MllpSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

    from gateway.journal.journal import Journal
    from gateway.model.clock import Clock, Randomness
    from gateway.model.sink import Sink
    from gateway.observe.log import EventLog
    from gateway.settings.tables import RouteTable
    from gateway.sink.services import SinkServices
    from gateway.source.ports import AppendPort, SourceServices

__all__ = ["RoutePorts", "make_route", "make_sink", "make_source"]

# The settings model of a table decides; Any, because each constructor takes its own kind's model.
_SOURCES: Final[dict[type[BaseModel], Callable[[Any, AppendPort, SourceServices], MllpSource]]] = {MllpSettings: MllpSource}
_SINKS: Final[dict[type[BaseModel], Callable[[Any, SinkServices], Sink]]] = {
    HttpsSettings: https_sink.build,
    FileSettings: file_sink.build,
    MllpSinkSettings: mllp_sink.build,
}
_RETRY: Final = RetrySettings()


@dataclass(frozen=True, slots=True)
class RoutePorts:
    """What every route of the daemon shares."""

    clock: Clock
    randomness: Randomness
    log: EventLog
    gateway: str
    journal: Journal


def make_source(table: BaseModel, journal: AppendPort, services: SourceServices) -> MllpSource:
    """The source of one ``[[source]]`` table; nothing is bound before ``start``."""
    return _SOURCES[type(table)](table, journal, services)


def make_sink(table: BaseModel, services: SinkServices) -> Sink:
    """The sink of one ``[[sink]]`` table for one route; nothing is connected before the first batch.

    Raises ``ConfigurationError`` for a certificate or key that cannot be used.
    """
    return _SINKS[type(table)](table, services)


def make_route(table: RouteTable, sink_table: BaseModel, sink: Sink, ports: RoutePorts) -> Route:
    """The route of one ``[[route]]`` table."""
    retry: RetrySettings = getattr(sink_table, "retry", _RETRY)
    rules = DispatchRules(
        route=table.name,
        max_messages=sink.max_messages,
        max_bytes=sink.max_bytes,
        linger_s=sink.linger_s,
        first_s=retry.first_ms / 1000,
        cap_s=retry.cap_ms / 1000,
        stop_on_reject=table.on_reject == "stop",
    )
    services = RouteServices(ports.clock, ports.randomness, ports.log, ports.gateway, lambda: _dead_letters(ports.journal, table.name))
    return Route(rules, sink, ports.journal, services)


def _dead_letters(journal: Journal, name: str) -> int:
    return sum(route.books.dead_letter for route in journal.snapshot().routes if route.name == name)
