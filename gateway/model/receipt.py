"""What a destination told us, as values: a sink returns one ``Outcome`` per batch, the route decides.

The table of answers and what each does is DESIGN 6.3; ``gateway/route/README.md`` shows it as a table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = [
    "Answered",
    "BatchRejected",
    "BatchTooLarge",
    "Blocked",
    "Failed",
    "Later",
    "Outcome",
    "RouteState",
    "Verdict",
    "VerdictKind",
]


class RouteState(StrEnum):
    """The state of a route as ``status`` shows it (DESIGN 6.1)."""

    ONLINE = "online"  #: the last request was answered well, or nothing had to be sent yet
    RETRYING = "retrying"  #: the last request failed; trying again with full jitter
    OFFLINE = "offline"  #: three requests in a row failed: circuit open, small probes only
    AUTH_BLOCKED = "auth_blocked"  #: 401, 403: credentials; probed every 3 s
    MISCONFIGURED = "misconfigured"  #: 404, 405, 3xx and the like: the address or the method; probed every 3 s
    RATE_LIMITED = "rate_limited"  #: 429, 503 with a time: waiting as told
    BAD_RECEIPT = "bad_receipt"  #: a 2xx that is not a receipt (portal, proxy): nothing settled
    REJECTING = "rejecting"  #: three lone rejections and not one acceptance: everything kept, probing
    STOPPED = "stopped"  #: ended by configuration, by ``on_reject = "stop"``, or the daemon is not running


class VerdictKind(StrEnum):
    """The receiver's word on one event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    RETRY = "retry"
    DOUBT = "doubt"  #: the answer does not name it


@dataclass(frozen=True, slots=True)
class Verdict:
    """One event's verdict; ``reason`` is text of the destination: sealed like a payload, never logged."""

    kind: VerdictKind
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """The destination answered event by event: ``verdicts[i]`` belongs to the i-th delivery of the batch.

    ``proof``: our own short text for the audit (status and idempotency key), no text of the peer.
    """

    verdicts: tuple[Verdict, ...]
    proof: str = ""


@dataclass(frozen=True, slots=True)
class BatchRejected:
    """The batch as a whole is not acceptable (400, 422): bisect. ``reason`` as in ``Verdict``."""

    code: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BatchTooLarge:
    """413: halve; a lone message that is too large is rejected."""

    code: str = "too-large"


@dataclass(frozen=True, slots=True)
class Blocked:
    """The destination cannot be used as configured: keep everything, probe every ``probe_s`` seconds."""

    state: RouteState
    code: str
    probe_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Later:
    """The destination asked for a pause: the next request follows ``after_s`` by 0 to 10 %, never earlier."""

    after_s: float
    code: str


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer: retry with full jitter. ``in_doubt``: bytes left, so the events may have been applied."""

    code: str
    in_doubt: bool = field(default=False)


Outcome = Answered | BatchRejected | BatchTooLarge | Blocked | Later | Failed
