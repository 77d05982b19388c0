"""What the ack path needs to know of a message, read from its bytes: about 1 µs, no decoding, no parser.

Nothing here changes or validates the message beyond its header. Field-splitting on bytes is exact for every character set
of MLLP but Shift_JIS, GB18030 and Big5, whose trail bytes may look like delimiters; the fields read here (MSH, PID-3) hold
codes and identifiers, so that is accepted: the stored bytes are never touched.

Source: HL7 v2.5.1 chapter 2 (MSH, FHS, BHS, delimiters), table 0211 (character sets).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.codec.charset import UTF_8, iana_name
from gateway.codec.refusal import RefuseReason
from gateway.model.event import v2_kind
from gateway.model.traffic import TrafficClass, class_of

__all__ = [
    "CACHED_MAX_BYTES",
    "UNKNOWN_HEADER",
    "Header",
    "HeaderFault",
    "charset_of",
    "classify",
    "first_segment",
    "is_acknowledgement",
    "patient_key",
    "scan",
    "split_type",
]

_BEFORE_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*")  # BOM, empty lines
_UP_TO_MSA = re.compile(rb"(?:[\r\n]++(?:SFT|UAC|NTE)[^\r\n]*+)*+[\r\n]++MSA(?![A-Za-z0-9])")
#: Nearly every message begins like this; its delimiters need no look.
_USUAL_START = b"MSH|^~\\&|"
_USUAL_ENCODING = b"^~\\&"
#: PID right behind the header or an EVN, its first identifier with an assigner: a third of the time of looking for it.
_USUAL_PATIENT = re.compile(
    rb"(?:[\r\n]++EVN[^\r\n]*+)?+[\r\n]++PID\|[^|\r\n]*+\|[^|\r\n]*+\|"
    rb"(?!\"\"\^)([^\^~|\r\n]++)\^[^\^~|\r\n]*+\^[^\^~|\r\n]*+\^([^\^~|\r\n]++)"
)
_NO_TYPE = (b"", b"^")
_DELIMITERS = b"!\"#$%&'()*,/:;<=>?@[\\]^_`{|}~\t"
#: The last field that is read is MSH-18; what follows stays in one piece, so a header of a million bars costs nothing.
_LAST_FIELD = 18
_EMPTY = [b""] * _LAST_FIELD
#: Longer values of peers are never cached.
CACHED_MAX_BYTES: Final = 48
_HEADERS = (b"MSH", b"FHS", b"BHS")
#: More identifiers of one patient are not looked at.
_IDENTIFIERS_MAX = 32


# Not frozen and without comparison: made once per message on the hot path.
@dataclass(slots=True, eq=False)
class Header:
    """The header of one message. ``fields[n - 1]`` is MSH-n (MSH-1 is ``field_separator``); at least 18, missing ones empty.

    The header of a batch (FHS, BHS) is given as the MSH that an answer to it needs: same sender and receiver, control id
    from field 11, ``is_batch`` True. ``start``, ``end``: the span of the header segment in the body.
    """

    fields: list[bytes]
    field_separator: bytes
    start: int
    end: int
    is_batch: bool = False

    @property
    def encoding(self) -> bytes:
        """MSH-2 as sent."""
        return self.fields[1]

    @property
    def component_separator(self) -> bytes:
        """Empty where MSH-2 has none: that level is not used then."""
        return self.fields[1][:1]

    @property
    def repetition_separator(self) -> bytes:
        """Empty where MSH-2 has none."""
        return self.fields[1][1:2]

    @property
    def sending_app(self) -> bytes:
        """MSH-3."""
        return self.fields[2]

    @property
    def sending_facility(self) -> bytes:
        """MSH-4."""
        return self.fields[3]

    @property
    def restamp(self) -> tuple[int, int]:
        """The span of MSH-7 in the body."""
        begin = self.start + len(self.field_separator.join(self.fields[:6])) + 1
        return begin, begin + len(self.fields[6])

    @property
    def control_id(self) -> bytes:
        """MSH-10, byte for byte."""
        return self.fields[9]

    @property
    def processing_id(self) -> bytes:
        """MSH-11."""
        return self.fields[10]

    @property
    def version(self) -> bytes:
        """MSH-12.1."""
        return self.fields[11].split(self.fields[1][:1] or None, 1)[0] if self.fields[11] else b""

    @property
    def accept_ack(self) -> bytes:
        """MSH-15."""
        return self.fields[14]

    @property
    def application_ack(self) -> bytes:
        """MSH-16."""
        return self.fields[15]

    @property
    def charset_raw(self) -> bytes:
        """MSH-18, all repetitions."""
        return self.fields[17]

    @property
    def message_type(self) -> bytes:
        """MSH-9.1."""
        return _type_parts(self)[0]

    @property
    def trigger(self) -> bytes:
        """MSH-9.2."""
        return _type_parts(self)[1]

    @property
    def structure(self) -> bytes:
        """MSH-9.3."""
        return _type_parts(self)[2]


@dataclass(frozen=True, slots=True)
class HeaderFault:
    """Why a message cannot be taken. ``header``: what could be read of it, enough for the answer."""

    reason: RefuseReason
    header: Header


#: The header of an answer to bytes that have none.
UNKNOWN_HEADER: Final = Header([b"MSH", b"^~\\&", *[b""] * 8, b"P", b"2.5.1", *[b""] * 6], b"|", 0, 0)


def scan(body: bytes) -> Header | HeaderFault:
    """Read the header segment of ``body`` (MSH, or FHS/BHS of a batch). Linear, never raises.

    A BOM and empty lines before it are skipped; the segment ends at CR or LF.
    """
    usual = body.startswith(_USUAL_START)
    start = 0 if usual else _header_offset(body)
    end = _end_of_segment(body, start)
    separator = b"|" if usual else body[start + 3 : start + 4]
    if not usual and (start < 0 or end <= start + 4 or not _usable(separator)):
        return HeaderFault(RefuseReason.NO_HEADER, UNKNOWN_HEADER)
    fields = body[start:end].split(separator, _LAST_FIELD)
    if (missing := _LAST_FIELD - len(fields)) > 0:
        fields += _EMPTY[:missing]
    header = Header(fields, separator, start, end)
    return header if usual and fields[8][:1] not in _NO_TYPE and fields[9] else _judge(header)


def patient_key(body: bytes, header: Header) -> bytes:
    """Raw material of the ordering key from the first PID: the first identifier with an assigner, else the first identifier.

    Empty where the message names no patient. Patient data: the journal blinds it.
    """
    separator = header.field_separator
    if separator == b"|" and header.fields[1] == _USUAL_ENCODING and (found := _USUAL_PATIENT.match(body, header.end)):
        return b"\x1f".join(found.groups())
    start = _pid_offset(body, header.end, b"PID" + separator)
    if start < 0:
        return b""
    fields = body[start : _end_of_segment(body, start)].split(separator, 3)
    return _identifier(fields[2], header) if len(fields) > 2 else b""


def charset_of(header: Header) -> str:
    """The IANA name that MSH-18 (first repetition) declares: ``utf-8`` where it is empty, ``""`` where unknown."""
    declared = header.fields[17]
    if not declared:
        return UTF_8
    repetition = header.fields[1][1:2]
    return iana_name(declared.split(repetition, 1)[0] if repetition else declared)


def classify(header: Header) -> tuple[str, TrafficClass]:
    """Event type (``hl7.v2.…``) and traffic class of a message, from MSH-9."""
    declared, component = header.fields[8], header.fields[1][:1]
    if len(declared) > CACHED_MAX_BYTES:
        return _classify_parts(*split_type(declared, component)[:2])
    return _classify_cached(declared, component)


def is_acknowledgement(body: bytes, header: Header) -> bool:
    """MSH-9.1 is ACK or MCF, or an MSA follows the header (SFT, UAC, NTE may stand between)."""
    if header.fields[8].startswith((b"ACK", b"MCF")) and header.message_type in (b"ACK", b"MCF"):
        return True
    return _UP_TO_MSA.match(body, header.end) is not None


def first_segment(body: bytes) -> int:
    """Offset of the first segment: behind a BOM and empty lines."""
    found = _BEFORE_HEADER.match(body)
    return found.end() if found else 0


def split_type(declared: bytes, component: bytes) -> tuple[bytes, bytes, bytes]:
    """MSH-9 into message type, trigger and structure, empty where missing."""
    parts = declared.split(component, 3) if component else [declared]
    first, second, third = (*parts, b"", b"")[:3]
    return first, second, third


def _judge(header: Header) -> Header | HeaderFault:
    """The checks that an everyday header has passed already."""
    fields = header.fields
    if not _unambiguous(header.field_separator + fields[1]):
        fields[1] = UNKNOWN_HEADER.fields[1]
        return HeaderFault(RefuseReason.AMBIGUOUS_DELIMITERS, header)
    if fields[0] != b"MSH":
        return _batch_header(header)
    if not header.message_type:
        return HeaderFault(RefuseReason.NO_MESSAGE_TYPE, header)
    return header if fields[9] else HeaderFault(RefuseReason.NO_CONTROL_ID, header)


def _header_offset(body: bytes) -> int:
    """Where the header begins, -1 where the first segment is another one."""
    start = first_segment(body)
    return start if body.startswith(_HEADERS, start) else -1


def _end_of_segment(body: bytes, start: int) -> int:
    """Where the segment that holds ``start`` ends: at CR, at LF, or with the body."""
    end = body.find(b"\r", start)
    if end < 0:
        end = len(body)
    newline = body.find(b"\n", start, end)
    return end if newline < 0 else newline


def _pid_offset(body: bytes, position: int, tag: bytes) -> int:
    """Where the fields of the first PID begin, -1 without one."""
    found = [body.find(terminator + tag, position) for terminator in (b"\r", b"\n")]
    return min((offset + 5 for offset in found if offset >= 0), default=-1)


def _usable(delimiters: bytes) -> bool:
    """None of them can occur in a number, a time or our own texts, so that no answer needs escaping."""
    return not delimiters.strip(_DELIMITERS)


def _unambiguous(delimiters: bytes) -> bool:
    """Field separator and up to five encoding characters, no two alike."""
    return len(delimiters) <= 6 and len(set(delimiters)) == len(delimiters) and _usable(delimiters)


def _batch_header(header: Header) -> Header:
    """FHS and BHS as an MSH: fields 3 to 7 stand alike, the control id is field 11."""
    fields = header.fields
    as_msh = [b"MSH", *fields[1:7], b"", b"", fields[10], *UNKNOWN_HEADER.fields[10:]]
    return Header(as_msh, header.field_separator, header.start, header.end, is_batch=True)


def _identifier(field: bytes, header: Header) -> bytes:
    component, repetition = header.fields[1][:1], header.fields[1][1:2]
    unscoped = b""
    values = field.split(repetition, _IDENTIFIERS_MAX)[:_IDENTIFIERS_MAX] if repetition else [field]
    for value in values:
        parts = value.split(component, 4) if component else [value]
        if not parts[0] or parts[0] == b'""':
            continue
        if len(parts) > 3 and parts[3]:
            return parts[0] + b"\x1f" + parts[3]
        unscoped = unscoped or parts[0]
    return unscoped


@lru_cache(maxsize=1024)
def _split_cached(declared: bytes, component: bytes) -> tuple[bytes, bytes, bytes]:
    return split_type(declared, component)


def _type_parts(header: Header) -> tuple[bytes, bytes, bytes]:
    declared, component = header.fields[8], header.fields[1][:1]
    return _split_cached(declared, component) if len(declared) <= CACHED_MAX_BYTES else split_type(declared, component)


def _classify_parts(message: bytes, trigger: bytes) -> tuple[str, TrafficClass]:
    return v2_kind(message, trigger), class_of(message.decode("latin-1"), trigger.decode("latin-1"))


@lru_cache(maxsize=1024)
def _classify_cached(declared: bytes, component: bytes) -> tuple[str, TrafficClass]:
    return _classify_parts(*split_type(declared, component)[:2])
