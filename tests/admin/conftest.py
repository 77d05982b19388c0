"""A gateway folder, a command line, and ways to have a daemon behind it or not."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from gateway.admin.command import Programs, Surroundings, build
from tests.admin.fake_gateway import FakeGateway, FixedClock, Lines, OfflineGateway, serving
from tests.settings.sample_kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gateway.admin.ports import OfflinePort
    from gateway.model.errors import GatewayError
    from gateway.settings.configuration import Configuration

CONFIGURATION = """
[gateway]
id = "ward-3"
time_zone = "Europe/Berlin"
[keys]
[[source]]
name = "adt"
type = "mllp"
listen = "127.0.0.1:0"
[[sink]]
name = "cloud"
type = "https"
url = "https://ingest.example.org/v1/events"
[[route]]
name = "everything"
from = "*"
to = "cloud"
[[route]]
name = "copy"
from = "*"
to = "cloud"
"""


@dataclass(slots=True)
class SequentialRandomness:
    drawn: int = 0

    def bytes(self, n: int) -> bytes:
        self.drawn += 1
        return bytes([self.drawn]) * n

    def uniform(self) -> float:
        return 0.5


@dataclass(slots=True)
class Bench:
    """``daemon()`` starts one behind the command line; without it the journal is that of a stopped gateway."""

    folder: Path
    environ: dict[str, str]
    stack: ExitStack
    fake: FakeGateway = field(default_factory=FakeGateway)
    offline_error: GatewayError | None = None
    offline: OfflineGateway | None = None
    open_offline_instead: Callable[..., OfflinePort] | None = None
    runs: list[object] = field(default_factory=list)
    log: Lines = field(default_factory=Lines)

    @property
    def file(self) -> Path:
        return self.folder / "gateway.toml"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    def daemon(self, *, in_state_dir: bool = True) -> FakeGateway:
        self.state_dir.mkdir(exist_ok=True)
        self.log = self.stack.enter_context(serving(self.fake, self.state_dir, self.environ, in_state_dir=in_state_dir))
        return self.fake

    def open_offline(self, _configuration: Configuration, _credentials: Path | None) -> OfflinePort:
        if self.open_offline_instead is not None:
            return self.open_offline_instead()
        if self.offline_error is not None:
            raise self.offline_error
        self.offline = OfflineGateway(self.fake)
        return self.offline

    def group(self) -> click.Group:
        programs = Programs(self._run, self._demo, click.Command("receive", help="Receive."))
        return build(programs, KINDS, Surroundings(FixedClock(), SequentialRandomness(), self.environ, self.open_offline))

    def _run(self, path: Path) -> int:
        self.runs.append(path)
        return 4

    def _demo(self, seconds: float | None) -> int:
        self.runs.append(seconds)
        return 1

    def call(self, *arguments: str, stdin: str = "") -> Result:
        """Run a command without ``-c``."""
        return CliRunner().invoke(self.group(), list(arguments), input=stdin, env={"EDGE_GATEWAY_CONFIG": None})

    def ask(self, *arguments: str) -> Result:
        """Run a command about this gateway."""
        return self.call(*arguments, "-c", str(self.file))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    folder, runtime = tmp_path / "gw", tmp_path / "run"
    folder.mkdir()
    runtime.mkdir(mode=0o700)
    with ExitStack() as stack:
        found = Bench(folder, {"RUNTIME_DIRECTORY": str(runtime)}, stack)
        found.file.write_text(CONFIGURATION)
        yield found
