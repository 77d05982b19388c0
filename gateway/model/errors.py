"""Errors, sorted by what the caller must do.

Every error has a stable ``code`` (kebab case, from a closed vocabulary; also a metric label) and a ``hint`` for site IT.
Neither ever holds a byte that came from a peer: library exceptions quote their input, so they are mapped to these
classes at the edge (``transport``, ``journal``, ``settings``) and raised ``from None`` where their text could leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "CapacityError",
    "ConfigurationError",
    "GatewayError",
    "InDoubtError",
    "IntegrityError",
    "Issue",
    "LocalProtocolError",
    "LockedError",
    "PermanentError",
    "RemoteProtocolError",
    "Stage",
    "StorageError",
    "TransientError",
    "UnavailableError",
]


class Stage(StrEnum):
    """Where in the flow an error happened (metric label)."""

    RECEIVING = "receiving"
    PROCESSING = "processing"
    SENDING = "sending"
    OPERATING = "operating"


class GatewayError(Exception):
    """Base of every error this program raises on purpose."""

    def __init__(self, code: str, hint: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        """``code`` or ``code: hint``; both are our own words."""
        return f"{self.code}: {self.hint}" if self.hint else self.code


class TransientError(GatewayError):
    """It did not work now and nothing was changed: try again (after ``retry_after_s`` where the peer said so)."""

    def __init__(self, code: str, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(code, hint)
        self.retry_after_s = retry_after_s


class PermanentError(GatewayError):
    """It will never work as it stands: a person must look."""


class InDoubtError(GatewayError):
    """Bytes left, no valid answer came back: send again under the same id, never assume either outcome."""


class CapacityError(GatewayError):
    """A declared limit is reached (store full, too many connections): the sender keeps its data and tries later."""


class StorageError(GatewayError):
    """The disk refused (read-only, I/O error): nothing was stored, the sender keeps its data."""


class IntegrityError(GatewayError):
    """Stored bytes are not what was written: stop using them, quarantine, report; never continue as if nothing was."""


class LockedError(GatewayError):
    """The key is missing or wrong for the data that lies here: nothing is opened, created or changed."""


class UnavailableError(GatewayError):
    """The daemon (or a service that the command needs) does not answer."""


class LocalProtocolError(GatewayError):
    """We used a protocol wrongly: a bug here, never the peer's doing."""


class RemoteProtocolError(GatewayError):
    """The peer broke the protocol beyond repair: its connection ends, nothing else does."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One problem of a configuration: where, what, and the way to mend it. ``fatal`` False = warning."""

    path: str
    reason: str
    fix: str
    fatal: bool = True


class ConfigurationError(GatewayError):
    """The configuration cannot be used; ``issues`` lists every problem found in one run."""

    def __init__(self, issues: tuple[Issue, ...]) -> None:
        super().__init__("configuration", "; ".join(f"{i.path}: {i.reason}" for i in issues))
        self.issues = issues
