"""The ``https`` kind: a batch of CloudEvents per POST, and what each answer means (DESIGN 6.3, to the letter)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Final, assert_never

import zstandard

from gateway.codec.cloudevents import BATCH_CONTENT_TYPE, batch_json, event_json
from gateway.model.errors import ConfigurationError, InDoubtError, PermanentError, RemoteProtocolError, TransientError
from gateway.model.receipt import Answered, BatchRejected, BatchTooLarge, Blocked, Failed, Later, RouteState, Verdict, VerdictKind
from gateway.sink.https_receipt import REASON_MAX_CHARS, read_receipt
from gateway.sink.https_settings import Compression
from gateway.sink.watched_files import TlsFiles, Token
from gateway.transport.http_client import HttpClient, HttpPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from gateway.model.message import Delivery
    from gateway.model.receipt import Outcome
    from gateway.settings.fields import SecretReference
    from gateway.sink.https_settings import HttpsSettings
    from gateway.sink.services import SinkServices
    from gateway.transport.http_client import HttpAnswer

__all__ = ["MEANINGS", "RETRY_AFTER_MAX_S", "HttpsSink", "Meaning", "build", "meaning_of", "retry_after_s"]

#: No destination may silence a route for longer with one header.
RETRY_AFTER_MAX_S: Final = 3600.0
#: So many events are rendered in one go (0.3 ms), then senders are served.
_SLICE_EVENTS: Final = 64
#: Below this compressing here is cheaper than handing over to another thread.
_INLINE_MAX_BYTES: Final = 16 * 1024
#: Level 1: 4.5 to 1 on HL7 at 6 µs a message; level 6 makes 5.5 to 1 of it at 17 µs.
_LEVEL: Final = 1
_GZIP_WINDOW: Final = 31

_SECONDS: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_ACCEPTED: Final = Verdict(VerdictKind.ACCEPTED)


class Meaning(Enum):
    """What a status says about the batch."""

    RECEIPT = "the body names what was taken"
    ALL_TAKEN = "everything was taken, if the body is empty"
    NO_RECEIPT = "not a receipt: a portal or a proxy answers"
    REJECTED = "not acceptable as a whole: bisect"
    TOO_LARGE = "too large: halve"
    CREDENTIALS = "credentials: blocked, nothing dropped"
    CONFIGURATION = "address or method: blocked, nothing dropped"
    LATER = "as Retry-After says; without one as any failure"
    FAILURE = "try again with full jitter"


#: Statuses that are not as their hundred (``meaning_of``).
MEANINGS: Final[Mapping[int, Meaning]] = {
    200: Meaning.RECEIPT,
    **dict.fromkeys((202, 204), Meaning.ALL_TAKEN),
    **dict.fromkeys((400, 422), Meaning.REJECTED),
    413: Meaning.TOO_LARGE,
    **dict.fromkeys((401, 403), Meaning.CREDENTIALS),
    **dict.fromkeys((404, 405, 406, 410, 411, 415, 421, 426, 431), Meaning.CONFIGURATION),
    **dict.fromkeys((429, 503), Meaning.LATER),
}
_BY_HUNDRED: Final[Mapping[int, Meaning]] = {2: Meaning.NO_RECEIPT, 3: Meaning.CONFIGURATION}


def meaning_of(status: int) -> Meaning:
    """The row of that status."""
    return MEANINGS.get(status) or _BY_HUNDRED.get(status // 100, Meaning.FAILURE)


@dataclass(frozen=True, slots=True)
class _Request:
    """A rendered batch: the same deliveries give the same bytes, so digest and idempotency key are the same too."""

    batch: tuple[Delivery, ...]
    body: bytes
    digest: bytes

    @property
    def idempotency_key(self) -> str:
        return self.digest.hex()[:32]


class HttpsSink:
    """One route's HTTP destination. At most one ``send`` at a time."""

    def __init__(
        self, settings: HttpsSettings, services: SinkServices, client: HttpClient, token: Token | None, tls: TlsFiles | None
    ) -> None:
        self.max_messages = settings.batch.max_messages
        self.max_bytes = settings.batch.max_bytes
        self.linger_s = settings.batch.linger_ms / 1000
        self._compression = settings.compression
        self._services = services
        self._client = client
        self._token = token
        self._tls = tls
        self._ahead: tuple[tuple[Delivery, ...], asyncio.Task[_Request]] | None = None
        self._last: _Request | None = None

    def accepts(self, delivery: Delivery) -> bool:
        """Everything has a CloudEvents form."""
        del delivery
        return True

    def prepare(self, batch: Sequence[Delivery]) -> None:
        """Render and compress it while another one is under way."""
        wanted = tuple(batch)
        if self._ahead is not None:
            if self._ahead[0] == wanted:
                return
            self._ahead[1].cancel()
        self._ahead = (wanted, asyncio.get_running_loop().create_task(self._render(wanted)))

    async def send(self, batch: Sequence[Delivery]) -> Outcome:
        """One POST; see ``MEANINGS`` for what its answer is taken for."""
        request = await self._request(tuple(batch))
        try:
            headers = self._headers(request)
            if self._tls is not None and self._tls.changed():
                await self._client.renew(self._tls.tls())
        except PermanentError as error:
            return Blocked(RouteState.AUTH_BLOCKED, error.code)
        except ConfigurationError:
            return Blocked(RouteState.MISCONFIGURED, "tls-files")
        try:
            answer = await self._client.post(request.body, headers)
        except TransientError as error:
            return Failed(error.code)
        except InDoubtError as error:
            return Failed(error.code, in_doubt=True)
        meaning = meaning_of(answer.status)
        if meaning is Meaning.CREDENTIALS and self._token is not None:
            self._token.forget()
        return _OUTCOMES[meaning](answer, request, self._services)

    async def close(self) -> None:
        """Close the connection; idempotent."""
        if self._ahead is not None:
            self._ahead[1].cancel()
            self._ahead = None
        await self._client.close()

    # --- the request ----------------------------------------------------------------------------------------------

    async def _request(self, batch: tuple[Delivery, ...]) -> _Request:
        """The rendered batch: as before where it is sent again, prepared, or made now."""
        if self._last is not None and self._last.batch == batch:
            return self._last
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == batch:
            self._last = await ahead[1]
        else:
            if ahead is not None:
                ahead[1].cancel()
            self._last = await self._render(batch)
        return self._last

    async def _render(self, batch: tuple[Delivery, ...]) -> _Request:
        gateway, route = self._services.gateway, self._services.route
        events: list[bytes] = []
        for start in range(0, len(batch), _SLICE_EVENTS):
            if start:
                await asyncio.sleep(0)
            events += [event_json(delivery, gateway, route) for delivery in batch[start : start + _SLICE_EVENTS]]
        plain = batch_json(events)
        if len(plain) <= _INLINE_MAX_BYTES:
            body, digest = _encode(plain, self._compression)
        else:
            body, digest = await asyncio.get_running_loop().run_in_executor(self._services.executor, _encode, plain, self._compression)
        return _Request(batch, body, digest)

    def _headers(self, request: _Request) -> dict[str, str]:
        headers = {
            "Content-Type": BATCH_CONTENT_TYPE,
            "Content-Digest": f"sha-256=:{base64.b64encode(request.digest).decode('ascii')}:",
            # Source: draft-ietf-httpapi-idempotency-key-header-06: a structured string, hence the quotes.
            "Idempotency-Key": f'"{request.idempotency_key}"',
            "Accept": "application/json",
        }
        if self._compression is not Compression.NONE:
            headers["Content-Encoding"] = self._compression.value
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.value()}"
        return headers


