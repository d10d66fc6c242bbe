"""A group whose aggregate harms everybody's held-out data goes back to the base before it.

One of the four rejects everything, and another holds no ballots when it is its turn.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2pfl import node
from p2pfl.audit.verify import verify
from p2pfl.genesis import COUNCIL
from p2pfl.params import Float32, parse_base
from p2pfl.records import CouncilBody, GroupBody, decode_body
from p2pfl.rounds.ballots import Ballots
from p2pfl.rules.ballots import rejects
from tests.rounds.small_network import SmallNetwork, small_network
from tests.rounds.test_network import GROUP, chain_of

BAD, LIAR, SILENT = 1, "g0m3", "g0m1"


class _Harmful:
    """In one round of the group everybody sends the opposite of what it learnt, five times as long."""

    def __init__(self, honest: Any) -> None:
        self._honest = honest
        self._rounds = 0

    async def __call__(self, base: Float32, *arguments: Any, **options: Any) -> Any:
        result = await self._honest(base, *arguments, **options)
        self._rounds += 1
        if self._rounds != BAD + 1:
            return result
        return dataclasses.replace(result, parameters=base - 5 * (result.parameters - base))


def harm(parts: node.Parts) -> None:
    if parts.name in GROUP:
        parts.trainer.train = _Harmful(parts.trainer.train)  # type: ignore[method-assign]
    if parts.name == LIAR:

        async def rejected(_: Float32) -> tuple[float, float]:
            losses.reverse()
            return losses[0], 0.0

        losses = [9.0, 0.1]  # First the old base's, then the new one's.
        parts.trainer.evaluate_held_out = rejected  # type: ignore[method-assign]


async def test_what_harms_everybody_is_taken_back_and_what_one_rejects_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Ballots.gather

    async def gather(self: Ballots, until_s: float, *, needed: bool) -> Any:
        silent = self._context.name_of(self._context.me) == SILENT
        return () if silent else await honest(self, until_s, needed=needed)

    monkeypatch.setattr(Ballots, "gather", gather)
    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 4}
    folder = tmp_path / "run"
    # Triage, which would leave out such updates before anybody is harmed, never finds one rare enough.
    rules = {"ballots": 1, "alarm_rate_ppm": 1, "leave_out_rate_ppm": 1, "audit_share_ppm": 0}
    async with small_network(folder, wrap=harm, rules=rules, **shape) as network:
        await network.until(lambda: network.heights(GROUP, 3))
        await network.until(
            lambda: any(["g0", 3] in each["counted"] for each in network.seen("decided", by="seat0"))
        )
    chain = chain_of(network, "g0m0", "g0")
    assert chain[1].certificate.round > 0  # The others refuse a block without ballots, and go on without it.
    bodies = [decode_body(each.block.body, GroupBody) for each in chain]
    assert [rejects(body) for body in bodies] == [False, False, True, False]
    assert [bool(body.ballots) for body in bodies] == [False, True, True, False]
    said = [[signed.ballot.approve for signed in body.ballots] for body in bodies]
    assert said[2].count(0) >= 3 and said[1].count(0) <= 1
    assert not any(bodies[2].weights)  # Trained on what was taken back.
    assert all(bodies[3].weights)
    bases = council_bases(network)
    before, with_it, without = (bases[bodies[height].base.base_id] for height in (1, 2, 3))
    unit = 2.0**-24  # A float32 base keeps 24 bits, and is rounded once when it comes and once when it goes.
    assert np.abs(with_it - before).max() > 1000 * unit
    assert np.abs(without - before).max() <= 2 * unit * max(1.0, np.abs(with_it).max())
    assert verify(folder, recompute=True).findings == []


def council_bases(network: SmallNetwork) -> dict[bytes, Float32]:
    genesis = network.plan.genesis
    blobs = network.parts["seat0"].store.blobs
    ids = [genesis.initial_base_id]
    ids += [decode_body(each.block.body, CouncilBody).base_id for each in chain_of(network, "seat0", COUNCIL)]
    found: dict[bytes, Float32] = {}
    for base_id in ids:
        data = blobs.get(base_id)
        assert data is not None
        found[base_id] = parse_base(data, genesis.task.layout).values
    return found
