"""What every run shares: the ``--slow`` and ``--floors`` options, hypothesis profiles, and the closing account per layer."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A full run (``--slow --floors``) with fewer executed tests in a layer is red: a deselected, empty or vanished layer
#: must not look like a passed one. Raise a floor when a layer has grown.
FLOORS = {
    "admin": 200,
    "bench": 6,
    "blackbox": 110,
    "codec": 450,
    "fuzz": 2,
    "house": 38,
    "journal": 280,
    "model": 25,
    "observe": 120,
    "peers": 34,
    "receiver": 170,
    "route": 60,
    "service": 30,
    "settings": 100,
    "sink": 170,
    "source": 150,
    "transport": 120,
}

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)  # a green commit stays green
settings.load_profile("ci" if os.environ.get("CI") == "true" else "default")


class Account:
    """Counts what really ran, per layer, and judges it at the end of a full run."""

    def __init__(self, *, floors: bool) -> None:
        self.floors = floors
        self.executed: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.short: list[str] = []

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        layer = layer_of(report.nodeid)
        self.seconds[layer] += report.duration
        if report.when == "call" and report.outcome in ("passed", "failed"):
            self.executed[layer] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.floors:
            return
        counts = ((name, self.executed[name], floor) for name, floor in sorted(FLOORS.items()))
        self.short = [f"{name}: {count} tests executed, at least {floor} wanted" for name, count, floor in counts if count < floor]
        if self.short and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        write = terminalreporter.write_line
        terminalreporter.section("tests executed, by layer")
        for name, count in sorted(self.executed.items()):
            write(f"{name:12} {count:6}   {self.seconds[name]:8.1f} s")
        for line in self.short:
            write(f"BELOW THE FLOOR  {line}", red=True)


def layer_of(nodeid: str) -> str:
    """``tests/codec/test_mllp.py::…`` is of layer codec; the house tests lie in ``tests/`` itself."""
    parts = nodeid.split("::", 1)[0].split("/")
    return parts[1] if len(parts) > 2 else "house"


def pytest_make_parametrize_id(val: object) -> str | None:
    """Raw bytes are named by their length: some hold the time (gzip), and all workers must collect the same names."""
    if isinstance(val, bytes) and not (len(val) <= 40 and val.isascii() and val.decode().isprintable()):
        return f"{len(val)} bytes"
    return None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the longer layers too")
    parser.addoption("--floors", action="store_true", help="fail where a layer executed fewer tests than its floor")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # under xdist only the controller sees every report
        config.pluginmanager.register(Account(floors=bool(config.getoption("--floors"))), "account")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow ones to ``--slow``; pytest's closing line counts them as deselected."""
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = without(items, slow)


def without(items: Iterable[pytest.Item], dropped: Iterable[pytest.Item]) -> list[pytest.Item]:
    gone = set(dropped)
    return [item for item in items if item not in gone]
