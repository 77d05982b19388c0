"""A damaged journal: the daemon starts with whatever it finds, reports what it cannot read, and delivers the rest."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.blackbox.gateway_process import Gateway, until
from tests.blackbox.gateway_setup import wind_down
from tests.blackbox.messages import message
from tests.blackbox.mllp_line import Line, Sender

if TYPE_CHECKING:
    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_setup import NewGateway


def backlog(gateway: Gateway, destination: Destination, seconds: float = 1.5) -> Sender:
    """A journal with queued messages in many commits; the daemon is still running."""
    destination.down()
    gateway.start()
    sender = Sender(gateway.port, "S", rate=300, window=4).start()
    time.sleep(seconds)
    wind_down([sender])
    assert len(sender.acked) > 100
    return sender


def database(gateway: Gateway) -> Path:
    return gateway.state / "journal.db"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x55]))


def flip_block(path: Path, number: int) -> None:
    """Flip one bit in the middle of that block's sealed bytes, in every copy that page splits have left in the file."""
    connection = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        sealed = [bytes(row[0]) for row in connection.execute("SELECT sealed FROM block ORDER BY id")]
    finally:
        connection.close()
    middle = len(sealed[number]) // 2
    wanted, content, at = sealed[number][middle : middle + 24], path.read_bytes(), -1
    copies = 0
    while (at := content.find(wanted, at + 1)) >= 0:
        flip(path, at)
        copies += 1
    assert copies


def still_works(gateway: Gateway, destination: Destination) -> None:
    """It takes and delivers a new message."""
    control = f"after-{time.time_ns()}"
    with Line(gateway.port) as line:
        answer = line.ask(message(control))
    assert answer is not None
    assert answer.positive
    assert not destination.wait_for({control}), gateway.tail()


def test_a_flipped_bit_in_a_block_costs_that_block_and_says_so(new_gateway: NewGateway, destination: Destination) -> None:
    gateway = new_gateway()
    sender = backlog(gateway, destination)
    assert gateway.stop() == 0
    flip_block(database(gateway), 5)
    gateway.start()
    destination.up()
    still_works(gateway, destination)
    counts = gateway.settled()
    arrived = destination.controls().keys() & sender.acked.keys()
    lost = len(sender.acked) - len(arrived)
    assert 0 < lost < 20, "one block holds one commit"
    assert counts["gaps"] == lost
    assert counts["delivered"] == counts["accepted"] - lost
    assert not destination.gaps(), "the receiver was not told which numbers are missing"
    assert any(applied.type == "gateway.gap" for applied in destination.books.order)
    assert '"EG207"' in gateway.log.read_text()


@pytest.mark.parametrize("place", ["first page", "middle", "last page"])
def test_a_page_of_zeros_anywhere_does_not_keep_it_from_starting(new_gateway: NewGateway, destination: Destination, place: str) -> None:
    gateway = new_gateway()
    sender = backlog(gateway, destination)
    assert gateway.stop() == 0
    path = database(gateway)
    size = path.stat().st_size
    offset = {"first page": 0, "middle": size // 2 // 4096 * 4096, "last page": size - 4096}[place]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 4096)
    names = set(gateway.state.iterdir())
    gateway.start()
    destination.up()
    still_works(gateway, destination)
    gateway.settled()
    assert not destination.books.conflicts
    arrived = destination.controls().keys() & sender.acked.keys()
    if place != "first page":
        assert len(arrived) > len(sender.acked) // 2, f"{len(arrived)} of {len(sender.acked)} salvaged"
    assert names <= set(gateway.state.iterdir()) or any("quarantine" in path.name for path in gateway.state.iterdir())


def test_a_truncated_database_starts_and_keeps_what_is_left(new_gateway: NewGateway, destination: Destination) -> None:
    gateway = new_gateway()
    sender = backlog(gateway, destination)
    assert gateway.stop() == 0
    path = database(gateway)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100])
    gateway.start()
    destination.up()
    still_works(gateway, destination)
    gateway.settled()
    arrived = destination.controls().keys() & sender.acked.keys()
    print(f"{len(arrived)} of {len(sender.acked)} salvaged")
    assert arrived, "nothing was salvaged from half of a file"
    page = content[8192:12288]
    kept = [found for found in gateway.state.rglob("*") if found.is_file() and page in found.read_bytes()]
    assert kept, "the damaged file was not kept"


def test_an_empty_database_file_is_no_reason_not_to_start(new_gateway: NewGateway, destination: Destination) -> None:
    gateway = new_gateway()
    backlog(gateway, destination)
    assert gateway.stop() == 0
    database(gateway).write_bytes(b"")
    gateway.start()
    destination.up()
    still_works(gateway, destination)


def test_a_lost_log_file_is_survived_and_no_id_is_used_twice(new_gateway: NewGateway, destination: Destination) -> None:
    gateway = new_gateway()
    sender = backlog(gateway, destination, 1.0)
    destination.up()
    assert not destination.wait_for(set(sender.acked))
    gateway.kill()
    for suffix in ("-wal", "-shm"):
        Path(f"{database(gateway)}{suffix}").unlink(missing_ok=True)
    gateway.start()
    still_works(gateway, destination)
    assert not destination.books.conflicts, "an id was used for two messages"
    gateway.settled()


def test_a_restored_backup_never_reuses_an_id_for_another_message(new_gateway: NewGateway, destination: Destination) -> None:
    gateway = new_gateway()
    sender = backlog(gateway, destination, 1.0)
    assert gateway.stop() == 0
    backup = {path.name: path.read_bytes() for path in gateway.state.iterdir() if path.is_file()}
    destination.up()
    gateway.start()
    newer = Sender(gateway.port, "N", rate=300).start()
    time.sleep(1)
    wind_down([newer])
    assert not destination.wait_for(set(sender.acked) | set(newer.acked))
    assert gateway.stop() == 0
    for path in gateway.state.iterdir():
        if path.is_file():
            path.unlink()
    for name, content in backup.items():
        (gateway.state / name).write_bytes(content)
    gateway.start()
    after = Sender(gateway.port, "A", rate=300).start()
    time.sleep(1)
    wind_down([after])
    assert not destination.wait_for(set(after.acked)), "new messages were taken for old ones"
    assert not destination.books.conflicts
    assert until(lambda: gateway.route()["queued"] == 0, 10)
