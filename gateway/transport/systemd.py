"""Datagrams to systemd (``Type=notify``): READY, STATUS, STOPPING, WATCHDOG. Nothing happens where systemd is not there."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ServiceNotices", "watchdog_interval_s"]

_STATUS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class ServiceNotices:
    """``address``: the value of ``NOTIFY_SOCKET``, empty where nobody listens; ``@`` begins an abstract name.

    Source: sd_notify(3).
    """

    address: str

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> ServiceNotices:
        """As systemd set it; an address of another form is as good as none."""
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address if address.startswith(("/", "@")) else "")

    def ready(self, status: str) -> bool:
        """Start-up is over: ports are bound and senders are answered."""
        return self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, status: str) -> bool:
        """One line for ``systemctl status``; our own words."""
        return self._send(f"STATUS={_one_line(status)}")

    def stopping(self) -> bool:
        """The ordered stop has begun."""
        return self._send("STOPPING=1\nSTATUS=stopping")

    def watchdog(self) -> bool:
        """Still of use."""
        return self._send("WATCHDOG=1")

    def _send(self, text: str) -> bool:
        """True where systemd's socket took it. Never blocks, never raises: a lost notice must not stop a gateway."""
        if not self.address:
            return False
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.setblocking(False)
                line.sendto(text.encode(), address)
        except OSError:
            return False
        return True


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """``WatchdogSec`` of the unit in seconds; None where systemd does not watch this process.

    Source: sd_watchdog_enabled(3): ``WATCHDOG_PID``, where set, must be this process.
    """
    text, watched = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(pid))
    if not text.isascii() or not text.isdigit() or int(text) == 0 or watched != str(pid):
        return None
    return int(text) / 1_000_000


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_STATUS_MAX]