def _receipt(answer: HttpAnswer, request: _Request, services: SinkServices) -> Outcome:
    if answer.body is None:
        return Blocked(RouteState.BAD_RECEIPT, "receipt-too-large")
    ids = [f"{services.gateway}/{delivery.message.incarnation}/{delivery.message.seq}" for delivery in request.batch]
    try:
        return Answered(read_receipt(answer.body, ids), _proof(answer, request))
    except RemoteProtocolError as error:
        return Blocked(RouteState.BAD_RECEIPT, error.code)


def _all_taken(answer: HttpAnswer, request: _Request, _services: SinkServices) -> Outcome:
    if answer.body != b"":
        return Blocked(RouteState.BAD_RECEIPT, "receipt-unexpected")
    return Answered((_ACCEPTED,) * len(request.batch), _proof(answer, request))


def _rejected(answer: HttpAnswer, _request: _Request, _services: SinkServices) -> Outcome:
    text = (answer.body or b"")[: 4 * REASON_MAX_CHARS].decode("utf-8", "replace")
    return BatchRejected(_code(answer), text[:REASON_MAX_CHARS])


def _later(answer: HttpAnswer, _request: _Request, services: SinkServices) -> Outcome:
    after_s = retry_after_s(answer.headers, services.clock.wall_us())
    return Failed(_code(answer)) if after_s is None else Later(after_s, _code(answer))


