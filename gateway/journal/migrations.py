"""Numbered schema files, applied in order; ``PRAGMA user_version`` says how far a file has come."""

from __future__ import annotations

import sqlite3
from importlib.resources import files

from gateway.journal.pragmas import storage_error
from gateway.journal.records import SCHEMA_VERSION
from gateway.model.errors import LockedError

__all__ = ["migrate", "schema_scripts"]


def schema_scripts() -> dict[int, str]:
    """Number -> SQL of each ``schema/NNN_name.sql``, ascending."""
    found = {
        int(file.name[:3]): file.read_text() for file in files("gateway.journal").joinpath("schema").iterdir() if file.name.endswith(".sql")
    }
    return dict(sorted(found.items()))


def migrate(connection: sqlite3.Connection) -> list[int]:
    """Bring the file up to ``SCHEMA_VERSION``, each step in its own transaction; the numbers of the steps taken.

    Raises:
        LockedError: ``journal-newer``: a newer program wrote this file; nothing is changed.
        GatewayError: as ``storage_error`` maps it.
    """
    try:
        at = connection.execute("PRAGMA user_version").fetchone()[0]
        if at > SCHEMA_VERSION:
            raise LockedError(
                "journal-newer", "the journal was written by a newer version of this program: install that version or a later one"
            )
        steps = [number for number in schema_scripts() if number > at]
        for number in steps:
            _apply(connection, number, schema_scripts()[number])
    except sqlite3.Error as error:
        raise storage_error(error) from None
    return steps


def _apply(connection: sqlite3.Connection, number: int, script: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(script):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={number}")
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """The script's statements (``executescript`` would commit our transaction first)."""
    found: list[str] = []
    text = ""
    for line in script.splitlines():
        text += line.split("--", 1)[0] + "\n"
        if sqlite3.complete_statement(text):
            found.append(text.strip())
            text = ""
    return [statement for statement in found if statement]
