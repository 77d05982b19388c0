"""Commit rows as a reader meets them: in order, opened one by one, whatever lies in the table."""

from __future__ import annotations

import itertools
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.commits import Incarnations, commit_rows, newest_state, opening_cipher, read_incarnations
from gateway.journal.keyring import open_keyring
from gateway.journal.records import TABLE_META
from gateway.model.errors import IntegrityError, LocalProtocolError
from tests.journal.filling import fill, running
from tests.journal.keeping import KEK

if TYPE_CHECKING:
    from pathlib import Path

STARTS = st.dictionaries(st.integers(1, 100), st.binary(min_size=16, max_size=16), min_size=1)


@given(starts=STARTS, commit=st.integers(0, 120))
def test_a_commit_belongs_to_the_last_start_at_or_before_it(starts: dict[int, bytes], commit: int) -> None:
    known = Incarnations(starts.items())
    before = [first for first in starts if first <= commit]
    if before:
        assert known.of(commit) == starts[max(before)]
    else:
        with pytest.raises(IntegrityError, match="incarnation-unknown"):
            known.of(commit)
    assert known.newest() == starts[max(starts)]
    assert known.newest_commit() == max(starts)
    assert all(known.begins(first, uuid) for first, uuid in starts.items())
    assert not known.begins(0, bytes(16))


def test_where_no_start_is_recorded_nothing_opens() -> None:
    known = Incarnations([])
    assert (known.newest(), known.newest_commit()) == (b"", 0)
    with pytest.raises(IntegrityError):
        known.of(1)


async def test_the_rows_come_in_order_across_portions_and_link_to_each_other(tmp_path: Path) -> None:
    async with running(tmp_path / "s") as gateway:
        await fill(gateway.journal, commits=300, each=1)
        state = gateway.journal.snapshot()
    keys = open_keyring(tmp_path / "s", KEK)
    cipher = opening_cipher(keys)
    with closing(sqlite3.connect(tmp_path / "s" / "journal.db")) as connection:
        starts = read_incarnations(connection)
        rows = list(commit_rows(connection, cipher, starts, keys))
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) > 300
        for row, following in itertools.pairwise(rows):
            assert following.meta is not None
            assert following.meta.prev == row.link
        assert [row.number for row in commit_rows(connection, cipher, starts, keys, after=298)] == [row.number for row in rows[298:]]
        newest = newest_state(connection, cipher, keys)
        assert newest is not None
        assert (newest.next_seq, newest.accepted) == (state.next_seq, dict(state.accepted))
        assert newest.chain == rows[-1].link


async def test_rows_that_no_commit_wrote_do_not_open_and_hide_no_other(tmp_path: Path) -> None:
    async with running(tmp_path / "s") as gateway:
        await fill(gateway.journal, commits=3)
    keys = open_keyring(tmp_path / "s", KEK)
    cipher = opening_cipher(keys)
    with closing(sqlite3.connect(tmp_path / "s" / "journal.db")) as connection:
        starts = read_incarnations(connection)
        good = [row.number for row in commit_rows(connection, cipher, starts, keys)]
        for row in [(-5, 0, b""), (0, -1, b"GWR"), (900, 1, "a text"), (901, "when", bytes(200))]:
            connection.execute("INSERT INTO commit_meta VALUES (?, ?, ?)", row)
        rows = list(commit_rows(connection, cipher, starts, keys))
        assert [row.number for row in rows if row.meta is not None] == good
        assert [row.number for row in rows if row.meta is None] == [-5, 0, 900, 901]
        with pytest.raises(IntegrityError, match="meta-unreadable"):
            newest_state(connection, cipher, keys)
        connection.execute("DELETE FROM commit_meta")
        assert newest_state(connection, cipher, keys) is None
        connection.execute("UPDATE incarnation SET first_commit = 'x'")
        assert read_incarnations(connection).newest() == b""


async def test_a_reading_cipher_cannot_seal(tmp_path: Path) -> None:
    async with running(tmp_path / "s"):
        pass
    with pytest.raises(LocalProtocolError, match="reading-only"):
        opening_cipher(open_keyring(tmp_path / "s", KEK)).seal(TABLE_META, 1, 0, 0, 0, bytes(16), b"text")
