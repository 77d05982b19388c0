"""Rows without SQLite: the same rows where the file is whole, every row outside the damage where it is not."""

from __future__ import annotations

import random
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.pages import PageFile, Row

if TYPE_CHECKING:
    from pathlib import Path

PAGE = 4096
SIZES = (20, 21, 40, 3000, 4060, 4061, 4062, 5000, 20_000, 70_000)


def marked(rowid: int, size: int) -> bytes:
    """Content that says on each page it fills whose it is."""
    return (b"<%08d>" % rowid * (size // 10 + 1))[:size]


def make(path: Path, rows: int, *, seed: int = 1, checkpoint: bool = True) -> list[Row]:
    """A file with a table of rows of all sizes, a second one of small rows, and something deleted."""
    made = random.Random(seed)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={PAGE}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=OFF")
        db.execute("CREATE TABLE block (id INTEGER PRIMARY KEY, number, sealed BLOB, text TEXT)")
        db.execute("CREATE TABLE small (id INTEGER PRIMARY KEY, x)")
        db.execute("CREATE INDEX small_x ON small (x)")
        db.execute("BEGIN")
        for at in range(rows):
            number = made.choice([None, 0, 1, -1, 127, -129, 70_000, -(2**23), 2**31, -(2**40), 2**63 - 1, 0.5])
            sealed = marked(at * 7 - 3, made.choice(SIZES))
            db.execute("INSERT INTO block VALUES (?, ?, ?, ?)", (at * 7 - 3, number, sealed, "ä" * made.randrange(4)))
            db.execute("INSERT INTO small VALUES (?, ?)", (at, made.randbytes(9)))
        db.execute("COMMIT")
        db.execute("DELETE FROM block WHERE id % 10 = 4")
        found = [Row(row[0], (None, *row[1:])) for row in db.execute("SELECT * FROM block ORDER BY id")]
        if checkpoint:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            # The last commit stays in the log alone: closing would check it in.
            copy = path.with_name("copy.db")
            for end in ("", "-wal"):
                copy.with_name(copy.name + end).write_bytes(path.with_name(path.name + end).read_bytes())
    return found


def read(path: Path) -> list[Row]:
    with PageFile.open(path) as file:
        rows = list(file.table(file.tables()["block"]))
        assert file.unreadable == 0
        return rows


@pytest.mark.parametrize("rows", [0, 1, 400])
def test_a_whole_file_gives_the_rows_that_sqlite_gives(rows: int, tmp_path: Path) -> None:
    assert make(tmp_path / "a.db", rows) == read(tmp_path / "a.db")


def test_a_whole_file_has_no_orphans_outside_its_tables(tmp_path: Path) -> None:
    make(tmp_path / "a.db", 400)
    with PageFile.open(tmp_path / "a.db") as file:
        for root in file.tables().values():
            list(file.table(root))
        file.skip_free_pages()
        assert list(file.orphans()) == []


def test_what_is_committed_in_the_log_alone_is_read(tmp_path: Path) -> None:
    rows = make(tmp_path / "a.db", 60, checkpoint=False)
    assert read(tmp_path / "copy.db") == rows


def test_a_commit_that_is_torn_in_the_log_is_not_read(tmp_path: Path) -> None:
    rows = make(tmp_path / "a.db", 60, checkpoint=False)
    wal = tmp_path / "copy.db-wal"
    raw = bytearray(wal.read_bytes())
    raw[-1] ^= 1
    wal.write_bytes(raw)
    # The torn commit is the deletion at the end: before it, every row was there.
    assert [row for row in read(tmp_path / "copy.db") if row.rowid % 10 != 4] == rows
    wal.write_bytes(b"")
    with PageFile.open(tmp_path / "copy.db") as file:
        assert set(file.tables()) <= {"block", "small"}


def test_without_first_page_and_root_page_every_row_elsewhere_is_found(tmp_path: Path) -> None:
    rows = make(tmp_path / "a.db", 400)
    with PageFile.open(tmp_path / "a.db") as file:
        root = file.tables()["block"]
    raw = bytearray((tmp_path / "a.db").read_bytes())
    raw[:PAGE] = raw[(root - 1) * PAGE : root * PAGE] = bytes(PAGE)
    (tmp_path / "a.db").write_bytes(raw)
    with PageFile.open(tmp_path / "a.db") as file:
        assert file.tables() == {}
        found = {row.rowid: row for row in file.orphans() if len(row.values) == 4}
    assert [found[row.rowid] for row in rows] == rows


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), hits=st.integers(1, 12))
def test_rows_on_untouched_pages_survive_any_overwritten_pages(seed: int, hits: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pages") / "a.db"
    rows = make(path, 120, seed=seed)
    made = random.Random(seed)
    raw = bytearray(path.read_bytes())
    where = pages_by_row(raw)
    struck = {made.randrange(len(raw) // PAGE) + 1 for _ in range(hits)}
    for number in struck:
        raw[(number - 1) * PAGE : number * PAGE] = made.choice([bytes(PAGE), made.randbytes(PAGE), b"\xff" * PAGE])
    path.write_bytes(raw)
    with PageFile.open(path) as file:
        found = [row for root in file.tables().values() for row in file.table(root)]
        found += file.orphans()
    for row in rows:
        assert row in found or where[row.rowid] & struck


def pages_by_row(raw: bytes | bytearray) -> dict[int, set[int]]:
    """Row id -> pages that hold bytes of the row, by the only way that does not trust the reader: the marks."""
    where: dict[int, set[int]] = {}
    for at in range(0, len(raw), PAGE):
        for mark in set(re.findall(rb"<[0-9-][0-9]{7}>", raw[at : at + PAGE])):
            where.setdefault(int(mark[1:-1]), set()).add(at // PAGE + 1)
    return where


@given(data=st.data())
def test_no_bytes_make_the_reader_fail_or_run_for_ever(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("pages") / "a.db"
    make(path, 12)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 30))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    del raw[data.draw(st.integers(0, len(raw))) :]
    path.write_bytes(raw)
    path.with_name("a.db-wal").write_bytes(data.draw(st.binary(max_size=64)))
    with PageFile.open(path) as file:
        rows = [row for root in file.tables().values() for row in file.table(root)]
        file.skip_free_pages()
        rows += file.orphans()
    assert len(rows) < 10_000


def test_reading_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path / "a.db", 60, checkpoint=False)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    read(tmp_path / "copy.db")
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before
