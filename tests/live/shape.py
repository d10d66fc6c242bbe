"""What network the faults befall: how many, what they learn, how long the parts of a round and an epoch are.

One group and a council of one seat learn the smallest model. Starts nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from consensus.types import ZERO_MEMBER
from p2pfl.genesis import ChainEntry
from testnet import plan
from testnet.scenarios import Limits, Scenario, Shape

GROUP = "g0"
SEAT = "seat0"
# For a group of four on an idle machine; larger ones get more of each (`times_for`). A part that overruns
# costs a round change, and parts double: a busy machine is slow here and not stuck.
TIMES_MS = {
    "council_ms": 2_000,
    "open_ms": 1_000,
    "train_ms": 3_000,
    "collect_ms": 1_000,
    "reveal_ms": 2_000,
    "propose_ms": 3_000,
    "gather_ms": 1_000,
}
# Three updates of the mlp are 7 MB: three seconds of 20 Mbit/s, and more where packets are lost.
STRETCH = {"mlp": 5}
# Council blocks of an epoch, for a group of four.
EPOCH_BLOCKS = 40


def scenario_for(members: int, seed: int, model: str = "logistic", groups: int = 1) -> Scenario:
    """Groups of so many members that learn, by default one and the smallest model, without an end."""
    return Scenario(
        name="live",
        title="Faults of machines and networks",
        claim="",
        culprits=(),
        holds={},
        network=Shape(
            groups=groups,
            members=members,
            seats=1,
            rounds=0,
            model=model,
            partition="Iid",
            seed=seed,
            chain=False,
        ),
        limits=Limits(),
        task={"local_epochs": 1},
        times=times_for(groups * members, model),
        epochs={"blocks": epoch_blocks(groups * members)},
    )


def epoch_blocks(members: int) -> int:
    """How many council blocks an epoch has: about a minute of them, and faults fall on its borders too."""
    return EPOCH_BLOCKS * 4 // members


def times_for(members: int, model: str) -> dict[str, int]:
    """The parts of a round: all processes share one machine, so they grow with the number of members."""
    stretch = STRETCH.get(model, 1)
    return {name: value * stretch * members // 4 for name, value in TIMES_MS.items()}


def drawn(scenario: Scenario, directory: Path, address: Callable[[str], str]) -> plan.Plan:
    """The network on paper and its folders. address: where a node of this name listens."""
    ground = plan.break_ground(scenario, directory)
    seats = tuple(
        dataclasses.replace(seat, entry=dataclasses.replace(seat.entry, address=address(seat.name)))
        for seat in ground.seats
    )
    ground = dataclasses.replace(ground, seats=seats)
    return plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER))
