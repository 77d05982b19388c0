"""What each kind of answer does to the route: data and documentation at once (README.md shows this table).

The status codes, timeouts and replies that lead to each kind are tables beside the kind of sink (``sink/https.py``,
``sink/mllp.py``): this one is the same for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, assert_never

from gateway.model.receipt import Answered, BatchRejected, BatchTooLarge, Blocked, Failed, Later, RouteState, VerdictKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.model.receipt import Outcome

__all__ = ["ANSWERS", "OFFLINE_AFTER", "Answer", "Effect", "Pace", "Row", "answer_of"]

#: So many failures in a row open the circuit: from then on only a lone message is sent, until one is answered.
OFFLINE_AFTER: Final = 3


class Answer(StrEnum):
    """The kinds of answers that the route treats differently."""

    RECEIPT = "receipt"
    NOTHING_TAKEN = "receipt that takes nothing"
    REJECTED = "batch rejected"
    TOO_LARGE = "batch too large"
    ALONE = "lone message rejected or too large"
    BLOCKED = "blocked"
    NO_RECEIPT = "no receipt"
    LATER = "later"
    FAILED = "failed"


class Pace(StrEnum):
    """When the next request may follow."""

    AT_ONCE = "at once"
    JITTER = "full jitter"
    PROBE = "every 3 s"
    TOLD = "as told, 0 to 10 % later"
    BY_SOURCE = "full jitter per source"


class Effect(StrEnum):
    """What becomes of the messages of the batch."""

    SETTLE = "each as its verdict says"
    BISECT = "kept; the half is sent next"
    HALVE = "kept; smaller batches from now on"
    SUSPECT = "suspect; dead-lettered after the next acceptance; after three of them REJECTING"
    KEEP = "kept, sent again in the same order"


@dataclass(frozen=True, slots=True)
class Row:
    """``state`` None = the one that the outcome names. ``lone``: until the next receipt only one message is sent per request."""

    state: RouteState | None
    pace: Pace
    effect: Effect
    lone: bool = False


#: FAILED becomes OFFLINE and lone at the third in a row; BLOCKED takes its state from the outcome.
ANSWERS: Final[Mapping[Answer, Row]] = {
    Answer.RECEIPT: Row(RouteState.ONLINE, Pace.AT_ONCE, Effect.SETTLE),
    Answer.NOTHING_TAKEN: Row(RouteState.RETRYING, Pace.BY_SOURCE, Effect.SETTLE),
    Answer.REJECTED: Row(RouteState.RETRYING, Pace.AT_ONCE, Effect.BISECT),
    Answer.TOO_LARGE: Row(RouteState.RETRYING, Pace.AT_ONCE, Effect.HALVE),
    Answer.ALONE: Row(RouteState.RETRYING, Pace.AT_ONCE, Effect.SUSPECT),
    Answer.BLOCKED: Row(None, Pace.PROBE, Effect.KEEP, lone=True),
    Answer.NO_RECEIPT: Row(RouteState.BAD_RECEIPT, Pace.JITTER, Effect.KEEP, lone=True),
    Answer.LATER: Row(RouteState.RATE_LIMITED, Pace.TOLD, Effect.KEEP),
    Answer.FAILED: Row(RouteState.RETRYING, Pace.JITTER, Effect.KEEP),
}

_TAKEN: Final = frozenset((VerdictKind.ACCEPTED, VerdictKind.DUPLICATE, VerdictKind.REJECTED))


def answer_of(outcome: Outcome, messages: int) -> Answer:
    """The row that applies to this outcome of a batch of so many messages."""
    match outcome:
        case Answered(verdicts):
            return Answer.RECEIPT if any(verdict.kind in _TAKEN for verdict in verdicts) else Answer.NOTHING_TAKEN
        case BatchRejected():
            return Answer.REJECTED if messages > 1 else Answer.ALONE
        case BatchTooLarge():
            return Answer.TOO_LARGE if messages > 1 else Answer.ALONE
        case Blocked(state):
            return Answer.NO_RECEIPT if state is RouteState.BAD_RECEIPT else Answer.BLOCKED
        case Later():
            return Answer.LATER
        case Failed():
            return Answer.FAILED
    assert_never(outcome)
