"""Packs the entries of one commit into sealed blocks: one per traffic class, split at 512 messages or 256 KiB."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from gateway.journal.records import TABLE_BLOCK, BlockColumns, BlockRef, Census, block_id, encode_block, encode_census
from gateway.model.limits import BLOCK_MAX_BYTES, BLOCK_MAX_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gateway.journal.cipher import RecordCipher
    from gateway.journal.dedupe import Blinder
    from gateway.journal.records import Profile
    from gateway.model.message import Entry

__all__ = ["SealedBlock", "pack"]

_TAG_BYTES: Final = 16
_profile_of = attrgetter("source", "kind", "charset", "clock_state", "route")


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A block row before it is inserted. ``ref.tag`` is the end of ``sealed``."""

    ref: BlockRef
    count: int
    size_bytes: int
    sealed: bytes

    def row(self, at_us: int) -> tuple[int, int, int, int, int, bytes, int, int, bytes]:
        """The values of the row, in the order of the schema."""
        ref = self.ref
        return (
            ref.id,
            ref.traffic,
            ref.first_seq,
            ref.last_seq,
            self.count,
            encode_census(ref.census),
            at_us,
            self.size_bytes,
            self.sealed,
        )


def pack(
    entries: Sequence[Entry], first_ordinal: int, commit: int, incarnation: bytes, cipher: RecordCipher, blinder: Blinder
) -> list[SealedBlock]:
    """Seal entries (their ``seq`` is set, ascending) as blocks ``first_ordinal`` and on of the commit."""
    return [
        _seal(group, block_id(commit, ordinal), incarnation, cipher, blinder)
        for ordinal, group in enumerate(_groups(entries), start=first_ordinal)
    ]


def _groups(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    by_class: dict[int, list[Entry]] = {}
    for entry in entries:
        by_class.setdefault(entry.traffic.code, []).append(entry)
    for group in by_class.values():
        yield from _split(group)


def _split(group: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Cut where the next message would pass a limit; a larger single message is a block of its own."""
    start = size = 0
    for at, entry in enumerate(group):
        length = len(entry.body)
        if at > start and (at - start == BLOCK_MAX_MESSAGES or size + length > BLOCK_MAX_BYTES):
            yield group[start:at]
            start, size = at, 0
        size += length
    yield group[start:]


def _seal(entries: Sequence[Entry], row: int, incarnation: bytes, cipher: RecordCipher, blinder: Blinder) -> SealedBlock:
    profiles: dict[Profile, int] = {}
    profile = [profiles.setdefault(_profile_of(entry), len(profiles)) for entry in entries]
    columns = BlockColumns(
        list(profiles),
        profile,
        [entry.seq for entry in entries],
        [entry.received_us for entry in entries],
        _ordering(entries, blinder),
        [entry.envelope for entry in entries],
        [entry.body for entry in entries],
    )
    plaintext = encode_block(columns)
    traffic, count, first = entries[0].traffic.code, len(entries), entries[0].seq
    sealed = cipher.seal(TABLE_BLOCK, row, traffic, first, count, incarnation, plaintext)
    ref = BlockRef(row, sealed[-_TAG_BYTES:], first, entries[-1].seq, traffic, _census(columns.profiles, profile))
    return SealedBlock(ref, count, len(plaintext), sealed)


def _ordering(entries: Sequence[Entry], blinder: Blinder) -> bytes:
    """The blinded ordering keys, joined; one patient's messages often come together, so equal ones are hashed once."""
    known: dict[tuple[bytes, str], bytes] = {}
    found: list[bytes] = []
    for entry in entries:
        material = (entry.ordering, "" if entry.ordering else entry.source)
        blinded = known.get(material)
        if blinded is None:
            blinded = known[material] = blinder.ordering(*material)
        found.append(blinded)
    return b"".join(found)


def _census(profiles: Sequence[Profile], profile: Sequence[int]) -> Census:
    census: Census = {}
    for at, count in Counter(profile).items():
        source, _, _, _, only = profiles[at]
        census[source, only] = census.get((source, only), 0) + count
    return census
