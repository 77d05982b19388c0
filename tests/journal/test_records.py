"""Plaintexts of the journal's rows: what goes in comes out, and nothing else is ever taken for one."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.codec.sealed_record import Suite
from gateway.journal.audit import AuditKind, AuditRecord
from gateway.journal.blocks import pack
from gateway.journal.cipher import RecordCipher, fastest_suite
from gateway.journal.dedupe import Blinder
from gateway.journal.ledger import DeclaredGap, JournalState, RouteLedger, RoutingVersion, decode_state, encode_state, member, rules_at
from gateway.journal.records import (
    NO_INCARNATION,
    TABLE_BLOCK,
    TABLE_META,
    BlockColumns,
    BlockRef,
    block_id,
    commit_of,
    decode_block,
    decode_census,
    decode_headed,
    decode_meta,
    encode_block,
    encode_census,
    encode_headed,
    encode_meta,
    meta_keys,
)
from gateway.model.clock import ClockState
from gateway.model.cursor import Cursor
from gateway.model.errors import IntegrityError
from gateway.model.message import Entry
from gateway.model.state import Books
from gateway.model.traffic import TrafficClass
from tests.journal.keeping import Seeded, SetClock
from tests.journal.working import KEYS, entry

if TYPE_CHECKING:
    from collections.abc import Callable

TIMES = st.integers(0, 2**62)
NAMES = st.text("abcdefgh-", min_size=1, max_size=8)


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    seqs = sorted(draw(st.sets(st.integers(1, 2**32 - 1), min_size=1, max_size=12)))
    return [
        Entry(
            source=draw(NAMES),
            body=draw(st.binary(max_size=200)),
            traffic=TrafficClass.RESULT,
            kind=draw(st.sampled_from(["hl7.v2.ORU.R01", "hl7.v2.other"])),
            received_us=draw(st.integers(0, 2**61)),
            clock_state=draw(st.sampled_from(ClockState)),
            ordering=draw(st.binary(max_size=20)),
            charset=draw(st.sampled_from(["utf-8", "iso-8859-1", ""])),
            envelope=draw(st.sampled_from([b"", b"FHS|^~\\&|A\r"])),
            route=draw(st.sampled_from(["", "all"])),
            seq=seq,
        )
        for seq in seqs
    ]


def cipher(seed: int = 1, suite: Suite = Suite.AES_256_GCM) -> RecordCipher:
    return RecordCipher(KEYS, Seeded(seed), suite)


@given(entries())
def test_a_block_gives_back_what_was_put_in(made: list[Entry]) -> None:
    blinder, incarnation = Blinder(KEYS.index_key), b"\x33" * 16
    (block,) = pack(made, 0, 7, incarnation, cipher(), blinder)
    ref = block.ref
    assert (ref.id, ref.first_seq, ref.last_seq, ref.count) == (block_id(7), made[0].seq, made[-1].seq, len(made))
    plain = cipher().open(TABLE_BLOCK, ref.id, ref.traffic, ref.first_seq, block.count, incarnation, block.sealed)
    content = decode_block(plain)
    assert len(content) == len(made)
    for at, one in enumerate(made):
        message = content.message(at, TrafficClass.RESULT, incarnation.hex(), 7)
        assert (message.seq, message.source, message.kind, message.charset) == (one.seq, one.source, one.kind, one.charset)
        assert (message.body, message.envelope, message.route) == (one.body, one.envelope, one.route)
        assert (message.received_us, message.clock_state, message.commit) == (one.received_us, one.clock_state, 7)
        assert message.ordering_key == blinder.ordering(one.ordering, one.source).hex()


def test_blocks_are_split_at_512_messages_and_256_kib_and_by_class() -> None:
    made = [entry(at, traffic=TrafficClass.ADT if at % 3 else TrafficClass.ALARM) for at in range(2000)]
    made += [entry(2000 + at, size=100_000) for at in range(4)]
    for seq, one in enumerate(made, 1):
        one.seq = seq
    blocks = pack(made, 0, 3, b"\x33" * 16, cipher(), Blinder(KEYS.index_key))
    assert all(block.count <= 512 for block in blocks)
    assert all(block.size_bytes < 256 * 1024 + 64 * 1024 for block in blocks)
    assert sum(block.count for block in blocks) == len(made)
    assert {block.ref.traffic for block in blocks} == {TrafficClass.ADT.code, TrafficClass.ALARM.code}
    assert [block.ref.id for block in blocks] == [block_id(3, at) for at in range(len(blocks))]
    assert {commit_of(block.ref.id) for block in blocks} == {3}


def test_one_large_message_is_a_block_of_its_own() -> None:
    made = [entry(1), entry(2, size=600_000), entry(3)]
    for seq, one in enumerate(made, 1):
        one.seq = seq
    blocks = pack(made, 0, 3, b"\x33" * 16, cipher(), Blinder(KEYS.index_key))
    assert [block.count for block in blocks] == [1, 1, 1]


REF = BlockRef(block_id(7), b"t" * 16, 5, 9, 2, {("adt", ""): 4, ("gateway", "all"): 1})
RECORD = AuditRecord(AuditKind.DELIVER, ((1, 3), (7, 7)), "all", "", "", {"proof": "200"})


def test_a_commit_row_gives_back_what_was_put_in() -> None:
    row = decode_meta(encode_meta(b"p" * 32, [REF], [RECORD], {"seq": 1}, [b"k" * 16, b"l" * 16], 3))
    assert (row.prev, row.blocks, row.audit) == (b"p" * 32, (REF,), (RECORD,))
    assert (row.state, row.keys, row.keys_from) == ({"seq": 1}, b"k" * 16 + b"l" * 16, 3)
    assert meta_keys(encode_meta(b"p" * 32, [REF], [RECORD], {"seq": 1}, [b"k" * 16], 3)) == (3, b"k" * 16)


DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "block": (decode_block, encode_block(BlockColumns([("a", "b", "c", "synced", "")], [0], [1], [2], b"o" * 8, [b""], [b"body"]))),
    "meta": (decode_meta, encode_meta(b"p" * 32, [REF], [RECORD], {"seq": 1}, [b"k" * 16])),
    "keys": (meta_keys, encode_meta(b"p" * 32, [REF], [RECORD], {"seq": 1}, [b"k" * 16])),
    "headed": (decode_headed, encode_headed({"code": "x"}, b"content")),
    "census": (decode_census, encode_census({("adt", ""): 3})),
}


@pytest.mark.parametrize("name", DECODERS)
@given(data=st.data())
def test_a_decoder_gives_a_value_or_an_integrity_error_for_any_bytes(name: str, data: st.DataObject) -> None:
    decode, sound = DECODERS[name]
    kind = data.draw(st.sampled_from(["noise", "cut", "flip", "grown"]))
    if kind == "noise":
        stored = data.draw(st.binary(max_size=80))
    elif kind == "cut":
        stored = sound[: data.draw(st.integers(0, len(sound) - 1))]
    elif kind == "grown":
        stored = sound + data.draw(st.binary(min_size=1, max_size=20))
    else:
        at = data.draw(st.integers(0, len(sound) - 1))
        stored = sound[:at] + bytes([data.draw(st.integers(0, 255))]) + sound[at + 1 :]
    with contextlib.suppress(IntegrityError):
        decode(stored)


LANES = st.dictionaries(st.sampled_from(TrafficClass), st.integers(1, 2**40), max_size=4)
BEYOND = st.dictionaries(st.integers(1, 400), st.tuples(st.integers(1, 12), st.integers(1, 400)), max_size=30)


@st.composite
def ledgers(draw: st.DrawFn) -> RouteLedger:
    beyond = dict(sorted(draw(BEYOND).items()))
    cursor = Cursor(draw(TIMES), draw(TIMES), draw(LANES), draw(LANES), tuple(beyond))
    counts = [draw(st.integers(0, 2**40)) for _ in range(6)]
    gaps = draw(st.dictionaries(st.integers(1, 99), st.builds(DeclaredGap, TIMES, TIMES, st.integers(0, 99)), max_size=3))
    return RouteLedger(
        draw(NAMES), draw(st.integers(1, 99)), draw(st.booleans()), Books(*counts), draw(TIMES), draw(TIMES), cursor, beyond, gaps
    )


@given(st.lists(ledgers(), max_size=3, unique_by=lambda ledger: ledger.name), st.dictionaries(NAMES, TIMES, max_size=3))
def test_the_state_gives_back_what_was_put_in(routes: list[RouteLedger], accepted: dict[str, int]) -> None:
    import orjson

    version = RoutingVersion(1, {"a": None, "b": frozenset({"x", "y"})})
    state = JournalState(9, b"c" * 32, 77, accepted, {r.name: r for r in routes}, (version,), (3, b"a" * 32), 5, 6, 7)
    assert decode_state(orjson.loads(orjson.dumps(encode_state(state))), 9, b"c" * 32) == state


def test_thousands_of_messages_settled_behind_one_slow_source_are_a_few_bytes() -> None:
    import orjson

    beyond = {seq: (2, seq - 5) for seq in range(1000, 9000)}
    ledger = RouteLedger("all", 1, cursor=Cursor(beyond=tuple(beyond)), beyond=beyond)
    assert len(orjson.dumps(encode_state(JournalState(routes={"all": ledger})))) < 400


@pytest.mark.parametrize("damage", [{}, {"seq": "x"}, {"seq": 1, "accepted": []}, {"seq": 1, "accepted": {}, "routes": {"a": {}}}])
def test_a_state_that_cannot_be_read_is_an_integrity_error(damage: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="state-format"):
        decode_state(damage, 1, b"")


def test_a_message_is_routed_by_the_version_in_force_at_its_seq() -> None:
    versions = (RoutingVersion(1, {"a": frozenset({"x"})}), RoutingVersion(10, {"a": None, "b": None}))
    assert rules_at(versions, 9) == {"a": frozenset({"x"})}
    assert set(rules_at(versions, 10)) == {"a", "b"}
    assert rules_at(versions, 0) == {}
    assert member(None, "a", "any", "")
    assert not member(frozenset({"x"}), "a", "y", "")
    assert member(frozenset({"x"}), "a", "gateway", "a")
    assert not member(None, "a", "gateway", "b")


@pytest.mark.parametrize("suite", list(Suite))
def test_a_record_opens_only_as_what_it_was_sealed(suite: Suite) -> None:
    incarnation = b"\x44" * 16
    sealed = cipher(suite=suite).seal(TABLE_META, 9, 0, 0, 0, incarnation, b"x" * 500)
    right = (TABLE_META, 9, 0, 0, 0, incarnation)
    assert cipher().open(*right, sealed) == b"x" * 500
    wrong = [(TABLE_BLOCK, *right[1:]), (TABLE_META, 10, *right[2:]), (*right[:2], 1, *right[3:]), (*right[:5], NO_INCARNATION)]
    for table, row, lane, seq, count, of in wrong:
        with pytest.raises(IntegrityError):
            cipher().open(table, row, lane, seq, count, of, sealed)


def test_what_does_not_get_shorter_is_not_compressed() -> None:
    noise = os.urandom(200)
    assert len(cipher().seal(TABLE_META, 1, 0, 0, 0, NO_INCARNATION, noise)) == len(noise) + 40
    assert len(cipher().seal(TABLE_META, 1, 0, 0, 0, NO_INCARNATION, b"x" * 200)) < 100


def test_two_seals_of_the_same_never_share_a_nonce() -> None:
    one = cipher()
    sealed = {one.seal(TABLE_META, 1, 0, 0, 0, NO_INCARNATION, b"same")[12:24] for _ in range(1000)}
    assert len(sealed) == 1000


def test_the_suite_is_chosen_by_a_trial() -> None:
    assert fastest_suite(SetClock()) in Suite
