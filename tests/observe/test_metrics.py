"""Metrics render one snapshot, under names and labels that are declared once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.model.receipt import RouteState
from gateway.model.state import Books, GatewayState
from gateway.observe.metrics import METRICS, Metrics
from gateway.observe.process import ProcessFigures, read_figures
from gateway.observe.status import GatewayStatus, JournalStatus, RouteStatus, SourceStatus

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "ZQDOE^JANE"
STATUS = GatewayStatus(
    gateway="ward-3",
    incarnation="ab" * 16,
    state=GatewayState.FULL,
    sources=(SourceStatus("adt", 10, 1, 2, 3), SourceStatus("lab")),
    routes=(
        RouteStatus("everything", RouteState.RETRYING, Books(10, 5, 1, 1, 1, 1), 12.5, "connect-refused", 1.5),
        RouteStatus("copy", RouteState.ONLINE),
    ),
    journal=JournalStatus(5_000, 1_000_000, 42),
)
PROCESS = ProcessFigures(60_000_000, 1.5, 12, 99.0)


def samples(status: GatewayStatus = STATUS) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = Metrics("0.1.0", lambda: status, lambda: PROCESS).render().decode()
    families = text_string_to_metric_families(text)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def value(name: str, **labels: str) -> float:
    return samples()[name, tuple(sorted(labels.items()))]


def test_the_numbers_are_those_of_the_snapshot() -> None:
    assert value("edge_gateway_build_info", version="0.1.0", gateway="ward-3") == 1
    assert value("edge_gateway_source_accepted_messages_total", source="adt") == 10
    assert value("edge_gateway_source_duplicate_messages_total", source="adt") == 1
    assert value("edge_gateway_source_refused_frames_total", source="adt") == 2
    assert value("edge_gateway_source_connections", source="adt") == 3
    assert value("edge_gateway_route_oldest_age_seconds", route="everything") == 12.5
    assert value("edge_gateway_route_oldest_age_seconds", route="copy") == 0
    assert value("edge_gateway_route_next_attempt_seconds", route="everything") == 1.5
    assert value("edge_gateway_route_last_error_info", route="everything", code="connect-refused") == 1
    assert value("edge_gateway_journal_size_bytes") == 5_000
    assert value("edge_gateway_journal_quota_bytes") == 1_000_000
    assert value("edge_gateway_journal_blocks") == 42
    assert value("edge_gateway_process_resident_memory_bytes") == 60_000_000
    assert value("edge_gateway_process_cpu_seconds_total") == 1.5
    assert value("edge_gateway_process_open_files") == 12
    assert value("edge_gateway_process_uptime_seconds") == 99


def test_the_accounting_equation_holds_in_the_metrics() -> None:
    terms = {
        labels[1][1]: number
        for (name, labels), number in samples().items()
        if name == "edge_gateway_route_messages" and labels[0][1] == "everything"
    }
    assert terms == {"delivered": 5, "queued": 1, "held": 1, "dead_letter": 1, "filtered": 1, "gaps": 1}
    assert sum(terms.values()) == value("edge_gateway_route_accepted_messages_total", route="everything")


def test_exactly_one_state_is_1() -> None:
    states = {labels: number for (name, labels), number in samples().items() if name == "edge_gateway_state_info"}
    assert len(states) == len(GatewayState)
    assert [labels[0][1] for labels, number in states.items() if number] == ["full"]
    routes = {labels: number for (name, labels), number in samples().items() if name == "edge_gateway_route_state_info"}
    assert {labels for labels, number in routes.items() if number} == {
        (("route", "copy"), ("state", "online")),
        (("route", "everything"), ("state", "retrying")),
    }


def test_every_metric_is_declared_and_named_by_the_rule() -> None:
    found = {name for name, _ in samples()}
    assert found == METRICS.keys()
    for name, spec in METRICS.items():
        assert re.fullmatch(r"edge_gateway_[a-z_]+", name)
        assert name.endswith("_total") is spec.counter
        assert spec.meaning


def test_labels_are_configured_names_and_closed_words() -> None:
    status = replace(STATUS, routes=(RouteStatus("r", last_error=f"no patient {CANARY}"), RouteStatus("s", last_error="x" * 61)))
    assert CANARY not in str(samples(status))
    assert samples(status)["edge_gateway_route_last_error_info", (("code", "other"), ("route", "r"))] == 1
    assert {name for _, labels in samples() for name, _ in labels} == {"version", "gateway", "state", "source", "route", "term", "code"}


def test_nothing_is_kept_between_two_scrapes() -> None:
    before = samples()
    assert samples(replace(STATUS, sources=(), routes=())).keys() < before.keys()
    assert samples() == before


def test_the_figures_of_this_process_are_plausible(tmp_path: Path) -> None:
    figures = read_figures(5.0)
    assert 5e6 < figures.resident_bytes < 5e9
    assert figures.cpu_s > 0
    assert figures.open_files >= 3
    assert figures.uptime_s == 5.0
    assert read_figures(0, tmp_path).resident_bytes == read_figures(0, tmp_path).open_files == 0


@pytest.mark.parametrize(
    "module", ["gateway.observe.metrics", "gateway.observe.log", "gateway.observe.health", "gateway.observe.rerouting"]
)
def test_importing_it_does_not_bring_the_metrics_library_in(module: str) -> None:
    code = f"import sys, {module}; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PATH": os.environ["PATH"]}, check=False).returncode == 0
