"""What a seat notes of blocks on their way is forgotten once they are counted, and never comes back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from consensus.signing import block_id
from p2pfl.rounds.brought import Brought
from p2pfl.rules.counting import count_block
from p2pfl.rules.state import CouncilState
from tests.rules.world import derive_all, honest_updates, world


async def test_counted_blocks_leave_nothing_behind(autojump_clock: object) -> None:
    there = world()
    (_, derived), *_ = derive_all(there, 0, {"g0": honest_updates(there, "g0", 1)})
    header, certificate = there.decide("g0", derived.body)
    group_id = there.genesis.group_id("g0")
    decided = SimpleNamespace(block=SimpleNamespace(header=header), certificate=certificate)
    chain = SimpleNamespace(name="g0", height=0, get=lambda height: decided if height == 0 else None)
    state = CouncilState.genesis(there.genesis)
    view = SimpleNamespace(tip=state)
    context: Any = SimpleNamespace(council=view, genesis=there.genesis)
    fetched: list[Any] = []
    brought = Brought(context, {group_id: cast(Any, chain)}, lambda header, body: fetched.append(header))

    async def aggregate(header: Any, body: Any) -> None:
        pass

    brought._aggregate = aggregate  # type: ignore[assignment]
    brought.want(header, derived.body)
    brought.want(header, derived.body)  # It is on its way.
    assert fetched == [header]
    await brought.fetch_aggregate(header, derived.body)
    assert brought._here == {block_id(header)}
    brought.miss(header)
    brought.forget([count_block(header, certificate, derived.body)])
    view.tip = SimpleNamespace(counted={group_id: (0, block_id(header))})
    await brought.fetch_aggregate(header, derived.body)  # One that was still on its way.
    assert not (brought._here or brought._coming or brought._sound or brought._missing or brought._told)
