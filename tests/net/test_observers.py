"""Strangers may look: what they are answered, what they are not, and that no member has to wait for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from consensus.types import ZERO_DIGEST
from p2pfl import params
from p2pfl.errors import PeerFault
from p2pfl.net import ask, gossip, observers, wire
from p2pfl.net.exchange import BLOBS, REQUESTS
from p2pfl.net.host import MESSAGES, Network
from p2pfl.net.interface import PeerAddress, Unreachable
from p2pfl.net.lookout import NOWHERE, Watched, watching
from p2pfl.net.options import DEFAULTS
from p2pfl.net.queues import HEAD
from p2pfl.net.sockets import Sockets
from p2pfl.net.stream import StreamBroken
from tests.net.common import GROUP, Memo, noise, tip
from tests.net.hosts import Town, hosts, peer_key, until

DATA = noise(300_000)
BLOB_ID = params.blob_id(DATA)


class Shown(Memo):
    """Handlers that show one blob to members only, and one to everybody."""

    def __init__(self) -> None:
        super().__init__()
        self.public: set[bytes] = set()

    def blob(self, sender: Any, blob_id: Any) -> Any:
        return super().blob(sender, blob_id) if sender is not None or blob_id in self.public else None


@asynccontextmanager
async def node(**options: Any) -> AsyncIterator[tuple[Network, Shown]]:
    """One member of a town of two, whose other member is away."""
    town, memo = Town(2), Shown()
    network = town.network(town.members[0], memo, gossip=False, options=replace(DEFAULTS, **options))
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        yield network, memo
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stranger(network: Network, number: int = 0) -> AsyncIterator[Sockets]:
    """A peer that nobody named, connected."""
    sockets = Sockets(
        peer_key=peer_key(1000 + number),  # Members have the low ones.
        listen=NOWHERE,
        admits=lambda _: True,
        on_change=lambda _peer_id, _up: None,
        on_refused=lambda _: None,
        on_bug=lambda _: None,
    )
    async with sockets.running():
        await sockets.connect(network.peer_id, address_of(network))
        yield sockets


def address_of(network: Network) -> str:
    return network._sockets._listen


def name_of(network: Network) -> str:
    return f"{address_of(network)}/p2p/{network.peer_id}"


@asynccontextmanager
async def watched(network: Network, on_tip: Callable[[], None] | None = None) -> AsyncIterator[Watched]:
    names, network_id = [name_of(network)], ZERO_DIGEST
    async with watching(names, network_id=network_id, options=DEFAULTS, on_tip=on_tip) as (one,):
        yield one


async def test_an_observer_reads_chains_and_public_blobs_and_no_others() -> None:
    async with node() as (network, memo), watched(network) as one:
        memo.hold(DATA, BLOB_ID)
        assert (await one.status(GROUP))[0] == 7
        with pytest.raises(PeerFault, match="not_held"):
            await one.blob(BLOB_ID, len(DATA))  # An update that is shown to members only.
        memo.public.add(BLOB_ID)
        assert await one.blob(BLOB_ID, len(DATA)) == DATA
        assert [sender for sender, _ in memo.asked_blobs] == [None] * len(memo.asked_blobs)
        assert len(network.observers) == 1
        assert not network.observers.faults


async def say(sockets: Sockets, peer_id: str, data: bytes) -> None:
    stream = await sockets.open(peer_id, MESSAGES)
    await stream.write(data)
    while True:
        await stream.read()


async def test_an_observer_says_nothing_and_is_no_member() -> None:
    async with node() as (network, memo), stranger(network) as sockets:
        hello = b"MPS1" + bytes(16) + (1).to_bytes(8, "big") + bytes(16) + (1).to_bytes(8, "big")
        packed = wire.pack(tip(3))
        frame = HEAD.pack(HEAD.size - 4 + len(packed), 1, 1, 1) + packed
        with pytest.raises(StreamBroken), trio.fail_after(20):
            await say(sockets, network.peer_id, len(hello).to_bytes(4, "big") + hello + frame)
        assert memo.inbox == []
        assert network.connected == set()
        assert sockets.is_connected(network.peer_id)  # It may still look.


async def test_nobody_looks_where_the_operator_admits_none() -> None:
    async with node(observers=0) as (network, _), watched(network) as one:
        with pytest.raises(Unreachable):
            await one.status(GROUP)
        assert len(network.observers) == 0
        assert network.strangers


async def test_places_are_few_and_a_quiet_observer_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "PLACES_PER_HOST_SHARE", 1)
    async with (
        node(observers=2) as (network, _),
        stranger(network, 1) as first,
        stranger(network, 2) as second,
    ):
        await until(lambda: len(network.observers) == 2)
        async with stranger(network, 3) as third:
            await until(lambda: not third.is_connected(network.peer_id))
            assert first.is_connected(network.peer_id) and second.is_connected(network.peer_id)
        monkeypatch.setattr(observers, "QUIET_S", 0.0)
        async with stranger(network, 4) as fourth:
            await until(lambda: not first.is_connected(network.peer_id))
            assert fourth.is_connected(network.peer_id)


async def test_one_host_takes_half_of_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(observers=2) as (network, _), stranger(network, 1) as first:
        async with stranger(network, 2) as second:
            await until(lambda: not second.is_connected(network.peer_id))
            assert len(network.observers) == 1
        monkeypatch.setattr(observers, "QUIET_S", 0.0)
        async with stranger(network, 3) as third:
            # Who is quiet gives way to one of its own host, and nobody else does when it goes.
            await until(lambda: not first.is_connected(network.peer_id))
            assert third.is_connected(network.peer_id)
            assert len(network.observers) == 1
        await until(lambda: len(network.observers) == 0)


async def refused_for_ever(asker: ask.Asker) -> None:
    while True:
        await asker.send(wire.GetStatus(GROUP))
        assert await asker.receive(silence_s=5) == wire.Refused("busy")


async def test_who_asks_too_often_is_told_so_and_barred_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(observers.RATES, wire.GetStatus, (0.001, 5))
    monkeypatch.setattr("p2pfl.net.peer.FAULTS_MAX", 1)
    async with node() as (network, _), stranger(network) as sockets:
        asker = ask.Asker(await sockets.open(network.peer_id, REQUESTS))
        for _ in range(5):
            await asker.send(wire.GetStatus(GROUP))
            assert isinstance(await asker.receive(silence_s=5), wire.Status)
        with pytest.raises(StreamBroken):
            await refused_for_ever(asker)
        assert network.observers.faults["flood"] >= 1
        await until(lambda: not sockets.is_connected(network.peer_id))
        assert not network.observers.admits(sockets.peer_id)


async def test_what_is_no_request_ends_the_stream_and_is_counted() -> None:
    async with node() as (network, _), stranger(network) as sockets:
        wrong = ((BLOBS, wire.GetStatus(GROUP)), (REQUESTS, wire.GetPiece(BLOB_ID, 0, 64)))
        for protocol, message in wrong:
            asker = ask.Asker(await sockets.open(network.peer_id, protocol))
            await asker.send(message)
            with pytest.raises(StreamBroken):
                await asker.receive(silence_s=5)
        await until(lambda: network.observers.faults == {"bad_request": 2})


async def test_answers_to_observers_keep_to_their_share_of_bytes(autojump_clock: Any) -> None:
    turns = observers.Turns(1000)
    begun_s = trio.current_time()
    waited: list[float] = []
    for size in (500, 2000, 1000, 10):
        async with turns.turn():
            waited.append(trio.current_time() - begun_s)
            turns.spend(size)
    # Each waits for those before it and not for itself.
    assert waited == pytest.approx([0, 0.5, 2.5, 3.5])


async def test_who_gives_up_waiting_costs_the_others_no_time(autojump_clock: Any) -> None:
    turns = observers.Turns(1000)
    turns.spend(2000)
    begun_s = trio.current_time()

    async def wait() -> None:
        async with turns.turn():
            turns.spend(1_000_000)

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(wait)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    async with turns.turn():
        assert trio.current_time() - begun_s == pytest.approx(2)


async def test_an_observer_that_hangs_up_leaves_nothing_behind_that_waits() -> None:
    """libp2p goes on with the streams of a connection that is gone, and who comes again is a new observer."""
    async with node(observers_kib_s=64) as (network, memo):
        memo.hold(DATA, BLOB_ID)
        memo.public.add(BLOB_ID)
        made: list[int] = []
        strangers: Any = network.observers
        plain = strangers._answer

        async def answer(protocol: str, packed: bytes, on_hash: Any) -> Any:
            parts = await plain(protocol, packed, on_hash)
            made.append(sum(len(part) for part in parts))
            return parts

        strangers._answer = answer
        left: list[Any] = []
        for _ in range(6):
            async with stranger(network) as sockets:
                for _ in range(observers.ASKED_STREAMS_MAX):
                    asker = ask.Asker(await sockets.open(network.peer_id, BLOBS))
                    await asker.send(wire.GetPiece(BLOB_ID, 0, 64))
                await until(lambda: sockets.peer_id in network.observers._here)
                left.append(network.observers._here[sockets.peer_id])
                await until(lambda: left[-1].asking == observers.ASKED_STREAMS_MAX)
            await until(lambda: len(network.observers) == 0)
        await until(lambda: not any(one.asking or one.untaken for one in left))
        # Each piece takes the bytes of a second: whatever had waited for its turn was never made.
        assert len(made) < len(left) * observers.ASKED_STREAMS_MAX // 2


async def test_an_observer_pays_for_the_hashing_of_whole_blobs() -> None:
    """A small piece of another blob each time: members waited while all of them were hashed."""
    async with node() as (network, memo), stranger(network) as sockets:
        memo.hold(DATA, BLOB_ID)
        memo.public.add(BLOB_ID)
        spent: list[float] = []
        turns: Any = network.observers._all_turns
        turns.spend = spent.append
        asker = ask.Asker(await sockets.open(network.peer_id, BLOBS))
        for _ in range(2):
            await asker.send(wire.GetPiece(BLOB_ID, 0, 64))
            assert isinstance(await asker.receive(silence_s=5), wire.Piece)
        await until(lambda: len(spent) == 3)
        hashed, first, second = spent
        assert hashed == pytest.approx(len(DATA) / observers.HASHED_BYTES_PER_BYTE)
        assert first == second > 64 * 1024


async def test_members_do_not_wait_for_observers() -> None:
    """Four observers that ask for all they can get, and read none of it, while two members exchange."""
    town, memos = Town(2), [Shown(), Shown()]
    a, b = (
        town.network(one, memo, gossip=False, options=replace(DEFAULTS, observers_kib_s=16))
        for one, memo in zip(town.members, memos, strict=True)
    )
    for memo in memos:
        memo.hold(DATA, BLOB_ID)
        memo.public.add(BLOB_ID)
    async with trio.open_nursery() as nursery:
        await nursery.start(a.run)
        await nursery.start(b.run)
        await a.wait_connected(town.members, 10)

        async def greedy(number: int) -> None:
            async with stranger(a, number) as sockets:
                for _ in range(2):
                    asker = ask.Asker(await sockets.open(a.peer_id, BLOBS))
                    for _ in range(40):
                        await asker.send(wire.GetPiece(BLOB_ID, 0, 64))
                await trio.sleep_forever()

        for number in range(4):
            nursery.start_soon(greedy, number)
        await until(lambda: len(a.observers) == 4)
        # 16 KiB a second for all of them: whoever waited behind one answer would wait for four seconds.
        for height in range(20):
            with trio.fail_after(3.5):
                a.send(b.me, tip(height))
                await memos[1].until(lambda height=height: height in memos[1].heights())
                await b.request(a.me, wire.GetStatus(GROUP), timeout_s=3.5)
        nursery.cancel_scope.cancel()


async def test_who_sends_without_end_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "WATCH_S", 0.05)
    monkeypatch.setattr(observers, "INBOUND_BURST", 64 * 1024)
    flood = ask.framed(wire.pack(wire.GetStatus(GROUP))) * 200

    async def send_on(stream: Any) -> None:
        while True:
            await stream.write(flood)

    async with node() as (network, _), stranger(network) as sockets:
        with pytest.raises(StreamBroken), trio.fail_after(10):
            await send_on(await sockets.open(network.peer_id, REQUESTS))
        await until(lambda: not sockets.is_connected(network.peer_id))
        assert not network.observers.admits(sockets.peer_id)


async def test_a_member_that_lost_its_seat_is_heard_no_more_but_may_look() -> None:
    async with hosts(2) as (town, (a, b), (memo, _)):
        b.send(a.me, tip(1))
        await memo.until(lambda: memo.heights() == [1])
        a.part([b.me])
        await until(lambda: b.me not in a.connected and a.me not in b.connected)
        b.send(a.me, tip(2))
        a.send(b.me, tip(3))
        # It calls again, as it would call anybody; it is a stranger now.
        await until(lambda: len(a.observers) == 1)
        with pytest.raises(Unreachable):
            await a.request(b.me, wire.GetStatus(GROUP), timeout_s=1)
        stream = await b._sockets.open(a.peer_id, REQUESTS)
        asker = ask.Asker(stream)
        await asker.send(wire.GetStatus(GROUP))
        assert isinstance(await asker.receive(silence_s=5), wire.Status)
        assert memo.heights() == [1]
        # And is a member again once the council has let it in again.
        a.meet({b.me: PeerAddress(b.peer_id, town.addresses[b.me].address)})
        await memo.until(lambda: memo.heights() == [1, 2], 15)
        assert len(a.observers) == 0


async def test_nobody_passes_on_what_a_stranger_announces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "QUIET_START_S", 0.0)
    monkeypatch.setattr(gossip, "MESH_S", 1)
    heard: list[tuple[Any, int]] = []
    passed: list[int] = []
    async with hosts(2, gossip=True) as (_, (a, b), _):
        b.on_announce.append(lambda sender, said: heard.append((sender, said.height)))
        topic = f"/mps/{bytes(32).hex()[:16]}/tips"

        def on_tip(_author: str, said: Any) -> None:
            if isinstance(said, wire.Tip):
                passed.append(said.height)

        liar = gossip.Gossip(topic, lambda *_: None, lambda _: True)
        listener = gossip.Gossip(topic, on_tip, lambda _: True)
        async with AsyncStrangers(a, [liar, listener]):
            with trio.fail_after(15):
                while not (heard and passed):
                    a.announce(tip(1))
                    liar.announce(tip(666))
                    await trio.sleep(0.2)
            for _ in range(5):
                liar.announce(tip(666))
                await trio.sleep(0.1)
    assert {height for _, height in heard} == {1}
    assert set(passed) == {1}


class AsyncStrangers:
    """Strangers with gossip, all connected to one node."""

    def __init__(self, network: Network, gossips: list[gossip.Gossip]) -> None:
        self._network, self._gossips = network, gossips

    async def __aenter__(self) -> None:
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        for number, one in enumerate(self._gossips):
            await self._nursery.start(self._live, 50 + number, one)

    async def _live(self, number: int, one: gossip.Gossip, task_status: Any) -> None:
        sockets = Sockets(
            peer_key=peer_key(1000 + number),  # Members have the low ones.
            listen=NOWHERE,
            admits=lambda _: True,
            on_change=lambda _peer_id, _up: None,
            on_refused=lambda _: None,
            on_bug=lambda _: None,
        )
        sockets.service(one.run)
        async with sockets.running():
            await sockets.connect(self._network.peer_id, address_of(self._network))
            task_status.started()
            await trio.sleep_forever()

    async def __aexit__(self, *error: Any) -> None:
        self._nursery.cancel_scope.cancel()
        await self._manager.__aexit__(*error)
