"""Every codec, as the law tests see it. A new codec is one entry here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.codec.acknowledgement import parse_reply
from gateway.codec.batch import split
from gateway.codec.charset import iana_name
from gateway.codec.cloudevents import batch_json, decode_batch, event_json
from gateway.codec.message_header import scan
from gateway.codec.mllp import Frame, Malformed, MllpReceiver, frame
from gateway.codec.sealed_record import RecordContext, Suite, open_record, seal
from gateway.model.clock import ClockState
from gateway.model.errors import IntegrityError, RemoteProtocolError
from gateway.model.message import Delivery, StoredMessage
from gateway.model.traffic import TrafficClass
from tests.codec.messages import ADT, ORU

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["STREAM_CODECS", "VALUE_CODECS", "Stream", "StreamCodec", "ValueCodec"]


class Stream(Protocol):
    """What a codec of a byte stream has."""

    @property
    def buffered_bytes(self) -> int: ...

    def receive(self, data: bytes) -> Sequence[object]: ...

    def end(self) -> Sequence[object]: ...


@dataclass(frozen=True)
class StreamCodec:
    """``open`` gives a fresh receiver that never holds more than ``limit_bytes`` and one chunk; ``events`` are all it may report."""

    name: str
    open: Callable[[], Stream]
    limit_bytes: int
    events: tuple[type, ...]
    captures: tuple[bytes, ...]


@dataclass(frozen=True)
class ValueCodec:
    """``decode`` takes whole bytes. ``failures``: all it may raise. ``checksum``: corruption must not go unnoticed."""

    name: str
    decode: Callable[[bytes], object]
    failures: tuple[type[Exception], ...]
    captures: tuple[bytes, ...]
    checksum: bool = False


_DELIVERY = Delivery(
    StoredMessage("0" * 32, 1, 1, "adt", TrafficClass.ADT, "hl7.v2.ADT.A01", "utf-8", 0, ClockState.SYNCED, "0" * 16, ADT[:60], b"", ""), 1
)
_AEAD = AESGCM(bytes(32))
_CONTEXT = RecordContext(bytes(16), bytes(16), bytes(16), 0, 1, 1, 1)

STREAM_CODECS = (
    StreamCodec(
        name="mllp",
        open=lambda: MllpReceiver(max_message_bytes=300, discard_max_bytes=2000, keep_bytes=50),
        limit_bytes=300 + 50 + 6,
        events=(Frame, Malformed),
        captures=(
            frame(ADT) + frame(ORU),
            frame(ADT)[:-1] + frame(b"HELLO\r") + b"\n\n" + frame(b"") + b"unframed\r" + frame(ORU),
            frame(b"MSH|" + b"x" * 400) + b"\x0bMSH|cut" + frame(ORU),
        ),
    ),
)

VALUE_CODECS = (
    ValueCodec("message header", scan, (), (ADT, ORU, b"\xef\xbb\xbf" + ORU.replace(b"\r", b"\n"))),
    ValueCodec("batch", split, (), (ADT + ORU, b"BHS|^~\\&|HIS\r" + ADT + ORU + b"BTS|2\r")),
    ValueCodec("acknowledgement", parse_reply, (), (b"MSH|^~\\&|B|||A|1||ACK|9|P|2.5\rMSA|AE|M1\rERR||PID^1^5|101|E\r",)),
    ValueCodec("character set", iana_name, (), (b"UNICODE UTF-8", b"8859/15")),
    ValueCodec(
        "cloud events",
        decode_batch,
        (RemoteProtocolError,),
        (batch_json([event_json(_DELIVERY, "g", "r"), event_json(_DELIVERY, "g", "r")]),),
    ),
    ValueCodec(
        "sealed record",
        lambda record: open_record(lambda _suite, _epoch: _AEAD, 1, _CONTEXT, record),
        (IntegrityError,),
        (seal(_AEAD, Suite.AES_256_GCM, bytes(12), 1, 1, _CONTEXT, ADT[:40]),),
        checksum=True,
    ),
)
