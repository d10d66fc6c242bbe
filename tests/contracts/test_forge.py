"""The golden vectors in Solidity: `forge/Vectors.t.sol` reads the files and asks the contracts.

Needs forge (on the PATH, or `npm ci --prefix contracts` on Linux) and solc-js.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts import build
from tests.consensus import vectors

ROOT = Path(__file__).resolve().parents[2]
NODE_MODULES = Path(os.environ.get("SOLC_NODE_MODULES", build.NODE_MODULES)).resolve()
FORGE = shutil.which("forge") or shutil.which("forge", path=str(NODE_MODULES / ".bin"))
SECONDS_MAX = 300
FILES = (
    "digests",
    "headers",
    "committees",
    "signatures",
    "certificates",
    "verdicts",
    "anchors",
    "evidence",
    "chains",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        FORGE is None or shutil.which("node") is None or not (NODE_MODULES / "solc").is_dir(),
        reason="needs forge, Node, and `npm ci --prefix contracts`",
    ),
]

# Forge asks a native solc for its version, then hands it standard JSON.
COMPILER = """#!{python}
import json, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from contracts import build
if "--version" in sys.argv:
    print("solc, the solidity compiler commandline interface")
    print("Version: " + build.SOLC_VERSION)
else:
    print(json.dumps(build.run_solc(sys.stdin.read(), Path({node_modules!r}))))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A foundry project outside of the tree, whose sources are those of the tree."""
    folder = tmp_path_factory.mktemp("forge")
    compiler = folder / "solc"
    told = {"python": sys.executable, "root": str(ROOT), "node_modules": str(NODE_MODULES)}
    compiler.write_text(COMPILER.format(**told), encoding="utf-8")
    compiler.chmod(0o755)
    sources = str(ROOT / "tests" / "contracts" / "forge")
    remappings = [
        f"@openzeppelin/={NODE_MODULES / '@openzeppelin'}/",
        f"contracts/={ROOT / 'contracts'}/",
    ]
    options = {
        "src": sources,
        "test": sources,
        "out": "out",
        "cache_path": "cache",
        "libs": [],
        "solc": str(compiler),
        "offline": True,
        "evm_version": build.EVM_VERSION,
        "optimizer": True,
        "optimizer_runs": build.OPTIMIZER_RUNS,
        "auto_detect_remappings": False,
        "remappings": remappings,
        "allow_paths": [str(ROOT), str(NODE_MODULES)],
        "gas_limit": str(2**64 - 1),
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    lines.append(f'fs_permissions = [{{ access = "read", path = {json.dumps(str(vectors.FOLDER))} }},')
    lines.append(f'  {{ access = "read", path = {json.dumps(str(folder))} }}]')
    (folder / "foundry.toml").write_text("\n".join(["[profile.default]", *lines, ""]), encoding="utf-8")
    return folder


def forge_test(project: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Run it on the vectors in a folder: what became of each test, by its file."""
    assert FORGE is not None
    done = subprocess.run(
        [FORGE, "test", "--json", "-vv", "--root", str(project)],
        env={**os.environ, "VECTORS": str(folder)},
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    start = done.stdout.find("{")
    assert start >= 0, done.stdout + done.stderr
    (suite,) = json.loads(done.stdout[start:]).values()
    results: dict[str, Any] = suite["test_results"]
    return {name.removeprefix("test").removesuffix("()").lower(): one for name, one in results.items()}


def test_solidity_agrees_with_every_vector(project: Path) -> None:
    results = forge_test(project, vectors.FOLDER)
    for name in FILES:
        assert results[name]["status"] == "Success", results[name]["reason"]
        # Every line was read: a file that ends early would agree too.
        assert f"{name}: {len(vectors.read(name))}" in results[name]["decoded_logs"]
    assert set(results) == set(FILES)


def change(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda vector: vector.__setitem__(name, value)


SPOILT: dict[str, Callable[[dict[str, Any]], None]] = {
    "digests": change("digest", "0x" + "00" * 32),
    "headers": change("blockId", "0x" + "00" * 32),
    "committees": change("quorum", 16),
    "signatures": change("valid", False),
    "certificates": change("errors", ["NoQuorum(uint256,uint256)"]),
    "verdicts": change("errors", ["NoQuorum(uint256,uint256)"]),
    "anchors": change("errors", ["NotTheLastBlock(bytes32,bytes32)"]),
    "evidence": change("errors", ["NoConflict(uint256)"]),
    "chains": lambda vector: vector.update(valid=False, brokenAt=0, fault="certificate"),
}


def test_solidity_notices_one_wrong_vector_in_each_file(project: Path) -> None:
    folder = project / "spoilt"
    shutil.copytree(vectors.FOLDER, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for name, spoil in SPOILT.items():
        head, first, *rest = vectors.path_of(name).read_text(encoding="utf-8").split("\n")
        vector = json.loads(first.rstrip(","))
        spoil(vector)
        (folder / f"{name}.json").write_text(
            "\n".join([head, json.dumps(vector) + ",", *rest]), encoding="utf-8"
        )
    results = forge_test(project, folder)
    for name in FILES:
        assert results[name]["status"] == "Failure"
        assert vectors.read(name)[0]["name"] in results[name]["reason"]
