"""A network of four real processes gets over its faults; and what the judge says is not always yes.

The short form. The long ones, of 7 and 16 members: `python -m tests.live faults --members 16`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from consensus import signing
from consensus.types import Commit, Digest
from p2pfl.keys import load_signing_key
from p2pfl.store import Folder
from tests.live import faults, faults_around, faults_memory
from tests.live.judge import Left, audited, guarded_first, identical, left_in, without_offence
from tests.live.table import TABLE
from tests.live.typed import typed

ROOT = Path(__file__).parents[2]
# What a machine that tests every commit has time for; the others are for long forms.
FAULTS = tuple(
    function.__name__
    for function in (faults.kill, faults.power_cut, faults_around.cut_off, faults_memory.wipe)
)
RUN_S_MAX = 600
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The short form as somebody types it: its result and what it left."""
    directory = tmp_path_factory.mktemp("live")
    chosen = (word for name in FAULTS for word in ("--only", name))
    words = ("faults", "--members", "4", "--short", *chosen)
    return typed(*words, directory=directory, timeout_s=RUN_S_MAX), directory / "network0"


@pytest.fixture
def left(run: tuple[dict[str, Any], Path], tmp_path: Path) -> Left:
    """What the run left, on a copy that may be spoilt."""
    shutil.copytree(run[1], tmp_path / "run")
    return left_in(tmp_path / "run")


def test_the_network_gets_over_each_fault(run: tuple[dict[str, Any], Path]) -> None:
    result, _ = run
    assert result["findings"] == []
    assert result["held"] is True
    assert {each["name"] for each in result["faults"]} | set(result["skipped"]) == set(FAULTS)
    assert len(result["faults"]) >= 3
    assert all(each["heights"] >= 2 for each in result["faults"])


def test_each_fault_says_what_it_does_and_what_must_hold() -> None:
    assert set(FAULTS) < {*TABLE}
    assert all(each.does.endswith(".") and each.holds for each in TABLE.values())
    handbook = (ROOT / "docs" / "testnet.md").read_text(encoding="utf-8")
    assert [name for name in TABLE if f"| `{name}` |" not in handbook] == []


def newest_commit(left: Left, name: str) -> tuple[Path, dict[str, Any]]:
    """The file of what a node sent, and the newest COMMIT in it."""
    path = left.directory / "sent" / f"{name}.jsonl"
    told = [json.loads(line) for line in path.read_text().splitlines()]
    return path, next(one for one in reversed(told) if one["kind"] == "Commit")


def test_a_second_vote_that_only_ever_left_by_wire_is_found(left: Left) -> None:
    assert without_offence(left) == []
    path, told = newest_commit(left, "g0m1")
    epoch, height, round_ = told["place"]
    other = Commit(epoch, height, round_, Digest(b"\xee" * 32))
    digest = signing.signing_digest(left.genesis.domain("g0"), other)
    key = load_signing_key(left.folders["g0m1"].signing_key)
    forged = {
        **told,
        "digest": digest.hex(),
        "words": signing.words(other).hex(),
        "signature": signing.sign(key.secret, digest).hex(),
    }
    with path.open("a") as file:
        file.write(json.dumps(forged) + "\n")
    assert any(
        "g0m1 signed against itself" in words and "TWO_COMMIT" in words for words in without_offence(left)
    )
    assert any("g0m1 sent a Commit" in words for words in guarded_first(left))


def test_a_second_vote_in_a_folder_that_was_wiped_is_found(left: Left) -> None:
    ((name, copy),) = left.copies
    other = "g0m0" if name != "g0m0" else "g0m1"
    shutil.copy(left.folders[other].guard, copy.guard)  # As if it had signed what another one did.
    before = len(left.sent_by(name))
    assert before
    found = without_offence(left)
    assert any(f"{name} signed" in words for words in found), found


def test_a_chain_that_differs_and_a_block_that_is_lost_are_found(left: Left) -> None:
    assert identical(left) == []
    height = max(h for group, h in left.decided if group == "g0")
    left.decided["g0", height].add("0x" + "ee" * 32)
    assert identical(left) == [f"g0: what was decided at height {height} is in nobody's files"]
    assert audited(left) == []
    chain = left.folders["g0m2"].chain("g0")
    with chain.open("r+b") as file:
        file.seek(chain.stat().st_size // 2)
        file.write(b"\x00" * 64)
    assert audited(left) != []


def test_a_signature_that_no_guard_holds_is_found(left: Left) -> None:
    assert guarded_first(left) == []
    _, told = newest_commit(left, "g0m3")
    guard = Folder(left.folders["g0m3"].path).guard
    data = guard.read_bytes()
    guard.write_bytes(data[: data.index(bytes.fromhex(told["digest"]))])  # A rename that was rolled back.
    assert any("g0m3 sent a" in words for words in guarded_first(left))
