"""Types and judgements that the black-box tests share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.blackbox.destination import Destination
    from tests.blackbox.gateway_process import Gateway
    from tests.blackbox.mllp_line import Sender

__all__ = ["NewGateway", "faults_of_order", "reconcile", "rows_of", "snapshot_of", "wind_down"]


class NewGateway(Protocol):
    """The fixture ``new_gateway``."""

    def __call__(self, name: str = "gw", **more: Any) -> Gateway: ...


def wind_down(senders: Iterable[Sender], patience_s: float = 5.0) -> None:
    """Stop sending and wait for the last answers."""
    senders = list(senders)
    for sender in senders:
        sender.stop(patience_s)
    for sender in senders:
        sender.join(patience_s + 10)


def faults_of_order(destination: Destination) -> list[str]:
    """Where first deliveries leave the order of a sender (control ids NAME-n) or of the journal (sequence, per source)."""
    last: dict[object, int] = {}
    faults = []
    for applied in destination.books.order:
        name, _, number = applied.control.rpartition("-")
        steps: list[tuple[object, int]] = [((applied.source, applied.id.rsplit("/", 1)[0]), applied.sequence)]
        steps += [(name, int(number))] if number.isdigit() else []
        for lane, step in steps:
            if step <= last.get(lane, -1):
                faults.append(f"{lane}: {step} after {last[lane]}")
            last[lane] = max(step, last.get(lane, -1))
    return faults


def reconcile(
    senders: Iterable[Sender], destination: Destination, *, patience_s: float = 15.0, except_for: Iterable[str] = (), dead: int = 0
) -> None:
    """Everything acknowledged has arrived once, in order, byte for byte, under one id, with no hole in its lane."""
    senders = list(senders)
    acked = {control for sender in senders for control in sender.acked} - set(except_for)
    bodies = {control: body for sender in senders for control, body in sender.sent.items()}
    missing = destination.wait_for(acked, patience_s)
    assert not missing, f"{len(missing)} of {len(acked)} acknowledged messages are lost, such as {sorted(missing)[:5]}"
    twins = {control: ids for control, ids in destination.controls().items() if len(ids) > 1}
    assert not twins, f"two event ids for one message: {list(twins.items())[:3]}"
    altered = [
        applied.control for applied in destination.books.order if applied.control in bodies and bodies[applied.control] != applied.body
    ]
    assert not altered, f"not the bytes that were sent: {altered[:5]}"
    assert not destination.books.conflicts, f"one id, two contents: {destination.books.conflicts[:3]}"
    assert not (faults := faults_of_order(destination)), f"out of order: {faults[:3]}"
    holes = destination.gaps()  # a message that the destination itself rejected is one, until it is replayed or discarded
    assert len(holes) == dead, f"undeclared gaps in laneseq: {holes[:5]}"
    assert not destination.books.flaws, f"the contract: {dict(destination.books.flaws)}"
    misplaced = {sender.name: sender.account.misplaced[:3] for sender in senders if sender.account.misplaced}
    assert not misplaced, f"answers out of order: {misplaced}"


def snapshot_of(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every name below ``folder`` with its bytes, mode and modification time, to compare before and after."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (content, facts.st_mode, facts.st_mtime_ns)
    return found


def rows_of(output: bytes) -> list[dict[str, Any]]:
    """The rows of a command's ``--json`` list, bare or under one name."""
    found = json.loads(output)
    rows: list[dict[str, Any]] = found if isinstance(found, list) else next(value for value in found.values() if isinstance(value, list))
    return rows
