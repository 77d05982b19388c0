"""Where the admin socket lies: ``<state_dir>/admin.sock``, or where that cannot be, a hashed name in a private directory.

It cannot be there when the path is longer than the kernel takes (107 bytes), when the disk is read-only, or while the
gateway is LOCKED, in which nothing in the state directory is created or changed. Server and command line make the same
list; the server takes the first place it can bind, the command line tries them in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.transport.unix_socket import fits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["SOCKET_NAME", "SocketPlaces", "is_private", "make_private"]

SOCKET_NAME: Final = "admin.sock"
_PACKAGED_RUNTIME: Final = Path("/run/edge-gateway")  # RuntimeDirectory= of the packaged unit
_FOLDER: Final = "edge-gateway"


@dataclass(frozen=True, slots=True)
class SocketPlaces:
    """``uid``: the account that owns the daemon (the command line may run as root)."""

    state_dir: Path
    environ: Mapping[str, str]
    uid: int

    def all(self) -> tuple[Path, ...]:
        """Every place, best first, without those whose path is too long."""
        return tuple(path for path in dict.fromkeys((self.state_dir / SOCKET_NAME, *self.outside())) if fits(path))

    def outside(self) -> tuple[Path, ...]:
        """The places outside the state directory, which a LOCKED gateway uses."""
        return tuple(path for path in dict.fromkeys(folder / self.hashed_name for folder in self._folders()) if fits(path))

    @property
    def hashed_name(self) -> str:
        """Distinguishes gateways that share a runtime directory."""
        digest = hashlib.sha256(os.fsencode(self.state_dir.resolve())).hexdigest()
        return f"admin-{digest[:16]}.sock"

    def _folders(self) -> Iterator[Path]:
        # Source: systemd.exec(5): several runtime directories are separated by colons.
        if runtime := self.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]:
            yield Path(runtime)
        yield _PACKAGED_RUNTIME
        if user_runtime := self.environ.get("XDG_RUNTIME_DIR", ""):
            yield Path(user_runtime) / _FOLDER
        for parent in (self.environ.get("TMPDIR", ""), tempfile.gettempdir(), "/tmp"):  # noqa: S108 -- the folder in it is checked to be private
            if parent:
                yield Path(parent) / f"{_FOLDER}-{self.uid}"


def is_private(folder: Path, uid: int) -> bool:
    """Whether ``folder`` is a real directory of that account that others cannot write to."""
    try:
        facts = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and facts.st_uid in (uid, 0) and facts.st_mode & 0o022 == 0


def make_private(folder: Path, uid: int) -> bool:
    """Make ``folder`` (0700) where its parent exists; True where it is private afterwards."""
    if folder != _PACKAGED_RUNTIME:
        with contextlib.suppress(OSError):  # it is there already, or cannot be: what counts is what lies there now
            folder.mkdir(mode=0o700)
    return is_private(folder, uid)
