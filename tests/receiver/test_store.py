"""The books: exactly once by (id, revision), gaps on laneseq alone, durable, and right again after any failure."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway.model.errors import CapacityError, IntegrityError, StorageError, UnavailableError
from gateway.model.event import EventId
from gateway.receiver.store import Applied, Declaration, Offer, ReceiverStore, Status, merged
from tests.receiver.events import AT_US, FIRST, GATEWAY, SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator

LANE = "everything/result"


def offer(
    seq: int, laneseq: int | None = None, *, incarnation: str = FIRST, gateway: str = GATEWAY, digest: bytes | None = None, **more: Any
) -> Offer:
    event_id = EventId(gateway, incarnation, seq, more.pop("part", None))
    plain: dict[str, Any] = {"revision": 0, "lane": LANE, "laneseq": seq if laneseq is None else laneseq}
    return Offer(event_id, digest=b"d%d" % seq if digest is None else digest, **(plain | more))


def declaration(seq: int, laneseq: int, first: int, last: int) -> Offer:
    return offer(seq, laneseq, lane="everything/audit", declaration=Declaration(LANE, first, last, "quarantine"))


@contextmanager
def opened(folder: Path, **options: Any) -> Iterator[ReceiverStore]:
    store = ReceiverStore(folder, **options)
    store.open()
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ReceiverStore]:
    with opened(tmp_path / "store") as made:
        yield made


def statuses(applied: Applied) -> list[str]:
    return [result.status.value for result in applied.results]


def lane(store: ReceiverStore, name: str = LANE) -> dict[str, Any]:
    return next(state for state in store.summary()["lanes"] if state["lane"] == name)


def test_an_event_is_applied_once_and_then_a_duplicate(store: ReceiverStore) -> None:
    assert statuses(store.apply([offer(1), offer(2), offer(2)], AT_US)) == ["accepted", "accepted", "duplicate"]
    assert statuses(store.apply([offer(1), offer(3)], AT_US)) == ["duplicate", "accepted"]
    assert (store.totals["events"], store.totals["applied"], store.totals["duplicates"]) == (3, 3, 2)


def test_the_same_key_with_another_content_is_refused_and_alarmed_and_changes_nothing(store: ReceiverStore) -> None:
    store.apply([offer(1, digest=b"one")], AT_US)
    applied = store.apply([offer(1, digest=b"other"), offer(2)], AT_US)
    assert [(result.status, bool(result.reason)) for result in applied.results] == [(Status.REJECTED, True), (Status.ACCEPTED, False)]
    assert applied.conflicts == 1
    assert store.summary()["recent_conflicts"] == [
        {
            "at": "2026-11-25T00:00:00.000000Z",
            "id": f"{GATEWAY}/{FIRST}/1",
            "revision": 0,
            "kept_sha256": b"one".hex(),
            "offered_sha256": b"other".hex(),
        }
    ]
    assert statuses(store.apply([offer(1, digest=b"one")], AT_US)) == ["duplicate"]


def test_the_same_seq_of_another_incarnation_or_gateway_or_part_is_another_event(store: ReceiverStore) -> None:
    for other in (offer(1), offer(1, 2, incarnation=SECOND), offer(1, gateway="ward-4"), offer(1, 3, part=0), offer(1, 4, part=1)):
        assert statuses(store.apply([other], AT_US)) == ["accepted"]


def test_the_highest_revision_is_in_force_and_a_late_lower_one_changes_nothing(store: ReceiverStore) -> None:
    store.apply([offer(1, digest=b"r0")], AT_US)
    assert statuses(store.apply([offer(1, digest=b"r2", revision=2)], AT_US)) == ["accepted"]
    late = store.apply([offer(1, digest=b"r0"), offer(1, digest=b"r1", revision=1), offer(1, digest=b"r2", revision=2)], AT_US)
    assert statuses(late) == ["duplicate", "duplicate", "duplicate"]
    assert [bool(result.reason) for result in late.results] == [True, True, False]
    conflicts = store.apply([offer(1, digest=b"x"), offer(1, digest=b"x", revision=1), offer(1, digest=b"x", revision=2)], AT_US)
    assert statuses(conflicts) == ["rejected"] * 3
    assert {name: store.totals[name] for name in ("events", "applied", "superseded", "conflicts")} == {
        "events": 1, "applied": 2, "superseded": 1, "conflicts": 3,
    }  # fmt: skip


def test_two_revisions_in_one_batch_apply_in_order(store: ReceiverStore) -> None:
    applied = store.apply([offer(1, digest=b"r0"), offer(1, digest=b"r1", revision=1), offer(1, digest=b"r0")], AT_US)
    assert statuses(applied) == ["accepted", "accepted", "duplicate"]


def test_a_rejected_event_is_not_applied_and_may_come_again(store: ReceiverStore) -> None:
    assert statuses(store.apply([offer(1, rejection="not today"), offer(2)], AT_US)) == ["rejected", "accepted"]
    assert lane(store)["missing_ranges"] == [[1, 1]]
    assert statuses(store.apply([offer(1, revision=1)], AT_US)) == ["accepted"]
    assert lane(store)["missing"] == 0


def test_an_event_that_was_applied_is_a_duplicate_also_where_it_would_be_rejected_now(store: ReceiverStore) -> None:
    store.apply([offer(1)], AT_US)
    assert statuses(store.apply([offer(1, rejection="not any more")], AT_US)) == ["duplicate"]


def test_numbers_that_do_not_come_are_missing_ranges_until_they_come(store: ReceiverStore) -> None:
    applied = store.apply([offer(1), offer(2), offer(6), offer(9)], AT_US)
    assert applied.opened == ((LANE, 3, 5), (LANE, 7, 8))
    assert (lane(store)["high"], lane(store)["missing"], store.missing) == (9, 5, 5)
    applied = store.apply([offer(4), offer(8)], AT_US)
    assert (applied.opened, applied.closed) == ((), 2)
    assert lane(store)["missing_ranges"] == [[3, 3], [5, 5], [7, 7]]


def test_order_inside_a_batch_is_no_gap(store: ReceiverStore) -> None:
    applied = store.apply([offer(5), offer(3), offer(1), offer(4), offer(2)], AT_US)
    assert (applied.opened, store.missing) == ((), 0)


def test_a_lane_that_does_not_start_at_one_misses_its_beginning(store: ReceiverStore) -> None:
    assert store.apply([offer(100, 40)], AT_US).opened == ((LANE, 1, 39),)


def test_a_declared_gap_closes_what_is_missing_and_what_is_still_to_come(store: ReceiverStore) -> None:
    store.apply([offer(1), offer(5)], AT_US)
    applied = store.apply([declaration(6, 1, 2, 3)], AT_US)
    assert (applied.closed, applied.declared) == (2, 2)
    assert lane(store)["missing_ranges"] == [[4, 4]]
    ahead = store.apply([declaration(7, 2, 6, 9), offer(10)], AT_US)
    assert (ahead.opened, lane(store)["high"], lane(store)["declared"]) == ((), 10, 6)
    again = store.apply([declaration(7, 2, 6, 9)], AT_US)
    assert (statuses(again), again.declared, lane(store)["declared"]) == (["duplicate"], 0, 6)


def test_the_same_event_on_a_second_route_is_a_duplicate_and_counts_in_that_lane(store: ReceiverStore) -> None:
    store.apply([offer(1), offer(2)], AT_US)
    applied = store.apply([offer(2, 1, lane="alarms/result")], AT_US)
    assert (statuses(applied), applied.reused) == (["duplicate"], 0)
    assert lane(store, "alarms/result")["high"] == 1


def test_lanes_of_different_gateways_are_different_lanes(store: ReceiverStore) -> None:
    store.apply([offer(1)], AT_US)
    assert store.apply([offer(1, 3, gateway="ward-4")], AT_US).opened == ((LANE, 1, 2),)


def test_a_gateway_that_was_set_back_is_noticed_by_numbers_it_uses_again(store: ReceiverStore) -> None:
    store.apply([offer(n) for n in range(1, 11)], AT_US)
    applied = store.apply([offer(n, incarnation=SECOND) for n in range(7, 13)], AT_US)
    assert statuses(applied) == ["accepted"] * 6
    assert (applied.reused, lane(store)["reused"], lane(store)["high"]) == (4, 4, 12)


def test_late_numbers_replays_and_declared_numbers_are_no_sign_of_that(store: ReceiverStore) -> None:
    store.apply([offer(1), offer(4)], AT_US)
    store.apply([declaration(9, 1, 3, 3)], AT_US)
    assert store.apply([offer(2), offer(3), offer(4, revision=1)], AT_US).reused == 0


def test_incarnations_are_kept_in_order_of_first_arrival(store: ReceiverStore) -> None:
    for incarnation, seq in ((SECOND, 5), (FIRST, 9), (SECOND, 6)):
        store.apply([offer(seq, incarnation=incarnation)], AT_US + seq)
    (gateway,) = store.summary()["gateways"]
    assert [(i["incarnation"], i["events"], i["first_seq"], i["last_seq"]) for i in gateway["incarnations"]] == [
        (SECOND, 2, 5, 6),
        (FIRST, 1, 9, 9),
    ]
    assert gateway["incarnations"][1]["first_arrival"] == "2026-11-25T00:00:00.000009Z"


def test_everything_is_still_known_after_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.apply([offer(1), offer(3)], AT_US)
        before = store.summary()
    with opened(tmp_path) as store:
        assert store.summary() == before
        assert store.missing == 1
        assert statuses(store.apply([offer(1), offer(3, digest=b"x")], AT_US)) == ["duplicate", "rejected"]


def test_payloads_are_kept_only_on_demand_and_always_those_in_force(tmp_path: Path) -> None:
    for keep in (False, True):
        folder = tmp_path / str(keep)
        with opened(folder, keep_payloads=keep) as store:
            store.apply([offer(1, body=b"CANARY-one", type="t", source="s")], AT_US)
            store.apply([offer(1, body=b"CANARY-two", digest=b"2", revision=1)], AT_US)
        bodies = sqlite3.connect(folder / "receiver.db").execute("SELECT body FROM payload").fetchall()
        assert bodies == ([(b"CANARY-two",)] if keep else [])
        if not keep:
            assert not [file for file in folder.iterdir() if b"CANARY" in file.read_bytes()]


def test_only_the_owner_may_read_what_it_writes(tmp_path: Path) -> None:
    with opened(tmp_path / "new" / "store") as store:
        store.apply([offer(1)], AT_US)
        folder = tmp_path / "new" / "store"
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == dict.fromkeys(
            ("lock", "receiver.db", "receiver.db-wal", "receiver.db-shm"), 0o600
        )


def test_a_folder_has_one_receiver_at_a_time(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(UnavailableError) as second, opened(tmp_path):
        pass
    assert second.value.code == "store-in-use"
    with opened(tmp_path):
        pass


def test_nothing_of_a_batch_that_finds_no_room_is_applied_and_it_succeeds_later(store: ReceiverStore) -> None:
    store.apply([offer(1)], AT_US)
    store._connected().execute("PRAGMA max_page_count=1")  # SQLite raises it to the present size
    with pytest.raises(CapacityError) as full:
        store.apply([offer(n) for n in range(2, 2000)], AT_US)
    assert full.value.code == "store-full"
    assert (store.totals["events"], store.summary()["events"]) == (1, 1)
    assert statuses(store.apply([offer(2)], AT_US)) == ["accepted"]


def test_a_fault_in_the_middle_of_a_batch_leaves_nothing_half_done(store: ReceiverStore) -> None:
    with pytest.raises(OverflowError):
        store.apply([offer(1), offer(2**63)], AT_US)
    assert statuses(store.apply([offer(1)], AT_US)) == ["accepted"]
    assert store.summary()["events"] == 1


@pytest.mark.parametrize("content", [b"this is no database at all, and long enough" * 100, b"SQLite format 3\x00" + b"\xff" * 4096])
def test_a_file_that_is_no_store_is_a_typed_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "receiver.db").write_bytes(content)
    store = ReceiverStore(tmp_path)
    with pytest.raises(IntegrityError) as corrupt:
        store.open()
    store.close()
    assert corrupt.value.code == "store-corrupt"
    assert (tmp_path / "receiver.db").read_bytes() == content


def test_a_folder_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as fault:
        ReceiverStore(tmp_path / "file" / "store").open()
    assert fault.value.code == "store-not-writable"


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = ReceiverStore(tmp_path)
    with pytest.raises(UnavailableError):
        store.apply([offer(1)], AT_US)


def test_conflicts_are_remembered_up_to_a_bound(store: ReceiverStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.receiver.store._CONFLICTS_KEPT", 5)
    store.apply([offer(1)], AT_US)
    store.apply([offer(1, digest=b"%d" % n) for n in range(20)], AT_US)
    assert store._connected().execute("SELECT count(*) FROM conflict").fetchone() == (5,)
    assert store.totals["conflicts"] == 20


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5))))
def test_merged_spans_hold_the_same_numbers_and_never_touch(pairs: list[tuple[int, int]]) -> None:
    spans = [(first, first + length) for first, length in pairs]
    joined = merged(spans)
    assert {n for first, last in joined for n in range(first, last + 1)} == {n for first, last in spans for n in range(first, last + 1)}
    assert all(left[1] + 1 < right[0] for left, right in itertools.pairwise(joined))


class Model:
    """The same books in dictionaries."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, int], bytes] = {}  # (seq, revision) -> digest
        self.here: set[int] = set()

    def take(self, seq: int, revision: int, digest: bytes) -> str:
        if (seq, revision) in self.kept:
            verdict = "duplicate" if self.kept[seq, revision] == digest else "rejected"
        else:
            lower = any(known == seq and other > revision for known, other in self.kept)
            self.kept[seq, revision] = digest
            verdict = "duplicate" if lower else "accepted"
        if verdict != "rejected":
            self.here.add(seq)
        return verdict

    @property
    def missing(self) -> set[int]:
        return set(range(1, max(self.here, default=0) + 1)) - self.here


