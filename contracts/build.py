"""Compile the contracts and write `contracts/build/*.json`, or compare (`--check`).

    npm ci --prefix contracts                 solc-js and OpenZeppelin, as pinned in package-lock.json
    python -m contracts.build                 compile and write
    python -m contracts.build --check         compile and compare byte for byte; exit 1 if anything differs

Every source goes to the compiler by its content under a name that does not depend on where the checkout
lies, and the metadata hash is left out of the bytecode: two clones on two paths give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NODE_MODULES = ROOT / "contracts" / "node_modules"
SOLC_VERSION = "0.8.30"
OPENZEPPELIN_VERSION = "5.7.0"
# Shanghai is the oldest EVM that we need (PUSH0) and every newer one runs it.
EVM_VERSION = "shanghai"
# Verdicts and evidence run rarely and deployment once; 200 is solc's own balance of the two.
OPTIMIZER_RUNS = 200
COMPILE_SECONDS_MAX = 300


class BuildError(Exception):
    """The compiler is missing, is another version, or refuses the sources."""


@dataclass(frozen=True)
class Job:
    """Contracts that are compiled together, and where their artifacts go."""

    sources: tuple[str, ...]
    contracts: tuple[str, ...]
    out: str
    tolerated: tuple[str, ...] = ()  # Codes of warnings that are meant.


JOBS = (
    Job(
        sources=(
            "contracts/EpochAnchors.sol",
            "contracts/Equivocation.sol",
            "contracts/Headers.sol",
            "contracts/Quorum.sol",
            "contracts/RowProof.sol",
            "contracts/Signed.sol",
            "contracts/SlashingManager.sol",
            "contracts/StakingRegistry.sol",
        ),
        contracts=("EpochAnchors", "SlashingManager", "StakingRegistry"),
        out="contracts/build",
    ),
    # What honest work earns, and where the stakes of the guilty go.
    Job(
        sources=(
            "contracts/Quorum.sol",
            "contracts/RewardManager.sol",
            "contracts/RewardTreasury.sol",
            "contracts/Signed.sol",
            "contracts/SlashTreasury.sol",
            "contracts/StakingRegistry.sol",
        ),
        contracts=("RewardManager", "RewardTreasury", "SlashTreasury"),
        out="contracts/build",
    ),
    # Hostile accounts that the tests deploy; no part of the product.
    Job(
        sources=("tests/contracts/Hostile.sol",),
        contracts=("Hostile",),
        out="tests/contracts/artifacts",
        tolerated=("5159",),  # selfdestruct is deprecated; nothing else forces ether into an account.
    ),
)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m contracts.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is checked in, write nothing")
    parser.add_argument("--node-modules", type=Path, default=NODE_MODULES, help="where npm put solc")
    options = parser.parse_args(arguments)
    try:
        made = {path: text for job in JOBS for path, text in compile_job(job, options.node_modules)}
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return check(made) if options.check else write(made)


def write(made: Mapping[Path, str]) -> int:
    """Write the artifacts."""
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)} ({len(text)} bytes)")
    return 0


def check(made: Mapping[Path, str]) -> int:
    """Compare the artifacts with those on disk. 1 if one differs, is missing, or is left over."""
    faults: list[str] = []
    for path, text in made.items():
        if not path.is_file():
            faults.append(f"{path.relative_to(ROOT)} is missing")
        elif path.read_bytes() != text.encode():
            faults.append(f"{path.relative_to(ROOT)} is not what its sources compile to")
    for folder in sorted({path.parent for path in made}):
        faults += [
            f"{path.relative_to(ROOT)} has no source" for path in folder.glob("*.json") if path not in made
        ]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(made)} artifacts compared, {len(faults)} differ")
    return 1 if faults else 0


def compile_job(job: Job, node_modules: Path) -> Iterator[tuple[Path, str]]:
    """Compile; yields each artifact's path and canonical text. Raises BuildError."""
    sources = gather(job.sources, node_modules)
    answer = run_solc(standard_input(sources), node_modules)
    complaints = [entry for entry in answer.get("errors", []) if entry.get("errorCode") not in job.tolerated]
    if complaints:  # Warnings too: what the compiler doubts is not deployed.
        raise BuildError("\n".join(entry["formattedMessage"] for entry in complaints))
    for name in job.contracts:
        output = next(unit[name] for unit in answer["contracts"].values() if name in unit)
        yield ROOT / job.out / f"{name}.json", artifact_text(name, output, sources)


