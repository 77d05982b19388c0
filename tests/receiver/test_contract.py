"""One document, two sides: what the codec sends and what the receiver answers both keep to ``openapi.json``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.codec.cloudevents import BATCH_CONTENT_TYPE
from gateway.model.clock import ClockState
from gateway.model.traffic import TrafficClass
from gateway.receiver.offers import BATCH_MAX_EVENTS, offers
from gateway.receiver.store import ReceiverStore, Status
from gateway.receiver.verify import REFUSALS, RequestRefusedError
from tests.receiver.contract import document, flaws, named, request_flaws
from tests.receiver.events import AT_US, GATEWAY, SECOND, batch, body_of, changed, event, gap, headers

CLASSES = st.sampled_from(list(TrafficClass))
KINDS = st.sampled_from(["hl7.v2.ADT.A01", "hl7.v2.other", "hl7.v2.ACK", "device.message"])
CHARSETS = st.sampled_from(["utf-8", "iso-8859-1", "us-ascii", "shift_jis", ""])


def test_the_document_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def test_every_refusal_is_in_the_document_under_its_status_and_no_other_is() -> None:
    responses = document()["paths"]["/v1/events"]["post"]["responses"]
    said = {
        (int(status), code)
        for status, response in responses.items()
        for kind in response.get("content", {}).values()
        for part in kind["schema"].get("allOf", [])
        for code in part.get("properties", {}).get("code", {}).get("enum", [])
    }
    ours = {(status, code) for code, (status, _) in REFUSALS.items()}
    transport = {
        (400, "not-http"),
        (400, "body-malformed"),
        (408, "body-timeout"),
        (413, "body-too-large"),
        (500, "internal"),
        (503, "busy"),
    }
    assert said == ours | transport | {pair for pair in said if pair[1].startswith("store-")}


def test_the_document_names_what_the_code_names() -> None:
    schemas = document()["components"]["schemas"]
    lane = schemas["Event"]["properties"]["lane"]["pattern"]
    assert lane.rpartition("/(")[2] == "|".join(member.label for member in TrafficClass) + ")$"
    assert schemas["Event"]["properties"]["clockstate"]["enum"] == [state.value for state in ClockState]
    assert schemas["Result"]["properties"]["status"]["enum"] == [status.value for status in Status]
    assert schemas["Batch"]["maxItems"] == BATCH_MAX_EVENTS
    assert list(document()["paths"]["/v1/events"]["post"]["requestBody"]["content"]) == [BATCH_CONTENT_TYPE]


@hypothesis_settings(max_examples=200)
@given(
    seq=st.integers(1, 2**63 - 1),
    laneseq=st.integers(1, 2**63 - 1),
    revision=st.integers(0, 3),
    body=st.binary(min_size=1, max_size=60) | st.text(min_size=1, max_size=60).map(str.encode),
    kind=KINDS,
    charset=CHARSETS,
    traffic=CLASSES,
    state=st.sampled_from(list(ClockState)),
    coding=st.sampled_from(["", "gzip", "zstd"]),
)
def test_whatever_a_gateway_sends_keeps_to_the_document_and_arrives_as_it_was(
    *, seq: int, laneseq: int, revision: int, body: bytes, kind: str, charset: str, traffic: TrafficClass, state: ClockState, coding: str
) -> None:
    sent = event(
        seq, laneseq, revision=revision, body=body, kind=kind, charset=charset, traffic=traffic, clock_state=state, received_us=AT_US
    )
    assert request_flaws(headers(sent, coding), batch(sent)) == []
    (offer,) = offers(batch(sent))
    assert (offer.id.seq, offer.laneseq, offer.revision, offer.body, offer.rejection) == (seq, laneseq, revision, body, "")
    assert offer.lane == f"everything/{traffic.label}"


def test_an_empty_message_is_carried_too() -> None:
    sent = event(1, body=b"")
    assert request_flaws(headers(sent), batch(sent)) == []
    assert offers(batch(sent))[0].body == b""


def test_a_gap_declaration_keeps_to_the_document_and_is_understood() -> None:
    sent = gap(9, 1, 3, 5)
    assert flaws(named("Event"), orjson.loads(sent)) == []
    assert offers(batch(sent))[0].declaration == ("everything/result", 3, 5, "quarantine")


GOOD_GAP: dict[str, Any] = {"lane": "everything/result", "from": 1, "to": 2, "reason": "x"}
BAD_GAPS: list[Any] = [
    *(None, "text", [], {}),
    *(GOOD_GAP | {"from": wrong} for wrong in (0, True, "1", 2.5, None)),
    *(GOOD_GAP | {"to": wrong} for wrong in ("2", 2**63, None)),
    *(GOOD_GAP | {"lane": wrong} for wrong in ("everything/none", "a b/result", "/result", 7)),
    *(GOOD_GAP | {"reason": wrong} for wrong in ("A patient's name", "", 7)),
    *({name: value for name, value in GOOD_GAP.items() if name != left_out} for left_out in GOOD_GAP),
]


@pytest.mark.parametrize("data", BAD_GAPS)
def test_a_gap_declaration_that_cannot_be_understood_is_rejected_on_both_sides(data: object) -> None:
    sent = orjson.loads(gap(9, 1, 3, 5)) | {"data": data}
    assert flaws(named("Event"), sent)
    (offer,) = offers(orjson.dumps([sent]))
    assert (offer.declaration, offer.digest, bool(offer.rejection)) == (None, b"", True)


# What a schema cannot tell: the parts of one event that must fit each other, and 7.0, an integer in JSON but no counter.
DATA = ("data", "data_base64", "datacharset", "datacontenttype")
COUNTERS = ("laneseq", "revision")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20)  # "$" of a pattern forgives a last line end
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ATTRIBUTES = sorted({*orjson.loads(event(7)), "data_base64"})
NEAR = st.sampled_from(
    [
        *("", "1.0", "2.0", f"{GATEWAY}/{SECOND}/7", f"{GATEWAY}/{SECOND}/07", "ward-3/x/7", "urn:edge-gateway:ward-3:"),
        *("urn:edge-gateway:ward-3:a b", "7", "007", "-7", "0", "9223372036854775808", "everything/result", "everything/none"),
        *("every thing/result", "/result", "00000000000000000007", "2026-11-25T00:00:00Z", "2026-11-25", "synced", "YQ=="),
    ]
)


@hypothesis_settings(max_examples=400)
@given(st.dictionaries(st.sampled_from(ATTRIBUTES), JSON | NEAR | st.just(...), max_size=3))
def test_what_the_receiver_applies_keeps_to_the_document(attributes: dict[str, Any]) -> None:
    """The receiver may say no to more than a schema can tell (sequence against id), never to less."""
    sent = orjson.loads(event(7)) | attributes
    sent = {name: value for name, value in sent.items() if value is not ...}
    try:
        (offer,) = offers(orjson.dumps([sent]))
    except RequestRefusedError as refused:
        taken, code = False, refused.code
    else:
        taken, code = not offer.rejection, "event-unnamed"
    assert code == "event-unnamed"
    if taken:
        assert flaws(named("Event"), sent) == []
    elif flaws(named("Event"), sent) == []:
        assert attributes.keys() & {"id", "sequence", "source", *DATA, *COUNTERS}


@given(JSON.map(orjson.dumps) | st.binary(max_size=60))
def test_no_content_at_all_makes_anything_else_than_a_refusal(content: bytes) -> None:
    try:
        offered = offers(content)
    except RequestRefusedError as refused:
        code = refused.code
    else:
        assert offered == []
        return
    assert REFUSALS[code][0] in (400, 422)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "batch-not-json"),
        (b"\xff", "batch-not-json"),
        (b"[" * 100_000, "batch-not-json"),
        (b"{}", "batch-not-array"),
        (b"[1]", "event-unnamed"),
        (b"[{}]", "event-unnamed"),
        (batch(changed(event(1), id="ward-3/" + "0" * 32 + "/9999999999999999999")), "event-unnamed"),
        (batch(event(1), event(2, incarnation=SECOND)), "batch-mixed"),
        (batch(event(1), event(2, gateway="ward-4")), "batch-mixed"),
        (batch(event(1), event(1, revision=1)), "batch-repeats"),
        (b"[" + b"1," * BATCH_MAX_EVENTS + b"1]", "batch-too-long"),
    ],
)
def test_a_batch_that_cannot_be_judged_is_refused_as_a_whole(content: bytes, code: str) -> None:
    with pytest.raises(RequestRefusedError) as refused:
        offers(content)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "attributes",
    [
        *({"laneseq": wrong} for wrong in ("0", None, 2**63, -1)),
        *({"lane": wrong} for wrong in ("no/such", "a b/result", 7)),
        *({"specversion": "0.3"}, {"time": "yesterday"}, {"sequence": "00000000000000000002"}, {"source": "urn:edge-gateway:other:adt"}),
        *({"data": None}, {"data_base64": "YQ=="}, {"datacharset": "no-such-charset"}),
    ],
)
def test_one_bad_event_is_rejected_by_name_and_its_neighbours_are_applied(attributes: dict[str, Any]) -> None:
    content = batch(event(1), changed(event(3, body=body_of(3)), **attributes), event(2))
    with tempfile.TemporaryDirectory() as folder:
        store = ReceiverStore(Path(folder))
        store.open()
        applied = store.apply(offers(content), AT_US)
        store.close()
    assert [(result.id.rpartition("/")[2], result.status) for result in applied.results] == [
        ("1", "accepted"),
        ("3", "rejected"),
        ("2", "accepted"),
    ]
    assert applied.results[1].reason.startswith("event-")


def test_a_reason_never_quotes_the_event() -> None:
    canary = "DOE-CANARY"
    for name in ATTRIBUTES:
        sent = orjson.loads(event(7)) | ({name: canary} if name != "id" else {"time": canary})
        (offer,) = offers(orjson.dumps([sent]))
        assert canary not in offer.rejection


def test_a_judge_of_the_receivers_own_rejects_with_its_reason() -> None:
    offered = offers(batch(event(1), event(2)), lambda received: "odd numbers only" if received.event_id.seq % 2 == 0 else "")
    assert [offer.rejection for offer in offered] == ["", "odd numbers only"]
