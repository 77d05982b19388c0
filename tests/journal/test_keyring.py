"""The keyring: opened with the right key only, never made over old data, and nothing is touched while locked."""

from __future__ import annotations

import hashlib
import stat
from typing import TYPE_CHECKING

import orjson
import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.keyring import KeyringState, OpenKeyring, create_keyring, keyring_state, open_keyring
from gateway.model.errors import LockedError, StorageError
from tests.journal.keeping import KEK, OTHER_KEK, Seeded, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def keyring_bytes(directory: Path) -> bytes:
    create_keyring(directory, KEK, Seeded())
    return (directory / "keyring").read_bytes()


def test_a_keyring_opens_with_its_key_and_gives_the_same_keys(tmp_path: Path) -> None:
    made = create_keyring(tmp_path / "state", KEK, Seeded())
    opened = open_keyring(tmp_path / "state", KEK)
    assert opened == made
    assert opened.epoch == 1
    assert len({opened.data_keys[1], opened.index_key, opened.chain_key}) == 3
    assert all(len(key) == 32 for key in (opened.data_keys[1], opened.index_key, opened.chain_key))


def test_two_keyrings_share_no_key(tmp_path: Path) -> None:
    one = create_keyring(tmp_path / "one", KEK, Seeded(1))
    two = create_keyring(tmp_path / "two", KEK, Seeded(2))
    assert one.gateway_uuid != two.gateway_uuid
    assert one.data_keys[1] != two.data_keys[1]


def test_file_and_directory_are_for_the_owner_only_and_no_key_stands_in_the_file_in_clear(tmp_path: Path) -> None:
    state = tmp_path / "state"
    keys = create_keyring(state, KEK, Seeded())
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "keyring").stat().st_mode) == 0o600
    raw = (state / "keyring").read_bytes()
    for key in (KEK, keys.data_keys[1], keys.index_key, keys.chain_key):
        assert key not in raw
        assert key.hex().encode() not in raw
        assert key.hex() not in repr(keys)
    assert [path.name for path in state.iterdir()] == ["keyring"]


def test_wrapping_is_rfc_3394(tmp_path: Path) -> None:
    # Source: RFC 3394 section 4.6: 256 bits of key data with a 256-bit KEK.
    data = bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
    wrapped = bytes.fromhex("28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21")
    assert aes_key_wrap(KEK, data) == wrapped
    keys = create_keyring(tmp_path, KEK, Seeded())
    content = orjson.loads((tmp_path / "keyring").read_bytes())
    assert aes_key_unwrap(KEK, bytes.fromhex(content["epochs"]["1"])) == keys.data_keys[1]


def test_the_state_directory_is_looked_at_without_a_key(tmp_path: Path) -> None:
    assert keyring_state(tmp_path / "absent") is KeyringState.FRESH
    assert keyring_state(tmp_path) is KeyringState.FRESH
    (tmp_path / "lock").touch()
    assert keyring_state(tmp_path) is KeyringState.FRESH
    (tmp_path / "journal.db.quarantine-1").touch()
    assert keyring_state(tmp_path) is KeyringState.MISSING
    (tmp_path / "keyring").touch()
    assert keyring_state(tmp_path) is KeyringState.PRESENT
    with pytest.raises(StorageError):
        keyring_state(tmp_path / "lock")


