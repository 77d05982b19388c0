"""``last-status.json``: the counts as ``status`` showed them last, and the witness of how far the journal had come.

Two readers. Whoever has no key (a locked daemon, ``status`` while stopped) shows the counts, marked stale. Whoever has the
key compares the witness with the database: a database that holds fewer commits than the witness lost its tail (deleted
write-ahead log, restored old copy, truncation), and no seq up to the witness may be used again.

Replaced atomically, not fsynced, at most once a second and at close: it may lag behind the database after a power cut, it
can never be ahead of what was fsynced. Absent, empty or cut short counts as absent; changed by hand counts as forged.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.journal.keyring import OpenKeyring
    from gateway.model.clock import Clock

__all__ = ["LAST_STATUS_NAME", "LastStatus", "LastStatusFile", "Witness", "WitnessState", "read_last_status", "write_last_status"]

LAST_STATUS_NAME: Final = "last-status.json"
_INTERVAL_S: Final = 1.0
#: Thousands of sources and routes fit; more is not our file.
_MAX_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Witness:
    """The newest commit when it was written: its number, its link (``audit.chain_next``) and the next free seq."""

    commit: int
    chain: bytes
    next_seq: int
    at_us: int


class WitnessState(StrEnum):
    """What the witness is worth."""

    ABSENT = "absent"  #: no file, or cut short by a power cut
    VALID = "valid"
    FORGED = "forged"  #: a whole file whose MAC is not ours: changed by hand, or from another gateway


@dataclass(frozen=True, slots=True)
class LastStatus:
    """The file as it lies there. ``status`` can be shown without a key; ``testify`` needs the key."""

    status: Mapping[str, Any]
    witness: Witness
    mac: bytes

    def testify(self, keys: OpenKeyring) -> WitnessState:
        """Whether counts and witness are what this gateway wrote."""
        genuine = hmac.compare_digest(self.mac, _mac(keys, self.status, self.witness))
        return WitnessState.VALID if genuine else WitnessState.FORGED


def read_last_status(state_dir: Path) -> LastStatus | None:
    """The file, or None where it is absent, unreadable or not whole. Changes nothing, never raises."""
    try:
        with (state_dir / LAST_STATUS_NAME).open("rb") as file:
            content = orjson.loads(file.read(_MAX_BYTES))
        head = content["witness"]
        witness = Witness(int(head["commit"]), bytes.fromhex(head["chain"]), int(head["next_seq"]), int(head["at_us"]))
        status = content["status"]
        return LastStatus(status, witness, bytes.fromhex(content["mac"])) if isinstance(status, dict) else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def write_last_status(state_dir: Path, status: Mapping[str, Any], witness: Witness, keys: OpenKeyring) -> bool:
    """Replace the file (0600) as a whole; False where the disk refused, with the old one still in place.

    ``status`` holds names of configuration, states and counts only, never content: it lies here in clear.
    """
    content = {"status": status, "witness": _head(witness), "mac": _mac(keys, status, witness).hex()}
    fresh = state_dir / (LAST_STATUS_NAME + ".new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE))
        fresh.rename(state_dir / LAST_STATUS_NAME)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        return False
    return True


class LastStatusFile:
    """Writes the file when something changed, at most once a second; ``close`` writes what is left.

    Call ``offer`` after each commit (cheap while the second is not over); a failed write is tried again at the next offer.
    """

    def __init__(self, state_dir: Path, keys: OpenKeyring, clock: Clock) -> None:
        self._state_dir = state_dir
        self._keys = keys
        self._clock = clock
        self._written: Witness | None = None
        self._next_s = float("-inf")

    def due(self, commit: int) -> bool:
        """Whether an offer for this commit would be written now: ask before building the counts."""
        return (self._written is None or self._written.commit != commit) and self._clock.monotonic_s() >= self._next_s

    def offer(self, status: Mapping[str, Any], witness: Witness) -> bool:
        """Write if due. True where the file now says ``witness``."""
        if not self.due(witness.commit):
            return False
        return self._write(status, witness)

    def close(self, status: Mapping[str, Any], witness: Witness) -> bool:
        """Write whatever the second says."""
        return self._write(status, witness)

    def _write(self, status: Mapping[str, Any], witness: Witness) -> bool:
        self._next_s = self._clock.monotonic_s() + _INTERVAL_S
        if not write_last_status(self._state_dir, status, witness, self._keys):
            return False
        self._written = witness
        return True


def _head(witness: Witness) -> dict[str, Any]:
    return {"commit": witness.commit, "chain": witness.chain.hex(), "next_seq": witness.next_seq, "at_us": witness.at_us}


def _mac(keys: OpenKeyring, status: Mapping[str, Any], witness: Witness) -> bytes:
    content = orjson.dumps({"status": status, "witness": _head(witness)}, option=orjson.OPT_SORT_KEYS)
    return hmac.digest(keys.chain_key, b"edge-gateway last status v1" + keys.gateway_uuid + content, "sha256")
