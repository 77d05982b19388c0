"""What a person sees of the demo: a live panel in a terminal, one plain line a second elsewhere."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType

    from rich.live import Live
    from rich.table import Table

__all__ = ["DemoFrame", "DemoView"]

_BARS = " ▁▂▃▄▅▆▇█"
_HISTORY = 60
_STYLE = {"online": "bold green", "retrying": "yellow", "offline": "bold red"}


@dataclass(frozen=True, slots=True)
class DemoFrame:
    """One moment of the demo; counts are totals, rates per second."""

    elapsed_s: float
    phase: str
    sent: int
    accepted: int
    queued: int
    oldest_age_s: float
    delivered: int
    link_up: bool
    route_state: str
    in_per_s: float
    out_per_s: float


def sparkline(values: deque[int]) -> str:
    """The course of the queue depth as a row of bars, the newest at the right."""
    top = max(values, default=0)
    return "".join(_BARS[0 if not top else -(-value * (len(_BARS) - 1) // top)] for value in values)


@dataclass(slots=True)
class DemoView:
    """Context manager; ``show`` is called once a second."""

    out: TextIO = field(default_factory=lambda: sys.stdout)
    _depths: deque[int] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    _live: Live | None = None

    def __enter__(self) -> Self:
        if self.out.isatty():
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """A sentence about what happens now."""
        if self._live is not None:
            self._live.console.print(text)
        else:
            print(text, file=self.out, flush=True)

    def show(self, frame: DemoFrame) -> None:
        """The figures of this second."""
        self._depths.append(frame.queued)
        if self._live is not None:
            self._live.update(_panel(frame, sparkline(self._depths)), refresh=True)
            return
        cable = "plugged in" if frame.link_up else "CUT"
        self.say(
            f"{frame.elapsed_s:5.0f} s  link {cable:10}  route {frame.route_state:9}  accepted {frame.accepted:6}  queued {frame.queued:6}"
            f"  oldest {frame.oldest_age_s:5.1f} s  delivered {frame.delivered:6}  in {frame.in_per_s:5.0f}/s  out {frame.out_per_s:5.0f}/s"
        )


def _panel(frame: DemoFrame, depths: str) -> Table:
    from rich.table import Table

    table = Table(title=f"edge-gateway demo · {frame.elapsed_s:.0f} s · {frame.phase}", show_header=False, min_width=76)
    table.add_column(style="dim")
    table.add_column(justify="left")
    cable = "[bold green]plugged in[/]" if frame.link_up else "[bold red]CUT[/]"
    state = f"[{_STYLE.get(frame.route_state, 'magenta')}]{frame.route_state}[/]"
    table.add_row("link to the receiver", f"{cable}   the route says {state}")
    table.add_row("accepted (AA sent)", f"{frame.accepted:,}   {frame.in_per_s:.0f}/s")
    table.add_row("queued", f"{frame.queued:,}   oldest {frame.oldest_age_s:.1f} s")
    table.add_row("queue depth, last minute", f"[cyan]{depths}[/]")
    table.add_row("delivered (receipts)", f"{frame.delivered:,}   {frame.out_per_s:.0f}/s")
    return table
