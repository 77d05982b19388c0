"""A TCP listener that decides who gets in, and its connections.

The listener accepts by itself instead of through ``loop.create_server``: who is not allowed, or too many, is turned away
before a protocol object exists and before a TLS handshake has cost anything. What a connection *means* is the business
of a ``Session``; a ``Link`` only moves bytes, keeps deadlines, pauses, and closes without losing what was written last.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final, Protocol, cast

from gateway.model.errors import LocalProtocolError, PermanentError, TransientError
from gateway.transport.tcp import tune

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.transport.tls import ServerTls

__all__ = ["Deadline", "Link", "ListenerLimits", "Pause", "Session", "TcpListener", "TurnedAway"]

_BACKLOG: Final = 1024
#: Connections accepted in one turn of the loop, so that a storm of connections leaves room for those that work.
_ACCEPTS_A_TURN: Final = 64
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_ACCEPT_AGAIN_S: Final = 1.0
#: One read. Small enough that a connection which sends nothing but tiny frames holds the loop for a few milliseconds
#: only; with 256 KiB (asyncio's own) it would be a hundred.
_READ_BYTES: Final = 32 * 1024
#: After our last word, so long the peer may take to read it and close; a plain close() with unread input would send a
#: reset, which destroys the last answers in the peer's receive buffer on some systems.
_LINGER_S: Final = 2.0

_Address = IPv4Address | IPv6Address
_Where = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
_Network = IPv4Network | IPv6Network


class TurnedAway(StrEnum):
    """Why a connection got no session."""

    NOT_ALLOWED = "address-not-allowed"
    TOO_MANY_FROM_ADDRESS = "too-many-connections-from-address"
    TOO_MANY = "too-many-connections"
    TLS_FAILED = "tls-failed"
    NO_DESCRIPTORS = "no-file-descriptors"


class Pause(IntFlag):
    """Why a connection does not read just now; it reads when no reason is left."""

    WRITE = 1  #: the peer does not read our answers
    BUDGET = 2  #: the memory budget is used up
    IN_FLIGHT = 4  #: this connection has enough in flight
    HOLD = 8  #: the store said no: do not let the same bytes come in at full speed
    STOP = 16  #: the session takes no more


class Session(Protocol):
    """What a connection means. Called from the event loop only; ``lost`` is the last call."""

    def received(self, data: bytes) -> None:
        """Bytes came in."""
        ...

    def ended(self) -> None:
        """The peer sends no more (it may still read): say what is owed, then ``link.close()``."""
        ...

    def overdue(self) -> None:
        """The unit that was announced with ``link.unit_open`` did not end in time."""
        ...

    def owes(self) -> bool:
        """True while the peer waits for us: silence is not its fault then."""
        ...

    def finish(self, cause: str) -> None:
        """We end it: take no more, ``link.close(cause)`` once nothing is owed."""
        ...

    def lost(self) -> None:
        """The connection is gone, for whatever reason."""
        ...


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Who gets in, and how long a connection may take. ``allow`` empty = any address; seconds are of monotonic time."""

    allow: tuple[_Network, ...] = ()
    max_connections: int = 256
    max_connections_per_address: int = 128
    idle_timeout_s: float = 600.0
    unit_timeout_s: float = 60.0
    handshake_timeout_s: float = 10.0
    linger_s: float = _LINGER_S


class Deadline:
    """A point in time that is moved often and reached seldom: moving it is one assignment, the timer follows when it fires."""

    __slots__ = ("_at_s", "_loop", "_reached", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, reached: Callable[[], None]) -> None:
        self._loop = loop
        self._reached = reached
        self._at_s = 0.0  # 0 = none
        self._timer: asyncio.TimerHandle | None = None

    @property
    def set(self) -> bool:
        """True between ``after`` and the moment it is reached or cleared."""
        return self._at_s > 0.0

    def after(self, delay_s: float) -> None:
        """(Re)start: reached ``delay_s`` from now. One Deadline is always used with the same delay."""
        self._at_s = self._loop.time() + delay_s
        if self._timer is None:
            self._timer = self._loop.call_at(self._at_s, self._fire)

    def clear(self) -> None:
        """Not reached, unless started again."""
        self._at_s = 0.0

    def cancel(self) -> None:
        """Clear, and drop the timer (the end of a connection)."""
        self._at_s = 0.0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        if not self._at_s:
            return
        if self._loop.time() < self._at_s:
            self._timer = self._loop.call_at(self._at_s, self._fire)
            return
        self._at_s = 0.0
        self._reached()


