"""Runs that were recorded, told again: a story is a transcript that anyone can read.

`python -m tests.testnet.test_stories DIR NAME` keeps the events of a run that its story needs, and its story.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from testnet.facts import Event
from testnet.picture import draw, events_of
from testnet.scenarios import load
from testnet.story import Story

STORIES = Path(__file__).with_name("stories")
NAMES = sorted(path.stem for path in STORIES.glob("*.txt"))
REPLAY_MAX_PPM = 100_000


def retold(path: Path) -> list[str]:
    """The sentences that follow from recorded events."""
    story = Story(load(path.stem), REPLAY_MAX_PPM)
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        event = Event(told["name"], told["kind"], told["fields"], told["at_s"], told["life"])
        lines += [f"{event.at_s:6.1f} s  {sentence}" for sentence in story.take(event)]
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_tells_its_story(name: str) -> None:
    assert retold(STORIES / f"{name}.jsonl") == (STORIES / f"{name}.txt").read_text().splitlines()


def test_a_block_that_is_taken_back_is_told_once() -> None:
    story = Story(load("honest"), REPLAY_MAX_PPM)
    said = [{"member": f"g0m{n}", "loss_old": 1.0, "loss_new": 9.0, "approves": n == 3} for n in range(4)]
    fields = {"group": "g0", "height": 3, "taken_back": True, "ballots": said}
    lines = [story.take(Event(f"g0m{n}", "ballots", fields, 1.0, 0)) for n in range(4)]
    assert lines == [["round 3: g0 is taken back: 3 of 4 lose more by it on held-out data"], [], [], []]
    kept = {**fields, "height": 4, "taken_back": False}
    assert story.take(Event("g0m0", "ballots", kept, 1.0, 0)) == []


def test_every_scenario_with_an_ending_has_a_story() -> None:
    assert set(NAMES) >= {"sign_flip", "equivocate", "crash"}


def record(directory: Path, name: str) -> None:
    """Keep what the story of this run needs."""
    story = Story(load(name), REPLAY_MAX_PPM)
    kept = [event for event in events_of(directory) if story.take(event)]
    path = STORIES / f"{name}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for event in kept:
            told = {"name": event.name, "kind": event.kind, "fields": event.fields}
            file.write(json.dumps({**told, "at_s": event.at_s, "life": event.life}) + "\n")
    path.with_suffix(".txt").write_text("\n".join(retold(path)) + "\n", encoding="utf-8")


def test_a_picture_shows_the_story_and_asks_no_server_for_a_font(tmp_path: Path) -> None:
    from consensus.types import ZERO_MEMBER
    from p2pfl.genesis import ChainEntry
    from testnet import plan

    scenario = load("sign_flip")
    ground = plan.break_ground(scenario, plan.new_directory(tmp_path / "run", scenario))
    plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER))
    (tmp_path / "run" / "events.jsonl").write_bytes((STORIES / "sign_flip.jsonl").read_bytes())
    picture = draw(tmp_path / "run").replace("&#160;", " ")
    assert "council: g2m3 is guilty" in picture
    assert "distance" in picture
    assert "font-face" not in picture


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2])
