"""The network in memory keeps the promises of the one on sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from p2pfl import params
from p2pfl.errors import PeerFault
from p2pfl.net import memory, wire
from p2pfl.net.interface import NetworkLike, Unreachable
from p2pfl.net.memory import MemoryHub, MemoryNetwork
from tests.net.common import GROUP, Memo, member, noise, tip

A, B, C = member(0), member(1), member(2)


@asynccontextmanager
async def three(**options: Any) -> AsyncIterator[Any]:
    hub = MemoryHub(**options)
    memos = {name: Memo() for name in (A, B, C)}
    nets = {name: hub.network(name, (A, B, C), memos[name]) for name in (A, B, C)}
    async with trio.open_nursery() as nursery:
        for net in nets.values():
            await nursery.start(net.run)
        yield hub, nets, memos
        nursery.cancel_scope.cancel()


def as_interface(network: MemoryNetwork) -> NetworkLike:
    return network


async def test_messages_come_in_order_whatever_their_delay(autojump_clock: trio.abc.Clock) -> None:
    async with three(seed=1, delay_s=(0.0, 2.0)) as (_, nets, memos):
        for height in range(100):
            nets[A].send(B, tip(height))
        await memos[B].until(lambda: len(memos[B].inbox) == 100, 100)
        assert memos[B].heights() == list(range(100))


async def test_a_broadcast_reaches_all_but_the_sender(autojump_clock: trio.abc.Clock) -> None:
    async with three() as (_, nets, memos):
        nets[A].broadcast((A, B, C), tip(3))
        await memos[B].until(lambda: memos[B].heights() == [3])
        await memos[C].until(lambda: memos[C].heights() == [3])
        assert memos[A].inbox == []
        assert nets[A].sent_bytes["messages"] == 2 * len(wire.pack(tip(3)))


async def test_what_was_said_while_the_link_was_cut_comes_once_after_it_is_mended(
    autojump_clock: trio.abc.Clock,
) -> None:
    async with three(delay_s=(0.1, 0.1)) as (hub, nets, memos):
        again: list[bytes] = []
        nets[A].on_connect.append(again.append)
        nets[A].send(B, tip(0))
        hub.cut(A, B)
        nets[A].send(B, tip(1))
        await trio.sleep(1)
        assert memos[B].inbox == []
        assert nets[A].connected == {C}
        with pytest.raises(Unreachable):
            await nets[A].request(B, wire.GetStatus(GROUP), timeout_s=1)
        hub.mend(A, B)
        await memos[B].until(lambda: len(memos[B].inbox) == 2)
        await trio.sleep(1)
        assert memos[B].heights() == [0, 1]
        assert again == [B]


async def test_the_outbox_of_an_absent_peer_drops_its_oldest(autojump_clock: trio.abc.Clock) -> None:
    async with three() as (hub, nets, memos):
        hub.isolate(B)
        for height in range(memory.OUTBOX_MESSAGES_MAX + 5):
            nets[A].send(B, tip(height))
        assert nets[A].dropped_messages == 5
        hub.rejoin(B)
        await memos[B].until(lambda: len(memos[B].inbox) == memory.OUTBOX_MESSAGES_MAX)
        assert memos[B].heights()[0] == 5


async def test_requests_are_answered_or_refused(autojump_clock: trio.abc.Clock) -> None:
    async with three(delay_s=(0.1, 0.3)) as (_, nets, _memos):
        status = await nets[A].request(B, wire.GetStatus(GROUP), timeout_s=2)
        assert status.height == 7
        with pytest.raises(PeerFault, match="no_such_chain"):
            await nets[A].request(B, wire.GetBlocks(GROUP, 0, 1), timeout_s=2)
        with pytest.raises(Unreachable):
            await nets[A].request(B, wire.GetStatus(GROUP), timeout_s=0.05)


async def test_a_blob_comes_from_whoever_holds_it_and_a_wrong_one_is_refused(
    autojump_clock: trio.abc.Clock,
) -> None:
    data = noise(200_000)
    blob_id = params.blob_id(data)
    async with three() as (_, nets, memos):
        memos[B].hold(noise(200_000, seed=1), blob_id)
        with pytest.raises(PeerFault, match="blob_missing"):
            await nets[A].fetch_blob(blob_id, len(data), lambda: (B,), timeout_s=3)
        assert nets[A].faults[B, "wrong_piece"] >= 1
        memos[C].hold(data, blob_id)
        assert (await nets[A].fetch_blob(blob_id, len(data), lambda: (B, C), timeout_s=3)).data == data


async def test_a_have_wakes_a_fetch_that_waits(autojump_clock: trio.abc.Clock) -> None:
    data = noise(5_000)
    blob_id = params.blob_id(data)
    async with three() as (_, nets, memos):
        holders: list[Any] = []
        memos[A].on_message = lambda sender, message: holders.append(sender)
        got: list[bytes] = []

        async def fetch() -> None:
            got.append((await nets[A].fetch_blob(blob_id, len(data), lambda: holders, timeout_s=30)).data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            await trio.sleep(1)
            memos[B].hold(data, blob_id)
            nets[B].send(A, wire.Have(blob_id))
        assert got == [data]


async def test_announcements_reach_who_is_connected(autojump_clock: trio.abc.Clock) -> None:
    async with three(delay_s=(0.1, 0.1)) as (hub, nets, _):
        heard: list[Any] = []
        for name in (B, C):
            nets[name].on_announce.append(
                lambda sender, message, me=name: heard.append((me, sender, message))
            )
        hub.cut(A, C)
        nets[A].announce(tip(9))
        await trio.sleep(1)
        assert heard == [(B, A, tip(9))]


async def test_waiting_for_members_ends_or_names_who_is_missing(autojump_clock: trio.abc.Clock) -> None:
    async with three() as (hub, nets, _):
        await nets[A].wait_connected((A, B, C), 1)
        hub.isolate(C)
        with pytest.raises(Unreachable, match=C.hex()):
            await nets[A].wait_connected((B, C), 1)
