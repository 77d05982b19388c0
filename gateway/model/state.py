"""The state of the whole gateway and the books of a route: one accounting equation, always.

``accepted = delivered + queued + held + dead_letter + filtered + gaps`` (DESIGN 2.3). ``TRANSITIONS`` is the only place
that says which term may become which; the journal applies it, the README shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["TRANSITIONS", "Books", "GatewayState", "Term"]


class GatewayState(StrEnum):
    """``state`` of ``status`` and ``/healthz``."""

    STARTING = "starting"
    RUNNING = "running"
    LOCKED = "locked"
    FULL = "full"
    READ_ONLY = "read_only"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Term(StrEnum):
    """Where an accepted message is, per route: exactly one of these."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    HELD = "held"
    DEAD_LETTER = "dead_letter"
    FILTERED = "filtered"
    GAP = "gaps"


#: event -> (from, to). ``accept`` is the only one that adds to ``accepted``: it puts the message into ``queued``.
TRANSITIONS: dict[str, tuple[tuple[Term, ...], Term]] = {
    "deliver": ((Term.QUEUED,), Term.DELIVERED),
    "filter": ((Term.QUEUED,), Term.FILTERED),
    "hold": ((Term.QUEUED,), Term.HELD),
    "release": ((Term.HELD,), Term.QUEUED),
    "reject": ((Term.HELD,), Term.DEAD_LETTER),
    "dead-letter": ((Term.QUEUED,), Term.DEAD_LETTER),
    "replay": ((Term.DELIVERED, Term.DEAD_LETTER), Term.QUEUED),
    "discard": ((Term.DEAD_LETTER,), Term.GAP),
    "quarantine": ((Term.QUEUED,), Term.GAP),
}


@dataclass(frozen=True, slots=True)
class Books:
    """The counts of one route over the journal's life; ``queued`` follows from the rest."""

    accepted: int = 0
    delivered: int = 0
    held: int = 0
    dead_letter: int = 0
    filtered: int = 0
    gaps: int = 0

    @property
    def queued(self) -> int:
        """Accepted and in no other term yet: waiting, in flight, in doubt or deferred."""
        return self.accepted - self.delivered - self.held - self.dead_letter - self.filtered - self.gaps
