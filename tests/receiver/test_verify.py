"""A request is what its headers say, or it is refused with the code of what is wrong; no content is too hostile for that."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gateway.receiver.verify import RequestRefusedError, authorised, content
from tests.receiver.events import CODERS, digest, headers

LIMIT = 1 << 20
BODY = b'[{"a":1}]'


def refusal(sent: dict[str, str], body: bytes, limit: int = LIMIT) -> str:
    with pytest.raises(RequestRefusedError) as refused:
        content(sent, body, limit)
    assert refused.value.hint
    return refused.value.code


@pytest.mark.parametrize("coding", CODERS)
@given(plain=st.binary(max_size=500))
def test_every_coding_gives_the_body_back(coding: str, plain: bytes) -> None:
    body = CODERS[coding](plain)
    assert content(headers(body, coding), body, LIMIT) == plain


def test_a_zstd_frame_that_does_not_state_its_size_is_decoded_too() -> None:
    plain = bytes(range(256)) * 1000
    body = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    assert content(headers(body, "zstd"), body, LIMIT) == plain


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(bytes(LIMIT + 1)),
        zstandard.ZstdCompressor().compress(bytes(LIMIT + 1)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 * LIMIT)),
        bytes(LIMIT + 1),
    ],
)
def test_a_bomb_is_refused_before_it_goes_off(body: bytes) -> None:
    coding = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(body[:2], "")
    assert refusal(headers(body, coding), body) == "content-too-large"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b""),
        ("gzip", BODY),
        ("gzip", zlib.compress(BODY)),
        ("gzip", gzip.compress(BODY)[:-1]),
        ("gzip", gzip.compress(BODY)[:-8] + bytes(8)),
        ("gzip", gzip.compress(BODY) + b"x"),
        ("gzip", gzip.compress(BODY) * 2),
        ("zstd", b""),
        ("zstd", BODY),
        ("zstd", CODERS["zstd"](BODY)[:-1]),
        ("zstd", CODERS["zstd"](BODY) + b"x"),
        ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(BODY)[:-1]),
        ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress(BODY) + b"x"),
    ],
)
def test_what_does_not_decode_as_announced_is_refused(coding: str, body: bytes) -> None:
    assert refusal(headers(body, coding), body) == "content-coding-broken"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"content-type": ""}, "content-type-unsupported"),
        ({"content-type": "application/json"}, "content-type-unsupported"),
        ({"content-type": "application/cloudevents-batch+json; charset=latin1"}, "content-type-unsupported"),
        ({"content-encoding": "br"}, "content-coding-unsupported"),
        ({"content-encoding": "gzip, gzip"}, "content-coding-unsupported"),
        ({"content-digest": ""}, "content-digest-missing"),
        ({"content-digest": "md5=:AAAA:"}, "content-digest-missing"),
        ({"content-digest": "sha-256=AAAA"}, "content-digest-malformed"),
        ({"content-digest": "sha-256=:A:"}, "content-digest-malformed"),
        ({"content-digest": digest(BODY) + ", "}, "content-digest-malformed"),
        ({"content-digest": digest(b"other")}, "content-digest-mismatch"),
        ({"content-digest": "sha-256=::"}, "content-digest-mismatch"),
        ({"content-digest": digest(BODY) + ", sha-512=:AAAA:"}, "content-digest-mismatch"),
        ({"idempotency-key": ""}, "idempotency-key-missing"),
        ({"idempotency-key": "k" * 256}, "idempotency-key-missing"),
        ({"idempotency-key": "a\x7fb"}, "idempotency-key-missing"),
    ],
)
def test_each_header_that_is_missing_or_wrong_has_its_code(changed: dict[str, str], code: str) -> None:
    assert refusal(headers(BODY) | changed, BODY) == code


@pytest.mark.parametrize(
    "changed",
    [
        {"content-type": 'Application/CloudEvents-Batch+JSON; charset="UTF-8"'},
        {"content-encoding": "identity"},
        {"content-digest": f"unknown=:AAAA:, {digest(BODY)}"},
        {"content-digest": f"sha-512=:{base64.b64encode(hashlib.sha512(BODY).digest()).decode()}:"},
    ],
)
def test_other_spellings_that_the_standards_allow_are_taken(changed: dict[str, str]) -> None:
    assert content(headers(BODY) | changed, BODY, LIMIT) == BODY


@given(st.dictionaries(st.sampled_from(sorted(headers(b"", "x"))), st.text(max_size=60)), st.binary(max_size=100))
def test_no_headers_and_no_body_make_anything_else_than_a_refusal(sent: dict[str, str], body: bytes) -> None:
    with contextlib.suppress(RequestRefusedError):
        content(headers(body) | sent, body, LIMIT)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"authorization": "Bearer right"}, None),
        ({"authorization": "bearer  right "}, None),
        ({"authorization": "Bearer wrong"}, "token-wrong"),
        ({"authorization": "Bearer \udce4"}, "token-wrong"),
        ({"authorization": "Basic right"}, "token-missing"),
        ({"authorization": "Bearer"}, "token-missing"),
        ({}, "token-missing"),
    ],
)
def test_a_token_is_the_one_or_it_is_not(sent: dict[str, str], expected: str | None) -> None:
    assert authorised(sent, b"right") == expected