def resealed(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    """A change by somebody who knows the format and mends the digest, but has no key."""

    def spoil(state: Path) -> None:
        content = orjson.loads((state / "keyring").read_bytes())
        change(content)
        content.pop("digest", None)
        content["digest"] = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
        (state / "keyring").write_bytes(orjson.dumps(content))

    return spoil


def half(state: Path) -> None:
    raw = (state / "keyring").read_bytes()
    (state / "keyring").write_bytes(raw[: len(raw) // 2])


def emptied(state: Path) -> None:
    (state / "keyring").write_bytes(b"")


def nul_filled(state: Path) -> None:
    (state / "keyring").write_bytes(bytes(len((state / "keyring").read_bytes())))


def other_json(state: Path) -> None:
    (state / "keyring").write_bytes(b'{"format": "another"}')


def removed(state: Path) -> None:
    (state / "keyring").unlink()


def newer(content: dict[str, object]) -> None:
    content["version"] = content["min_reader"] = 2


def other_epochs(content: dict[str, object]) -> None:
    content["epochs"] = {"2": content["index"]}


def no_check(content: dict[str, object]) -> None:
    del content["check"]


CASES = {
    "half written": (half, KEK, "keyring-damaged"),
    "empty": (emptied, KEK, "keyring-damaged"),
    "NUL-filled": (nul_filled, KEK, "keyring-damaged"),
    "another file": (other_json, KEK, "keyring-damaged"),
    "half written and wrong key": (half, OTHER_KEK, "keyring-damaged"),
    "wrong key": (lambda _: None, OTHER_KEK, "key-wrong"),
    "gone": (removed, KEK, "keyring-missing"),
    "newer format": (resealed(newer), KEK, "keyring-newer"),
    "epochs exchanged": (resealed(other_epochs), KEK, "keyring-damaged"),
    "check removed": (resealed(no_check), KEK, "keyring-damaged"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_cause_of_locked_has_its_own_code_and_changes_nothing(case: str, tmp_path: Path) -> None:
    spoil, kek, code = CASES[case]
    create_keyring(tmp_path, KEK, Seeded())
    (tmp_path / "journal.db").write_bytes(b"SQLite format 3\0 and what follows")
    (tmp_path / "journal.db-wal").write_bytes(b"wal")
    spoil(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(LockedError) as caught:
        open_keyring(tmp_path, kek)
    assert caught.value.code == code
    assert caught.value.hint
    with pytest.raises(LockedError):
        create_keyring(tmp_path, kek, Seeded(2))
    assert snapshot(tmp_path) == before


def test_no_key_is_made_over_a_journal_or_a_keyring(tmp_path: Path) -> None:
    (tmp_path / "journal.db").touch()
    before = snapshot(tmp_path)
    with pytest.raises(LockedError, match="keyring-missing"):
        create_keyring(tmp_path, KEK, Seeded())
    assert snapshot(tmp_path) == before
    (tmp_path / "journal.db").unlink()
    create_keyring(tmp_path, KEK, Seeded())
    before = snapshot(tmp_path)
    with pytest.raises(LockedError, match="keyring-exists"):
        create_keyring(tmp_path, KEK, Seeded(2))
    assert snapshot(tmp_path) == before


def test_what_a_crash_while_writing_leaves_does_not_stop_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "keyring.new").write_bytes(b'{"format": "edge-')
    assert keyring_state(tmp_path) is KeyringState.FRESH
    create_keyring(tmp_path, KEK, Seeded())
    assert [path.name for path in tmp_path.iterdir()] == ["keyring"]


def test_a_directory_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        create_keyring(tmp_path / "file" / "state", KEK, Seeded())


def test_an_unreadable_keyring_is_locked(tmp_path: Path) -> None:
    (tmp_path / "keyring").mkdir()
    with pytest.raises(LockedError, match="keyring-unreadable"):
        open_keyring(tmp_path, KEK)


def opened_or_code(state: Path) -> OpenKeyring | str:
    try:
        return open_keyring(state, KEK)
    except LockedError as error:
        return error.code


@given(data=st.data())
def test_any_single_changed_byte_is_locked_never_another_key(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    state = tmp_path_factory.mktemp("state")
    raw = bytearray(keyring_bytes(state))
    made = open_keyring(state, KEK)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    (state / "keyring").write_bytes(raw)
    # It opens as it was where white space, the case of a hex digit or nothing at all was changed.
    assert opened_or_code(state) in (made, "keyring-damaged", "keyring-newer")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text("abc"),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["format", "min_reader", "digest", "epochs", "check"]), inner),
)
FIELDS = st.dictionaries(st.sampled_from(["version", "min_reader", "digest", "seal", "gateway", "epochs", "check", "index", "chain"]), JSON)


@given(content=FIELDS, raw=st.none() | st.binary(max_size=200))
def test_any_bytes_in_place_of_the_keyring_are_locked(
    content: dict[str, object], raw: bytes | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("state")
    (state / "keyring").write_bytes(orjson.dumps({"format": "edge-gateway keyring"} | content) if raw is None else raw)
    with pytest.raises(LockedError) as caught:
        open_keyring(state, KEK)
    assert caught.value.code in {"keyring-damaged", "keyring-newer"}
    if raw is None:
        resealed(lambda _: None)(state)
        with pytest.raises(LockedError):
            open_keyring(state, KEK)
