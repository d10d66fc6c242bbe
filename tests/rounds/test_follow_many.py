"""Who missed many blocks gets them from several holders, keeps good ones only, and goes on after a crash."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from bench import made
from consensus.types import Block, Certificate, DecidedBlock, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.net.memory import MemoryHub
from p2pfl.roster import Roster
from p2pfl.rounds import follow, incoming
from p2pfl.rounds.chain import BATCH_BLOCKS, Chain, Checked
from p2pfl.rounds.follow import Follower
from p2pfl.rounds.pulse import Pulse
from p2pfl.store import Store
from tests.rules.world import World, world

BLOCKS = 200
WAIT_S = 20.0


@cache
def built() -> tuple[World, list[DecidedBlock]]:
    there = world(groups=1)
    return there, made.history(there.genesis, "g0", there.secrets, BLOCKS)


class Holder:
    """Answers from a list of blocks; `asked` is what was asked of it. A test may spoil `give`."""

    def __init__(self, blocks: Sequence[DecidedBlock]) -> None:
        self.blocks = list(blocks)
        self.asked: list[range] = []
        self.pulse = Pulse()

    async def received(self, sender: MemberId, message: Any) -> None: ...

    def blob(self, sender: Any, blob_id: Any) -> None:
        return None

    async def answer(self, sender: Any, request: Any) -> Any:
        if isinstance(request, wire.GetStatus):
            return wire.Refused("busy")  # Tips are told by the tests.
        heights = range(request.start, request.start + request.count)
        self.asked.append(heights)
        self.pulse.beat()
        return await self.give(heights)

    async def was_asked(self, times: int) -> None:
        await self.pulse.until(lambda: len(self.asked) >= times)

    async def give(self, heights: range) -> Any:
        return wire.fitting(self.blocks[heights.start : heights.stop])


class Away:
    """The member that missed them: its follower, over a network in memory, and three holders."""

    def __init__(self, path: Path) -> None:
        there, self.blocks = built()
        self.members = there.genesis.committee("g0").members
        self.store = Store(path, there.genesis)
        roster = Roster.of(there.genesis)
        self.chain = Chain(there.genesis, "g0", self.store.chain("g0"), lambda: roster)
        self.faults: list[tuple[MemberId, str]] = []
        self.batches: list[int] = []
        self.hub = MemoryHub()
        self.holders = {member: Holder(self.blocks) for member in self.members[1:]}
        self.network = self.hub.network(self.members[0], self.members, Holder([]))
        self.follower = Follower(self.chain, self.network, lambda: self.members[1:], self.take, self.on_fault)

    def on_fault(self, peer: MemberId, fault: PeerFault) -> None:
        self.faults.append((peer, fault.reason))

    async def take(self, checked: Checked) -> None:
        self.batches.append(len(checked.blocks))
        await self.chain.extend(checked)

    @asynccontextmanager
    async def up(self, height: int = BLOCKS - 1) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for member, holder in self.holders.items():
                await nursery.start(self.hub.network(member, self.members, holder).run)
            await nursery.start(self.network.run)
            nursery.start_soon(self.follower.run)
            for member in self.holders:
                self.follower.tip_seen(member, height)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                self.store.close()

    async def reaches(self, height: int = BLOCKS - 1) -> None:
        with trio.fail_after(WAIT_S):
            await self.chain.grown.until(lambda: self.chain.height >= height)


async def test_many_blocks_come_from_several_holders_and_are_kept_many_at_a_time(tmp_path: Path) -> None:
    away = Away(tmp_path)
    was_behind: list[bool] = []
    looked_in: set[int] = set()
    look = away.chain._look
    away.chain._look = lambda *given: (looked_in.add(threading.get_ident()), look(*given))[1]
    take = away.take

    async def watched(checked: Checked) -> None:
        was_behind.append(away.chain.catching_up)
        await take(checked)

    away.follower._take = watched
    async with away.up():
        await away.reaches()
        await away.chain.until_caught_up()
    assert list(Store(tmp_path).chain("g0")) == away.blocks
    assert len(away.batches) <= 2 * BLOCKS // BATCH_BLOCKS + 4
    assert was_behind[0]
    assert away.faults == []
    asked = [heights for holder in away.holders.values() for heights in holder.asked]
    assert sorted(height for heights in asked for height in heights) == list(range(BLOCKS))  # None twice.
    assert sum(bool(holder.asked) for holder in away.holders.values()) == 3
    assert threading.get_ident() not in looked_in  # Votes do not wait for signatures of the past.


async def test_the_tip_goes_on_while_the_past_is_fetched(tmp_path: Path) -> None:
    away = Away(tmp_path)
    async with away.up(height=BLOCKS - 5):
        await away.reaches(20)
        for height in range(BLOCKS - 4, BLOCKS):
            for member in away.holders:
                away.follower.tip_seen(member, height)
            await trio.lowlevel.checkpoint()
        await away.reaches()
    assert away.faults == []


async def test_a_single_block_is_asked_of_one_holder(tmp_path: Path) -> None:
    away = Away(tmp_path)
    async with away.up(height=0):
        await away.reaches(0)
        assert not away.chain.catching_up
    assert [len(holder.asked) for holder in away.holders.values()] == [1, 0, 0]


def forged(blocks: Sequence[DecidedBlock]) -> list[DecidedBlock]:
    """The certificates of the blocks before."""
    other = [Certificate(0, blocks[index - 1].certificate.signatures) for index in range(len(blocks))]
    return [replace(each, certificate=wrong) for each, wrong in zip(blocks, other, strict=True)]


def other_bodies(blocks: Sequence[DecidedBlock]) -> list[DecidedBlock]:
    body = blocks[0].block.body
    return [replace(each, block=replace(each.block, body=body)) for each in blocks[1:]]


def of_no_epoch(blocks: Sequence[DecidedBlock]) -> list[DecidedBlock]:
    """Rubbish, under headers of an epoch that nobody has heard of."""
    headers = [replace(each.block.header, epoch=9999) for each in blocks]
    return [DecidedBlock(Block(header, b"rubbish"), Certificate(0, ())) for header in headers]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (forged, "bad_block"),
        (lambda blocks: [blocks[0], *other_bodies(blocks)], "bad_block"),
        (lambda blocks: [*blocks[1:], blocks[0]], "bad_block"),  # Other heights than were asked for.
        (lambda blocks: [*blocks[:100], *forged(blocks[100:])], "bad_block"),  # Good ones first.
        (lambda blocks: [], "false_tip"),
        (lambda blocks: blocks[:150], "false_tip"),
    ],
)
async def test_who_gives_what_does_not_hold_is_named_and_left(
    tmp_path: Path, spoil: Callable[[list[DecidedBlock]], list[DecidedBlock]], reason: str
) -> None:
    away = Away(tmp_path)
    liar, *_ = away.holders
    away.holders[liar].blocks = spoil(away.blocks)
    async with away.up():
        await away.reaches()
    assert set(away.faults) == {(liar, reason)}
    assert list(Store(tmp_path).chain("g0")) == away.blocks


async def test_who_claims_a_height_that_nobody_has_does_not_keep_it_catching_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "STALL_S", 0.2)
    away = Away(tmp_path)
    liar, *_ = away.holders
    async with away.up():
        away.follower.tip_seen(liar, 10**9)
        await away.reaches()
        with trio.fail_after(WAIT_S):
            await away.chain.until_caught_up()
    assert set(away.faults) <= {(liar, "false_tip")}


async def test_who_is_silent_is_left_for_another_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "ASK_TIMEOUT_S", 0.4)
    monkeypatch.setattr(incoming, "TWICE_AFTER_S", 0.1)
    away = Away(tmp_path)
    silent, *_ = away.holders
    named, on_fault = trio.Event(), away.on_fault

    def note(peer: MemberId, fault: PeerFault) -> None:
        on_fault(peer, fault)
        named.set()

    away.follower._incoming.on_fault = note

    async def never(heights: range) -> Any:
        await trio.sleep_forever()

    away.holders[silent].give = never
    async with away.up():
        await away.reaches()
        with trio.fail_after(WAIT_S):
            await named.wait()
        assert set(away.faults) == {(silent, "slow")}


async def test_what_waits_here_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 64 * 1024
    monkeypatch.setattr(incoming, "AHEAD_BYTES", size)
    away = Away(tmp_path)
    most = 0

    async def slowly(checked: Checked) -> None:
        nonlocal most
        await trio.sleep(0.02)
        most = max(most, away.follower._incoming._bytes)
        await away.chain.extend(checked)

    away.follower._take = slowly
    async with away.up():
        await away.reaches()
    answer = BATCH_BLOCKS * (len(away.blocks[0].block.body) + 1024)
    assert 0 < most < size + incoming.HOLDERS_AT_ONCE * answer


async def test_a_chain_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    away = Away(tmp_path)
    async with away.up():
        await away.reaches(BATCH_BLOCKS)
    again = Away(tmp_path)
    height = again.chain.height
    assert height >= BATCH_BLOCKS
    async with again.up():
        await again.reaches()
    assert min(heights.start for holder in again.holders.values() for heights in holder.asked) == height + 1


def test_a_kill_in_the_middle_of_a_batch_costs_that_batch_and_no_more(tmp_path: Path) -> None:
    built()  # Before the fork.
    child = os.fork()
    if not child:
        try:
            _die_in_the_third_batch(tmp_path)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    kept = Away(tmp_path)
    assert kept.chain.height + 1 >= 2 * BATCH_BLOCKS // 4
    assert list(kept.store.chain("g0")) == kept.blocks[: kept.chain.height + 1]

    async def again() -> None:
        async with kept.up():
            await kept.reaches()

    trio.run(again)
    assert list(Store(tmp_path).chain("g0")) == kept.blocks


def _die_in_the_third_batch(path: Path) -> None:
    away = Away(path)
    write, batches = os.write, 0

    def dying(handle: int, data: bytes) -> int:
        nonlocal batches
        batches += len(data) > 10_000
        if batches < 3:
            return write(handle, data)
        write(handle, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    async def run() -> None:
        async with away.up():
            os.write = dying
            await away.reaches()

    trio.run(run)


async def test_what_came_for_a_chain_that_was_cut_is_asked_for_again(tmp_path: Path) -> None:
    """The council closes an epoch: what others gave before that may be void, and nobody lied."""
    away = Away(tmp_path)
    stands_still = trio.Event()

    async def first_only(checked: Checked) -> None:
        if checked.height >= BATCH_BLOCKS:
            stands_still.set()
            await trio.sleep_forever()
        await away.chain.extend(checked)

    away.follower._take = first_only
    came = away.follower._incoming
    async with away.up(height=BATCH_BLOCKS + 20):
        with trio.fail_after(WAIT_S):
            await stands_still.wait()
            await came.pulse.until(lambda: BATCH_BLOCKS + 20 in came._came)
            for holder in away.holders.values():
                holder.asked.clear()
            await away.chain.cut(3)
            came.pulse.beat()
            await came.pulse.until(lambda: came._came.keys() >= set(range(4, BATCH_BLOCKS + 21)))
    again = {height for holder in away.holders.values() for heights in holder.asked for height in heights}
    assert again == set(range(4, BATCH_BLOCKS + 21))
    assert away.faults == []


async def test_who_gives_blocks_of_an_epoch_that_does_not_exist_stops_nobody(tmp_path: Path) -> None:
    """It is first to tell of the block, and others give it as soon as they have it."""
    away = Away(tmp_path)
    liar, *honest = away.holders
    away.holders[liar].blocks = of_no_epoch(away.blocks)
    async with away.up(height=-1):
        away.follower.tip_seen(liar, BLOCKS - 1)
        with trio.fail_after(WAIT_S):
            await away.holders[liar].was_asked(2)  # It might have been honest, and ahead.
        for member in honest:
            away.follower.tip_seen(member, BLOCKS - 1)
        await away.reaches()
    assert list(Store(tmp_path).chain("g0")) == away.blocks
    assert away.faults == []


async def test_blocks_that_came_before_the_councils_are_fetched_again_after_it(tmp_path: Path) -> None:
    away = Away(tmp_path)
    known = away.chain._roster()
    away.chain._roster = lambda: replace(known, seatings=())
    async with away.up():
        with trio.fail_after(WAIT_S):
            for holder in away.holders.values():
                await holder.was_asked(5)
                assert holder.asked[-1] == range(1)  # What cannot be kept yet costs little.
        assert away.chain.height == -1
        away.chain._roster = lambda: known
        await away.reaches()
    assert list(Store(tmp_path).chain("g0")) == away.blocks
    assert away.faults == []


@pytest.mark.parametrize("spoil", [of_no_epoch, forged])
async def test_who_gives_rubbish_again_and_again_does_not_keep_it_catching_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Any], list[DecidedBlock]]
) -> None:
    monkeypatch.setattr(follow, "STALL_S", 0.4)
    monkeypatch.setattr(incoming, "AGAIN_S", 0.02)
    monkeypatch.setattr(incoming, "EARLY_MAX_S", 0.02)
    away = Away(tmp_path)
    liar, *_ = away.holders
    away.holders[liar].blocks = spoil(away.blocks)
    async with away.up(height=-1):
        away.follower.tip_seen(liar, BLOCKS - 1)
        away.follower._begin(follow.MANY_BLOCKS)
        assert away.chain.catching_up
        with trio.fail_after(WAIT_S):
            await away.chain.until_caught_up()
    assert len(away.holders[liar].asked) > 2
