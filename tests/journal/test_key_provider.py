"""Where the key comes from: three spellings, two providers, clear causes, and never a byte of it in a text."""

from __future__ import annotations

import base64
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.key_provider import CredentialProvider, FileProvider, decode_kek, write_new_kek
from gateway.model.errors import ConfigurationError, LockedError, StorageError
from tests.journal.keeping import KEK, Seeded, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "hex": lambda key: key.hex().encode(),
    "hex with line end": lambda key: key.hex().encode() + b"\n",
    "upper-case hex": lambda key: key.hex().upper().encode() + b"\r\n",
    "base64": base64.b64encode,
    "base64 with line end": lambda key: b" " + base64.b64encode(key) + b"\n",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@given(key=st.binary(min_size=32, max_size=32))
def test_each_spelling_gives_the_key(spelling: str, key: bytes) -> None:
    assert decode_kek(SPELLINGS[spelling](key)) == key


@given(raw=st.binary(max_size=300) | st.text("0123456789abcdefG=+/ \n", max_size=120).map(str.encode))
def test_anything_else_is_locked_and_quotes_nothing(raw: bytes) -> None:
    try:
        assert len(decode_kek(raw)) == 32
    except LockedError as error:
        text = f"{error} {error!r} {error.__cause__}"
        assert error.code == "key-malformed"  # noqa: PT017 - both outcomes are right, each with its own promise
        assert text == f"{LockedError(error.code, error.hint)} {LockedError('key-malformed')!r} None"  # noqa: PT017 - the same


@pytest.mark.parametrize(
    "raw", [b"", b"\n", KEK[:31], KEK + b"\n", KEK.hex().encode()[:-1], b"g" * 64, KEK * 3, b"A" * 43 + b"=" * 2, b"0" * 999]
)
def test_what_is_not_a_key_is_not_guessed_into_one(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "kek"
    path.write_bytes(raw)
    with pytest.raises(LockedError, match="key-malformed"):
        FileProvider(path).read()


def test_the_file_is_read_anew_each_time(tmp_path: Path) -> None:
    provider = FileProvider(tmp_path / "kek")
    with pytest.raises(LockedError, match="key-missing"):
        provider.read()
    (tmp_path / "kek").write_bytes(KEK)
    assert provider.read() == KEK


def test_a_file_that_is_none_is_locked_and_does_not_hang(tmp_path: Path) -> None:
    for path in (tmp_path / "directory", tmp_path / "fifo", tmp_path / "nowhere" / "kek"):
        if path.name == "directory":
            path.mkdir()
        if path.name == "fifo":
            os.mkfifo(path)
    codes = {}
    for name in ("directory", "fifo", "nowhere/kek"):
        with pytest.raises(LockedError) as caught:
            FileProvider(tmp_path / name).read()
        codes[name] = caught.value.code
    assert codes == {"directory": "key-unreadable", "fifo": "key-unreadable", "nowhere/kek": "key-missing"}


def test_a_credential_is_read_from_the_directory_that_systemd_gave(tmp_path: Path) -> None:
    (tmp_path / "gw-kek").write_bytes(KEK)
    (tmp_path / "other.key").write_text(KEK.hex())
    assert CredentialProvider(tmp_path).read() == KEK
    assert CredentialProvider(tmp_path, "other.key").read() == KEK


def test_a_credential_that_is_not_there_is_locked_with_the_way_to_mend_it(tmp_path: Path) -> None:
    for provider in (CredentialProvider(None), CredentialProvider(tmp_path), CredentialProvider(tmp_path / "gone")):
        with pytest.raises(LockedError, match=r"key-missing.*LoadCredentialEncrypted="):
            provider.read()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../kek", "a\0b", "a b", "x" * 256])
def test_a_credential_name_cannot_lead_out_of_its_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CredentialProvider(tmp_path, name).read()
    assert caught.value.issues[0].path == "keys.name"


def test_a_new_key_is_durable_private_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "kek"
    write_new_kek(path, Seeded())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert FileProvider(path).read() == Seeded().bytes(32)


def test_a_new_key_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "key").write_bytes(KEK)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = snapshot(tmp_path)
    for name in ("empty", "key", "link"):
        with pytest.raises(ConfigurationError):
            write_new_kek(tmp_path / name, Seeded())
    assert snapshot(tmp_path) == before


def test_a_key_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="key-write"):
        write_new_kek(tmp_path / "file" / "kek", Seeded())
