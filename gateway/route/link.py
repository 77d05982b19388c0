"""What the route knows of its destination: state, cause, when the next request may go, and how much it may hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from gateway.model.receipt import Answered, BatchRejected, BatchTooLarge, Blocked, Failed, Later, RouteState
from gateway.route.answers import ANSWERS, OFFLINE_AFTER, Answer, Pace, answer_of

if TYPE_CHECKING:
    from gateway.model.receipt import Outcome
    from gateway.route.backoff import Backoff

__all__ = ["Circuit", "Link"]


class Circuit(StrEnum):
    """The usual three states of a circuit breaker, as they follow from the link."""

    CLOSED = "closed"  #: full batches
    OPEN = "open"  #: nothing is sent until the next attempt is due
    HALF_OPEN = "half-open"  #: one lone message may go, or is under way, to find out


@dataclass(slots=True)
class Link:
    """Changed by ``learn`` only, one row of ``ANSWERS`` per outcome. ``ready_s``: monotonic, no request before it.

    ``code``: cause of the state, "" while online; a word of a closed vocabulary of ours. ``failures``: requests in a row
    without a receipt, the exponent of the backoff; the first receipt resets it.
    """

    backoff: Backoff
    state: RouteState = RouteState.ONLINE
    code: str = ""
    ready_s: float = 0.0
    lone: bool = False
    failures: int = 0

    def learn(self, outcome: Outcome, messages: int, now_s: float) -> Answer:
        """Apply the row of that outcome; the caller does to the batch what the row's effect says."""
        answer = answer_of(outcome, messages)
        row = ANSWERS[answer]
        self.code = _code(outcome, answer)
        if row.state is not None:
            self.state = row.state
        elif isinstance(outcome, Blocked):
            self.state = outcome.state
        self.lone = self.lone or row.lone
        self._count(answer)
        self.ready_s = now_s + self._pause_s(row.pace, outcome)
        return answer

    def pause(self, code: str, until_s: float) -> None:
        """Nothing before that time: the destination answers, but rejects."""
        self.code, self.ready_s = code, until_s

    def circuit(self, now_s: float) -> Circuit:
        """The state of the circuit breaker."""
        if not self.lone:
            return Circuit.CLOSED
        return Circuit.OPEN if now_s < self.ready_s else Circuit.HALF_OPEN

    def _count(self, answer: Answer) -> None:
        match answer:
            case Answer.RECEIPT | Answer.NOTHING_TAKEN:
                self.failures, self.lone = 0, False
            case Answer.FAILED | Answer.NO_RECEIPT:
                self.failures += 1
                if answer is Answer.FAILED and (self.failures >= OFFLINE_AFTER or self.lone):
                    self.state, self.lone = RouteState.OFFLINE, True
            case Answer.REJECTED | Answer.TOO_LARGE | Answer.ALONE | Answer.BLOCKED | Answer.LATER:
                pass  # it answers, so it is no failure of the link; and it took nothing, so it resets nothing
            case _:
                assert_never(answer)

    def _pause_s(self, pace: Pace, outcome: Outcome) -> float:
        match pace:
            case Pace.AT_ONCE | Pace.BY_SOURCE:
                return 0.0
            case Pace.JITTER:
                return self.backoff.jitter_s(self.failures)
            case Pace.PROBE:
                return outcome.probe_s if isinstance(outcome, Blocked) else 0.0
            case Pace.TOLD:
                return self.backoff.told_s(outcome.after_s) if isinstance(outcome, Later) else 0.0
        assert_never(pace)


def _code(outcome: Outcome, answer: Answer) -> str:
    match outcome:
        case Answered():
            return "" if answer is Answer.RECEIPT else "retry-asked"
        case BatchRejected(code) | BatchTooLarge(code) | Blocked(_, code) | Later(_, code) | Failed(code):
            return code
    assert_never(outcome)
