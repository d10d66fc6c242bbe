"""No line or branch of the core is without a test of its own: sentences and stories reach them all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_sentences_and_stories_reach_every_branch_of_the_core(tmp_path: Path) -> None:
    environment = {**os.environ, "COVERAGE_FILE": str(tmp_path / "coverage")}

    def coverage(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "coverage", *arguments]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    tests = ["tests/consensus", "tests/stories", f"--ignore={Path(__file__).relative_to(ROOT)}"]
    pytest = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    done = coverage("run", "--branch", "--source=consensus", *pytest)
    assert done.returncode == 0, done.stdout
    report = coverage("report", "--show-missing", "--skip-covered", "--fail-under=100")
    assert report.returncode == 0, report.stdout
