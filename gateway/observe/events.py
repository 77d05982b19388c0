"""Every log event, declared once: a stable code, a level, and the fields it may carry.

A field has one kind wherever it appears (``FIELDS``). Its value is checked against that kind when a line is written, and
a value of another shape is withheld, so that text of a peer (a file name, a header, an exception's text) has no way into
the log even where a caller is careless. There is no free-text field on purpose: what a line means is in this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

__all__ = ["FIELDS", "WITHHELD", "FieldKind", "Level", "LogEvent", "LogSpec", "admissible"]

#: Stands in a line for a value that is not of its field's kind.
WITHHELD: Final = "(withheld)"
_NUMBER_MAX: Final = 2**63


class Level(StrEnum):
    """How urgent. ``ERROR``: somebody must act; ``WARNING``: somebody may have to, if it stays."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class FieldKind(Enum):
    """What a field may hold; the pattern is what a text must match as a whole, None = a number."""

    NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"  #: a name of the configuration
    CODE = r"[a-z0-9]{1,20}(?:[-_.][a-z0-9]{1,20}){0,5}"  #: a word of a closed vocabulary of ours
    SYMBOL = r"[A-Za-z_][A-Za-z0-9_.]{0,99}"  #: the name of a class, module or logger
    PLACE = r"[A-Za-z0-9_.]{1,60}:[0-9]{1,7}"  #: module:line
    HEX = r"[0-9a-f]{1,64}"  #: a digest or an incarnation
    ADDRESS = r"[0-9A-Za-z._-]{1,253}(?::[0-9]{1,5})?|\[?[0-9a-f:.]{2,45}\]?(?::[0-9]{1,5})?"  #: host, host:port, [ipv6]:port
    EVENT_ID = r"[a-z0-9-]{1,63}/[0-9a-f]{32}/[0-9]{1,19}(?:/[0-9]{1,9})?"  #: names a message without its content
    VERSION = r"[0-9A-Za-z.+-]{1,40}"
    SETTING = r"[A-Za-z0-9_.\[\]#-]{1,200}"  #: the path of a setting
    NUMBER = None


_KIND = FieldKind
#: field name -> kind. One meaning per name over all events.
FIELDS: Final[dict[str, FieldKind]] = {
    "account": _KIND.NAME,
    "address": _KIND.ADDRESS,
    "age_s": _KIND.NUMBER,
    "blocks": _KIND.NUMBER,
    "bytes": _KIND.NUMBER,
    "cause": _KIND.CODE,
    "code": _KIND.CODE,
    "configuration": _KIND.HEX,
    "count": _KIND.NUMBER,
    "error": _KIND.SYMBOL,
    "event_id": _KIND.EVENT_ID,
    "gateway": _KIND.NAME,
    "incarnation": _KIND.HEX,
    "library": _KIND.SYMBOL,
    "library_level": _KIND.CODE,
    "messages": _KIND.NUMBER,
    "next_attempt_s": _KIND.NUMBER,
    "operation": _KIND.CODE,
    "peer": _KIND.ADDRESS,
    "place": _KIND.PLACE,
    "previous": _KIND.CODE,
    "quota": _KIND.NUMBER,
    "route": _KIND.NAME,
    "setting": _KIND.SETTING,
    "source": _KIND.NAME,
    "state": _KIND.CODE,
    "task": _KIND.CODE,
    "uid": _KIND.NUMBER,
    "version": _KIND.VERSION,
    "warnings": _KIND.NUMBER,
}


@dataclass(frozen=True, slots=True)
class LogSpec:
    """``code`` is stable for ever; ``fields`` are the only ones a line may have; ``meaning`` is for the reader of a log."""

    code: str
    level: Level
    fields: tuple[str, ...]
    meaning: str


def _info(code: str, meaning: str, *fields: str) -> LogSpec:
    return LogSpec(code, Level.INFO, fields, meaning)


def _warning(code: str, meaning: str, *fields: str) -> LogSpec:
    return LogSpec(code, Level.WARNING, fields, meaning)


def _error(code: str, meaning: str, *fields: str) -> LogSpec:
    return LogSpec(code, Level.ERROR, fields, meaning)


def _debug(code: str, meaning: str, *fields: str) -> LogSpec:
    return LogSpec(code, Level.DEBUG, fields, meaning)


