"""Answers to senders, and the answers of destinations.

Which answers a message gets is a table (``_ANSWERS``), never code. An answer quotes nothing of the message but its header
addresses, MSH-10 to MSH-12 and MSH-18; the reason of a refusal comes from the closed table in ``refusal.py``.

Source: HL7 v2.5.1 chapter 2 (2.9 acknowledgement modes, MSA, ERR), tables 0008, 0155, 0357.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from gateway.codec.message_header import CACHED_MAX_BYTES, HeaderFault, scan, split_type

if TYPE_CHECKING:
    from gateway.codec.message_header import Header
    from gateway.codec.refusal import RefuseReason

__all__ = ["AckBuilder", "AckCode", "AckMode", "AckOutcome", "Reply", "answers", "hl7_time", "parse_reply"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ERROR_CODE = re.compile(rb"[0-9]{1,4}")
_VERSION = re.compile(rb"([0-9]{1,3})\.([0-9]{1,3})")
#: ERR changed its shape with this version: ERR-1 before, ERR-2, 3, 4 and 8 from it on.
_ERR_SINCE = (2, 5)


class AckCode(StrEnum):
    """MSA-1, table 0008: A = application, C = accept (commit); A accepted, E error (send again), R rejected (do not)."""

    AA = "AA"
    AE = "AE"
    AR = "AR"
    CA = "CA"
    CE = "CE"
    CR = "CR"


class AckMode(StrEnum):
    """The ``ack`` setting of a source."""

    ORIGINAL = "original"  #: one AA, AE or AR for each message, whatever MSH-15 and MSH-16 say
    ENHANCED = "enhanced"  #: one CA, CE or CR for each message
    MSH = "msh"  #: as MSH-15 and MSH-16 ask


class AckOutcome(StrEnum):
    """What became of a message."""

    STORED = "stored"  #: committed, or a duplicate of a committed one
    REFUSED = "refused"  #: will never be accepted as it is
    UNABLE = "unable"  #: not now: the sender should send it again


_APPLICATION = {AckOutcome.STORED: AckCode.AA, AckOutcome.REFUSED: AckCode.AR, AckOutcome.UNABLE: AckCode.AE}
_ACCEPT = {AckOutcome.STORED: AckCode.CA, AckOutcome.REFUSED: AckCode.CR, AckOutcome.UNABLE: AckCode.CE}
_CONDITIONS = (b"", b"AL", b"NE", b"ER", b"SU")
#: Table 0155: condition -> (answer on success, answer on failure).
_ASKED = {b"": (False, False), b"AL": (True, True), b"NE": (False, False), b"ER": (False, True), b"SU": (True, False)}

Codes = tuple[AckCode, ...]


def _by_header(outcome: AckOutcome, accept: bytes, application: bytes) -> Codes:
    """Both empty is original mode. After a negative accept ack no application ack follows: the message went no further."""
    if not accept and not application:
        return (_APPLICATION[outcome],)
    failed = outcome is not AckOutcome.STORED
    accept_asked, application_asked = _ASKED[accept][failed], _ASKED[application][failed]
    if accept_asked and (failed or not application_asked):
        return (_ACCEPT[outcome],)
    return ((_ACCEPT[outcome],) if accept_asked else ()) + ((_APPLICATION[outcome],) if application_asked else ())


def _row(mode: AckMode, outcome: AckOutcome, accept: bytes, application: bytes) -> Codes:
    if mode is AckMode.MSH:
        return _by_header(outcome, accept, application)
    return (_APPLICATION[outcome] if mode is AckMode.ORIGINAL else _ACCEPT[outcome],)


#: (mode, outcome) -> (MSH-15, MSH-16) -> the codes to send, in order.
_ANSWERS: dict[tuple[AckMode, AckOutcome], dict[tuple[bytes, bytes], Codes]] = {
    (mode, outcome): {
        (accept, application): _row(mode, outcome, accept, application) for accept in _CONDITIONS for application in _CONDITIONS
    }
    for mode in AckMode
    for outcome in AckOutcome
}


def answers(mode: AckMode, outcome: AckOutcome, accept: bytes, application: bytes, *, acknowledgement: bool = False) -> Codes:
    """The codes owed for (MSH-15 ``accept``, MSH-16 ``application``). Unknown conditions count as AL.

    An acknowledgement is never acknowledged: it gets an accept ack where MSH-15 is AL, and nothing else.
    """
    if acknowledgement:
        return (_ACCEPT[outcome],) if accept == b"AL" else ()
    table = _ANSWERS[mode, outcome]
    if (found := table.get((accept, application))) is not None:
        return found
    return table[accept if accept in _ASKED else b"AL", application if application in _ASKED else b"AL"]


def hl7_time(wall_us: int) -> bytes:
    """``20261122120000.000+0000``: MSH-7 of an answer, milliseconds, always UTC, offset given."""
    moment = _EPOCH + timedelta(microseconds=wall_us)
    return b"%b.%03d+0000" % (moment.strftime("%Y%m%d%H%M%S").encode("ascii"), moment.microsecond // 1000)


class AckBuilder:
    """Makes the answers of one source or connection. ``id_prefix`` + a counter is MSH-10 of each (keep it to 12 characters).

    Every answer ends with CR and is not framed yet.
    """

    __slots__ = ("_count", "_mode", "_prefix", "_stored")

    def __init__(self, mode: AckMode, id_prefix: str) -> None:
        self._mode = mode
        self._prefix = id_prefix.encode("ascii")
        self._count = 0
        self._stored = _ANSWERS[mode, AckOutcome.STORED]

    def accept(self, header: Header, time: bytes) -> list[bytes]:
        """``replies`` for a message that is stored and no acknowledgement: the everyday case, 1.5 µs."""
        codes = self._stored.get((header.fields[14], header.fields[15]))
        if codes is None or len(codes) != 1:
            return self.replies(header, AckOutcome.STORED, time)
        return [self.build(header, codes[0], time)]

    def replies(
        self,
        header: Header,
        outcome: AckOutcome,
        time: bytes,
        *,
        reason: RefuseReason | None = None,
        acknowledgement: bool = False,
    ) -> list[bytes]:
        """The answers owed, in order; ``time`` from ``hl7_time``, ``reason`` for every outcome but STORED."""
        codes = answers(self._mode, outcome, header.accept_ack, header.application_ack, acknowledgement=acknowledgement)
        return [self.build(header, code, time, reason) for code in codes]

    def build(self, header: Header, code: AckCode, time: bytes, reason: RefuseReason | None = None) -> bytes:
        """One answer: MSH, MSA and, for a refusal, ERR."""
        self._count = count = self._count + 1
        fields = header.fields
        separator = header.field_separator
        # MSH-1 and MSH-2 as the sender has them, sender and receiver swapped byte for byte.
        msh = [b"MSH", fields[1], fields[4], fields[5], fields[2], fields[3], time, b"", _ack_type(header)]
        msh += (b"%b%d" % (self._prefix, count), fields[10], fields[11])
        if fields[17]:
            msh += (b"", b"", b"", b"", b"", fields[17])
        msh[-1] += b"\rMSA"
        if reason is None:
            msh += (_WIRE[code], fields[9] + b"\r")
            return separator.join(msh)
        msh += (_WIRE[code], fields[9], reason.text + b"\r" + _err(header, reason) + b"\r")
        return separator.join(msh)


_WIRE = {code: code.encode("ascii") for code in AckCode}
_BY_WIRE = {code.encode("ascii"): code for code in AckCode}


def _ack_type(header: Header) -> bytes:
    """``ACK^<trigger>^ACK``, ``ACK`` where the message has no trigger."""
    declared = header.fields[8]
    if len(declared) > CACHED_MAX_BYTES:
        return _ack_type_of(header.trigger, header.component_separator)
    return _ack_type_cached(declared, header.fields[1][:1])


@lru_cache(maxsize=1024)
def _ack_type_cached(declared: bytes, component: bytes) -> bytes:
    return _ack_type_of(split_type(declared, component)[1], component)


def _ack_type_of(trigger: bytes, component: bytes) -> bytes:
    return component.join((b"ACK", trigger, b"ACK")) if trigger else b"ACK"


def _err(header: Header, reason: RefuseReason) -> bytes:
    separator, component = header.field_separator, header.component_separator or b"^"
    code = b"%d" % reason.error_code
    if _version_of(header) < _ERR_SINCE:
        location = (*reason.location, b"", b"", b"")[:3]
        return separator.join((b"ERR", component.join((*location, code))))
    coded = component.join((code, reason.error_text, b"HL70357"))
    return separator.join((b"ERR", b"", component.join(reason.location), coded, b"E", b"", b"", b"", reason.text))


def _version_of(header: Header) -> tuple[int, int]:
    """MSH-12 as numbers; an unreadable one counts as new: ERR-3 is where today's senders look."""
    found = _VERSION.match(header.version)
    return (int(found[1]), int(found[2])) if found else _ERR_SINCE


