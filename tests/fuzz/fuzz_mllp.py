"""For any bytes in any chunks: the events are those of the whole, memory stays bounded, each frame scans or has a reason, nothing raises.

``check`` is the invariant: hypothesis drives it in ``test_fuzz.py``, atheris in ``python -m tests.fuzz``.
"""

from __future__ import annotations

from gateway.codec.acknowledgement import AckBuilder, AckMode, AckOutcome, parse_reply
from gateway.codec.batch import split
from gateway.codec.message_header import Header, HeaderFault, charset_of, classify, is_acknowledgement, patient_key, scan
from gateway.codec.mllp import Frame, FrameEvent, Malformed, MllpReceiver, frame

MAX_BYTES, DISCARD_BYTES, KEEP_BYTES, LOOKAHEAD_BYTES = 64, 256, 16, 6
TIME = b"20261122120000.000+0000"


def receiver() -> MllpReceiver:
    return MllpReceiver(MAX_BYTES, DISCARD_BYTES, KEEP_BYTES)


def chunked(wire: bytes, size: int) -> list[FrameEvent]:
    stream = receiver()
    events: list[FrameEvent] = []
    for at in range(0, len(wire), size):
        events += stream.receive(wire[at : at + size])
        assert stream.buffered_bytes <= MAX_BYTES + KEEP_BYTES + LOOKAHEAD_BYTES + size
    return events + stream.end()


def check_message(body: bytes) -> None:
    """One message: a header or a reason; an answer that can be read and names the control id byte for byte."""
    found = scan(body)
    header: Header = found.header if isinstance(found, HeaderFault) else found
    patient_key(body, header)
    charset_of(header)
    classify(header)
    is_acknowledgement(body, header)
    reason = found.reason if isinstance(found, HeaderFault) else None
    outcome = AckOutcome.STORED if reason is None else AckOutcome.REFUSED
    for answer in AckBuilder(AckMode.ORIGINAL, "f").replies(header, outcome, TIME, reason=reason):
        reply = parse_reply(answer)
        assert reply is not None
        assert reply.control_id == header.control_id


def check_body(body: bytes) -> None:
    batch = split(body, max_messages=8)
    if batch.refusal is None:
        assert len(batch.envelope) + sum(map(len, batch.children)) == len(body)
    for child in batch.children:
        check_message(child)
    check_message(body)
    parse_reply(body)


def check(data: bytes) -> None:
    """The first byte is the size of the chunks, the rest is the stream."""
    size, wire = max(1, data[0] if data else 1), data[1:]
    events = chunked(wire, max(1, len(wire)))
    assert chunked(wire, size) == events
    assert chunked(wire, 1) == events
    for event in events:
        if isinstance(event, Malformed):
            assert len(event.kept) <= min(KEEP_BYTES, event.size_bytes)
        else:
            assert 0 < len(event.body) <= MAX_BYTES
            check_body(event.body)
    check_body(wire)
    plain = [event.body for event in events if isinstance(event, Frame) and not {0x0B, 0x1C} & set(event.body)]
    again = chunked(b"".join(map(frame, plain)), size)
    assert [event.body for event in again if isinstance(event, Frame)] == plain
