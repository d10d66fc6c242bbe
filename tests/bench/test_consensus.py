"""`bench consensus` decides with real processes, times decisions and floor alike, and survives a death."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", "consensus", *words, "--json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.slow
@pytest.mark.e2e
def test_four_members_decide_and_exchange() -> None:
    done = bench("--members", "4", "--heights", "6", "--stretch", "3")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["rounds_above_0"] == 0
    assert all(0 < told[name]["p50"] <= told[name]["p95"] for name in ("fsync_ms", "floor_ms", "decision_ms"))
    assert told["ratio"] == pytest.approx(told["decision_ms"]["p50"] / told["floor_ms"]["p50"], abs=0.01)


@pytest.mark.slow
@pytest.mark.e2e
def test_a_dead_leader_costs_its_timer_and_little_more() -> None:
    done = bench("--members", "4", "--heights", "10", "--stretch", "5", "--dead")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["dead_heights"] == 1  # It leads every fourth, and dies at the ninth.
    assert told["rounds_above_0"] >= 1
    assert told["dead_ms"]["p50"] > told["timer_ms"] > told["decision_ms"]["p50"]
    beyond_ms = told["dead_ms"]["p50"] - told["timer_ms"] - told["decision_ms"]["p50"]
    assert told["cost_beyond_the_timer_ms"]["p50"] == pytest.approx(beyond_ms, abs=0.01)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["--members", "3"], "--members"),
        (["--heights", "1", "--stretch", "1"], "--stretch"),
        (["--dead", "--stretch", "2", "--heights", "8"], "--heights"),
    ],
)
def test_what_cannot_be_measured_is_told(words: list[str], fix: str) -> None:
    done = bench(*words)
    assert done.returncode == 3
    assert fix in json.loads(done.stdout)["error"]["fix"]
