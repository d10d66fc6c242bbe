"""The council's states: the newest are held, an older one on which a group still stands is made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.signing import block_id
from consensus.types import ZERO_DIGEST, Digest
from p2pfl.genesis import COUNCIL
from p2pfl.rounds import council_view
from p2pfl.rounds.council_view import CouncilView
from p2pfl.store import Store
from tests.audit.chain import build


async def test_a_group_that_stood_still_for_long_still_finds_the_block_it_stands_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build()
    blocks = built.chains[COUNCIL]
    ids = [block_id(each.block.header) for each in blocks]
    store = Store(tmp_path, built.genesis)
    view = CouncilView(built.genesis, store.chain(COUNCIL))
    await view.take(blocks[0])
    first = view.tip
    monkeypatch.setattr(council_view, "STATES_MAX", 1)
    for decided in blocks[1:]:
        await view.take(decided)
    assert len(blocks) > 2
    assert view.at(ids[0]) is None
    assert await view.recall(ids[0], least_height=1) is None  # Below what the group stands on.
    assert await view.recall(Digest(b"\x07" * 32), least_height=0) is None
    assert await view.recall(ids[0], least_height=0) == first
    assert view.at(ids[0]) == first
    assert await view.recall(ids[-1], least_height=0) is view.tip
    # Zeros stand for the genesis, on which the first blocks rest.
    genesis = await view.recall(ZERO_DIGEST, least_height=-1)
    assert genesis is not None
    assert genesis.height == -1
    monkeypatch.setattr(view, "_recalled", {})
    assert await view.recall(ZERO_DIGEST, least_height=0) is None
    store.close()
