"""Several messages in one frame: children, envelope, and not a byte lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.batch import Batch, BatchFlag, split
from gateway.codec.message_header import HeaderFault, scan
from gateway.codec.refusal import RefuseReason
from tests.codec.messages import ADT, ORU

FHS, BHS = b"FHS|^~\\&|HIS|WARD\r", b"BHS|^~\\&|HIS|WARD|EDGE|SITE|1||||B1\r"


def bts(count: int) -> bytes:
    return b"BTS|%d\r" % count


SINGLE = {
    "plain": ADT,
    "BOM": b"\xef\xbb\xbf" + ADT,
    "empty lines first": b"\r\n" + ADT,
    "MSH inside a field": ADT + b"OBX|1|TX|||see MSH|x\r",
    "MSH in capitals of a document": ADT + b"OBX|1|ED|||^^^Base64^AAMSHAA\rMSHE|no segment of this name\r",
    "trailer without header": ADT + bts(1),
    "not HL7": b"HELLO\r" + ADT,
    "nothing": b"",
    "only three letters": b"MSH",
}


@pytest.mark.parametrize("body", SINGLE.values(), ids=SINGLE)
def test_a_frame_of_one_message_is_its_own_child_without_a_copy(body: bytes) -> None:
    batch = split(body)
    assert batch == Batch((body,))
    assert batch.children[0] is body


def test_a_batch_gives_its_messages_in_order_and_keeps_its_envelope() -> None:
    body = FHS + BHS + ADT + ORU + bts(2) + b"FTS|1\r"
    assert split(body) == Batch((ADT, ORU), FHS + BHS + bts(2) + b"FTS|1\r")


def test_two_batches_of_a_file() -> None:
    body = FHS + BHS + ADT + bts(1) + BHS + ORU + ADT + bts(2) + b"FTS|2\r"
    assert split(body) == Batch((ADT, ORU, ADT), FHS + BHS + bts(1) + BHS + bts(2) + b"FTS|2\r")


@pytest.mark.parametrize("terminator", [b"\n", b"\r\n"])
def test_line_feeds_separate_messages_too(terminator: bytes) -> None:
    adt, oru, bhs, trailer = (part.replace(b"\r", terminator) for part in (ADT, ORU, BHS, bts(2)))
    assert split(bhs + adt + oru + trailer) == Batch((adt, oru), bhs + trailer)


def test_several_messages_without_a_batch_header_are_split_and_flagged() -> None:
    assert split(ADT + ORU + ADT) == Batch((ADT, ORU, ADT), b"", BatchFlag.NO_BATCH_HEADER)
    assert split(b"\xef\xbb\xbf" + ADT + ORU) == Batch((ADT, ORU), b"\xef\xbb\xbf", BatchFlag.NO_BATCH_HEADER)


@pytest.mark.parametrize("trailer", [bts(1), bts(3), bts(2) + b"FTS|2\r", b"BTS| 7 |text\r"])
def test_a_wrong_count_is_flagged_and_nothing_else(trailer: bytes) -> None:
    assert split(BHS + ADT + ORU + trailer) == Batch((ADT, ORU), BHS + trailer, BatchFlag.COUNT_MISMATCH)


@pytest.mark.parametrize("trailer", [b"", b"BTS\r", b"BTS|\r", b"BTS|x\r", b"BTS||\r", b"BTS|2", b"BTS|0000002\r", b"BTS|9999999999\r"])
def test_a_missing_or_unreadable_count_is_no_mismatch(trailer: bytes) -> None:
    assert split(BHS + ADT + ORU + trailer).flags is BatchFlag.PLAIN


@pytest.mark.parametrize("body", [BHS, BHS + bts(0), FHS + BHS + bts(0) + b"FTS|1", FHS + b"\n\nFTS|0\r\r"])
def test_an_empty_batch_is_legal_and_has_no_child(body: bytes) -> None:
    assert split(body) == Batch((), body)


@pytest.mark.parametrize("body", [BHS + b"PID|1\r" + bts(0), BHS + b"BTSX|0\r", BHS + b"\rNTE|1\r"])
def test_a_batch_of_segments_without_msh_is_refused_and_never_answered_with_yes(body: bytes) -> None:
    batch = split(body)
    assert (batch.children, batch.refusal) == ((), RefuseReason.STRAY_SEGMENTS)


def test_a_bad_child_fails_alone() -> None:
    bad = b"MSH|^~\\&|A|B\r"
    children = split(BHS + ADT + bad + ORU).children
    assert [isinstance(scan(child), HeaderFault) for child in children] == [False, True, False]


def test_more_messages_than_the_limit_are_refused_together() -> None:
    assert split(BHS + ADT * 3, 3).refusal is None
    batch = split(BHS + ADT * 4, 3)
    assert (batch.children, batch.refusal) == ((), RefuseReason.TOO_MANY_MESSAGES)


def test_endless_batch_segments_are_refused_and_not_collected() -> None:
    assert split(BHS + b"BTS\r" * 1000, 10).refusal is RefuseReason.TOO_MANY_MESSAGES


pieces = st.sampled_from([ADT, ORU, BHS, FHS, bts(2), b"FTS|1\r", b"PID|1\r", b"\n", b"MSH", b"|x", b"MSH|", b"\xef\xbb\xbf", b"BTS"])


@given(st.lists(pieces, max_size=12).map(b"".join))
def test_no_byte_is_lost(body: bytes) -> None:
    batch = split(body)
    if batch.refusal is None:
        assert len(batch.envelope) + sum(map(len, batch.children)) == len(body)
        assert sorted(batch.envelope + b"".join(batch.children)) == sorted(body)
        position = 0
        for child in batch.children:
            position = body.index(child, position) + len(child)
    else:
        assert not batch.children
