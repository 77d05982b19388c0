"""The whole small mutable state of the journal: it rides, sealed, in every commit row, so that the newest row is the truth.

Counts, cursors and routing are a few hundred bytes; writing them with each commit costs no page of its own, needs no
UPDATE, and cannot disagree with the blocks that the same transaction inserted.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from gateway.journal.audit import GENESIS
from gateway.model.cursor import START, Cursor
from gateway.model.errors import IntegrityError
from gateway.model.state import Books
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.journal.interface import RouteRule
    from gateway.journal.records import Census

__all__ = [
    "Beyond",
    "DeclaredGap",
    "JournalState",
    "RouteLedger",
    "RoutingVersion",
    "Rule",
    "decode_state",
    "encode_state",
    "member",
    "members",
    "rules_at",
]

#: A route's rule: the sources that it reads, None = all.
Rule = frozenset[str] | None
#: seq -> (class code, laneseq) of what is settled beyond the cursor.
Beyond = dict[int, tuple[int, int]]

_BY_CODE: Final = {traffic.code: traffic for traffic in TrafficClass}


def member(rule: Rule, route: str, source: str, only: str) -> bool:
    """Whether a message of ``source`` made for route ``only`` (empty = any) is one of ``route``'s under ``rule``."""
    return only == route if only else rule is None or source in rule


def members(rule: Rule, route: str, census: Census) -> int:
    """How many of a block's messages are the route's."""
    return sum(count for (source, only), count in census.items() if member(rule, route, source, only))


@dataclass(frozen=True, slots=True)
class RoutingVersion:
    """The routing in force from this seq on. A message is the business of the routes of the version at its seq."""

    from_seq: int
    rules: Mapping[str, Rule]


def rules_at(versions: Sequence[RoutingVersion], seq: int) -> Mapping[str, Rule]:
    """The rules in force at ``seq``."""
    found: Mapping[str, Rule] = {}
    for version in versions:
        if version.from_seq > seq:
            break
        found = version.rules
    return found


@dataclass(frozen=True, slots=True)
class DeclaredGap:
    """An unreadable block ahead of a route's cursor that the route has declared as a gap already: not declared twice."""

    first_seq: int
    last_seq: int
    count: int


@dataclass(frozen=True, slots=True)
class RouteLedger:
    """What the journal knows of one route.

    ``number`` names it in rows for ever. ``requeued``: rows in state requeued. ``done``: rows that only keep a revision.
    ``beyond``: seq -> (class code, laneseq) of ``cursor.beyond``. ``gaps``: block id -> gap declared ahead of the cursor.
    """

    name: str
    number: int
    configured: bool = True
    books: Books = field(default_factory=Books)
    requeued: int = 0
    done: int = 0
    cursor: Cursor = START
    beyond: Beyond = field(default_factory=dict)
    gaps: Mapping[int, DeclaredGap] = field(default_factory=dict)

    @property
    def ahead(self) -> int:
        """Messages that the cursor has still to pass."""
        return self.books.queued - self.requeued

    @property
    def pins(self) -> bool:
        """Whether its cursor holds blocks back."""
        return self.configured or self.ahead > 0

    @property
    def listed(self) -> bool:
        """Whether it is shown and kept: configured, or with something undecided."""
        return self.configured or self.books.queued > 0 or self.books.held > 0 or self.books.dead_letter > 0


@dataclass(slots=True)
class JournalState:
    """State after commit ``commit``; ``chain`` is its link. A transaction works on a ``draft``.

    ``anchor``: the first commit row that is kept and the link before it. ``blocks``: block rows. ``route_number``: the
    next free one.
    """

    commit: int = 0
    chain: bytes = GENESIS
    next_seq: int = 1
    accepted: dict[str, int] = field(default_factory=dict)
    routes: dict[str, RouteLedger] = field(default_factory=dict)
    versions: tuple[RoutingVersion, ...] = ()
    anchor: tuple[int, bytes] = (1, GENESIS)
    blocks: int = 0
    refused_bytes: int = 0
    route_number: int = 1

    def draft(self) -> JournalState:
        """A copy that can be changed without touching this one (its values are immutable)."""
        return replace(self, accepted=dict(self.accepted), routes=dict(self.routes))

    def rules(self) -> Mapping[str, Rule]:
        """The routing in force now."""
        return self.versions[-1].rules if self.versions else {}

    def retired_below(self) -> int:
        """Every block whose last seq is below this has been passed by every route that matters."""
        return min((ledger.cursor.seq for ledger in self.routes.values() if ledger.pins), default=self.next_seq - 1) + 1

    def configure(self, routing: Iterable[RouteRule]) -> bool:
        """Put a routing in force from the next seq on; True where it differs from the last one.

        A new route starts here. A route that is gone stays listed while it has something undecided.
        """
        rules = {rule.name: rule.sources for rule in routing}
        changed = not self.versions or dict(self.versions[-1].rules) != rules
        if changed:
            self.versions = (*self.versions, RoutingVersion(self.next_seq, rules))
        for name, ledger in list(self.routes.items()):
            kept = replace(ledger, configured=name in rules)
            if kept.listed:
                self.routes[name] = kept
            else:
                del self.routes[name]
        for name in rules:
            if name not in self.routes:
                self.routes[name] = RouteLedger(name, self.route_number, cursor=Cursor(self.commit, self.next_seq - 1))
                self.route_number += 1
        return changed

    def forget_versions(self, first_seq: int) -> None:
        """Drop routing versions that were over before ``first_seq``, the oldest seq that can still be read."""
        kept = [at for at, version in enumerate(self.versions) if version.from_seq <= first_seq]
        self.versions = self.versions[kept[-1] if kept else 0 :]


