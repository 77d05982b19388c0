"""What leaves for the cloud: one CloudEvents 1.0 JSON object per message, and batches of them, both ways.

``payload(decode_batch(batch_json([event_json(d, …)]))[0])`` is the body of ``d``, byte for byte, whatever the bytes are.

Source: CloudEvents 1.0.2, JSON event format 1.0.2 (sections 3.1 and 4); DESIGN 6.3 for the extension attributes.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from gateway.codec.charset import UTF_8, decode_exactly, python_codec
from gateway.model.clock import ClockState, rfc3339
from gateway.model.errors import RemoteProtocolError
from gateway.model.event import EventId, lane_name, source_urn
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from gateway.model.message import Delivery, StoredMessage

__all__ = [
    "BATCH_CONTENT_TYPE",
    "HL7_CONTENT_TYPE",
    "JSON_CONTENT_TYPE",
    "ReceivedEvent",
    "batch_json",
    "decode_batch",
    "decode_event",
    "event_json",
    "payload",
    "read_batch",
]

BATCH_CONTENT_TYPE = "application/cloudevents-batch+json"
HL7_CONTENT_TYPE = "application/hl7-v2+er7"
JSON_CONTENT_TYPE = "application/json"
_BYTES_CONTENT_TYPE = "application/octet-stream"
_FHIR_CONTENT_TYPE = "application/fhir+json"
_MICROSECONDS = 1_000_000

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_SEQUENCE = re.compile(r"[0-9]{20}")
_COUNTER = re.compile(r"[0-9]{1,19}")
_LANE = re.compile(r"([^/]{1,63})/([a-z]{1,16})")
_TYPE = re.compile(r"[A-Za-z0-9]+(\.[A-Za-z0-9]+)*")


def event_json(delivery: Delivery, gateway: str, route: str) -> bytes:
    """The event of one delivery as a JSON object. The same delivery always gives the same bytes."""
    message = delivery.message
    seq = message.seq
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{gateway}/{message.incarnation}/{seq}",
        "source": source_urn(gateway, message.source),
        "type": message.kind,
        "time": _time(message.received_us),
        "clockstate": message.clock_state,
        "sequence": f"{seq:020d}",
        "lane": lane_name(route, message.traffic.label),
        "laneseq": str(delivery.laneseq),
        "revision": delivery.revision,
        "partitionkey": message.ordering_key,
    }
    _add_data(event, message)
    return orjson.dumps(event)


def batch_json(events: list[bytes]) -> bytes:
    """A batch of finished events."""
    return b"[%b]" % b",".join(events)


def _time(received_us: int) -> str:
    second, microseconds = divmod(received_us, _MICROSECONDS)
    return f"{_second(second)}{microseconds:06d}Z"


@lru_cache(maxsize=256)
def _second(second: int) -> str:
    """Messages of one second are many; formatting a time costs as much as the rest of an event."""
    return rfc3339(second * _MICROSECONDS)[:-7]


def _add_data(event: dict[str, Any], message: StoredMessage) -> None:
    """``data`` where the bytes survive the declared character set, ``data_base64`` where they do not."""
    kind, body = message.kind, message.body
    if kind.startswith("hl7."):
        event["datacontenttype"] = HL7_CONTENT_TYPE
        if message.charset:  # unknown MSH-18: no name to give
            event["datacharset"] = message.charset
        text = decode_exactly(body, message.charset)
        if text is not None:
            event["data"] = text
            return
    elif kind in _JSON_KINDS or kind.startswith("gateway."):
        event["datacontenttype"] = _JSON_KINDS.get(kind, JSON_CONTENT_TYPE)
        event["datacharset"] = UTF_8
        try:
            event["data"] = orjson.loads(body)
        except orjson.JSONDecodeError:  # our own JSON, so this is a bug; the bytes still have to arrive
            pass
        else:
            return
    else:
        event["datacontenttype"] = _BYTES_CONTENT_TYPE
    event["data_base64"] = base64.b64encode(body).decode("ascii")


_JSON_KINDS = {"fhir.Bundle": _FHIR_CONTENT_TYPE, "device.observation": JSON_CONTENT_TYPE}


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One event as a receiver sees it, checked. ``data`` is text, a JSON value, or the bytes of ``data_base64``."""

    event_id: EventId
    source: str
    kind: str
    time: str
    clock_state: ClockState
    lane: str
    laneseq: int
    revision: int
    partition_key: str
    content_type: str
    charset: str
    data: Any


