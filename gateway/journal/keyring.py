"""The ``keyring`` file: the data keys of the journal, each wrapped with the site's key (KEK).

One JSON file beside the journal, 0600, written whole and atomically (file and directory fsynced). It holds no key in clear:
the data key of each epoch, the index key and the chain key are AES-KW-wrapped (RFC 3394). Three checks stand in it, so that
the three things that go wrong are told apart without guessing:

- ``digest``: SHA-256 of the content; needs no key. Wrong = the file is damaged (half written, bit rot).
- ``check``: key-check value of the KEK. Wrong = another key than the one that made this file.
- ``seal``: HMAC of the content under the KEK. Wrong with a right ``check`` = somebody changed the file.

Nothing here ever makes a key where a journal already lies (promise 6 of the design): that is ``LockedError``.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from gateway.model.errors import LockedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gateway.model.clock import Randomness

__all__ = [
    "KEYRING_NAME",
    "KEY_BYTES",
    "KeyringState",
    "OpenKeyring",
    "create_keyring",
    "keyring_state",
    "open_keyring",
]

KEYRING_NAME: Final = "keyring"
KEY_BYTES: Final = 32
#: Format of the file that this code writes, and the newest that it reads.
_VERSION: Final = 1
_FORMAT: Final = "edge-gateway keyring"
#: A keyring is a few hundred bytes an epoch; more than this is not one.
_MAX_BYTES: Final = 1024 * 1024
_JOURNAL_PREFIX: Final = "journal.db"

_HINT_MISSING: Final = "a journal lies here but its keyring file is gone: restore the keyring from the backup, no new key is made"
_HINT_DAMAGED: Final = "the keyring file is incomplete or changed: restore it from the backup, no new key is made"
_HINT_NEWER: Final = "the keyring was written by a newer version of this program: install that version or a later one"
_HINT_WRONG: Final = "this is not the key that the journal was made with: give the right key in [keys]"
_HINT_WRITE: Final = "the keyring file cannot be written: check space, owner and mode of the state directory"
_HINT_UNREADABLE: Final = "the keyring file cannot be read: check owner and mode (0600, the account of the daemon)"


class KeyringState(StrEnum):
    """What lies in the state directory, found without a key and without touching anything."""

    FRESH = "fresh"  #: neither keyring nor journal: a first start may create both
    PRESENT = "present"  #: a keyring; whether the key opens it is another question
    MISSING = "missing"  #: a journal without a keyring: LOCKED, never a new key


@dataclass(frozen=True, slots=True)
class OpenKeyring:
    """The unwrapped keys. Never printed: the representation shows the gateway and the epoch only.

    ``data_keys[epoch]`` opens what was sealed in that epoch; new records are sealed with ``data_keys[epoch]`` of the
    attribute ``epoch``. ``index_key`` blinds (duplicate keys, ordering keys); ``chain_key`` links audit and commits.
    """

    gateway_uuid: bytes
    epoch: int
    data_keys: Mapping[int, bytes] = field(repr=False)
    index_key: bytes = field(repr=False)
    chain_key: bytes = field(repr=False)


def keyring_state(state_dir: Path) -> KeyringState:
    """Look at the names in ``state_dir`` (which need not exist). Changes nothing.

    A quarantined journal (``journal.db.quarantine-1``) or a lone write-ahead log counts as a journal: it holds data.
    """
    try:
        names = {path.name for path in state_dir.iterdir()}
    except FileNotFoundError:
        return KeyringState.FRESH
    except OSError:
        raise StorageError("state-unreadable", "the state directory cannot be listed: check its owner and mode") from None
    if KEYRING_NAME in names:
        return KeyringState.PRESENT
    return KeyringState.MISSING if any(name.startswith(_JOURNAL_PREFIX) for name in names) else KeyringState.FRESH


def open_keyring(state_dir: Path, kek: bytes) -> OpenKeyring:
    """Unwrap the keyring with ``kek`` (32 bytes). Changes nothing.

    Raises:
        LockedError: ``key-wrong``, ``keyring-missing``, ``keyring-damaged``, ``keyring-newer``, ``keyring-unreadable``.
    """
    if keyring_state(state_dir) is not KeyringState.PRESENT:
        raise LockedError("keyring-missing", _HINT_MISSING)
    content = _parse(_read(state_dir / KEYRING_NAME))
    uuid = _hex(content, "gateway", 16)
    if not hmac.compare_digest(_hex(content, "check", 16), _key_check(kek, uuid)):
        raise LockedError("key-wrong", _HINT_WRONG)
    if not hmac.compare_digest(_hex(content, "seal", 32), _seal(kek, content)):
        raise LockedError("keyring-damaged", _HINT_DAMAGED)
    data_keys = {int(epoch): _unwrap(kek, wrapped) for epoch, wrapped in content["epochs"].items()}
    if not data_keys:
        raise LockedError("keyring-damaged", _HINT_DAMAGED)
    return OpenKeyring(uuid, max(data_keys), data_keys, _unwrap(kek, content["index"]), _unwrap(kek, content["chain"]))


def create_keyring(state_dir: Path, kek: bytes, randomness: Randomness) -> OpenKeyring:
    """Make fresh keys and write them durably; ``state_dir`` is made (0700) where it is missing.

    The caller holds the lock of ``state_dir``. Only over nothing: with a keyring present it is ``LockedError``
    ``keyring-exists``, with a journal present ``keyring-missing``, and nothing is changed.

    Raises:
        LockedError: see above.
        StorageError: ``keyring-write``: the disk refused; no keyring exists then.
    """
    state = keyring_state(state_dir)
    if state is KeyringState.MISSING:
        raise LockedError("keyring-missing", _HINT_MISSING)
    if state is KeyringState.PRESENT:
        raise LockedError("keyring-exists", "a keyring exists already: it is opened, never replaced")
    made = OpenKeyring(
        gateway_uuid=randomness.bytes(16),
        epoch=1,
        data_keys={1: randomness.bytes(KEY_BYTES)},
        index_key=randomness.bytes(KEY_BYTES),
        chain_key=randomness.bytes(KEY_BYTES),
    )
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(state_dir, _encode(made, kek))
    except OSError:
        raise StorageError(
            "keyring-write", "the keyring file cannot be written: check space, owner and mode of the state directory"
        ) from None
    return made


def _encode(keys: OpenKeyring, kek: bytes) -> bytes:
    content: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "min_reader": _VERSION,
        "gateway": keys.gateway_uuid.hex(),
        "check": _key_check(kek, keys.gateway_uuid).hex(),
        "epochs": {str(epoch): aes_key_wrap(kek, key).hex() for epoch, key in sorted(keys.data_keys.items())},
        "index": aes_key_wrap(kek, keys.index_key).hex(),
        "chain": aes_key_wrap(kek, keys.chain_key).hex(),
    }
    content["seal"] = _seal(kek, content).hex()
    content["digest"] = hashlib.sha256(_canonical(content, "digest")).hexdigest()
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _parse(raw: bytes) -> dict[str, Any]:
    """The content of a keyring that is whole and of a version that this code reads."""
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise LockedError("keyring-damaged", _HINT_DAMAGED) from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise LockedError("keyring-damaged", _HINT_DAMAGED)
    # Before the digest: a newer format may compute it in another way, and then the answer is to update, not to restore.
    if isinstance(needs := content.get("min_reader"), int) and needs > _VERSION:
        raise LockedError("keyring-newer", _HINT_NEWER)
    digest = hashlib.sha256(_canonical(content, "digest")).hexdigest()
    if content.get("digest") != digest:
        raise LockedError("keyring-damaged", _HINT_DAMAGED)
    return content


def _canonical(content: Mapping[str, Any], *without: str) -> bytes:
    return orjson.dumps({key: value for key, value in content.items() if key not in without}, option=orjson.OPT_SORT_KEYS)


def _key_check(kek: bytes, uuid: bytes) -> bytes:
    return hmac.digest(kek, b"edge-gateway key check v1" + uuid, "sha256")[:16]


def _seal(kek: bytes, content: Mapping[str, Any]) -> bytes:
    return hmac.digest(kek, b"edge-gateway keyring seal v1" + _canonical(content, "digest", "seal"), "sha256")


def _hex(content: Mapping[str, Any], name: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(content[name])
    except (KeyError, TypeError, ValueError):
        raise LockedError("keyring-damaged", _HINT_DAMAGED) from None
    if len(value) != size:
        raise LockedError("keyring-damaged", _HINT_DAMAGED)
    return value


def _unwrap(kek: bytes, wrapped: str) -> bytes:
    try:
        key = aes_key_unwrap(kek, bytes.fromhex(wrapped))
    except (InvalidUnwrap, TypeError, ValueError):
        raise LockedError("keyring-damaged", _HINT_DAMAGED) from None
    if len(key) != KEY_BYTES:
        raise LockedError("keyring-damaged", _HINT_DAMAGED)
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        raise LockedError("keyring-unreadable", _HINT_UNREADABLE) from None


def _write(state_dir: Path, content: bytes) -> None:
    """Whole or not at all: a crash leaves the old state and at most ``keyring.new``, which the next start overwrites."""
    fresh = state_dir / (KEYRING_NAME + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(state_dir / KEYRING_NAME)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    # The parent too: the state directory itself may have been made a moment ago.
    for directory in (state_dir, state_dir.parent):
        _fsync_directory(directory)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