EVENTS = st.tuples(st.integers(1, 30), st.integers(0, 2), st.sampled_from([b"a", b"a", b"a", b"b"]))
GAPS = st.tuples(st.integers(1, 30), st.integers(0, 4))


@hypothesis_settings(max_examples=60)
@given(st.lists(st.tuples(st.lists(EVENTS, max_size=8), st.lists(GAPS, max_size=2), st.booleans()), max_size=8))
def test_any_order_of_events_resends_gaps_and_restarts_gives_the_books_of_a_dictionary(
    batches: list[tuple[list[tuple[int, int, bytes]], list[tuple[int, int]], bool]],
) -> None:
    model = Model()
    gaps = 0
    with tempfile.TemporaryDirectory() as folder:
        store = ReceiverStore(Path(folder))
        store.open()
        for offered, declared, restart in batches:
            if restart:
                store.close()
                store.open()
            offers = [offer(seq, digest=digest, revision=revision) for seq, revision, digest in offered]
            for first, length in declared:
                gaps += 1
                offers.append(declaration(1000 + gaps, gaps, first, first + length))
                model.here |= set(range(first, first + length + 1))
            expected = [model.take(*each) for each in offered] + ["accepted"] * len(declared)
            assert statuses(store.apply(offers, AT_US)) == expected
            shown = {
                n
                for state in store.summary()["lanes"]
                if state["lane"] == LANE
                for first, last in state["missing_ranges"]
                for n in range(first, last + 1)
            }
            assert shown == model.missing
            assert store.missing == len(model.missing)
        store.close()
