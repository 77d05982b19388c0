"""The watchdog's round trip: seal, write, read, open. One row, replaced, so that an idle box does not fill its audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.journal.records import NO_INCARNATION, TABLE_PROBE
from gateway.model.errors import IntegrityError

if TYPE_CHECKING:
    from gateway.journal.transaction import Transaction

__all__ = ["write_and_read_back"]

_ROW: Final = 1


def write_and_read_back(tx: Transaction) -> None:
    """Part of a commit of its own or of one that happens anyway; the fsync of that commit ends the round trip.

    Raises:
        IntegrityError: ``probe-mismatch``: what was read is not what was written.
    """
    written = tx.at_us.to_bytes(8, "big") + tx.number.to_bytes(8, "big")
    sealed = tx.cipher.seal(TABLE_PROBE, _ROW, 0, 0, 0, NO_INCARNATION, written)
    tx.connection.execute("INSERT OR REPLACE INTO probe (id, at_us, sealed) VALUES (?, ?, ?)", (_ROW, tx.at_us, sealed))
    read = tx.connection.execute("SELECT sealed FROM probe WHERE id = ?", (_ROW,)).fetchone()[0]
    if tx.cipher.open(TABLE_PROBE, _ROW, 0, 0, 0, NO_INCARNATION, read) != written:
        raise IntegrityError("probe-mismatch", "a row reads back differently from what was written: check memory and disk")
