"""The books after a loss: the equation holds whatever was lost, and nothing that is there is counted as gone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.exceptions import STATE_OF
from gateway.journal.interface import RouteRule
from gateway.journal.ledger import DeclaredGap, JournalState
from gateway.journal.records import block_id
from gateway.journal.repair import FoundException, HeldBlock, admit_blocks, believe_witness, reconcile_ahead, recount_exceptions
from gateway.journal.witness import LastStatus, Witness
from gateway.model.cursor import Cursor
from gateway.model.state import Books, Term
from gateway.model.traffic import TrafficClass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.journal.ledger import RouteLedger

ADT, LAB = TrafficClass.ADT.code, TrafficClass.RESULT.code
SMALL = st.integers(0, 20)


def routed() -> JournalState:
    """Two routes from the first message on; nothing stored yet."""
    state = JournalState()
    state.configure((RouteRule("all"), RouteRule("labs", frozenset({"lab"}))))
    return state


def block(commit: int, ordinal: int, first: int, count: int, source: str = "adt", code: int = ADT) -> HeldBlock:
    """A block with consecutive seqs of one source."""
    return HeldBlock(block_id(commit, ordinal), code, first, first + count - 1, {(source, ""): count})


def terms(ledger: RouteLedger) -> tuple[int, ...]:
    books = ledger.books
    return (books.delivered, books.queued, books.held, books.dead_letter, books.filtered, books.gaps)


def sane(ledger: RouteLedger) -> bool:
    return sum(terms(ledger)) == ledger.books.accepted and min(terms(ledger)) >= 0 and ledger.ahead >= 0


# ---------------------------------------------------------------------- blocks behind the newest commit row


def test_blocks_behind_the_newest_commit_row_are_accepted_and_queued() -> None:
    state = routed()
    unnamed = admit_blocks(state, [block(2, 0, 1, 3), block(3, 0, 4, 2, "lab", LAB)])
    assert unnamed == 0
    assert state.accepted == {"adt": 3, "lab": 2}
    assert state.next_seq == 6
    assert (state.routes["all"].books.queued, state.routes["labs"].books.queued) == (5, 2)


def test_seqs_between_them_that_no_block_holds_are_counted_as_unnamed() -> None:
    state = routed()
    assert admit_blocks(state, [block(2, 0, 1, 3), block(9, 0, 11, 2)]) == 7
    assert state.next_seq == 13
    assert admit_blocks(state, []) == 0


def test_a_message_made_for_one_route_is_counted_for_that_route_only() -> None:
    state = routed()
    admit_blocks(state, [HeldBlock(block_id(2), TrafficClass.AUDIT.code, 1, 2, {("gateway", "labs"): 2})])
    assert (state.routes["all"].books.accepted, state.routes["labs"].books.accepted) == (0, 2)


def test_a_message_is_counted_by_the_routing_at_its_seq() -> None:
    state = routed()
    state.next_seq = 10
    state.configure((RouteRule("all"), RouteRule("late")))
    state.next_seq = 1
    admit_blocks(state, [block(2, 0, 1, 9, "lab", LAB), block(3, 0, 10, 4, "lab", LAB)])
    assert {name: ledger.books.accepted for name, ledger in state.routes.items()} == {"all": 13, "late": 4}


# ---------------------------------------------------------------------- the witness


def last_status(accepted: dict[str, Any], routes: dict[str, Any], next_seq: int = 100) -> LastStatus:
    status = {
        "sources": [{"name": name, "accepted": count} for name, count in accepted.items()],
        "routes": [{"name": name, "accepted": count} for name, count in routes.items()],
    }
    return LastStatus(status, Witness(50, bytes(32), next_seq, 0), b"")


def test_what_only_the_witness_knows_is_accepted_and_a_gap_of_each_route() -> None:
    state = routed()
    admit_blocks(state, [block(2, 0, 1, 3)])
    assert believe_witness(state, last_status({"adt": 5, "lab": 4}, {"all": 9, "labs": 4, "gone": 7})) == 6
    assert state.accepted == {"adt": 5, "lab": 4}
    assert state.next_seq == 100
    assert terms(state.routes["all"]) == (0, 3, 0, 0, 0, 6)
    assert terms(state.routes["labs"]) == (0, 0, 0, 0, 0, 4)


def test_a_witness_that_knows_less_changes_nothing() -> None:
    state = routed()
    admit_blocks(state, [block(2, 0, 1, 3)])
    before = (dict(state.accepted), dict(state.routes), state.next_seq)
    assert believe_witness(state, last_status({"adt": 2}, {"all": 1}, next_seq=2)) == 0
    assert (state.accepted, state.routes, state.next_seq) == before


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"sources": None},
        {"sources": [1, None, {}]},
        {"sources": [{"name": 1, "accepted": 2}]},
        {"routes": [{"name": "all", "accepted": "9"}]},
    ],
)
def test_a_status_of_another_shape_is_left_alone(status: dict[str, Any]) -> None:
    state = routed()
    assert believe_witness(state, LastStatus(status, Witness(1, bytes(32), 1, 0), b"")) == 0
    assert (state.accepted, state.routes["all"].books) == ({}, Books())


# ---------------------------------------------------------------------- exception rows


@st.composite
def ledgers(draw: st.DrawFn) -> JournalState:
    """A state with one route whose books are anything that can be."""
    state = routed()
    delivered, held, dead, filtered, gaps, requeued, ahead = (draw(SMALL) for _ in range(7))
    books = Books(delivered + held + dead + filtered + gaps + requeued + ahead, delivered, held, dead, filtered, gaps)
    state.routes["all"] = replace(state.routes["all"], books=books, requeued=requeued, done=draw(SMALL), cursor=Cursor(5, 100))
    return state


ROWS = st.lists(
    st.builds(FoundException, route=st.sampled_from([1, 2, 7]), seq=st.integers(1, 120), state=st.sampled_from([*STATE_OF.values(), 9])),
    max_size=30,
    unique_by=lambda row: (row.route, row.seq),
)


@given(state=ledgers(), rows=ROWS)
def test_the_equation_and_what_lies_ahead_survive_any_loss_of_rows(state: JournalState, rows: list[FoundException]) -> None:
    before = state.routes["all"]
    lost, left_out = recount_exceptions(state, rows)
    after = state.routes["all"]
    assert after.books.accepted == before.books.accepted
    kept = [row for row in rows if (row.route, row.seq) not in left_out and row.route == after.number]
    assert after.books.held == sum(row.state == STATE_OF[Term.HELD] for row in kept)
    assert after.books.dead_letter == sum(row.state == STATE_OF[Term.DEAD_LETTER] for row in kept)
    assert after.requeued == sum(row.state == STATE_OF[Term.QUEUED] for row in kept)
    assert lost >= 0
    # More rows than were ever counted cannot be invented away; every real loss keeps the sum.
    if sum((after.books.held, after.books.dead_letter, after.requeued)) <= sum(
        (before.books.held, before.books.dead_letter, before.requeued)
    ):
        assert sane(after)
        assert after.ahead == before.ahead
        assert after.books.gaps - before.books.gaps == lost


@given(state=ledgers())
def test_rows_that_are_all_there_change_nothing(state: JournalState) -> None:
    ledger = state.routes["all"]
    wanted = {Term.HELD: ledger.books.held, Term.DEAD_LETTER: ledger.books.dead_letter, Term.QUEUED: ledger.requeued, Term.GAP: ledger.done}
    seqs = iter(range(1, 101))
    rows = [FoundException(ledger.number, next(seqs), STATE_OF[term]) for term, count in wanted.items() for _ in range(count)]
    assert recount_exceptions(state, rows) == (0, frozenset())
    assert state.routes["all"] == ledger


def test_rows_of_messages_that_the_cursor_has_still_before_it_are_left_out() -> None:
    state = routed()
    books = Books(accepted=10, delivered=4)
    state.routes["all"] = replace(state.routes["all"], books=books, cursor=Cursor(2, 4, beyond=(6,)), beyond={6: (ADT, 6)})
    rows = [FoundException(1, seq, STATE_OF[Term.DEAD_LETTER]) for seq in (3, 6, 7)]
    _, left_out = recount_exceptions(state, rows)
    assert left_out == {(1, 7)}
    assert state.routes["all"].books.dead_letter == 2


def test_route_numbers_of_found_rows_are_never_given_again() -> None:
    state = routed()
    _, left_out = recount_exceptions(state, [FoundException(9, 1, STATE_OF[Term.DEAD_LETTER])])
    assert left_out == {(9, 1)}
    assert state.route_number == 10


# ---------------------------------------------------------------------- books against blocks


def ahead(count: int, **changes: Any) -> JournalState:
    """A state in which ``all`` waits for ``count`` messages and ``labs`` for none."""
    state = routed()
    state.routes["all"] = replace(state.routes["all"], books=Books(accepted=count), **changes)
    state.routes["labs"] = replace(state.routes["labs"], cursor=Cursor(1_000, 10_000))
    return state


@given(counts=st.lists(st.integers(1, 9), max_size=8), gone=st.sets(st.integers(0, 7)))
def test_messages_that_no_block_holds_any_more_are_gaps_exactly(counts: list[int], gone: set[int]) -> None:
    blocks, seq = [], 1
    for at, count in enumerate(counts):
        blocks.append(block(at + 2, 0, seq, count))
        seq += count
    state = ahead(sum(counts))
    kept = [found for at, found in enumerate(blocks) if at not in gone]
    lost = sum(count for at, count in enumerate(counts) if at in gone)
    assert reconcile_ahead(state, kept) == lost
    assert state.routes["all"].books.gaps == lost
    assert sane(state.routes["all"])
    assert reconcile_ahead(state, kept) == 0


def held(*blocks: HeldBlock) -> Sequence[HeldBlock]:
    return blocks


def test_what_is_settled_in_the_commit_of_the_cursor_is_not_ahead() -> None:
    cursor = Cursor(2, 3, {TrafficClass.ADT: 3}, {TrafficClass.ADT: 3})
    state = ahead(2, cursor=cursor)
    assert reconcile_ahead(state, held(block(2, 0, 1, 5))) == 0
    # With that block gone its settled part is gone with it, and only the rest is lost.
    assert reconcile_ahead(state, held()) == 2


def test_what_is_settled_beyond_the_cursor_is_not_ahead_as_long_as_its_block_is_there() -> None:
    beyond = {6: (ADT, 6), 7: (ADT, 7)}
    state = ahead(8, beyond=beyond, cursor=Cursor(1, 0, beyond=(6, 7)))
    blocks = held(block(2, 0, 1, 5), block(3, 0, 6, 5))
    assert reconcile_ahead(state, blocks) == 0
    assert reconcile_ahead(state, blocks[:1]) == 3


def test_a_declared_gap_is_not_declared_again() -> None:
    gaps = {block_id(2): DeclaredGap(1, 5, 5)}
    state = ahead(3, gaps=gaps)
    assert reconcile_ahead(state, held(block(2, 0, 1, 5), block(3, 0, 6, 3))) == 0


def test_blocks_of_two_classes_with_mixed_seqs_are_told_apart() -> None:
    beyond = {4: (LAB, 2)}
    state = ahead(5, beyond=beyond, cursor=Cursor(1, 0, beyond=(4,)))
    mixed = [
        HeldBlock(block_id(2, 0), ADT, 1, 5, {("adt", ""): 3}),
        HeldBlock(block_id(2, 1), LAB, 2, 4, {("lab", ""): 2}),
        HeldBlock(block_id(3, 0), ADT, 6, 6, {("adt", ""): 1}),
    ]
    assert reconcile_ahead(state, mixed) == 0
    assert reconcile_ahead(state, [mixed[0], mixed[2]]) == 1
