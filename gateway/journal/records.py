"""What the journal's rows say before they are sealed: blocks of messages, commit rows, dead letters, refused frames.

Every plaintext starts with a format byte; a reader refuses a format that it does not know. All numbers are big-endian.

Block (table 1, one traffic class of one commit), columns rather than items, because equal things side by side compress and
are packed in one call for all messages:

    u8 format | u32 head length | head JSON {"p": profiles, "n": messages, "s": first seq, "t": base time us}
    profile u16[n] | seq - s u32[n] | received - t i64[n] | ordering key 8 bytes [n] | envelope length u32[n] | body length u32[n]
    envelope, body of message 0 | envelope, body of message 1 | ...

A profile is (source, kind, charset, clock state, route): what many messages share. Commit row (table 2):

    u8 format | u64 keys_from | u32 head length | head JSON {"prev", "blocks", "audit", "state"} | 16 bytes per duplicate key

``keys_from``: 0, or the first of the commits before this one whose keys this row repeats, so that a start needs not read
100,000 rows of one key each.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.journal.audit import AuditRecord, decode_records, encode_records
from gateway.model.clock import ClockState
from gateway.model.errors import IntegrityError
from gateway.model.message import StoredMessage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gateway.model.traffic import TrafficClass

__all__ = [
    "BLOCK_ORDINAL_BITS",
    "NO_INCARNATION",
    "SCHEMA_VERSION",
    "TABLE_BLOCK",
    "TABLE_EXCEPTION",
    "TABLE_META",
    "TABLE_PROBE",
    "TABLE_REFUSED",
    "BlockColumns",
    "BlockContent",
    "BlockRef",
    "Census",
    "MetaRow",
    "Profile",
    "block_id",
    "commit_of",
    "decode_block",
    "decode_census",
    "decode_headed",
    "decode_meta",
    "encode_block",
    "encode_census",
    "encode_headed",
    "encode_meta",
    "meta_keys",
]

#: ``PRAGMA user_version`` of the file that this code writes.
SCHEMA_VERSION: Final = 1

# Table numbers of the sealed record format; persisted, never renumber.
TABLE_BLOCK: Final = 1
TABLE_META: Final = 2
TABLE_EXCEPTION: Final = 3
TABLE_REFUSED: Final = 4
TABLE_PROBE: Final = 5

#: ``block.id = commit << 12 | ordinal``: one commit's blocks are one range of ids; 4,096 blocks hold any legal commit.
BLOCK_ORDINAL_BITS: Final = 12

#: Records that outlive their start (dead letters, refused frames) are not bound to an incarnation.
NO_INCARNATION: Final = bytes(16)

_FORMAT: Final = 1
_HEAD: Final = struct.Struct(">BI")
_META_HEAD: Final = struct.Struct(">BQI")

#: (source, kind, charset, clock state, route)
Profile = tuple[str, str, str, str, str]
#: (source, route) -> messages; the route is empty but for events made for one route only.
Census = dict[tuple[str, str], int]


def block_id(commit: int, ordinal: int = 0) -> int:
    """The row id of a commit's n-th block."""
    return commit << BLOCK_ORDINAL_BITS | ordinal


def commit_of(row: int) -> int:
    """The commit of a block row."""
    return row >> BLOCK_ORDINAL_BITS


@dataclass(slots=True, eq=False)
class BlockColumns:
    """The messages of one block, column by column, in seq order. ``ordering`` is 8 bytes per message, joined."""

    profiles: list[Profile]
    profile: list[int]
    seqs: list[int]
    received_us: list[int]
    ordering: bytes
    envelopes: list[bytes]
    bodies: list[bytes]


