"""Events as a gateway makes them, requests as its sink sends them, and a clock that stands still."""

from __future__ import annotations

import base64
import gzip
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import zstandard

from gateway.codec.cloudevents import batch_json, event_json
from gateway.model.clock import ClockState
from gateway.model.message import Delivery, StoredMessage
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

GATEWAY = "ward-3"
FIRST, SECOND = "0" * 31 + "1", "0" * 31 + "2"
AT_US = 1_795_564_800_000_000
CODERS: dict[str, Callable[[bytes], bytes]] = {"": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress}


@dataclass(frozen=True)
class StillClock:
    """Always the same moment."""

    at_us: int = AT_US

    def wall_us(self) -> int:
        return self.at_us

    def monotonic_s(self) -> float:
        return 0.0

    def state(self) -> ClockState:
        return ClockState.SYNCED


def body_of(seq: int) -> bytes:
    """A message that differs for each seq."""
    return (
        f"MSH|^~\\&|MON|ICU|GW|HOSP|20261122120000||ORU^R01^ORU_R01|C{seq}|P|2.5.1\r"
        f"PID|1||{100_000 + seq % 90_000}^^^H^MR||DOE^JANE\rOBX|1|NM|8867-4^HR^LN||{seq % 200}|/min|||||F\r"
    ).encode()


def message(seq: int, *, incarnation: str = FIRST, body: bytes | None = None, **changed: Any) -> StoredMessage:
    plain: dict[str, Any] = {
        "commit": seq,
        "source": "adt",
        "traffic": TrafficClass.RESULT,
        "kind": "hl7.v2.ORU.R01",
        "charset": "utf-8",
        "received_us": AT_US + seq,
        "clock_state": ClockState.SYNCED,
        "ordering_key": "0011223344556677",
        "envelope": b"",
        "route": "",
    }
    return StoredMessage(incarnation=incarnation, seq=seq, body=body_of(seq) if body is None else body, **(plain | changed))


def event(
    seq: int, laneseq: int | None = None, *, revision: int = 0, route: str = "everything", gateway: str = GATEWAY, **changed: Any
) -> bytes:
    """The event of ``message(seq, …)`` in the lane of its class."""
    return event_json(Delivery(message(seq, **changed), seq if laneseq is None else laneseq, revision), gateway, route)


def gap(seq: int, laneseq: int, first: int, last: int, *, lane: str = "everything/result", reason: str = "quarantine") -> bytes:
    """The declaration that ``first`` to ``last`` of ``lane`` will not come; it travels in a lane of its own class."""
    body = orjson.dumps({"lane": lane, "from": first, "to": last, "count": last - first + 1, "reason": reason})
    return event(seq, laneseq, body=body, source="gateway", kind="gateway.gap", traffic=TrafficClass.AUDIT)


def changed(original: bytes, **attributes: Any) -> bytes:
    """The same event with other attributes; None removes one."""
    content = orjson.loads(original) | attributes
    return orjson.dumps({name: value for name, value in content.items() if value is not None})


def batch(*events: bytes) -> bytes:
    return batch_json(list(events))


def events(seqs: Iterable[int], **more: Any) -> bytes:
    return batch(*(event(seq, **more) for seq in seqs))


def digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def headers(body: bytes, coding: str = "", **more: str) -> dict[str, str]:
    """What the sink sends with ``body`` (encoded already)."""
    sent = {"content-type": "application/cloudevents-batch+json", "content-digest": digest(body), "idempotency-key": '"k1"'}
    return sent | ({"content-encoding": coding} if coding else {}) | more
