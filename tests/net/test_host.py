"""Real hosts on loopback: what is said arrives once and in order, whoever leaves, freezes, lies or floods."""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

import consensus.types as ct
from p2pfl import params
from p2pfl.errors import PeerFault
from p2pfl.net import ask, host, wire
from p2pfl.net import peer as peer_module
from p2pfl.net.exchange import BLOBS, REQUESTS
from p2pfl.net.identity import peer_id_of
from p2pfl.net.interface import NetworkLike, Unreachable
from p2pfl.net.options import DEFAULTS
from p2pfl.net.stream import StreamBroken
from tests.net.common import GROUP, Memo, digest, noise, tip
from tests.net.hosts import Town, hosts, peer_key, until
from tests.net.process import child


def as_interface(network: host.Network) -> NetworkLike:
    return network


def test_peer_ids_are_those_of_libp2p() -> None:
    town = Town(3)
    for member in town.members:
        assert town.network(member).peer_id == town.addresses[member].peer_id
    assert peer_id_of(peer_key(0)).startswith("12D3KooW")


async def test_everybody_hears_everybody_in_order() -> None:
    async with hosts(4) as (town, nets, memos):
        for height in range(200):
            for net in nets:
                net.broadcast(town.members, tip(height))
        for memo in memos:
            await memo.until(lambda memo=memo: len(memo.inbox) == 600)
            for sender in town.members:
                heights = [m.height for s, m in memo.inbox if s == sender]
                assert heights in ([], list(range(200)))
        for net in nets:
            assert not net.faults
            await until(lambda net=net: all(len(peer.link.outbox) == 0 for peer in net._peers.values()))
        assert nets[0].sent_bytes["messages"] >= 3 * 200 * len(wire.pack(tip(0)))
        assert nets[0].sent_bytes.keys() == {"messages", "requests", "blobs", "gossip", "other"}


async def test_a_large_message_does_not_get_lost_among_small_ones() -> None:
    header = ct.Header(
        1, bytes(32), bytes(32), 0, 0, bytes(32), bytes(20), 0, bytes(32), bytes(32), bytes(32)
    )
    large = wire.ConsensusMessage(GROUP, ct.BlockMessage(ct.Block(header, noise(4 * 1024 * 1024))))
    async with hosts(2) as (town, (a, _), (_, memo)):
        a.send(town.members[1], tip(1))
        a.send(town.members[1], large)
        a.send(town.members[1], tip(2))
        await memo.until(lambda: len(memo.inbox) == 3)
        assert memo.inbox[1][1] == large
        assert memo.heights() == [1, 2]


async def test_a_lost_connection_comes_back_and_nothing_is_lost_or_doubled() -> None:
    async with hosts(2) as (town, (a, b), (memo_a, memo_b)):
        again: list[Any] = []
        a.on_connect.append(again.append)
        sent = 0
        for _ in range(5):
            for _ in range(20):
                a.send(town.members[1], tip(sent))
                b.send(town.members[0], tip(sent))
                sent += 1
            a._sockets.drop(b.peer_id)
            await until(lambda: town.members[1] not in a.connected)
            a.send(town.members[1], tip(sent))
            b.send(town.members[0], tip(sent))
            sent += 1
            await a.wait_connected(town.members, 5)
        for memo in (memo_a, memo_b):
            await memo.until(lambda memo=memo: len(memo.inbox) >= sent)
            assert memo.heights() == list(range(sent))
        assert again == [town.members[1]] * 5


async def test_requests_are_answered_refused_or_out_of_reach() -> None:
    async with hosts(2) as (town, (a, b), _):
        for _ in range(3):
            status = await a.request(town.members[1], wire.GetStatus(GROUP), timeout_s=2)
            assert status == wire.Status(GROUP, 7, digest("block 7"))
        with pytest.raises(PeerFault, match="no_such_chain"):
            await a.request(town.members[1], wire.GetBlocks(GROUP, 0, 5), timeout_s=2)
        with pytest.raises(Unreachable):
            await a.request(ct.MemberId(bytes(20)), wire.GetStatus(GROUP), timeout_s=2)
        with pytest.raises(Unreachable):
            await a.request(town.members[1], wire.GetStatus(GROUP), timeout_s=0)
        assert not a.faults
        assert not b.faults


