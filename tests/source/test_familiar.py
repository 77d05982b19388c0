"""The short way never differs from the long one: same entry, same answer, for any message."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.acknowledgement import AckMode
from gateway.codec.mllp import Frame, FrameFlag
from gateway.source.ports import SourceCounts
from gateway.source.reception import Reception, Unusual
from tests.source.memory_journal import MemoryJournal, services
from tests.source.sending import hl7, settings

if TYPE_CHECKING:
    from gateway.model.message import Entry
    from gateway.source.reception import Item

FIELD = st.text(st.sampled_from("AB^~\\&1 ~é"), max_size=6).map(str.encode)
ACK_CONDITION = st.sampled_from([b"", b"AL", b"NE", b"ER", b"SU", b"??"])
SECOND = st.sampled_from(
    [b"PID|1||100001^^^H^MR~9\rPV1|1", b"MSA|AA|1", b"NTE|1\rMSA|AA|1", b"EVN|A01\nPID|1||7", b"OBX|1", b"", b"\rPID|1||3", b"ORC|1\rMSH|x"]
)


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    fields = [draw(FIELD) for _ in range(9)]
    tail = [draw(FIELD), b"2.5", b"", b"", draw(ACK_CONDITION), draw(ACK_CONDITION), b"", draw(st.sampled_from([b"", b"8859/1", b"??"]))]
    kind = draw(st.sampled_from([b"ADT^A01", b"ORU^R01^ORU_R01", b"ACK", b"", b"x^y"]))
    control = draw(st.sampled_from([b"1", b"", b"C^2", b"\n3"]))
    end = draw(st.sampled_from([b"\r", b"\n", b"\r\n"]))
    start = draw(st.sampled_from([b"MSH|^~\\&", b"MSH|^~\\&#", b"\xef\xbb\xbfMSH|^~\\&"]))
    header = b"|".join([start, *fields[:4], fields[4], fields[5], kind, control, *tail])
    return header + end + draw(SECOND) + draw(st.sampled_from([b"\r", b""]))


def _reception(mode: AckMode) -> tuple[Reception, MemoryJournal]:
    journal = MemoryJournal()
    return Reception(settings(ack=mode.value), journal, services(), SourceCounts()), journal


def _judge(reception: Reception, body: bytes) -> tuple[list[Entry], list[Item], list[bytes]]:
    entries: list[Entry] = []
    items = reception.take([Frame(body, FrameFlag.PLAIN)], "peer", entries)
    out: list[bytes] = []
    reception.answer(items, out)
    return entries, items, [re.sub(rb"\|T-?[0-9]+\|", b"|ID|", answer) for answer in out]


@given(_messages(), st.sampled_from(AckMode))
def test_a_familiar_header_changes_nothing(body: bytes, mode: AckMode) -> None:
    reception, _ = _reception(mode)
    first, _, answers = _judge(reception, body)
    for _ in range(3):
        entries, _, again = _judge(reception, body)
        assert [dataclasses.asdict(entry) for entry in entries] == [dataclasses.asdict(entry) for entry in first]
        assert again == answers


@given(_messages(), _messages(), st.sampled_from(AckMode))
def test_what_is_remembered_of_one_message_never_shows_in_another(learnt: bytes, body: bytes, mode: AckMode) -> None:
    fresh, _ = _reception(mode)
    experienced, _ = _reception(mode)
    for _ in range(3):
        _judge(experienced, learnt)
    expected, _, answers = _judge(fresh, body)
    entries, _, again = _judge(experienced, body)
    assert [dataclasses.asdict(entry) for entry in entries] == [dataclasses.asdict(entry) for entry in expected]
    assert again == answers


def test_everyday_traffic_goes_the_short_way_from_the_third_message_on() -> None:
    reception, _ = _reception(AckMode.MSH)
    ways = [isinstance(_judge(reception, hl7(f"M{i}"))[1][0], Unusual) for i in range(5)]
    assert ways == [True, True, False, False, False]


def test_headers_that_never_come_twice_are_not_remembered() -> None:
    reception, _ = _reception(AckMode.MSH)
    for i in range(10_000):
        _judge(reception, hl7("M").replace(b"|2.5.1\r", b"|2.5.1|%d\r" % i))
    assert not reception._familiar._known
    assert len(reception._familiar._seen) <= 4096


def test_the_memory_is_bounded() -> None:
    reception, _ = _reception(AckMode.MSH)
    for i in range(3000):
        for _ in range(2):
            _judge(reception, hl7("M").replace(b"|MON|", b"|M%d|" % i))
    assert 0 < len(reception._familiar._known) <= 1024


@pytest.mark.parametrize("mode", list(AckMode))
def test_every_answer_has_an_id_of_its_own_whichever_way_it_went(mode: AckMode) -> None:
    reception, _ = _reception(mode)
    ids = []
    for i in range(20):
        items = reception.take([Frame(hl7(f"M{i % 7}", kind="ADT^A01" if i % 3 else "ORU^R01"), FrameFlag.PLAIN)], "peer", [])
        out: list[bytes] = []
        reception.answer(items, out)
        ids += [answer.split(b"|")[9] for answer in out]
    assert len(set(ids)) == 20
