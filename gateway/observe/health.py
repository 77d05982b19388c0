"""Liveness, readiness and the watchdog as pure functions of facts.

Three questions, three answers: *does the process live* (``healthz``, always 200 while it answers), *is it of use to
senders* (``readyz``), *must systemd start it again* (``watchdog``: only where a restart could help; a full disk or a
missing key does not go away by starting again, and meanwhile senders get honest answers).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

import orjson

from gateway.model.state import GatewayState

__all__ = [
    "HEARTBEAT_MAX_AGE_S",
    "PROBE_EVERY_S",
    "PROOF_MAX_AGE_S",
    "HealthAnswer",
    "Vitals",
    "WatchdogVerdict",
    "healthz",
    "probe_due",
    "readyz",
    "watchdog",
]

#: On an idle box a test record makes the round trip seal, commit, read, open this often.
PROBE_EVERY_S: Final = 30.0
#: A commit or probe older than this while the journal should answer: the writer stands still. One probe interval and
#: the time a commit may take on a worn card (10 s seen) above the interval.
PROOF_MAX_AGE_S: Final = 45.0
#: The loop beats once a second; this late means that something blocks it.
HEARTBEAT_MAX_AGE_S: Final = 10.0


class WatchdogVerdict(StrEnum):
    """``FEED``, or what stands still."""

    FEED = "feed"
    LOOP_STANDS = "loop-stands"
    WRITER_STANDS = "writer-stands"


@dataclass(frozen=True, slots=True)
class Vitals:
    """Times on the monotonic clock, in seconds. ``proof_s``: last commit or probe that went through and was read back."""

    state: GatewayState
    now_s: float
    heartbeat_s: float
    proof_s: float


@dataclass(frozen=True, slots=True)
class HealthAnswer:
    """An HTTP answer: status and JSON body."""

    status: int
    body: bytes


def healthz(state: GatewayState) -> HealthAnswer:
    """200 while the process lives; the body says how it is."""
    return HealthAnswer(200, orjson.dumps({"state": state.value}))


def readyz(state: GatewayState) -> HealthAnswer:
    """200 only where messages are taken: a sender behind a load balancer goes elsewhere otherwise."""
    return HealthAnswer(200 if state is GatewayState.RUNNING else 503, orjson.dumps({"state": state.value}))


def probe_due(vitals: Vitals) -> bool:
    """Whether an idle journal owes a test record."""
    return vitals.state is GatewayState.RUNNING and vitals.now_s - vitals.proof_s >= PROBE_EVERY_S


def watchdog(vitals: Vitals) -> WatchdogVerdict:
    """Feed while the loop beats and either the journal proves itself or the state is a declared one.

    LOCKED, FULL and READ_ONLY are declared: nothing can be stored, senders are answered, a restart would not help.
    STARTING and STOPPING are bounded by systemd's own start and stop timeouts.
    """
    if vitals.now_s - vitals.heartbeat_s > HEARTBEAT_MAX_AGE_S:
        return WatchdogVerdict.LOOP_STANDS
    match vitals.state:
        case GatewayState.RUNNING:
            stale = vitals.now_s - vitals.proof_s > PROOF_MAX_AGE_S
            return WatchdogVerdict.WRITER_STANDS if stale else WatchdogVerdict.FEED
        case GatewayState.LOCKED | GatewayState.FULL | GatewayState.READ_ONLY:
            return WatchdogVerdict.FEED
        case GatewayState.STARTING | GatewayState.STOPPING | GatewayState.STOPPED:
            return WatchdogVerdict.FEED
        case _:
            assert_never(vitals.state)
