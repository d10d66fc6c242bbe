"""The terminal of a run that is over, as a picture: `python -m testnet.picture DIR OUT.svg`.

Drawn from the run's own record (scenario.json, events.jsonl, result.json) by the code that drew the terminal.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from p2pfl import genesis as genesis_file
from p2pfl.errors import EXIT_OK
from testnet.facts import Event
from testnet.launch import EVENTS_FILE
from testnet.scenarios import Scenario, from_json
from testnet.story import Story
from testnet.up import introduction
from testnet.watch import Watch, spoken

WIDTH = 118  # Columns: the longest sentence of a story, with a transaction's hash in it.


def events_of(directory: Path) -> Iterator[Event]:
    """What everybody told in a run, in its order."""
    with (directory / EVENTS_FILE).open(encoding="utf-8") as file:
        for line in file:
            told = json.loads(line)
            yield Event(told["name"], told["kind"], told["fields"], told["at_s"], told["life"])


def scenario_of(directory: Path) -> Scenario:
    """What was asked for in a run."""
    return from_json(json.loads((directory / "scenario.json").read_text(encoding="utf-8")))


def draw(directory: Path, *, width: int = WIDTH) -> str:
    """An SVG of the story, and of the table as it was in the end."""
    scenario = scenario_of(directory)
    rules = genesis_file.load(directory / "genesis.json").rules
    story = Story(scenario, rules.replay_max_ppm)
    console = Console(file=io.StringIO(), record=True, width=width, highlight=False, force_terminal=True)
    console.print(Text.assemble(("$ ", "dim"), f"p2pfl testnet up {scenario.name}"))
    watch = Watch(story, out=io.StringIO(), live=False)
    for line in introduction(scenario, directory)[:-2]:
        console.print(spoken(line))
    console.print()
    for event in events_of(directory):
        for line in story.take(event):
            console.print(spoken(line, event.at_s))
        watch.draw(event.at_s)
    console.print(watch.table())
    for line in _summary(directory):
        console.print(spoken(line))
    picture = console.export_svg(title=f"p2pfl testnet up {scenario.name}")
    # rich names a font on a server; whoever looks at a picture should not be seen there.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


def _summary(directory: Path) -> list[str]:
    """How the run ended, if it did."""
    path = directory / "result.json"
    return json.loads(path.read_text(encoding="utf-8"))["summary"] if path.exists() else []


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m testnet.picture", description=__doc__)
    parser.add_argument("dir", type=Path, help="a run's folder")
    parser.add_argument("out", type=Path, help="the picture to write, .svg")
    arguments = parser.parse_args()
    arguments.out.write_text(draw(arguments.dir), encoding="utf-8")
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
