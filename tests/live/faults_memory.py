"""What a member remembers and loses: its folder, or the guard of its key."""

from __future__ import annotations

import shutil
from collections.abc import Container
from random import Random

from consensus.signing import separator
from p2pfl.guard import GUARDED
from testnet.signatures import VOTES, guarded
from tests.live import sent
from tests.live.network import Network, NotHeld
from tests.live.sent import Sent
from tests.live.shape import GROUP
from tests.live.table import Form, a_moment, fault, rest, victims

# What a member whose folder is wiped keeps: who it is, what it signed, what all share, its samples.
KEPT = ("keys", "guard", "genesis.json", "data.npz")


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


@fault("nothing guarded is signed in what is left of the epoch; in a later one they vote again")
async def guard_lost(network: Network, chance: Random, form: Form) -> None:
    """The guards of f members are lost, and they are started as `p2pfl node run --guard-lost`."""
    await a_moment(network, chance)
    lost = victims(network, chance, network.faulty_max, leader=False)
    await network.kill(*lost)
    epoch = network.epoch
    known = {name: guarded(network.nodes[name].seat.folder.guard) for name in lost}
    for name in lost:
        wipe_folder(network, name, only=("guard",))
        network.record(name, "guard_lost", life=network.nodes[name].life + 1)
    await network.start(*lost, guard_lost=True)
    await network.progress(form.times)  # They follow the chain, and are silent.
    await network.everybody_votes(network.height, of=lost, within_s=2 * network.patience_s)
    for name in lost:
        network.nodes[name].options.pop("guard_lost")
        before = {record.digest for record in known[name]}  # What it had signed may be said again.
        new = [one for one in said_in_this_life(network, name, GUARDED) if one.digest not in before]
        early = [one for one in new if one.epoch <= epoch]
        if early:
            raise NotHeld(f"{name} lost its guard in epoch {epoch} and signed a {early[0].kind} of it")


def guard_names(network: Network, name: str) -> int:
    """The newest height at which this member's guard signed something for its group."""
    wanted = separator(network.plan.genesis.domain(GROUP))
    records = guarded(network.nodes[name].seat.folder.guard)
    return max((record.height for record in records if record.separator == wanted), default=-1)


def wipe_folder(
    network: Network, name: str, *, only: tuple[str, ...] = (), keep: tuple[str, ...] = ()
) -> None:
    """Remove these only, or all that is not kept, from a member's folder; the judge gets a copy of all."""
    folder = network.nodes[name].seat.folder
    copy = network.directory / "copies" / f"{name}.{network.nodes[name].life}"
    shutil.copytree(folder.path, copy)
    for entry in folder.path.iterdir():
        if entry.name in keep or (only and entry.name not in only):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    folder.make()


def said_in_this_life(network: Network, name: str, kinds: Container[str]) -> list[Sent]:
    """What this member has signed and sent since it was started last, of these kinds."""
    node = network.nodes[name]
    told = sent.read(network.directory / "sent" / f"{name}.jsonl")
    mine = (one for one in told if one.life == node.life and one.signer == node.seat.entry.member_id)
    return [one for one in mine if one.kind in kinds]


def silent_until(network: Network, name: str, height: int) -> None:
    """In its present life this member has sent no vote up to this height. Raises NotHeld."""
    early = [one for one in said_in_this_life(network, name, VOTES) if one.height <= height]
    if early:
        first = early[0]
        raise NotHeld(
            f"{name} signed a {first.kind} of height {first.height}, and was to be silent up to {height}"
        )
