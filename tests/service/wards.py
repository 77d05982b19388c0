"""A configured gateway in a folder, for tests that compose the real parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.journal.key_provider import write_new_kek
from gateway.observe.log import EventLog
from gateway.service.kinds import KINDS
from gateway.service.system_clock import SystemClock, SystemRandomness
from gateway.settings.load import load

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.settings.configuration import Configuration

__all__ = ["Paper", "Ward", "ward"]

_TEXT = """\
[gateway]
id = "ward-3"

[keys]
path = "keys/kek"

[admin]
listen = ""

[[source]]
name = "adt"
type = "mllp"
listen = "127.0.0.1:0"

[[sink]]
name = "archive"
type = "file"
path = "out/messages.ndjson"

[[route]]
name = "everything"
from = "*"
to = "archive"
"""


@dataclass
class Paper:
    """Where log lines go."""

    text: str = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        """Nothing is kept back."""


@dataclass
class Ward:
    folder: Path
    configuration: Configuration
    paper: Paper = field(default_factory=Paper)
    clock: SystemClock = field(default_factory=SystemClock)
    randomness: SystemRandomness = field(default_factory=SystemRandomness)

    @property
    def kek(self) -> Path:
        return self.folder / "keys" / "kek"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def out(self) -> Path:
        return self.folder / "out" / "messages.ndjson"

    @property
    def log(self) -> EventLog:
        return EventLog(self.clock, self.paper)


def ward(folder: Path, extra: str = "", text: str = _TEXT) -> Ward:
    """Write the configuration and a key, load it."""
    (folder / "out").mkdir(parents=True, exist_ok=True)
    path = folder / "gateway.toml"
    path.write_text(text + extra)
    if not (folder / "keys" / "kek").exists():
        write_new_kek(folder / "keys" / "kek", SystemRandomness())
    return Ward(folder, load(path, KINDS))
