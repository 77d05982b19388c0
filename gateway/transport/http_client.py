"""One HTTP destination: bytes out, an answer of bounded size back, every failure one of our errors.

Nothing is followed (redirects), remembered (cookies), unpacked (the request asks for no content coding) or taken from
the environment (proxy variables). Whether a failure leaves the request in doubt is told by the class of the error:
``TransientError`` = no byte of the body was sent, ``InDoubtError`` = it may have been received and applied.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp import hdrs
from aiohttp.payload import BytesIOPayload

from gateway.model.errors import InDoubtError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.transport.tls import ClientTls

__all__ = ["ANSWER_MAX_BYTES", "HttpAnswer", "HttpClient", "HttpPlace"]

#: 500 results of 200 bytes are 100 kB; a larger answer is no receipt.
ANSWER_MAX_BYTES: Final = 4 * 1024 * 1024
#: Below the idle timeouts of usual load balancers (60 s and more), so that we close first.
_KEEPALIVE_S: Final = 45.0
_DNS_S: Final = 30
_READ_BYTES: Final = 64 * 1024
_NAME_UNKNOWN: Final = ("name-unknown", "the name of the destination cannot be resolved; check it and the DNS server")
#: The first row that fits tells class, code and hint.
_FAILURES: Final[tuple[tuple[type[Exception], type[TransientError | InDoubtError], str, str], ...]] = (
    (aiohttp.InvalidURL, TransientError, "url-invalid", "the address cannot be used; check url"),
    (aiohttp.ClientConnectorDNSError, TransientError, *_NAME_UNKNOWN),
    (
        aiohttp.ClientConnectorCertificateError,
        TransientError,
        "tls-certificate",
        "the certificate is not valid for this name, time and CA; check ca and server_name",
    ),
    (
        aiohttp.ClientConnectorSSLError,
        TransientError,
        "tls-failed",
        "the destination does not speak TLS 1.2 or newer, or asks for a client certificate",
    ),
    (aiohttp.ClientHttpProxyError, TransientError, "proxy-refused", "the proxy does not let the request through; check proxy"),
    (aiohttp.ClientProxyConnectionError, TransientError, "proxy-unreachable", "the proxy cannot be reached; check proxy"),
    (ssl.SSLError, InDoubtError, "tls-failed", "the TLS connection broke; perhaps a client certificate is asked for"),
)


@dataclass(frozen=True, slots=True)
class HttpPlace:
    """Where and how. ``proxy`` "" = none.

    ``connect_timeout_s``: name, TCP and TLS together; ``answer_timeout_s``: from then on to the last byte of the answer.
    """

    url: str
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 10.0
    proxy: str = ""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """``headers``: names in lower case, the first of equal ones. ``body`` None = longer than ``ANSWER_MAX_BYTES``."""

    status: int
    headers: Mapping[str, str]
    body: bytes | None


class HttpClient:
    """Keeps one connection alive. ``renew`` gives it another TLS context; ``close`` is idempotent."""

    def __init__(self, place: HttpPlace, tls: ClientTls | None) -> None:
        self._place = place
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """Send one request and read its answer.

        Raises: TransientError (name-unknown, connect-refused, connect-timeout, connect-failed, tls-failed, tls-certificate,
        proxy-refused, proxy-unreachable, url-invalid), InDoubtError (answer-timeout, connection-lost, http-protocol).
        """
        session = self._open()
        place = self._place
        try:
            async with asyncio.timeout(place.connect_timeout_s + place.answer_timeout_s):
                # BytesIOPayload writes in pieces; aiohttp would copy a plain bytes body into one buffer, and warns above 1 MiB.
                data = BytesIOPayload(io.BytesIO(body))
                name = self._tls.server_name or None if self._tls is not None else None
                async with session.post(place.url, data=data, headers=headers, server_hostname=name, allow_redirects=False) as answer:
                    return await _read(answer)
        except TimeoutError as error:
            raise _timeout(error) from None
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise _failure(error) from None

    async def renew(self, tls: ClientTls | None) -> None:
        """Use other certificates from the next request on."""
        await self.close()
        self._tls = tls

    async def close(self) -> None:
        """Close the connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            place, tls = self._place, self._tls
            connector = aiohttp.TCPConnector(
                limit=1, ttl_dns_cache=_DNS_S, keepalive_timeout=_KEEPALIVE_S, ssl=True if tls is None else tls.context
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=None, connect=place.connect_timeout_s, sock_read=place.answer_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                proxy=place.proxy or None,
                headers={hdrs.ACCEPT_ENCODING: "identity", hdrs.USER_AGENT: "edge-gateway"},
            )
        return self._session


async def _read(answer: aiohttp.ClientResponse) -> HttpAnswer:
    headers: dict[str, str] = {}
    for name, value in answer.headers.items():
        headers.setdefault(name.lower(), value)
    chunks: list[bytes] = []
    size_bytes = 0
    async for chunk in answer.content.iter_chunked(_READ_BYTES):
        chunks.append(chunk)
        size_bytes += len(chunk)
        if size_bytes > ANSWER_MAX_BYTES:
            answer.close()
            return HttpAnswer(answer.status, headers, None)
    return HttpAnswer(answer.status, headers, b"".join(chunks))


def _timeout(error: TimeoutError) -> TransientError | InDoubtError:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TransientError("connect-timeout", "no connection in time; check address, route and firewall")
    return InDoubtError("answer-timeout", "no complete answer in time")


def _failure(error: Exception) -> TransientError | InDoubtError:
    """Our words: texts of the libraries quote addresses, headers and answers."""
    found = next((row for row in _FAILURES if isinstance(error, row[0])), None)
    if found is not None:
        return found[1](*found[2:])
    if isinstance(error, aiohttp.ClientConnectorError):
        return _connect_failure(error.os_error)
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return InDoubtError("connection-lost", "the connection ended before the answer was complete")
    return InDoubtError("http-protocol", "what came back is not HTTP/1.1")


def _connect_failure(error: OSError) -> TransientError:
    match error:
        case socket.gaierror():
            return TransientError(*_NAME_UNKNOWN)
        case ConnectionRefusedError():
            return TransientError("connect-refused", "nothing listens there, or a firewall refuses")
        case TimeoutError():
            return TransientError("connect-timeout", "no connection in time; check address, route and firewall")
    return TransientError("connect-failed", "the destination cannot be reached from here; check address and route")
