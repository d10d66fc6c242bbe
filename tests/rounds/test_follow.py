"""A chain on disk follows the chain in memory, whoever brings its blocks and whenever an epoch ends."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2pfl.roster import Roster
from p2pfl.rounds.follow import Chain
from p2pfl.store import BlockFile, Store
from tests.audit.chain import Built, build

SLOW_S = 0.3


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


class SlowDisk:
    """The blocks of a chain, on a disk that is slow for the first of them."""

    def __init__(self, blocks: Any) -> None:
        self._blocks = blocks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blocks, name)

    def __iter__(self) -> Any:
        return iter(self._blocks)

    def append(self, decided: Any) -> None:
        if decided.block.header.height == 0:
            time.sleep(SLOW_S)
        self._blocks.append(decided)


def chain_of(built: Built, path: Path) -> tuple[Chain, Store]:
    store = Store(path, built.genesis)
    roster = Roster.of(built.genesis)
    blocks: Any = SlowDisk(store.chain("g1"))
    return Chain(built.genesis, "g1", blocks, lambda: roster), store


def heights(store: Store) -> list[int]:
    return [each.block.header.height for each in BlockFile(store.folder.chain("g1"))]


async def test_two_rooms_may_bring_blocks_at_once(built: Built, tmp_path: Path) -> None:
    chain, store = chain_of(built, tmp_path)
    first, second = built.chains["g1"][:2]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.append, first)
        await trio.sleep(SLOW_S / 3)  # In memory it is there; its write is under way.
        await chain.append(second)
    assert (chain.height, heights(store)) == (1, [0, 1])
    store.close()


@pytest.mark.parametrize("turns", range(6))
async def test_memory_and_disk_agree_whenever_an_epoch_ends(built: Built, tmp_path: Path, turns: int) -> None:
    """The room that brings a block is cancelled so many turns of the loop after it began."""
    chain, store = chain_of(built, tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(chain.append, built.chains["g1"][0])
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert heights(store) == list(range(chain.height + 1))
    store.close()


@pytest.mark.parametrize("at_once", [False, True])
async def test_who_is_stopped_while_the_disk_is_full_has_kept_nothing_and_goes_on_later(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    chain, store = chain_of(built, tmp_path)
    blocks = built.chains["g1"]
    await chain.append(blocks[0])
    was = vars(chain.history.fork()) | {"log": chain.history.log.root()}
    write, tried = os.write, threading.Event()

    def full(handle: int, data: bytes) -> int:
        tried.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    async with trio.open_nursery() as nursery:
        if at_once:
            nursery.start_soon(chain.extend, await chain.look(blocks[1:3]))
        else:
            nursery.start_soon(chain.append, blocks[1])
        await trio.to_thread.run_sync(tried.wait, 10)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    monkeypatch.setattr(os, "write", write)
    assert vars(chain.history) | {"log": chain.history.log.root()} == was
    assert (chain.height, chain.get(1), heights(store)) == (0, None, [0])
    await chain.append(blocks[1])
    assert await chain.extend(await chain.look(blocks[2:4]))
    assert heights(store) == list(range(chain.height + 1)) == [0, 1, 2, 3]
    store.close()
