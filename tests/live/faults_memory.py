"""What a member remembers and loses: its folder, or the guard of its key.

The last of the table: whom its guard keeps silent is missing in every fault that follows.
"""

from __future__ import annotations

import shutil
from collections.abc import Container
from random import Random

from consensus.signing import separator
from p2pfl.guard import GUARDED
from testnet.signatures import VOTES, guarded
from tests.live import sent
from tests.live.network import GROUP, Network, NotHeld
from tests.live.table import Form, a_moment, fault, rest, victims

# What a member whose folder is wiped keeps: who it is, what it signed, what all share, its samples.
KEPT = ("keys", "guard", "genesis.json", "data.npz")
ALL = (*KEPT, "wal", "chain", "blobs", "own", "records")


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


@fault("nothing that is guarded is signed in what is left of the epoch")
async def guard_lost(network: Network, chance: Random, form: Form) -> None:
    """The guards of f members are lost, and they are started as `p2pfl node run --guard-lost`."""
    await a_moment(network, chance)
    lost = victims(network, chance, network.faulty_max, leader=False)
    await network.kill(*lost)
    for name in lost:
        wipe_folder(network, name, keep=tuple(each for each in ALL if each != "guard"))
        network.record(name, "guard_lost")
    await network.start(*lost, guard_lost=True)
    network.silent |= set(lost)
    await network.progress(2 * form.times)  # They follow the chain, and are silent.
    for name in lost:
        network.nodes[name].options.pop("guard_lost")
        silent_until(network, name, network.height, kinds=GUARDED)


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


def silent_until(
    network: Network, name: str, height: int, *, kinds: Container[str] = frozenset(VOTES)
) -> None:
    """In its present life this member has sent nothing of these kinds up to this height. Raises NotHeld."""
    node = network.nodes[name]
    me = node.seat.entry.member_id
    told = sent.read(network.directory / "sent" / f"{name}.jsonl")
    own = (one for one in told if one.life == node.life and one.signer == me)
    early = [one for one in own if one.kind in kinds and one.height <= height]
    if early:
        first = early[0]
        raise NotHeld(
            f"{name} signed a {first.kind} of height {first.height}, and was to be silent up to {height}"
        )