async def test_a_handler_may_refuse_by_a_fault_and_the_sender_is_remembered() -> None:
    async with hosts(2) as (town, (a, b), (_, memo)):

        def refuse(sender: Any, message: Any) -> None:
            raise PeerFault("bad_close", "of another round")

        async def refuse_all(sender: Any, request: Any) -> Any:
            raise PeerFault("bad_question")

        memo.on_message = refuse
        memo.answer = refuse_all
        for height in range(peer_module.FAULTS_MAX + 5):
            a.send(town.members[1], tip(height))
        await memo.until(lambda: len(memo.inbox) == peer_module.FAULTS_MAX + 5)
        with pytest.raises(PeerFault, match="bad_question"):
            await a.request(town.members[1], wire.GetStatus(GROUP), timeout_s=2)
        assert b.faults[town.members[0], "bad_close"] == peer_module.FAULTS_MAX + 5
        assert b.connected == {town.members[0]}  # Whether that bars somebody, the node decides.


async def test_a_bug_in_a_handler_stops_the_network() -> None:
    town = Town(2)
    memos = [Memo(), Memo()]
    a, b = (town.network(one, memo, gossip=False) for one, memo in zip(town.members, memos, strict=True))

    def broken(sender: Any, message: Any) -> None:
        raise ZeroDivisionError

    memos[1].on_message = broken
    async with trio.open_nursery() as nursery:
        await nursery.start(a.run)
        stopped = trio.Event()

        async def run_b() -> None:
            with pytest.raises(ZeroDivisionError):
                await b.run()
            stopped.set()

        nursery.start_soon(run_b)
        await a.wait_connected(town.members, 10)
        a.send(town.members[1], tip(1))
        with trio.fail_after(5):
            await stopped.wait()
        nursery.cancel_scope.cancel()


async def test_a_stranger_is_refused_and_counted() -> None:
    town = Town(3)
    nobody = replace(DEFAULTS, observers=0)
    a, _, stranger = (town.network(one, gossip=False, options=nobody) for one in town.members)
    a._peers.pop(town.members[2])
    a._by_peer_id.pop(stranger.peer_id)
    async with trio.open_nursery() as nursery:
        await nursery.start(a.run)
        await nursery.start(stranger.run)
        await until(lambda: stranger.peer_id in a.strangers, 8)
        assert a.connected == set()
        nursery.cancel_scope.cancel()


async def test_blobs_come_verified_from_several_holders_and_a_liar_is_left() -> None:
    data = noise(5_000_000)
    blob_id = params.blob_id(data)
    async with hosts(4) as (town, nets, memos):
        liar, good, better = town.members[1:]
        memos[1].hold(bytes(len(data)), blob_id)
        memos[2].hold(data, blob_id)
        memos[3].hold(data, blob_id)
        got = await nets[0].fetch_blob(blob_id, len(data), lambda: (liar, good, better), timeout_s=20)
        assert got.data == data
        assert nets[0].faults[liar, "wrong_piece"] >= 1
        assert set(dict(nets[0].faults)) == {(liar, "wrong_piece")}
        assert nets[2].sent_bytes["blobs"] + nets[3].sent_bytes["blobs"] < 1.2 * len(data)


async def test_whoever_wants_many_blobs_at_once_asks_on_as_many_streams_as_are_allowed() -> None:
    """A member that was away fetches the blobs of fifty heights: nobody may bar it for that."""
    blobs = {params.blob_id(data): data for data in (noise(2_000 + size) for size in range(60))}
    async with hosts(2) as (town, nets, memos):
        for blob_id, data in blobs.items():
            memos[1].hold(data, blob_id)
        got: dict[bytes, bytes] = {}

        async def fetch(blob_id: Any, length: int) -> None:
            fetched = await nets[0].fetch_blob(blob_id, length, lambda: town.members[1:], timeout_s=20)
            got[blob_id] = fetched.data

        async with trio.open_nursery() as nursery:
            for blob_id, data in blobs.items():
                nursery.start_soon(fetch, blob_id, len(data))
        assert got == blobs
        assert dict(nets[1].faults) == {}


