"""Messages acknowledged per second, beside servers that store nothing, and the latency of a single sender."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench import load
from tests.bench.load import Load
from tests.bench.measure import Report, alternate, fsync_ms, usage
from tests.bench.programs import bench_gateway, python_server, scratch
from tests.blackbox.gateway_process import until
from tests.peers.environments import hl7_server, medplum_server

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["measure_latency", "measure_throughput"]

ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Served:
    """What one server did under one load: positive answers per second, and its CPU per message."""

    rate: float
    cpu_us: float
    p99_ms: float


def _under_load(port: int, pid: int, in_flight: int, seconds: float) -> Callable[[], Served]:
    def measured() -> Served:
        before = usage(pid)
        result = load.run(Load(port, 64, in_flight, seconds))
        assert result.refused == 0, f"{result.refused} refused"
        return Served(result.rate, (usage(pid) - before).cpu_s / result.accepted * 1e6, result.p99_ms)

    return measured


def measure_throughput(report: Report, seconds: float = 4.0) -> None:
    """64 x 16 and 64 x 1, the gateway between its yardsticks, round by round."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        gateway = stack.enter_context(bench_gateway(folder))
        hl7 = stack.enter_context(hl7_server(quiet=True))
        medplum = stack.enter_context(medplum_server(quiet=True))
        servers = {
            "gateway": (gateway.port, gateway.pid),
            "bare": stack.enter_context(python_server("tests.bench.bare_server", "plain")),
            "bare, joined answers": stack.enter_context(python_server("tests.bench.bare_server", "joined")),
            "python-hl7": (hl7.port, hl7.pid),
            "medplum": (medplum.port, medplum.pid),
        }
        piped = {name: _under_load(*where, 16, seconds) for name, where in servers.items() if name != "medplum"}
        lock_step = {name: _under_load(*where, 1, seconds) for name, where in servers.items()}
        _compare(report, "64 x 16", alternate(ROUNDS, piped), {"bare": 0.5, "python-hl7": 20.0})
        _compare(report, "64 x 1", alternate(ROUNDS, lock_step), {"bare": 0.4, "medplum": 2.5})
        counts = gateway.route()
        assert counts["queued"] == counts["accepted"]


def _compare(report: Report, shape: str, found: dict[str, list[Served]], bars: dict[str, float]) -> None:
    rates = {name: statistics.median(served.rate for served in runs) for name, runs in found.items()}
    for name, runs in found.items():
        report.add(f"{shape}: {name}", rates[name], "messages/s")
        report.add(f"{shape}: {name}, CPU per message", statistics.median(served.cpu_us for served in runs), "µs")
    report.add(f"{shape}: gateway, p99 of the answers", statistics.median(served.p99_ms for served in found["gateway"]), "ms")
    for name, bar in bars.items():
        report.add(f"{shape}: gateway / {name}", rates["gateway"] / rates[name], "x", at_least=bar)


def measure_latency(report: Report) -> None:
    """One sender, lock-step: what an answer takes beyond the disk's own fsync, both measured in turn."""
    with scratch() as folder, bench_gateway(folder) as gateway, python_server("tests.bench.bare_server", "plain") as (plain, _):
        until(lambda: gateway.health() == "running", 5)
        runs = {
            "fsync": lambda: fsync_ms(folder),
            "gateway": lambda: load.run(Load(gateway.port, 1, 1, 2.0)).p50_ms,
            "bare": lambda: load.run(Load(plain, 1, 1, 1.0)).p50_ms,
        }
        medians = {name: statistics.median(found) for name, found in alternate(ROUNDS, runs).items()}
        report.add("1 x 1: answer, median", medians["gateway"], "ms")
        report.add("1 x 1: bare server's answer, median", medians["bare"], "ms")
        report.add("disk: write 12 KiB + fdatasync, median", medians["fsync"], "ms")
        report.add("1 x 1: answer less the disk's fsync", medians["gateway"] - medians["fsync"], "ms", at_most=0.6)
