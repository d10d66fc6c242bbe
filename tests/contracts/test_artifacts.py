"""What is checked in is what the sources say."""

from __future__ import annotations

import json
import os
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from contracts import Artifact, artifact, build

ROOT = Path(__file__).resolve().parents[2]
NODE_MODULES = Path(os.environ.get("SOLC_NODE_MODULES", build.NODE_MODULES))
CAN_COMPILE = shutil.which("node") is not None and (NODE_MODULES / "solc").is_dir()
FILES = [(job, ROOT / job.out / f"{name}.json") for job in build.JOBS for name in job.contracts]


@pytest.mark.parametrize(("job", "path"), FILES, ids=lambda value: getattr(value, "stem", ""))
def test_no_source_changed_after_it_was_compiled(job: build.Job, path: Path) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    own = {name: digest for name, digest in told["sources"].items() if not name.startswith("@")}
    assert set(own) == set(job.sources)
    for name, digest in own.items():
        assert sha256((ROOT / name).read_bytes()).hexdigest() == digest, (
            f"{name}: run python -m contracts.build"
        )
    assert told["compiler"] == {"solc": build.SOLC_VERSION, **build.settings()}


@pytest.mark.parametrize(("job", "path"), FILES, ids=lambda value: getattr(value, "stem", ""))
def test_an_artifact_is_canonical_and_names_no_path_of_a_machine(job: build.Job, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" == text
    assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.skipif(not CAN_COMPILE, reason="needs Node, and `npm ci --prefix contracts`")
def test_compiling_again_gives_the_same_bytes() -> None:
    assert build.main(["--check", "--node-modules", str(NODE_MODULES)]) == 0


def test_the_lock_file_names_no_host() -> None:
    lock = json.loads((ROOT / "contracts" / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages["node_modules/solc"]["version"] == build.SOLC_VERSION
    assert packages["node_modules/@openzeppelin/contracts"]["version"] == build.OPENZEPPELIN_VERSION
    assert packages["node_modules/@foundry-rs/forge-linux-amd64"]["optional"]  # Elsewhere npm leaves it out.
    assert all("integrity" in entry and "resolved" not in entry for entry in packages.values())
    assert "://" not in json.dumps(lock)


def test_a_missing_compiler_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build.main(["--check", "--node-modules", str(tmp_path)]) == 3
    assert "npm ci --prefix contracts" in capsys.readouterr().err


def test_a_difference_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / build.JOBS[0].out / "StakingRegistry.json"
    made = {file: file.read_text(encoding="utf-8") for _, file in FILES}
    assert build.check(made) == 0
    assert build.check({**made, path: made[path] + " "}) == 1
    del made[path]
    assert build.check(made) == 1
    told = capsys.readouterr().err
    assert "is not what its sources compile to" in told
    assert "has no source" in told


def test_code_on_a_chain_is_recognised_whatever_its_immutables_are() -> None:
    compiled = artifact("StakingRegistry")
    assert compiled.immutables
    code = bytearray(compiled.runtime)
    start, length = compiled.immutables[0]
    code[start : start + length] = b"\x07" * length
    assert compiled.matches(bytes(code))
    code[0] ^= 1
    assert not compiled.matches(bytes(code))
    assert not compiled.matches(b"")
    assert not artifact("SlashingManager").matches(compiled.runtime)


def test_an_unknown_contract_is_no_artifact() -> None:
    with pytest.raises(FileNotFoundError):
        artifact("Nothing")


def test_every_revert_of_ours_is_an_error_with_arguments() -> None:
    names = sorted({name for job in build.JOBS[:-1] for name in job.sources})
    ours = [(ROOT / name).read_text(encoding="utf-8") for name in names]
    declared = [
        line.strip() for text in ours for line in text.splitlines() if line.strip().startswith("error ")
    ]
    assert len(declared) > 30
    assert not [line for line in declared if "()" in line]
    assert not [text for text in ours if "require(" in text or 'revert("' in text or "revert()" in text]


def test_artifacts_are_values() -> None:
    assert isinstance(artifact("StakingRegistry"), Artifact)
    assert artifact("StakingRegistry") is artifact("StakingRegistry")
