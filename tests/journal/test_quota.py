"""How full is full: quota, reserve, and a file system that others fill."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import pytest

from gateway.journal.interface import Condition, JournalEventKind, JournalPlace
from gateway.journal.quota import Ballast, Limits, scaled_limits
from gateway.model.errors import CapacityError, StorageError
from tests.journal.working import Box, append, condition_of, deliver, entry, route_of
from tests.prerequisites import is_root, need, need_programs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.journal.journal import Journal

MIB = 1024 * 1024


async def second(journal: Journal) -> None:
    """A second passes: the journal looks at the space again."""
    committer = journal._committer
    if committer._retry is not None:
        committer._retry.cancel()
        committer._try_again()
    for _ in range(6):
        await asyncio.sleep(0)


async def fill(journal: Journal, size: int = 50_000, most: int = 5000) -> int:
    """Append until it is refused; how many were accepted."""
    for at in range(most):
        (made,) = await append(journal, entry(at, size=size))
        if made.error is not None:
            assert isinstance(made.error, CapacityError)
            assert made.error.code == "journal-full"
            return at
    raise AssertionError("never full")


async def test_past_the_quota_appends_are_refused_and_settling_makes_room(tmp_path: Path) -> None:
    box = Box(tmp_path, quota_bytes=2 * MIB)
    journal = await box.open()
    accepted = await fill(journal)
    assert accepted > 20
    assert journal.snapshot().bytes <= 2 * MIB
    while condition_of(journal) is Condition.RUNNING:
        (made,) = await append(journal, entry(9999, size=1000))
    assert condition_of(journal) is Condition.FULL
    (made,) = await append(journal, entry(10_001))
    assert made.error is not None
    taken = await deliver(journal)
    assert len(taken) >= accepted
    await second(journal)
    assert condition_of(journal) is Condition.RUNNING
    (made,) = await append(journal, entry(10_002))
    assert made.error is None
    assert [event.condition for event in box.events if event.kind is JournalEventKind.CONDITION] == [Condition.FULL, Condition.RUNNING]
    await journal.close()


async def test_a_group_that_does_not_fit_is_refused_alone(tmp_path: Path) -> None:
    box = Box(tmp_path, quota_bytes=2 * MIB)
    journal = await box.open()
    done = [asyncio.get_running_loop().create_future() for _ in range(3)]
    from gateway.model.message import AppendGroup

    sizes = (1000, 3 * MIB, 1000)
    for at, (size, future) in enumerate(zip(sizes, done, strict=True)):
        journal.append(AppendGroup([entry(at, size=size)], future.set_result))
    groups = await asyncio.gather(*done)
    assert [group.entries[0].error is None for group in groups] == [True, False, True]
    assert condition_of(journal) is Condition.RUNNING
    (again,) = await append(journal, entry(1))
    assert (again.error, again.duplicate) == (None, False)
    await journal.close()


async def test_a_full_journal_opens_and_is_drained_after_a_restart(tmp_path: Path) -> None:
    box = Box(tmp_path, quota_bytes=MIB)
    journal = await box.open()
    accepted = await fill(journal, 10_000)
    await journal.close()
    journal = await box.open()
    assert len(await deliver(journal)) == accepted
    await second(journal)
    assert condition_of(journal) is Condition.RUNNING
    assert await fill(journal, 10_000) > accepted // 2
    await journal.close()


@pytest.mark.parametrize(
    ("free", "quota", "reserve", "checkpoint"),
    [(12 * MIB, 9 * MIB, 9 * MIB // 8, 72), (1024 * MIB, 768 * MIB, 64 * MIB, 1000), (400 * 1024 * MIB, 64 * 1024 * MIB, 64 * MIB, 1000)],
)
def test_the_defaults_scale_with_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, quota: int, reserve: int, checkpoint: int
) -> None:
    class System:
        f_bavail = free // 4096
        f_frsize = 4096

    monkeypatch.setattr("os.statvfs", lambda _path: System)
    limits = scaled_limits(JournalPlace(tmp_path))
    assert (limits.quota, limits.reserve, limits.checkpoint_pages) == (quota, reserve, checkpoint)
    assert limits.max_pages * 4096 <= free


def test_given_numbers_are_taken_as_given(tmp_path: Path) -> None:
    limits = scaled_limits(JournalPlace(tmp_path, quota_bytes=5 * MIB, reserve_bytes=MIB))
    assert (limits.quota, limits.reserve) == (5 * MIB, MIB)
    with pytest.raises(StorageError, match="state-unreadable"):
        scaled_limits(JournalPlace(tmp_path / "nowhere"))


def test_full_has_hysteresis() -> None:
    limits = Limits(100 * MIB, MIB, 1000, 1)
    just = limits.quota - limits.margin
    assert not limits.is_full(just, was_full=False)
    assert limits.is_full(just, was_full=True)
    assert limits.is_full(just + 1, was_full=False)
    assert not limits.is_full(limits.quota - 2 * limits.margin, was_full=True)


def test_the_ballast_is_real_space_and_is_found_again(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path, MIB)
    assert ballast.place()
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= MIB
    assert Ballast(tmp_path, MIB).place()
    assert ballast.release()
    assert not ballast.release()
    assert not (tmp_path / "ballast").exists()


# ---------------------------------------------------------------- a real small file system


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    need("root", is_root())
    need_programs("mount", "umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.root
async def test_a_12_mb_file_system_works_refuses_when_full_and_recovers(small_disk: Path) -> None:
    box = Box(small_disk / "state", quota_bytes=0, reserve_bytes=0)
    journal = await box.open()
    accepted = await fill(journal)
    assert accepted > 80
    taken = await deliver(journal)
    assert len(taken) == accepted
    await second(journal)
    assert await fill(journal) > 40
    await journal.close()


@pytest.mark.root
async def test_on_a_disk_that_others_filled_settling_still_works_and_messages_are_refused(small_disk: Path) -> None:
    box = Box(small_disk / "state", quota_bytes=0, reserve_bytes=0)
    journal = await box.open()
    for at in range(20):
        await append(journal, entry(at, size=20_000))
    hog = small_disk / "hog"
    with hog.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
    refused = None
    for at in range(100, 400):
        (made,) = await append(journal, entry(at, size=20_000))
        if made.error is not None:
            refused = made.error
            break
    assert isinstance(refused, CapacityError)
    assert condition_of(journal) is Condition.FULL
    assert not (small_disk / "state" / "ballast").exists()
    assert JournalEventKind.BALLAST in [event.kind for event in box.events]
    taken = await deliver(journal)
    assert len(taken) >= 20
    assert route_of(journal).books.queued == 0
    await second(journal)
    assert condition_of(journal) is Condition.FULL
    hog.unlink()
    await second(journal)
    assert condition_of(journal) is Condition.RUNNING
    assert (small_disk / "state" / "ballast").exists()
    (made,) = await append(journal, entry(999))
    assert made.error is None
    await journal.close()
