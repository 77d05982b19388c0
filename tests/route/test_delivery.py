"""One test per promise of the machine; the clock moves only where the machine pauses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gateway.model.cursor import Cursor, ReadResult
from gateway.model.limits import WINDOW_MAX_MESSAGES
from gateway.model.message import Delivery
from gateway.model.receipt import (
    Answered,
    BatchRejected,
    BatchTooLarge,
    Blocked,
    Failed,
    Later,
    RouteState,
    Verdict,
    VerdictKind,
)
from gateway.model.traffic import TrafficClass
from gateway.route import delivery
from gateway.route.delivery import Batch, Dispatch, DispatchRules, Pause
from tests.route.fakes import ACCEPTED, FakeJournal, FixedRandomness, stored
from tests.route.simulation import RULES, Destination, Simulation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.model.receipt import Outcome

RETRY = Verdict(VerdictKind.RETRY)
DOUBT = Verdict(VerdictKind.DOUBT)
DUPLICATE = Verdict(VerdictKind.DUPLICATE)
REJECTED = Verdict(VerdictKind.REJECTED, "no")


class Machine:
    """A dispatch with messages in it; ``go`` sends one batch and feeds back one outcome."""

    def __init__(self, sources: Sequence[str], rules: DispatchRules = RULES, jitter: float = 1.0) -> None:
        self.journal = FakeJournal([stored(seq, source, commit=1) for seq, source in enumerate(sources, 1)])
        self.dispatch = Dispatch(rules, Cursor(), FixedRandomness(jitter))
        self.now_s = 0.0
        self.push()

    def push(self) -> None:
        self.dispatch.push(self.journal.read_now(self.dispatch.reading, 1000), lambda _: True, self.now_s)

    def arrive(self, *sources: str) -> None:
        seq = len(self.journal.messages)
        self.journal.append([stored(seq + n, source) for n, source in enumerate(sources, 1)])
        self.push()

    def go(self, outcome: Outcome | None = None) -> list[int]:
        """What was sent; waits for as long as the machine says."""
        found = self.dispatch.next(self.now_s)
        while isinstance(found, Pause):
            assert found.until_s < 1e9, "nothing is planned"
            self.now_s = found.until_s
            found = self.dispatch.next(self.now_s)
        self.dispatch.learn(outcome or Answered((ACCEPTED,) * len(found.items)), self.now_s)
        return [item.delivery.message.seq for item in found.items]

    def verdicts(self, *verdicts: Verdict) -> list[int]:
        return self.go(Answered(verdicts))

    def pause_s(self) -> float:
        """How long until the next request."""
        found = self.dispatch.next(self.now_s)
        return found.until_s - self.now_s if isinstance(found, Pause) else 0.0

    def settle(self) -> None:
        if settlement := self.dispatch.take():
            self.journal.apply(settlement)

    @property
    def state(self) -> RouteState:
        return self.dispatch.outlook(self.now_s).state


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_are_in_order_and_within_both_limits() -> None:
    size = len(stored(1).body)
    machine = Machine("a" * 10, replace(RULES, max_messages=4, max_bytes=3 * size + 1))
    assert [machine.go(), machine.go(), machine.go()] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_message_larger_than_the_limit_travels_alone() -> None:
    machine = Machine("aaa", replace(RULES, max_bytes=10))
    assert [machine.go(), machine.go(), machine.go()] == [[1], [2], [3]]


def test_a_batch_never_spans_incarnations() -> None:
    journal = FakeJournal([stored(1), stored(2), stored(3, incarnation="f" * 32), stored(4, incarnation="f" * 32)])
    simulation = Simulation(journal, Destination())
    assert simulation.requests(2) == [(1, 2), (3, 4)]


def test_an_incomplete_batch_waits_for_company_and_a_full_one_does_not() -> None:
    machine = Machine("aaa", replace(RULES, max_messages=4, linger_s=0.2))
    assert machine.pause_s() == pytest.approx(0.2)
    machine.arrive("a")
    assert machine.pause_s() == 0.0


def test_only_one_batch_is_in_flight() -> None:
    machine = Machine("a" * 20)
    assert isinstance(machine.dispatch.next(0.0), Batch)
    assert machine.dispatch.next(0.0) == Pause()


def test_the_next_batch_is_known_while_one_is_in_flight() -> None:
    machine = Machine("a" * 20, replace(RULES, max_messages=4))
    assert machine.dispatch.preview(0.0) is None
    first = machine.dispatch.next(0.0)
    ahead = machine.dispatch.preview(0.0)
    assert ahead is not None
    assert isinstance(first, Batch)
    machine.dispatch.learn(Answered((ACCEPTED,) * 4), 0.0)
    second = machine.dispatch.next(0.0)
    assert isinstance(second, Batch)
    assert second.deliveries == ahead


def test_reading_ahead_is_bounded() -> None:
    machine = Machine("a" * (WINDOW_MAX_MESSAGES + 5))
    assert machine.dispatch.wants(0.0) == 0
    assert Machine("a").dispatch.wants(0.0) > 0


def test_a_source_that_waits_does_not_end_reading_for_the_others() -> None:
    machine = Machine("a" * 400)
    assert machine.dispatch.wants(machine.now_s) == 0
    machine.verdicts(*[RETRY] * 8)
    assert machine.dispatch.wants(machine.now_s) > 0


# --- answers: wait and state ------------------------------------------------------------------------------------------


def test_waits_double_up_to_the_cap_and_start_anew_with_the_first_receipt() -> None:
    machine = Machine("a" * 9)
    waits = []
    for _ in range(7):
        machine.go(Failed("http-500"))
        waits.append(round(machine.pause_s(), 3))
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    machine.go()
    machine.go(Failed("http-500"))
    assert machine.pause_s() == pytest.approx(0.2)


def test_jitter_is_full() -> None:
    machine = Machine("a", jitter=0.0)
    machine.go(Failed("http-500"))
    assert machine.pause_s() == 0.0


@pytest.mark.parametrize(("jitter", "wait_s"), [(0.0, 10.0), (0.5, 10.5), (1.0, 11.0)])
def test_retry_after_is_kept_and_exceeded_by_ten_percent_at_most(jitter: float, wait_s: float) -> None:
    machine = Machine("a", jitter=jitter)
    machine.go(Later(10.0, "http-429"))
    assert machine.pause_s() == pytest.approx(wait_s)
    assert machine.state is RouteState.RATE_LIMITED


@pytest.mark.parametrize("state", [RouteState.AUTH_BLOCKED, RouteState.MISCONFIGURED])
def test_a_blocked_route_is_probed_with_one_message_every_three_seconds(state: RouteState) -> None:
    machine = Machine("a" * 9)
    machine.go(Blocked(state, "http-401"))
    for _ in range(5):
        assert machine.pause_s() == pytest.approx(3.0)
        assert machine.state is state
        assert machine.go(Blocked(state, "http-401")) == [1]
    assert machine.go() == [1]
    assert machine.go() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert machine.state is RouteState.ONLINE


def test_a_portal_settles_nothing_and_gets_one_message_per_attempt() -> None:
    machine = Machine("a" * 9)
    machine.go(Blocked(RouteState.BAD_RECEIPT, "receipt-not-json"))
    assert machine.state is RouteState.BAD_RECEIPT
    assert machine.dispatch.take() is None
    assert machine.pause_s() == pytest.approx(0.2)
    assert machine.go() == [1]


def test_the_third_failure_opens_the_circuit_and_one_message_closes_it() -> None:
    machine = Machine("a" * 9)
    assert [len(machine.go(Failed("connect-refused"))) for _ in range(4)] == [8, 8, 8, 1]
    assert machine.state is RouteState.OFFLINE
    assert machine.dispatch.outlook(machine.now_s).code == "connect-refused"
    assert machine.go() == [1]
    assert machine.go() == [2, 3, 4, 5, 6, 7, 8, 9]


def test_the_outlook_tells_cause_and_next_attempt() -> None:
    machine = Machine("a")
    machine.go(Failed("answer-timeout", in_doubt=True))
    machine.dispatch.next(machine.now_s)
    outlook = machine.dispatch.outlook(machine.now_s)
    assert (outlook.state, outlook.code) == (RouteState.RETRYING, "answer-timeout")
    assert outlook.next_attempt_s == pytest.approx(0.2)
    machine.go()
    outlook = machine.dispatch.outlook(machine.now_s)
    assert (outlook.state, outlook.code, outlook.next_attempt_s) == (RouteState.ONLINE, "", None)


def test_a_batch_in_doubt_is_sent_again_unchanged_although_more_has_arrived() -> None:
    machine = Machine("aaa")
    machine.go(Failed("connection-lost", in_doubt=True))
    machine.arrive("a", "a")
    assert machine.go() == [1, 2, 3]


def test_batches_that_time_out_become_smaller_until_they_arrive() -> None:
    machine = Machine("a" * 30)
    sizes = [len(machine.go(Failed("answer-timeout"))) for _ in range(2)]
    assert sizes == [8, 4]
    assert [len(machine.go()), len(machine.go())] == [2, 2], "the size that timed out is not tried again at once"


def test_413_halves_and_the_size_is_not_tried_again_at_once() -> None:
    machine = Machine("a" * 30)
    machine.go(BatchTooLarge())
    assert [len(machine.go()) for _ in range(5)] == [4, 4, 4, 4, 4]


def test_after_many_receipts_the_larger_size_is_tried_again() -> None:
    machine = Machine("a" * 300)
    machine.go(BatchTooLarge())
    sizes = [len(machine.go()) for _ in range(65)]
    assert sizes[63:] == [4, 8]


def test_a_burst_of_rejections_that_a_failure_interrupts_condemns_nobody() -> None:
    machine = Machine("aaa")
    while machine.dispatch._suspicion.rejections < 2:
        machine.go(BatchRejected("http-400"))
    machine.go(Failed("connect-refused"))
    assert [machine.go(), machine.go()] == [[1], [2, 3]]
    machine.settle()
    assert not machine.journal.dead


def test_one_message_that_is_too_large_alone_is_a_rejected_one() -> None:
    machine = Machine("ab")
    machine.go(BatchTooLarge())
    machine.go(BatchTooLarge("http-413"))
    machine.go()
    machine.settle()
    assert machine.journal.dead == {1: "http-413"}


def test_every_kind_of_verdict_has_its_effect() -> None:
    assert sorted((*delivery._TAKEN, *delivery._LATER, *delivery._REJECTED)) == sorted(VerdictKind)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_only_what_the_receipt_names_is_settled() -> None:
    machine = Machine("abc")
    machine.verdicts(ACCEPTED, DOUBT, DUPLICATE)
    machine.settle()
    assert [d.message.seq for d in machine.journal.delivered] == [1, 3]
    assert machine.journal.settlements[0].duplicates == 1
    assert machine.journal.settled.beyond == (3,)
    assert machine.go() == [2]


def test_retry_sends_that_source_again_in_order_while_the_others_go_on() -> None:
    machine = Machine("ababab", replace(RULES, max_messages=4))
    machine.verdicts(RETRY, ACCEPTED, DOUBT, ACCEPTED)
    assert machine.go() == [6]
    assert machine.pause_s() == pytest.approx(0.2)
    assert machine.go() == [1, 3, 5]


def test_a_source_that_is_asked_to_retry_again_waits_longer() -> None:
    machine = Machine("a")
    waits = []
    for _ in range(4):
        machine.verdicts(RETRY)
        waits.append(round(machine.pause_s(), 3))
    assert waits == [0.2, 0.4, 0.8, 1.6]
    assert machine.state is RouteState.RETRYING
    assert machine.dispatch.outlook(machine.now_s).code == "retry-asked"


# --- rejections -------------------------------------------------------------------------------------------------------


def test_a_rejected_event_is_a_dead_letter_if_the_same_answer_accepts_another() -> None:
    machine = Machine("abc")
    machine.verdicts(ACCEPTED, REJECTED, ACCEPTED)
    settlement = machine.dispatch.take()
    assert settlement is not None
    assert [(letter.delivery.message.seq, letter.code, letter.reason) for letter in settlement.dead] == [(2, "rejected", "no")]
    assert settlement.cursor.seq == 3


def test_a_rejected_event_waits_for_the_next_acceptance_and_a_duplicate_is_none() -> None:
    machine = Machine("ab")
    machine.verdicts(REJECTED, DUPLICATE)
    machine.settle()
    assert not machine.journal.dead
    machine.arrive("b")
    machine.verdicts(ACCEPTED)
    machine.settle()
    assert machine.journal.dead == {1: "rejected"}


@pytest.mark.parametrize("bad", [1, 100, 250, 500])
def test_a_poisoned_message_is_found_by_bisection(bad: int) -> None:
    journal = FakeJournal([stored(seq, commit=1) for seq in range(1, 502)])
    destination = Destination(poison=frozenset((bad,)), poison_as="422")
    simulation = Simulation(journal, destination, replace(RULES, max_messages=500, max_bytes=10**9))
    while not journal.dead:
        simulation.turn()
    assert len(destination.requests) <= 1 + 9 + 1 + 1
    assert journal.dead == {bad: "http-422"}


def test_dead_letters_do_not_hold_up_those_behind_them() -> None:
    journal = FakeJournal([stored(seq) for seq in range(1, 21)])
    simulation = Simulation(journal, Destination(poison=frozenset((3, 4, 9)), poison_as="422"))
    simulation.run(60)
    assert set(journal.dead) == {3, 4, 9}
    assert simulation.destination.by_source["adt"] == [1, 2, 5, 6, 7, 8, *range(10, 21)]


def test_three_lone_rejections_keep_everything_and_say_so() -> None:
    machine = Machine("a" * 9)
    while machine.state is not RouteState.REJECTING:
        machine.go(BatchRejected("http-400"))
    for _ in range(50):
        assert len(machine.go(BatchRejected("http-400"))) == 1
    assert machine.dispatch.take() is None
    assert machine.dispatch.outlook(machine.now_s).code == "http-400"
    assert machine.pause_s() <= 5.0


def test_when_the_trouble_ends_the_head_goes_first() -> None:
    machine = Machine("a" * 9)
    while machine.state is not RouteState.REJECTING:
        machine.go(BatchRejected("http-400"))
    assert machine.go() == [1]
    assert machine.go() == [2, 3]


def test_a_lone_poisoned_message_in_a_quiet_route_is_kept_until_another_is_accepted() -> None:
    machine = Machine("a")
    for _ in range(6):
        machine.go(BatchRejected("http-422"))
        machine.now_s += 0.001
    assert machine.state is RouteState.REJECTING
    assert machine.dispatch.take() is None
    machine.arrive("a")
    while machine.go(BatchRejected("http-422")) == [1]:
        pass
    while not (settlement := machine.dispatch.take()) or not settlement.dead:
        found = machine.dispatch.next(machine.now_s)
        if isinstance(found, Pause):
            machine.now_s = max(machine.now_s, found.until_s)
        else:
            bad = found.items[0].delivery.message.seq == 1
            machine.dispatch.learn(BatchRejected("http-422") if bad else Answered((ACCEPTED,)), machine.now_s)
    assert [letter.delivery.message.seq for letter in settlement.dead] == [1]


# --- on_reject = "stop" -----------------------------------------------------------------------------------------------

STOP = replace(RULES, stop_on_reject=True)


def test_stop_dead_letters_the_head_after_three_lone_rejections_and_stops() -> None:
    machine = Machine("abc", STOP)
    assert machine.verdicts(REJECTED, ACCEPTED, ACCEPTED) == [1, 2, 3]
    states, sent = [], []
    for _ in range(3):
        states.append(machine.state)
        assert machine.pause_s() > 0
        sent.append(machine.verdicts(REJECTED))
    assert states == [RouteState.REJECTING] * 3
    assert sent == [[1], [1], [1]]
    machine.settle()
    assert machine.journal.dead == {1: "rejected"}
    assert machine.state is RouteState.STOPPED
    machine.arrive("a")
    assert machine.dispatch.next(machine.now_s + 1000) == Pause()


def test_a_replayed_message_goes_before_those_it_held_up() -> None:
    machine = Machine("ab", STOP)
    while not machine.dispatch.stopped:
        machine.go(BatchRejected("http-422"))
    machine.settle()
    machine.dispatch.push_requeued([Delivery(stored(1, "a", commit=1), 1, 1, requeued=True)], lambda _: True, machine.now_s)
    machine.dispatch.stopped = False
    assert [machine.go(), machine.go()] == [[1], [2]]


# --- replays, filters, settlements ------------------------------------------------------------------------------------


def test_replayed_batches_take_turns_with_live_ones() -> None:
    machine = Machine("a" * 24)
    machine.dispatch.push_requeued([Delivery(stored(seq), seq, 1, requeued=True) for seq in range(100, 120)], lambda _: True, 0.0)
    assert [machine.go()[0] for _ in range(6)] == [1, 100, 9, 108, 17, 116]


def test_replayed_messages_do_not_move_the_cursor_and_are_asked_for_again_only_when_settled() -> None:
    machine = Machine("")
    dispatch = machine.dispatch
    wants = [dispatch.wants_requeued]
    dispatch.push_requeued([Delivery(stored(1), 1, 1, requeued=True)], lambda _: True, 0.0)
    wants.append(dispatch.wants_requeued)
    machine.go()
    wants.append(dispatch.wants_requeued)
    settlement = dispatch.take()
    wants.append(dispatch.wants_requeued)
    assert wants == [True, False, False, True]
    assert settlement is not None
    assert settlement.cursor.seq == 0
    assert [d.revision for d in settlement.delivered] == [1]


def test_what_a_sink_cannot_take_is_filtered_without_being_sent() -> None:
    journal = FakeJournal([stored(1), stored(2, "gateway", kind="gateway.gap"), stored(3)])
    simulation = Simulation(journal, Destination())
    simulation.run(1)
    assert [d.message.seq for d in journal.filtered] == [2]
    assert simulation.destination.requests == [(1, 3)]
    assert journal.settled.seq == 3


def test_a_failed_settlement_is_taken_again_with_what_came_since() -> None:
    machine = Machine("a" * 16)
    machine.go()
    first = machine.dispatch.take()
    assert first is not None
    machine.go()
    machine.dispatch.give_back(first)
    machine.settle()
    assert [d.message.seq for d in machine.journal.delivered] == list(range(1, 17))


def test_an_abandoned_batch_stays_queued() -> None:
    machine = Machine("aa")
    assert isinstance(machine.dispatch.next(0.0), Batch)
    machine.dispatch.abandon()
    assert machine.dispatch.take() is None
    assert machine.go() == [1, 2]


def test_commits_of_other_routes_are_settled_now_and_then_but_not_each() -> None:
    machine = Machine("")
    machine.dispatch.push(ReadResult((), Cursor(200, 5000)), lambda _: True, 0.0)
    assert machine.dispatch.take() is None
    machine.dispatch.push(ReadResult((), Cursor(300, 9000)), lambda _: True, 0.0)
    settlement = machine.dispatch.take()
    assert settlement is not None
    assert settlement.cursor.commit == 300
    assert machine.dispatch.take() is None


def test_a_hole_in_the_numbers_keeps_the_low_water_where_the_counts_are_certain() -> None:
    dispatch = Dispatch(RULES, Cursor(), FixedRandomness(1.0))
    adt = TrafficClass.ADT
    read = ReadResult(
        (Delivery(stored(1, commit=1), 1), Delivery(stored(4, "b", commit=2), 4)), Cursor(2, 4, {adt: 4}, {adt: 3})
    )  # 2 and 3 cannot be read
    dispatch.push(read, lambda _: True, 0.0)
    dispatch.next(0.0)
    dispatch.learn(Answered((ACCEPTED, RETRY)), 0.0)
    settlement = dispatch.take()
    assert settlement is not None
    assert (settlement.cursor.seq, settlement.cursor.beyond) == (0, (1,))
    dispatch.next(10.0)
    dispatch.learn(Answered((ACCEPTED,)), 10.0)
    last = dispatch.take()
    assert last is not None
    assert last.cursor == Cursor(2, 4, {adt: 4}, {adt: 3})