async def test_a_blob_is_served_only_to_whom_it_is_shown_and_a_have_ends_the_wait() -> None:
    data = noise(100_000)
    blob_id = params.blob_id(data)
    async with hosts(2) as (town, (a, b), (_, memo)):
        with pytest.raises(PeerFault, match="blob_missing"):
            await a.fetch_blob(blob_id, len(data), lambda: town.members[1:], timeout_s=0.5)
        got: list[bytes] = []

        async def fetch() -> None:
            fetched = await a.fetch_blob(blob_id, len(data), lambda: town.members[1:], timeout_s=20)
            got.append(fetched.data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            await trio.sleep(0.3)
            memo.hold(data, blob_id)
            b.send(town.members[0], wire.Have(blob_id))
        assert got == [data]
        assert not a.faults
        assert not b.faults


async def test_whoever_asks_wrongly_or_floods_is_counted_and_then_barred() -> None:
    async with hosts(2) as (town, (a, b), _):
        me, other = town.members
        peer = a._peers[other]
        # A question on the wrong protocol, an answer instead of a question, rubbish, an endless frame.
        right = wire.pack(wire.GetStatus(GROUP))
        for data in (
            ask.framed(right),
            ask.framed(wire.pack(wire.Refused("x"))),
            ask.framed(b"\xff\xff"),
            b"\xff\xff\xff\xff",
        ):
            stream = await a._sockets.open(peer.address.peer_id, BLOBS)
            await stream.write(data)
            with pytest.raises(StreamBroken):
                await stream.read()
        await until(lambda: {why for _, why in b.faults} == {"bad_request", "unknown_message", "bad_frame"})
        stream = await a._sockets.open(peer.address.peer_id, REQUESTS)
        asked = wire.BY_KIND[wire.GetStatus].burst + 40
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_all, stream, ask.framed(right) * asked)
            await read_all(stream, asked)
        assert b.faults[me, "flood"] >= 10  # Each was answered later, and the bucket filled meanwhile.
        assert not b._peers[me].is_banned()  # A quick moment is one offence.
        for _ in range(peer_module.FAULTS_MAX):
            with suppress(StreamBroken):
                stream = await a._sockets.open(peer.address.peer_id, REQUESTS)
                await stream.write(b"\xff\xff\xff\xff")
                await stream.read()
        await until(b._peers[me].is_banned)
        await until(lambda: me not in b.connected)
        await until(lambda: other not in a.connected)
        with pytest.raises(Unreachable):
            await a.wait_connected([other], 1.0)


async def write_all(stream: Any, data: bytes) -> None:
    with suppress(StreamBroken):
        await stream.write(data)


async def read_all(stream: Any, frames: int) -> None:
    reader = ask.Reader(stream)
    for _ in range(frames):
        await reader.frame(wire.PACKED_BYTES_MAX)


def test_a_bar_ends_and_the_next_one_is_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        peer = town_peer()
        for expected_s in (60, 120, 240):
            barred = [peer.offend(PeerFault("bad_frame")) for _ in range(peer_module.FAULTS_MAX)]
            assert barred == [False] * (peer_module.FAULTS_MAX - 1) + [True]
            assert peer.is_banned()
            await trio.sleep(expected_s - 1)
            assert peer.is_banned()
            await trio.sleep(2)
            assert not peer.is_banned()
        for _ in range(100):
            assert not peer.offend(PeerFault("flood"))
        for _ in range(100):  # Now and then is not too often.
            assert not peer.offend(PeerFault("bad_frame"))
            await trio.sleep(4)

    def town_peer() -> Any:
        town = Town(2)
        network = town.network(town.members[0])
        return network._peers[town.members[1]]

    trio.run(story, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_killed_and_a_frozen_process_are_noticed_and_welcomed_back() -> None:
    """Frozen (SIGSTOP): within ten seconds. Killed: within one. Messages go on where they stopped."""
    town = Town(2)
    memo = Memo()
    me, other = town.members
    network = town.network(me, memo, gossip=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        async with child(town, other, town.numbers[1]) as process:
            await network.wait_connected([other], 20)
            network.send(other, tip(0))
            await memo.until(lambda: memo.heights() == [0], 5)
            process.send_signal(signal.SIGSTOP)
            frozen_s = trio.current_time()
            for height in range(1, 20):
                network.send(other, tip(height))
            await until(lambda: other not in network.connected, 12)
            assert trio.current_time() - frozen_s < 10
            assert network.faults[other, "frozen"] == 1
            network.send(other, tip(20))
            process.send_signal(signal.SIGCONT)
            # The echo proves that each of them was delivered to the frozen process's handlers just once.
            await memo.until(lambda: len(memo.inbox) >= 21, 15)
            assert memo.heights() == list(range(21))
            process.kill()
            killed_s = trio.current_time()
            await until(lambda: other not in network.connected)
            assert trio.current_time() - killed_s < 1.5
        network.send(other, tip(21))
        async with child(town, other, town.numbers[1]):
            await network.wait_connected([other], 20)
            await memo.until(lambda: memo.heights()[-1] == 21, 5)
        nursery.cancel_scope.cancel()


async def test_only_neighbours_are_called() -> None:
    town = Town(3)
    a = town.network(town.members[0], gossip=False, neighbours=[town.members[1]])
    b = town.network(town.members[1], gossip=False)
    c = town.network(town.members[2], gossip=False, neighbours=[])
    async with trio.open_nursery() as nursery:
        for network in (c, a):
            await nursery.start(network.run)
        await nursery.start(b.run)
        await a.wait_connected([b.me], 10)
        await b.wait_connected([c.me], 10)
        await trio.sleep(0.3)
        assert a.connected == {b.me}
        nursery.cancel_scope.cancel()
