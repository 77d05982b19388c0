"""Seals and opens the rows of the journal: compression, key of the epoch, and the context that ties a record to its row."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from gateway.codec.sealed_record import NONCE_BYTES, Aead, RecordContext, Suite, open_record, seal
from gateway.model.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.journal.keyring import OpenKeyring
    from gateway.model.clock import Clock, Randomness

__all__ = ["CONTENT_KIND", "RecordCipher", "fastest_suite"]

#: Format family of the plaintexts (each has a format byte of its own).
CONTENT_KIND: Final = 1
#: Level 1 costs 2.3 us a message and reaches the ratio of level 6 on blocks of HL7 within 5 %.
_LEVEL: Final = 1
#: Nothing this short gets shorter.
_COMPRESS_FROM_BYTES: Final = 96
#: A commit is at most a frame of the largest size beside 8 MiB; anything that unpacks to more was not written here.
_MAX_PLAINTEXT_BYTES: Final = 256 * 1024 * 1024
_TRIAL_BYTES: Final = bytes(16 * 1024)
_TRIALS: Final = 8


class RecordCipher:
    """Belongs to one thread (the compression contexts are not shared); ``clone`` makes one for another thread."""

    def __init__(self, keys: OpenKeyring, randomness: Randomness, suite: Suite) -> None:
        self._keys = keys
        self._randomness = randomness
        self._suite = suite
        self._aeads: dict[tuple[Suite, int], Aead] = {}
        self._aead = self._aead_of(suite, keys.epoch)
        self._compress = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False).compress
        self._decompress = zstandard.ZstdDecompressor().decompress

    def clone(self) -> RecordCipher:
        """The same keys for another thread."""
        return RecordCipher(self._keys, self._randomness, self._suite)

    def seal(self, table: int, rowid: int, lane: int, first_seq: int, count: int, incarnation: bytes, plaintext: bytes) -> bytes:
        """The sealed record of row ``rowid`` of ``table``. ``lane``: class code of a block, else 0; likewise seq and count."""
        if self._aead is None:
            raise IntegrityError("record-key", "the keyring holds no key for its own epoch")
        compressed = False
        if len(plaintext) >= _COMPRESS_FROM_BYTES:
            packed = self._compress(plaintext)
            if len(packed) < len(plaintext):
                plaintext, compressed = packed, True
        context = self._context(table, rowid, lane, first_seq, count, incarnation)
        nonce = self._randomness.bytes(NONCE_BYTES)
        return seal(self._aead, self._suite, nonce, self._keys.epoch, table, context, plaintext, compressed=compressed)

    def open(self, table: int, rowid: int, lane: int, first_seq: int, count: int, incarnation: bytes, sealed: bytes) -> bytes:
        """The plaintext.

        Raises:
            IntegrityError: ``record-...`` of the record format, or ``record-packing``.
        """
        try:
            context = self._context(table, rowid, lane, first_seq, count, incarnation)
            opened = open_record(self._aead_of, table, context, sealed)
        except (OverflowError, struct.error, TypeError):
            # The columns of a damaged row may hold what no row of ours ever held: a negative number, a text.
            raise IntegrityError("record-context", "the columns of a sealed row cannot be its own") from None
        if not opened.compressed:
            return opened.plaintext
        try:
            return self._decompress(opened.plaintext, max_output_size=_MAX_PLAINTEXT_BYTES)
        except zstandard.ZstdError:
            raise IntegrityError("record-packing", "a sealed record opens but does not unpack") from None

    def _context(self, table: int, rowid: int, lane: int, first_seq: int, count: int, incarnation: bytes) -> RecordContext:
        block = (table << 64 | rowid).to_bytes(16, "big")
        return RecordContext(self._keys.gateway_uuid, incarnation, block, lane, first_seq, count, CONTENT_KIND)

    def _aead_of(self, suite: Suite, epoch: int) -> Aead | None:
        found = self._aeads.get((suite, epoch))
        if found is None and (key := self._keys.data_keys.get(epoch)) is not None:
            found = self._aeads[suite, epoch] = _aead(suite, key)
        return found


def _aead(suite: Suite, key: bytes) -> Aead:
    return AESGCM(key) if suite is Suite.AES_256_GCM else ChaCha20Poly1305(key)


def fastest_suite(clock: Clock) -> Suite:
    """Which cipher is faster on this machine: a trial of about a millisecond.

    Without AES instructions ChaCha20 is 2 to 14 times faster; with them AES-GCM wins by 3.
    """
    return min(Suite, key=lambda suite: _trial_s(_aead(suite, bytes(32)).encrypt, clock))


def _trial_s(encrypt: Callable[[bytes, bytes, bytes | None], bytes], clock: Clock) -> float:
    nonce = bytes(NONCE_BYTES)
    encrypt(nonce, _TRIAL_BYTES, None)
    started = clock.monotonic_s()
    for _ in range(_TRIALS):
        encrypt(nonce, _TRIAL_BYTES, None)
    return clock.monotonic_s() - started