def encode_block(columns: BlockColumns) -> bytes:
    """The plaintext of a block (format in the module text)."""
    count, first, base = len(columns.seqs), columns.seqs[0], columns.received_us[0]
    head = orjson.dumps({"p": columns.profiles, "n": count, "s": first, "t": base})
    parts = [
        _HEAD.pack(_FORMAT, len(head)),
        head,
        struct.pack(f">{count}H", *columns.profile),
        struct.pack(f">{count}I", *[seq - first for seq in columns.seqs]),
        struct.pack(f">{count}q", *[at - base for at in columns.received_us]),
        columns.ordering,
        struct.pack(f">{count}I", *map(len, columns.envelopes)),
        struct.pack(f">{count}I", *map(len, columns.bodies)),
    ]
    if any(columns.envelopes):
        for envelope, body in zip(columns.envelopes, columns.bodies, strict=True):
            parts += (envelope, body)
    else:
        parts += columns.bodies
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class BlockContent:
    """A decoded block: columns, and messages made on demand (most readers want some of them only)."""

    plaintext: bytes
    profiles: tuple[tuple[str, str, str, ClockState, str], ...]
    profile: tuple[int, ...]
    seqs: tuple[int, ...]
    received_us: tuple[int, ...]
    ordering: bytes
    envelope_bytes: tuple[int, ...]
    body_bytes: tuple[int, ...]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.seqs)

    def message(self, at: int, traffic: TrafficClass, incarnation: str, commit: int) -> StoredMessage:
        """The message at index ``at``."""
        source, kind, charset, clock, route = self.profiles[self.profile[at]]
        start = self.starts[at]
        middle = start + self.envelope_bytes[at]
        return StoredMessage(
            incarnation,
            self.seqs[at],
            commit,
            source,
            traffic,
            kind,
            charset,
            self.received_us[at],
            clock,
            self.ordering[at * 8 : at * 8 + 8].hex(),
            self.plaintext[middle : middle + self.body_bytes[at]],
            self.plaintext[start:middle],
            route,
        )


def decode_block(plaintext: bytes) -> BlockContent:
    """The content of an opened block.

    Raises:
        IntegrityError: ``block-format``: not what ``encode_block`` writes.
    """
    try:
        return _decode_block(plaintext)
    except (struct.error, ValueError, KeyError, TypeError, IndexError):
        raise IntegrityError("block-format", "an opened block cannot be read") from None


def _decode_block(plaintext: bytes) -> BlockContent:
    head, at = _head(plaintext)
    count, first, base = head["n"], head["s"], head["t"]
    profiles = tuple((p[0], p[1], p[2], ClockState(p[3]), p[4]) for p in head["p"])
    profile = struct.unpack_from(f">{count}H", plaintext, at)
    at += 2 * count
    seqs = tuple([first + step for step in struct.unpack_from(f">{count}I", plaintext, at)])
    at += 4 * count
    received = tuple([base + step for step in struct.unpack_from(f">{count}q", plaintext, at)])
    at += 8 * count
    ordering = plaintext[at : at + 8 * count]
    at += 8 * count
    envelopes = struct.unpack_from(f">{count}I", plaintext, at)
    at += 4 * count
    bodies = struct.unpack_from(f">{count}I", plaintext, at)
    at += 4 * count
    starts: list[int] = []
    for envelope, body in zip(envelopes, bodies, strict=True):
        starts.append(at)
        at += envelope + body
    if at != len(plaintext) or max(profile, default=0) >= len(profiles):
        raise ValueError
    return BlockContent(plaintext, profiles, profile, seqs, received, ordering, envelopes, bodies, tuple(starts))


def encode_census(census: Mapping[tuple[str, str], int]) -> bytes:
    """JSON ``[[source, route, messages], ...]``: what a block that cannot be opened held. Names of configuration only."""
    return orjson.dumps([[source, route, count] for (source, route), count in census.items()])


def decode_census(stored: bytes) -> Census:
    """The reverse.

    Raises:
        IntegrityError: ``journal-damaged``: it stands in clear, so only damage makes it unreadable; salvage sets it right.
    """
    try:
        return {(str(source), str(route)): int(count) for source, route, count in orjson.loads(stored)}
    except (ValueError, TypeError):
        raise IntegrityError("journal-damaged", "the census of a block cannot be read") from None


@dataclass(frozen=True, slots=True)
class BlockRef:
    """What the commit row says about one of its blocks: tag of the sealed bytes, seq bounds, messages by source and route."""

    id: int
    tag: bytes
    first_seq: int
    last_seq: int
    traffic: int
    census: Census

    @property
    def count(self) -> int:
        """Messages in the block."""
        return sum(self.census.values())


