"""Which control ids were accepted lately: decided in memory, in the event loop, before anything is written.

Key: keyed BLAKE2b-64 over the length-prefixed source name and identity parts; digest: the same over the body with MSH-7
blanked, because some senders restamp a resend. A hit needs both, 128 bits together. The same key with another digest is
accepted and flagged, never dropped: it is another clinical message under a reused number.

absent -> pending (waits for its commit) -> remembered. A duplicate of a pending message shares the fate of the original.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.model.message import Entry

__all__ = ["KEY_BYTES", "Blinder", "Dedupe", "Digest"]

#: On disk and in ``remember``: 8 bytes key, 8 bytes digest.
KEY_BYTES: Final = 16
_HALF: Final = 8
#: Keys are forgotten in portions of this many: the window holds between ``capacity`` and one portion more.
_PORTION_KEYS: Final = 1024
_REPEATED_COMMITS: Final = 256
_REPEATED_MAX_KEYS: Final = 2048


class Blinder:
    """Keyed hashes under the index key, one per purpose, so that no value of one can be looked up in another."""

    def __init__(self, index_key: bytes) -> None:
        self._identity = hashlib.blake2b(key=index_key, digest_size=_HALF, person=b"gw identity")
        self._body = hashlib.blake2b(key=index_key, digest_size=_HALF, person=b"gw body")
        self._ordering = hashlib.blake2b(key=index_key, digest_size=_HALF, person=b"gw ordering")

    def identity(self, source: str, identity: tuple[bytes, ...]) -> bytes:
        """8 bytes for (source, identity)."""
        state = self._identity.copy()
        name = source.encode()
        if len(identity) == 3:  # HL7: MSH-3, MSH-4, MSH-10; one formatting is 1 us a message cheaper than four
            one, two, three = identity
            state.update(b"%d:%b%d:%b%d:%b%d:%b" % (len(name), name, len(one), one, len(two), two, len(three), three))
        else:
            state.update(b"".join([b"%d:%b" % (len(part), part) for part in (name, *identity)]))
        return state.digest()

    def body(self, body: bytes, blank: tuple[int, int]) -> bytes:
        """8 bytes for the body without the span ``blank``."""
        state = self._body.copy()
        start, end = blank
        state.update(body if start == end else body[:start] + b"\0" + body[end:])
        return state.digest()

    def ordering(self, material: bytes, source: str) -> bytes:
        """8 bytes for the ordering key; of the source where there is no material. The two can never be the same."""
        state = self._ordering.copy()
        state.update(b"\0" + material if material else b"\1" + source.encode())
        return state.digest()


class _Portion:
    """Keys of consecutive commits, oldest first."""

    __slots__ = ("first_commit", "keys")

    def __init__(self, first_commit: int) -> None:
        self.first_commit = first_commit
        self.keys = bytearray()


class Digest:
    """Decides when a commit row repeats the keys of the small commits before it. Used by the writer.

    With one message a commit the window is 100,000 rows; a row that repeats 255 others lets a start skip them. Repeating a
    key costs 16 bytes, so it is done only where commits are small and have bytes to spare.
    """

    def __init__(self) -> None:
        self._first_commit = 0
        self._keys: list[bytes] = []
        self._commits = 0

    def add(self, commit: int, keys: Sequence[bytes]) -> tuple[int, Sequence[bytes]]:
        """``keys_from`` and the keys that the row of ``commit`` is to hold."""
        if not keys:
            return 0, keys
        if not self._keys:
            self._first_commit = commit
        self._keys += keys
        self._commits += 1
        if len(self._keys) > _REPEATED_MAX_KEYS:
            self.clear()
        elif self._commits >= _REPEATED_COMMITS:
            repeated, first = self._keys, self._first_commit
            self.clear()
            return first, repeated
        return 0, keys

    def clear(self) -> None:
        """Begin anew behind the newest row (also after a failed commit: what was added may not be there)."""
        self._keys, self._commits = [], 0


class Dedupe:
    """The window of remembered keys. Lives in the event loop; every operation is O(1) a key.

    ``capacity``: keys that are remembered at least, once there were so many (0 = nothing is ever a duplicate of a
    committed message; pending ones still are).
    """

    def __init__(self, blinder: Blinder, capacity: int) -> None:
        self._blinder = blinder
        self._capacity = capacity
        self._remembered: dict[bytes, bytes] = {}
        self._pending: dict[bytes, tuple[bytes, Entry]] = {}
        self._portions: deque[_Portion] = deque()
        self._total = 0

    def __len__(self) -> int:
        """Keys in the window, repeated ones counted each time."""
        return self._total

    @property
    def oldest_commit(self) -> int | None:
        """The first commit whose keys are still remembered; rows before it are not needed to rebuild the window."""
        return self._portions[0].first_commit if self._portions else None

    def admit(self, entry: Entry) -> tuple[bytes, Entry | None]:
        """Look at an entry with an identity and set its flags.

        Returns the 16 bytes to remember and None for a new one (it is pending now), or the entry that it duplicates where
        that is still pending (``entry`` itself where the original is committed).
        """
        identity = entry.identity
        key = self._blinder.identity(entry.source, identity if identity is not None else ())
        digest = self._blinder.body(entry.body, entry.restamp)
        if (waiting := self._pending.get(key)) is not None:
            if waiting[0] == digest:
                entry.duplicate = True
                return b"", waiting[1]
            entry.reused_control_id = True
        elif (known := self._remembered.get(key)) is not None:
            if known == digest:
                entry.duplicate = True
                return b"", entry
            entry.reused_control_id = True
        self._pending[key] = (digest, entry)
        return key + digest, None

    def settle(self, keys: Iterable[tuple[bytes, Entry]], commit: int, *, committed: bool) -> None:
        """The keys of entries whose commit succeeded are remembered, the others forgotten."""
        for joined, entry in keys:
            key = joined[:_HALF]
            waiting = self._pending.get(key)
            if waiting is not None and waiting[1] is entry:
                del self._pending[key]
            if committed:
                self._remember(key, joined[_HALF:], joined, commit)
        self._forget()

    def load(self, commit: int, joined: bytes) -> None:
        """Remember what a commit row holds; rows come oldest first."""
        for at in range(0, len(joined), KEY_BYTES):
            pair = joined[at : at + KEY_BYTES]
            self._remember(pair[:_HALF], pair[_HALF:], pair, commit)
        self._forget()

    def _remember(self, key: bytes, digest: bytes, joined: bytes, commit: int) -> None:
        if self._capacity <= 0:
            return
        if not self._portions or len(self._portions[-1].keys) >= _PORTION_KEYS * KEY_BYTES:
            self._portions.append(_Portion(commit))
        self._portions[-1].keys += joined
        self._remembered[key] = digest
        self._total += 1

    def _forget(self) -> None:
        while self._portions and self._total - len(self._portions[0].keys) // KEY_BYTES >= self._capacity:
            keys = bytes(self._portions.popleft().keys)
            for at in range(0, len(keys), KEY_BYTES):
                if self._remembered.get(keys[at : at + _HALF]) == keys[at + _HALF : at + KEY_BYTES]:
                    del self._remembered[keys[at : at + _HALF]]
            self._total -= len(keys) // KEY_BYTES