_OUTCOMES: Final[Mapping[Meaning, Callable[[HttpAnswer, _Request, SinkServices], Outcome]]] = {
    Meaning.RECEIPT: _receipt,
    Meaning.ALL_TAKEN: _all_taken,
    Meaning.NO_RECEIPT: lambda answer, _request, _services: Blocked(RouteState.BAD_RECEIPT, _code(answer)),
    Meaning.REJECTED: _rejected,
    Meaning.TOO_LARGE: lambda answer, _request, _services: BatchTooLarge(_code(answer)),
    Meaning.CREDENTIALS: lambda answer, _request, _services: Blocked(RouteState.AUTH_BLOCKED, _code(answer)),
    Meaning.CONFIGURATION: lambda answer, _request, _services: Blocked(RouteState.MISCONFIGURED, _code(answer)),
    Meaning.LATER: _later,
    Meaning.FAILURE: lambda answer, _request, _services: Failed(_code(answer), in_doubt=True),
}


def _code(answer: HttpAnswer) -> str:
    return f"http-{answer.status}"


def _proof(answer: HttpAnswer, request: _Request) -> str:
    return f"{_code(answer)} {request.idempotency_key}"


def _encode(plain: bytes, compression: Compression) -> tuple[bytes, bytes]:
    """The encoded body and its SHA-256. Deterministic: no time stamp in the gzip header. Runs in another thread."""
    match compression:
        case Compression.GZIP:
            body = zlib.compress(plain, _LEVEL, wbits=_GZIP_WINDOW)
        case Compression.ZSTD:
            body = zstandard.ZstdCompressor(level=_LEVEL).compress(plain)
        case Compression.NONE:
            body = plain
        case _:
            assert_never(compression)
    return body, hashlib.sha256(body).digest()


def retry_after_s(headers: Mapping[str, str], wall_us: int) -> float | None:
    """Seconds until the destination wants to be asked again, at most one hour; None where it names no future time.

    A date is compared with the answer's own ``Date``, so that neither clock has to be right; without one with ours.
    """
    text = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(text):
        after_s = float(text)
    else:
        until = _http_date(text)
        now = _http_date(headers.get("date", "")) or datetime.fromtimestamp(wall_us / 1_000_000, UTC)
        after_s = 0.0 if until is None else (until - now).total_seconds()
    return min(after_s, RETRY_AFTER_MAX_S) if after_s > 0 else None


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def build(settings: HttpsSettings, services: SinkServices) -> HttpsSink:
    """The sink of that ``[[sink]]`` table for one route; connects with the first ``send``."""
    place = HttpPlace(settings.url, settings.connect_timeout_s, settings.answer_timeout_s, settings.proxy or "")
    token = None if settings.token is None else Token(settings.token.place(services.credentials_directory))
    tls = _tls_files(settings, services) if settings.url.startswith("https:") else None
    return HttpsSink(settings, services, HttpClient(place, None), token, tls)


def _tls_files(settings: HttpsSettings, services: SinkServices) -> TlsFiles:
    """Both forms: the ``tls`` table, or the flat settings."""

    def place(reference: SecretReference | None) -> Path | None:
        return None if reference is None else reference.place(services.credentials_directory)

    if settings.tls is not None:
        tls = settings.tls
        return TlsFiles(place(tls.ca), place(tls.cert), place(tls.key), tls.server_name or "")
    cert = place(settings.client_cert)
    return TlsFiles(settings.ca_file, cert, place(settings.client_key) or cert, settings.server_name or "")
