"""Instants as people write them on a command line."""

from __future__ import annotations

import re
import zoneinfo
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["FORMS", "parse_instant"]

FORMS: Final = "2026-11-25T14:30, 2026-11-25T14:30:00+01:00, or 90m, 2h, 3d for that long ago"
_AGO: Final = re.compile(r"(\d{1,9})([smhd])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_instant(text: str, now_us: int, time_zone: str) -> int | None:
    """Microseconds since 1970 UTC; None where ``text`` is not an instant. Without an offset it means ``time_zone``."""
    if match := _AGO.fullmatch(text.strip()):
        ago = timedelta(**{_UNITS[match[2]]: int(match[1])}) if int(match[1]) < 10**6 else timedelta(days=36500)
        return max(0, now_us - ago // timedelta(microseconds=1))
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zoneinfo.ZoneInfo(time_zone))
    return (moment - _EPOCH) // timedelta(microseconds=1)
