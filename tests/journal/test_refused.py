"""Refused frames: kept sealed, bounded whatever is thrown at the gateway, counted for the audit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.journal.audit import AuditKind
from gateway.journal.commits import commit_rows, opening_cipher, read_incarnations
from gateway.journal.refused import Refusals
from gateway.model.refusal import Refusal
from tests.journal.working import KEYS, Box, append, entry

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.journal.audit import AuditRecord
    from gateway.journal.journal import Journal

NOW_US = 1_795_000_020_000_000


def refusal(at: int = 0, code: str = "bad-header", kept: bytes = b"MSH|^~\\&|DOE^CANARY", minute: int = 0) -> Refusal:
    return Refusal("adt", code, "192.0.2.7", kept, len(kept) + at, NOW_US + minute * 60_000_000 + at)


async def settled(journal: Journal) -> None:
    journal._commit_notes()
    for _ in range(6):
        await asyncio.sleep(0)


def audited(box: Box) -> list[AuditRecord]:
    with box.database() as database:
        cipher = opening_cipher(KEYS)
        rows = commit_rows(database, cipher, read_incarnations(database), KEYS)
        return [record for row in rows if row.meta for record in row.meta.audit if record.kind is AuditKind.REFUSE]


async def test_a_refused_frame_can_be_listed_and_revealed(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    journal.refuse_note(refusal(1))
    journal.refuse_note(refusal(2, "no-control-id"))
    await settled(journal)
    rows = await journal.refused()
    assert [(row.code, row.source, row.peer, row.kept) for row in rows] == [
        ("no-control-id", "adt", "192.0.2.7", b""),
        ("bad-header", "adt", "192.0.2.7", b""),
    ]
    shown = await journal.refused_content(rows[1].id)
    assert shown is not None
    assert (shown.kept, shown.size_bytes) == (b"MSH|^~\\&|DOE^CANARY", 20)
    assert await journal.refused_content(99) is None
    await journal.close()


async def test_nothing_of_a_refused_frame_lies_on_disk_in_clear(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    journal.refuse_note(refusal())
    await settled(journal)
    raw = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"CANARY" not in raw
    assert b"192.0.2.7" not in raw
    await journal.close()
    assert b"CANARY" not in (tmp_path / "journal.db").read_bytes()


async def test_a_flood_is_one_audit_record_a_minute_and_a_few_kept_frames(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    before = journal.snapshot().commit
    for minute in range(3):
        for at in range(5000):
            journal.refuse_note(refusal(at, minute=minute))
        await settled(journal)
    assert journal.snapshot().commit <= before + 4
    assert len(await journal.refused()) == 24
    await journal.close()
    assert [record.detail["count"] for record in audited(box)] == [5000, 5000, 5000]


async def test_notes_ride_in_a_commit_that_happens_anyway(tmp_path: Path) -> None:
    journal = await Box(tmp_path).open()
    journal.refuse_note(refusal())
    before = journal.snapshot().commit
    await append(journal, entry(1))
    assert journal.snapshot().commit == before + 1
    assert len(await journal.refused()) == 1
    await journal.close()


async def test_the_ring_has_one_percent_of_the_quota(tmp_path: Path) -> None:
    box = Box(tmp_path, quota_bytes=8 * 1024 * 1024)
    journal = await box.open()
    for at in range(60):
        journal.refuse_note(refusal(at, f"code-{at}", kept=bytes([at]) + entry(at, size=8000).body))
        await settled(journal)
    with box.database() as database:
        count, size = database.execute("SELECT count(*), sum(length(sealed)) FROM refused").fetchone()
    assert size <= 8 * 1024 * 1024 // 100
    assert count > 10
    newest = await journal.refused(1)
    assert newest[0].code == "code-59"
    await journal.close()


async def test_ids_are_never_used_twice(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    journal.refuse_note(refusal())
    await settled(journal)
    with box.database() as database:
        database.execute("DELETE FROM refused")
    journal.refuse_note(refusal())
    await settled(journal)
    assert [row.id for row in await journal.refused()] == [2]
    await journal.close()


async def test_what_is_counted_at_the_stop_is_not_lost(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    for at in range(3):
        journal.refuse_note(refusal(at))
    await journal.close()
    assert [record.detail["count"] for record in audited(box)] == [3]


def test_what_waits_for_a_commit_is_bounded_in_bytes() -> None:
    refusals = Refusals(1 << 30)
    for at in range(1000):
        refusals.note(refusal(at, f"code-{at % 100}", kept=bytes(64 * 1024)))
    assert refusals._waiting_bytes <= 1024 * 1024
    assert refusals.take(NOW_US, everything=True) is not None
    assert refusals.take(NOW_US, everything=True) is None


async def test_a_row_that_does_not_open_is_shown_as_such(tmp_path: Path) -> None:
    box = Box(tmp_path)
    journal = await box.open()
    journal.refuse_note(refusal())
    await settled(journal)
    with box.database() as database:
        database.execute("UPDATE refused SET sealed = x'00'")
    assert [row.code for row in await journal.refused()] == ["unreadable"]
    await journal.close()