class Link(asyncio.BufferedProtocol):
    """One accepted connection.

    ``peer``: the address, without port. ``cause``: why it ended, a word of ours. ``pauses``: why it does not read (``Pause``).
    """

    def __init__(self, listener: TcpListener, peer: str, session_for: Callable[[Link], Session]) -> None:
        self.peer = peer
        self.closing = False
        self.cause = ""
        self._listener = listener
        self._limits = listener.limits
        self._loop = listener.loop
        self._buffer = listener.buffer
        self._session_for = session_for
        self.pauses = 0
        self._unit_is_open = False
        self._ended = False
        self._idle = Deadline(self._loop, self._on_idle)
        self._unit = Deadline(self._loop, self._on_unit)
        self._stall = Deadline(self._loop, self._on_stall)
        self._transport: asyncio.Transport | None = None
        self._session: Session | None = None

    # --- for the session ---

    @property
    def reading(self) -> bool:
        """True while nothing on our side keeps us from reading."""
        return not self.pauses and not self.closing

    def write(self, data: bytes) -> None:
        """Send; ignored once the connection is closing (the peer will send its message again)."""
        if self._transport is not None and not self.closing:
            self._transport.write(data)

    def pause(self, reason: Pause) -> None:
        """Read no more until ``resume`` of the same reason. Deadlines stand still: the waiting is ours."""
        if not self.pauses and self._transport is not None and not self.closing:
            self._transport.pause_reading()
            self._idle.clear()
            self._unit.clear()
        self.pauses |= reason

    def resume(self, reason: Pause) -> None:
        """One reason less; reads again when it was the last. An open unit gets its whole time again."""
        before, self.pauses = self.pauses, self.pauses & ~reason
        if before and not self.pauses and self._transport is not None and not self.closing:
            self._transport.resume_reading()
            self._idle.after(self._limits.idle_timeout_s)
            if self._unit_is_open:
                self._unit.after(self._limits.unit_timeout_s)

    def unit_open(self, *, anew: bool) -> None:
        """A unit (frame) has begun and not ended; ``anew``: another one than at the last call."""
        if anew or not self._unit_is_open:
            self._unit_is_open = True
            if not self.pauses:
                self._unit.after(self._limits.unit_timeout_s)

    def unit_closed(self) -> None:
        """No unit is open."""
        self._unit_is_open = False
        self._unit.clear()

    def close(self, cause: str) -> None:
        """Send what was written, then end; what still comes in is thrown away. The peer has ``linger_s`` to read and close."""
        if self.closing or self._transport is None:
            return
        self.closing = True
        self.cause = self.cause or cause
        self._idle.clear()
        self._unit.clear()
        self._stall.cancel()
        self._stall.after(self._limits.linger_s)
        # TLS: close() flushes, sends close_notify and has its own time limit. Ended: there is nothing left to throw away.
        if self._ended or not self._transport.can_write_eof():
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:  # reset by the peer a moment ago
            self.abort("peer-closed")
            return
        self._transport.resume_reading()  # to throw away, so that no reset overtakes the last answers

    def finish(self, cause: str) -> None:
        """Let the session end it in its own time."""
        if self._session is not None:
            self._session.finish(cause)

    def abort(self, cause: str) -> None:
        """End at once, whatever is unsent."""
        self.closing = True
        self.cause = self.cause or cause
        if self._transport is not None:
            self._transport.abort()

    # --- for asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; TLS is already up here."""
        self._transport = cast("asyncio.Transport", transport)
        self._session = self._session_for(self)
        self._idle.after(self._limits.idle_timeout_s)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's signature
        """One buffer for all connections: asyncio fills it and calls ``buffer_updated`` in the same turn."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes for the session."""
        if self.closing or self._session is None:
            return
        self._idle.after(self._limits.idle_timeout_s)
        self._session.received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool:
        """Keep our half open for the answers that are owed, where the transport can (TLS cannot)."""
        can_stay = self._transport is not None and self._transport.can_write_eof()
        self._idle.clear()
        self._unit.clear()
        if self.closing:
            return False
        self.cause = self.cause or "peer-closed"
        self._ended = True
        self.closing = not can_stay
        if self._session is not None:
            self._session.ended()
        return can_stay and not self.closing

    def pause_writing(self) -> None:
        """The peer does not read: stop reading from it, and do not wait for ever."""
        self._stall.after(self._limits.unit_timeout_s)
        self.pause(Pause.WRITE)

    def resume_writing(self) -> None:
        """The peer reads again."""
        if not self.closing:
            self._stall.clear()
        self.resume(Pause.WRITE)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature; the text may quote the peer
        """The end."""
        self.closing = True
        self.cause = self.cause or "connection-lost"
        for deadline in (self._idle, self._unit, self._stall):
            deadline.cancel()
        session, self._session, self._transport = self._session, None, None
        self._listener.left(self)
        if session is not None:
            session.lost()

    def _on_idle(self) -> None:
        if self._session is not None and self._session.owes():
            self._idle.after(self._limits.idle_timeout_s)
        else:
            self.close("idle")

    def _on_stall(self) -> None:
        self.abort("answers-not-read")

    def _on_unit(self) -> None:
        if self._session is not None:
            self._session.overdue()


