"""A process of its own for counting: ``python -m tests.journal.counted_writer STATE COMMITS EACH`` under a preloaded shim.

Prints one line: commits and payload bytes. Between the marker files ``begin`` and ``end`` (their mtimes do not matter, their
existence tells the reader of the count which calls belong to the commits) nothing but appends happens.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.journal.working import Box, append, entry

__all__ = ["main"]


async def run(state: Path, commits: int, each: int) -> None:
    box = Box(state)
    journal = await box.open()
    count = Path(os.environ["SLOWDISK_COUNT"])
    before, commit = count.stat().st_size, journal.snapshot().commit
    payload = 0
    for at in range(commits):
        made = await append(journal, *[entry(at * each + part) for part in range(each)])
        payload += sum(len(one.body) for one in made)
    print(journal.snapshot().commit - commit, count.stat().st_size - before, payload, flush=True)
    await journal.close()


def main() -> None:
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))


if __name__ == "__main__":
    main()
