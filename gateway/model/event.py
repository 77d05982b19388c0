"""Names that leave the house: event ids, lanes, sources, types. No patient data in any of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["EventId", "lane_name", "source_urn", "v2_kind"]

_EVENT_ID = re.compile(r"([a-z0-9-]{1,63})/([0-9a-f]{32})/([0-9]{1,19})(?:/([0-9]{1,9}))?")
_TYPE_PART = re.compile(rb"[A-Z0-9]{1,7}")


@dataclass(frozen=True, slots=True)
class EventId:
    """``<gateway id>/<incarnation>/<seq>``, ``/<n>`` where one message yields several events (DESIGN 6.3)."""

    gateway: str
    incarnation: str
    seq: int
    part: int | None = None

    def __str__(self) -> str:
        """The text form; unique for ever."""
        text = f"{self.gateway}/{self.incarnation}/{self.seq}"
        return text if self.part is None else f"{text}/{self.part}"

    @classmethod
    def parse(cls, text: str) -> EventId | None:
        """The id in ``text``, or None where it is not one."""
        if not (match := _EVENT_ID.fullmatch(text)):
            return None
        gateway, incarnation, seq, part = match.groups()
        return cls(gateway, incarnation, int(seq), None if part is None else int(part))


def lane_name(route: str, label: str) -> str:
    """``<route>/<class>``: the unit of gap detection."""
    return f"{route}/{label}"


def source_urn(gateway: str, source: str) -> str:
    """The CloudEvents ``source``."""
    return f"urn:edge-gateway:{gateway}:{source}"


def v2_kind(message: bytes, event: bytes) -> str:
    """``hl7.v2.<MSH-9.1>.<MSH-9.2>``; anything unusual is ``hl7.v2.other``, so no text of a peer becomes a type.

    A type without an event (``ACK``) is ``hl7.v2.<MSH-9.1>``.
    """
    if not _TYPE_PART.fullmatch(message) or (event and not _TYPE_PART.fullmatch(event)):
        return "hl7.v2.other"
    parts = (message,) if not event else (message, event)
    return "hl7.v2." + b".".join(parts).decode("ascii")
