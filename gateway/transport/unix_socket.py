"""Lines over a Unix socket: the server in the event loop, a blocking client for the command line.

Who is at the other end is asked of the kernel (``SO_PEERCRED``), never of the peer. The socket file has mode 0600 from its
first instant. Paths longer than the kernel takes (107 bytes) are refused here; the caller picks a shorter place.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gateway.model.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

__all__ = ["PATH_MAX_BYTES", "Line", "LineClient", "LineServer", "PeerIdentity", "fits"]

#: Source: unix(7): ``sun_path`` has 108 bytes, the last one ends the text.
PATH_MAX_BYTES: Final = 107
_REQUEST_MAX_BYTES: Final = 256 * 1024
_ANSWER_MAX_BYTES: Final = 96 * 1024 * 1024  # a revealed 16 MiB message in base64, with room
_CONNECTIONS_MAX: Final = 32
_ACCEPT_TURNS: Final = 5
_HANG_UP_S: Final = 1.0
_CHUNK_BYTES: Final = 65536
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    gid: int


def fits(path: Path) -> bool:
    """Whether the kernel takes that path as a socket address."""
    return len(os.fsencode(path)) <= PATH_MAX_BYTES


def _identity(line: socket.socket) -> PeerIdentity:
    return PeerIdentity(*_CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


@dataclass(frozen=True, slots=True)
class Line:
    """One connection as the server's user sees it."""

    peer: PeerIdentity
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    async def read(self, timeout_s: float) -> bytes | None:
        """The next line without its end; None at the end of the connection, when it is too long or takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            return None
        return line[:-1]

    async def write(self, line: bytes, timeout_s: float) -> bool:
        """Send one line; False where the peer is gone or does not read for ``timeout_s`` seconds."""
        try:
            self._writer.write(line + b"\n")
            async with asyncio.timeout(timeout_s):
                await self._writer.drain()
        except (TimeoutError, OSError):
            return False
        return True

    async def gone(self) -> None:
        """Returns when the peer has closed its side (what it sends meanwhile is thrown away)."""
        with contextlib.suppress(OSError):
            while await self._reader.read(_CHUNK_BYTES):
                pass


@dataclass(slots=True)
class LineServer:
    """Serves ``talk(line)`` for each connection; at most 32 at once, further ones are closed."""

    path: Path
    talk: Callable[[Line], Awaitable[None]]
    _server: asyncio.Server | None = None
    _inode: int = 0
    _open: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        """Bind and listen. Raises ``UnavailableError`` where the place cannot be used or somebody answers there already."""
        listener = await asyncio.to_thread(_bound, self.path)
        self._inode = self.path.stat().st_ino
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=_REQUEST_MAX_BYTES)

    async def stop(self) -> None:
        """Close the socket, end every connection, remove the file where it is still ours."""
        if self._server is None:
            return
        # Accept no more, and let what was accepted in this turn of the loop get its task, before closing: a connection
        # that asyncio sets up for a closed server is lost without being closed (seen with CPython 3.11).
        asyncio.get_running_loop().remove_reader(self._server.sockets[0].fileno())
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._open) >= _CONNECTIONS_MAX:
            writer.close()
            return
        self._open.add(task)
        try:
            line: socket.socket = writer.get_extra_info("socket")
            await self.talk(Line(_identity(line), reader, writer))
        except asyncio.CancelledError:
            # only ``stop`` cancels; asyncio's own callback would log a cancelled connection as an error
            writer.transport.abort()
        finally:
            await _hang_up(writer)
            self._open.discard(task)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    """Close once what was written has left, or after a second."""
    writer.close()
    with contextlib.suppress(OSError):
        try:
            async with asyncio.timeout(_HANG_UP_S):
                await writer.wait_closed()
        except TimeoutError:
            writer.transport.abort()
            await writer.wait_closed()


def _bound(path: Path) -> socket.socket:
    """A listening socket at ``path``; what a killed daemon left there is removed once nobody answers."""
    if not fits(path):
        raise UnavailableError("socket-path-too-long", f"a Unix socket path has at most {PATH_MAX_BYTES} bytes")
    if _answers(path):
        raise UnavailableError("already-running", f"another process serves {path}; stop it first")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # The mode of the socket's inode is what bind() gives the file: there is no instant at which others may connect.
        os.fchmod(listener.fileno(), 0o600)
        with contextlib.suppress(FileNotFoundError):
            if path.is_socket():
                path.unlink()
        listener.bind(os.fspath(path))
        listener.listen(16)
    except OSError as error:
        listener.close()
        raise UnavailableError("socket-not-bound", f"cannot listen at {path} ({_reason(error)})") from None
    return listener


def _answers(path: Path) -> bool:
    try:
        _connected(path, 1.0).close()
    except OSError:
        return False
    return True


def _connected(path: Path, timeout_s: float) -> socket.socket:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    line.settimeout(timeout_s)
    try:
        line.connect(os.fspath(path))
    except OSError:
        line.close()
        raise
    return line


def _reason(error: OSError) -> str:
    """The kernel's own word for it (``EACCES``), which quotes nothing."""
    return errno.errorcode.get(error.errno or 0, "unknown")


@dataclass(slots=True)
class LineClient:
    """A blocking connection for the command line."""

    _line: socket.socket
    _rest: bytearray = field(default_factory=bytearray)

    @classmethod
    def connect(cls, path: Path, timeout_s: float) -> LineClient | None:
        """A connection, or None where nobody listens there.

        Raises ``UnavailableError`` where somebody does and this account may not talk to it, or does not answer.
        """
        if not fits(path):
            return None
        try:
            return cls(_connected(path, timeout_s))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        except PermissionError:
            hint = f"{path} belongs to another account; run the command as the account of the gateway"
            raise UnavailableError("not-permitted", hint) from None
        except OSError as error:
            raise UnavailableError("no-answer", f"the gateway does not answer at {path} ({_reason(error)})") from None

    def peer(self) -> PeerIdentity:
        """Who serves the socket."""
        return _identity(self._line)

    def send(self, line: bytes) -> None:
        """Send one line. Raises ``UnavailableError`` where the gateway is gone."""
        try:
            self._line.sendall(line + b"\n")
        except OSError as error:
            raise UnavailableError("no-answer", f"the gateway closed the connection ({_reason(error)})") from None

    def lines(self, timeout_s: float | None) -> Iterator[bytes]:
        """Lines without their ends, until the gateway closes; None waits without limit between them.

        Raises ``UnavailableError`` where the next one takes longer than ``timeout_s`` or is longer than 96 MiB.
        """
        self._line.settimeout(timeout_s)
        searched = 0
        while True:
            while (end := self._rest.find(b"\n", searched)) >= 0:
                line = bytes(self._rest[:end])
                del self._rest[: end + 1]
                searched = 0
                yield line
            searched = len(self._rest)
            if not (chunk := self._chunk()):
                return
            self._rest += chunk
            if len(self._rest) > _ANSWER_MAX_BYTES:
                raise UnavailableError("answer-too-long", "the gateway's answer is longer than any answer may be")

    def _chunk(self) -> bytes:
        try:
            return self._line.recv(_CHUNK_BYTES)
        except TimeoutError:
            raise UnavailableError("no-answer", "the gateway took too long to answer; look at its log") from None
        except OSError as error:
            raise UnavailableError("no-answer", f"the connection to the gateway broke ({_reason(error)})") from None

    def close(self) -> None:
        """Let go."""
        self._line.close()
