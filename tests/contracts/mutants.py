"""Remove one rule of the contracts after the other and see that a test notices each time.

    python -m tests.contracts.mutants [--node-modules PATH] [--only WORDS]     200 mutants, about 10 s each

Works in a copy; prints the mutants that no test killed. Exit 1 if there are any besides those in HARMLESS.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("contracts", "consensus", "p2pfl", "testnet", "tests/contracts")
FILES = ("pyproject.toml", "tests/__init__.py", "tests/conftest.py")
# Where a rule of each source is most likely tested: those tests run first.
SOURCES = {
    "StakingRegistry": "registry",
    "SlashingManager": "verdict",
    "Equivocation": "equivocation",
    "Signed": "digests",
}
TESTS = ("digests", "registry", "verdict", "equivocation", "faults_of_others", "conservation")
OPERATORS = (
    (" <= ", " < "), (" >= ", " > "), (" < ", " <= "), (" && ", " || "), (" || ", " && "),
    (" + 1", ""), (" - 1", ""),
)  # fmt: skip
# Two checks of one thing: whichever is left still holds the rule.
HARMLESS = ("uint256 previous", "revert TooManySignatures")


def mutants(text: str) -> Iterator[tuple[str, str]]:
    """(what was changed, the changed source): checks and statements deleted, operators changed."""
    lines = text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        bare = line.strip()
        inside = line.startswith("        ") and not bare.startswith(("//", "*", "///"))
        changed: list[str] = []
        if inside and re.match(r"(\} )?(if|while) \(.*\) revert ", bare):
            changed.append("")
        elif inside and bare.startswith("else revert"):
            changed.append(line.replace("else revert", "else if (false) revert"))
        elif inside and bare.endswith(";") and re.match(r"[\w\[\]().+-]+( [+-]?= |\(|\+\+|--)", bare):
            if not bare.startswith(("return", "emit", "revert", "uint256 ", "address ", "bytes32 ", "bool ")):
                changed.append("")
        elif inside and bare.startswith("emit ") and bare.endswith(";"):
            changed.append("")
        changed += [
            line.replace(word, " ")
            for word in (" onlyOwner ", " onlySlasher ", " onlySlasher\n")
            if word in line
        ]
        if inside:
            for old, new in OPERATORS:
                if old in bare and "for (" not in bare:
                    changed.append(line.replace(old, new))
        for new in changed:
            told = f"line {at + 1}: {bare}  ->  {new.strip() or '(nothing)'}"
            yield told, "".join([*lines[:at], new, *lines[at + 1 :]])


def outcome_of(copy: Path, node_modules: Path, first: str) -> str:
    """What became of the mutant that lies in the copy."""
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    build = [sys.executable, "-m", "contracts.build", "--node-modules", str(node_modules)]
    if subprocess.run(build, cwd=copy, env=environment, capture_output=True, check=False).returncode != 0:
        return "does not compile"
    test = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    test += [f"tests/contracts/test_{name}.py" for name in sorted(TESTS, key=lambda name: name != first)]
    done = subprocess.run(test, cwd=copy, env=environment, capture_output=True, check=False)
    return "killed" if done.returncode == 1 else "SURVIVED" if done.returncode == 0 else "broken run"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-modules", type=Path, default=ROOT / "contracts" / "node_modules")
    parser.add_argument("--only", default="", help="mutants whose description has these words")
    options = parser.parse_args()
    left: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            ignore = shutil.ignore_patterns("node_modules", "__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        for name in FILES:
            shutil.copy(ROOT / name, copy / name)
        for name, first in SOURCES.items():
            path = copy / "contracts" / f"{name}.sol"
            text = path.read_text(encoding="utf-8")
            for told, changed in mutants(text):
                if options.only not in f"{name} {told}":
                    continue
                path.write_text(changed, encoding="utf-8")
                outcome = outcome_of(copy, options.node_modules.resolve(), first)
                print(f"{outcome}: {name} {told}", flush=True)
                if outcome in {"SURVIVED", "broken run"} and not any(word in told for word in HARMLESS):
                    left.append(f"{name} {told}")
            path.write_text(text, encoding="utf-8")
    print(f"{len(left)} mutants were not noticed")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
