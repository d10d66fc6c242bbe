"""A network of processes that a hostile peer attacks, as a stranger and with the key of a member.

One member's process is ended, and its key is in hostile hands; the others go on deciding while one of them
after the other attack is done to one of them. What must hold is in `_judged`. Knows the attacks by name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from p2pfl.keys import load_peer_key
from tests.live.attacks import TABLE
from tests.live.figures import events_in, rounds_of
from tests.live.judge import judge, left_in
from tests.live.network import Network, NotHeld, open_network
from tests.live.run import say
from tests.live.table import after

# What the attacked process may hold more than before: what waits for and from one peer (outbox 24 MiB, inbox
# 8, windows of 64 streams 16), 64 half-open handshakes, and what an allocator keeps of all that.
RSS_GROWTH_MB_MAX = 96.0
# Half-open handshakes, and what one peer may have of connections, on top of what there was.
DESCRIPTORS_GROWTH_MAX = 64 + 8
# Afterwards: a connection that is being closed, and the one of the member that is away.
DESCRIPTORS_LEFT_MAX = 4
# A height while the attacks last, against one before them with as many members.
SLOWER_MAX = 3.0
# A ban of the attacked process: short, so that the attacker is back and every attack is really done.
BAN_S = 1.0
# Heights before and after that the figures are taken from.
HEIGHTS = 3


@dataclass
class Hostile:
    """One run."""

    seed: int
    directory: Path
    minutes: float
    attacks: tuple[str, ...] = tuple(TABLE)
    members: int = 4
    findings: list[str] = field(default_factory=list)


async def hostile(run: Hostile) -> dict[str, Any]:
    """The whole: before, under attack, and after; then the files are judged."""
    told: dict[str, Any] = {"before": None, "under": None, "after": None, "attacks": []}
    async with open_network(run.directory, run.members, run.seed, namespaces=False) as network:
        await say(f"{run.members} members are up in {run.directory}")
        try:
            await _story(run, network, told)
        except NotHeld as wrong:
            run.findings.append(str(wrong))
            await say(f"NOT HELD: {wrong}")
        run.findings += await network.end()
    await say("the end; now the files are read")
    run.findings += await trio.to_thread.run_sync(judge, left_in(run.directory))
    _judged(run, told)
    return {
        "held": not run.findings,
        "findings": run.findings,
        "members": run.members,
        "minutes": run.minutes,
        "seed": run.seed,
        "rss_growth_mb_max": RSS_GROWTH_MB_MAX,
        "directory": str(run.directory),
        **told,
    }


async def _story(run: Hostile, network: Network, told: dict[str, Any]) -> None:
    await after(network)
    # The lower of two ids opens the stream of messages: with the lowest one may talk to everybody.
    stolen, attacked, *_ = sorted(network.names, key=lambda name: network.nodes[name].seat.entry.member_id)
    others = [name for name in network.names if name != stolen]
    await network.kill(stolen, attacked)
    await network.start(attacked, ban_s=BAN_S)
    await network.progress(2, of=others)
    told["before"] = await _stretch(run, network, attacked, partial(network.progress, HEIGHTS, of=others))
    await say(f"{stolen}'s key attacks {attacked}")

    async def under_attack() -> None:
        above = network.height
        told["attacks"] = await _attack(run, network, attacked, stolen)
        await network.until(
            lambda: network.nodes[attacked].height > above, f"{attacked} decides under attack"
        )

    told["under"] = await _stretch(run, network, attacked, under_attack)
    await say("the attacks are over")
    told["after"] = await _stretch(run, network, attacked, partial(network.progress, HEIGHTS, of=others))
    await network.start(stolen)
    await after(network)  # Where it is barred, it hears of heights from the others.


async def _stretch(run: Hostile, network: Network, name: str, does: Any) -> dict[str, Any]:
    """What a process held at most while this was done, and how the rounds went."""
    begin_s = network.passed_s
    await does()
    await trio.sleep(2.5)  # What a process holds is told every two seconds.
    events = events_in(run.directory, begin_s)
    rounds = rounds_of(events)
    held = [each for each in events if each["kind"] == "process" and each["by"] == name]
    return {
        "seconds": round(network.passed_s - begin_s, 1),
        "heights": rounds["heights"],
        "round_s": rounds["round_s"],
        "round_changes": rounds["round_changes"],
        "rss_mb": round(max((each["rss_bytes"] for each in held), default=0) / 1e6, 1),
        "descriptors": max((each["descriptors"] for each in held), default=0),
        "descriptors_last": held[-1]["descriptors"] if held else 0,
        "tasks": max((each["tasks"] for each in held), default=0),
        "tasks_last": held[-1]["tasks"] if held else 0,
        "counted": dict(network.nodes[name].counted),
    }


async def _attack(run: Hostile, network: Network, attacked: str, stolen: str) -> list[dict[str, Any]]:
    entry = network.nodes[attacked].seat.entry
    spec = {
        "port": int(entry.address.rpartition("/")[2]),
        "peer_id": entry.peer_id,
        "topic": f"/mps/{network.plan.genesis.network_id.hex()[:16]}/tips",
        "key": load_peer_key(network.nodes[stolen].seat.folder.peer_key).hex(),
        "seed": run.seed,
        "seconds": run.minutes * 60 / len(run.attacks),
        "attacks": run.attacks,
    }
    found: list[dict[str, Any]] = []
    command = [sys.executable, "-m", "tests.live.attacks", json.dumps(spec)]
    start = partial(
        trio.run_process, command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], check=False
    )
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        assert process.stdout is not None
        buffer = b""
        async for data in process.stdout:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                found.append(json.loads(line))
                counted = Counter(network.nodes[attacked].counted)
                await say(f"{line.decode()} {dict(counted)}")
    if process.returncode:
        raise NotHeld(f"the hostile peer itself ended with status {process.returncode}")
    return found


def _judged(run: Hostile, told: dict[str, Any]) -> None:
    before, under, after_ = told["before"], told["under"], told["after"]
    if not (before and under and after_):
        return  # It was found before.
    grown_mb = max(under["rss_mb"], after_["rss_mb"]) - before["rss_mb"]
    told["rss_growth_mb"] = round(grown_mb, 1)
    told["slower"] = round(_median(under) / _median(before), 2)
    if grown_mb > RSS_GROWTH_MB_MAX:
        run.findings.append(f"its memory grew by {grown_mb:.0f} MB, the limit is {RSS_GROWTH_MB_MAX:.0f}")
    if under["heights"] == 0:
        run.findings.append("no height was decided under attack")
    if under["descriptors"] > before["descriptors"] + DESCRIPTORS_GROWTH_MAX:
        run.findings.append(f"it had {under['descriptors']} descriptors, {before['descriptors']} before")
    if after_["descriptors_last"] > before["descriptors"] + DESCRIPTORS_LEFT_MAX:
        run.findings.append(
            f"{after_['descriptors_last']} descriptors are left, there were {before['descriptors']}"
        )
    if told["slower"] > SLOWER_MAX:
        run.findings.append(f"a height took {told['slower']} times as long under attack")
    counted = after_["counted"]
    if not counted.get("bans_member"):
        run.findings.append("the member whose key attacked was never barred")
    for name in run.attacks:
        _, reasons = TABLE[name]
        if reasons and not any(counted.get(reason) for reason in reasons):
            run.findings.append(f"{name}: none of {', '.join(reasons)} was counted")


def _median(stretch: dict[str, Any]) -> float:
    found = stretch["round_s"]
    return found["median"] if found else float("inf")
