"""What SQLite is told, what it answers, and what reaches the disk."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.journal.interface import JournalEventKind, RouteRule
from gateway.journal.migrations import migrate, schema_scripts
from gateway.journal.pragmas import connect_reader, connect_writer, set_and_read_back, storage_error
from gateway.journal.records import SCHEMA_VERSION
from gateway.model.errors import CapacityError, GatewayError, IntegrityError, LockedError, StorageError
from tests.blackbox.slow_disk import slow_disk_library
from tests.journal.working import Box, append, deliver, entry, leave, read_all, route_of, sqlite_error
from tests.prerequisites import need_programs

ROOT = Path(__file__).resolve().parents[2]


def test_every_pragma_is_what_the_readme_says_it_is(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / "journal.db", 300, 5000)
    wanted = {
        "journal_mode": "wal",
        "synchronous": 2,
        "temp_store": 2,
        "mmap_size": 0,
        "secure_delete": 0,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "wal_autocheckpoint": 300,
        "journal_size_limit": 300 * 4096,
        "max_page_count": 5000,
        "page_size": 4096,
        "auto_vacuum": 0,
    }
    assert {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in wanted} == wanted
    connection.close()


@pytest.mark.parametrize("wrong", [{"synchronous": "FULLL"}, {"journal_mode": "wall"}, {"no_such_pragma": 1}])
def test_a_pragma_that_does_not_take_stops_the_start(wrong: dict[str, int | str]) -> None:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(StorageError, match="journal-pragma"):
        set_and_read_back(connection, wrong)
    connection.close()


def test_the_reader_cannot_write(tmp_path: Path) -> None:
    writer = connect_writer(tmp_path / "journal.db", 300, 5000)
    migrate(writer)
    reader = connect_reader(tmp_path / "journal.db")
    with pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM block")
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    ("code", "kind", "name"),
    [
        (sqlite3.SQLITE_FULL, CapacityError, "journal-full"),
        (sqlite3.SQLITE_READONLY_DBMOVED, StorageError, "journal-read-only"),
        (sqlite3.SQLITE_CANTOPEN, StorageError, "journal-read-only"),
        (sqlite3.SQLITE_IOERR_FSYNC, StorageError, "journal-io-error"),
        (sqlite3.SQLITE_CORRUPT, IntegrityError, "journal-damaged"),
        (sqlite3.SQLITE_NOTADB, IntegrityError, "journal-damaged"),
        (sqlite3.SQLITE_BUSY, StorageError, "journal-io-error"),
    ],
)
def test_errors_of_sqlite_are_sorted_by_what_must_be_done(code: int, kind: type[GatewayError], name: str) -> None:
    mapped = storage_error(sqlite_error(code))
    assert (type(mapped), mapped.code) == (kind, name)
    assert "patient" not in str(mapped)


# ---------------------------------------------------------------- schema


def test_the_schema_files_are_numbered_without_a_hole_up_to_the_version_of_the_code() -> None:
    assert list(schema_scripts()) == list(range(1, SCHEMA_VERSION + 1))


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / "journal.db", 300, 5000)
    assert migrate(connection) == list(range(1, SCHEMA_VERSION + 1))
    schema = connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
    assert migrate(connection) == []
    assert connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall() == schema
    connection.close()


def test_there_is_no_index_on_the_way_of_a_message(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / "journal.db", 300, 5000)
    migrate(connection)
    indexed = {row[0] for row in connection.execute("SELECT tbl_name FROM sqlite_schema WHERE type = 'index'")}
    assert indexed == {"exception"}
    connection.close()


async def test_a_journal_of_a_newer_program_is_locked_and_left_alone(tmp_path: Path) -> None:
    box = Box(tmp_path)
    await (await box.open()).close()
    with box.database() as database:
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (tmp_path / "journal.db").read_bytes()
    with pytest.raises(LockedError, match="journal-newer"):
        await box.open()
    assert (tmp_path / "journal.db").read_bytes() == before


# ---------------------------------------------------------------- what reaches the disk


@pytest.mark.parametrize("each", [1, 64])
def test_one_commit_is_exactly_one_fsync(tmp_path: Path, each: int) -> None:
    """Fewer pages than a checkpoint needs, so that none is counted in."""
    need_programs("gcc")
    environment = os.environ | {"LD_PRELOAD": str(slow_disk_library()), "SLOWDISK_COUNT": str(tmp_path / "count")}
    command = [sys.executable, "-m", "tests.journal.counted_writer", str(tmp_path / "state"), "30", str(each)]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    commits, fsyncs, _ = map(int, told.split())
    assert commits == 30
    assert fsyncs == commits


async def test_every_commit_is_one_commit_row_and_one_row_per_class(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    for at in range(10):
        await append(journal, *[entry(at * 64 + part) for part in range(64)])
    await deliver(journal)
    with box.database() as database:
        assert database.execute("SELECT count(*) FROM block").fetchone() == (10,)
        numbers = [row for (row,) in database.execute("SELECT id FROM commit_meta ORDER BY id")]
    assert numbers == list(range(1, journal.snapshot().commit + 1))
    await journal.close()


async def test_no_word_of_a_message_lies_in_the_files(tmp_path: Path) -> None:
    canary = b"CANARYDOE^ZEBRA"
    box = Box(tmp_path, (RouteRule("all"),))
    journal = await box.open()
    body = b"MSH|^~\\&|A|B|C|D|||ADT^A01|CTRL-77|P|2.5\rPID|||199999^^^TEST||" + canary + b"\r"
    made = entry(1, body=body, identity=(b"A", b"B", b"CTRL-77"))
    made.ordering = b"199999^TEST"
    await append(journal, made, entry(2))
    await deliver(journal, dead=[1])
    (row,) = await journal.dead_letters()
    await journal.replay_dead_letter([row.event_id], "root", "text of a person")
    for closed in (False, True):
        if closed:
            await journal.close()
        raw = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        for word in (canary, b"CTRL-77", b"199999", b"no such ward", b"text of a person"):
            assert word not in raw


# ---------------------------------------------------------------- starting


async def test_the_file_survives_a_process_that_just_ends(tmp_path: Path) -> None:
    box = Box(tmp_path / "one")
    journal = await box.open()
    for at in range(20):
        await append(journal, entry(at))
    copied = box.copy(tmp_path / "two")
    again = await copied.open()
    assert len(await read_all(again)) == 20
    assert route_of(again).books.queued == 20
    await again.close()
    leave(journal)


def read_bytes() -> int:
    return next(int(line.split()[1]) for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))


async def test_a_start_reads_no_more_of_a_large_backlog_than_of_a_small_one(tmp_path: Path) -> None:
    """Both are larger than what the start checks page by page."""
    cost: list[int] = []
    for name, commits in (("small", 50), ("large", 200)):
        box = Box(tmp_path / name, quota_bytes=1 << 30, dedupe_keys=10)
        journal = await box.open()
        for at in range(commits):
            await append(journal, entry(at, size=800_000))
        await journal.close()
        before = read_bytes()
        journal = await box.open()
        cost.append(read_bytes() - before)
        await journal.close()
    assert cost[1] < cost[0] * 1.2 + 200_000


async def test_a_sound_journal_is_opened_as_it_is(tmp_path: Path) -> None:
    """However it was left: closed, killed, empty, larger than what the start checks page by page."""
    box = Box(tmp_path / "one", quota_bytes=1 << 30)
    for at in range(3):
        journal = await box.open()
        await append(journal, *[entry(at * 100 + part, size=200_000) for part in range(60)])
        if at == 1:
            leave(journal)
        else:
            await journal.close()
    assert (box.state / "journal.db").stat().st_size > 16 * 1024 * 1024
    journal = await box.open()
    assert len(await read_all(journal)) == 180
    assert JournalEventKind.SALVAGED not in [event.kind for event in box.events]
    assert not [path for path in box.state.iterdir() if "quarantine" in path.name]
    await journal.close()


async def test_the_audit_says_who_started_and_stopped_under_which_configuration(tmp_path: Path) -> None:
    from gateway.journal.commits import commit_rows, opening_cipher, read_incarnations
    from tests.journal.working import KEYS

    box = Box(tmp_path)
    for _ in range(2):
        journal = await box.open()
        await journal.close()
    with box.database() as database:
        rows = commit_rows(database, opening_cipher(KEYS), read_incarnations(database), KEYS)
        kinds = [record.kind.value for row in rows if row.meta for record in row.meta.audit]
    assert kinds == ["start", "schema", "configuration", "stop", "start", "stop"]
