"""Worlds of four members, of seven, and of other sizes, some above f; a failing seed prints its story."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.sim.__main__ import KINDS, bug, explore, main, tell, world_of

STEP = 100
WORLDS = [(4, range(seed, seed + STEP)) for seed in range(0, 2000, STEP)]
WORLDS += [(7, range(seed, seed + 50)) for seed in range(0, 300, 50)]
WORLDS += [(n, range(20)) for n in (1, 2, 3, 5, 10)] + [(16, range(8))]
# Above f: members, liars, seeds.
ABOVE = [
    (4, 2, range(150)),
    (4, 2, range(150, 300)),
    (7, 3, range(40)),
    (7, 4, range(80)),
    (16, 8, range(4)),
]


class Scar(NamedTuple):
    """A line of scars.txt."""

    members: int
    seed: int
    byzantine: str
    count: int
    mutant: str


def scars() -> list[Scar]:
    text = (Path(__file__).parent / "scars.txt").read_text(encoding="utf-8")
    found: list[Scar] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            members, seed, byzantine, count, rest = line.split(maxsplit=4)
            found.append(Scar(int(members), int(seed), byzantine, int(count), rest.split(":")[0]))
    return found


@pytest.mark.parametrize(("members", "seeds"), WORLDS, ids=str)
def test_no_oracle_is_broken(members: int, seeds: range) -> None:
    found = explore(seeds, members).violations
    if found:
        seed = min(min(each) for each in found.values())
        oracles, told = tell(seed, members)
        pytest.fail(f"python -m tests.sim --members {members} --seeds {seed}:{seed + 1}: {oracles}\n{told}")


@pytest.mark.parametrize(("members", "liars", "seeds"), ABOVE, ids=str)
def test_above_f_whoever_breaks_agreement_is_named(members: int, liars: int, seeds: range) -> None:
    found = explore(seeds, members, count=liars)
    assert found.violations == {}
    assert found.broken >= len(seeds) // 8
    assert found.offences["DENIED_COMMIT"] > 0


@pytest.mark.parametrize("scar", scars(), ids=str)
def test_scars_stay_healed(scar: Scar) -> None:
    found, told = tell(scar.seed, scar.members, byzantine=scar.byzantine, count=scar.count)
    assert found == {}, told


@pytest.mark.parametrize("scar", scars(), ids=str)
def test_scars_would_still_be_cut_by_what_cut_them(scar: Scar) -> None:
    found, _ = tell(scar.seed, scar.members, byzantine=scar.byzantine, count=scar.count, **bug(scar.mutant))
    assert found


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
    assert proved["colluders"] >= 3
    assert proved["forgetful"] >= 1


def test_the_bad_time_is_bad_enough() -> None:
    told = "\n".join(tell(seed, 4)[1] for seed in range(150))
    for event in (
        "the network splits",
        "enters round height=0 round=3",
        "blames",
        "FetchBlock",
        "DecidedMessage",
        "BlockMessage",
        "crashes where=before-Persist",  # Before the disk is asked for anything,
        "crashes where=before-Decide",
        "crashes where=before-Sign",  # after it took what makes a vote safe,
        "crashes where=amid-a-send",  # with a vote at some peers and not at others,
        "crashes where=block-stored",  # between the two files of a decision;
        "unsynced=2 of_them_kept=1",  # a torn end.
        "loses its WAL",
        "begins an epoch epoch=1 votes=True",
        "begins an epoch epoch=1 votes=False",
    ):
        assert event in told, event


def test_clocks_are_apart_and_who_is_too_far_ahead_is_refused() -> None:
    refusals = 0
    for seed in range(40):
        world = world_of(seed, 4, byzantine="none")
        skews = {member.skew_ms for member in world.members}
        if world.weather.skew_ms >= 60 and world.weather.stubborn == 0:
            assert len(skews) > 1
            told = tell(seed, 4, byzantine="none")[1]
            refusals += "invalid block" in told
    assert refusals >= 3


def test_a_committee_changes_in_many_worlds_and_who_joins_votes() -> None:
    changed, joined = 0, 0
    for seed in range(30):
        world = world_of(seed, 4, byzantine="none")
        if world.epochs.last_heights:
            changed += 1
            world.run()
            joiner = next(member for member in world.members if member.id not in world.epochs.at(0))
            joined += any(vote.epoch == 1 for vote in world.notary.votes_of(joiner.id))
    assert changed >= 6
    assert joined >= changed // 2


def test_the_same_seed_gives_the_same_story_in_every_process() -> None:
    texts = set()
    for hash_seed in ("1", "2"):
        for more in ([], ["--byzantine-count", "2"]):
            done = subprocess.run(
                [sys.executable, "-m", "tests.sim", "--members", "4", "--seeds", "0:8", "--story", *more],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                check=True,
            )
            texts.add(done.stderr)
    assert len(texts) == 2
    assert all("decides" in text for text in texts)


def test_the_command_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--members", "4", "--seeds", "5:8", "--byzantine", "twins", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["seeds"] == 3
    assert result["violations"] == {}
    assert result["seeds_per_second"] > 0


def test_above_f_the_command_says_how_often_agreement_broke(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0:30", "--byzantine-count", "2", "--jobs", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["broken"] > 0
    assert sum(result["offences"].values()) >= 2 * result["broken"]


def test_a_mutant_is_found_and_its_story_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "0:20", "--mutant", "quorum minus one", "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["violations"]
    assert "decides" in told.err
    with pytest.raises(SystemExit, match="no mutant has the name"):
        main(["--seeds", "0:1", "--mutant", "nonsense"])
