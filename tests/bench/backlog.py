"""What a long outage costs: start-up and memory with a backlog, and how fast it drains; and what an idle gateway costs."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from tests.bench import load
from tests.bench.load import Load
from tests.bench.measure import Report, rss_mb, usage
from tests.bench.programs import bench_gateway, python_server, scratch
from tests.blackbox.destination import free_port

if TYPE_CHECKING:
    from tests.blackbox.gateway_process import Gateway

__all__ = ["measure_backlog", "measure_big_backlog", "measure_idle"]

MILLION = 1_000_000
BIG_BYTES = 2 << 30


def _start_s(gateway: Gateway, times: int = 3) -> float:
    """Median of the seconds from exec to the first answered connect."""
    taken = []
    for _ in range(times):
        gateway.stop()
        taken.append(gateway.start())
    return statistics.median(taken)


def _peak_while_draining(gateway: Gateway, patience_s: float = 300.0) -> tuple[float, float, float]:
    """Seconds from the first delivery to an empty queue, peak RSS in MB, and CPU seconds of the gateway."""
    while gateway.route()["delivered"] == 0:
        time.sleep(0.05)
    began, first, peak, before = time.monotonic(), gateway.route(), 0.0, usage(gateway.pid)
    while (counts := gateway.route())["queued"] and time.monotonic() - began < patience_s:
        peak = max(peak, rss_mb(gateway.pid))
        time.sleep(0.2)
    assert counts["queued"] == 0, f"not drained after {patience_s} s"
    seconds = time.monotonic() - began
    return seconds / (counts["delivered"] - first["delivered"]), peak, (usage(gateway.pid) - before).cpu_s


def measure_backlog(report: Report, messages: int = MILLION) -> None:
    """One million messages of 700 bytes while the destination is away, then back."""
    port = free_port()
    with scratch() as folder, bench_gateway(folder, f"http://127.0.0.1:{port}/v1/events") as gateway:
        report.add("start to listening, empty journal", _start_s(gateway), "s", at_most=1.0)
        filled = load.run(Load(gateway.port, 64, 16, messages=messages))
        report.add("filling the backlog, destination away", filled.rate, "messages/s")
        report.add("RSS behind 1,000,000 messages", rss_mb(gateway.pid), "MB")
        report.add("start to listening behind 1,000,000 messages", _start_s(gateway), "s", at_most=1.0)
        with python_server("tests.bench.fast_receiver", port=port):
            per_message_s, peak, cpu_s = _peak_while_draining(gateway)
        report.add("drain of 1,000,000 to a local receiver", 1 / per_message_s, "messages/s", at_least=20_000)
        report.add("drain: CPU of the gateway per message", cpu_s / messages * 1e6, "µs")
        report.add("drain: peak RSS", peak, "MB")


def measure_big_backlog(report: Report, size: int = BIG_BYTES) -> None:
    """2 GB on disk of messages that hardly compress."""
    with scratch() as folder, bench_gateway(folder) as gateway:
        sent = 0
        while gateway.status()["journal"]["bytes"] < size:
            sent += load.run(Load(gateway.port, 16, 4, messages=20_000, size_bytes=24_000, random=True)).accepted
        report.add("big backlog: bytes on disk", gateway.status()["journal"]["bytes"] / 1e9, "GB")
        report.add("big backlog: RSS as it was filled", rss_mb(gateway.pid), "MB", at_most=100)
        report.add("big backlog: start to listening", _start_s(gateway), "s", at_most=1.0)
        time.sleep(5)
        report.add("big backlog: RSS after a start", rss_mb(gateway.pid), "MB", at_most=100)


def measure_idle(report: Report, seconds: float = 30.0) -> None:
    """Nothing to do, one connected sender that is silent."""
    with (
        scratch() as folder,
        python_server("tests.bench.fast_receiver") as (port, _),
        bench_gateway(folder, f"http://127.0.0.1:{port}/v1/events") as gateway,
    ):
        load.run(Load(gateway.port, 1, 1, messages=10, warm_up_s=0))
        time.sleep(3)
        report.add("idle: RSS", rss_mb(gateway.pid), "MB", at_most=70)
        before, began = usage(gateway.pid), time.monotonic()
        time.sleep(seconds)
        used = usage(gateway.pid) - before
        report.add("idle: CPU", used.cpu_s / (time.monotonic() - began) * 100, "%", at_most=1.0)
        report.add("idle: bytes written per hour", used.device_bytes / seconds * 3600 / 1e6, "MB")
