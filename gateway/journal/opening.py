"""Opening a journal, in the writer's thread: mend what is damaged, connect, begin an incarnation, rebuild the window."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.journal.audit import AuditKind, AuditRecord
from gateway.journal.cipher import RecordCipher, fastest_suite
from gateway.journal.dedupe import KEY_BYTES, Blinder, Dedupe
from gateway.journal.exceptions import forget_routes
from gateway.journal.pragmas import storage_error
from gateway.journal.quota import scaled_limits
from gateway.journal.records import TABLE_META, meta_keys
from gateway.journal.salvage import SalvageReport, ask_for_salvage, mend
from gateway.journal.writer import Committed, Writer
from gateway.model.errors import GatewayError, IntegrityError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.journal.interface import JournalPlace, JournalServices, RouteRule
    from gateway.journal.keyring import OpenKeyring
    from gateway.journal.quota import Limits
    from gateway.journal.transaction import Transaction

__all__ = ["Opened", "open_writer"]

_NEWER_ROWS: Final = "SELECT id, sealed FROM commit_meta WHERE id < ? ORDER BY id DESC LIMIT 256"
_INCARNATION_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Opened:
    """What the event loop's side starts with. ``lost_rows``: commit rows of the window that did not open."""

    writer: Writer
    dedupe: Dedupe
    blinder: Blinder
    cipher: RecordCipher
    limits: Limits
    first: Committed
    salvaged: SalvageReport | None
    lost_rows: int


def open_writer(place: JournalPlace, keys: OpenKeyring, routing: tuple[RouteRule, ...], services: JournalServices) -> Opened:
    """Everything that touches the disk at a start. The caller holds the lock of ``state_dir``.

    Cost: head and tail of the file and the rows of the duplicate window, whatever the backlog is.

    Raises:
        GatewayError: the disk refuses, or the file is newer than this program.
    """
    try:
        return _open_writer(place, keys, routing, services)
    except IntegrityError:
        # Damage behind the head of the file: salvage whatever it looks like, and open what comes of it.
        ask_for_salvage(place.state_dir)
        return _open_writer(place, keys, routing, services)


def _open_writer(place: JournalPlace, keys: OpenKeyring, routing: tuple[RouteRule, ...], services: JournalServices) -> Opened:
    clock = services.clock
    _make_directory(place.state_dir)
    salvaged = mend(place.state_dir, keys, routing, clock, services.randomness)
    limits = scaled_limits(place)
    cipher = RecordCipher(keys, services.randomness, fastest_suite(clock))
    blinder = Blinder(keys.index_key)
    writer = Writer(place, keys, limits, cipher, blinder)
    dedupe = Dedupe(blinder, place.dedupe_keys)
    try:
        steps = writer.connect()
        lost_rows = _load_window(writer, cipher, dedupe, place.dedupe_keys)
        uuid = services.randomness.bytes(_INCARNATION_BYTES)
        first = writer.begin_incarnation(uuid, _first_commit(routing, steps), clock.wall_us(), clock.state())
    except sqlite3.Error as error:
        writer.close()
        raise storage_error(error) from None
    except GatewayError:
        writer.close()
        raise
    return Opened(writer, dedupe, blinder, cipher, limits, first, salvaged, lost_rows)


def _make_directory(state_dir: Path) -> None:
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        raise StorageError("state-unwritable", "the state directory cannot be made: check owner and mode of its parent") from None


def _first_commit(routing: tuple[RouteRule, ...], steps: list[int]) -> Callable[[Transaction], None]:
    def prepare(tx: Transaction) -> None:
        if steps:
            tx.audit.append(AuditRecord(AuditKind.SCHEMA, detail={"version": steps[-1]}))
        if tx.state.configure(routing):
            forget_routes(tx)
            detail: dict[str, str | int] = {"routes": len(routing), "from_seq": tx.state.next_seq}
            tx.audit.append(AuditRecord(AuditKind.CONFIGURATION, detail=detail))

    return prepare


def _load_window(writer: Writer, cipher: RecordCipher, dedupe: Dedupe, capacity: int) -> int:
    """Walk the commit rows backwards until the window is full; how many of them did not open."""
    found: list[tuple[int, bytes]] = []
    wanted, lost, at = capacity, 0, writer.state.commit + 1
    while wanted > 0 and (rows := writer.connection.execute(_NEWER_ROWS, (at,)).fetchall()):
        for number, sealed in rows:
            at = number
            try:
                keys_from, keys = meta_keys(cipher.open(TABLE_META, number, 0, 0, 0, writer.incarnation_of(number), sealed))
            except IntegrityError:
                lost += 1
                continue
            if keys:
                at = keys_from or number
                found.append((at, keys))
                wanted -= len(keys) // KEY_BYTES
            if wanted <= 0 or at < number:
                break
    for number, keys in reversed(found):
        dedupe.load(number, keys)
    return lost
