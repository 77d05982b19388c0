"""Where the site's key (KEK, 32 bytes) comes from. A provider reads it; nothing here ever makes one but ``write_new_kek``.

Two things go wrong and are told apart: the reference itself is unusable (``ConfigurationError``: a person mends the file),
or the key is not there or not a key now (``LockedError``: the daemon stays up, answers senders and tries again).
No error text holds a byte of the file.
"""

from __future__ import annotations

import binascii
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from gateway.journal.keyring import KEY_BYTES
from gateway.model.errors import ConfigurationError, Issue, LockedError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.model.clock import Randomness

__all__ = ["CREDENTIAL_NAME", "CredentialProvider", "FileProvider", "KeyProvider", "decode_kek", "write_new_kek"]

#: The name under which the packaged unit loads the key (``LoadCredentialEncrypted=gw-kek:…``).
CREDENTIAL_NAME: Final = "gw-kek"
#: Raw 32 bytes, 64 hex digits or 44 base64 digits, with room for white space; more is not a key file.
_MAX_BYTES: Final = 256
# Source: systemd.exec(5): a credential name is usable as a file name.
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_HEX: Final = re.compile(rb"[0-9A-Fa-f]{64}")

_HINT_NO_CREDENTIAL: Final = "systemd did not provide this credential: check LoadCredentialEncrypted= in the unit"
_HINT_WRITE: Final = "the key file cannot be written: check space, owner and mode of its directory"
_HINT_FORMAT: Final = "the key must be exactly 32 raw bytes, 64 hexadecimal digits, or the base64 of 32 bytes"


class KeyProvider(Protocol):
    """One way to get at the KEK."""

    def read(self) -> bytes:
        """The 32 bytes, read anew at each call (a locked daemon asks every 2 s).

        Raises:
            LockedError: ``key-missing``, ``key-unreadable`` or ``key-malformed``: there is no usable key now.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileProvider:
    """A file outside the state directory."""

    path: Path

    def read(self) -> bytes:
        """See ``KeyProvider.read``."""
        return decode_kek(_read(self.path, "the key file named in [keys] does not exist: put the key there, no new key is made"))


@dataclass(frozen=True, slots=True)
class CredentialProvider:
    """A systemd credential; ``directory`` is ``$CREDENTIALS_DIRECTORY``, None where systemd gave none."""

    directory: Path | None
    name: str = CREDENTIAL_NAME

    def read(self) -> bytes:
        """See ``KeyProvider.read``.

        Raises:
            ConfigurationError: the name cannot be a credential's.
        """
        if not _CREDENTIAL.fullmatch(self.name) or self.name in {".", ".."}:
            issue = Issue("keys.name", "not a credential name", "letters, digits, '.', '-' and '_' only, as in LoadCredentialEncrypted=")
            raise ConfigurationError((issue,))
        if self.directory is None:
            hint = "systemd gave no credentials directory: start through the unit, with LoadCredentialEncrypted= for this name"
            raise LockedError("key-missing", hint)
        return decode_kek(_read(self.directory / self.name, _HINT_NO_CREDENTIAL))


def decode_kek(raw: bytes) -> bytes:
    """The key in one of its three spellings. Exactly 32 bytes are always taken as they are.

    Raises:
        LockedError: ``key-malformed``.
    """
    if len(raw) == KEY_BYTES:
        return raw
    text = raw.strip()
    if _HEX.fullmatch(text):
        return bytes.fromhex(text.decode("ascii"))
    try:
        key = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise LockedError("key-malformed", _HINT_FORMAT) from None
    if len(key) != KEY_BYTES:
        raise LockedError("key-malformed", _HINT_FORMAT)
    return key


def write_new_kek(path: Path, randomness: Randomness) -> None:
    """Write a new key for ``init``: 64 hex digits, 0600, in a directory of mode 0700 that is made where it is missing.

    Never over an existing file, not even an empty one. Durable when it returns (file and directory fsynced).

    Raises:
        ConfigurationError: there is a file of that name already.
        StorageError: ``key-write``; nothing is left behind.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        raise StorageError("key-write", _HINT_WRITE) from None
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        issue = Issue("keys.path", "a file of that name exists already", "keep it (it may be the key of a journal), or give another path")
        raise ConfigurationError((issue,)) from None
    except OSError:
        raise StorageError("key-write", _HINT_WRITE) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(randomness.bytes(KEY_BYTES).hex().encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        _fsync_directory(path.parent)
    except OSError:
        path.unlink(missing_ok=True)
        raise StorageError("key-write", _HINT_WRITE) from None


def _read(path: Path, hint_missing: str) -> bytes:
    try:
        # Not blocking: a FIFO at this place must not hang the daemon.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise LockedError("key-missing", hint_missing) from None
    except OSError:
        raise LockedError("key-unreadable", "the key file cannot be read: check its owner and mode") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LockedError("key-unreadable", "the key is not a regular file")
        raw = os.read(descriptor, _MAX_BYTES + 1)
    except OSError:
        raise LockedError("key-unreadable", "the key file cannot be read: the disk refused") from None
    finally:
        os.close(descriptor)
    if len(raw) > _MAX_BYTES:
        raise LockedError("key-malformed", _HINT_FORMAT)
    return raw


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
