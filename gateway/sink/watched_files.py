"""Secrets and certificates that a site replaces while the gateway runs: read again when they have changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from gateway.model.errors import ConfigurationError, PermanentError
from gateway.transport.tls import client_context

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.transport.tls import ClientTls

__all__ = ["TlsFiles", "Token"]

#: What fits into an Authorization header (Source: RFC 6750 section 2.1, token68 and what providers add to it).
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,8192}")

_Stamp = tuple[tuple[int, int, int], ...]


def _stamp(paths: tuple[Path, ...]) -> _Stamp:
    """Changes whenever one of the files is written or replaced; a missing one counts too."""
    return tuple(_stamp_of(path) for path in paths)


def _stamp_of(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


class Token:
    """A bearer token in a file; the surrounding white space does not belong to it. ``path`` None = no such credential."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: _Stamp = ()
        self._value = ""

    def value(self) -> str:
        """The token as it is now.

        Raises: PermanentError token-unreadable, token-unusable.
        """
        if self._path is None:
            raise PermanentError("token-unreadable", "the credential was not passed to the unit")
        stamp = _stamp((self._path,))
        if stamp != self._seen or not self._value:
            self._value = self._read(self._path)
            self._seen = stamp
        return self._value

    def forget(self) -> None:
        """It was refused: read the file again before the next use, whatever its time stamp says."""
        self._seen, self._value = (), ""

    @staticmethod
    def _read(path: Path) -> str:
        try:
            text = path.read_bytes().decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise PermanentError("token-unreadable", "the token file is missing, not readable, or not ASCII text") from None
        if not _TOKEN.fullmatch(text):
            raise PermanentError("token-unusable", "the token file must hold one token, without white space in it")
        return text


class TlsFiles:
    """CA, certificate and key of a destination. ``tls()`` is rebuilt when a file changed; a broken new one is not used."""

    def __init__(self, ca: Path | None, cert: Path | None, key: Path | None, server_name: str) -> None:
        self._ca = ca
        self._cert = cert
        self._key = key
        self._server_name = server_name
        self._paths = tuple(path for path in (ca, cert, key) if path is not None)
        self._seen: _Stamp | None = None
        self._tls: ClientTls | None = None

    def changed(self) -> bool:
        """Whether ``tls()`` would read the files (again)."""
        return self._seen is None or _stamp(self._paths) != self._seen

    def tls(self) -> ClientTls:
        """The context of the files as they are now, or as they were while they could be used.

        Raises: ConfigurationError where they never could.
        """
        if self._tls is None or self.changed():
            stamp = _stamp(self._paths)
            try:
                self._tls = client_context(self._ca, self._cert, self._key, self._server_name)
            except ConfigurationError:
                if self._tls is None:
                    raise
            self._seen = stamp
        return self._tls
