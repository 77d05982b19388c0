"""How far a route has come, and what it hands to the journal to be made durable in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.model.message import Delivery
    from gateway.model.traffic import TrafficClass

__all__ = ["START", "Cursor", "DeadLetter", "ReadResult", "Settlement"]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in the journal, as one route sees it.

    Everything of the route with ``seq <= seq`` is settled (or, for a reading position, has been read). ``commit`` is the
    commit that holds ``seq``. ``laneseq[c]`` counts the route's messages of class c up to ``seq``; ``partial[c]`` those of
    them that lie in ``commit`` itself. ``beyond``: seqs above ``seq`` that are settled too (other sources went on).
    """

    commit: int = 0
    seq: int = 0
    laneseq: Mapping[TrafficClass, int] = field(default_factory=dict)
    partial: Mapping[TrafficClass, int] = field(default_factory=dict)
    beyond: tuple[int, ...] = ()


START = Cursor()


@dataclass(frozen=True, slots=True)
class ReadResult:
    """Deliveries in seq order and the reading position after them (always at the end of a commit).

    An empty ``deliveries`` with ``after`` unchanged: nothing new. Empty with ``after`` moved: commits without a message of
    this route (or settled ones, or a quarantined block) were passed.
    """

    deliveries: tuple[Delivery, ...]
    after: Cursor


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that its destination will not take. ``code`` is ours, ``reason`` the destination's text (sealed)."""

    delivery: Delivery
    code: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one answer settled. Cursor, exceptions, counters and audit move together or not at all.

    ``cursor`` is the route's new settled position, computed by the route from its window. ``requeued`` deliveries in
    ``delivered``/``filtered``/``dead`` do not move the cursor; their exception rows are closed instead.
    ``proof``: our own short text for the audit (HTTP status, idempotency key, MSA code).
    """

    route: str
    cursor: Cursor
    delivered: tuple[Delivery, ...] = ()
    filtered: tuple[Delivery, ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    duplicates: int = 0
    proof: str = ""
