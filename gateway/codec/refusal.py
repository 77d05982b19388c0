"""Why we say no to a sender: a closed table, so that no answer, log line or metric ever quotes a message."""

from __future__ import annotations

from enum import Enum

__all__ = ["RefuseReason"]


# Source: HL7 v2.5.1 table 0357.
_ERRORS = {
    100: b"Segment sequence error",
    101: b"Required field missing",
    102: b"Data type error",
    103: b"Table value not found",
    104: b"Value too long",
    207: b"Application internal error",
}


class RefuseReason(Enum):
    """One reason: ``label`` (metric, log, audit), ``error_code`` and ``error_text`` (ERR-3), ``location`` (ERR-2), ``text`` (ERR-8).

    Texts hold only letters, digits and spaces, which no sender can have as delimiters.
    """

    EMPTY_FRAME = ("empty-frame", 100, (b"MSH", b"1"), b"The frame is empty")
    NO_HEADER = ("no-header", 100, (b"MSH", b"1"), b"The first segment is not MSH or FHS or BHS")
    STRAY_SEGMENTS = ("stray-segments", 100, (b"MSH", b"1"), b"The batch holds segments but no MSH")
    AMBIGUOUS_DELIMITERS = ("ambiguous-delimiters", 102, (b"MSH", b"1", b"2"), b"The delimiters in MSH 1 and MSH 2 are not usable")
    NO_MESSAGE_TYPE = ("no-message-type", 101, (b"MSH", b"1", b"9"), b"MSH 9 message type is missing")
    NO_CONTROL_ID = ("no-control-id", 101, (b"MSH", b"1", b"10"), b"MSH 10 message control id is missing")
    TOO_LARGE = ("too-large", 104, (), b"The frame is larger than this receiver takes")
    TOO_MANY_MESSAGES = ("too-many-messages", 104, (), b"The batch holds more messages than this receiver takes")
    SENDER_NOT_ALLOWED = ("sender-not-allowed", 103, (b"MSH", b"1", b"3"), b"This sender is not on the list of this receiver")
    UNABLE = ("unable", 207, (), b"The message could not be stored and should be sent again")

    def __init__(self, label: str, error_code: int, location: tuple[bytes, ...], text: bytes) -> None:
        self.label = label
        self.error_code = error_code
        self.error_text = _ERRORS[error_code]
        self.location = location
        self.text = text
