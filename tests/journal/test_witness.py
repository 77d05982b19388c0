"""The last status: shown without a key, trusted only with one, never in the way."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.keyring import create_keyring
from gateway.journal.witness import LastStatusFile, Witness, WitnessState, read_last_status, write_last_status
from tests.journal.keeping import KEK, Seeded, SetClock, snapshot

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

STATUS: dict[str, Any] = {
    "sources": [{"name": "adt", "accepted": 3}],
    "routes": [{"name": "all", "oldest_age_s": 0.25, "last_error": None}],
}


def witness(commit: int = 5) -> Witness:
    return Witness(commit, bytes(range(32)), commit * 10, 1_795_000_000_000_000 + commit)


def test_what_was_written_is_read_and_vouched_for(tmp_path: Path) -> None:
    keys = create_keyring(tmp_path, KEK, Seeded())
    assert write_last_status(tmp_path, STATUS, witness(), keys)
    last = read_last_status(tmp_path)
    assert last is not None
    assert last.status == STATUS
    assert last.witness == witness()
    assert last.testify(keys) is WitnessState.VALID
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keyring", "last-status.json"]
    assert oct((tmp_path / "last-status.json").stat().st_mode)[-3:] == "600"


def test_another_gateways_file_is_forged(tmp_path: Path) -> None:
    keys = create_keyring(tmp_path / "one", KEK, Seeded(1))
    other = create_keyring(tmp_path / "two", KEK, Seeded(2))
    write_last_status(tmp_path / "one", STATUS, witness(), keys)
    shutil.copy(tmp_path / "one" / "last-status.json", tmp_path / "two")
    last = read_last_status(tmp_path / "two")
    assert last is not None
    assert last.testify(other) is WitnessState.FORGED


@given(data=st.data())
def test_a_changed_byte_is_absent_or_forged_never_believed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    state = tmp_path_factory.mktemp("state")
    keys = create_keyring(state, KEK, Seeded())
    write_last_status(state, STATUS, witness(), keys)
    raw = bytearray((state / "last-status.json").read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    (state / "last-status.json").write_bytes(raw)
    last = read_last_status(state)
    if last is not None and last.testify(keys) is WitnessState.VALID:
        assert (last.status, last.witness) == (STATUS, witness())


@given(raw=st.binary(max_size=100) | st.sampled_from([b"", b"{}", b"[]", b'{"witness":{"commit":1e999}}', b'{"witness":[1]}', b'"x"']))
def test_any_bytes_in_its_place_count_as_absent(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    state = tmp_path_factory.mktemp("state")
    (state / "last-status.json").write_bytes(raw)
    assert read_last_status(state) is None


def test_it_is_written_at_most_once_a_second_and_only_for_a_new_commit(tmp_path: Path) -> None:
    clock = SetClock()
    file = LastStatusFile(tmp_path, create_keyring(tmp_path, KEK, Seeded()), clock)
    assert file.offer(STATUS, witness(1))
    assert not file.offer(STATUS, witness(2))
    clock.now_s += 1.0
    assert file.offer(STATUS, witness(2))
    clock.now_s += 1.0
    assert not file.due(2)
    assert not file.offer(STATUS, witness(2))
    assert file.close(STATUS, witness(2))
    assert not file.offer(STATUS, witness(3))
    assert file.close(STATUS, witness(3))
    last = read_last_status(tmp_path)
    assert last is not None
    assert last.witness == witness(3)


def test_a_disk_that_refuses_keeps_the_old_file_and_raises_nothing(tmp_path: Path) -> None:
    keys = create_keyring(tmp_path, KEK, Seeded())
    write_last_status(tmp_path, STATUS, witness(1), keys)
    (tmp_path / "last-status.json.new").mkdir()
    before = snapshot(tmp_path)
    assert not write_last_status(tmp_path, STATUS, witness(2), keys)
    assert not write_last_status(tmp_path / "gone", STATUS, witness(2), keys)
    assert snapshot(tmp_path) == before
