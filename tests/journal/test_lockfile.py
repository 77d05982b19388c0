"""One process at a time, without stale locks and without making a file where nothing may be made."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gateway.journal.lockfile import take_lock
from gateway.model.errors import StorageError, UnavailableError
from tests.journal.keeping import snapshot

if TYPE_CHECKING:
    from pathlib import Path

HOLDER = """
import pathlib, sys
from gateway.journal.lockfile import take_lock
lock = take_lock(pathlib.Path(sys.argv[1]), create=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_daemon_is_told_that_one_is_running(tmp_path: Path) -> None:
    with take_lock(tmp_path / "state", create=True) or pytest.fail("no lock"):
        for create in (True, False):
            with pytest.raises(UnavailableError, match="already-running"):
                take_lock(tmp_path / "state", create=create)
    again = take_lock(tmp_path / "state", create=False)
    assert again is not None
    again.release()
    again.release()


def test_a_killed_process_leaves_no_stale_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UnavailableError, match="already-running"):
            take_lock(tmp_path, create=False)
        holder.kill()
        holder.wait()
        with take_lock(tmp_path, create=True) or pytest.fail("no lock"):
            pass


def test_without_permission_to_create_nothing_is_made(tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    assert take_lock(tmp_path, create=False) is None
    assert take_lock(tmp_path / "absent", create=False) is None
    assert snapshot(tmp_path) == before


def test_an_existing_lock_is_taken_without_a_change(tmp_path: Path) -> None:
    with take_lock(tmp_path, create=True) or pytest.fail("no lock"):
        pass
    before = snapshot(tmp_path)
    for create in (True, False):
        with take_lock(tmp_path, create=create) or pytest.fail("no lock"):
            pass
    assert snapshot(tmp_path) == before
    assert oct(before["lock"][1])[-3:] == "600"


def test_a_lock_file_that_cannot_be_used_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="lock-failed"):
        take_lock(tmp_path / "file", create=True)
    assert take_lock(tmp_path / "file", create=False) is None
    (tmp_path / "lock").symlink_to(tmp_path / "file")
    with pytest.raises(StorageError, match="lock-failed"):
        take_lock(tmp_path, create=False)