def read_batch(body: bytes) -> list[Any]:
    """The array of a batch, its members unchecked (see ``decode_event``).

    Raises:
        RemoteProtocolError: ``batch-not-json``, ``batch-not-array``.
    """
    try:
        batch = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RemoteProtocolError("batch-not-json", "the body is not JSON in UTF-8") from None
    if not isinstance(batch, list):
        raise RemoteProtocolError("batch-not-array", "the body is not a JSON array of events")
    return batch


def decode_batch(body: bytes) -> list[ReceivedEvent]:
    """All events of a batch, in order; the first that is not valid fails the batch.

    Raises:
        RemoteProtocolError: as ``read_batch`` and ``decode_event``.
    """
    return [decode_event(event) for event in read_batch(body)]


def decode_event(event: object) -> ReceivedEvent:
    """Check one member of a batch against the contract. Unknown attributes are ignored.

    Raises:
        RemoteProtocolError: ``event-not-object``, ``event-attribute`` (the hint names the attribute, never its value),
            ``event-data``.
    """
    if not isinstance(event, dict):
        raise RemoteProtocolError("event-not-object", "a member of the batch is not a JSON object")
    if _text(event, "specversion") != "1.0":
        raise _wrong("specversion")
    event_id = EventId.parse(_text(event, "id"))
    if event_id is None:
        raise _wrong("id")
    sequence = _matching(event, "sequence", _SEQUENCE)
    if int(sequence) != event_id.seq:
        raise _wrong("sequence")
    source = _text(event, "source")
    urn = source_urn(event_id.gateway, "")
    if not source.startswith(urn) or source == urn:
        raise _wrong("source")
    return ReceivedEvent(
        event_id=event_id,
        source=source,
        kind=_matching(event, "type", _TYPE),
        time=_matching(event, "time", _TIME),
        clock_state=_clock_state(event),
        lane=_lane(event),
        laneseq=_counter(event, "laneseq"),
        revision=_counter(event, "revision"),
        partition_key=_text(event, "partitionkey"),
        content_type=_text(event, "datacontenttype"),
        charset=_text(event, "datacharset") if "datacharset" in event else "",
        data=_data(event),
    )


def payload(event: ReceivedEvent) -> bytes:
    """The bytes of the message (for JSON data: its JSON text).

    Raises:
        RemoteProtocolError: ``event-data`` where the text cannot be written in the declared character set.
    """
    data = event.data
    if isinstance(data, bytes):
        return data
    if not isinstance(data, str) or event.content_type != HL7_CONTENT_TYPE:
        return orjson.dumps(data)
    codec = python_codec(event.charset or UTF_8)
    try:
        return data.encode(codec or "")
    except (UnicodeError, LookupError):
        raise RemoteProtocolError("event-data", "data cannot be written in datacharset") from None


def _wrong(attribute: str) -> RemoteProtocolError:
    return RemoteProtocolError("event-attribute", f"{attribute} is missing or not as the contract says")


def _text(event: dict[str, Any], attribute: str) -> str:
    value = event.get(attribute)
    if not isinstance(value, str) or not value:
        raise _wrong(attribute)
    return value


def _matching(event: dict[str, Any], attribute: str, pattern: re.Pattern[str]) -> str:
    value = _text(event, attribute)
    if not pattern.fullmatch(value):
        raise _wrong(attribute)
    return value


def _counter(event: dict[str, Any], attribute: str) -> int:
    """A decimal counter, as a JSON number or as digits (CloudEvents integers end at 2^31)."""
    value = event.get(attribute)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and _COUNTER.fullmatch(value):
        return int(value)
    raise _wrong(attribute)


def _clock_state(event: dict[str, Any]) -> ClockState:
    try:
        return ClockState(_text(event, "clockstate"))
    except ValueError:
        raise _wrong("clockstate") from None


def _lane(event: dict[str, Any]) -> str:
    value = _matching(event, "lane", _LANE)
    try:
        TrafficClass.from_label(value.rpartition("/")[2])
    except KeyError:
        raise _wrong("lane") from None
    return value


def _data(event: dict[str, Any]) -> Any:
    """Exactly one of ``data`` and ``data_base64``."""
    if ("data" in event) == ("data_base64" in event):
        raise _wrong("data")
    if "data" in event:
        return event["data"]
    encoded = event["data_base64"]
    if not isinstance(encoded, str):
        raise _wrong("data_base64")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RemoteProtocolError("event-data", "data_base64 is not base64") from None
