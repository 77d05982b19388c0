"""The sealed record of the journal, format version 1: an authenticated box around the bytes of one row.

All numbers big-endian, all widths fixed:

====== ====================================================
bytes  field
====== ====================================================
0:3    ``GWR``
3      version, 1
4      suite: 1 AES-256-GCM, 2 ChaCha20-Poly1305
5      flags: bit 0 = the plaintext is compressed (zstd)
6:8    table
8:12   key epoch
12:24  nonce, random (a stored counter would repeat after a restored backup, and a repeat gives the key away)
24:    ciphertext, then a 16 byte tag
====== ====================================================

The tag also covers the header and the context (which gateway, incarnation, row, lane and messages this is), so that a
record that was changed, moved, relabelled or swapped does not open. An **older version of the same record** does: the
chain of the journal finds that.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.exceptions import InvalidTag

from gateway.model.errors import IntegrityError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NONCE_BYTES", "OVERHEAD_BYTES", "Aead", "Opened", "RecordContext", "RecordHead", "Suite", "open_record", "read_head", "seal"]

NONCE_BYTES: Final = 12
_TAG_BYTES = 16
_ID_BYTES = 16
_HEAD = struct.Struct(">3sBBBHI12s")
_CONTEXT = struct.Struct(">16s16s16sIQIH")
_MAGIC = b"GWR"
_VERSION = 1
_COMPRESSED = 1
_BOUND_BYTES = 12  # of the head; the nonce is bound by the cipher itself
OVERHEAD_BYTES: Final = _HEAD.size + _TAG_BYTES


class Suite(IntEnum):
    """The cipher of a record. Persisted: never renumber."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


class Aead(Protocol):
    """What ``cryptography`` calls AESGCM and ChaCha20Poly1305."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Ciphertext and tag."""
        ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Plaintext; ``InvalidTag`` where anything was changed."""
        ...


@dataclass(frozen=True, slots=True)
class RecordContext:
    """What a record is about; not stored in it, but it only opens with the same. The three ids have 16 bytes."""

    gateway: bytes
    incarnation: bytes
    block: bytes
    lane: int
    first_seq: int
    count: int
    content_kind: int

    def encode(self) -> bytes:
        """The context as bytes, 66 of them.

        Raises:
            LocalProtocolError: ``record-context`` where an id has not 16 bytes (``struct`` would pad or cut it silently).
        """
        if not len(self.gateway) == len(self.incarnation) == len(self.block) == _ID_BYTES:
            raise LocalProtocolError("record-context")
        return _CONTEXT.pack(self.gateway, self.incarnation, self.block, self.lane, self.first_seq, self.count, self.content_kind)


@dataclass(frozen=True, slots=True)
class RecordHead:
    """The clear head of a record."""

    suite: Suite
    compressed: bool
    table: int
    epoch: int
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """The content of a record; still compressed where ``compressed`` says so."""

    plaintext: bytes
    compressed: bool


def seal(
    aead: Aead,
    suite: Suite,
    nonce: bytes,
    epoch: int,
    table: int,
    context: RecordContext,
    plaintext: bytes,
    *,
    compressed: bool = False,
) -> bytes:
    """The record of ``plaintext``. ``aead`` holds the data key of ``epoch``; ``nonce`` is random and used once.

    Raises:
        LocalProtocolError: ``record-nonce``, ``record-context`` where a width is wrong.
    """
    if len(nonce) != NONCE_BYTES:
        raise LocalProtocolError("record-nonce")
    head = _HEAD.pack(_MAGIC, _VERSION, suite, _COMPRESSED if compressed else 0, table, epoch, nonce)
    return head + aead.encrypt(nonce, plaintext, head[:_BOUND_BYTES] + context.encode())


def read_head(record: bytes) -> RecordHead:
    """The head, not yet authenticated: enough to find the key.

    Raises:
        IntegrityError: ``record-short``, ``record-format``.
    """
    if len(record) < OVERHEAD_BYTES:
        raise IntegrityError("record-short", "a sealed record is shorter than its own frame")
    magic, version, suite, flags, table, epoch, nonce = _HEAD.unpack_from(record)
    if magic != _MAGIC or version != _VERSION or suite not in _SUITES or flags > _COMPRESSED:
        raise IntegrityError("record-format", "not a sealed record of a version that this program reads")
    return RecordHead(Suite(suite), flags == _COMPRESSED, table, epoch, nonce)


_SUITES = frozenset(Suite)


def open_record(aead_of: Callable[[Suite, int], Aead | None], table: int, context: RecordContext, record: bytes) -> Opened:
    """Open a record that should be of ``table`` and ``context``; ``aead_of(suite, epoch)`` gives the key, or None.

    Raises:
        IntegrityError: ``record-short``, ``record-format``, ``record-table``, ``record-key`` (no such epoch), ``record-tag``.
    """
    head = read_head(record)
    if head.table != table:
        raise IntegrityError("record-table", "a sealed record lies in another table than it was made for")
    aead = aead_of(head.suite, head.epoch)
    if aead is None:
        raise IntegrityError("record-key", "the key epoch of a sealed record is not in the keyring")
    try:
        plaintext = aead.decrypt(head.nonce, record[_HEAD.size :], record[:_BOUND_BYTES] + context.encode())
    except InvalidTag:
        raise IntegrityError("record-tag", "a sealed record was changed, moved or belongs to another key") from None
    return Opened(plaintext, head.compressed)