class LogEvent(Enum):
    """The closed list. The member's name in kebab case is the ``event`` of the line."""

    # --- the gateway as a whole ---
    GATEWAY_STARTING = _info("EG001", "the daemon starts", "gateway", "version", "configuration")
    GATEWAY_READY = _info("EG002", "ports are bound; senders are answered", "gateway", "incarnation", "state", "age_s")
    GATEWAY_STOPPING = _info("EG003", "an ordered stop has begun", "gateway", "cause")
    GATEWAY_STOPPED = _info("EG004", "everything is written and closed", "gateway")
    STATE_CHANGED = _info("EG005", "the state of the gateway changed", "previous", "state", "cause")
    CONFIGURATION_LOADED = _info("EG006", "this configuration is in force", "configuration", "warnings")
    CONFIGURATION_WARNING = _warning("EG007", "a setting deserves a look; `edge-gateway check` says why", "setting")
    GATEWAY_LOCKED = _error("EG008", "the key is missing or wrong; nothing is opened, senders keep their data", "code")
    GATEWAY_UNLOCKED = _info("EG009", "the key fits; the journal is open", "age_s")
    TASK_FAILED = _error("EG010", "a part failed and is started again", "task", "error", "place", "count")
    WATCHDOG_WITHHELD = _error("EG011", "the watchdog is not fed, because this stands still", "cause", "age_s")
    CRASHED = _error("EG012", "an error nobody expected ended a thread or the program", "error", "place")
    LIBRARY_LINE = _warning("EG013", "a library had something to say; its text is withheld", "library", "library_level")
    LINES_WITHHELD = _warning("EG014", "so many lines of one event were left out in the last minute", "code", "count")
    START_FAILED = _error("EG015", "the daemon cannot start", "code", "cause")
    # --- sources ---
    SOURCE_LISTENING = _info("EG101", "a source accepts connections", "source", "address")
    SOURCE_STOPPED = _info("EG102", "a source closed its port and connections", "source")
    LISTEN_FAILED = _error("EG103", "a port cannot be bound", "source", "address", "code")
    CONNECTION_OPENED = _debug("EG104", "a sender connected", "source", "peer", "count")
    CONNECTION_CLOSED = _debug("EG105", "a sender's connection ended", "source", "peer", "cause", "count")
    CONNECTION_REFUSED = _warning("EG106", "a connection was closed before a byte was read", "source", "peer", "code")
    FRAME_REFUSED = _warning("EG107", "a frame was refused; `edge-gateway refused ls` shows it", "source", "peer", "code", "count")
    READING_PAUSED = _info("EG108", "a source stopped reading: its senders wait", "source", "cause")
    READING_RESUMED = _info("EG109", "a source reads again", "source")
    UNABLE = _error("EG110", "messages could not be stored; their senders were told so and keep them", "source", "code", "count")
    CONTROL_ID_REUSED = _warning("EG111", "same control id, other content: accepted and flagged", "source", "count")
    # --- journal ---
    JOURNAL_OPENED = _info("EG201", "the journal is open", "incarnation", "bytes", "quota", "blocks")
    JOURNAL_CLOSED = _info("EG202", "the journal is closed", "bytes", "blocks")
    JOURNAL_FULL = _error("EG203", "the quota or the disk is used up; deliveries make room", "code", "bytes", "quota")
    JOURNAL_READ_ONLY = _error("EG204", "the disk refuses writes", "code")
    JOURNAL_RECOVERED = _info("EG205", "commits work again", "age_s")
    COMMIT_FAILED = _error("EG206", "a commit failed; nothing of it was acknowledged", "code", "count")
    BLOCK_QUARANTINED = _error("EG207", "stored bytes are not what was written; kept aside as a gap", "code", "blocks", "messages")
    JOURNAL_RETIRED = _debug("EG208", "delivered messages past their time made room", "blocks", "bytes")
    JOURNAL_DAMAGED = _error("EG212", "the database file is damaged; the next start salvages what can be read", "code")
    JOURNAL_SALVAGED = _error("EG211", "a damaged database was put aside; what was readable was carried over, the rest is declared", "code")
    CHAIN_BROKEN = _error("EG209", "the audit chain does not fit; `edge-gateway audit verify` says where", "code", "count")
    PROBE_FAILED = _error("EG210", "a test record did not come back", "code")
    # --- routes ---
    ROUTE_STATE_CHANGED = _warning("EG301", "a destination's state changed", "route", "previous", "state", "code", "next_attempt_s")
    DEAD_LETTERED = _warning("EG302", "a destination will not take this message; it is kept", "route", "code", "event_id")
    ROUTE_STOPPED = _error("EG303", "a route waits for an operator (on_reject = stop)", "route", "code", "event_id")
    ROUTE_CAUGHT_UP = _info("EG304", "a route's queue is empty again", "route", "messages", "age_s")
    # --- operators ---
    ADMIN_LISTENING = _info("EG401", "health, readiness and metrics are served", "address")
    ADMIN_UNAVAILABLE = _error("EG402", "an admin endpoint cannot be opened; the gateway goes on without it", "code", "address")
    OPERATOR_ACTED = _info("EG403", "an operator's command was carried out and audited", "operation", "account", "uid", "count")
    OPERATOR_REFUSED = _warning("EG404", "an operator's command was refused", "operation", "uid", "code")
    CONTENT_REVEALED = _warning("EG405", "content was shown to an operator and audited", "operation", "account", "uid")

    @property
    def spec(self) -> LogSpec:
        """Code, level, fields and meaning."""
        return self.value

    @property
    def label(self) -> str:
        """``source-listening``."""
        return self.name.lower().replace("_", "-")


_PATTERNS: Final = {kind: re.compile(kind.value) for kind in FieldKind if kind.value is not None}


def admissible(name: str, value: object) -> bool:
    """Whether a line may show ``value`` under that field."""
    if isinstance(value, bool):
        return False
    if (kind := FIELDS[name]) is FieldKind.NUMBER:
        return isinstance(value, int | float) and -_NUMBER_MAX < value < _NUMBER_MAX
    return isinstance(value, str) and _PATTERNS[kind].fullmatch(value) is not None
