"""While nothing can be stored senders are told so; who watches live traffic sees what is durable and nothing else."""

from __future__ import annotations

import asyncio

from gateway.admin.tap_feed import TapFeed
from gateway.model.clock import ClockState
from gateway.model.errors import LockedError, StorageError
from gateway.model.message import AppendGroup, Entry
from gateway.model.traffic import TrafficClass
from gateway.service.intake import Intake

LOCKED = LockedError("key-missing", "put it back")


class InstantJournal:
    """Commits in the next turn of the loop; ``broken`` fails every commit."""

    incarnation = "ab" * 16

    def __init__(self) -> None:
        self.broken = False
        self._seq = 0

    def append(self, group: AppendGroup) -> None:
        for entry in group.entries:
            self._seq += 1
            entry.seq = self._seq
            entry.error = StorageError("disk") if self.broken else None
        asyncio.get_running_loop().call_soon(group.done, group)


def entry(body: bytes = b"MSH|1") -> Entry:
    return Entry("adt", body, TrafficClass.ADT, "hl7.v2.ADT.A01", 1, ClockState.SYNCED)


async def appended(intake: Intake, *entries: Entry) -> list[Entry]:
    done: asyncio.Future[AppendGroup] = asyncio.get_running_loop().create_future()
    intake.append(AppendGroup(list(entries), done.set_result))
    assert not done.done(), "never from within append: the source is in the middle of its chunk"
    return (await done).entries


async def test_without_a_journal_every_entry_gets_the_reason() -> None:
    intake = Intake(asyncio.get_running_loop(), LOCKED, "ward-3", TapFeed())
    first, second = await appended(intake, entry(), entry())
    assert first.error is second.error is LOCKED


async def test_a_watcher_sees_what_was_committed_and_not_what_failed_or_was_a_duplicate() -> None:
    taps = TapFeed()
    journal = InstantJournal()
    intake = Intake(asyncio.get_running_loop(), LOCKED, "ward-3", taps, journal)  # type: ignore[arg-type] # a small real class in its place
    stream = taps.subscribe()
    watching = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    journal.broken = True
    await appended(intake, entry(b"lost"))
    journal.broken = False
    duplicate = entry(b"again")
    duplicate.duplicate = True
    await appended(intake, duplicate, entry(b"kept"))
    line = await asyncio.wait_for(watching, 5)
    assert not isinstance(line, int)
    assert (line.event_id, line.body) == (f"ward-3/{'ab' * 16}/3", b"kept")
    await stream.aclose()
