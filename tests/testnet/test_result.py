"""The JSON object of a run has the names that programs rely on, and memory is measured as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from testnet.facts import Event, Facts
from testnet.judge import Outcome
from testnet.memory import Memory
from testnet.result import Result
from testnet.scenarios import load

NAMES = {
    "scenario", "claim", "held", "rounds", "accuracy", "expected_culprits", "accused", "slashed",
    "honest_slashed", "blocks", "round_seconds", "start_seconds", "peak_rss_mb", "peak_pss_mb", "wire_bytes",
    "run_dir",
}  # fmt: skip


def result(directory: Path, broken: list[str], **outcome: Any) -> Result:
    facts = Facts()
    block = {"round": 0, "block_id": "0x1", "proposer": "g0m0"}
    facts.take(Event("g0m0", "decided", {"group": "g0", "height": 0, "seconds": 1.5, **block}, 2.0))
    facts.take(Event("g0m0", "evaluated", {"group": "g0", "height": 0, "accuracy": 0.5}, 2.0))
    facts.take(Event("seat0", "evaluated", {"group": "council", "height": 0, "accuracy": 0.75}, 2.0))
    facts.take(Event("g0m0", "wire", {"sent": {"messages": 3}}, 2.0))
    facts.take(Event("seat0", "slashed", {"accused": "g2m3", "amount_wei": 10**18, "tx": "0xaa"}, 2.0))
    return Result(load("sign_flip"), directory, Outcome(facts, **outcome), broken, 4.25, Memory(os.getpid()))


def test_the_object_has_its_names_and_is_json(tmp_path: Path) -> None:
    table = json.loads(json.dumps(result(tmp_path, [], slashed=["g1m0", "g2m3"]).as_json()))
    assert set(table) == NAMES
    assert table["held"] is True
    assert table["accuracy"] == [0.75]
    assert table["round_seconds"] == {"p50": 1.5, "p95": 1.5}
    assert (table["expected_culprits"], table["slashed"]) == (["g2m3"], ["g1m0", "g2m3"])
    assert (table["honest_slashed"], table["blocks"], table["wire_bytes"]) == (1, 1, {"messages": 3})


def test_a_run_that_decided_nothing_has_an_object_too(tmp_path: Path) -> None:
    empty = Result(load("honest"), tmp_path, Outcome(Facts()), ["all"], None, Memory(os.getpid()))
    assert empty.as_json()["round_seconds"] == {"p50": None, "p95": None}
    assert "not measured" in "\n".join(empty.summary())


def test_the_summary_says_why_and_how_to_check(tmp_path: Path) -> None:
    text = "\n".join(result(tmp_path, ["g1m0 was slashed, and is no culprit"], slashed=["g1m0"]).summary())
    for words in (
        "DOES NOT HOLD",
        "no culprit",
        f"p2pfl audit verify {tmp_path}",
        "1 ETH of g2m3 by tx 0xaa",
    ):
        assert words in text
    assert "the claim holds" in "\n".join(result(tmp_path, []).summary())


def test_the_reasons_are_kept_beside_the_run(tmp_path: Path) -> None:
    result(tmp_path, ["because"]).save()
    assert json.loads((tmp_path / "result.json").read_text())["broken"] == ["because"]


def test_memory_is_that_of_all_descendants() -> None:
    memory = Memory(os.getpid())
    memory.sample()
    alone, shared = memory.peak_rss_bytes, memory.peak_pss_bytes
    assert 0 < shared <= alone
    hog = "import sys; data = bytearray(64_000_000); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hog], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        memory.sample()
        child.communicate()
    assert memory.processes >= 2
    assert memory.peak_rss_bytes > alone + 64_000_000
    assert memory.peak_pss_bytes > shared + 60_000_000


def test_a_process_that_is_gone_counts_nothing() -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    memory = Memory(int(child.stdout))
    memory.sample()
    assert (memory.peak_rss_bytes, memory.peak_pss_bytes) == (0, 0)
