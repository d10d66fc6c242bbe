"""The command as a user types it: what it refuses at once, and one small network from start to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.testnet.test_zygote import all_ended, handles

# Two rounds of one group learn too little for the claim of `honest` about accuracy.
SMALL = """
title = "A small network"
claim = "One group and a council of one seat run two rounds; nobody is accused."
culprits = []
[network]
groups = 1
seats = 1
rounds = 2
[limits]
run_s = 120.0
[holds]
all_rounds = true
accuracy_min = 0.15
accused_exactly_culprits = true
slashed_exactly_culprits = true
no_contradiction = true
"""
# f members of four may be gone for ever; it is killed when it is its turn.
BEREFT = (
    SMALL.replace("rounds = 2", "rounds = 4")
    + """
[times]
train_ms = 3000
collect_ms = 1000
[[kills]]
group = "g0"
height = 1
step = "train"
"""
)
MARK = "P2PFL_TEST_RUN"


def p2pfl(*words: str, mark: str = "x") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p2pfl", *words]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, MARK: mark}, check=False
    )


def started(*words: str, mark: str) -> subprocess.Popen[str]:
    """The command, running."""
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "p2pfl", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, MARK: mark},
    )


def still_there(mark: str) -> list[int]:
    """Process ids of a run, however far they descend from it."""
    wanted = f"{MARK}={mark}".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_wrong_scenario_is_told_the_right_ones() -> None:
    done = p2pfl("testnet", "up", "sing_flip")
    assert done.returncode == 3
    assert "sign_flip" in done.stderr


def test_an_old_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("history")
    done = p2pfl("testnet", "up", "honest", "--dir", str(tmp_path), "--json")
    assert done.returncode == 3
    assert "--dir" in done.stderr
    assert (tmp_path / "old").read_text() == "history"


def test_scenarios_are_listed_with_their_claims() -> None:
    done = p2pfl("testnet", "scenarios", "--json")
    listed = {each["name"]: each["claim"] for each in json.loads(done.stdout)}
    assert set(listed) >= {"honest", "sign_flip", "equivocate", "crash"}
    assert all(listed.values())


@pytest.mark.e2e
@pytest.mark.slow
def test_a_small_network_runs_and_leaves_nothing_behind(tmp_path: Path) -> None:
    scenario = tmp_path / "small.toml"
    scenario.write_text(SMALL)
    run = tmp_path / "run"
    with started(
        "testnet", "up", str(scenario), "--dir", str(run), "--json", "--stay", mark=str(run)
    ) as process:
        assert process.stderr is not None
        story = [next(line for line in process.stderr if "explorer:" in line)]
        url = story[0].split()[-1]
        assert any("stays up" in line for line in process.stderr)
        with urllib.request.urlopen(url) as page:
            assert b"Network testnet small" in page.read()
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate()
    assert process.returncode == 0
    last = json.loads(out.splitlines()[-1])
    assert last["held"] is True
    assert last["scenario"] == "small"
    assert len(last["accuracy"]) == 2
    assert last["blocks"] >= 4  # Two of the group, and the council's that count them.
    assert sum(last["wire_bytes"].values()) > 0
    assert last["peak_rss_mb"] > last["peak_pss_mb"] > 0
    assert still_there(str(run)) == []
    verified = p2pfl("audit", "verify", str(run), "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_process_outlives_the_command(tmp_path: Path, number: signal.Signals, status: int) -> None:
    scenario = tmp_path / "small.toml"
    scenario.write_text(SMALL)
    run = tmp_path / "run"
    with started("testnet", "up", str(scenario), "--dir", str(run), "--plain", mark=str(run)) as process:
        assert process.stdout is not None
        said = [next(line for line in process.stdout if "processes are up" in line)]
        watched = handles(still_there(str(run)))
        assert len(watched) > 5
        process.send_signal(number)
        out, errors = process.communicate()
        said += [out, errors]
    assert process.returncode == status, said
    assert all_ended(watched)
    assert still_there(str(run)) == []


@pytest.mark.e2e
@pytest.mark.slow
def test_a_group_goes_on_without_a_member_that_is_gone_for_ever(tmp_path: Path) -> None:
    scenario = tmp_path / "bereft.toml"
    scenario.write_text(BEREFT)
    done = p2pfl("testnet", "up", str(scenario), "--no-chain", "--dir", str(tmp_path / "run"), "--json")
    assert done.returncode == 0, done.stderr
    assert "g0m1, whose turn it is, gets kill -9" in done.stderr
    # It is waited for at the height of its turn and never again (a busy machine may wait for others).
    _, after = done.stderr.split("gets kill -9", 1)
    assert after.count("in the place of g0m1") == 1, done.stderr
