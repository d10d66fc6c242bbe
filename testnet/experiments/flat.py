"""For comparison: one server, all clients in one place, one robust aggregator. No groups, nobody is judged.

The same training jobs, the same attackers and the same exact aggregators as in a group (`p2pfl.rules`); what
is missing is everything else. The server is told how many attackers there are, which real ones are not.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import trio
import trio.testing

from p2pfl.genesis import COUNCIL
from p2pfl.params import Base, Update, apply_update, delta_of, quantize
from p2pfl.parts import initial_base
from p2pfl.rounds.trainer import Trainer
from p2pfl.rules.aggregate import aggregate
from p2pfl.rules.council import next_exponents
from p2pfl.rules.gram import view_of
from testnet import attacks
from testnet.experiments.cells import Cell
from testnet.experiments.facts import Row, attack_success, measure
from testnet.experiments.inline import InlineWorker, inline
from testnet.experiments.world import World, make, samples_of, temporary


def run(cell: Cell, data_dir: Path | None = None) -> Row:
    """The whole training. Raises UserError, KeyError for an unknown rule."""
    with temporary() as directory:
        world = make(cell, data_dir, directory)
        with inline(world.memory, cell.seed):
            return trio.run(_learn, world, clock=trio.testing.MockClock(autojump_threshold=0))


async def _learn(world: World) -> Row:
    cell, genesis = world.cell, world.genesis
    clients = _clients(world)
    villains = world.cell.cast()
    base, exponents = initial_base(genesis), genesis.initial_exponents
    server = Trainer(genesis, None, None, worker=InlineWorker(world.memory))  # type: ignore[arg-type]
    server._public = (world.data.root_x, world.data.root_y, world.data.data)
    previous: Update | None = None
    curve: list[float] = []
    for height in range(cell.rounds):
        seed = genesis.round_seed(genesis.group_id(COUNCIL), 0, height)
        updates = await _updates(clients, base, seed, exponents)
        root, _ = quantize(delta_of(base, await server.train_root(base.values, seed)), base.layout, exponents)
        weights = [len(each.trainer.y) for each in clients]
        total = combine(cell.rule, updates, weights, previous, root, len(villains))
        base, previous = apply_update(base, total), total
        exponents = next_exponents(exponents, total)
        curve.append(measure(cell, world.data.data, base.values))
    honest = len(clients) - len(villains)
    backdoor = cell.attack == "backdoor" and cell.attacked
    return Row(
        cell.key, dataclasses.asdict(cell), rounds_done=cell.rounds, honest=honest, attackers=len(villains),
        honest_client_rounds=honest * cell.rounds, attacker_client_rounds=len(villains) * cell.rounds,
        accuracy=curve[-1], curve=curve,
        attack_success=attack_success(cell, world.data.data, base.values) if backdoor else None,
    )  # fmt: skip


def _clients(world: World) -> list[Any]:
    """Of each client what an attack may wrap: its trainer, and what it knows."""
    befallen = world.cell.cast()
    clients: list[Any] = []
    for seat in world.seats:
        if seat.group == COUNCIL:
            continue
        x, y = samples_of(world, seat)
        trainer = Trainer(world.genesis, x, y, worker=InlineWorker(world.memory))  # type: ignore[arg-type]
        parts = SimpleNamespace(
            name=seat.name, me=seat.entry.member_id, genesis=world.genesis, group=seat.group, trainer=trainer,
            desk=SimpleNamespace(), settings=SimpleNamespace(dir=seat.folder.path),
        )  # fmt: skip
        attacks.put_on(parts, befallen.get(seat.name, []))
        clients.append(parts)
    return clients


async def _updates(clients: list[Any], base: Base, seed: bytes, exponents: tuple[int, ...]) -> list[Update]:
    """Everybody at once: colluders wait for one another."""
    found: dict[int, Update] = {}

    async def one(index: int, parts: Any) -> None:
        result = await parts.trainer.train(base.values, seed, parts.me)
        found[index] = quantize(delta_of(base, result.parameters), base.layout, exponents)[0]

    async with trio.open_nursery() as nursery:
        for index, parts in enumerate(clients):
            nursery.start_soon(one, index, parts)
    return [found[index] for index in range(len(clients))]


def combine(
    rule: str, updates: list[Update], weights: list[int], previous: Update | None, root: Update, f: int
) -> Update:
    """The aggregate of these updates by a rule of the table, which is told the true f."""
    nothing = Update(root.layout, root.exponents, np.zeros_like(root.values))
    gram = view_of([*updates, previous or nothing, root])
    values = aggregate(rule, [each.values for each in updates], weights, gram, f)
    return Update(root.layout, root.exponents, values)