class TcpListener:
    """Accepts connections at one address, within ``limits``.

    ``session_for`` makes the session of each connection; ``turned_away(reason, address)`` is told of the others.
    """

    def __init__(
        self,
        host: str,
        port: int,
        limits: ListenerLimits,
        session_for: Callable[[Link], Session],
        turned_away: Callable[[TurnedAway, str], None],
        tls: ServerTls | None = None,
    ) -> None:
        self.limits = limits
        self.links: set[Link] = set()
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self._host = host
        self._port = port
        self._session_for = session_for
        self._turned_away = turned_away
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._by_address: dict[str, int] = {}
        self._handshakes: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that ``start`` ran in."""
        if self._loop is None:
            raise LocalProtocolError("listener-not-started")
        return self._loop

    @property
    def address(self) -> tuple[str, int]:
        """Host and port really bound (port 0 asks for any)."""
        if not self._sockets:
            return self._host, self._port
        host, port = self._sockets[0].getsockname()[:2]
        return str(host), int(port)

    @property
    def connections(self) -> int:
        """Open connections, handshakes included."""
        return len(self.links)

    async def start(self) -> None:
        """Bind and listen. Starting a running listener is an error of ours.

        Raises: TransientError listen-in-use, listen-address-missing; PermanentError listen-not-permitted, listen-failed.
        """
        if self._sockets:
            raise LocalProtocolError("listener-already-started")
        self._loop = asyncio.get_running_loop()
        try:
            found = await self._loop.getaddrinfo(self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self._bind_each([(family, where) for family, _, _, _, where in dict.fromkeys(found)])
        except OSError as error:
            self.stop_listening()
            raise _listen_error(error, self._host, self._port) from None
        for listening in self._sockets:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    def _bind_each(self, places: list[tuple[int, _Where]]) -> None:
        """A name may have an address that this box does not ("localhost" without IPv6): one that works is enough."""
        missing: OSError | None = None
        for family, where in places:
            try:
                self._sockets.append(_bound(family, where))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not self._sockets:
            raise missing

    def stop_listening(self) -> None:
        """Take no more connections; those that are open stay."""
        for listening in self._sockets:
            if self._loop is not None:
                self._loop.remove_reader(listening.fileno())
            listening.close()
        self._sockets = []
        for task in self._handshakes:
            task.cancel()

    async def close(self, timeout_s: float) -> bool:
        """Stop listening, let every session finish; after ``timeout_s`` the rest is aborted. True where none had to be."""
        self.stop_listening()
        for link in list(self.links):
            link.finish("stopping")
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            for link in list(self.links):
                link.abort("stopping")
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
            return False
        return True

    def left(self, link: Link) -> None:
        """``link`` is gone (called by itself)."""
        if link not in self.links:
            return
        self.links.remove(link)
        left = self._by_address[link.peer] - 1
        if left:
            self._by_address[link.peer] = left
        else:
            del self._by_address[link.peer]
        if not self.links:
            self._empty.set()

    # --- accepting ---

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            try:
                accepted, where = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    self._rest(listening)
                return
            peer = ip_address(where[0].partition("%")[0])
            peer = getattr(peer, "ipv4_mapped", None) or peer
            if reason := self._objection(peer):
                accepted.close()
                self._turned_away(reason, str(peer))
            else:
                self._admit(accepted, str(peer))

    def _rest(self, listening: socket.socket) -> None:
        """The kernel keeps reporting a connection that cannot be accepted: look away for a moment instead of spinning."""
        self.loop.remove_reader(listening.fileno())
        self.loop.call_later(_ACCEPT_AGAIN_S, self._again, listening)
        self._turned_away(TurnedAway.NO_DESCRIPTORS, "")

    def _again(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            self.loop.add_reader(listening.fileno(), self._accept, listening)

    def _objection(self, peer: _Address) -> TurnedAway | None:
        if self.limits.allow and not any(peer in network for network in self.limits.allow):
            return TurnedAway.NOT_ALLOWED
        if len(self.links) >= self.limits.max_connections:
            return TurnedAway.TOO_MANY
        if self._by_address.get(str(peer), 0) >= self.limits.max_connections_per_address:
            return TurnedAway.TOO_MANY_FROM_ADDRESS
        return None

    def _admit(self, accepted: socket.socket, peer: str) -> None:
        try:
            accepted.setblocking(False)
            tune(accepted)
        except OSError:  # gone again
            accepted.close()
            return
        link = Link(self, peer, self._session_for)
        self.links.add(link)
        self._by_address[peer] = self._by_address.get(peer, 0) + 1
        self._empty.clear()
        task = self.loop.create_task(self._begin(accepted, link))
        self._handshakes.add(task)
        task.add_done_callback(self._handshakes.discard)

    async def _begin(self, accepted: socket.socket, link: Link) -> None:
        """Serve one connection until it is up; asyncio closes the socket in every case of failure."""
        tls = self._tls
        try:
            await self.loop.connect_accepted_socket(
                lambda: link,
                accepted,
                ssl=tls,
                ssl_handshake_timeout=self.limits.handshake_timeout_s if tls is not None else None,
                ssl_shutdown_timeout=self.limits.linger_s if tls is not None else None,
            )
        except OSError:  # every TLS error and the handshake's time-out are among them
            self.left(link)
            self._turned_away(TurnedAway.TLS_FAILED, link.peer)
        except asyncio.CancelledError:  # we stop
            self.left(link)
            raise


def _bound(family: int, where: _Where) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # "[::]" means every address, as everywhere on Linux
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if where[0] == "::" else 1)
        listening.bind(where)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _listen_error(error: OSError, host: str, port: int) -> TransientError | PermanentError:
    where = f"{host}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            return TransientError("listen-in-use", f"another program listens at {where}; `ss -tlnp` shows which")
        case errno.EADDRNOTAVAIL:
            return TransientError("listen-address-missing", f"no interface of this box has the address of {where} (yet)")
        case errno.EACCES | errno.EPERM:
            return PermanentError("listen-not-permitted", f"this account may not listen at {where}; ports below 1024 need a capability")
    if isinstance(error, socket.gaierror):
        return TransientError("listen-address-missing", f"the host name of {where} cannot be resolved")
    return PermanentError("listen-failed", f"the system refused to listen at {where}")
