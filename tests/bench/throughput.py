"""Messages acknowledged per second, beside servers that store nothing, and the latency of a single sender."""

from __future__ import annotations

import contextlib
import statistics
from typing import TYPE_CHECKING

from tests.bench import load
from tests.bench.load import Load
from tests.bench.measure import Report, alternate, fsync_ms, usage
from tests.bench.programs import bench_gateway, python_server, scratch
from tests.blackbox.gateway_process import until
from tests.peers.environments import hl7_server, medplum_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.blackbox.gateway_process import Gateway

__all__ = ["measure_latency", "measure_throughput"]

ROUNDS = 3


def _rate(port: int, in_flight: int, seconds: float, connections: int = 64) -> Callable[[], float]:
    def measured() -> float:
        result = load.run(Load(port, connections, in_flight, seconds))
        assert result.refused == 0, f"{result.refused} refused"
        return result.rate

    return measured


def measure_throughput(report: Report, seconds: float = 4.0) -> None:
    """64 x 16 and 64 x 1, the gateway between its yardsticks, round by round."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch())
        gateway = stack.enter_context(bench_gateway(folder))
        plain, _ = stack.enter_context(python_server("tests.bench.bare_server", "plain"))
        joined, _ = stack.enter_context(python_server("tests.bench.bare_server", "joined"))
        hl7 = stack.enter_context(hl7_server(quiet=True))
        medplum = stack.enter_context(medplum_server(quiet=True))
        piped = {
            "gateway": _rate(gateway.port, 16, seconds),
            "bare": _rate(plain, 16, seconds),
            "bare, joined answers": _rate(joined, 16, seconds),
            "python-hl7": _rate(hl7.port, 16, seconds / 2),
        }
        lock_step = {
            "gateway": _rate(gateway.port, 1, seconds),
            "bare": _rate(plain, 1, seconds),
            "bare, joined answers": _rate(joined, 1, seconds),
            "medplum": _rate(medplum.port, 1, seconds),
            "python-hl7": _rate(hl7.port, 1, seconds / 2),
        }
        _compare(report, "64 x 16", alternate(ROUNDS, piped), {"bare": 0.5, "python-hl7": 20.0})
        _cpu_per_message(report, gateway)
        _compare(report, "64 x 1", alternate(ROUNDS, lock_step), {"bare": 0.4, "medplum": 2.5})
        counts = gateway.route()
        assert counts["queued"] == counts["accepted"]


def _compare(report: Report, shape: str, rates: dict[str, list[float]], bars: dict[str, float]) -> None:
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, rate in medians.items():
        report.add(f"{shape}: {name}", rate, "messages/s")
    for name, bar in bars.items():
        report.add(f"{shape}: gateway / {name}", medians["gateway"] / medians[name], "x", at_least=bar)


def _cpu_per_message(report: Report, gateway: Gateway) -> None:
    before = usage(gateway.pid)
    result = load.run(Load(gateway.port, 64, 16, 3.0))
    used = usage(gateway.pid) - before
    report.add("64 x 16: CPU of the gateway per message", used.cpu_s / result.accepted * 1e6, "µs")
    report.add("64 x 16: p99 of the answers", result.p99_ms, "ms")


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
