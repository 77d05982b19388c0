"""What ``edge-gateway receive`` says while it runs: facts gathered from batches, told once a second, in one of three forms.

A fact is a flat dict with a word of ``FACTS`` under ``fact``. Names in it are checked names (gateway ids, lanes, codes); nothing
of a payload can get in. A flood of refusals or gaps is a count, not a flood of lines.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TextIO, TypeAlias

import orjson

from gateway.model.clock import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.receiver.server import BatchReport

__all__ = ["FACTS", "Fact", "Tally", "Voice", "json_voice", "plain_voice", "rich_voice"]

Fact: TypeAlias = "dict[str, str | int]"

#: fact -> (how a person reads it, rich style). ``str.format`` fields are the keys of the fact.
FACTS: Final[Mapping[str, tuple[str, str]]] = {
    "listening": ("listening on {url}, store {store}", "bold"),
    "warning": ("warning: {text}", "yellow"),
    "incarnation": ("{gateway} has a new incarnation {incarnation}", "cyan"),
    "progress": (
        "applied {applied} (+{new}), duplicates {duplicates}, rejected {rejected}, conflicts {conflicts}, missing {missing}",
        "",
    ),
    "gap": ("{gateway} {lane}: numbers {first} to {last} are missing", "yellow"),
    "gaps": ("and {count} more ranges are missing", "yellow"),
    "closed": ("{count} missing numbers have come or were declared", "green"),
    "conflict": ("ALARM {gateway}: {count} events under a known id and revision with another content, refused", "bold red"),
    "reused": ("ALARM {gateway}: {count} new events under numbers that were used: were its counters set back?", "bold red"),
    "refused": ("{count} requests refused: {code}", "red"),
    "fault": ("{count} requests met a fault of this receiver", "bold red"),
    "stopped": (
        "stopped: applied {applied}, duplicates {duplicates}, rejected {rejected}, conflicts {conflicts}, missing {missing}",
        "bold",
    ),
}
_GAPS_TOLD: Final = 10


class Voice(Protocol):
    """Tells one fact."""

    def __call__(self, at_us: int, fact: Fact) -> None:
        """``at_us``: wall clock."""
        ...


def json_voice(out: TextIO) -> Voice:
    """One JSON object per line."""

    def tell(at_us: int, fact: Fact) -> None:
        out.write(orjson.dumps({"time": rfc3339(at_us), **fact}).decode() + "\n")
        out.flush()

    return tell


def plain_voice(out: TextIO) -> Voice:
    """One sentence per line, with the time of day (UTC)."""

    def tell(at_us: int, fact: Fact) -> None:
        out.write(_sentence(at_us, fact) + "\n")
        out.flush()

    return tell


def rich_voice(out: TextIO) -> Voice:
    """The same sentences in colour. rich is imported here: nobody pays for it whose output is not a terminal."""
    from rich.console import Console

    console = Console(file=out, soft_wrap=True)

    def tell(at_us: int, fact: Fact) -> None:
        console.print(_sentence(at_us, fact), style=FACTS[str(fact["fact"])][1] or None, markup=False, highlight=False)

    return tell


def _sentence(at_us: int, fact: Fact) -> str:
    return f"{rfc3339(at_us)[11:19]} {FACTS[str(fact['fact'])][0].format(**fact)}"


@dataclass(slots=True)
class _Second:
    """What happened since the last telling."""

    incarnations: list[tuple[str, str]] = field(default_factory=list)
    gaps: list[tuple[str, str, int, int]] = field(default_factory=list)
    gaps_more: int = 0
    closed: int = 0
    alarms: Counter[tuple[str, str]] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)


class Tally:
    """Gathers reports; ``facts`` gives what has happened since it was asked last, or since ``begin``."""

    def __init__(self) -> None:
        self._told: Mapping[str, int] = {}
        self._second = _Second()

    def begin(self, totals: Mapping[str, int]) -> None:
        """The running sums that are no news."""
        self._told = totals

    def note(self, report: BatchReport) -> None:
        """Take one report in."""
        second, applied = self._second, report.applied
        if report.refused:
            second.refused[report.refused] += 1
            return
        if applied.first_of_incarnation:
            second.incarnations.append((applied.gateway, applied.incarnation))
        room = max(_GAPS_TOLD - len(second.gaps), 0)
        second.gaps += [(applied.gateway, *gap) for gap in applied.opened[:room]]
        second.gaps_more += len(applied.opened[room:])
        second.closed += applied.closed
        second.alarms["conflict", applied.gateway] += applied.conflicts
        second.alarms["reused", applied.gateway] += applied.reused

    def facts(self, totals: Mapping[str, int]) -> list[Fact]:
        """What is new, alarms last; empty where nothing happened. ``totals``: the running sums now."""
        second, self._second = self._second, _Second()
        told, self._told = self._told, totals
        return [*_progress(told, totals), *_found(second), *_alarms(second), *_faults(told, totals)]


def _progress(told: Mapping[str, int], totals: Mapping[str, int]) -> Iterator[Fact]:
    if totals.get("batches") != told.get("batches"):
        yield {"fact": "progress", **counts(totals), "new": totals.get("applied", 0) - told.get("applied", 0)}


def _faults(told: Mapping[str, int], totals: Mapping[str, int]) -> Iterator[Fact]:
    if count := totals.get("faults", 0) - told.get("faults", 0):
        yield {"fact": "fault", "count": count}


def _found(second: _Second) -> Iterator[Fact]:
    for gateway, incarnation in second.incarnations:
        yield {"fact": "incarnation", "gateway": gateway, "incarnation": incarnation}
    for gateway, lane, first, last in second.gaps:
        yield {"fact": "gap", "gateway": gateway, "lane": lane, "first": first, "last": last}
    if second.gaps_more:
        yield {"fact": "gaps", "count": second.gaps_more}
    if second.closed:
        yield {"fact": "closed", "count": second.closed}


def _alarms(second: _Second) -> Iterator[Fact]:
    for (fact, gateway), count in second.alarms.items():
        if count:
            yield {"fact": fact, "gateway": gateway, "count": count}
    for code, count in second.refused.items():
        yield {"fact": "refused", "code": code, "count": count}


def counts(totals: Mapping[str, int]) -> Fact:
    """The totals that every summary has."""
    return {name: totals.get(name, 0) for name in ("applied", "duplicates", "rejected", "conflicts", "missing")}
