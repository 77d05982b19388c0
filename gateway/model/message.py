"""The message on its way in (``Entry``) and as the journal gives it back (``StoredMessage``)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.model.clock import ClockState
    from gateway.model.errors import GatewayError
    from gateway.model.traffic import TrafficClass

__all__ = ["GATEWAY_SOURCE", "AppendGroup", "Delivery", "Entry", "StoredMessage"]

#: The source name of events that the gateway makes itself; no configured source may have it.
GATEWAY_SOURCE = "gateway"


@dataclass(slots=True, eq=False)
class Entry:
    """One message that a source wants stored. The journal fills in the lower part.

    ``identity``: the parts of the duplicate key as raw bytes (MSH-3, MSH-4, MSH-10; the journal adds the source name),
    or None = never de-duplicated. ``restamp``: the span of MSH-7 inside ``body``, blanked for the content digest
    because senders restamp a resend. ``ordering``: raw material of the ordering key (patient identifier and assigner,
    device, or empty = the source); the journal blinds it. ``charset``: IANA name that the body declares.
    """

    source: str
    body: bytes
    traffic: TrafficClass
    kind: str
    received_us: int
    clock_state: ClockState
    identity: tuple[bytes, ...] | None = None
    restamp: tuple[int, int] = (0, 0)
    ordering: bytes = b""
    charset: str = "utf-8"
    envelope: bytes = b""
    route: str = ""
    # --- filled by the journal ---
    seq: int = 0
    duplicate: bool = False
    reused_control_id: bool = False
    error: GatewayError | None = None


@dataclass(slots=True, eq=False)
class AppendGroup:
    """Entries that commit together or not at all, in this order, with consecutive seq.

    ``done(group)`` is called once, in the event loop, after the fsynced commit or the failure; groups finish in the
    order in which they were appended. Look at ``entry.error`` and ``entry.duplicate`` of each entry then.
    """

    entries: list[Entry]
    done: Callable[[AppendGroup], None]
    size_bytes: int = field(default=0)


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One committed message. ``body`` is the wire bytes, untouched.

    ``incarnation``: 32 hex digits of the daemon start that admitted it; ``(incarnation, seq)`` is its identity for ever.
    ``ordering_key``: 16 hex digits, blinded. ``received_us``: wall clock at reception, microseconds UTC.
    ``commit``: number of the commit that holds it (reading position, not part of its identity).
    """

    incarnation: str
    seq: int
    commit: int
    source: str
    traffic: TrafficClass
    kind: str
    charset: str
    received_us: int
    clock_state: ClockState
    ordering_key: str
    body: bytes
    envelope: bytes
    route: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to one route's destination.

    ``laneseq``: its consecutive number in the lane ``<route>/<class>``, stable over resends; ``revision``: 0, one more for
    each deliberate replay. ``requeued``: read from the exceptions (a replay), not from the cursor.
    """

    message: StoredMessage
    laneseq: int
    revision: int = 0
    requeued: bool = False
