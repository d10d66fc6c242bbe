"""Each scenario's claim holds in a network of real processes, and an auditor who trusts nobody agrees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testnet import scenarios

ROOT = Path(__file__).parents[2]
RUN_S_MAX = 660  # The longest limit of a scenario, and the time to say that it is up.
# These cross every room between them. The others, a minute or two each, by hand: `pytest -m soak tests/e2e`.
EACH_TIME = {"crash", "epochs", "equivocate", "sign_flip"}
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def p2pfl(*words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON object in the last line, and what was told beside it."""
    command = [sys.executable, "-m", "p2pfl", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_S_MAX, check=False)
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(
    "name",
    [name if name in EACH_TIME else pytest.param(name, marks=pytest.mark.soak) for name in scenarios.known()],
)
def test_the_claim_holds_and_the_history_verifies(name: str, tmp_path: Path) -> None:
    run = tmp_path / name
    code, result, story = p2pfl("testnet", "up", name, "--dir", str(run))
    assert (code, result["held"]) == (0, True), story
    assert sorted(result["slashed"]) == sorted(result["expected_culprits"])
    assert result["honest_slashed"] == 0
    assert len(result["accuracy"]) == result["rounds"]
    code, audit, told = p2pfl("audit", "verify", str(run), "--recompute")
    assert (code, audit["ok"], audit["findings"]) == (0, True, []), told
    assert audit["blocks"] == result["blocks"]
    assert audit["recomputed"] > 0
