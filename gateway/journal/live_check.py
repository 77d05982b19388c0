"""``audit verify`` beside a running daemon: a connection of its own that can only read."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from gateway.journal.audit_check import verify
from gateway.journal.pragmas import connect_reader, storage_error
from gateway.journal.quota import JOURNAL_NAME
from gateway.journal.witness import read_last_status

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.journal.audit_check import AuditVerdict
    from gateway.journal.keyring import OpenKeyring

__all__ = ["verify_live"]


def verify_live(state_dir: Path, keys: OpenKeyring) -> AuditVerdict:
    """Walk the chain as it stands now; blocking, for a thread of its own.

    Raises:
        GatewayError: the file cannot be read.
    """
    last = read_last_status(state_dir)
    with contextlib.closing(connect_reader(state_dir / JOURNAL_NAME)) as connection:
        try:
            return verify(connection, keys, last)
        except sqlite3.Error as error:
            raise storage_error(error) from None
