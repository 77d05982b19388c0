"""The status in every state: from the daemon, from the stopped journal, or from what was known last."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from gateway.journal.witness import read_last_status
from gateway.model.errors import GatewayError, LockedError, UnavailableError
from gateway.model.state import GatewayState
from gateway.observe.status import as_json, from_json, stale

if TYPE_CHECKING:
    from gateway.admin.desk import Desk
    from gateway.admin.rows import Row
    from gateway.settings.configuration import Configuration

__all__ = ["status_row"]

_STATUS_TIMEOUT_S: Final = 5.0


def status_row(desk: Desk, configuration: Configuration) -> Row:
    """The object of ``status --json``; only ``not-permitted`` is an error here."""
    try:
        row = _from_daemon(desk, configuration)
    except UnavailableError as error:
        if error.code == "not-permitted":
            raise
        # Something holds the socket and does not answer: as far as anybody can tell it is on its way up or down.
        return _last_known(configuration, GatewayState.STARTING, error.code)
    return row or _while_stopped(desk, configuration)


def _from_daemon(desk: Desk, configuration: Configuration) -> Row | None:
    daemon = desk.daemon(configuration)
    if daemon is None:
        return None
    return next(iter(daemon.rows("status", {}, timeout_s=_STATUS_TIMEOUT_S)), None)


def _while_stopped(desk: Desk, configuration: Configuration) -> Row:
    surroundings = desk.surroundings
    try:
        with contextlib.closing(surroundings.open_offline(configuration, surroundings.credentials_directory)) as journal:
            return as_json(journal.status())
    except LockedError as error:
        return _last_known(configuration, GatewayState.LOCKED, error.code)
    except UnavailableError as error:
        # The lock is held: a daemon has come up in between (ask it), or is about to open its socket.
        with contextlib.suppress(GatewayError):
            if (row := _from_daemon(desk, configuration)) is not None:
                return row
        return _last_known(configuration, GatewayState.STARTING, error.code)
    except GatewayError as error:
        return _last_known(configuration, GatewayState.STOPPED, error.code)


def _last_known(configuration: Configuration, state: GatewayState, cause: str) -> Row:
    last = read_last_status(configuration.gateway.state_dir)
    known = last.status if last is not None else {}
    return as_json(stale(from_json(known, configuration), state, cause))
