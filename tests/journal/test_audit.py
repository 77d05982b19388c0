"""Audit records and links: what goes in comes out, and the vectors of the design hold."""

from __future__ import annotations

import hmac
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.audit import GENESIS, AuditKind, AuditRecord, chain_next, decode_records, encode_records, runs, total
from gateway.model.errors import IntegrityError

SEQ = st.integers(1, 2**62)
NAMES = st.text("abc-7", max_size=8)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    return runs(sorted(draw(st.sets(st.integers(1, 10_000), max_size=30))))


RECORDS = st.builds(
    AuditRecord,
    kind=st.sampled_from(AuditKind),
    seqs=ranges(),
    route=NAMES,
    source=NAMES,
    actor=NAMES,
    detail=st.dictionaries(NAMES, st.integers(-(2**62), 2**62) | NAMES, max_size=3),
)


@given(records=st.lists(RECORDS, max_size=5))
def test_records_survive_the_commit_row(records: list[AuditRecord]) -> None:
    assert list(decode_records(orjson.loads(orjson.dumps(encode_records(records))))) == records


def test_the_record_of_every_commit_is_small() -> None:
    assert orjson.dumps(encode_records([AuditRecord(AuditKind.ACCEPT, ((1001, 1064),))])) == b'[["accept",[1001,63]]]'


@given(value=st.recursive(st.none() | st.integers() | st.text("acept", max_size=6), lambda inner: st.lists(inner, max_size=7)))
def test_any_other_value_is_an_integrity_error(value: Any) -> None:
    if value in ([], ""):
        assert decode_records(value) == ()
        return
    with pytest.raises(IntegrityError):
        decode_records(value)


@given(seqs=st.lists(st.integers(1, 200)))
def test_runs_hold_exactly_the_numbers(seqs: list[int]) -> None:
    found = runs(sorted(seqs))
    assert [seq for first, last in found for seq in range(first, last + 1)] == sorted(set(seqs))
    assert total(found) == len(set(seqs))
    assert all(after[0] > before[1] + 1 for before, after in pairwise(found))
    record = AuditRecord(AuditKind.DELIVER, found)
    assert all(record.covers(seq) == (seq in set(seqs)) for seq in range(202))


def test_a_link_is_the_hmac_over_the_link_before_number_time_and_sealed_bytes() -> None:
    key = bytes(range(0x20, 0x40))
    first = chain_next(key, GENESIS, 1, 1_700_000_000_000_000, b"sealed")
    assert first == hmac.digest(key, bytes(32) + (1).to_bytes(8, "big") + (1_700_000_000_000_000).to_bytes(8, "big") + b"sealed", "sha256")
    assert first.hex() == "7eaf3bedfaf6f2e4be2666ab149ff97fc04d6cd71d9a35de4f6edce4e2eb16d1"
    assert chain_next(key, first, 2, 1_700_000_000_000_001, b"").hex() == "9d5bac9709c3844eb3697b77bd758e71a718bdf73d5f9d5225d156ee6a892245"


@given(
    a=st.tuples(st.binary(min_size=32, max_size=32), SEQ, SEQ, st.binary()),
    b=st.tuples(st.binary(min_size=32, max_size=32), SEQ, SEQ, st.binary()),
)
def test_another_input_is_another_link(a: tuple[bytes, int, int, bytes], b: tuple[bytes, int, int, bytes]) -> None:
    key = bytes(32)
    assert (chain_next(key, *a) == chain_next(key, *b)) == (a == b)
