"""``python -m tests.bench [--out FOLDER] [NAME …]``: measure, print a table line by line, write JSON. Names: see ``MEASUREMENTS``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.backlog import measure_backlog, measure_big_backlog, measure_idle
from tests.bench.measure import Report, machine
from tests.bench.throughput import measure_latency, measure_throughput
from tests.bench.writes import measure_writes

if TYPE_CHECKING:
    from collections.abc import Callable

MEASUREMENTS: dict[str, Callable[[Report], None]] = {
    "idle": measure_idle,
    "latency": measure_latency,
    "throughput": measure_throughput,
    "writes": measure_writes,
    "backlog": measure_backlog,
    "big-backlog": measure_big_backlog,
}


def main() -> int:
    """0 where every bar was reached, 1 where one was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of the JSON files (default build/bench)")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - MEASUREMENTS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    print(" · ".join(f"{name} {value}" for name, value in machine().items()))
    missed = 0
    for name in chosen.names or MEASUREMENTS:
        print(f"\n{name}", flush=True)
        report, began = Report(name), time.monotonic()
        MEASUREMENTS[name](report)
        missed += sum(figure.met is False for figure in report.figures)
        print(f"{name}: {time.monotonic() - began:.0f} s, {report.write(chosen.out)}", flush=True)
    print(f"\n{missed} missed" if missed else "\nevery bar reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
