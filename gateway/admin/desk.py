"""What every command of the command line stands on: configuration, daemon or stopped journal, errors with their exit codes."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

from gateway.admin.offline import OfflineRows
from gateway.admin.place import SocketPlaces
from gateway.admin.remote import ANSWER_TIMEOUT_S, Daemon, find_daemon
from gateway.admin.run_arguments import CONFIGURATION_VARIABLE
from gateway.admin.wire import exit_code
from gateway.model.errors import ConfigurationError, GatewayError, UnavailableError
from gateway.settings.load import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gateway.admin.ports import OfflinePort
    from gateway.admin.rows import Row
    from gateway.model.clock import Clock, Randomness
    from gateway.settings.configuration import Configuration
    from gateway.settings.kinds import Kinds

__all__ = ["Desk", "Programs", "Surroundings", "answering", "fail", "with_actor", "with_configuration", "with_json"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
NOT_RUNNING: Final = "the gateway is not running; start it with `edge-gateway run -c FILE` or its unit"


@dataclass(frozen=True, slots=True)
class Programs:
    """The long-running programs, made by ``service``. ``run`` and ``demo`` return their exit code.

    ``receive`` is a whole command, because its options are the receiver's own business.
    """

    run: Callable[[Path], int]
    demo: Callable[[float | None], int]
    receive: click.Command


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The world outside. ``open_offline``: the journal of a stopped daemon (raises as ``OfflinePort``)."""

    clock: Clock
    randomness: Randomness
    environ: Mapping[str, str]
    open_offline: Callable[[Configuration, Path | None], OfflinePort]

    @property
    def credentials_directory(self) -> Path | None:
        """``$CREDENTIALS_DIRECTORY``, where systemd set it."""
        found = self.environ.get("CREDENTIALS_DIRECTORY")
        return Path(found) if found else None


@dataclass(frozen=True, slots=True)
class Desk:
    """Handed to each command as click's ``obj``."""

    kinds: Kinds
    programs: Programs
    surroundings: Surroundings

    def path(self, named: Path | None) -> Path:
        """The configuration file. Raises ``click.UsageError`` where none is named."""
        if named is None:
            raise click.UsageError(f"no configuration: give -c FILE or set {CONFIGURATION_VARIABLE}; `edge-gateway init DIR` makes one")
        return named

    def configuration(self, named: Path | None) -> Configuration:
        """Load it. Raises ``ConfigurationError``."""
        return load(self.path(named), self.kinds)

    def daemon(self, configuration: Configuration) -> Daemon | None:
        """The running daemon of that configuration, or None."""
        state_dir = configuration.gateway.state_dir
        return find_daemon(SocketPlaces(state_dir, self.surroundings.environ, _owner(state_dir)))

    def act(self, configuration: Configuration, op: str, arguments: Mapping[str, Any], by: str) -> list[Row]:
        """Rows of an acting command, which only the running daemon carries out. Raises ``UnavailableError`` without one."""
        return list(self._running(configuration).rows(op, arguments, by=by, timeout_s=None))

    def stream(self, configuration: Configuration, op: str, arguments: Mapping[str, Any], by: str) -> Iterator[Row]:
        """Rows without an end."""
        return self._running(configuration).rows(op, arguments, by=by, timeout_s=None)

    def read(
        self, configuration: Configuration, op: str, arguments: Mapping[str, Any], by: str = "", timeout_s: float | None = ANSWER_TIMEOUT_S
    ) -> list[Row]:
        """Rows of a reading command: from the daemon, or from the journal of a stopped one."""
        daemon = self.daemon(configuration)
        if daemon is not None:
            return list(daemon.rows(op, arguments, by=by, timeout_s=timeout_s))
        with contextlib.closing(self.surroundings.open_offline(configuration, self.surroundings.credentials_directory)) as journal:
            return list(OfflineRows(journal, configuration.gateway.id).rows(op, arguments))

    def _running(self, configuration: Configuration) -> Daemon:
        if (daemon := self.daemon(configuration)) is None:
            raise UnavailableError("not-running", NOT_RUNNING)
        return daemon


def _owner(state_dir: Path) -> int:
    try:
        return state_dir.stat().st_uid
    except OSError:
        return os.geteuid()


def fail(error: GatewayError) -> int:
    """Say what is wrong and how to mend it, on stderr; returns the exit code."""
    if isinstance(error, ConfigurationError):
        for issue in error.issues:
            click.echo(f"error: {issue.path}: {issue.reason}; {issue.fix}", err=True)
    else:
        click.echo(f"error: {error}", err=True)
    return exit_code(error)


def answering(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn the errors of ``model.errors`` into one line and an exit code."""

    @functools.wraps(command)
    def answer(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except GatewayError as error:
            raise SystemExit(fail(error)) from None

    return answer


def with_configuration(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """``-c FILE``."""
    option = click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        envvar=CONFIGURATION_VARIABLE,
        metavar="FILE",
        help=f"The configuration; default: ${CONFIGURATION_VARIABLE}.",
    )
    return option(command)


def with_json(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def with_actor(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """``--by NAME``."""
    return click.option("--by", default="", metavar="NAME", help="Who does this; recorded beside the system account.")(command)
