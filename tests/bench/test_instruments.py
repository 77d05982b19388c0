"""The instruments measure what they say; figures themselves are never asserted in a test."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.bench import load
from tests.bench.bare_server import acknowledge
from tests.bench.load import Load
from tests.bench.measure import Report, alternate, fsync_ms, machine, quantile, rss_mb, usage
from tests.bench.programs import python_server
from tests.blackbox.messages import framed, message, padded
from tests.blackbox.mllp_line import answer_of

if TYPE_CHECKING:
    from pathlib import Path


def test_the_yardstick_answers_each_message_by_its_own_id() -> None:
    body = message("X-7")
    answer = answer_of(acknowledge(body).strip(b"\x0b\x1c\r"))
    assert (answer.code, answer.control) == ("AA", "X-7")


@pytest.mark.parametrize("kind", ["plain", "joined"])
def test_the_load_counts_every_answer_once(kind: str) -> None:
    with python_server("tests.bench.bare_server", kind) as (port, _):
        result = load.run(Load(port, connections=8, in_flight=4, messages=2000, warm_up_s=0.01))
    assert 2000 <= result.sent <= 2032
    assert result.accepted == result.sent
    assert result.refused == 0
    assert result.rate > 0


def test_a_measured_message_has_the_size_that_was_asked_for() -> None:
    for size in (300, 700, 4096):
        assert abs(len(padded("C-1", size)) - size) <= 60
    assert len({padded(f"C-{number}", 700) for number in range(50)}) == 50
    assert framed(b"x") == b"\x0bx\x1c\r"


def test_usage_sees_cpu_and_written_bytes(tmp_path: Path) -> None:
    before = usage()
    (tmp_path / "file").write_bytes(b"x" * 1_000_000)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    used = usage() - before
    assert used.written_bytes >= 1_000_000
    assert used.cpu_s >= 0.1
    assert rss_mb() > 5


def test_a_report_knows_which_bars_were_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("sample")
    report.add("rate", 10, "messages/s", at_least=20)
    report.add("memory", 10, "MB", at_most=20)
    report.add("fact", 3, "")
    assert [figure.met for figure in report.figures] == [False, True, None]
    assert "MISSED" in capsys.readouterr().out
    stored = json.loads(report.write(tmp_path).read_text())
    assert stored["machine"]["cores"] == machine()["cores"]
    assert [row["met"] for row in stored["figures"]] == [False, True, None]


def test_rounds_alternate_and_quantiles_are_of_what_was_measured(tmp_path: Path) -> None:
    order: list[str] = []
    found = alternate(2, {"a": lambda: order.append("a") or 1.0, "b": lambda: order.append("b") or 2.0})  # type: ignore[func-returns-value]
    assert order == ["a", "b", "a", "b"]
    assert found == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert quantile([3, 1, 2], 0.5) == 2
    assert fsync_ms(tmp_path, writes=5) > 0
