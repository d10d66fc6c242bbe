"""`python -m tests.fuzz TARGET --seconds S --json`: bytes that break a decoder, looked for by coverage.

Needs atheris (libFuzzer for Python), which is optional: `pip install -e .[fuzz]`. It starts from the corpus
that is checked in; what it finds goes to --dir. Without it, `tests/fuzz/test_fuzz.py` replays the corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.fuzz.seeds import CORPUS
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
# What one input may take, by the clock on the wall: a decoder that needs a second of processor is wrong, but
# a busy machine gives this process one last.
INPUT_S_MAX = 25
# Above the largest message that a decoder takes without looking, libFuzzer only wastes its time.
INPUT_BYTES_MAX = 16 * 1024
RSS_MB_MAX = 1024


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: nothing was found; 1: something was; 3: it cannot be looked for here."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), help="this decoder; none: all of them")
    parser.add_argument("--seconds", type=int, default=60, metavar="S", help="for each target (60)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="for what is found (a new temporary folder)")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object, the last line")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print(
            "error: atheris is not installed\n  because: it is optional, and has wheels for Linux only\n"
            "  fix: pip install -e .[fuzz]",
            file=sys.stderr,
        )
        return 3
    folder = (options.dir or Path(tempfile.mkdtemp(prefix="p2pfl-fuzz-"))).resolve()
    told = [fuzz(name, options.seconds, folder) for name in ([options.target] if options.target else TARGETS)]
    result = {"held": not any(each["findings"] for each in told), "directory": str(folder), "targets": told}
    print(json.dumps(result) if options.json else "\n".join(map(str, told)))
    return 0 if result["held"] else 1


def fuzz(name: str, seconds: int, folder: Path) -> dict[str, Any]:
    """One target in a process of its own: how many inputs, how much of the code, and what broke it."""
    found, new = folder / name, folder / name / "corpus"
    new.mkdir(parents=True, exist_ok=True)
    limits = {
        "max_total_time": seconds,
        "timeout": INPUT_S_MAX,
        "max_len": INPUT_BYTES_MAX,
        "rss_limit_mb": RSS_MB_MAX,
        "artifact_prefix": f"{found}/",
        "print_final_stats": 1,
    }
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        name,
        *(f"-{key}={value}" for key, value in limits.items()),
    ]
    memory = Path("/dev/shm")  # libFuzzer ends its process at once, so its files are cleared away from here.
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as files:
        done = subprocess.run(
            [*command, str(new), str(CORPUS / name)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": files},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    (found / "log.txt").write_text(done.stderr, encoding="utf-8")
    executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr)
    artifacts = [
        path.name for path in found.iterdir() if path.name.startswith(("crash-", "timeout-", "oom-"))
    ]
    findings = [f"{name}: {each}" for each in artifacts]
    if done.returncode and not findings:
        findings.append(f"{name}: the fuzzer ended with status {done.returncode}; see {found / 'log.txt'}")
    return {
        "target": name,
        "executions": int(executed[1]) if executed else 0,
        "edges": int(covered[-1][0]) if covered else 0,
        "edges_of_corpus": int(covered[0][0]) if covered else 0,
        "corpus": int(covered[-1][2]) if covered else 0,
        "findings": findings,
    }


if __name__ == "__main__":
    sys.exit(main())
