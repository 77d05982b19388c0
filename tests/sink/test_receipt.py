"""Receipts: whatever a destination writes, it is a verdict per event or nothing at all."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.errors import RemoteProtocolError
from gateway.model.receipt import VerdictKind
from gateway.sink.https_receipt import read_receipt

IDS = ["g/i/1", "g/i/2", "g/i/3"]

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=10) | st.sampled_from(["accepted", "results", *IDS]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["results", "id", "status", "reason", "x"]), inner),
    max_leaves=20,
)
results = st.fixed_dictionaries(
    {"id": st.sampled_from([*IDS, "g/i/4"]), "status": st.sampled_from(["accepted", "duplicate", "rejected", "retry", "ok"])},
    optional={"reason": st.none() | st.text() | st.integers(0, 9), "more": json_values},
)


@given(st.binary(max_size=200) | json_values.map(orjson.dumps) | st.lists(results, max_size=5).map(lambda r: orjson.dumps({"results": r})))
def test_any_bytes_are_a_verdict_per_event_or_refused_without_their_text(body: bytes) -> None:
    refused = None
    try:
        verdicts = read_receipt(body, IDS)
    except RemoteProtocolError as error:
        refused = error
    if refused is not None:
        assert str(refused) == refused.code
        assert refused.__suppress_context__ or refused.__context__ is None
        return
    assert len(verdicts) == len(IDS)
    named = {result["id"]: result["status"] for result in orjson.loads(body)["results"]}
    for event_id, verdict in zip(IDS, verdicts, strict=True):
        assert verdict.kind.value == named.get(event_id, "doubt")


def test_reasons_are_kept_but_not_without_end() -> None:
    body = orjson.dumps({"results": [{"id": IDS[0], "status": "rejected", "reason": "n" * 5000, "extra": True}]})
    verdict = read_receipt(body, IDS)[0]
    assert (verdict.kind, len(verdict.reason)) == (VerdictKind.REJECTED, 1000)


@pytest.mark.parametrize("depth", [10_000])
def test_nesting_without_end_is_refused(depth: int) -> None:
    with pytest.raises(RemoteProtocolError):
        read_receipt(b"[" * depth, IDS)
