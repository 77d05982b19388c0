"""The sealed record against the vectors of its format, and against everything that may happen to a row."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.sealed_record import OVERHEAD_BYTES, Aead, Opened, RecordContext, RecordHead, Suite, open_record, read_head, seal
from gateway.model.errors import IntegrityError, LocalProtocolError

KEY, NONCE = bytes(range(0x20)), bytes(range(0xA0, 0xAC))
CONTEXT = RecordContext(b"\x11" * 16, b"\x33" * 16, b"\x22" * 16, lane=3, first_seq=1001, count=2, content_kind=1)
TABLE, EPOCH = 1, 7
MESSAGES = (b"MSH|^~\\&|A|B|C|D|||ADT^A01|1|P|2.5\r", b"MSH|^~\\&|A|B|C|D|||ADT^A08|2|P|2.5\r")
PLAINTEXT = b"".join(len(message).to_bytes(4, "big") + message for message in MESSAGES)
CIPHERS: dict[Suite, Aead] = {Suite.AES_256_GCM: AESGCM(KEY), Suite.CHACHA20_POLY1305: ChaCha20Poly1305(KEY)}
SUITES = list(Suite)


def aead_of(suite: Suite, epoch: int) -> Aead | None:
    return CIPHERS[suite] if epoch == EPOCH else None


def sealed(suite: Suite = Suite.AES_256_GCM, plaintext: bytes = PLAINTEXT, *, compressed: bool = False) -> bytes:
    return seal(CIPHERS[suite], suite, NONCE, EPOCH, TABLE, CONTEXT, plaintext, compressed=compressed)


def code_of(record: bytes, context: RecordContext = CONTEXT, table: int = TABLE) -> str:
    with pytest.raises(IntegrityError) as caught:
        open_record(aead_of, table, context, record)
    return caught.value.code


# Worked out once with another program; a change here is a change of the format.
VECTORS = [
    (
        Suite.AES_256_GCM,
        "475752010100000100000007a0a1a2a3a4a5a6a7a8a9aaab",
        "4d4370b83c7c5aa4232dcb11e8ba8e8d",
        "8b566fe329c8b9e65bf1f1dffbc32bffafb4a33be7dd1dc95c240f4ab5c8ae12",
    ),
    (
        Suite.CHACHA20_POLY1305,
        "475752010200000100000007a0a1a2a3a4a5a6a7a8a9aaab",
        "6cd7a3083313cc207121a65833370554",
        "8d22abc18e60a8064a356b622aa1623455bd4acd23df764a99b14e2ebeecbf6a",
    ),
]


@pytest.mark.parametrize(("suite", "head", "tag", "digest"), VECTORS, ids=["aes", "chacha"])
def test_the_vectors_of_the_format(suite: Suite, head: str, tag: str, digest: str) -> None:
    record = sealed(suite)
    assert len(PLAINTEXT) == 78
    assert len(record) == 118 == len(PLAINTEXT) + OVERHEAD_BYTES
    assert record[:24].hex() == head
    assert record[-16:].hex() == tag
    assert sha256(record).hexdigest() == digest
    assert open_record(aead_of, TABLE, CONTEXT, record) == Opened(PLAINTEXT, compressed=False)


def test_the_context_is_66_bytes_in_the_order_of_the_format() -> None:
    assert CONTEXT.encode().hex() == "11" * 16 + "33" * 16 + "22" * 16 + "00000003" + "00000000000003e9" + "00000002" + "0001"


@pytest.mark.parametrize("suite", SUITES)
def test_the_head_is_readable_without_a_key(suite: Suite) -> None:
    assert read_head(sealed(suite, compressed=True)) == RecordHead(suite, compressed=True, table=TABLE, epoch=EPOCH, nonce=NONCE)


@given(st.binary(max_size=200), st.sampled_from(SUITES), st.booleans())
def test_what_is_sealed_opens(plaintext: bytes, suite: Suite, compressed: bool) -> None:
    record = sealed(suite, plaintext, compressed=compressed)
    assert open_record(aead_of, TABLE, CONTEXT, record) == Opened(plaintext, compressed)


@pytest.mark.parametrize("suite", SUITES)
def test_no_single_flipped_bit_opens(suite: Suite) -> None:
    record = sealed(suite)
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        code_of(bytes(flipped))


@pytest.mark.parametrize("suite", SUITES)
def test_no_cut_or_longer_record_opens(suite: Suite) -> None:
    record = sealed(suite)
    for size in range(len(record)):
        code_of(record[:size])
    code_of(record + b"\x00")


MOVED = [
    replace(CONTEXT, gateway=b"\x12" * 16),
    replace(CONTEXT, incarnation=b"\x34" * 16),
    replace(CONTEXT, block=b"\x23" * 16),
    replace(CONTEXT, lane=4),
    replace(CONTEXT, first_seq=1002),
    replace(CONTEXT, count=3),
    replace(CONTEXT, content_kind=2),
]


@pytest.mark.parametrize("context", MOVED, ids=["gateway", "incarnation", "block", "lane", "first_seq", "count", "kind"])
def test_a_record_in_another_place_does_not_open(context: RecordContext) -> None:
    assert code_of(sealed(), context) == "record-tag"


def test_each_failure_has_its_code() -> None:
    record = sealed()
    assert code_of(b"") == code_of(record[:39]) == "record-short"
    assert code_of(b"XWR" + record[3:]) == code_of(record[:3] + b"\x02" + record[4:]) == "record-format"
    assert code_of(record[:4] + b"\x03" + record[5:]) == code_of(record[:5] + b"\x02" + record[6:]) == "record-format"
    assert code_of(record, table=2) == "record-table"
    assert code_of(record[:11] + b"\x08" + record[12:]) == "record-key"
    assert code_of(record[:-1] + bytes([record[-1] ^ 1])) == "record-tag"


def test_the_other_suite_with_the_same_key_does_not_open_it() -> None:
    record = sealed()
    assert code_of(record[:4] + b"\x02" + record[5:]) == "record-tag"


@pytest.mark.parametrize(
    "context", [replace(CONTEXT, gateway=b""), replace(CONTEXT, incarnation=b"x" * 15), replace(CONTEXT, block=b"x" * 17)]
)
def test_ids_of_another_width_are_our_own_mistake(context: RecordContext) -> None:
    with pytest.raises(LocalProtocolError):
        seal(CIPHERS[Suite.AES_256_GCM], Suite.AES_256_GCM, NONCE, EPOCH, TABLE, context, PLAINTEXT)


def test_a_short_nonce_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        seal(CIPHERS[Suite.AES_256_GCM], Suite.AES_256_GCM, NONCE[:11], EPOCH, TABLE, CONTEXT, PLAINTEXT)


@given(st.binary(max_size=150))
def test_any_bytes_open_or_are_the_one_kind_of_error(record: bytes) -> None:
    code_of(record)
