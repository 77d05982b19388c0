"""The client side of a TCP connection, and what every TCP socket of this program is set to."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Final

from gateway.model.errors import TransientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.transport.tls import ClientTls

__all__ = ["TcpLink", "connect", "tune"]

_READ_BYTES: Final = 64 * 1024
_KEEPALIVE_IDLE_S: Final = 60
_KEEPALIVE_INTERVAL_S: Final = 10
_KEEPALIVE_PROBES: Final = 6
#: Unacknowledged bytes for so long mean that the peer is gone (Source: RFC 5482); keepalive does not run meanwhile.
_USER_TIMEOUT_MS: Final = 60_000
_CLOSE_S: Final = 2.0


class TcpLink:
    """One outbound connection. Made by ``connect``; not shared between tasks."""

    __slots__ = ("_reader", "_writer")

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the system; returns when there is room for more, not when the peer has it.

        Raises: TransientError connection-lost; some of the bytes may have arrived.
        """
        try:
            self._writer.write(data)
            await self._writer.drain()
        except (OSError, RuntimeError):  # RuntimeError: the transport was closed under us
            raise TransientError("connection-lost", "the peer closed the connection") from None

    async def receive(self, timeout_s: float) -> bytes:
        """Some bytes, at most 64 KiB; ``b""`` once the peer has closed (or reset) the connection.

        Raises: TransientError answer-timeout. The caller closes the link then: a late answer would be taken for another.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reader.read(_READ_BYTES)
        except TimeoutError as error:
            if error.errno is not None:  # the kernel's ETIMEDOUT (keepalive, user timeout), not ours
                return b""
            raise TransientError("answer-timeout", "the peer did not answer in time") from None
        except OSError:
            return b""

    async def close(self) -> None:
        """Send what was written and close; after 2 s the rest is thrown away. Idempotent."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except OSError:
            return  # lost before; closed is closed


async def connect(host: str, port: int, tls: ClientTls | None, timeout_s: float) -> TcpLink:
    """Connect within ``timeout_s``, name resolution and TLS handshake included; each address of the host is tried.

    Raises: TransientError with code name-unknown, connect-refused, connect-timeout, connect-failed or tls-failed.
    """
    try:
        async with asyncio.timeout(timeout_s):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
            addresses = [(family, str(where[0])) for family, _, _, _, where in dict.fromkeys(found)]
            return await _first_that_answers(addresses, host, port, tls, timeout_s)
    except OSError as error:
        raise _connect_error(error, host, port, with_tls=tls is not None) from None


async def _first_that_answers(
    addresses: Sequence[tuple[socket.AddressFamily, str]], host: str, port: int, tls: ClientTls | None, timeout_s: float
) -> TcpLink:
    """Each address gets an equal part of the time, so that a dead first one does not use it up."""
    last: OSError = socket.gaierror(socket.EAI_NONAME)
    for family, address in addresses:
        try:
            async with asyncio.timeout(timeout_s / len(addresses)):
                reader, writer = await asyncio.open_connection(
                    address,
                    port,
                    family=family,
                    ssl=None if tls is None else tls.context,
                    server_hostname=None if tls is None else tls.server_name or host,
                )
        except OSError as error:
            last = error
            continue
        tune(writer.get_extra_info("socket"))
        return TcpLink(reader, writer)
    raise last


def _connect_error(error: OSError, host: str, port: int, *, with_tls: bool) -> TransientError:
    """Our words; ``host`` and ``port`` come from the configuration."""
    where = f"{host}:{port}"
    match error:
        case socket.gaierror():
            return TransientError("name-unknown", f"the name {host} cannot be resolved; check it and the DNS server of this box")
        case ssl.SSLCertVerificationError():
            return TransientError(
                "tls-failed", f"the certificate of {where} is not valid for this name, time and CA; check ca and server_name"
            )
        case ssl.SSLError() | ConnectionResetError() | ConnectionAbortedError() if with_tls:
            return TransientError("tls-failed", f"{where} does not speak TLS 1.2 or newer, or asks for a client certificate")
        case ConnectionRefusedError():
            return TransientError("connect-refused", f"nothing listens at {where}, or a firewall refuses")
        case TimeoutError():
            return TransientError("connect-timeout", f"no answer from {where}; check address, route and firewall")
    return TransientError("connect-failed", f"{where} cannot be reached from here; check address and route")


def tune(connected: socket.socket) -> None:
    """Notice a dead peer within about two minutes, and do not wait to fill segments."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S),
        (socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S),
        (socket.TCP_KEEPCNT, _KEEPALIVE_PROBES),
        (socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS),
    ):
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
