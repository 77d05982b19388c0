"""Traffic classes (DESIGN 6.5): what a message is worth, from its type alone.

The class is stored with each block. A source may set one for all its messages.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["TrafficClass", "class_of"]


class TrafficClass(Enum):
    """The clinical value of a message. ``code`` is persisted: never renumber."""

    ALARM = ("alarm", 1)
    RESULT = ("result", 2)
    ORDER = ("order", 3)
    ADT = ("adt", 4)
    SCHEDULE = ("schedule", 5)
    DOCUMENT = ("document", 6)
    CHARGE = ("charge", 7)
    AUDIT = ("audit", 8)
    OTHER = ("other", 9)
    VITALS = ("vitals", 10)
    WAVEFORM = ("waveform", 11)
    TELEMETRY = ("telemetry", 12)

    def __init__(self, label: str, code: int) -> None:
        self.label = label
        self.code = code

    @classmethod
    def from_label(cls, label: str) -> TrafficClass:
        """The member of that label; ``KeyError`` where there is none."""
        return _BY_LABEL[label]

    @classmethod
    def from_code(cls, code: int) -> TrafficClass:
        """The member of that persisted code; ``KeyError`` where there is none."""
        return _BY_CODE[code]


_BY_LABEL = {member.label: member for member in TrafficClass}
_BY_CODE = {member.code: member for member in TrafficClass}

# Source: HL7 v2.5.1 table 0076 (message type) and table 0003 (event type).
_BY_MESSAGE: dict[str, TrafficClass] = {
    **dict.fromkeys(("ADT", "QBP", "RSP", "PMU"), TrafficClass.ADT),
    **dict.fromkeys(("ORU", "OUL", "OPU", "VXU", "ORA"), TrafficClass.RESULT),
    **dict.fromkeys(("ORM", "OML", "OMG", "OMI", "OMD", "OMS", "OMN", "OMP", "OMB", "ORR", "ORL", "ORG", "ORI"), TrafficClass.ORDER),
    **dict.fromkeys(("RDE", "RDS", "RAS", "RGV", "RRE", "REF", "RQA"), TrafficClass.ORDER),
    **dict.fromkeys(("SIU", "SRM", "SRR", "SQM", "SQR"), TrafficClass.SCHEDULE),
    **dict.fromkeys(("MDM", "DOC"), TrafficClass.DOCUMENT),
    **dict.fromkeys(("DFT", "BAR"), TrafficClass.CHARGE),
}
# IHE PCD-04 (R40-R42) reports alarms; PCD-01 device observations are vitals only where the source says so, because
# a laboratory sends the same ORU^R01.
_BY_EVENT: dict[tuple[str, str], TrafficClass] = {
    ("ORU", "R40"): TrafficClass.ALARM,
    ("ORA", "R41"): TrafficClass.ALARM,
    ("ORU", "R42"): TrafficClass.ALARM,
}


def class_of(message: str, event: str) -> TrafficClass:
    """The class of MSH-9.1 and MSH-9.2; unknown types are ``OTHER``."""
    if found := _BY_EVENT.get((message, event)):
        return found
    return _BY_MESSAGE.get(message, TrafficClass.OTHER)
