"""The admin protocol: one JSON object per line.

Request: ``{"v":1,"op":"queue","args":{…},"by":"…"}``. Answer: any number of ``{"row":{…}}``, then ``{"end":{}}`` or
``{"error":{"code":…,"hint":…,"exit":…}}``. An answer without its last line was cut off and counts as unavailable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson

from gateway.model.errors import (
    CapacityError,
    ConfigurationError,
    GatewayError,
    LockedError,
    PermanentError,
    StorageError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.admin.rows import Row

__all__ = [
    "EXIT",
    "VERSION",
    "Arguments",
    "Exit",
    "RemoteError",
    "Request",
    "end_line",
    "error_line",
    "exit_code",
    "read_request",
    "row_line",
]

VERSION: Final = 1
_BY_MAX_CHARS: Final = 200
_LIST_MAX: Final = 100_000
_T = TypeVar("_T")


class Exit:
    """Exit codes (DESIGN 6.1)."""

    DONE: Final = 0
    NO: Final = 1
    USAGE: Final = 2
    CONFIGURATION: Final = 3
    LOCKED: Final = 4
    UNAVAILABLE: Final = 5


#: The first class that fits decides.
EXIT: Final[tuple[tuple[type[GatewayError], int], ...]] = (
    (ConfigurationError, Exit.CONFIGURATION),
    (LockedError, Exit.LOCKED),
    (UnavailableError, Exit.UNAVAILABLE),
    (StorageError, Exit.UNAVAILABLE),
    (CapacityError, Exit.UNAVAILABLE),
)


class RemoteError(GatewayError):
    """The daemon's own error, carried over the socket with its exit code."""

    def __init__(self, code: str, hint: str, exit_code: int) -> None:
        super().__init__(code, hint)
        self.exit_code = exit_code


def exit_code(error: GatewayError) -> int:
    """What a command that meets ``error`` exits with."""
    if isinstance(error, RemoteError):
        return error.exit_code
    return next((code for kind, code in EXIT if isinstance(error, kind)), Exit.NO)


@dataclass(frozen=True, slots=True)
class Arguments:
    """Typed access to what a client sent; anything else is ``PermanentError("bad-request")``."""

    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        """A text."""
        return self._of(name, str)

    def text_or_none(self, name: str) -> str | None:
        """A text, or None where it is absent or null."""
        return None if self.values.get(name) is None else self._of(name, str)

    def number(self, name: str) -> int:
        """A whole number."""
        return self._of(name, int)

    def flag(self, name: str) -> bool:
        """True or false; absent = false."""
        return False if name not in self.values else self._of(name, bool)

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        found: list[Any] = self._of(name, list)
        if len(found) > _LIST_MAX or not all(isinstance(text, str) for text in found):
            raise _bad_request()
        return found

    def _of(self, name: str, kind: type[_T]) -> _T:
        value = self.values.get(name)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _bad_request()
        return value


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was sent."""

    op: str
    arguments: Arguments
    by: str = ""

    def line(self) -> bytes:
        """As it travels, without the line's end."""
        return orjson.dumps({"v": VERSION, "op": self.op, "args": dict(self.arguments.values), "by": self.by})


def read_request(line: bytes) -> Request:
    """The request in that line. Raises ``PermanentError`` where there is none."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise _bad_request() from None
    if not isinstance(found, dict):
        raise _bad_request()
    if found.get("v") != VERSION:
        raise PermanentError("version-mismatch", "daemon and command line are of different versions; restart the gateway after an update")
    op, arguments, by = found.get("op"), found.get("args"), found.get("by", "")
    if not isinstance(op, str) or not isinstance(arguments, dict) or not isinstance(by, str):
        raise _bad_request()
    return Request(op, Arguments(arguments), " ".join(by.split())[:_BY_MAX_CHARS])


def row_line(row: Row) -> bytes:
    """One row of an answer."""
    return orjson.dumps({"row": row})


def end_line() -> bytes:
    """The end of a complete answer."""
    return b'{"end":{}}'


def error_line(error: GatewayError) -> bytes:
    """The end of an answer that failed."""
    return orjson.dumps({"error": {"code": error.code, "hint": error.hint, "exit": exit_code(error)}})


def _bad_request() -> PermanentError:
    return PermanentError("bad-request", "daemon and command line do not understand each other; are they of one version?")
