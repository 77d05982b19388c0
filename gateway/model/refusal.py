"""What a source keeps of a frame to which it said no."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Refusal"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused frame, for the person who has to find out why. Nothing of it was stored as a message.

    ``code``: our own kebab-case reason, a closed vocabulary (also a metric label). ``peer``: network address of the
    sender, without a port. ``kept``: the first ``REFUSED_KEEP_BYTES`` of the frame at most; patient data, sealed at rest,
    never logged. ``size_bytes``: length of the whole frame as far as it was read. ``refused_us``: wall clock, UTC.
    """

    source: str
    code: str
    peer: str
    kept: bytes
    size_bytes: int
    refused_us: int
