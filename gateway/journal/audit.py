"""Audit: what was done, written in the transaction that did it, and linked so that no row can be changed unseen.

Each commit of the journal is one row that carries its audit records, the tags of its blocks and the link of the row before
it, all sealed. The link of a row covers its number, its time and every sealed byte:

    h_n = HMAC-SHA256(CHAIN, h_(n-1) | commit u64 | at_us u64 | sealed bytes)      h_0 = 32 zero bytes

It is computed over the sealed bytes, so the chain stays verifiable when a data key is destroyed; only the chain key is
needed. What each step finds:

- an edited row: it does not open (AEAD), and the next row carries another link than the one computed here;
- a deleted, inserted, duplicated or moved row: the commit numbers are consecutive by construction, and sealing binds a row
  to its number;
- a removed tail: the witness in ``last-status.json`` (or a copy of it kept elsewhere) names a later commit;
- a block taken away, put back in an older form or exchanged: its tag is in the row of its commit.

This page is the plain part: records, links, runs, traces. ``audit_check.py`` walks a database with it.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from gateway.model.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["GENESIS", "AuditKind", "AuditRecord", "Ranges", "chain_next", "decode_records", "encode_records", "runs", "total"]

#: The link before the first commit of a journal.
GENESIS: Final = bytes(32)

#: Inclusive ranges of seq, ascending, not touching each other.
Ranges = tuple[tuple[int, int], ...]


class AuditKind(StrEnum):
    """What a record says was done. The values are persisted: never rename."""

    ACCEPT = "accept"  #: messages committed, their senders may be answered
    REFUSE = "refuse"  #: frames refused: one record per source, code and minute, with a count
    DELIVER = "deliver"  #: a destination's receipt settled messages of a route
    FILTER = "filter"  #: a route's own rules: not for this destination
    HOLD = "hold"
    RELEASE = "release"
    REJECT = "reject"  #: a person rejected a held message
    DEAD_LETTER = "dead-letter"
    REPLAY = "replay"
    DISCARD = "discard"
    GAP = "gap"  #: declared loss or thinning: an operator's, or what could not be read
    QUARANTINE = "quarantine"  #: stored material that cannot be opened was put aside
    SALVAGE = "salvage"  #: a damaged file was put aside and what was readable carried over
    ROLLBACK = "rollback"  #: the witness knows commits that the file does not hold
    RETIRE = "retire"  #: blocks that every route has settled were deleted
    REVEAL = "reveal"  #: content was shown to a person
    CONFIGURATION = "configuration"  #: a configuration was loaded (hash), or routing changed
    START = "start"
    STOP = "stop"
    UNLOCK = "unlock"
    SCHEMA = "schema"  #: the file was migrated


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One fact. No patient data and no text of a peer: ``detail`` holds our own words, counts and names of configuration.

    ``seqs``: the messages it covers (inclusive ranges); empty where it is about none. ``actor``: the OS account of the
    person who acted, empty for the program itself. ``source``/``route``: names of configuration, empty where it is about
    none or all.
    """

    kind: AuditKind
    seqs: Ranges = ()
    route: str = ""
    source: str = ""
    actor: str = ""
    detail: Mapping[str, str | int] = field(default_factory=dict)

    def covers(self, seq: int) -> bool:
        """Whether the message with this seq is one of those that the record is about."""
        return any(first <= seq <= last for first, last in self.seqs)


def chain_next(chain_key: bytes, previous: bytes, commit: int, at_us: int, sealed: bytes) -> bytes:
    """The link of a commit row, 32 bytes; ``previous`` is the link of commit - 1 (``GENESIS`` before the first)."""
    link = hmac.new(chain_key, previous, "sha256")
    link.update(commit.to_bytes(8, "big") + at_us.to_bytes(8, "big"))
    link.update(sealed)
    return link.digest()


def runs(seqs: Iterable[int]) -> Ranges:
    """Ascending, possibly repeated numbers as ranges: ``1 2 3 7`` is ``(1, 3), (7, 7)``."""
    found: list[tuple[int, int]] = []
    for seq in seqs:
        if found and seq <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(seq, found[-1][1]))
        else:
            found.append((seq, seq))
    return tuple(found)


def total(ranges: Ranges) -> int:
    """How many numbers the ranges hold."""
    return sum(last - first + 1 for first, last in ranges)


def encode_records(records: Sequence[AuditRecord]) -> list[list[Any]]:
    """JSON values for the commit row: positional, empty tails cut off, seq ranges as differences (they repeat and compress)."""
    return [_encode(record) for record in records]


def decode_records(values: Any) -> tuple[AuditRecord, ...]:
    """The records of a commit row.

    Raises:
        IntegrityError: ``audit-record``: not what ``encode_records`` writes.
    """
    try:
        return tuple(_decode(*value) for value in values)
    except (TypeError, ValueError, IndexError, AttributeError):
        raise IntegrityError("audit-record", "an audit record cannot be read") from None


def _encode(record: AuditRecord) -> list[Any]:
    value: list[Any] = [str(record.kind), _differences(record.seqs), record.route, record.source, record.actor, dict(record.detail)]
    while len(value) > 1 and not value[-1]:
        value.pop()
    return value


def _decode(
    kind: str,
    seqs: Sequence[int] = (),
    route: str = "",
    source: str = "",
    actor: str = "",
    detail: Mapping[str, str | int] | None = None,
) -> AuditRecord:
    if not all(isinstance(text, str) for text in (route, source, actor)):
        raise TypeError
    return AuditRecord(AuditKind(kind), _ranges(seqs), route, source, actor, dict(detail or {}))


def _differences(ranges: Ranges) -> list[int]:
    flat: list[int] = []
    at = 0
    for first, last in ranges:
        flat += (first - at, last - first)
        at = last
    return flat


def _ranges(flat: Sequence[int]) -> Ranges:
    found: list[tuple[int, int]] = []
    at = 0
    for step, length in zip(flat[::2], flat[1::2], strict=True):
        found.append((at + step, at + step + length))
        at += step + length
    return tuple(found)