@dataclass(frozen=True, slots=True)
class Reply:
    """What a destination answered. ``errors``: table 0357 codes of its ERR segments, digits only.

    ``control_id`` (MSA-2, byte for byte) and ``text`` (MSA-3) come from the peer: compare or seal them, never log them.
    """

    code: AckCode
    control_id: bytes
    errors: tuple[str, ...] = ()
    text: bytes = b""


def parse_reply(body: bytes) -> Reply | None:
    """The first MSA of an answer, in a message of any type; None for what is not an answer (no MSH, no MSA, unknown code).

    Read with the answer's own delimiters; LF and CRLF terminators, a BOM and a missing last CR are tolerated.
    """
    found = scan(body)
    header = found.header if isinstance(found, HeaderFault) else found
    if not header.end:
        return None
    separator = header.field_separator
    segments = [line.split(separator) for line in body[header.end :].replace(b"\n", b"\r").split(b"\r")]
    msa = next((fields for fields in segments if fields[0] == b"MSA"), [])
    code, control_id, text = (*msa[1:4], b"", b"", b"")[:3]
    if code not in _BY_WIRE:
        return None
    errors = [error for fields in segments if fields[0] == b"ERR" for error in _error_codes(fields, header)]
    return Reply(_BY_WIRE[code], control_id, tuple(errors), text)


def _error_codes(err: list[bytes], header: Header) -> list[str]:
    """ERR-3.1, else the fourth component of each repetition of ERR-1."""
    component, repetition = header.component_separator or b"^", header.repetition_separator or b"~"
    subcomponent = header.encoding[3:4] or b"&"
    found = [err[3].split(component)[0]] if len(err) > 3 and err[3] else []
    if not found and len(err) > 1:
        parts = [value.split(component) for value in err[1].split(repetition)]
        found = [value[3].split(subcomponent)[0] for value in parts if len(value) > 3]
    return [code.decode("ascii") for code in found if _ERROR_CODE.fullmatch(code)]
