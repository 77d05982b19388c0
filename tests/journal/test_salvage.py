"""A damaged journal opens: what can be read is carried over, what cannot is counted, nothing is deleted, no seq is used twice."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.audit import AuditKind
from gateway.journal.audit_check import verify
from gateway.journal.keyring import open_keyring
from gateway.journal.salvage import Damage, ask_for_salvage, examine, mend
from gateway.journal.witness import read_last_status
from gateway.model.errors import CapacityError, IntegrityError
from gateway.model.refusal import Refusal
from tests.journal.filling import ROUTES, append, books_hold, deliver, drain, entry, fill, running
from tests.journal.keeping import KEK, Seeded, SetClock, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.journal.audit_check import AuditVerdict
    from gateway.journal.interface import JournalSnapshot, RouteSnapshot

PAGE = 4096


class Life:
    """A journal with history. ``clean``: after a stop; ``crashed``: database and log as a kill left them.

    No dataclass: hypothesis prints the fields of those.
    """

    def __init__(self, clean: Path, crashed: Path, bodies: list[bytes], snapshot: JournalSnapshot) -> None:
        self.clean = clean
        self.crashed = crashed
        self.bodies = bodies
        self.snapshot = snapshot


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("ballast"))
    return target


async def live(root: Path) -> Life:
    async with running(root / "clean", seed=1) as gateway:
        journal = gateway.journal
        made = await fill(journal, commits=60)
        journal.refuse_note(Refusal("adt", "no-header", "127.0.0.1", b"NOT HL7", 7, gateway.clock.wall_us()))
        await deliver(journal, "all", 10, dead=[1])
        await deliver(journal, "labs", 5)
        ids = [row.event_id for row in await journal.dead_letters("all")]
        await journal.replay_dead_letter(ids[:2], "anna")
        await asyncio.sleep(0)
    copy(root / "clean", root / "crashed")
    async with running(root / "crashed", seed=2) as gateway:
        made += await fill(gateway.journal, commits=10, first=1000)
        (root / "torn").mkdir()
        for name in ("journal.db", "journal.db-wal"):
            shutil.copy(root / "crashed" / name, root / "torn" / name)
        standing = gateway.journal.snapshot()
    for name in ("keyring", "lock"):
        shutil.copy(root / "crashed" / name, root / "torn" / name)
    return Life(root / "crashed", root / "torn", [entry.body for entry in made], standing)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return asyncio.run(live(tmp_path_factory.mktemp("life")))


def route(snapshot: JournalSnapshot, name: str = "all") -> RouteSnapshot:
    return next(found for found in snapshot.routes if found.name == name)


def check(state: Path) -> AuditVerdict:
    with closing(sqlite3.connect(state / "journal.db", isolation_level=None)) as connection:
        return verify(connection, open_keyring(state, KEK), read_last_status(state))


@dataclass
class After:
    """What became of a wrecked journal: after opening, and after everything was delivered."""

    opened: JournalSnapshot
    drained: JournalSnapshot
    delivered: list[bytes]
    dead: int
    events: list[str]


async def reopened(state: Path, new: int = 777_777) -> After:
    """Open, look, take a new message, deliver all of it; the equation holds all the way."""
    async with running(state, seed=7) as gateway:
        opened = gateway.journal.snapshot()
        assert books_hold(opened), opened
        arrived = entry(new)
        await append(gateway.journal, [arrived])
        assert arrived.seq >= opened.next_seq
        bodies = [delivery.message.body for name in ("all",) for delivery in await drain(gateway.journal, name)]
        replayed = await gateway.journal.requeued("all", 100, 1 << 30)
        await drain(gateway.journal, "labs")
        letters = await gateway.journal.dead_letters("all")
        drained = gateway.journal.snapshot()
        assert books_hold(drained), drained
        assert arrived.body in bodies
        bodies += [delivery.message.body for delivery in replayed]
        return After(opened, drained, bodies, len(letters), [f"{event.kind}:{event.code}" for event in gateway.events])


def no_loss(after: After, life: Life) -> None:
    """Everything that was queued is delivered, once."""
    queued = route(life.snapshot).books.queued
    ours = [body for body in after.delivered if body in set(life.bodies)]
    assert len(ours) == len(set(ours)) == queued
    assert route(after.drained).books.gaps == 0


# ---------------------------------------------------------------------- sound files


async def test_a_sound_journal_is_left_as_it_is(life: Life, tmp_path: Path) -> None:
    state = copy(life.clean, tmp_path / "s")
    before = snapshot(state)
    assert mend(state, open_keyring(state, KEK), ROUTES, SetClock(), Seeded()) is None
    assert snapshot(state) == before
    no_loss(await reopened(state), life)
    assert check(state).intact


async def test_a_crash_is_no_damage(life: Life, tmp_path: Path) -> None:
    state = copy(life.crashed, tmp_path / "s")
    assert examine(state, open_keyring(state, KEK)) is None
    assert (state / "journal.db-wal").stat().st_size > 0
    no_loss(await reopened(state), life)


def test_where_nothing_lies_nothing_is_made(tmp_path: Path, life: Life) -> None:
    keys = open_keyring(life.clean, KEK)
    assert mend(tmp_path, keys, ROUTES, SetClock(), Seeded()) is None
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- damage


def overwrite(path: Path, page: int, content: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[(page - 1) * PAGE : page * PAGE] = content
    path.write_bytes(raw)


def first_page(state: Path) -> None:
    overwrite(state / "journal.db", 1, bytes(PAGE))


def roots(state: Path) -> None:
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        pages = [
            row[0]
            for row in connection.execute("SELECT rootpage FROM sqlite_schema WHERE rootpage > 0 AND name IN ('block', 'commit_meta')")
        ]
    for page in pages:
        overwrite(state / "journal.db", page, b"\xff" * PAGE)


def halved(state: Path) -> None:
    path = state / "journal.db"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // PAGE // 2 * PAGE])


def odd_end(state: Path) -> None:
    path = state / "journal.db"
    path.write_bytes(path.read_bytes()[:-1000])


def nul_filled(state: Path) -> None:
    path = state / "journal.db"
    path.write_bytes(bytes(path.stat().st_size))


def nul_half(state: Path) -> None:
    path = state / "journal.db"
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))


def other_file(state: Path) -> None:
    (state / "journal.db").write_bytes(b"this is no database, it is a text\n" * 1000)


def newest_row(state: Path) -> None:
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        connection.execute("UPDATE commit_meta SET sealed = zeroblob(900) WHERE id = (SELECT max(id) FROM commit_meta)")
        connection.commit()


def no_table(state: Path) -> None:
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        connection.execute("DROP TABLE exception")
        connection.commit()


def reported(state: Path) -> None:
    ask_for_salvage(state)


DAMAGES: dict[str, tuple[Callable[[Path], None], int]] = {
    "first page gone": (first_page, 0),
    "root pages gone": (roots, 0),
    "half of the file gone": (halved, 1000),
    "cut in the middle of a page": (odd_end, 12),
    "all NUL": (nul_filled, 1000),
    "second half NUL": (nul_half, 1000),
    "another file": (other_file, 1000),
    "newest commit row unreadable": (newest_row, 0),
    "table dropped": (no_table, 2),  # the replayed dead letters
    "reported while running": (reported, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_journal_opens_and_every_message_is_delivered_or_counted(damage: str, life: Life, tmp_path: Path) -> None:
    wreck, may_lose = DAMAGES[damage]
    state = copy(life.clean, tmp_path / "s")
    wreck(state)
    wrecked = (state / "journal.db").read_bytes()
    after = await reopened(state)
    assert (state / "journal.db.quarantine-1").read_bytes() == wrecked
    assert after.opened.next_seq >= life.snapshot.next_seq
    assert set(after.delivered) - {entry(777_777).body} <= set(life.bodies) | {body for body in after.delivered if body.startswith(b"{")}
    assert {name: after.opened.accepted.get(name, 0) for name in life.snapshot.accepted} == dict(life.snapshot.accepted)
    books = route(after.drained).books
    assert books.accepted >= route(life.snapshot).books.accepted
    assert books.queued == after.drained.routes[0].requeued
    ours = [body for body in after.delivered if body in set(life.bodies)]
    lost = route(life.snapshot).books.queued - len(set(ours))
    assert lost <= may_lose
    assert any(event.startswith("salvaged") for event in after.events)
    verdict = check(state)
    assert AuditKind.SALVAGE in {declared.kind for declared in verdict.declared}
    assert verdict.intact, verdict
    # The second start finds a sound file.
    async with running(state, seed=8) as gateway:
        assert not any(event.kind == "salvaged" for event in gateway.events)
        assert books_hold(gateway.journal.snapshot())


@settings(max_examples=40)
@given(seed=st.integers(0, 1_000_000), hits=st.integers(1, 3), torn=st.booleans())
def test_any_overwritten_pages_lose_at_most_what_lay_on_them(
    seed: int, hits: int, torn: bool, life: Life, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = copy(life.crashed if torn else life.clean, tmp_path_factory.mktemp("w") / "s")
    made = random.Random(seed)
    pages = (state / "journal.db").stat().st_size // PAGE
    for page in made.sample(range(1, pages + 1), hits):
        overwrite(state / "journal.db", page, made.choice([bytes(PAGE), made.randbytes(PAGE), b"\xff" * PAGE]))
    ask_for_salvage(state)
    after = asyncio.run(reopened(state))
    assert after.opened.next_seq >= life.snapshot.next_seq
    ours = {body for body in after.delivered if body in set(life.bodies)}
    lost = route(life.snapshot).books.queued - len(ours)
    # A page holds four blocks of two messages, at most, or parts of them.
    assert lost <= 12 * hits
    assert check(state).intact


async def test_without_a_damage_that_is_seen_at_the_start_reading_finds_it_and_declares_gaps(life: Life, tmp_path: Path) -> None:
    """A byte inside a block: SQLite sees nothing, the seal does."""
    state = copy(life.clean, tmp_path / "s")
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        row, sealed = connection.execute("SELECT id, sealed FROM block ORDER BY id LIMIT 1 OFFSET 70").fetchone()
        connection.execute("UPDATE block SET sealed = ? WHERE id = ?", (sealed[:-40] + b"\0" + sealed[-39:], row))
        connection.commit()
    after = await reopened(state)
    assert route(after.drained).books.gaps == 2
    verdict = check(state)
    assert verdict.intact
    assert AuditKind.QUARANTINE in {declared.kind for declared in verdict.declared}


# ---------------------------------------------------------------------- what is gone altogether


async def test_a_lost_log_is_reported_and_no_seq_is_used_again(life: Life, tmp_path: Path) -> None:
    state = copy(life.crashed, tmp_path / "s")
    shutil.copy(life.clean / "last-status.json", state)  # says what the log held
    (state / "journal.db-wal").unlink()
    after = await reopened(state)
    assert after.opened.next_seq >= life.snapshot.next_seq
    assert after.opened.accepted == dict(life.snapshot.accepted)
    # Ten commits of four messages were in the log alone, of which each second one goes to ``labs``.
    assert route(after.opened).books.gaps == 40
    assert route(after.opened, "labs").books.gaps == 20
    assert "salvaged:behind-witness" in after.events
    verdict = check(state)
    assert verdict.intact, verdict
    assert [declared.kind for declared in verdict.declared] == [AuditKind.ROLLBACK]


async def test_a_deleted_database_is_reported_and_its_log_kept(life: Life, tmp_path: Path) -> None:
    state = copy(life.crashed, tmp_path / "s")
    shutil.copy(life.clean / "last-status.json", state)
    wal = (state / "journal.db-wal").read_bytes()
    (state / "journal.db").unlink()
    after = await reopened(state)
    assert (state / "journal.db.quarantine-1-wal").read_bytes() == wal
    assert after.opened.next_seq >= life.snapshot.next_seq
    assert after.opened.accepted == dict(life.snapshot.accepted)
    ours = {body for body in after.delivered if body in set(life.bodies)}
    assert len(ours) >= 36, "the log alone held the last ten commits"


async def test_a_deleted_database_and_log_start_anew_above_the_witness(life: Life, tmp_path: Path) -> None:
    state = copy(life.clean, tmp_path / "s")
    (state / "journal.db").unlink()
    after = await reopened(state)
    assert after.opened.next_seq >= life.snapshot.next_seq
    assert after.opened.accepted == dict(life.snapshot.accepted)
    assert route(after.opened).books.queued == 0
    assert route(after.opened).books.accepted == route(life.snapshot).books.accepted


async def test_an_old_copy_put_back_is_recognised(life: Life, tmp_path: Path) -> None:
    state = copy(life.clean, tmp_path / "s")
    old = tmp_path / "old.db"
    shutil.copy(state / "journal.db", old)
    async with running(state, seed=3) as gateway:
        await fill(gateway.journal, commits=3, first=5000)
        seq = gateway.journal.snapshot().next_seq
    shutil.copy(old, state / "journal.db")
    after = await reopened(state)
    assert after.opened.next_seq >= seq
    assert route(after.opened).books.gaps == 12


# ---------------------------------------------------------------------- the moves


@pytest.mark.parametrize("step", ["building", "built", "log moved", "database moved"])
async def test_a_crash_during_the_salvage_loses_nothing(step: str, life: Life, tmp_path: Path) -> None:
    state = copy(life.clean, tmp_path / "s")
    first_page(state)
    done = copy(state, tmp_path / "done")
    mend(done, open_keyring(done, KEK), ROUTES, SetClock(), Seeded())
    if step == "building":
        (state / "journal.db.salvaging").write_bytes((done / "journal.db").read_bytes()[: 5 * PAGE])
        (state / "journal.db.salvaging-wal").write_bytes(b"half a log")
    else:
        shutil.copy(done / "journal.db", state / "journal.db.salvaged")
    if step != "building":
        (state / "journal.db-wal").write_bytes(b"a log that must not meet the new database")
    if step in ("log moved", "database moved"):
        (state / "journal.db-wal").rename(state / "journal.db.quarantine-1-wal")
    if step == "database moved":
        (state / "journal.db").rename(state / "journal.db.quarantine-1")
    after = await reopened(state)
    no_loss(after, life)
    names = {path.name for path in state.iterdir()}
    assert not {name for name in names if "salvag" in name}
    kept = [
        path.read_bytes() for path in state.iterdir() if path.name.startswith("journal.db.quarantine") and not path.name.endswith("-wal")
    ]
    assert (done / "journal.db.quarantine-1").read_bytes() in kept


async def test_each_salvage_keeps_its_own_file(life: Life, tmp_path: Path) -> None:
    state = copy(life.clean, tmp_path / "s")
    for number in (1, 2, 3):
        first_page(state)
        async with running(state, seed=number):
            pass
        assert (state / f"journal.db.quarantine-{number}").exists()


async def test_without_room_nothing_is_changed(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = copy(life.clean, tmp_path / "s")
    first_page(state)
    before = snapshot(state)
    monkeypatch.setattr("gateway.journal.salvage._NO_PAGE_LIMIT", 20)
    with pytest.raises(CapacityError, match="salvage-space"):
        mend(state, open_keyring(state, KEK), ROUTES, SetClock(), Seeded())
    after = snapshot(state)
    assert {name: after[name][0] for name in after} == {name: before[name][0] for name in before}


async def test_with_little_room_what_no_route_needs_any_more_is_left_behind(
    life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = copy(life.clean, tmp_path / "s")
    ask_for_salvage(state)
    monkeypatch.setattr("gateway.journal.salvage._has_room", lambda _: False)
    after = await reopened(state)
    assert after.opened.blocks < life.snapshot.blocks
    no_loss(after, life)


def test_the_kinds_of_damage_are_told_apart(life: Life, tmp_path: Path) -> None:
    keys = open_keyring(life.clean, KEK)
    found = {}
    for name, (wreck, _) in DAMAGES.items():
        state = copy(life.clean, tmp_path / name.replace(" ", "-"))
        wreck(state)
        found[name] = examine(state, keys)
    assert found.pop("reported while running") is None
    assert set(found.values()) == {Damage.REFUSED, Damage.UNREADABLE}
    (state / "journal.db-wal").write_bytes(b"log")
    (state / "journal.db").write_bytes(b"")
    assert examine(state, keys) is Damage.GONE


@settings(max_examples=40)
@given(seed=st.integers(0, 1_000_000), flips=st.sampled_from([1, 10, 100, 1000]), torn=st.booleans())
def test_any_changed_bytes_anywhere_leave_a_journal_that_opens_and_whose_books_hold(
    seed: int, flips: int, torn: bool, life: Life, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = copy(life.crashed if torn else life.clean, tmp_path_factory.mktemp("w") / "s")
    made = random.Random(seed)
    for name in ("journal.db", "journal.db-wal"):
        if (state / name).exists():
            raw = bytearray((state / name).read_bytes())
            for _ in range(flips):
                raw[made.randrange(len(raw))] = made.randrange(256)
            (state / name).write_bytes(raw)
    try:
        asyncio.run(reopened(state))
    except IntegrityError as error:
        # Found while reading, behind a sound head: the daemon closes it and opens it again, which salvages.
        found = error.code
        asyncio.run(reopened(state, new=888_888))
        assert found == "journal-damaged"


# ---------------------------------------------------------------------- what reading finds


def without_blocks(state: Path, offset: int, number: int) -> None:
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        connection.execute("DELETE FROM block WHERE id IN (SELECT id FROM block ORDER BY id LIMIT ? OFFSET ?)", (number, offset))
        connection.commit()


@pytest.mark.parametrize(("offset", "number"), [(60, 1), (61, 1), (61, 2), (61, 1000), (0, 139), (139, 1)])
async def test_block_rows_that_are_gone_are_counted_once_whole_commits_or_halves(
    offset: int, number: int, life: Life, tmp_path: Path
) -> None:
    state = copy(life.clean, tmp_path / "s")
    without_blocks(state, offset, number)
    after = await reopened(state)
    books = route(after.drained).books
    # The first ten commits (twenty blocks) had been settled before.
    assert books.gaps == 2 * (min(offset + number, 140) - max(offset, 20))
    assert books.queued == route(after.drained).requeued


async def test_a_route_comes_forward_however_little_it_reads_at_a_time(life: Life, tmp_path: Path) -> None:
    async with running(copy(life.clean, tmp_path / "s"), seed=7) as gateway:
        journal = gateway.journal
        read = 0
        after = journal.cursor("all")
        while (result := await journal.read("all", after, 1)).after != after:
            assert len(result.deliveries) in (0, 4)
            read += len(result.deliveries)
            after = result.after
        assert read == route(journal.snapshot()).books.queued - route(journal.snapshot()).requeued
