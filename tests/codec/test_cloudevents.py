"""Events for the cloud: the contract attribute by attribute, and every body byte for byte there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.charset import _CODECS
from gateway.codec.cloudevents import ReceivedEvent, batch_json, decode_batch, decode_event, event_json, payload, read_batch
from gateway.model.clock import ClockState
from gateway.model.errors import RemoteProtocolError
from gateway.model.event import EventId
from gateway.model.message import Delivery, StoredMessage
from gateway.model.traffic import TrafficClass
from tests.codec.messages import ADT

if TYPE_CHECKING:
    from collections.abc import Callable

INCARNATION = "0123456789abcdef" * 2


def stored(body: bytes = ADT, kind: str = "hl7.v2.ADT.A01", charset: str = "utf-8") -> StoredMessage:
    return StoredMessage(
        incarnation=INCARNATION,
        seq=42,
        commit=7,
        source="adt",
        traffic=TrafficClass.ADT,
        kind=kind,
        charset=charset,
        received_us=1_795_348_800_000_123,
        clock_state=ClockState.HOLDOVER,
        ordering_key="0011223344556677",
        body=body,
        envelope=b"BHS|^~\\&|never sent\r",
        route="",
    )


def event(message: StoredMessage | None = None, laneseq: int = 9, revision: int = 0) -> dict[str, Any]:
    loaded = json.loads(event_json(Delivery(message or stored(), laneseq, revision), "ward-3", "everything"))
    assert isinstance(loaded, dict)
    return loaded


def received(message: StoredMessage) -> ReceivedEvent:
    return decode_batch(batch_json([event_json(Delivery(message, 9), "ward-3", "everything")]))[0]


def test_an_event_carries_the_attributes_of_the_contract_and_no_other() -> None:
    assert event() == {
        "specversion": "1.0",
        "id": f"ward-3/{INCARNATION}/42",
        "source": "urn:edge-gateway:ward-3:adt",
        "type": "hl7.v2.ADT.A01",
        "time": "2026-11-22T12:00:00.000123Z",
        "clockstate": "holdover",
        "sequence": "00000000000000000042",
        "lane": "everything/adt",
        "laneseq": "9",
        "revision": 0,
        "partitionkey": "0011223344556677",
        "datacontenttype": "application/hl7-v2+er7",
        "datacharset": "utf-8",
        "data": ADT.decode(),
    }


def test_the_same_delivery_is_the_same_bytes() -> None:
    delivery = Delivery(stored(), 9)
    assert event_json(delivery, "ward-3", "everything") == event_json(delivery, "ward-3", "everything")


def test_a_replay_differs_in_its_revision_alone() -> None:
    first, again = event(), event(revision=1)
    assert again.pop("revision") == 1
    assert first.pop("revision") == 0
    assert again == first


BODIES = [
    (ADT, "utf-8", "data"),
    (b"\xef\xbb\xbf" + ADT, "utf-8", "data"),
    (ADT.replace(b"\r", b"\n").rstrip(), "utf-8", "data"),
    (b"MSH|\x00\x01\x7f\x0b", "utf-8", "data"),
    ("MSH|Müller".encode(), "utf-8", "data"),
    (b"MSH|M\xfcller", "utf-8", "data_base64"),
    (b"MSH|M\xfcller", "iso-8859-1", "data"),
    (b"MSH|M\xfcller", "us-ascii", "data_base64"),
    (b"MSH|\xff", "gb18030", "data_base64"),
    (b"MSH|\xa5\x5c", "big5", "data"),
    (b"MSH|\x83\x5c", "shift_jis", "data"),
    (b"MSH|\x1b$B\x1b(B", "iso-2022-jp", "data_base64"),
    (b"MSH|plain", "", "data_base64"),
    (b"MSH|plain", "jis_x0201", "data_base64"),
    (b"", "utf-8", "data"),
]


@pytest.mark.parametrize(("body", "charset", "member"), BODIES, ids=range(len(BODIES)))
def test_wire_bytes_travel_as_text_only_where_they_survive_it(body: bytes, charset: str, member: str) -> None:
    message = stored(body, charset=charset)
    sent = event(message)
    assert {"data", "data_base64"} & set(sent) == {member}
    assert sent.get("datacharset", "") == charset
    assert payload(received(message)) == body


@given(st.binary(max_size=40), st.sampled_from([*sorted(_CODECS), "", "jis_x0201"]))
def test_any_body_in_any_character_set_arrives_byte_for_byte(body: bytes, charset: str) -> None:
    message = stored(body, charset=charset)
    arrived = received(message)
    assert payload(arrived) == body
    assert arrived.charset == charset


def test_what_was_sent_is_what_is_received() -> None:
    assert received(stored()) == ReceivedEvent(
        event_id=EventId("ward-3", INCARNATION, 42),
        source="urn:edge-gateway:ward-3:adt",
        kind="hl7.v2.ADT.A01",
        time="2026-11-22T12:00:00.000123Z",
        clock_state=ClockState.HOLDOVER,
        lane="everything/adt",
        laneseq=9,
        revision=0,
        partition_key="0011223344556677",
        content_type="application/hl7-v2+er7",
        charset="utf-8",
        data=ADT.decode(),
    )


@pytest.mark.parametrize(
    ("kind", "content_type"),
    [
        ("gateway.gap", "application/json"),
        ("gateway.outcome", "application/json"),
        ("device.observation", "application/json"),
        ("fhir.Bundle", "application/fhir+json"),
    ],
)
def test_json_events_carry_their_object(kind: str, content_type: str) -> None:
    body = b'{"from":3,"to":7,"reason":"quarantine"}'
    message = replace(stored(body, kind), source="gateway", traffic=TrafficClass.AUDIT)
    sent = event(message)
    assert (sent["data"], sent["datacontenttype"], sent["datacharset"]) == (json.loads(body), content_type, "utf-8")
    assert payload(received(message)) == body


def test_broken_json_of_our_own_still_arrives() -> None:
    assert payload(received(stored(b"{", "gateway.gap"))) == b"{"


def test_other_payloads_are_bytes() -> None:
    sent = event(stored(b"\x02reading\x03", "device.message"))
    assert sent["datacontenttype"] == "application/octet-stream"
    assert payload(received(stored(b"\x02reading\x03", "device.message"))) == b"\x02reading\x03"


def test_times_sort_as_text_also_within_a_second_and_across_its_border() -> None:
    times = [event(replace(stored(), received_us=us))["time"] for us in (999_999, 1_000_000, 1_000_001, 61_000_000)]
    assert times == sorted(times)
    assert times[0] == "1970-01-01T00:00:00.999999Z"


# ---------------------------------------------------------------- what a receiver refuses


def test_a_batch_is_an_array() -> None:
    one = event_json(Delivery(stored(), 9), "ward-3", "everything")
    assert batch_json([]) == b"[]"
    assert decode_batch(b"[]") == []
    assert len(decode_batch(batch_json([one, one, one]))) == 3


BAD_BATCHES = [
    (b"", "batch-not-json"),
    (b"<html>", "batch-not-json"),
    (b"[", "batch-not-json"),
    (b"\xff", "batch-not-json"),
    (b"[" * 100_000, "batch-not-json"),
    (b"{}", "batch-not-array"),
    (b"null", "batch-not-array"),
    (b"[1]", "event-not-object"),
    (b"[[]]", "event-not-object"),
    (b"[{}]", "event-attribute"),
]


@pytest.mark.parametrize(("body", "code"), BAD_BATCHES, ids=range(len(BAD_BATCHES)))
def test_a_body_that_is_no_batch_has_its_own_error(body: bytes, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_batch(body)
    assert caught.value.code == code


CHANGES: list[tuple[str, Any]] = [
    ("specversion", "0.3"),
    ("id", "ward-3/42"),
    ("id", f"ward-3/{INCARNATION}/43"),
    ("id", f"ward-4/{INCARNATION}/42"),
    ("source", "urn:edge-gateway:ward-3:"),
    ("source", "adt"),
    ("type", "hl7 v2"),
    ("type", ""),
    ("time", "yesterday"),
    ("time", 7),
    ("clockstate", "sure"),
    ("sequence", "42"),
    ("sequence", 42),
    ("lane", "everything"),
    ("lane", "everything/gossip"),
    ("laneseq", "-1"),
    ("laneseq", 1.5),
    ("laneseq", True),
    ("laneseq", ""),
    ("revision", -1),
    ("revision", None),
    ("partitionkey", ""),
    ("datacontenttype", None),
    ("datacharset", ""),
    ("datacharset", 8859),
    ("data_base64", "AA=="),
]


@pytest.mark.parametrize(("attribute", "value"), CHANGES, ids=[f"{name}={value!r}" for name, value in CHANGES])
def test_a_wrong_attribute_is_refused_by_name_and_never_quoted(attribute: str, value: object) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_event(event() | {attribute: value})
    assert caught.value.code == "event-attribute"
    assert any(name in caught.value.hint for name in (attribute, "data", "sequence", "source"))


@pytest.mark.parametrize("attribute", sorted(set(event()) - {"datacharset"}))
def test_every_attribute_is_needed(attribute: str) -> None:
    reduced = event()
    del reduced[attribute]
    with pytest.raises(RemoteProtocolError):
        decode_event(reduced)


@pytest.mark.parametrize("text", ["*", "AAA", "AA=A", "ä", " AAAA"])
def test_base64_is_taken_strictly(text: str) -> None:
    changed = {name: value for name, value in event().items() if name != "data"} | {"data_base64": text}
    with pytest.raises(RemoteProtocolError):
        decode_event(changed)


def test_counters_are_taken_as_numbers_and_as_digits_and_more_attributes_are_ignored() -> None:
    changed = event() | {"laneseq": 12, "revision": "3", "traceparent": "00-x", "extra": {"a": 1}}
    assert (decode_event(changed).laneseq, decode_event(changed).revision) == (12, 3)


@pytest.mark.parametrize("change", [{"datacharset": "us-ascii", "data": "Müller"}, {"datacharset": "klingon"}])
def test_text_that_its_character_set_cannot_write_is_an_error(change: dict[str, str]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        payload(decode_event(event() | change))
    assert caught.value.code == "event-data"


def outcome_of(decode: Callable[[], object]) -> str:
    try:
        decode()
    except RemoteProtocolError as error:
        return error.code
    return "taken"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=2), max_leaves=3
)


@given(st.dictionaries(st.sampled_from([*event(), "data_base64"]), json_values, max_size=4))
def test_any_change_is_an_event_or_the_one_kind_of_error(change: dict[str, object]) -> None:
    assert outcome_of(lambda: payload(decode_event(event() | change))) in ("taken", "event-attribute", "event-data")


@given(st.binary(max_size=30))
def test_any_body_is_an_array_or_the_one_kind_of_error(body: bytes) -> None:
    assert outcome_of(lambda: read_batch(body)) in ("taken", "batch-not-json", "batch-not-array")
