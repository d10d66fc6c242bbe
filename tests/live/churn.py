"""Members that come and go for as long as one says: what their processes hold stays flat, no round is lost.

Up to f members at once are killed, told to end, or started again, one turn after the other. Some are left
alone: what must stay flat over an hour is seen in a process that lives for an hour. `soak` is the long form.
"""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import trio

from testnet.zygote import GRACE_S
from tests.live.figures import events_in, idle_blocks, rounds_of
from tests.live.judge import judge, left_in
from tests.live.network import Network, NotHeld, open_network
from tests.live.run import say
from tests.live.shape import SEAT
from tests.live.table import after

# What a process may hold more in the last quarter of its life than in the one before. Resident memory goes
# up and down with what is under way (an allocator gives back late); each peer is a descriptor and some ten
# tasks, and those who were away for a moment come back.
ALLOWANCE = {"rss_bytes": 8 << 20, "descriptors": 8, "tasks": 40}
# A quarter with fewer samples says nothing.
SAMPLES_MIN = 5


@dataclass
class Soak:
    """One run. every_s: a turn of the churn."""

    members: int
    seed: int
    model: str
    directory: Path
    minutes: float
    every_s: float
    namespaces: bool
    findings: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=lambda: {"killed": 0, "terminated": 0})


async def churn(run: Soak) -> dict[str, Any]:
    """The whole: members come and go, everybody votes in the end, and the files are judged."""
    chance, begin_s = Random(run.seed), 0.0
    async with open_network(
        run.directory, run.members, run.seed, namespaces=run.namespaces, model=run.model
    ) as network:
        await say(f"{run.members} members are up in {run.directory}")
        try:
            await after(network)
            begin_s = network.passed_s
            until_s = trio.current_time() + run.minutes * 60
            while trio.current_time() < until_s:
                await _turn(run, network, chance)
            await after(network)
        except NotHeld as wrong:
            run.findings.append(str(wrong))
            await say(f"NOT HELD: {wrong}")
        end_s = network.passed_s
        run.findings += await network.end()
    await say("the end; now the files are read")
    left = left_in(run.directory)
    run.findings += await trio.to_thread.run_sync(judge, left)
    events = events_in(run.directory)
    held = held_by(events, stayers(network.names))
    run.findings += grown(held)
    idle = idle_blocks(left)
    return {
        "held": not run.findings,
        "findings": run.findings,
        "members": run.members,
        "minutes": run.minutes,
        "every_s": run.every_s,
        "seed": run.seed,
        "model": run.model,
        "directory": str(run.directory),
        **run.done,
        **rounds_of([each for each in events if begin_s <= each["at_s"] < end_s]),
        "heights_all": network.height + 1,
        "idle_blocks": idle,
        "processes": {name: quarters(series) for name, series in held.items()},
    }


def stayers(names: Sequence[str]) -> tuple[str, ...]:
    """A quarter of the members, and the seat: they live from the beginning to the end."""
    return (*names[: max(1, len(names) // 4)], SEAT)


async def _turn(run: Soak, network: Network, chance: Random) -> None:
    """Some go, at once and in one of two ways, and are there again before the turn is over."""
    over_s = trio.current_time() + run.every_s
    before = network.height
    leavers = [name for name in network.names if name not in stayers(network.names)]
    gone = chance.sample(leavers, chance.randint(1, min(network.faulty_max, len(leavers))))
    killed = [name for name in gone if chance.random() < 0.5]
    ended = [name for name in gone if name not in killed]
    begun_s = time.monotonic()
    network.signal(signal.SIGKILL, *killed)
    network.signal(signal.SIGTERM, *ended)
    for name in gone:
        await network.ended(name)
    run.done["killed"] += len(killed)
    run.done["terminated"] += len(ended)
    run.findings += [
        f"{name} ended with status {child.status} on SIGTERM"
        for name in ended
        if (child := network.nodes[name].child) is not None and child.status
    ]
    if ended and not killed and time.monotonic() - begun_s > GRACE_S * 2:
        run.findings.append(f"{', '.join(ended)} took {time.monotonic() - begun_s:.1f} s to end")
    await trio.sleep(chance.uniform(0, run.every_s / 2))
    await network.start(*gone)
    await trio.sleep_until(over_s)
    await network.until(lambda: network.height > before, f"a height after {before} is decided")


# ---------------------------------------------------------------------------
# What must be flat.

Series = list[dict[str, int]]


def held_by(events: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Series]:
    """What each of these processes held, in the order of time."""
    found: dict[str, Series] = defaultdict(list)
    for each in events:
        if each["kind"] == "process" and each["by"] in names:
            found[each["by"]].append({what: each[what] for what in ALLOWANCE})
    return dict(found)


def quarters(series: Series) -> dict[str, list[float]]:
    """The median of each quarter of a process' life, of everything that it holds."""
    size = len(series) // 4
    if size < 1:
        return {}
    cuts = [series[i * size : (i + 1) * size] for i in range(4)]
    return {what: [median(one[what] for one in cut) for cut in cuts] for what in ALLOWANCE}


def grown(held: dict[str, Series]) -> list[str]:
    """A sentence for each process that holds more and more in the second half of its life."""
    found: list[str] = []
    for name, series in held.items():
        if len(series) < 4 * SAMPLES_MIN:
            found.append(f"{name} told only {len(series)} times what it holds")
            continue
        for what, medians in quarters(series).items():
            growth = medians[3] - medians[2]
            if growth > ALLOWANCE[what]:
                found.append(
                    f"{name}'s {what} grew by {growth:.0f} from the third quarter to the last: {medians}"
                )
    return found
