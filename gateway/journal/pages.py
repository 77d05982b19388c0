"""Rows out of a damaged database file, read page by page without SQLite.

SQLite refuses a file as a whole where its first page, a root page or its length is wrong, although every row elsewhere is as
it was. This reader follows the tables as far as they can be followed and then takes the leaf pages that no table reaches any
more (their inner page is gone). The write-ahead log is laid over the file up to its last whole commit, as SQLite does.

It believes nothing: a page, cell or row that does not parse is left out and counted, sizes and chains are bounded, no page is
visited twice. What it returns is *found*, not *true*: the caller checks each row (sealed rows prove themselves).

Source: SQLite, "Database File Format", sections 1.3 to 1.6, 2.1 and 4.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["PageFile", "Row", "Value"]

Value = int | float | bytes | str | None

_LEAF: Final = 0x0D
_INNER: Final = 0x05
_MAGIC: Final = b"SQLite format 3\0"
#: The size that the journal sets; taken where the file no longer says.
_PAGE_BYTES: Final = 4096
#: A row is one sealed block: at most a frame of the largest size plus overhead. More is a damaged length.
_MAX_ROW_BYTES: Final = 256 * 1024 * 1024
_MAX_DEPTH: Final = 20

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_PAIR: Final = struct.Struct(">II")
_FRAME: Final = struct.Struct(">IIIIII")
_WAL_HEADER: Final = struct.Struct(">IIIIIIII")
_INT_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class Row:
    """A row as found: ``values`` by column; the column that aliases the row id is None, as it is stored."""

    rowid: int
    values: tuple[Value, ...]


class PageFile:
    """A database file and its write-ahead log, open for reading. Changes nothing. A context manager.

    ``unreadable``: pages, cells and rows that did not parse so far.
    """

    def __init__(self, descriptor: int | None, wal: int | None, page_bytes: int, frames: dict[int, int], pages: int) -> None:
        self._descriptor = descriptor
        self._wal = wal
        self._page_bytes = page_bytes
        self._usable = page_bytes
        self._frames = frames
        self._seen = bytearray(pages + 1)
        self.pages = pages
        self.unreadable = 0

    @classmethod
    def open(cls, path: Path) -> PageFile:
        """Open ``path`` and ``path``-wal; either may be missing (its loss is the witness's business)."""
        descriptor, wal = _open(path), _open(f"{path}-wal")
        size = 0 if descriptor is None else os.fstat(descriptor).st_size
        page_bytes = _page_bytes(_pread(descriptor, 100, 0))
        frames, pages = _committed_frames(wal, page_bytes)
        return cls(descriptor, wal, page_bytes, frames, max(pages, -(-size // page_bytes)))

    def close(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._descriptor, self._wal):
            if descriptor is not None:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tables(self) -> dict[str, int]:
        """Root page by table name, as far as the schema table can be read."""
        roots: dict[str, int] = {}
        for row in self.table(1):
            match row.values:
                case ("table", str(name), _, int(root), *_):
                    roots[name] = root
        return roots

    def table(self, root: int) -> Iterator[Row]:
        """The rows below ``root`` in row-id order, without those behind pages that cannot be read."""
        for number in self._leaves(root, 0):
            yield from self._rows(number)

    def skip_free_pages(self) -> None:
        """Leave the pages of the free list out of ``orphans``: they may hold rows that were deleted."""
        first = self.page(1)
        number = _U32.unpack_from(first, 32)[0] if first is not None and first.startswith(_MAGIC) else 0
        while number and self._first_visit(number) and (page := self.page(number)) is not None:
            number, count = _PAIR.unpack_from(page)
            for at in range(min(count, self._page_bytes // 4 - 2)):
                self._first_visit(_U32.unpack_from(page, 8 + 4 * at)[0])

    def orphans(self) -> Iterator[Row]:
        """The rows of leaf pages that no call of ``table`` reached, in file order."""
        for number in range(1, self.pages + 1):
            if self._seen[number]:
                continue
            page = self.page(number)
            if page is not None and page[_start(number)] == _LEAF:
                self._seen[number] = 1
                yield from self._rows(number)

    def page(self, number: int) -> bytes | None:
        """The page's newest committed bytes; None where the file ends before it or the disk refuses."""
        if (at := self._frames.get(number)) is not None:
            page = _pread(self._wal, self._page_bytes, at)
        else:
            page = _pread(self._descriptor, self._page_bytes, (number - 1) * self._page_bytes)
        return page if len(page) == self._page_bytes else None

    def _first_visit(self, number: int) -> bool:
        if not 1 <= number <= self.pages or self._seen[number]:
            return False
        self._seen[number] = 1
        return True

    def _leaves(self, number: int, depth: int) -> Iterator[int]:
        page = self.page(number) if self._first_visit(number) else None
        kind = page[_start(number)] if page is not None else 0
        if page is None or depth > _MAX_DEPTH or kind not in (_LEAF, _INNER):
            self.unreadable += 1
            if 1 <= number <= self.pages and page is not None:
                self._seen[number] = 0  # an unlikely kind here may still be a leaf of another table
            return
        if kind == _LEAF:
            yield number
            return
        for child in self._children(page, _start(number)):
            yield from self._leaves(child, depth + 1)

    def _children(self, page: bytes, start: int) -> list[int]:
        count = _U16.unpack_from(page, start + 3)[0]
        cells = [_U16.unpack_from(page, start + 12 + 2 * at)[0] for at in range(min(count, (len(page) - start - 12) // 2))]
        children = [_U32.unpack_from(page, cell)[0] for cell in cells if cell <= len(page) - 4]
        return [*children, _U32.unpack_from(page, start + 8)[0]]

    def _rows(self, number: int) -> Iterator[Row]:
        page = self.page(number)
        if page is None:
            self.unreadable += 1
            return
        start = _start(number)
        count = _U16.unpack_from(page, start + 3)[0]
        for at in range(min(count, (len(page) - start - 8) // 2)):
            try:
                yield self._row(page, _U16.unpack_from(page, start + 8 + 2 * at)[0])
            except (ValueError, IndexError, struct.error):
                self.unreadable += 1

    def _row(self, page: bytes, at: int) -> Row:
        size, at = _varint(page, at)
        rowid, at = _varint(page, at)
        if size > _MAX_ROW_BYTES:
            raise ValueError
        local = _local_bytes(size, self._usable)
        payload = page[at : at + local]
        if local < size:
            payload += self._overflow(_U32.unpack_from(page, at + local)[0], size - local)
        if len(payload) != size:
            raise ValueError
        return Row(rowid - (1 << 64) if rowid >> 63 else rowid, _record(payload))

    def _overflow(self, number: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0:
            page = self.page(number) if 1 <= number <= self.pages else None
            if page is None:
                raise ValueError
            number = _U32.unpack_from(page)[0]
            parts.append(page[4 : 4 + min(size, self._usable - 4)])
            size -= len(parts[-1])
        return b"".join(parts)


def _start(number: int) -> int:
    """Where the tree header of a page begins: the file header stands before it on page 1."""
    return 100 if number == 1 else 0


def _open(path: str | Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _pread(descriptor: int | None, size: int, at: int) -> bytes:
    if descriptor is None:
        return b""
    try:
        return os.pread(descriptor, size, at)
    except OSError:
        return b""  # a bad sector: as if the file ended here


def _page_bytes(header: bytes) -> int:
    if len(header) < 100 or not header.startswith(_MAGIC):
        return _PAGE_BYTES
    size = _U16.unpack_from(header, 16)[0]
    size = 65536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 and header[20] == 0 else _PAGE_BYTES


def _local_bytes(size: int, usable: int) -> int:
    """How much of a row stays in its leaf page (format, section 1.6)."""
    if size <= usable - 35:
        return size
    least = (usable - 12) * 32 // 255 - 23
    wanted = least + (size - least) % (usable - 4)
    return wanted if wanted <= usable - 35 else least


def _varint(page: bytes, at: int) -> tuple[int, int]:
    value = 0
    for _ in range(8):
        byte = page[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    return value << 8 | page[at], at + 1


def _record(payload: bytes) -> tuple[Value, ...]:
    header, at = _varint(payload, 0)
    body = header
    values: list[Value] = []
    while at < header:
        kind, at = _varint(payload, at)
        value, body = _value(payload, kind, body)
        values.append(value)
    if body != len(payload):
        raise ValueError
    return tuple(values)


def _value(payload: bytes, kind: int, at: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in (10, 11):
        raise ValueError
    size = _INT_BYTES[kind] if kind <= 6 else 8 if kind == 7 else (kind - 12) // 2
    raw = payload[at : at + size]
    if len(raw) != size:
        raise ValueError
    if kind <= 6:
        return int.from_bytes(raw, "big", signed=True), at + size
    if kind == 7:
        return struct.unpack(">d", raw)[0], at + size
    return (raw.decode("utf-8") if kind & 1 else raw), at + size


def _committed_frames(wal: int | None, page_bytes: int) -> tuple[dict[int, int], int]:
    """Page -> offset in the log of its newest committed bytes, and the pages of the database after the last commit."""
    header = _pread(wal, 32, 0)
    if len(header) < 32:
        return {}, 0
    magic, _, size, _, salt_1, salt_2, sum_1, sum_2 = _WAL_HEADER.unpack(header)
    words = ">" if magic & 1 else "<"
    if magic & ~1 != 0x377F0682 or size != page_bytes or _checksum(header[:24], words, 0, 0) != (sum_1, sum_2):
        return {}, 0
    committed: dict[int, int] = {}
    pending: dict[int, int] = {}
    pages = 0
    at = 32
    while len(frame := _pread(wal, 24 + page_bytes, at)) == 24 + page_bytes:
        number, after, *salts, check_1, check_2 = _FRAME.unpack_from(frame)
        sum_1, sum_2 = _checksum(frame[24:], words, *_checksum(frame[:8], words, sum_1, sum_2))
        if salts != [salt_1, salt_2] or (sum_1, sum_2) != (check_1, check_2):
            break
        pending[number] = at + 24
        at += len(frame)
        if after:
            committed |= pending
            pending, pages = {}, after
    return committed, pages


def _checksum(raw: bytes, words: str, one: int, two: int) -> tuple[int, int]:
    """Source: "Database File Format", section 4.2."""
    numbers = struct.unpack(f"{words}{len(raw) // 4}I", raw)
    for first, second in zip(numbers[::2], numbers[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
