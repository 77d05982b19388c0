"""What each reply of an MLLP destination does: data and documentation at once (README.md shows this table).

Destinations differ in what they mean by E and R (HL7 v2.5 chapter 2, 2.9.2.2 says the opposite of most of them), so
every row can be overridden per destination (``on_reply``), within ``ALLOWED``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.codec.acknowledgement import Reply

__all__ = ["ALLOWED", "AMBIGUOUS", "DEFAULTS", "RETRY_ERRORS", "Action", "ReplyEvent", "softened"]


class ReplyEvent(StrEnum):
    """What can come back."""

    AA = "AA"
    CA = "CA"
    AE = "AE"
    CE = "CE"
    AR = "AR"
    CR = "CR"
    TIMEOUT = "timeout"  #: nothing in time
    CLOSED = "closed"  #: the peer closed before its reply
    MISMATCH = "mismatch"  #: MSA-2 is of no message that we know of
    EMPTY_ID = "empty-id"  #: MSA-2 is empty, MSH-10 was not
    GARBAGE = "garbage"  #: no MSA: a banner, HTML, broken framing
    COMMIT_ACK = "commit-ack"  #: MLLP release 2, 06
    COMMIT_NAK = "commit-nak"  #: MLLP release 2, 15


class Action(StrEnum):
    """What then."""

    DONE = "done"  #: delivered
    RETRY = "retry"  #: the same bytes again, after a pause
    SUSPEND = "suspend"  #: everything kept, one attempt every ``suspend_s``
    DEAD = "dead"  #: rejected: a dead letter once another message was taken
    WAIT = "wait"  #: for the application acknowledgement, on the same connection


DEFAULTS: Final[Mapping[ReplyEvent, Action]] = {
    ReplyEvent.AA: Action.DONE,
    ReplyEvent.CA: Action.DONE,
    ReplyEvent.AE: Action.RETRY,
    ReplyEvent.CE: Action.RETRY,
    ReplyEvent.AR: Action.DEAD,
    ReplyEvent.CR: Action.DEAD,
    ReplyEvent.TIMEOUT: Action.RETRY,
    ReplyEvent.CLOSED: Action.RETRY,
    ReplyEvent.MISMATCH: Action.RETRY,
    ReplyEvent.EMPTY_ID: Action.RETRY,
    ReplyEvent.GARBAGE: Action.RETRY,
    ReplyEvent.COMMIT_ACK: Action.DONE,
    ReplyEvent.COMMIT_NAK: Action.RETRY,
}

#: Nobody knows whether the message was taken; the connection is closed, because a late reply would be taken for another.
AMBIGUOUS: Final = frozenset((ReplyEvent.TIMEOUT, ReplyEvent.CLOSED, ReplyEvent.MISMATCH, ReplyEvent.EMPTY_ID, ReplyEvent.GARBAGE))

_ANSWERED: Final = frozenset((Action.DONE, Action.RETRY, Action.SUSPEND, Action.DEAD))
_UNANSWERED: Final = frozenset((Action.RETRY, Action.SUSPEND, Action.DEAD))

#: What ``on_reply`` may say: never "done" where nothing proves it.
ALLOWED: Final[Mapping[ReplyEvent, frozenset[Action]]] = {
    event: _UNANSWERED if event in AMBIGUOUS else _ANSWERED | {Action.WAIT} if event is ReplyEvent.CA else _ANSWERED for event in ReplyEvent
}

#: Table 0357: record locked, internal error. With one of these a rejection is a reason to try again.
RETRY_ERRORS: Final = ("206", "207")


def softened(action: Action, reply: Reply, retry_errors: frozenset[str], retry_texts: tuple[str, ...]) -> Action:
    """A rejection (``dead``) that says itself that it is for the moment is tried again."""
    if action is not Action.DEAD:
        return action
    text = reply.text.decode("latin-1").casefold()
    passing = not retry_errors.isdisjoint(reply.errors) or any(wanted.casefold() in text for wanted in retry_texts)
    return Action.RETRY if passing else action
