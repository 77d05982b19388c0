"""Whatever a destination does: nothing is lost, each source keeps its order, everything ends once it recovers."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.traffic import TrafficClass
from tests.route.fakes import FakeJournal, stored
from tests.route.simulation import RULES, Destination, Simulation

FAULTS = ("none", "refused", "timeout", "lost", "half lost", "401", "portal", "503", "firewall", "partial")
CLASSES = (TrafficClass.ADT, TrafficClass.RESULT, TrafficClass.ORDER)

phases = st.lists(st.tuples(st.sampled_from(FAULTS), st.floats(0.1, 12.0)), max_size=8)
layouts = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(CLASSES), st.booleans()), min_size=1, max_size=60
)  # source, class, whether a new commit begins


def journal_of(layout: list[tuple[str, TrafficClass, bool]], restarts: tuple[int, ...] = ()) -> FakeJournal:
    commit = itertools.count(1)
    number = next(commit)
    messages = []
    incarnation = 0
    for seq, (source, traffic, new) in enumerate(layout, 1):
        if new:
            number = next(commit)
        if seq in restarts:
            incarnation += 1
            number = next(commit)
        messages.append(stored(seq, source, commit=number, traffic=traffic, incarnation=f"{incarnation:032x}"))
    return FakeJournal(messages)


def check_end(simulation: Simulation, poison: set[int]) -> None:
    journal = simulation.journal
    everything = {m.seq for m in journal.messages} - journal.quarantined
    poison = poison - journal.quarantined
    delivered = [d.message.seq for d in journal.delivered]
    assert len(delivered) == len(set(delivered)), "delivered twice in the books"
    assert set(delivered) == everything - poison
    assert set(journal.dead) == poison
    assert {d.message.seq for d in simulation.destination.applied} == everything - poison
    for source, seqs in simulation.destination.by_source.items():
        assert seqs == sorted(seqs), f"{source} is out of order"


@settings(deadline=None, max_examples=200)
@given(
    layouts,
    phases,
    st.integers(0, 2**16),
    st.sets(st.integers(1, 58), max_size=4),
    st.sampled_from(("verdict", "422")),
    st.sets(st.integers(2, 60), max_size=2),
    st.sets(st.integers(1, 60), max_size=5),
)
def test_nothing_is_lost_and_every_source_keeps_its_order(
    layout: list[tuple[str, TrafficClass, bool]],
    plan: list[tuple[str, float]],
    seed: int,
    poison: set[int],
    poison_as: str,
    restarts: set[int],
    quarantined: set[int],
) -> None:
    poison = {seq for seq in poison if seq <= len(layout)}
    journal = journal_of(layout, tuple(restarts))
    journal.quarantined = frozenset(quarantined & set(range(1, len(layout) + 1)))
    destination = Destination(poison=frozenset(poison), poison_as=poison_as, seed=seed)
    simulation = Simulation(journal, destination, seed=seed)
    for fault, seconds in plan:
        destination.fault = fault
        simulation.run(simulation.now_s + seconds)
    destination.fault = "none"
    simulation.run(simulation.now_s + 100)
    for _ in range(3):  # what is accepted now tells poison from a destination that takes nothing
        last = journal.messages[-1]
        journal.append([stored(last.seq + 1, "d", commit=last.commit + 1, incarnation=last.incarnation)])
        simulation.run(simulation.now_s + 100)
    check_end(simulation, poison)


@settings(deadline=None, max_examples=100)
@given(
    layouts,
    phases,
    st.integers(0, 2**16),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.sets(st.integers(1, 60), max_size=5),
)
def test_a_crash_at_any_moment_sends_again_under_the_same_ids_and_numbers(
    layout: list[tuple[str, TrafficClass, bool]], plan: list[tuple[str, float]], seed: int, turns: list[int], quarantined: set[int]
) -> None:
    journal = journal_of(layout)
    journal.quarantined = frozenset(quarantined & set(range(1, len(layout) + 1)))
    destination = Destination(seed=seed)
    simulation = Simulation(journal, destination, seed=seed)
    for (fault, seconds), count in zip([*plan, ("partial", 1.0)], itertools.cycle(turns), strict=False):
        destination.fault = fault
        simulation.run(simulation.now_s + seconds)
        for _ in range(count):
            simulation.turn(settle=False)
        simulation.start()
    destination.fault = "none"
    simulation.run(simulation.now_s + 300)
    check_end(simulation, set())
    for delivery in destination.applied:
        assert delivery.laneseq == journal.laneseq(delivery.message)


@settings(deadline=None, max_examples=60)
@given(layouts, st.sampled_from(("firewall", "rejects all")), st.floats(1.0, 3000.0), st.integers(0, 2**16))
def test_a_destination_that_rejects_everything_costs_no_message_and_no_order(
    layout: list[tuple[str, TrafficClass, bool]], fault: str, seconds: float, seed: int
) -> None:
    layout = layout * 3 if len(layout) < 4 else layout
    journal = journal_of(layout)
    destination = Destination(fault=fault, seed=seed)
    simulation = Simulation(journal, destination, seed=seed)
    simulation.run(seconds)
    assert not journal.dead
    assert not journal.delivered
    destination.fault = "none"
    simulation.run(simulation.now_s + 100)
    check_end(simulation, set())


@settings(deadline=None, max_examples=60)
@given(layouts, st.integers(1, 12), st.integers(0, 2**16))
def test_a_poisoned_head_does_not_block_for_ever(layout: list[tuple[str, TrafficClass, bool]], heads: int, seed: int) -> None:
    layout = [*layout[:1] * heads, *layout, *[("d", TrafficClass.ADT, True)] * heads]
    poison = set(range(1, heads + 1))
    journal = journal_of(layout)
    simulation = Simulation(journal, Destination(poison=frozenset(poison), poison_as="422", seed=seed), RULES, seed)
    simulation.run(1200)
    check_end(simulation, poison)


@settings(deadline=None, max_examples=60)
@given(
    layouts,
    st.lists(st.tuples(st.sampled_from(("none", "refused", "lost", "401", "503", "partial")), st.floats(0.1, 8.0)), max_size=6),
    st.sets(st.integers(1, 60), max_size=4),
    st.integers(0, 2**16),
)
def test_under_stop_nothing_passes_a_dead_letter_before_the_operator_has_decided(
    layout: list[tuple[str, TrafficClass, bool]], plan: list[tuple[str, float]], poison: set[int], seed: int
) -> None:
    poison = {seq for seq in poison if seq <= len(layout)}
    journal = journal_of(layout)
    destination = Destination(poison=frozenset(poison), poison_as="422", seed=seed)
    simulation = Simulation(journal, destination, replace(RULES, stop_on_reject=True), seed)
    decided: set[int] = set()
    for fault, seconds in [*plan, *[("none", 60.0)] * (len(poison) + 2)]:
        destination.fault = fault
        simulation.run(simulation.now_s + seconds)
        undecided = set(journal.dead) - decided
        assert len(undecided) <= 1
        assert simulation.dispatch.stopped == bool(undecided)
        if undecided:
            sent = len(destination.requests)
            simulation.run(simulation.now_s + 100)
            assert len(destination.requests) == sent
            decided |= undecided
            simulation.dispatch.stopped = False
    check_end(simulation, poison)
