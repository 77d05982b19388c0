"""The command line's end of the admin socket."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.admin.wire import Arguments, RemoteError, Request
from gateway.model.errors import UnavailableError
from gateway.transport.unix_socket import LineClient

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gateway.admin.place import SocketPlaces
    from gateway.admin.rows import Row

__all__ = ["ANSWER_TIMEOUT_S", "Daemon", "find_daemon"]

ANSWER_TIMEOUT_S: Final = 30.0
_CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that was found listening; each request is a connection of its own."""

    places: SocketPlaces

    def rows(self, op: str, arguments: Mapping[str, Any], *, by: str = "", timeout_s: float | None = ANSWER_TIMEOUT_S) -> Iterator[Row]:
        """The rows of the answer as they come.

        Raises ``RemoteError`` with the daemon's own error, ``UnavailableError`` where the answer breaks off or nobody is
        there any more.
        """
        line = _connect(self.places)
        if line is None:
            raise UnavailableError("not-running", "the gateway has just stopped; start it and try again")
        try:
            line.send(Request(op, Arguments(arguments), by).line())
            yield from _rows(line.lines(timeout_s))
        finally:
            line.close()


def find_daemon(places: SocketPlaces) -> Daemon | None:
    """The daemon that serves one of the places, or None. Raises ``UnavailableError`` where it may not be talked to."""
    line = _connect(places)
    if line is None:
        return None
    line.close()
    return Daemon(places)


def _connect(places: SocketPlaces) -> LineClient | None:
    trusted = {places.uid, os.geteuid(), 0}
    for path in places.all():
        line = LineClient.connect(path, _CONNECT_TIMEOUT_S)
        if line is None:
            continue
        if line.peer().uid in trusted:
            return line
        line.close()  # somebody else put a socket under that name: not our gateway
    return None


def _rows(lines: Iterator[bytes]) -> Iterator[Row]:
    for line in lines:
        answer = _answer(line)
        if "row" in answer:
            yield answer["row"]
        elif "end" in answer:
            return
        else:
            raise _remote(answer.get("error"))
    raise UnavailableError("answer-cut-off", "the gateway closed the connection in the middle of its answer; look at its log")


def _answer(line: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise UnavailableError("answer-not-understood", "what answers there is not this gateway; are both of one version?")
    return found


def _remote(error: object) -> RemoteError:
    facts = error if isinstance(error, dict) else {}
    exit_code = facts.get("exit")
    return RemoteError(str(facts.get("code", "unknown")), str(facts.get("hint", "")), exit_code if isinstance(exit_code, int) else 1)
