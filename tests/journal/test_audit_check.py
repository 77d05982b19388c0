"""``audit verify``: an untouched journal is intact, any edit, deletion, reordering or cut is found."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.audit import AuditKind
from gateway.journal.audit_check import Fault, verify
from gateway.journal.interface import RouteRule
from gateway.journal.keyring import create_keyring, open_keyring
from gateway.journal.refused import Refusal
from gateway.journal.witness import WitnessState, read_last_status
from tests.journal.filling import ROUTES, append, deliver, drain, entry, fill, running
from tests.journal.keeping import KEK, Seeded, SetClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from gateway.journal.audit_check import AuditVerdict

DAY_US = 86_400_000_000


async def busy_life(state: Path) -> None:
    """Three starts with everything that leaves rows behind."""
    async with running(state, seed=1) as first:
        await fill(first.journal, commits=8)
        for at in range(3):
            first.journal.refuse_note(Refusal("adt", "no-header", "127.0.0.1:4711", b"NOT HL7 %d" % at, 9, first.clock.wall_us()))
        letters = await deliver(first.journal, "all", 3, dead=[1, 2])
        ids = [row.event_id for row in await first.journal.dead_letters("all")]
        assert len(letters) == 12
        await first.journal.replay_dead_letter(ids[:1], "anna", "destination mended")
        await first.journal.discard_dead_letter(ids[1:2], "anna", "test message")
    async with running(state, seed=2) as second:
        await fill(second.journal, commits=4, first=1000)
        await second.journal.note(AuditKind.REVEAL, {"what": "dead-letter"}, "anna")
    async with running(state, seed=3, routes=(*ROUTES, RouteRule("late"))) as third:
        await fill(third.journal, commits=2, first=2000)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = tmp_path_factory.mktemp("life") / "state"
    asyncio.run(busy_life(state))
    return state


def copy(life: Path, target: Path) -> None:
    shutil.copytree(life, target, ignore=shutil.ignore_patterns("ballast"))


def check(state: Path) -> AuditVerdict:
    with closing(sqlite3.connect(state / "journal.db", isolation_level=None)) as connection:
        return verify(connection, open_keyring(state, KEK), read_last_status(state))


def tampered(life: Path, target: Path, change: Callable[[sqlite3.Connection], None]) -> AuditVerdict:
    """The verdict on a copy of the journal after ``change``."""
    copy(life, target)
    with closing(sqlite3.connect(target / "journal.db")) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        change(connection)
        connection.commit()
    return check(target)


def test_an_untouched_journal_is_intact(life: Path) -> None:
    verdict = check(life)
    assert verdict.intact, verdict
    assert verdict.witness is WitnessState.VALID
    assert (verdict.first_commit, verdict.commits) == (1, verdict.last_commit)
    assert verdict.blocks == 28 + 1  # the declared gap of the discarded one is a message too
    assert verdict.records > 10
    assert verdict.first_bad is None


SEALED = ("commit_meta", "block", "exception", "refused")


class Tampering:
    """One table of the copy, and the draws of hypothesis."""

    def __init__(self, connection: sqlite3.Connection, draw: Callable[[st.SearchStrategy[Any]], Any], tables: Iterable[str]) -> None:
        self._connection = connection
        self.draw = draw
        self.table = draw(st.sampled_from(sorted(tables)))

    def run(self, sql: str, *values: object) -> list[Any]:
        return self._connection.execute(sql.replace("TABLE", self.table), values).fetchall()


def change_a_byte(tampering: Tampering) -> None:
    row, sealed = tampering.draw(st.sampled_from(tampering.run("SELECT id, sealed FROM TABLE WHERE sealed IS NOT NULL")))
    raw = bytearray(sealed)
    raw[tampering.draw(st.integers(0, len(raw) - 1))] ^= tampering.draw(st.integers(1, 255))
    tampering.run("UPDATE TABLE SET sealed = ? WHERE id = ?", bytes(raw), row)


def delete_rows(tampering: Tampering) -> None:
    rows = [row for (row,) in tampering.run("SELECT id FROM TABLE")]
    for row in tampering.draw(st.sets(st.sampled_from(rows), min_size=1, max_size=3) | st.just(set(rows))):
        tampering.run("DELETE FROM TABLE WHERE id = ?", row)


def exchange_or_duplicate(tampering: Tampering) -> None:
    rows = tampering.run("SELECT * FROM TABLE WHERE sealed IS NOT NULL ORDER BY id")
    put = "REPLACE INTO TABLE VALUES (MARKS)".replace("MARKS", ", ".join("?" * len(rows[0])))
    one = tampering.draw(st.sampled_from(rows))
    if len(rows) > 1 and tampering.draw(st.booleans()):
        other = tampering.draw(st.sampled_from([row for row in rows if row != one]))
        tampering.run(put, one[0], *other[1:])
        tampering.run(put, other[0], *one[1:])
    else:
        tampering.run(put, tampering.draw(st.sampled_from([rows[0][0] - 1, rows[-1][0] + 1, rows[-1][0] + 4096])), *one[1:])


CLEAR = {
    "commit_meta": ("at_us",),
    "block": ("class", "first_seq", "last_seq", "n", "at_us", "size"),
    "exception": ("route", "state", "block_commit"),
    "incarnation": ("first_commit",),
}


def change_a_fact(tampering: Tampering) -> None:
    column = tampering.draw(st.sampled_from(CLEAR[tampering.table]))
    rows = tampering.run("SELECT id, COLUMN FROM TABLE".replace("COLUMN", column))
    if tampering.table == "exception":  # rows that only keep a revision have nothing that proves them
        rows = [row for row in rows if tampering.run("SELECT 1 FROM TABLE WHERE id = ? AND sealed IS NOT NULL", row[0])]
    row, value = tampering.draw(st.sampled_from(rows))
    wrong = tampering.draw(st.sampled_from([value + 1, value - 1, value + 1000, -value - 1, "text", b"\0"]))
    tampering.run("UPDATE TABLE SET COLUMN = ? WHERE id = ?".replace("COLUMN", column), wrong, row)


WAYS: dict[str, tuple[Callable[[Tampering], None], tuple[str, ...]]] = {
    "changed byte": (change_a_byte, SEALED),
    "deleted rows": (delete_rows, (*SEALED, "incarnation")),
    "exchanged or duplicated row": (exchange_or_duplicate, SEALED),
    "changed fact in clear": (change_a_fact, tuple(CLEAR)),
}


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=100)
@given(data=st.data())
def test_any_edit_deletion_reordering_or_duplicate_is_found(
    way: str, data: st.DataObject, life: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tamper, tables = WAYS[way]
    verdict = tampered(life, tmp_path_factory.mktemp("t") / "s", lambda connection: tamper(Tampering(connection, data.draw, tables)))
    assert not verdict.intact


def test_a_cut_tail_is_found_by_the_witness_even_where_everything_behind_it_went_too(life: Path, tmp_path: Path) -> None:
    def change(connection: sqlite3.Connection) -> None:
        last = connection.execute("SELECT max(id) FROM commit_meta").fetchone()[0] - 2
        connection.execute("DELETE FROM commit_meta WHERE id > ?", (last,))
        connection.execute("DELETE FROM block WHERE id >= ?", ((last + 1) << 12,))
        connection.execute("DELETE FROM incarnation WHERE first_commit > ?", (last,))

    verdict = tampered(life, tmp_path / "s", change)
    assert Fault.TAIL_MISSING in verdict.counts
    assert verdict.first_bad is not None


def test_a_witness_that_was_changed_is_forged_and_one_that_is_gone_is_absent(life: Path, tmp_path: Path) -> None:
    copy(life, tmp_path / "a")
    raw = (tmp_path / "a" / "last-status.json").read_bytes()
    (tmp_path / "a" / "last-status.json").write_bytes(raw.replace(b'"accepted":', b'"accepted":1'))
    verdict = check(tmp_path / "a")
    assert verdict.counts == {Fault.WITNESS_FORGED: 1}
    (tmp_path / "a" / "last-status.json").unlink()
    verdict = check(tmp_path / "a")
    assert (verdict.intact, verdict.witness) == (True, WitnessState.ABSENT)


def test_the_first_bad_commit_is_named(life: Path, tmp_path: Path) -> None:
    def change(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE commit_meta SET sealed = zeroblob(200) WHERE id IN (5, 9)")

    verdict = tampered(life, tmp_path / "s", change)
    assert verdict.first_bad == 5
    assert verdict.counts == {Fault.ROW_ALTERED: 2}


def test_another_keyring_finds_everything_altered(life: Path, tmp_path: Path) -> None:
    copy(life, tmp_path / "s")
    other = create_keyring(tmp_path / "other", KEK, Seeded(9))
    with closing(sqlite3.connect(tmp_path / "s" / "journal.db", isolation_level=None)) as connection:
        verdict = verify(connection, other, read_last_status(tmp_path / "s"))
    assert verdict.counts[Fault.ROW_ALTERED] == verdict.commits
    assert verdict.records == 0


async def test_retired_blocks_and_rows_are_no_finding_and_stolen_ones_are(tmp_path: Path) -> None:
    clock = SetClock()
    async with running(tmp_path / "s", clock=clock, retain_days=1) as gateway:
        await fill(gateway.journal, commits=30)
        await drain(gateway.journal, "all")
        await drain(gateway.journal, "labs")
        clock.now_us += 2 * DAY_US
        for at in range(3):
            await append(gateway.journal, [entry(5000 + at)])
        blocks = gateway.journal.snapshot().blocks
    assert blocks < 30, "nothing was retired"
    verdict = check(tmp_path / "s")
    assert verdict.intact, verdict

    def change(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM block WHERE id = (SELECT min(id) FROM block)")

    verdict = tampered(tmp_path / "s", tmp_path / "t", change)
    assert verdict.counts == {Fault.BLOCK_MISSING: 1}


async def test_a_running_journal_can_be_verified(tmp_path: Path) -> None:
    async with running(tmp_path / "s") as gateway:
        await fill(gateway.journal, commits=5)
        await drain(gateway.journal, "all")
        assert check(tmp_path / "s").intact
