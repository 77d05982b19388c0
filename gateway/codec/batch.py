"""One frame, several messages: FHS/BHS batches, and frames that hold more than one MSH.

A child is the bytes from its MSH up to the next MSH, FHS, BHS, BTS, FTS or the end of the frame; everything else is the
envelope. ``b"".join`` of both in wire order is the frame: no byte is lost. Each child is judged by its own header.

Source: HL7 v2.5.1 chapter 2, batch protocol (2.10.3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Flag
from itertools import islice

from gateway.codec.message_header import first_segment
from gateway.codec.refusal import RefuseReason
from gateway.model.limits import BATCH_MAX_MESSAGES

__all__ = ["Batch", "BatchFlag", "split"]

_MARK = re.compile(rb"[\r\n](MSH|FHS|BHS|BTS|FTS)(?![A-Za-z0-9])")
_DECLARED = re.compile(rb"[^\w\r\n] *([0-9]{1,9})(?![0-9])")
_STRAY = re.compile(rb"[\r\n](?!(?:FHS|BHS|BTS|FTS)(?![A-Za-z0-9])|[\r\n]|\Z)")
#: Each message could stand in a batch of its own (BHS, MSH, BTS, and files around); more marks are an attack on memory.
_MARKS_PER_MESSAGE = 4


class BatchFlag(Flag):
    """What was odd about a batch that was taken all the same."""

    PLAIN = 0
    COUNT_MISMATCH = 1  #: BTS-1 or FTS-1 names another number than there is
    NO_BATCH_HEADER = 2  #: several MSH without FHS or BHS


_PLAIN = BatchFlag.PLAIN


# Not frozen: made once per frame on the hot path.
@dataclass(slots=True)
class Batch:
    """The messages of one frame. No child and no ``refusal``: an empty batch, legal, to be answered and not to be stored."""

    children: tuple[bytes, ...]
    envelope: bytes = b""
    flags: BatchFlag = _PLAIN
    refusal: RefuseReason | None = None


def split(body: bytes, max_messages: int = BATCH_MAX_MESSAGES) -> Batch:
    """The messages in one frame body. A frame of one message is its own only child, without a copy. Linear, never raises."""
    if body.rfind(b"MSH") == 0:  # twice as fast as looking forward
        return Batch((body,))
    start = first_segment(body)
    if not _may_hold_several(body, start):
        return Batch((body,))
    found = islice(_MARK.finditer(body, start + 3), _MARKS_PER_MESSAGE * max_messages)
    marks = [(start, body[start : start + 3]), *((mark.start(1), mark[1]) for mark in found)]
    heads = sum(tag == b"MSH" for _, tag in marks)
    if heads > max_messages or len(marks) > _MARKS_PER_MESSAGE * max_messages:
        return Batch((), refusal=RefuseReason.TOO_MANY_MESSAGES)
    if marks[0][1] != b"MSH":
        return _batch(body, start, marks)
    if heads == 1:
        return Batch((body,))
    return Batch(*_cut(body, start, marks), BatchFlag.NO_BATCH_HEADER)


def _may_hold_several(body: bytes, start: int) -> bool:
    """A batch header, or another MSH behind a terminator (a scanned document holds the letters MSH by chance)."""
    if body.startswith(b"MSH", start):
        return body.find(b"\rMSH", start) >= 0 or body.find(b"\nMSH", start) >= 0
    return body.startswith((b"FHS", b"BHS"), start)  # anything else: its scan says what is wrong


def _batch(body: bytes, start: int, marks: list[tuple[int, bytes]]) -> Batch:
    children, envelope = _cut(body, start, marks)
    return Batch(children, envelope, _count_flag(body, marks), None if children else _stray(envelope))


def _cut(body: bytes, start: int, marks: list[tuple[int, bytes]]) -> tuple[tuple[bytes, ...], bytes]:
    children: list[bytes] = []
    envelope = [body[:start]]
    ends = [position for position, _ in marks[1:]] + [len(body)]
    for (position, tag), end in zip(marks, ends, strict=True):
        (children if tag == b"MSH" else envelope).append(body[position:end])
    return tuple(children), b"".join(envelope)


def _stray(envelope: bytes) -> RefuseReason | None:
    """A batch without a message may hold nothing but its own segments: an answer of yes must not lose others."""
    return RefuseReason.STRAY_SEGMENTS if _STRAY.search(envelope) else None


def _count_flag(body: bytes, marks: list[tuple[int, bytes]]) -> BatchFlag:
    """Compare BTS-1 with the messages of its batch and FTS-1 with the batches of the file."""
    messages = batches = 0
    for position, tag in marks:
        if tag == b"MSH":
            messages += 1
        elif tag == b"BHS":
            messages, batches = 0, batches + 1
        elif tag in (b"BTS", b"FTS"):
            declared = _declared_count(body, position)
            if declared is not None and declared != (messages if tag == b"BTS" else batches):
                return BatchFlag.COUNT_MISMATCH
    return _PLAIN


def _declared_count(body: bytes, position: int) -> int | None:
    """The digits of field 1 of the trailer at ``position``; None where it has none."""
    found = _DECLARED.match(body, position + 3)
    return int(found[1]) if found else None
