"""``/healthz``, ``/readyz`` and ``/metrics``: open to this machine, for reading only.

A browser on this machine can be made to ask for pages under a foreign name (DNS rebinding), so the Host header must be a
loopback name, and a request that says it comes from a foreign page is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.observe.health import healthz, readyz
from gateway.observe.metrics import CONTENT_TYPE
from gateway.settings.fields import ListenAddress, is_loopback
from gateway.transport.http_server import Answer, HttpLimits, HttpServer, Request, problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.model.state import GatewayState
    from gateway.observe.health import HealthAnswer

__all__ = ["AdminPages", "serve_pages"]

#: Nothing here has a body.
_LIMITS: Final = HttpLimits(body_max_bytes=1024, bodies_max_bytes=65536, body_timeout_s=5.0, idle_timeout_s=75.0, connections_max=32)


@dataclass(frozen=True, slots=True)
class AdminPages:
    """``state()`` and ``metrics()`` are asked at each request; both must be quick."""

    state: Callable[[], GatewayState]
    metrics: Callable[[], bytes]

    async def healthz(self, _request: Request) -> Answer:
        """200 while the process lives, with the state."""
        return _json(healthz(self.state()))

    async def readyz(self, _request: Request) -> Answer:
        """200 while messages are taken, else 503."""
        return _json(readyz(self.state()))

    async def metrics_page(self, _request: Request) -> Answer:
        """Prometheus text."""
        return Answer(200, {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}, self.metrics())


def serve_pages(address: ListenAddress, pages: AdminPages, on_fault: Callable[[str], None] | None = None) -> HttpServer:
    """A server for the pages, not started yet. ``address`` is a loopback one (``settings`` has made sure)."""
    table = {("GET", "/healthz"): pages.healthz, ("GET", "/readyz"): pages.readyz, ("GET", "/metrics"): pages.metrics_page}
    return HttpServer(address.host, address.port, table, limits=_LIMITS, guard=guard, on_fault=on_fault)


def guard(request: Request) -> Answer | None:
    """None for a request that means this machine."""
    if not _names_loopback(f"//{request.headers.get('host', '')}"):
        return problem(421, "host-not-loopback", "ask for 127.0.0.1 or localhost; a proxy in front must set the Host header so")
    origin = request.headers.get("origin")
    if origin is not None and not _names_loopback(origin):
        return problem(403, "foreign-origin", "pages of other origins may not read this")
    return None


def _names_loopback(address: str) -> bool:
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return False
    return host is not None and is_loopback(host)


def _json(answer: HealthAnswer) -> Answer:
    return Answer(answer.status, {"Content-Type": "application/json", "Cache-Control": "no-store"}, answer.body)
