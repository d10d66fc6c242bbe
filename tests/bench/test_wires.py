"""`bench connect` and `bench messages` measure with real processes what they say they measure."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import connect, messages
from p2pfl.errors import UserError

ROOT = Path(__file__).parents[2]


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *words, "--json"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.slow
@pytest.mark.e2e
def test_two_connect_and_exchange_a_message() -> None:
    done = bench("connect", "--times", "2")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["tcp_ms"] > 0
    assert 0 < told["connect_ms"] <= told["first_message_ms"] <= told["first_message_ms_p95"]


@pytest.mark.slow
@pytest.mark.e2e
def test_four_exchange_messages_and_bare_frames_of_the_same_length() -> None:
    done = bench("messages", "--turns", "5", "--times", "1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["floor_cpu_ms"] > 0
    assert told["ratio"] == pytest.approx(told["cpu_ms_message"] / told["floor_cpu_ms"], abs=0.02)


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["connect", "--times", "0"], "--times"),
        (["messages", "--members", "3"], "--members"),
        (["messages", "--turns", "0"], "--turns"),
    ],
)
def test_what_cannot_be_measured_is_told(words: list[str], fix: str) -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    for each in (connect, messages):
        each.add_parser(commands)
    arguments = parser.parse_args(words)
    with pytest.raises(UserError) as told:
        arguments.measure(arguments)
    assert fix in told.value.fix
