"""Rounds over long, lossy and slow lines; a member that moves; a laptop that sleeps.

    steady    rounds for as long as one says
    moved     a member gets another address while the rounds go on
    asleep    a member's processes stop and its line is off for a minute, then it wakes

Each phase ends when everybody has voted again. A sleep is a SIGSTOP of the member and its training process,
with its line down: on waking both its clocks have jumped (a real suspend stops the monotonic one).
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import trio

from tests.live.figures import events_in, idle_blocks, rounds_of
from tests.live.judge import judge, left_in
from tests.live.line import Line
from tests.live.lines import Lines
from tests.live.network import Network, NotHeld, open_network
from tests.live.run import say
from tests.live.table import after, rest, victims

# As long as it takes to carry a laptop to the next room.
SLEEP_S = 60.0


@dataclass
class Conditions:
    """One run. phases: figures of each, in their order."""

    members: int
    seed: int
    model: str
    line: Line
    directory: Path
    minutes: float
    findings: list[str] = field(default_factory=list)
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "held": not self.findings,
            "findings": self.findings,
            "members": self.members,
            "model": self.model,
            "seed": self.seed,
            "round_trip_ms": round(self.line.round_trip_s * 1000),
            "loss_percent": self.line.loss * 100,
            "rate_mbit_s": self.line.rate_bits_s / 1e6,
            "directory": str(self.directory),
            **self.phases,
        }


async def netem(run: Conditions, *, sleep_s: float = SLEEP_S) -> dict[str, Any]:
    """All phases on one network, and the judgement of what it leaves."""
    chance = Random(run.seed)
    begun_s = time.monotonic()
    async with open_network(
        run.directory, run.members, run.seed, namespaces=True, line=run.line, model=run.model
    ) as network:
        await say(f"{run.members} members are up in {run.directory}")
        try:
            await after(network)
            run.phases["start"] = {"seconds": round(time.monotonic() - begun_s, 1)}
            await _phase(run, network, "steady", lambda: steady(run.minutes))
            await _phase(run, network, "moved", lambda: moved(network, chance))
            await _phase(run, network, "asleep", lambda: asleep(network, chance, sleep_s))
        except NotHeld as wrong:
            run.findings.append(str(wrong))
            await say(f"NOT HELD: {wrong}")
        run.findings += await network.end()
    await say("the end; now the files are read")
    left = left_in(run.directory)
    run.findings += await trio.to_thread.run_sync(judge, left)
    return {**run.as_json(), "idle_blocks": idle_blocks(left)}


async def _phase(run: Conditions, network: Network, name: str, does: Any) -> None:
    cable = network.cable
    assert isinstance(cable, Lines)
    await say(f"{name} ..")
    begin_s, before = network.passed_s, _all_bytes(network, cable)
    try:
        more = await does() or {}
        voted_s = network.passed_s
        await after(network)
        more["all_vote_again_s"] = round(network.passed_s - voted_s, 1)
    finally:
        end_s = network.passed_s
    figures = rounds_of(events_in(run.directory, begin_s, end_s))
    sent = _all_bytes(network, cable) - before
    figures["bytes_a_height_member"] = sent // max(1, figures["heights"]) // run.members
    run.phases[name] = {"seconds": round(end_s - begin_s, 1), **figures, **more}
    await say(f"{name}: {run.phases[name]}")


def _all_bytes(network: Network, cable: Lines) -> int:
    """What all members have received so far, as their interfaces count it."""
    return sum(cable.bytes_of(name)[0] for name in network.names)


async def steady(minutes: float) -> dict[str, Any]:
    """Nothing but the lines themselves."""
    await trio.sleep(minutes * 60)
    return {}


async def moved(network: Network, chance: Random) -> dict[str, Any]:
    """A member's interface gets another address, and nobody answers at the old one."""
    cable = network.cable
    assert isinstance(cable, Lines)
    (name,) = victims(network, chance, 1, leader=False)
    begin_s, height = network.passed_s, network.height
    address = cable.move(name)
    network.record(name, "moved", address=address)
    await network.progress(2, of=rest(network, [name]))
    await network.everybody_votes(height + 1, of=[name])
    return {"member": name, "votes_again_s": round(network.passed_s - begin_s, 1)}


async def asleep(network: Network, chance: Random, sleep_s: float) -> dict[str, Any]:
    """A member stands still and hears nothing; the others go on; it wakes and votes again."""
    cable = network.cable
    assert isinstance(cable, Lines)
    (name,) = victims(network, chance, 1, leader=False)
    until_s, height = trio.current_time() + sleep_s, network.height
    cable.cut_off([name])
    network.signal_family(signal.SIGSTOP, name)
    network.record(name, "asleep")
    await network.progress(2, of=rest(network, [name]))
    await trio.sleep_until(until_s)
    meanwhile = network.height - height
    cable.heal()
    network.signal_family(signal.SIGCONT, name)
    network.record(name, "awake")
    woken_s, above = network.passed_s, network.height + 1
    await network.everybody_votes(above, of=[name])
    return {
        "member": name,
        "heights_meanwhile": meanwhile,
        "votes_again_s": round(network.passed_s - woken_s, 1),
    }
