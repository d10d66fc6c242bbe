"""A copy of a group's chain holds no other block than the one that the council counted at its height."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from consensus.chain import BadBlock
from p2pfl.roster import Roster
from p2pfl.rounds.chain import Chain
from p2pfl.rounds.sides import CountedIds
from p2pfl.store import Store
from tests.rounds.test_follow_many import built


async def test_a_copy_is_cut_below_the_lost_side_and_takes_it_no_more(tmp_path: Path) -> None:
    there, blocks = built()
    store, roster, counted = Store(tmp_path, there.genesis), Roster.of(there.genesis), CountedIds()
    group_id = there.genesis.group_id("g0")
    chain = Chain(
        there.genesis, "g0", store.chain("g0"), lambda: roster, trial=lambda: counted.trial(group_id)
    )
    before = await chain.look(blocks[:9])
    headers = [each.block.header for each in blocks[:7]]
    counted.add(headers[:4])
    assert await chain.extend(before)
    await counted.heal(chain)
    assert (chain.height, chain.sought) == (8, 0)  # What was counted is what lies here.

    counted.add(replace(each, time_ms=each.time_ms + 1) for each in headers[4:])
    await counted.heal(chain)
    assert (chain.height, chain.sought) == (3, 1)
    with pytest.raises(BadBlock, match="counted another block 4"):
        await chain.look(blocks[4:9])
    store.close()
