"""Two thousand worlds of four members and two hundred of seven; a failing seed prints its story."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.__main__ import KINDS, main, violations, world_of

STEP = 100
WORLDS = [(4, range(seed, seed + STEP)) for seed in range(0, 2000, STEP)]
WORLDS += [(7, range(seed, seed + 50)) for seed in range(0, 200, 50)]
WORLDS += [(n, range(20)) for n in (1, 2, 3, 10, 16)]
# Seeds that once broke an oracle: (members, seed, byzantine kind).
SCARS = [
    (4, 250, "none"),  # Answers that were lost in a partition had used up their number (R7).
    (4, 779, "none"),  # A member that its guard kept silent asked nobody (R8).
]


def story(members: int, seed: int, byzantine: str = "any") -> tuple[dict[str, str], str]:
    told: list[str] = []
    world = world_of(seed, members, byzantine=byzantine, story=told)
    world.run()
    return world.oracles.found, "\n".join(told)


@pytest.mark.parametrize(("members", "seeds"), WORLDS, ids=str)
def test_no_oracle_is_broken(members: int, seeds: range) -> None:
    found = violations(seeds, members)
    if found:
        seed = min(min(each) for each in found.values())
        oracles, told = story(members, seed)
        pytest.fail(f"python -m tests.sim --members {members} --seeds {seed}:{seed + 1}: {oracles}\n{told}")


@pytest.mark.parametrize(("members", "seed", "byzantine"), SCARS)
def test_scars_stay_healed(members: int, seed: int, byzantine: str) -> None:
    found, told = story(members, seed, byzantine)
    assert found == {}, told


def test_every_kind_of_liar_turns_up_and_the_clumsy_ones_are_proved_guilty() -> None:
    proved = {}
    for kind in KINDS:
        worlds = [world_of(seed, 4, byzantine=kind) for seed in range(15)]
        for world in worlds:
            world.run()
            assert world.oracles.found == {}
        proved[kind] = sum(bool(world.oracles.proved) for world in worlds)
    assert proved["none"] == proved["silent"] == proved["selective"] == 0
    assert proved["parrot"] >= 10
    assert proved["mutator"] >= 10
    assert proved["twins"] >= 3
    assert proved["forgetful"] >= 1


def test_the_bad_time_is_bad_enough() -> None:
    told = "\n".join(story(4, seed)[1] for seed in range(40))
    for event in ("crashes", "the network splits", "enters round height=0 round=3", "blames", "FetchBlock",
                  "DecidedMessage", "BlockMessage"):  # fmt: skip
        assert event in told, event


def test_the_same_seed_gives_the_same_story_in_every_process() -> None:
    texts = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "tests.sim", "--members", "4", "--seeds", "0:12", "--story"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        texts.add(done.stderr)
    assert len(texts) == 1
    assert "decides" in texts.pop()


def test_the_command_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--members", "4", "--seeds", "5:8", "--byzantine", "twins", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["seeds"] == 3
    assert result["violations"] == {}
    assert result["seeds_per_second"] > 0
