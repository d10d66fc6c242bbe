"""Remove one rule of the contracts after the other and see that a test notices each time.

    python -m tests.contracts.mutants [--node-modules PATH] [--only PATTERN]    200 mutants, seconds each

Changes no file of the checkout. Exit 1 if there are mutants that no test noticed, besides those in HARMLESS.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import contracts
import p2pfl.evm  # noqa: F401 - loaded here once, for all forks
from contracts import build

ROOT = Path(__file__).resolve().parents[2]
# Where a rule of each source is most likely tested: those tests run first.
SOURCES = {
    "StakingRegistry": "registry",
    "SlashingManager": "verdict",
    "Equivocation": "equivocation",
    "Signed": "digests",
    "EpochAnchors": "anchors",
    "Headers": "aggregate_fraud",
    "Quorum": "verdict",
    "RowProof": "aggregate_fraud",
    "RewardManager": "rewards",
    "RewardTreasury": "treasuries",
    "SlashTreasury": "treasuries",
}
TESTS = (
    "digests", "registry", "verdict", "verdict_window", "equivocation", "faults_of_others", "boundaries",
    "conservation", "anchors", "rewards", "treasuries", "aggregate_fraud",
)  # fmt: skip
OPERATORS = (
    (" <= ", " < "), (" >= ", " > "), (" < ", " <= "), (" && ", " || "), (" || ", " && "),
    (" + 1", ""), (" - 1", ""),
)  # fmt: skip
# Equality was answered on the line before.
HARMLESS = ("if (seat < account)",)


def mutants(text: str) -> Iterator[tuple[str, str]]:
    """(what was changed, the changed source): checks and statements deleted, operators changed."""
    lines = text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        bare = line.strip()
        inside = line.startswith("        ") and not bare.startswith(("//", "*", "///"))
        changed: list[str] = []
        if inside and re.match(r"if \(.*\) revert ", bare):
            changed.append(re.sub(r"if \((.*)\) revert ", r"if (false && (\1)) revert ", line))
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


def compile_mutant(name: str, text: str, node_modules: Path, out: Path) -> bool:
    """Put the artifacts of a mutant into a folder. False if it does not compile."""
    read = build.gather

    def gather(names: tuple[str, ...], modules: Path) -> dict[str, str]:
        return {**read(names, modules), f"contracts/{name}.sol": text}

    build.gather = gather
    try:
        for job in build.JOBS[:-1]:
            for path, artifact in build.compile_job(job, node_modules):
                (out / "build" / path.name).write_text(artifact, encoding="utf-8")
    except build.BuildError:
        return False
    finally:
        build.gather = read
    return True


def outcome_of(out: Path, first: str) -> str:
    """Run the tests, those of `first` before the others, in a fork that finds the artifacts in `out`."""
    files = [f"tests/contracts/test_{name}.py" for name in sorted(TESTS, key=lambda name: name != first)]
    child = os.fork()  # web3 and py-evm are loaded already; that is most of the time of a run.
    if child == 0:
        contracts.artifact.cache_clear()
        contracts.resources = SimpleNamespace(files=lambda _: out)  # type: ignore[assignment]
        with (out / "log").open("w", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files])))
    _, status = os.waitpid(child, 0)
    return {0: "SURVIVED", 1: "killed"}.get(os.waitstatus_to_exitcode(status), "broken run")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node-modules", type=Path, default=ROOT / "contracts" / "node_modules")
    parser.add_argument(
        "--only", default="", help="mutants whose description matches this regular expression"
    )
    options = parser.parse_args()
    os.chdir(ROOT)
    left: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "build").mkdir()
        for name, first in SOURCES.items():
            text = (ROOT / "contracts" / f"{name}.sol").read_text(encoding="utf-8")
            for told, changed in mutants(text):
                if not re.search(options.only, f"{name} {told}"):
                    continue
                compiled = compile_mutant(name, changed, options.node_modules.resolve(), out)
                outcome = outcome_of(out, first) if compiled else "does not compile"
                print(f"{outcome}: {name} {told}", flush=True)
                if outcome in {"SURVIVED", "broken run"} and not any(word in told for word in HARMLESS):
                    left.append(f"{name} {told}")
    print(f"{len(left)} mutants were not noticed")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
