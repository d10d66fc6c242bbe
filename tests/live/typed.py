"""The command line of `tests.live` as somebody types it, for the short forms that CI runs. Knows no fault."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def typed(*words: str, directory: Path, timeout_s: float) -> dict[str, Any]:
    """The JSON result of `python -m tests.live WORDS --json`, which leaves its run in this folder."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.live", *words, "--json", "--dir", str(directory)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return json.loads(done.stdout.splitlines()[-1])