def encode_state(state: JournalState) -> dict[str, Any]:
    """JSON values for the commit row (``commit`` and ``chain`` are the row's own)."""
    return {
        "seq": state.next_seq,
        "accepted": state.accepted,
        "routes": {name: _encode_route(ledger) for name, ledger in state.routes.items()},
        "versions": [[v.from_seq, {n: None if r is None else sorted(r) for n, r in v.rules.items()}] for v in state.versions],
        "anchor": [state.anchor[0], state.anchor[1].hex()],
        "blocks": state.blocks,
        "refused": state.refused_bytes,
        "number": state.route_number,
    }


def decode_state(values: Mapping[str, Any], commit: int, chain: bytes) -> JournalState:
    """The state of a commit row.

    Raises:
        IntegrityError: ``state-format``.
    """
    try:
        return JournalState(
            commit,
            chain,
            int(values["seq"]),
            {str(source): int(count) for source, count in values["accepted"].items()},
            {name: _decode_route(name, route) for name, route in values["routes"].items()},
            tuple(
                RoutingVersion(at, {n: None if r is None else frozenset(r) for n, r in rules.items()}) for at, rules in values["versions"]
            ),
            (int(values["anchor"][0]), bytes.fromhex(values["anchor"][1])),
            int(values["blocks"]),
            int(values["refused"]),
            int(values["number"]),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise IntegrityError("state-format", "the state in a commit row cannot be read") from None


def _encode_route(ledger: RouteLedger) -> dict[str, Any]:
    books, cursor = ledger.books, ledger.cursor
    value: dict[str, Any] = {
        "no": ledger.number,
        "books": [books.accepted, books.delivered, books.held, books.dead_letter, books.filtered, books.gaps],
        "at": [cursor.commit, cursor.seq, _encode_lanes(cursor.laneseq), _encode_lanes(cursor.partial)],
    }
    if not ledger.configured:
        value["off"] = True
    if ledger.requeued or ledger.done:
        value["rows"] = [ledger.requeued, ledger.done]
    if ledger.beyond:
        value["beyond"] = _encode_beyond(ledger.beyond)
    if ledger.gaps:
        value["gaps"] = [[row, gap.first_seq, gap.last_seq, gap.count] for row, gap in ledger.gaps.items()]
    return value


def _decode_route(name: str, value: Mapping[str, Any]) -> RouteLedger:
    commit, seq, laneseq, partial = value["at"]
    beyond = _decode_beyond(value.get("beyond", ()))
    requeued, done = value.get("rows", (0, 0))
    return RouteLedger(
        name,
        int(value["no"]),
        not value.get("off", False),
        Books(*value["books"]),
        requeued,
        done,
        Cursor(commit, seq, _decode_lanes(laneseq), _decode_lanes(partial), tuple(beyond)),
        beyond,
        {row: DeclaredGap(first, last, count) for row, first, last, count in value.get("gaps", ())},
    )


def _encode_lanes(lanes: Mapping[TrafficClass, int]) -> dict[str, int]:
    return {str(traffic.code): count for traffic, count in lanes.items() if count}


def _decode_lanes(lanes: Mapping[str, int]) -> dict[TrafficClass, int]:
    return {_BY_CODE[int(code)]: count for code, count in lanes.items()}


def _encode_beyond(beyond: Beyond) -> list[int]:
    """Runs of (class, seq step, length, first laneseq): thousands of settled seqs behind one slow source stay a few bytes."""
    flat: list[int] = []
    run: tuple[int, int, int, int] | None = None  # class, first seq, first laneseq, length
    at = 0
    for seq in sorted(beyond):
        code, lane = beyond[seq]
        if run and (code, seq, lane) == (run[0], run[1] + run[3], run[2] + run[3]):
            run = (*run[:3], run[3] + 1)
            continue
        if run:
            flat += (run[0], run[1] - at, run[3], run[2])
            at = run[1]
        run = (code, seq, lane, 1)
    return [*flat, run[0], run[1] - at, run[3], run[2]] if run else flat


def _decode_beyond(flat: Sequence[int]) -> Beyond:
    found: Beyond = {}
    at = 0
    for code, step, length, lane in zip(*[iter(flat)] * 4, strict=True):
        at += step
        found.update({at + offset: (code, lane + offset) for offset in range(length)})
    return found