@dataclass(frozen=True, slots=True)
class MetaRow:
    """A commit row, opened. ``state``: the whole small mutable state of the journal after this commit, as JSON values.

    ``keys``: duplicate keys of this commit and, where ``keys_from`` is not 0, of those from ``keys_from`` on.
    """

    prev: bytes
    blocks: tuple[BlockRef, ...]
    audit: tuple[AuditRecord, ...]
    state: Mapping[str, Any]
    keys: bytes
    keys_from: int = 0


def encode_meta(
    prev: bytes,
    blocks: Iterable[BlockRef],
    audit: Sequence[AuditRecord],
    state: Mapping[str, Any],
    keys: Sequence[bytes],
    keys_from: int = 0,
) -> bytes:
    """The plaintext of a commit row (format in the module text)."""
    head = orjson.dumps(
        {
            "prev": prev.hex(),
            "blocks": [
                [ref.id, ref.tag.hex(), ref.first_seq, ref.last_seq, ref.traffic, [[s, r, n] for (s, r), n in ref.census.items()]]
                for ref in blocks
            ],
            "audit": encode_records(audit),
            "state": state,
        }
    )
    return b"".join((_META_HEAD.pack(_FORMAT, keys_from, len(head)), head, *keys))


def decode_meta(plaintext: bytes) -> MetaRow:
    """The content of an opened commit row.

    Raises:
        IntegrityError: ``meta-format``, ``audit-record``.
    """
    keys_from, end = _meta_head(plaintext)
    try:
        head = orjson.loads(plaintext[_META_HEAD.size : end])
        blocks = tuple(
            BlockRef(row, bytes.fromhex(tag), first, last, traffic, {(s, r): n for s, r, n in census})
            for row, tag, first, last, traffic, census in head["blocks"]
        )
        prev, audit, state = bytes.fromhex(head["prev"]), head["audit"], head["state"]
    except (ValueError, KeyError, TypeError):
        raise IntegrityError("meta-format", "an opened commit row cannot be read") from None
    if len(prev) != 32 or not isinstance(state, dict):
        raise IntegrityError("meta-format", "an opened commit row cannot be read")
    return MetaRow(prev, blocks, decode_records(audit), state, plaintext[end:], keys_from)


def meta_keys(plaintext: bytes) -> tuple[int, bytes]:
    """Only ``keys_from`` and the duplicate keys of a commit row: a start reads many rows, so the JSON stays unparsed.

    Raises:
        IntegrityError: ``meta-format``.
    """
    keys_from, end = _meta_head(plaintext)
    return keys_from, plaintext[end:]


def _meta_head(plaintext: bytes) -> tuple[int, int]:
    """(keys_from, end of the JSON head)."""
    try:
        version, keys_from, size = _META_HEAD.unpack_from(plaintext)
    except struct.error:
        version, keys_from, size = 0, 0, 0
    end = _META_HEAD.size + size
    if version != _FORMAT or end > len(plaintext) or (len(plaintext) - end) % 16:
        raise IntegrityError("meta-format", "an opened commit row cannot be read")
    return keys_from, end


def encode_headed(head: Mapping[str, Any], content: bytes) -> bytes:
    """A small JSON head before bytes: dead letters (a block of one message), refused frames (what was kept)."""
    packed = orjson.dumps(head)
    return b"".join((_HEAD.pack(_FORMAT, len(packed)), packed, content))


def decode_headed(plaintext: bytes) -> tuple[dict[str, Any], bytes]:
    """The reverse.

    Raises:
        IntegrityError: ``record-format``.
    """
    try:
        head, at = _head(plaintext)
    except (struct.error, ValueError):
        raise IntegrityError("record-format", "an opened record cannot be read") from None
    return head, plaintext[at:]


def _head(plaintext: bytes) -> tuple[dict[str, Any], int]:
    version, size = _HEAD.unpack_from(plaintext)
    end = _HEAD.size + size
    if version != _FORMAT or end > len(plaintext):
        raise ValueError
    head = orjson.loads(plaintext[_HEAD.size : end])
    if not isinstance(head, dict):
        raise ValueError  # noqa: TRY004  (all mismatches take one way out)
    return head, end
