"""Processes that die, stand still, or forget: kill -9, SIGSTOP, a power cut, a wiped folder.

Each returns when the network has got over it; `table.after` then asks everybody to vote again.
"""

from __future__ import annotations

import shutil
import signal
from random import Random

import trio

from consensus.signing import separator
from testnet.signatures import VOTES, guarded
from tests.live import sent
from tests.live.network import GROUP, Network, NotHeld
from tests.live.table import Form, a_moment, everybody, fault, rest, victims

# What a member whose folder is wiped keeps: who it is, what it signed, what all share, its samples.
KEPT = ("keys", "guard", "genesis.json", "data.npz")


@fault("the others go on while at most f are gone")
async def kill(network: Network, chance: Random, form: Form) -> None:
    """kill -9 at random moments, the current Ci among them, up to f at once, and a restart each time."""
    for turn in range(form.times):
        count = chance.randint(1, network.faulty_max)
        await a_moment(network, chance)
        gone = victims(network, chance, count, leader=turn % 2 == 0)
        await network.kill(*gone)
        if turn % 2:
            await network.progress(1, of=rest(network, gone))
        else:
            await trio.sleep(chance.uniform(0, 3))
        await network.start(*gone)
        await network.progress(1)


@fault("the others go on while at most f stand still")
async def stop(network: Network, chance: Random, form: Form) -> None:
    """SIGSTOP of f members, the current Ci among them, for 30 s (short: 5 s), then SIGCONT."""
    await a_moment(network, chance)
    still = victims(network, chance, network.faulty_max, leader=True)
    network.signal(signal.SIGSTOP, *still)
    until_s = trio.current_time() + form.stop_s
    await network.progress(1, of=rest(network, still))
    await trio.sleep_until(until_s)
    network.signal(signal.SIGCONT, *still)


@fault("what was decided is still there, and the chain goes on from it")
async def power_cut(network: Network, chance: Random, form: Form) -> None:
    """kill -9 of all members and the seat at once, and a restart of all."""
    for _ in range(max(1, form.times // 2)):
        await a_moment(network, chance)
        await network.kill(*everybody(network))
        await network.start(*everybody(network))
        await network.progress(1)


@fault("no vote of a height up to the one that the guard names; votes of later ones")
async def wipe(network: Network, chance: Random, form: Form) -> None:
    """The folders of f members are wiped but for keys, guard, genesis and samples; they start again."""
    await a_moment(network, chance)
    wiped = victims(network, chance, network.faulty_max, leader=False)
    await network.kill(*wiped)
    named = {name: guard_names(network, name) for name in wiped}
    for name in wiped:
        wipe_folder(network, name, keep=KEPT)
    if chance.random() < 0.5:
        await network.progress(1, of=rest(network, wiped))
    await network.start(*wiped)
    await network.everybody_votes(max(named.values()), of=wiped)
    for name in wiped:
        silent_until(network, name, named[name])


def guard_names(network: Network, name: str) -> int:
    """The newest height at which this member's guard signed something for its group."""
    wanted = separator(network.plan.genesis.domain(GROUP))
    records = guarded(network.nodes[name].seat.folder.guard)
    return max((record.height for record in records if record.separator == wanted), default=-1)


def wipe_folder(network: Network, name: str, *, keep: tuple[str, ...]) -> None:
    """Remove everything but these from a member's folder; a copy stays for the judge."""
    folder = network.nodes[name].seat.folder
    copy = network.directory / "copies" / f"{name}.{network.nodes[name].life}"
    shutil.copytree(folder.path, copy)
    for entry in folder.path.iterdir():
        if entry.name in keep:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    folder.make()


def silent_until(network: Network, name: str, height: int) -> None:
    """In its present life this member has sent no vote up to this height. Raises NotHeld."""
    node = network.nodes[name]
    told = sent.read(network.directory / "sent" / f"{name}.jsonl")
    early = [one for one in told if one.life == node.life and one.kind in VOTES and one.height <= height]
    if early:
        first = early[0]
        raise NotHeld(
            f"{name} signed a {first.kind} of height {first.height}, and was to be silent up to {height}"
        )
