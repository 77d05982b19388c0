"""The status of the gateway as values: one atomic snapshot (DESIGN 6.1) that the command line, metrics and health share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from gateway.model.receipt import RouteState
from gateway.model.state import Books, GatewayState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["GatewayStatus", "JournalStatus", "Roster", "RouteStatus", "SourceStatus", "as_json", "from_json", "stale", "zeros"]


NO_BOOKS = Books()


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """``accepted`` is of the journal's life; the rest may restart at 0 with the daemon."""

    name: str
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    connections: int = 0


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """``oldest_age_s``: age of the oldest queued message, 0 where none is queued. ``last_error``: a code of ours.

    ``next_attempt_s``: seconds until the next attempt, None where none is planned.
    """

    name: str
    state: RouteState = RouteState.STOPPED
    books: Books = NO_BOOKS
    oldest_age_s: float = 0.0
    last_error: str | None = None
    next_attempt_s: float | None = None


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """``bytes``: db, wal and shm less free pages; ``quota``: their limit in bytes; ``blocks``: rows that hold messages."""

    bytes: int = 0
    quota: int = 0
    blocks: int = 0


NO_JOURNAL = JournalStatus()


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """One snapshot. ``counts_stale``: the counts are the last known ones (locked). ``cause``: code of a state other than running."""

    gateway: str
    incarnation: str = ""
    state: GatewayState = GatewayState.STOPPED
    sources: tuple[SourceStatus, ...] = ()
    routes: tuple[RouteStatus, ...] = ()
    journal: JournalStatus = NO_JOURNAL
    counts_stale: bool = False
    cause: str | None = None


def zeros(gateway: str, sources: Iterable[str], routes: Iterable[str]) -> GatewayStatus:
    """The status of a gateway that has never run."""
    return GatewayStatus(gateway, "", GatewayState.STOPPED, tuple(map(SourceStatus, sources)), tuple(map(RouteStatus, routes)))


def stale(status: GatewayStatus, state: GatewayState, cause: str | None = None) -> GatewayStatus:
    """The same counts, marked as last known, under another state."""
    return replace(status, state=state, counts_stale=True, cause=cause)


class Roster(Protocol):
    """What is configured, as far as a status lists it (``settings.configuration.Configuration``)."""

    @property
    def gateway_id(self) -> str:
        """The gateway's id."""
        ...

    @property
    def source_names(self) -> tuple[str, ...]:
        """In the order of the file."""
        ...

    @property
    def route_names(self) -> tuple[str, ...]:
        """In the order of the file."""
        ...


def from_json(content: Mapping[str, Any], roster: Roster) -> GatewayStatus:
    """The counts of an earlier ``as_json`` that lay in a file, so anything may be in it; states are not taken over.

    Every configured source and route is listed, with zeros where nothing is known; routes that are no longer configured
    follow where they are known.
    """
    routes = {row["name"]: row for row in _rows(content.get("routes"))}
    sources = {row["name"]: row for row in _rows(content.get("sources"))}
    journal = content.get("journal")
    journal = journal if isinstance(journal, dict) else {}
    incarnation = content.get("incarnation")
    return GatewayStatus(
        gateway=roster.gateway_id,
        incarnation=incarnation if isinstance(incarnation, str) else "",
        sources=tuple(SourceStatus(name, *(_count(sources.get(name, {}), key) for key in _SOURCE_COUNTS)) for name in roster.source_names),
        routes=tuple(RouteStatus(name, books=_books(routes.get(name, {}))) for name in dict.fromkeys((*roster.route_names, *routes))),
        journal=JournalStatus(*(_count(journal, key) for key in ("bytes", "quota", "blocks"))),
    )


_SOURCE_COUNTS: Final = ("accepted", "duplicates", "refused")


def _rows(value: object) -> list[dict[str, Any]]:
    found = value if isinstance(value, list) else []
    return [row for row in found if isinstance(row, dict) and isinstance(row.get("name"), str)]


def _count(row: Mapping[str, Any], key: str) -> int:
    value = row.get(key, 0)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _books(row: Mapping[str, Any]) -> Books:
    """Books from their terms; ``accepted`` is their sum, so that the equation holds whatever the file says."""
    terms = {key: _count(row, key) for key in ("delivered", "held", "dead_letter", "filtered", "gaps")}
    return Books(accepted=sum(terms.values()) + _count(row, "queued"), **terms)


def as_json(status: GatewayStatus) -> dict[str, object]:
    """The object of ``status --json`` and of the admin socket; key order is part of the contract for human readers."""
    found: dict[str, object] = {
        "gateway": status.gateway,
        "incarnation": status.incarnation,
        "state": status.state.value,
        "sources": [_source(source) for source in status.sources],
        "routes": [_route(route) for route in status.routes],
        "journal": {"bytes": status.journal.bytes, "quota": status.journal.quota, "blocks": status.journal.blocks},
    }
    if status.counts_stale:
        found["counts"] = "stale"
    if status.cause is not None:
        found["cause"] = status.cause
    return found


def _source(source: SourceStatus) -> dict[str, object]:
    return {
        "name": source.name,
        "accepted": source.accepted,
        "duplicates": source.duplicates,
        "refused": source.refused,
        "connections": source.connections,
    }


def _route(route: RouteStatus) -> dict[str, object]:
    books = route.books
    return {
        "name": route.name,
        "state": route.state.value,
        "accepted": books.accepted,
        "delivered": books.delivered,
        "queued": books.queued,
        "held": books.held,
        "dead_letter": books.dead_letter,
        "filtered": books.filtered,
        "gaps": books.gaps,
        "oldest_age_s": _rounded(route.oldest_age_s),
        "last_error": route.last_error,
        "next_attempt_s": _rounded(route.next_attempt_s),
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(seconds, 0.0), 3)
