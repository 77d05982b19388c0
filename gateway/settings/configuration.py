"""The configuration in force: frozen, complete, every path absolute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from gateway.model.errors import Issue
    from gateway.settings.tables import AdminTable, GatewayTable, JournalTable, KeysTable, RouteTable

__all__ = ["Configuration", "name_of"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What one file says, with every default filled in.

    ``sources`` and ``sinks`` are the kinds' own models, in the order of the file. ``digest``: 64 hex digits over the
    canonical form of the document; equal for files that say the same, wherever they lie and however they are written.
    """

    path: Path
    gateway: GatewayTable
    keys: KeysTable
    admin: AdminTable
    journal: JournalTable
    sources: tuple[BaseModel, ...]
    sinks: tuple[BaseModel, ...]
    routes: tuple[RouteTable, ...]
    digest: str
    warnings: tuple[Issue, ...]

    @property
    def gateway_id(self) -> str:
        """First part of every event id."""
        return self.gateway.id

    @property
    def source_names(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(map(name_of, self.sources))

    @property
    def route_names(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(route.name for route in self.routes)

    def sink(self, name: str) -> BaseModel:
        """The table of that sink; ``KeyError`` where there is none (loading has made sure that routes name real ones)."""
        return {name_of(sink): sink for sink in self.sinks}[name]


def name_of(table: BaseModel) -> str:
    """The ``name`` of a source's or sink's table."""
    return str(getattr(table, "name", ""))
