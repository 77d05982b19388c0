"""What the shared nouns promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.clock import ClockState, clock_state, rfc3339
from gateway.model.errors import ConfigurationError, GatewayError, Issue, TransientError
from gateway.model.event import EventId, v2_kind
from gateway.model.state import TRANSITIONS, Books, Term
from gateway.model.traffic import TrafficClass, class_of

FLOOR_US = 1_700_000_000_000_000


@pytest.mark.parametrize(
    ("wall_us", "synchronised", "was", "state"),
    [
        (0, False, False, ClockState.UNTRUSTED),
        (0, False, True, ClockState.UNTRUSTED),
        (FLOOR_US, False, False, ClockState.FLOOR),
        (FLOOR_US, False, True, ClockState.HOLDOVER),
        (FLOOR_US, True, True, ClockState.SYNCED),
    ],
)
def test_the_clock_state_follows_from_its_four_facts(wall_us: int, synchronised: bool, was: bool, state: ClockState) -> None:
    assert clock_state(wall_us, FLOOR_US, synchronised=synchronised, was_synchronised=was) is state


@given(st.integers(0, 4_000_000_000_000_000), st.integers(0, 4_000_000_000_000_000))
def test_times_sort_as_their_texts_do(one: int, other: int) -> None:
    assert (one < other) == (rfc3339(one) < rfc3339(other))


def test_a_time_is_utc_with_microseconds() -> None:
    assert rfc3339(1_763_812_800_000_001) == "2025-11-22T12:00:00.000001Z"


@pytest.mark.parametrize(
    ("message", "event", "traffic"),
    [
        ("ADT", "A01", TrafficClass.ADT),
        ("ORU", "R01", TrafficClass.RESULT),
        ("ORU", "R40", TrafficClass.ALARM),
        ("ORM", "O01", TrafficClass.ORDER),
        ("RDE", "O11", TrafficClass.ORDER),
        ("SIU", "S12", TrafficClass.SCHEDULE),
        ("MDM", "T02", TrafficClass.DOCUMENT),
        ("DFT", "P03", TrafficClass.CHARGE),
        ("ZZZ", "Z01", TrafficClass.OTHER),
        ("", "", TrafficClass.OTHER),
    ],
)
def test_the_traffic_class_follows_from_the_message_type(message: str, event: str, traffic: TrafficClass) -> None:
    assert class_of(message, event) is traffic


def test_codes_of_traffic_classes_are_persisted_and_never_change() -> None:
    assert [(member.label, member.code) for member in TrafficClass] == [
        ("alarm", 1),
        ("result", 2),
        ("order", 3),
        ("adt", 4),
        ("schedule", 5),
        ("document", 6),
        ("charge", 7),
        ("audit", 8),
        ("other", 9),
        ("vitals", 10),
        ("waveform", 11),
        ("telemetry", 12),
    ]
    assert all(TrafficClass.from_code(member.code) is member is TrafficClass.from_label(member.label) for member in TrafficClass)


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_no_text_of_a_peer_becomes_an_event_type(message: bytes, event: bytes) -> None:
    kind = v2_kind(message, event)
    assert kind == "hl7.v2.other" or all(
        part.isascii() and part.isalnum() and part.isupper() | part.isdigit() for part in kind.split(".")[2:]
    )


@pytest.mark.parametrize(
    ("message", "event", "kind"),
    [
        (b"ADT", b"A01", "hl7.v2.ADT.A01"),
        (b"ACK", b"", "hl7.v2.ACK"),
        (b"", b"A01", "hl7.v2.other"),
        (b"adt", b"A01", "hl7.v2.other"),
        (b"DOEJANE1", b"A01", "hl7.v2.other"),
    ],
)
def test_the_event_type_names_the_message_type(message: bytes, event: bytes, kind: str) -> None:
    assert v2_kind(message, event) == kind


@given(
    st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**62),
    st.none() | st.integers(0, 999),
)
def test_an_event_id_reads_back_as_it_was_written(gateway: str, incarnation: bytes, seq: int, part: int | None) -> None:
    identity = EventId(gateway, incarnation.hex(), seq, part)
    assert EventId.parse(str(identity)) == identity


@given(st.text(max_size=80))
def test_reading_an_event_id_never_fails_otherwise_than_with_none(text: str) -> None:
    found = EventId.parse(text)
    assert found is None or str(found) == text


def test_every_term_but_queued_can_be_reached_and_none_is_left_without_a_rule() -> None:
    reached = {target for _, target in TRANSITIONS.values()}
    assert reached == set(Term)
    assert all(Term.GAP not in sources for sources, _ in TRANSITIONS.values()), "a declared gap is final"


def test_the_books_balance_by_their_definition_of_queued() -> None:
    books = Books(accepted=10, delivered=4, held=1, dead_letter=1, filtered=1, gaps=1)
    assert books.queued == 2


def test_errors_show_their_code_and_hint_and_nothing_else() -> None:
    assert str(TransientError("connect-refused", "is it running?")) == "connect-refused: is it running?"
    assert str(GatewayError("plain")) == "plain"
    issues = (Issue("source[0].listen", "not an address", "write host:port"),)
    assert ConfigurationError(issues).issues == issues