def gather(names: tuple[str, ...], node_modules: Path) -> dict[str, str]:
    """The sources and all they import: name to content.

    Names are relative to the repository, or to npm's folder.
    """
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = node_modules / name if name.startswith("@") else ROOT / name
        try:
            content = path.read_text(encoding="utf-8")
        except OSError as error:
            raise BuildError(
                f"{name}: {error.strerror} (have you run `npm ci --prefix contracts`?)"
            ) from error
        found[name] = content
        for target in re.findall(r'^import\s[^;]*?"([^"]+)";', content, flags=re.MULTILINE):
            waiting.append(_resolve(name, target))
    return found


def _resolve(importer: str, target: str) -> str:
    if not target.startswith("."):
        return target
    parts = importer.split("/")[:-1]
    for part in target.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def settings() -> dict[str, Any]:
    """What the compiler is told; part of every artifact."""
    return {
        "evmVersion": EVM_VERSION,
        "metadata": {"bytecodeHash": "none"},
        "optimizer": {"enabled": True, "runs": OPTIMIZER_RUNS},
    }


def standard_input(sources: Mapping[str, str]) -> str:
    """solc's standard JSON."""
    wanted = [
        "abi",
        "evm.bytecode.object",
        "evm.deployedBytecode.object",
        "evm.deployedBytecode.immutableReferences",
    ]
    return json.dumps(
        {
            "language": "Solidity",
            "sources": {name: {"content": sources[name]} for name in sorted(sources)},
            "settings": {**settings(), "outputSelection": {"*": {"*": wanted}}},
        }
    )


def run_solc(request: str, node_modules: Path) -> dict[str, Any]:
    """Run solc-js. Raises BuildError when it or Node is missing, or is another version."""
    node = shutil.which("node")
    if node is None:
        raise BuildError("Node is not on the PATH; the contracts are compiled by solc-js")
    for package, version in (("solc", SOLC_VERSION), ("@openzeppelin/contracts", OPENZEPPELIN_VERSION)):
        manifest = node_modules / package / "package.json"
        if not manifest.is_file():
            raise BuildError(f"{package} is not installed; run `npm ci --prefix contracts`")
        found = json.loads(manifest.read_text(encoding="utf-8"))["version"]
        if found != version:
            raise BuildError(f"{package} is {found}, not {version}; run `npm ci --prefix contracts`")
    command = [node, str(node_modules / "solc" / "solc.js"), "--standard-json"]
    # Through files: solc-js loses what a pipe does not take or give at once.
    with TemporaryFile("w+", encoding="utf-8") as question, TemporaryFile("w+", encoding="utf-8") as reply:
        question.write(request)
        question.seek(0)
        done = subprocess.run(
            command, stdin=question, stdout=reply, stderr=subprocess.PIPE, text=True,
            timeout=COMPILE_SECONDS_MAX, check=False,
        )  # fmt: skip
        reply.seek(0)
        answer = reply.read()
    start = answer.find("{")  # solc-js may print a notice before its answer.
    if done.returncode != 0 or start < 0:
        raise BuildError(f"solc-js failed with {done.returncode}: {done.stderr.strip()}")
    return json.loads(answer[start:])


def artifact_text(name: str, output: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """The canonical JSON of one artifact: sorted keys, one space of indent, a line feed at the end."""
    runtime = output["evm"]["deployedBytecode"]
    places = sorted(
        (place["start"], place["length"])
        for references in runtime["immutableReferences"].values()
        for place in references
    )
    content = {
        "contract": name,
        "abi": output["abi"],
        "bytecode": output["evm"]["bytecode"]["object"],
        "runtime": runtime["object"],
        "immutables": places,
        "compiler": {"solc": SOLC_VERSION, **settings()},
        "sources": {key: sha256(sources[key].encode()).hexdigest() for key in sorted(sources)},
    }
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.exit(main())
