"""What every kind of sink is given when it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

    from gateway.model.clock import Clock

__all__ = ["SinkServices"]


@dataclass(frozen=True, slots=True)
class SinkServices:
    """One sink serves one route; where two routes name the same ``[[sink]]``, each has its own.

    ``executor``: for compression and file writes; None = the event loop's own. ``credentials_directory``: where systemd
    put the credentials, None where it put none.
    """

    gateway: str
    route: str
    clock: Clock
    executor: Executor | None = None
    credentials_directory: Path | None = None
