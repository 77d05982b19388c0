"""Reading while the daemon is stopped: the same answers, and not a byte, name or time of the state directory changes."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from gateway.journal.interface import JournalPlace
from gateway.journal.keyring import create_keyring, open_keyring
from gateway.journal.offline import OfflineJournal
from gateway.journal.salvage import mend
from gateway.model.errors import CapacityError, IntegrityError, LockedError, UnavailableError
from gateway.model.event import EventId
from gateway.model.refusal import Refusal
from tests.journal.filling import GATEWAY, ROUTES, OneKey, deliver, fill, running
from tests.journal.keeping import KEK, OTHER_KEK, Seeded, SetClock, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.journal.interface import ExceptionRow, JournalSnapshot, QueueRow, TraceRecord
    from gateway.journal.journal import Journal
    from gateway.model.message import StoredMessage


class Answers:
    """What the running journal said, to be compared with what is read later."""

    def __init__(
        self,
        snapshot: JournalSnapshot,
        queue: list[QueueRow],
        letters: list[ExceptionRow],
        trace: list[TraceRecord],
        message: StoredMessage,
    ) -> None:
        self.snapshot = snapshot
        self.queue = queue
        self.letters = letters
        self.trace = trace
        self.message = message


class Lives:
    """A journal after a clean stop, one as a kill left it, and the answers of each."""

    def __init__(self, clean: Path, crashed: Path, stopped: Answers, killed: Answers) -> None:
        self.clean = clean
        self.crashed = crashed
        self.stopped = stopped
        self.killed = killed


async def live(root: Path) -> Lives:
    async with running(root / "clean", seed=1) as gateway:
        await fill(gateway.journal, commits=12)
        await deliver(gateway.journal, "all", 3, dead=[1, 2])
        await deliver(gateway.journal, "labs", 2)
        for at in range(3):
            gateway.journal.refuse_note(Refusal("adt", "no-header", "127.0.0.1", b"NOT HL7 %d" % at, 9, gateway.clock.wall_us()))
        letters = await gateway.journal.dead_letters()
        await gateway.journal.replay_dead_letter([letters[0].event_id], "anna")
        await asyncio.sleep(0)
        stopped = await answers(gateway.journal)
        (root / "crashed").mkdir()
        killed = stopped
    async with running(root / "live", seed=2) as gateway:
        await fill(gateway.journal, commits=3)
        await deliver(gateway.journal, "all", 1, dead=[0])
        killed = await answers(gateway.journal)
        for name in ("journal.db", "journal.db-wal", "keyring", "lock"):
            shutil.copy(root / "live" / name, root / "crashed" / name)
    return Lives(root / "clean", root / "crashed", stopped, killed)


async def answers(journal: Journal) -> Answers:
    letters = await journal.dead_letters()
    event = letters[-1].event_id
    message = await journal.message(event)
    assert message is not None
    return Answers(journal.snapshot(), await journal.queue("all", 1000), letters, await journal.trace(event), message)


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Lives:
    return asyncio.run(live(tmp_path_factory.mktemp("lives")))


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("ballast"))
    return target


def opened(state: Path, kek: bytes = KEK) -> OfflineJournal:
    return OfflineJournal.open(JournalPlace(state), OneKey(kek), GATEWAY)


def look_at_everything(journal: OfflineJournal) -> None:
    journal.snapshot()
    for route in ("all", "labs"):
        journal.queue(route, 1000)
    for row in journal.dead_letters():
        event = EventId.parse(row.event_id)
        assert event is not None
        assert journal.exception_content(event) is not None
        assert journal.message(event) is not None
        assert journal.trace(event)
    for frame in journal.refused():
        assert journal.refused_content(frame.id) is not None
    journal.verify_audit()


class NoKey:
    """A provider that must not be asked."""

    def read(self) -> bytes:
        pytest.fail("the key was asked for")


@pytest.mark.parametrize("made", [False, True])
def test_where_nothing_was_ever_stored_everything_is_zero_and_no_key_is_needed(made: bool, tmp_path: Path) -> None:
    state = tmp_path / "state"
    if made:
        state.mkdir()
    before = snapshot(state)
    with OfflineJournal.open(JournalPlace(state), NoKey(), GATEWAY) as journal:
        seen = journal.snapshot()
        assert (seen.incarnation, dict(seen.accepted), seen.routes, seen.bytes, seen.blocks) == ("", {}, (), 0, 0)
        assert [*journal.queue("all"), *journal.dead_letters(), *journal.refused()] == []
        event = EventId(GATEWAY, "0" * 32, 1)
        assert (journal.message(event), journal.exception_content(event), journal.refused_content(1)) == (None, None, None)
        assert journal.trace(event) == []
        assert journal.verify_audit().intact
    assert snapshot(state) == before


@pytest.mark.parametrize("kind", ["clean", "crashed"])
def test_reading_changes_no_byte_name_mode_or_time(kind: str, lives: Lives, tmp_path: Path) -> None:
    state = copy(getattr(lives, kind), tmp_path / "s")
    before = snapshot(state)
    with opened(state) as journal:
        look_at_everything(journal)
        assert snapshot(state) == before
    assert snapshot(state) == before


@pytest.mark.parametrize("kind", ["clean", "crashed"])
def test_the_answers_are_those_of_the_daemon(kind: str, lives: Lives, tmp_path: Path) -> None:
    state = copy(getattr(lives, kind), tmp_path / "s")
    said = lives.stopped if kind == "clean" else lives.killed
    with opened(state) as journal:
        seen, known = journal.snapshot(), said.snapshot
        assert (seen.incarnation, dict(seen.accepted), seen.next_seq) == (
            known.incarnation,
            dict(known.accepted),
            known.next_seq,
        )
        assert [(route.name, route.books, route.cursor, route.requeued) for route in seen.routes] == [
            (route.name, route.books, route.cursor, route.requeued) for route in known.routes
        ]
        assert all((route.oldest_us is None) == (route.books.queued == 0) for route in seen.routes)
        assert journal.queue("all", 1000) == said.queue
        assert journal.queue("all", 3) == said.queue[:3]
        assert journal.queue("no such route") == []
        assert journal.dead_letters() == said.letters
        assert journal.dead_letters("labs") == []
        event = EventId.parse(said.letters[-1].event_id)
        assert event is not None
        assert journal.trace(event) == said.trace
        assert journal.message(event) == said.message
        content = journal.exception_content(event)
        assert content is not None
        assert (content.message, content.code, content.reason) == (said.message, "rejected", "no such ward")
        assert journal.verify_audit().intact


def test_refused_frames_are_listed_and_shown(lives: Lives, tmp_path: Path) -> None:
    with opened(copy(lives.clean, tmp_path / "s")) as journal:
        rows = journal.refused()
        assert [(row.code, row.kept) for row in rows] == [("no-header", b"")] * 3
        shown = journal.refused_content(rows[0].id)
        assert shown is not None
        assert shown.kept == b"NOT HL7 2"
        assert journal.refused(1) == rows[:1]


def test_ids_of_other_gateways_and_of_other_starts_name_nothing(lives: Lives, tmp_path: Path) -> None:
    with opened(copy(lives.clean, tmp_path / "s")) as journal:
        event = EventId.parse(journal.dead_letters()[0].event_id)
        assert event is not None
        for other in (EventId("ward-4", event.incarnation, event.seq), EventId(GATEWAY, "0" * 32, event.seq)):
            assert journal.message(other) is None
            assert journal.exception_content(other) is None or other.gateway != GATEWAY


async def test_a_running_daemon_is_reported_not_disturbed(tmp_path: Path) -> None:
    async with running(tmp_path / "s") as gateway:
        await fill(gateway.journal, commits=2)
        before = snapshot(tmp_path / "s")
        with pytest.raises(UnavailableError, match="already-running"):
            opened(tmp_path / "s")
        assert snapshot(tmp_path / "s") == before


def test_no_daemon_starts_under_the_reader(lives: Lives, tmp_path: Path) -> None:
    state = copy(lives.clean, tmp_path / "s")
    with opened(state), pytest.raises(UnavailableError, match="already-running"):
        opened(state)
    with opened(state) as journal:
        journal.close()
        opened(state).close()


def wrong_key(state: Path) -> bytes:
    assert state.exists()
    return OTHER_KEK


def no_keyring(state: Path) -> bytes:
    (state / "keyring").unlink()
    return KEK


def half_a_keyring(state: Path) -> bytes:
    raw = (state / "keyring").read_bytes()
    (state / "keyring").write_bytes(raw[:100])
    return KEK


def newer_journal(state: Path) -> bytes:
    with closing(sqlite3.connect(state / "journal.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    return KEK


@pytest.mark.parametrize(
    ("spoil", "code"),
    [(wrong_key, "key-wrong"), (no_keyring, "keyring-missing"), (half_a_keyring, "keyring-damaged"), (newer_journal, "journal-newer")],
)
def test_locked_is_said_with_its_cause_and_nothing_changes(spoil: Callable[[Path], bytes], code: str, lives: Lives, tmp_path: Path) -> None:
    state = copy(lives.clean, tmp_path / "s")
    kek = spoil(state)
    before = snapshot(state)
    with pytest.raises(LockedError) as caught:
        opened(state, kek)
    assert caught.value.code == code
    assert snapshot(state) == before
    if code == "key-wrong":
        opened(state).close()  # the lock was not kept


@pytest.mark.parametrize("content", [bytes(8192), b"no database\n" * 1000])
def test_a_damaged_file_is_said_and_left_to_the_next_start(content: bytes, lives: Lives, tmp_path: Path) -> None:
    state = copy(lives.clean, tmp_path / "s")
    (state / "journal.db").write_bytes(content)
    before = snapshot(state)
    with pytest.raises(IntegrityError, match="journal-damaged"):
        opened(state)
    assert snapshot(state) == before


def test_the_private_copy_is_private_and_goes(lives: Lives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "tmp"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    state = copy(lives.crashed, tmp_path / "s")
    with opened(state) as journal:
        (made,) = room.iterdir()
        assert oct(made.stat().st_mode)[-3:] == "700"
        assert journal.queue("all")
    assert list(room.iterdir()) == []
    with pytest.raises(LockedError):
        opened(state, OTHER_KEK)
    for name in ("journal.db", "journal.db-wal"):
        (state / name).write_bytes(b"no database\n" * 1000)
    with pytest.raises(IntegrityError):
        opened(state)
    assert list(room.iterdir()) == []


def test_without_room_for_the_copy_the_way_out_is_named(lives: Lives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CapacityError, match=r"copy-space.*TMPDIR"):
        opened(copy(lives.crashed, tmp_path / "s"))
    # A clean stop needs no copy.
    with opened(copy(lives.clean, tmp_path / "t")) as journal:
        look_at_everything(journal)


def test_a_salvage_that_was_interrupted_at_its_end_is_read_from_the_new_file(lives: Lives, tmp_path: Path) -> None:
    state = copy(lives.clean, tmp_path / "s")
    done = copy(lives.clean, tmp_path / "done")
    (done / "journal.db").write_bytes(bytes(4096) + (done / "journal.db").read_bytes()[4096:])
    with opened(state) as journal:
        before = journal.snapshot()
    assert mend(done, open_keyring(done, KEK), ROUTES, SetClock(), Seeded()) is not None
    shutil.copy(done / "journal.db", state / "journal.db.salvaged")
    (state / "journal.db").rename(state / "journal.db.quarantine-1")
    files = snapshot(state)
    with opened(state) as journal:
        assert [route.books for route in journal.snapshot().routes] == [route.books for route in before.routes]
    assert snapshot(state) == files


def test_a_first_start_that_came_no_further_than_its_keyring_is_empty(tmp_path: Path) -> None:
    create_keyring(tmp_path, KEK, Seeded())
    with opened(tmp_path) as journal:
        assert journal.snapshot().next_seq == 1
        assert journal.queue("all") == []
    sqlite3.connect(tmp_path / "journal.db").close()
    with opened(tmp_path) as journal:
        assert [route.books for route in journal.snapshot().routes] == []
