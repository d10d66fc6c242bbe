"""Processes that die or stand still: kill -9, SIGSTOP, a power cut.

Each returns when the network has got over it; `table.after` then asks everybody to vote again.
"""

from __future__ import annotations

import signal
from random import Random

import trio

from tests.live.network import Network
from tests.live.shape import SEAT, epoch_blocks
from tests.live.table import Form, a_moment, everybody, fault, rest, victims


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


@fault("the group goes on from its own base meanwhile, and is counted again afterwards")
async def council_gone(network: Network, chance: Random, form: Form) -> None:
    """kill -9 of the council's only seat, and its restart after 30 s (short: 5 s)."""
    # An epoch begins with a council block: the group could not go on between two of them.
    blocks = epoch_blocks(network.members)
    await network.until(
        lambda: 1 < network.nodes[SEAT].height % blocks < blocks // 2,
        "the council is in the middle of an epoch",
    )
    await a_moment(network, chance)
    await network.kill(SEAT)
    until_s = trio.current_time() + form.stop_s
    await network.progress(2)
    await trio.sleep_until(until_s)
    await network.start(SEAT)
    above = network.nodes[SEAT].height
    await network.until(lambda: network.nodes[SEAT].height >= above + 2, "the council decides two more")
