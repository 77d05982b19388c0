"""The daemon's end of the admin socket: one request per connection, its rows, an end.

The socket has mode 0600, so only the gateway's own account and root get in; who it was is asked of the kernel and goes
into the audit trail beside the name given with ``--by``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.admin.operations import OPERATIONS, Errand
from gateway.admin.place import SocketPlaces, make_private
from gateway.admin.ports import Actor
from gateway.admin.wire import Request, end_line, error_line, read_request, row_line
from gateway.model.errors import GatewayError, PermanentError, UnavailableError
from gateway.observe.events import LogEvent
from gateway.transport.unix_socket import Line, LineServer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from gateway.admin.ports import AdminPort
    from gateway.admin.rows import Row
    from gateway.observe.log import EventLog
    from gateway.transport.unix_socket import PeerIdentity

__all__ = ["AdminServer"]

_REQUEST_TIMEOUT_S: Final = 5.0
_WRITE_TIMEOUT_S: Final = 30.0


@dataclass(slots=True)
class AdminServer:
    """Serves ``port``. ``gateway``: its id. Start it before any port is bound, so that ``status`` never finds a silent daemon."""

    port: AdminPort
    log: EventLog
    gateway: str
    places: SocketPlaces
    _server: LineServer | None = field(default=None)

    @property
    def path(self) -> Path | None:
        """Where it listens."""
        return None if self._server is None else self._server.path

    async def start(self, *, in_state_dir: bool) -> Path:
        """Listen at the first place that can be had; ``in_state_dir=False`` (LOCKED): outside the state directory.

        Raises ``UnavailableError`` where no place can be had, or another process answers there.
        """
        trouble = UnavailableError("no-socket-place", "no private directory for the admin socket: set RuntimeDirectory= or TMPDIR")
        for path in self.places.all() if in_state_dir else self.places.outside():
            if path.parent != self.places.state_dir and not make_private(path.parent, os.geteuid()):
                continue
            server = LineServer(path, self._talk)
            try:
                await server.start()
            except UnavailableError as error:
                if error.code == "already-running":
                    raise
                trouble = error
            else:
                self._server = server
                return path
        raise trouble

    async def stop(self) -> None:
        """Close the socket and every connection; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop()

    async def _talk(self, line: Line) -> None:
        raw = await line.read(_REQUEST_TIMEOUT_S)
        if raw is None:
            return
        try:
            request = read_request(raw)
            await self._answer(line, request)
        except GatewayError as error:
            self.log.emit(LogEvent.OPERATOR_REFUSED, uid=line.peer.uid, code=error.code)
            await line.write(error_line(error), _WRITE_TIMEOUT_S)

    async def _answer(self, line: Line, request: Request) -> None:
        """Stream rows until they end or the client goes: a ``tap`` must not live on without its reader."""
        operation = OPERATIONS.get(request.op)
        if operation is None:
            raise PermanentError(
                "unknown-operation", "daemon and command line are of different versions; restart the gateway after an update"
            )
        errand = Errand(self.port, self.log, self.gateway, request.op, request.arguments, _actor(line.peer, request.by))
        streaming = asyncio.ensure_future(_stream(line, operation(errand)))
        gone = asyncio.ensure_future(line.gone())
        try:
            await asyncio.wait((streaming, gone), return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                await streaming
        finally:
            for task in (streaming, gone):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError, GatewayError):
                await streaming
            with contextlib.suppress(asyncio.CancelledError):
                await gone


async def _stream(line: Line, rows: AsyncGenerator[Row, None]) -> None:
    async with contextlib.aclosing(rows):
        async for row in rows:
            if not await line.write(row_line(row), _WRITE_TIMEOUT_S):
                return
        await line.write(end_line(), _WRITE_TIMEOUT_S)


def _actor(peer: PeerIdentity, by: str) -> Actor:
    try:
        account = pwd.getpwuid(peer.uid).pw_name
    except KeyError:
        account = "unknown"
    return Actor(account, peer.uid, by)
