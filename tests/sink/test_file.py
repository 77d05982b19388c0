"""The file sink: what it reports is on the disk, whole, private, and rotated."""

from __future__ import annotations

import errno
import os
import stat
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model.message import Delivery
from gateway.model.receipt import Answered, Blocked, Failed, RouteState
from gateway.sink import ndjson_file
from gateway.sink.file import FileSink, build
from gateway.sink.file_settings import FileSettings
from gateway.sink.ndjson_file import NdjsonFile, Rotation
from gateway.sink.services import SinkServices
from tests.route.fakes import FakeClock, LoopClock, stored

if TYPE_CHECKING:
    from pathlib import Path

NO_ROTATION = Rotation(10**9, timedelta(days=999), 0)
WALL_US = FakeClock().wall_us()


def batch(*seqs: int) -> list[Delivery]:
    return [Delivery(stored(seq), seq) for seq in seqs]


def sink_for(path: Path, **settings: Any) -> FileSink:
    table = {"name": "archive", "type": "file", "path": path} | settings
    return build(FileSettings.model_validate(table), SinkServices("ward-3", "everything", LoopClock()))


def seqs_in(path: Path) -> list[int]:
    return [int(orjson.loads(line)["sequence"]) for line in path.read_bytes().splitlines()]


async def test_events_are_lines_of_a_private_file_in_a_private_folder(tmp_path: Path) -> None:
    path = tmp_path / "out" / "messages.ndjson"
    sink = sink_for(path)
    assert isinstance(await sink.send(batch(1, 2)), Answered)
    assert isinstance(await sink.send(batch(3)), Answered)
    await sink.close()
    await sink.close()
    assert seqs_in(path) == [1, 2, 3]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_file_that_is_open_to_others_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "m.ndjson"
    path.write_text("")
    path.chmod(0o666)
    sink = sink_for(path)
    await sink.send(batch(1))
    await sink.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_torn_last_line_is_cut_off_and_sent_again(tmp_path: Path) -> None:
    path = tmp_path / "m.ndjson"
    sink = sink_for(path)
    await sink.send(batch(1, 2))
    await sink.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    sink = sink_for(path)
    await sink.send(batch(2))
    await sink.close()
    assert path.read_bytes() == whole


@given(st.lists(st.binary(max_size=300).map(lambda line: line.replace(b"\n", b"")), max_size=6), st.integers(0, 2000))
def test_whatever_was_torn_off_only_whole_lines_remain(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "m.ndjson"
    whole = b"".join(line + b"\n" for line in lines)
    path.write_bytes(whole[:cut])
    file = NdjsonFile(path, NO_ROTATION)
    file.append(b"{}\n", WALL_US)
    file.close()
    kept = whole[:cut]
    assert path.read_bytes() == kept[: kept.rfind(b"\n") + 1] + b"{}\n"


def test_a_torn_line_longer_than_one_look_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "m.ndjson"
    path.write_bytes(b"{}\n" + b"x" * 300_000)
    file = NdjsonFile(path, NO_ROTATION)
    file.append(b"{}\n", WALL_US)
    file.close()
    assert path.read_bytes() == b"{}\n{}\n"


def test_nothing_is_reported_before_its_fsync_and_a_failed_one_leaves_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.ndjson"
    file = NdjsonFile(path, NO_ROTATION)
    file.append(b"{}\n", WALL_US)

    def failing(_fd: int) -> None:
        raise OSError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(ndjson_file.os, "fsync", failing)  # type: ignore[attr-defined]
        with pytest.raises(OSError, match="no"):
            file.append(b"[]\n", WALL_US)
    assert path.read_bytes() == b"{}\n"
    file.append(b"[]\n", WALL_US)
    file.close()
    assert path.read_bytes() == b"{}\n[]\n"


def test_full_files_get_a_time_stamp_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "m.ndjson"
    file = NdjsonFile(path, Rotation(4096, timedelta(days=1), 2))
    for number in range(6):
        file.append(b'{"n":%d}' % number + b" " * 3000 + b"\n", WALL_US + number * 1_000_000)
    file.close()
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 3
    assert names[-1] == "m.ndjson"
    assert [path.with_name(name).read_bytes()[:7] for name in names] == [b'{"n":3}', b'{"n":4}', b'{"n":5}']


def test_rotation_never_overwrites_and_never_removes_other_files(tmp_path: Path) -> None:
    other = tmp_path / "m-notes.ndjson"
    other.write_text("keep")
    path = tmp_path / "m.ndjson"
    file = NdjsonFile(path, Rotation(4096, timedelta(days=1), 0))
    for _ in range(4):  # all in the same second
        file.append(b" " * 4000 + b"\n", WALL_US)
    file.close()
    assert len(list(tmp_path.iterdir())) == 5
    assert other.read_text() == "keep"


def test_an_old_file_is_full_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "m.ndjson"
    first = b'{"specversion":"1.0","time":"2026-11-20T00:00:00.000000Z"}\n'
    rotation = Rotation(10**9, timedelta(hours=24), 0)
    at_us = 1_795_132_800_000_000  # 2026-11-20T00:00:00Z
    file = NdjsonFile(path, rotation)
    file.append(first, at_us)
    file.close()
    file = NdjsonFile(path, rotation)
    file.append(b"{}\n", at_us + 23 * 3_600_000_000)
    assert len(list(tmp_path.iterdir())) == 1
    file.append(b"{}\n", at_us + 25 * 3_600_000_000)
    file.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "m.ndjson"
    file = NdjsonFile(path, NO_ROTATION)
    file.append(b"1\n", WALL_US)
    path.rename(tmp_path / "moved")
    file.append(b"2\n", WALL_US)
    path.unlink()
    file.append(b"3\n", WALL_US)
    file.close()
    assert path.read_bytes() == b"3\n"
    assert (tmp_path / "moved").read_bytes() == b"1\n"


def test_two_writers_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "m.ndjson"
    one, two = NdjsonFile(path, NO_ROTATION), NdjsonFile(path, NO_ROTATION)
    for _ in range(3):
        one.append(b"1\n", WALL_US)
        two.append(b"2\n", WALL_US)
    one.close()
    two.close()
    assert path.read_bytes() == b"1\n2\n" * 3


async def test_what_is_not_a_file_is_a_configuration_fault(tmp_path: Path) -> None:
    fifo, folder, link, below = tmp_path / "fifo", tmp_path / "folder", tmp_path / "link", tmp_path / "plain" / "m.ndjson"
    os.mkfifo(fifo)
    folder.mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "plain").write_text("")
    expected = {fifo: "file-not-regular", folder: "file-not-regular", link: "file-is-link", below: "file-not-regular"}
    for path, code in expected.items():
        sink = sink_for(path)
        assert await sink.send(batch(1)) == Blocked(RouteState.MISCONFIGURED, code), path
        await sink.close()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, Failed("file-disk-full")),
        (errno.EIO, Failed("file-io")),
        (errno.EROFS, Blocked(RouteState.MISCONFIGURED, "file-read-only")),
        (errno.EACCES, Blocked(RouteState.MISCONFIGURED, "file-not-permitted")),
    ],
)
async def test_errors_of_the_disk_become_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: Blocked | Failed
) -> None:
    sink = sink_for(tmp_path / "m.ndjson")

    def failing(_fd: int, _data: object) -> int:
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(ndjson_file.os, "write", failing)  # type: ignore[attr-defined]
        assert await sink.send(batch(1)) == expected
    assert isinstance(await sink.send(batch(1)), Answered)
    await sink.close()
    assert seqs_in(tmp_path / "m.ndjson") == [1]
