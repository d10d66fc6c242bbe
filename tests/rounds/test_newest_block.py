"""The height that a chain says it has is one whose block it gives, also while the disk is slow."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import trio

from p2pfl.roster import Roster
from p2pfl.rounds.follow import Chain
from p2pfl.store import Store
from tests.audit.chain import build

WRITE_S_MAX = 10.0


async def test_the_newest_block_is_told_while_it_is_on_its_way_to_the_disk(tmp_path: Path) -> None:
    built = build()
    block = built.chains["g1"][0]
    roster = Roster.of(built.genesis)
    blocks: Any = Store(tmp_path, built.genesis).chain("g1")
    chain = Chain(built.genesis, "g1", blocks, lambda: roster)
    begun, may_write, append = threading.Event(), threading.Event(), blocks.append

    def slowly(decided: Any) -> None:
        begun.set()
        assert may_write.wait(WRITE_S_MAX)
        append(decided)

    blocks.append = slowly
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.append, block)
        assert await trio.to_thread.run_sync(begun.wait, WRITE_S_MAX)
        told, written = (chain.height, chain.get(0), chain.slice(0, 2)), blocks.get(0)
        may_write.set()
    assert (told, written) == ((0, block, (block,)), None)
    assert blocks.get(0) == block
