"""`up`: run a scenario from the first process to the last, watched, and give back its judged result."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TextIO

import trio

from testnet import plan
from testnet.launch import Options, Run
from testnet.result import Result, as_typed
from testnet.scenarios import Scenario
from testnet.story import Story
from testnet.watch import Watch


def up(
    scenario: Scenario,
    directory: Path | None = None,
    *,
    options: Options | None = None,
    out: TextIO | None = None,
    live: bool | None = None,
) -> Result:
    """Run a scenario. Raises UserError for what the operator must mend; leaves no process behind.

    directory: new or empty; None makes ./runs/<scenario>-<time>. out: where the story goes (stdout). live: a
    table that is redrawn; None: where `out` is a terminal.
    """
    directory = plan.new_directory(directory, scenario)
    rules = plan.rules_of(scenario)
    story = Story(scenario, rules.replay_max_ppm)
    with Watch(story, out=out or sys.stdout, live=live) as watch:
        for line in introduction(scenario, directory):
            watch.say(line)
        options = options or Options()
        run = Run(scenario, directory, options, watch.show, watch.draw)

        async def finish(result: Result) -> None:
            result.save()
            watch.stop()
            for line in result.summary():
                watch.say(line)
            if options.stay:
                watch.say(f"\nThe network stays up: {result.explorer or directory}  Ctrl-C ends it.")
                await _until_interrupted()

        return trio.run(run.run, finish)


def introduction(scenario: Scenario, directory: Path) -> list[str]:
    """What is about to happen."""
    shape = scenario.network
    seats = "one seat" if shape.seats == 1 else f"{shape.seats} seats"
    chain = "an EVM chain with their stakes" if shape.chain else "no EVM chain"
    return [
        f"{scenario.title} ({scenario.name})",
        f"  claim     {scenario.claim}",
        f"  network   {shape.groups} x {shape.members} members, a council of {seats}, {chain}",
        f"  learning  {shape.model} on {shape.dataset}, {shape.rounds} rounds, seed {shape.seed}",
        f"  folder    {as_typed(directory)}",
        "",
    ]


async def _until_interrupted() -> None:
    """Sleep until Ctrl-C, which then ends the stay and not the program."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as interrupts:
        await anext(interrupts)
