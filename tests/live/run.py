"""Faults one after the other on one network, and the judgement of what it leaves; a new one after a finding.

Says on stderr what happens. Knows the table and the judge; what a fault does is its own affair.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import trio

from tests.live.judge import judge, left_in
from tests.live.network import Network, NotHeld, open_network
from tests.live.table import Fault, Form, after


@dataclass
class Done:
    """One fault that was tried. seconds: until everybody voted again. heights: decided meanwhile."""

    name: str
    held: bool
    seconds: float
    heights: int


@dataclass
class Result:
    """The whole. skipped: faults that this machine cannot do, and why."""

    members: int
    seed: int
    cable: str
    directory: str
    findings: list[str] = field(default_factory=list)
    faults: list[Done] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    networks: int = 0
    heights: int = 0
    signatures: int = 0
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether there is nothing to find fault with."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {"held": self.held, **asdict(self)}


async def run(
    faults: list[Fault], *, members: int, seed: int, form: Form, directory: Path, namespaces: bool
) -> Result:
    """All these faults. A finding ends its network; the next fault gets a new one."""
    result = Result(members, seed, "namespaces" if namespaces else "relays", str(directory))
    begun_s = time.monotonic()
    left = []
    for each in faults:
        because = each.needs()
        if because is None:
            left.append(each)
        else:
            result.skipped[each.name] = because
    while left:
        place = directory / f"network{result.networks}"
        result.networks += 1
        left = await _one_network(left, result, form, place)
    result.seconds = round(time.monotonic() - begun_s, 1)
    return result


async def _one_network(left: list[Fault], result: Result, form: Form, place: Path) -> list[Fault]:
    """Faults until one finds something; returns those that are left."""
    tried: list[str] = []
    async with open_network(
        place, result.members, result.seed, namespaces=result.cable == "namespaces"
    ) as network:
        await say(f"{result.members} members are up in {place}")
        sound = True
        try:
            await after(network)
            while left and sound:
                each, *left = left
                tried.append(each.name)
                # Chance of its own: a fault does the same whether it comes alone or after others.
                sound = await _one_fault(each, network, Random(f"{result.seed} {each.name}"), form, result)
        except NotHeld as wrong:
            result.findings.append(f"before any fault: {wrong}")
            left = []
        unclean = await network.end()
        result.findings += [f"after {', '.join(tried)}: {words}" for words in unclean]
    heights = network.height + 1
    result.heights += heights
    await say(f"the end after {heights} heights; now the files are read")
    files = left_in(place)
    result.signatures += sum(len(files.sent_by(name)) for name in files.folders)
    words = await trio.to_thread.run_sync(judge, files)
    result.findings += [f"after {', '.join(tried)}: {each}" for each in words]
    return left


async def _one_fault(each: Fault, network: Network, chance: Random, form: Form, result: Result) -> bool:
    begun_s, before = time.monotonic(), network.height
    await say(f"{each.name}: {each.does}")
    held = True
    try:
        await each.run(network, chance, form)
        await after(network)
    except NotHeld as wrong:
        held = False
        result.findings.append(f"{each.name}: {wrong}")
        await say(f"{each.name}: {wrong}")
    done = Done(each.name, held, round(time.monotonic() - begun_s, 1), network.height - before)
    result.faults.append(done)
    await say(f"{each.name}: {'held' if held else 'NOT HELD'} after {done.seconds} s, {done.heights} heights")
    return held


async def say(line: str) -> None:
    """What happens, on stderr."""
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)
    await trio.lowlevel.checkpoint()
