"""From the bytes of a batch to what the store judges: each event checked by itself, so that one bad event stops no other."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from gateway.codec.cloudevents import ReceivedEvent, decode_event, payload, read_batch
from gateway.model.errors import RemoteProtocolError
from gateway.model.event import EventId
from gateway.model.traffic import TrafficClass
from gateway.receiver.store import Declaration, Offer
from gateway.receiver.verify import RequestRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BATCH_MAX_EVENTS", "GAP_KIND", "Judge", "offers"]

#: A receiver's own rule: why this event shall not be applied, or "".
Judge: TypeAlias = "Callable[[ReceivedEvent], str]"

#: Twenty times what a gateway sends by default; an answer has to name each event.
BATCH_MAX_EVENTS: Final = 10_000
GAP_KIND: Final = "gateway.gap"

_INTEGER_MAX: Final = 2**63 - 1  # SQLite's and most databases' integers end there
_LANE: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,62}}/({'|'.join(member.label for member in TrafficClass)})")
_REASON: Final = re.compile(r"[a-z0-9-]{1,64}")


def offers(content: bytes, judge: Judge | None = None) -> list[Offer]:
    """The events of a batch, in order. One that breaks the contract but has a readable id comes as an offer to reject.

    Raises: RequestRefusedError where the batch as a whole cannot be judged.
    """
    try:
        members = read_batch(content)
    except RemoteProtocolError as fault:
        raise RequestRefusedError(fault.code) from None
    if len(members) > BATCH_MAX_EVENTS:
        raise RequestRefusedError("batch-too-long")
    batch = [_offer(member, judge) for member in members]
    if len({(offer.id.gateway, offer.id.incarnation) for offer in batch}) > 1:
        raise RequestRefusedError("batch-mixed")
    if len({(offer.id.seq, offer.id.part) for offer in batch}) < len(batch):
        raise RequestRefusedError("batch-repeats")
    return batch


def _offer(member: Any, judge: Judge | None) -> Offer:
    try:
        event = decode_event(member)
        body = payload(event)
        _check_names(event)
        declaration = _declaration(event.data) if event.kind == GAP_KIND else None
    except RemoteProtocolError as fault:
        return _unusable(member, fault)
    return Offer(
        event.event_id,
        event.revision,
        event.lane,
        event.laneseq,
        hashlib.sha256(body).digest(),
        event.kind,
        event.source,
        body,
        declaration,
        judge(event) if judge else "",
    )


def _unusable(member: Any, fault: RemoteProtocolError) -> Offer:
    """A verdict has to name the event; without a name the whole batch is refused and the sender bisects."""
    text = member.get("id") if isinstance(member, dict) else None
    event_id = EventId.parse(text) if isinstance(text, str) else None
    if event_id is None or event_id.seq > _INTEGER_MAX:
        raise RequestRefusedError("event-unnamed") from None
    return Offer(event_id, 0, "", 0, b"", rejection=f"{fault.code}: {fault.hint}")


def _check_names(event: ReceivedEvent) -> None:
    """What the codec leaves open: numbers that a database can hold, and lanes that are names."""
    if max(event.event_id.seq, event.revision, event.laneseq) > _INTEGER_MAX:
        raise RemoteProtocolError("event-attribute", "a counter is larger than 2^63 - 1")
    if event.laneseq < 1:
        raise RemoteProtocolError("event-attribute", "laneseq counts from 1")
    if not _LANE.fullmatch(event.lane):
        raise RemoteProtocolError("event-attribute", "lane is not the name of a route and of a traffic class")


def _declaration(data: Any) -> Declaration:
    """``{"lane": …, "from": n, "to": n, "reason": …}``: these numbers will not come."""
    if isinstance(data, dict):
        lane, first, last, reason = (data.get(name) for name in ("lane", "from", "to", "reason"))
        named = isinstance(lane, str) and _LANE.fullmatch(lane) and isinstance(reason, str) and _REASON.fullmatch(reason)
        if named and type(first) is int and type(last) is int and 1 <= first <= last <= _INTEGER_MAX:
            return Declaration(str(lane), first, last, str(reason))
    raise RemoteProtocolError("event-data", "a gap names lane, from, to and reason")
