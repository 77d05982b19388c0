"""What a request must be before one event of it is looked at: its headers, its digest, its content coding.

Pure functions; every refusal is a ``RequestRefusedError`` with a code of ``REFUSALS``, which is the table of the OpenAPI document.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
import zlib
from base64 import b64decode
from typing import TYPE_CHECKING, Final

import zstandard

from gateway.codec.cloudevents import BATCH_CONTENT_TYPE
from gateway.model.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["REFUSALS", "RequestRefusedError", "authorised", "content"]

#: An Idempotency-Key is kept by nobody here (events carry their own identity), but one without end is no key.
_KEY_MAX_CHARACTERS: Final = 255

#: code -> (status, what it says to a person). The words are the contract; the tests compare them with openapi.json.
REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    "content-digest-missing": (400, "the request carries no Content-Digest with sha-256 or sha-512 (RFC 9530)"),
    "content-digest-malformed": (400, "Content-Digest is not a dictionary of byte sequences, such as sha-256=:…: (RFC 9530)"),
    "content-digest-mismatch": (400, "the body is not the one that the Content-Digest was made over"),
    "idempotency-key-missing": (400, "the request carries no Idempotency-Key of 1 to 255 printable characters"),
    "content-coding-broken": (400, "the body does not decode as its Content-Encoding says"),
    "batch-not-json": (400, "the body is not JSON in UTF-8"),
    "batch-not-array": (400, "the body is not a JSON array of events"),
    "token-missing": (401, "the request carries no bearer token"),
    "token-wrong": (401, "the bearer token is not the one of this receiver"),
    "content-too-large": (413, "the decoded body has more bytes than this receiver takes: send less at once"),
    "batch-too-long": (413, "the batch holds more events than this receiver takes at once: send fewer"),
    "content-type-unsupported": (415, f"this path takes {BATCH_CONTENT_TYPE}"),
    "content-coding-unsupported": (415, "Content-Encoding may be gzip or zstd, one of them, or absent"),
    "event-unnamed": (422, "an event has no usable id, so that no verdict could name it"),
    "batch-mixed": (422, "a batch holds the events of one gateway and one incarnation"),
    "batch-repeats": (422, "a batch holds an id once, because verdicts are given by id"),
}


class RequestRefusedError(GatewayError):
    """The request as a whole is not taken and nothing of it was applied. ``hint`` is the sentence of ``REFUSALS``."""

    def __init__(self, code: str, where: str = "") -> None:
        status, detail = REFUSALS[code]
        super().__init__(code, f"{detail}: {where}" if where else detail)
        self.status = status


def authorised(headers: Mapping[str, str], token: bytes) -> str | None:
    """None where the bearer token is right, else the code of the refusal. Takes as long for any wrong token."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        return "token-missing"
    return None if hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token) else "token-wrong"


def content(headers: Mapping[str, str], body: bytes, max_bytes: int) -> bytes:
    """The decoded body of a request that is what its headers say; at most ``max_bytes``, also while it is decoded.

    Raises: RequestRefusedError.
    """
    _check_type(headers.get("content-type", ""))
    _check_key(headers.get("idempotency-key", ""))
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in _CODINGS:
        raise RequestRefusedError("content-coding-unsupported")
    _check_digest(headers.get("content-digest", ""), body)
    return _CODINGS[coding](body, max_bytes)


def _check_type(value: str) -> None:
    kind, *parameters = (part.strip().lower() for part in value.split(";"))
    charsets = [name.removeprefix("charset=").strip('"') for name in parameters if name.startswith("charset=")]
    if kind != BATCH_CONTENT_TYPE or any(name != "utf-8" for name in charsets):
        raise RequestRefusedError("content-type-unsupported")


def _check_key(value: str) -> None:
    if not 0 < len(value) <= _KEY_MAX_CHARACTERS or not value.isprintable():
        raise RequestRefusedError("idempotency-key-missing")


# One member of a structured-field dictionary whose value is a byte sequence. Source: RFC 8941 sections 3.2 and 3.3.5.
_MEMBER: Final = re.compile(r"\s*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):\s*")
_DIGESTS: Final = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}


def _check_digest(value: str, body: bytes) -> None:
    """Every digest that can be checked must fit, and there must be one. Source: RFC 9530 section 2."""
    checked = 0
    for member in value.split(",") if value.strip() else ():
        if not (match := _MEMBER.fullmatch(member)):
            raise RequestRefusedError("content-digest-malformed")
        algorithm = _DIGESTS.get(match[1])
        if algorithm is not None:
            if not hmac.compare_digest(_byte_sequence(match[2]), algorithm(body).digest()):
                raise RequestRefusedError("content-digest-mismatch")
            checked += 1
    if not checked:
        raise RequestRefusedError("content-digest-missing")


def _byte_sequence(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        raise RequestRefusedError("content-digest-malformed") from None


def _identity(body: bytes, max_bytes: int) -> bytes:
    if len(body) > max_bytes:
        raise RequestRefusedError("content-too-large")
    return body


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    """One gzip member; never more than one byte past the limit in memory.

    Rejected: several members, which RFC 1952 allows. No sender of ours makes them, and a million empty ones cost hours.
    """
    member = zlib.decompressobj(wbits=31)
    try:
        plain = member.decompress(body, max_bytes + 1)
    except zlib.error:
        raise RequestRefusedError("content-coding-broken") from None
    if len(plain) > max_bytes:
        raise RequestRefusedError("content-too-large")
    if not member.eof or member.unused_data:
        raise RequestRefusedError("content-coding-broken")
    return plain


#: A frame without a stated size is decoded in slices: 64 bytes can make 2 MiB at most (blocks of 128 KiB take 4 bytes).
_SLICE_BYTES: Final = 64


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    """One zstd frame. Source: RFC 8878; a frame that states its size is measured before it is decoded."""
    try:
        stated = zstandard.frame_content_size(body)
        if stated > max_bytes:
            raise RequestRefusedError("content-too-large")
        if stated >= 0:
            return zstandard.ZstdDecompressor().decompress(body, allow_extra_data=False)
        return _unzstd_slices(body, max_bytes)
    except zstandard.ZstdError:
        raise RequestRefusedError("content-coding-broken") from None


def _unzstd_slices(body: bytes, max_bytes: int) -> bytes:
    frame = zstandard.ZstdDecompressor().decompressobj()
    parts: list[bytes] = []
    room = max_bytes
    for start in range(0, len(body), _SLICE_BYTES):
        part = frame.decompress(body[start : start + _SLICE_BYTES])
        room -= len(part)
        if room < 0:
            raise RequestRefusedError("content-too-large")
        parts.append(part)
        if frame.eof and (frame.unused_data or start + _SLICE_BYTES < len(body)):
            raise RequestRefusedError("content-coding-broken")
    if not frame.eof:
        raise RequestRefusedError("content-coding-broken")
    return b"".join(parts)


_CODINGS: Final[Mapping[str, Callable[[bytes, int], bytes]]] = {"identity": _identity, "gzip": _gunzip, "x-gzip": _gunzip, "zstd": _unzstd}
