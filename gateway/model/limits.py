"""Every limit that a peer or an operator can run into, with its unit and the source of the number."""

from __future__ import annotations

from typing import Final

__all__ = [
    "BATCH_MAX_MESSAGES",
    "BLOCK_MAX_BYTES",
    "BLOCK_MAX_MESSAGES",
    "COMMIT_MAX_BYTES",
    "COMMIT_MAX_MESSAGES",
    "DEDUPE_KEYS",
    "DISCARD_MAX_BYTES",
    "FRAME_MAX_BYTES",
    "IN_FLIGHT_MAX_BYTES",
    "REFUSED_KEEP_BYTES",
    "WINDOW_MAX_BYTES",
    "WINDOW_MAX_MESSAGES",
]

#: Default size limit of one MLLP frame: a scanned document in an OBX-5; MessageFoundry has the same cap.
FRAME_MAX_BYTES: Final = 16 * 1024 * 1024
#: An oversize frame is read and thrown away up to here, so that its sender gets an answer; past it the connection closes.
DISCARD_MAX_BYTES: Final = 64 * 1024 * 1024
#: What is kept of a refused frame, for the person who has to find out why.
REFUSED_KEEP_BYTES: Final = 64 * 1024
#: Messages in one frame (they commit together and each gets an answer); registries upload a few thousand at once.
BATCH_MAX_MESSAGES: Final = 10_000
#: Bytes of all frames that are read but not yet committed, over all connections: past it reading stops.
IN_FLIGHT_MAX_BYTES: Final = 48 * 1024 * 1024
#: One corrupt block loses its group, so a group is capped (journal page of the design: 512 messages or 256 KiB).
BLOCK_MAX_MESSAGES: Final = 512
BLOCK_MAX_BYTES: Final = 256 * 1024
#: One transaction takes at most this much, so that the first message of a burst does not wait for the last one.
COMMIT_MAX_MESSAGES: Final = 4096
COMMIT_MAX_BYTES: Final = 8 * 1024 * 1024
#: Remembered control ids; 16 bytes each on disk, about 110 in memory.
DEDUPE_KEYS: Final = 100_000
#: A route holds at most this much read but unsettled (one message may exceed the bytes: it then travels alone).
WINDOW_MAX_MESSAGES: Final = 8192
WINDOW_MAX_BYTES: Final = 8 * 1024 * 1024
