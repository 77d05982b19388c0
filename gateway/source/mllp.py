"""The MLLP source: an HL7 v2 listener that acknowledges what the journal has committed, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.model.errors import ConfigurationError, Issue
from gateway.observe.events import LogEvent
from gateway.source.mllp_session import MllpSession, SessionTimes
from gateway.source.ports import SourceCounts
from gateway.source.reception import Reception
from gateway.transport.tcp_listener import Link, ListenerLimits, TcpListener, TurnedAway
from gateway.transport.tls import server_context

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings.fields import ServerTls as TlsSettings
    from gateway.source.mllp_settings import MllpSettings
    from gateway.source.ports import AppendPort, SourceServices
    from gateway.transport.tls import ServerTls

__all__ = ["MllpSource"]

_NO_TIMES = SessionTimes()


class MllpSource:
    """One ``[[source]] type = "mllp"``. ``journal``: where messages go; ``times``: only tests want others."""

    __slots__ = ("_listener", "_reception", "_settings", "_times", "counts")

    def __init__(self, settings: MllpSettings, journal: AppendPort, services: SourceServices, times: SessionTimes = _NO_TIMES) -> None:
        self.counts = SourceCounts()
        self._settings = settings
        self._reception = Reception(settings, journal, services, self.counts)
        self._times = times
        self._listener: TcpListener | None = None

    @property
    def name(self) -> str:
        """As configured."""
        return self._settings.name

    @property
    def address(self) -> str:
        """``host:port`` really bound; as configured before ``start``."""
        if self._listener is None:
            return str(self._settings.listen)
        host, port = self._listener.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def port(self) -> int:
        """The port really bound."""
        return self._listener.address[1] if self._listener is not None else self._settings.listen.port

    async def start(self) -> None:
        """Bind and listen. A source that failed to start can be started again.

        Raises: ConfigurationError for unusable certificates; TransientError listen-in-use, listen-address-missing;
            PermanentError listen-not-permitted, listen-failed.
        """
        settings = self._settings
        tls = None if settings.tls is None else _server_tls(settings.tls, self._reception.services.credentials_directory)
        limits = ListenerLimits(
            allow=settings.allow,
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
            idle_timeout_s=settings.idle_timeout_s,
            unit_timeout_s=settings.frame_timeout_s,
        )
        listener = TcpListener(settings.listen.host, settings.listen.port, limits, self._session_for, self._turned_away, tls)
        await listener.start()
        self._listener = listener
        self._reception.services.log.emit(LogEvent.SOURCE_LISTENING, source=self.name, address=self.address)

    async def stop(self, answer_s: float = 10.0) -> None:
        """Stop listening and reading, answer what waits for its commit, close. After ``answer_s`` the rest is cut off."""
        if self._listener is None:
            return
        await self._listener.close(answer_s)
        self._listener = None
        self._reception.services.log.emit(LogEvent.SOURCE_STOPPED, source=self.name)

    def _session_for(self, link: Link) -> MllpSession:
        self._reception.opened(link.peer)
        return MllpSession(self._reception, link, self._times)

    def _turned_away(self, reason: TurnedAway, peer: str) -> None:
        self._reception.turned_away(reason.value, peer)


def _server_tls(settings: TlsSettings, credentials_directory: Path | None) -> ServerTls:
    references = {"cert": settings.cert, "key": settings.key, "client_ca": settings.client_ca}
    places = {name: reference.place(credentials_directory) for name, reference in references.items() if reference is not None}
    issues = tuple(
        Issue(f"tls.{name}", "names a credential, but systemd passed none", "add LoadCredential= to the unit, or use { file = … }")
        for name, place in places.items()
        if place is None
    )
    cert, key = places["cert"], places["key"]
    if issues or cert is None or key is None:
        raise ConfigurationError(issues)
    return server_context(cert, key, places.get("client_ca"))
