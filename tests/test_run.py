"""The run itself: what is missing is named and fails where the run must be complete; a layer that vanished turns it red."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FLOORS, layer_of
from tests.prerequisites import need

ROOT = Path(__file__).resolve().parents[1]


def test_what_is_present_is_no_reason_to_stop() -> None:
    need("this very test", present=True)


def test_a_missing_prerequisite_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="missing prerequisite: a disk"):
        need("a disk", present=False)


def test_a_missing_prerequisite_is_skipped_by_name_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="missing prerequisite: a disk"):
        need("a disk", present=False)


def test_every_folder_of_tests_has_a_floor() -> None:
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert folders | {"house"} == FLOORS.keys()
    assert layer_of("tests/codec/test_mllp.py::test_x") == "codec"
    assert layer_of("tests/test_house.py::test_x") == "house"


def test_a_layer_below_its_floor_turns_a_passed_run_red() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--floors", "tests/model"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=outside)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "BELOW THE FLOOR  codec: 0 tests executed" in done.stdout
    assert "BELOW THE FLOOR  model" not in done.stdout


def test_slow_tests_are_counted_as_left_out_not_lost() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", "tests/blackbox/test_kill9.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "deselected" in done.stdout
